-- Generating ids. The server has worker id 1 and the default layout.
SET timezone = 'UTC';
SET datestyle = 'ISO';
SHOW snowflake_id.worker_id;

-- A column default: one id a row, in the order of the rows.
CREATE TABLE events (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), n integer);
INSERT INTO events (n) SELECT generate_series(1, 10000);
SELECT count(*), count(DISTINCT id), bool_and(id > before) AS increasing
FROM (SELECT id, lag(id, 1, 0) OVER (ORDER BY n) AS before FROM events) AS ordered;
INSERT INTO events (n) VALUES (0) RETURNING id = snowflake_lastval() AS is_last;

-- The id says when and where it was generated.
SELECT clock_timestamp() AS before \gset
SELECT snowflake_nextval() AS id \gset
SELECT clock_timestamp() AS after \gset
SELECT ts BETWEEN date_trunc('milliseconds', :'before'::timestamptz) AND :'after'::timestamptz AS now,
       datacenter_id, worker_id, sequence BETWEEN 0 AND 4095 AS in_sequence
FROM snowflake_decode(:id);
SELECT snowflake_worker_id(:id), snowflake_lastval() = :id AS is_last;

-- Ids are not part of the transaction: what is rolled back is not made again.
BEGIN;
SELECT snowflake_nextval() AS lost \gset
ROLLBACK;
SELECT snowflake_nextval() > :lost AS greater;

-- Nothing is written.
BEGIN TRANSACTION READ ONLY;
SELECT snowflake_nextval() > :id AS greater;
SELECT count(*) FROM snowflake_batch(10);
COMMIT;

-- After an id that was seen: of no time, of the last one, of a node whose ids of the same tick are greater.
SELECT snowflake_nextval_after(0) > :lost AND snowflake_nextval_after(NULL) > :lost AS greater;
SELECT snowflake_nextval() AS id \gset
SELECT snowflake_nextval_after(:id) > :id AS greater;
SELECT snowflake_nextval_after(:id) = snowflake_lastval() AS is_last;
SELECT bool_and(after > seen) AS greater, bool_and(worker_id = 1) AS own, count(DISTINCT after)
FROM (SELECT seen, snowflake_nextval_after(seen) AS after
      FROM (SELECT snowflake_encode(clock_timestamp(), 1023, 4095) AS seen FROM generate_series(1, 1000) OFFSET 0) AS a
      OFFSET 0) AS b, snowflake_decode(after);
SET snowflake_id.backend_block = 64;
SELECT snowflake_nextval() AS id \gset
SELECT snowflake_encode(clock_timestamp(), 1023, 0) AS seen \gset
SELECT snowflake_nextval_after(:seen) > :seen AS greater, snowflake_nextval() > :seen AS greater;
RESET snowflake_id.backend_block;
CREATE TABLE children (id bigint PRIMARY KEY, parent_id bigint);
PREPARE child AS INSERT INTO children SELECT snowflake_nextval_after(id), id FROM events WHERE id > 0;
EXECUTE child;
SELECT count(*), bool_and(id > parent_id) AS greater FROM children;
DROP TABLE children;

-- Batches.
SELECT count(*), count(DISTINCT id), min(id) > :id AS later FROM snowflake_batch(100000) AS id;
SELECT bool_and(id > before) AS increasing
FROM (SELECT id, lag(id, 1, 0::bigint) OVER (ORDER BY n) AS before
      FROM snowflake_batch(100000) WITH ORDINALITY AS batch (id, n)) AS ordered;
SELECT max(id) = snowflake_lastval() AS is_last FROM snowflake_batch(10000) AS id;
SELECT snowflake_batch_array(10000) AS ids \gset
SELECT array_length(:'ids'::bigint[], 1), array_ndims(:'ids'::bigint[]),
       array_position(:'ids'::bigint[], NULL) AS null_at,
       (:'ids'::bigint[])[10000] = snowflake_lastval() AS is_last;
SELECT bool_and(id > before) AS increasing
FROM (SELECT id, lag(id, 1, 0::bigint) OVER (ORDER BY n) AS before
      FROM unnest(:'ids'::bigint[]) WITH ORDINALITY AS batch (id, n)) AS ordered;
SELECT snowflake_batch_array(0), (SELECT count(*) FROM snowflake_batch(0));
-- A batch that is not read to its end costs what was read.
SELECT count(*), max(id) = snowflake_lastval() AS is_last FROM (SELECT snowflake_batch(1000000) AS id LIMIT 3) AS three;

-- Several at once in one statement, and inside a set.
SELECT count(DISTINCT id) FROM (
    SELECT snowflake_nextval() AS id FROM generate_series(1, 100)
    UNION ALL SELECT snowflake_batch(100) FROM generate_series(1, 100)
    UNION ALL SELECT unnest(snowflake_batch_array(100)) FROM generate_series(1, 100)) AS all_ids;

-- Blocks: what is left of one is dropped by whatever is claimed later.
SET snowflake_id.backend_block = 64;
SELECT count(DISTINCT id), bool_and(id > before) AS increasing
FROM (SELECT id, lag(id, 1, 0::bigint) OVER (ORDER BY n) AS before
      FROM (SELECT n, snowflake_nextval() AS id FROM generate_series(1, 50000) AS n OFFSET 0) AS made) AS ordered;
SELECT snowflake_nextval() AS a \gset
SELECT max(id) AS b FROM snowflake_batch(2) AS id \gset
SELECT snowflake_nextval() AS c \gset
SET snowflake_id.backend_block = 1;
SELECT snowflake_nextval() AS d \gset
SET snowflake_id.backend_block = 64;
SELECT snowflake_nextval() AS e \gset
RESET snowflake_id.backend_block;
SELECT :a < :b AND :b < :c AND :c < :d AND :d < :e AS increasing;

-- In parallel workers.
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 4;
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || query;
END $$;
SELECT trim(line) AS line FROM plan('SELECT snowflake_nextval() FROM events') AS line;
DROP FUNCTION plan;
SELECT count(DISTINCT id) FROM (SELECT snowflake_nextval() AS id FROM events OFFSET 0) AS made;
DROP TABLE events;
