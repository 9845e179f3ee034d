-- The same tables with keys that are different on every node. On each shard.

CREATE EXTENSION IF NOT EXISTS snowflake_id;
CREATE TABLE tickets (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), customer text NOT NULL);
CREATE TABLE replies (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), ticket_id bigint NOT NULL REFERENCES tickets, note text);
