-- What happens without: each shard counts by itself. On each shard.

CREATE TABLE tickets (id bigserial PRIMARY KEY, customer text NOT NULL);
CREATE TABLE replies (id bigserial PRIMARY KEY, ticket_id bigint NOT NULL REFERENCES tickets, note text);
