-- Searches by time on the key.
SET timezone = 'UTC';
SET datestyle = 'ISO';

SELECT snowflake_min('2026-01-01 00:00:00.0005+00'), snowflake_max('2026-01-01 00:00:00.0005+00');
SELECT snowflake_timestamp(snowflake_min('2026-01-01 00:00:00.0005+00')),
       snowflake_timestamp(snowflake_max('2026-01-01 00:00:00.0005+00'));
SELECT snowflake_min(NULL), snowflake_max(NULL);

-- The bound is defined for every time.
SELECT ts, snowflake_lower_bound(ts::timestamptz) FROM (VALUES
    ('-infinity'), ('1999-01-01'), ('2025-01-01'), ('2025-01-01 00:00:00.000001'), ('2025-01-01 00:00:00.001'),
    ('2025-01-01 00:00:00.001001'), ('2094-09-07 15:47:35.552'), ('2200-01-01'), ('infinity')) AS times (ts);

-- The range is half open, to the microsecond.
WITH made AS (SELECT snowflake_encode('2026-01-01 00:00:00.005+00', 7, 42) AS id)
SELECT since, until, snowflake_between(id, since, until),
       snowflake_timestamp(id) >= since AND snowflake_timestamp(id) < until AS by_time
FROM made, (VALUES
    (timestamptz '2026-01-01 00:00:00.005+00', timestamptz '2026-01-01 00:00:00.006+00'),
    ('2026-01-01 00:00:00.005+00', '2026-01-01 00:00:00.005001+00'),
    ('2026-01-01 00:00:00.005+00', '2026-01-01 00:00:00.005+00'),
    ('2026-01-01 00:00:00.004+00', '2026-01-01 00:00:00.005+00'),
    ('2026-01-01 00:00:00.005001+00', '2026-01-01 00:00:00.009+00'),
    ('-infinity', 'infinity'), ('infinity', '-infinity')) AS ranges (since, until);
SELECT snowflake_between(0, '-infinity', 'infinity'), snowflake_between(9223372036854775806, '-infinity', 'infinity');
-- Without an end.
SELECT snowflake_between(id, '2026-01-01'), snowflake_between(id, '2026-01-01 00:00:00.000001'), snowflake_between(9223372036854775806, 'infinity')
FROM snowflake_encode('2026-01-01', 1, 0) AS id;
SELECT snowflake_between(NULL, now(), now()), snowflake_between(1, NULL, now()), snowflake_between(1, now(), NULL);

-- A million rows of a day: the primary key's index serves the search, and its
-- condition is the whole search.
CREATE TABLE hits (id bigint PRIMARY KEY, n integer);
INSERT INTO hits
SELECT snowflake_encode(timestamptz '2026-01-01 00:00:00+00' + n * interval '86.4 milliseconds', 1, 0), n
FROM generate_series(0, 999999) AS n;
VACUUM ANALYZE hits;
EXPLAIN (COSTS OFF) SELECT n FROM hits WHERE snowflake_between(id, '2026-01-01 12:00:00+00', '2026-01-01 12:01:00+00');
EXPLAIN (COSTS OFF) SELECT n FROM hits WHERE snowflake_between(id, '2026-01-01 23:59:00+00');
SELECT count(*), min(n), max(n) FROM hits WHERE snowflake_between(id, '2026-01-01 12:00:00+00', '2026-01-01 12:01:00+00');
-- The planner knows how few rows that is.
CREATE FUNCTION estimated_rows(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
END $$;
SELECT estimated_rows($$SELECT n FROM hits WHERE snowflake_between(id, '2026-01-01 12:00:00+00', '2026-01-01 12:01:00+00')$$) BETWEEN 350 AND 1400 AS near_694;
-- With times that are known at run time only.
PREPARE search (timestamptz) AS SELECT count(*) FROM hits WHERE snowflake_between(id, $1, $1 + interval '1 minute');
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE search('2026-01-01 12:00:00+00');
EXECUTE search('2026-01-01 12:00:00+00');
RESET plan_cache_mode;
DEALLOCATE search;
DROP FUNCTION estimated_rows;
DROP TABLE hits;

-- Partitions by id, for ranges of time: those of other days are not looked at.
CREATE TABLE log (id bigint, line text) PARTITION BY RANGE (id);
SELECT format('CREATE TABLE log_%s PARTITION OF log FOR VALUES FROM (%s) TO (%s)',
              n, snowflake_lower_bound(day), snowflake_lower_bound(day + interval '1 day'))
FROM generate_series(0, 6) AS n, LATERAL (SELECT timestamptz '2026-01-01 00:00:00+00' + n * interval '1 day') AS days (day)
\gexec
EXPLAIN (COSTS OFF) SELECT * FROM log WHERE snowflake_between(id, '2026-01-03 00:00:00+00', '2026-01-04 00:00:00+00');
EXPLAIN (COSTS OFF) SELECT * FROM log WHERE snowflake_between(id, '2026-01-03 10:00:00+00', '2026-01-05 10:00:00+00');
DROP TABLE log;
