-- One database for the rows of all shards: the same keys, now with a primary key over all of them.
--
--   psql -v ON_ERROR_STOP=1 -f merge.sql
--   for shard in shard1 shard2 shard3; do
--       pg_dump -h $shard -d app --data-only --load-via-partition-root -t 'orders*' -t 'order_log*'
--   done | psql -v ON_ERROR_STOP=1 -1
--   psql -v ON_ERROR_STOP=1 -f merge_keys.sql

CREATE EXTENSION IF NOT EXISTS snowflake_id;

CREATE TABLE orders (
    id       bigint PRIMARY KEY DEFAULT snowflake_nextval(),
    customer text NOT NULL,
    amount   numeric(10, 2) NOT NULL
);

CREATE TABLE order_log (
    order_id bigint NOT NULL,
    id       bigint PRIMARY KEY DEFAULT snowflake_nextval(),
    what     text NOT NULL
);
