-- A router: partitions by the hash of the id, on the shards in turn.
--
--   psql -v ON_ERROR_STOP=1 -v modulus=12 -v shards=shard1,shard2,shard3 -f router.sql
--
-- It is a node: the default below is evaluated here, before the row is sent anywhere. There is no primary key, as
-- PostgreSQL has none over foreign partitions; each shard has one for its part, and ids are different everywhere.

CREATE EXTENSION IF NOT EXISTS snowflake_id;

CREATE TABLE orders (
    id       bigint NOT NULL DEFAULT snowflake_nextval(),
    customer text NOT NULL,
    amount   numeric(10, 2) NOT NULL
) PARTITION BY HASH (id);

CREATE TABLE order_log (
    order_id bigint NOT NULL,
    id       bigint NOT NULL,
    what     text NOT NULL
) PARTITION BY HASH (order_id);

-- Which server has a partition of both tables: for a new one, and for one that has moved.
CREATE PROCEDURE set_partition(modulus integer, number integer, server text) LANGUAGE plpgsql AS $$
DECLARE
    parent text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['orders', 'order_log'] LOOP
        EXECUTE format('DROP FOREIGN TABLE IF EXISTS %s_%s', parent, number);
        EXECUTE format(
            'CREATE FOREIGN TABLE %1$s_%2$s PARTITION OF %1$s FOR VALUES WITH (MODULUS %3$s, REMAINDER %2$s) SERVER %4$I',
            parent, number, modulus, server
        );
    END LOOP;
END
$$;

SET client_min_messages = warning;
SELECT format('CALL set_partition(%s, %s, %L)', :modulus, number,
              (string_to_array(:'shards', ','))[1 + number % cardinality(string_to_array(:'shards', ','))])
FROM generate_series(0, :modulus - 1) AS number \gexec

-- Where a row is, when it was made, and by which node: all of it in its key.
CREATE VIEW whereabouts AS
SELECT o.id, f.srvname AS shard, d.ts, d.worker_id
FROM orders AS o
JOIN pg_foreign_table AS t ON t.ftrelid = o.tableoid
JOIN pg_foreign_server AS f ON f.oid = t.ftserver
CROSS JOIN LATERAL snowflake_decode(o.id) AS d;
