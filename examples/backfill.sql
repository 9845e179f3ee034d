-- Keys for rows that were there before: their time of creation becomes the key's.
--
-- Run it in a database with the extension: psql -f examples/backfill.sql
-- The tests run it as well.

CREATE TABLE legacy (id integer PRIMARY KEY, created_at timestamptz NOT NULL, name text);
INSERT INTO legacy
SELECT n, timestamptz '2025-06-01 00:00:00+00' + (n / 3) * interval '1 second', 'row ' || n
FROM generate_series(1, 9999) AS n;

-- A worker id that no node has keeps these keys apart from all that will be made. The
-- sequence counts rows of the same millisecond, in the order of their old keys.
ALTER TABLE legacy ADD COLUMN key bigint;
UPDATE legacy SET key = made.key
FROM (SELECT id, snowflake_encode(created_at, worker_id => 1023, sequence => (row_number() OVER same_tick)::integer - 1) AS key
      FROM legacy
      WINDOW same_tick AS (PARTITION BY date_trunc('milliseconds', created_at) ORDER BY id)) AS made
WHERE made.id = legacy.id;
ALTER TABLE legacy ALTER COLUMN key SET NOT NULL, ADD UNIQUE (key);

SELECT id, key, d.* FROM legacy, snowflake_decode(key) AS d ORDER BY id LIMIT 5;
