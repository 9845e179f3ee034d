-- A table that is partitioned by time, on its snowflake key alone.
--
-- Run it in a database with the extension, on a server with a worker id:
--   psql -f examples/partitions_by_time.sql
-- The tests run it as well.

CREATE TABLE measurements (
    id    bigint PRIMARY KEY DEFAULT snowflake_nextval(),
    value double precision NOT NULL
) PARTITION BY RANGE (id);

-- One partition a month: its bounds are the least ids of two months.
SELECT format('CREATE TABLE measurements_%s PARTITION OF measurements FOR VALUES FROM (%s) TO (%s)',
              to_char(month, 'YYYY_MM'),
              snowflake_lower_bound(month), snowflake_lower_bound(month + interval '1 month'))
FROM generate_series(date_trunc('month', now()), now() + interval '2 months', interval '1 month') AS month
\gexec

INSERT INTO measurements (value) SELECT random() FROM generate_series(1, 1000);

-- A search by time looks at the partitions of that time only.
EXPLAIN (COSTS OFF)
SELECT avg(value) FROM measurements WHERE snowflake_between(id, now() - interval '1 hour', now() + interval '1 minute');
