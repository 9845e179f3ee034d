-- What is refused: SQLSTATE, message, detail and hint.
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE FUNCTION refusal(query text, OUT code text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE query;
    message := 'not refused';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END $$;
\pset format unaligned
\pset tuples_only on
\pset expanded on

-- Batches
SELECT * FROM refusal('SELECT snowflake_batch(-1)');
SELECT * FROM refusal('SELECT snowflake_batch(NULL)');
SELECT * FROM refusal('SELECT snowflake_batch(1000001)');
SELECT * FROM refusal('SELECT snowflake_batch_array(-1)');
SELECT * FROM refusal('SELECT snowflake_batch_array(NULL)');
SELECT * FROM refusal('SELECT snowflake_batch_array(2147483647)');
-- A new session has no last id.
\c
SET timezone = 'UTC';
SET datestyle = 'ISO';
SELECT * FROM refusal('SELECT snowflake_lastval()');

-- Ids
SELECT * FROM refusal('SELECT snowflake_decode(-1)');
SELECT * FROM refusal('SELECT snowflake_nextval_after(-1)');
SELECT * FROM refusal('SELECT snowflake_timestamp(-9223372036854775808)');
SELECT * FROM refusal('SELECT snowflake_worker_id(-1)');
SELECT * FROM refusal($$SELECT snowflake_decode(9223372036854775807, 'js53')$$);
SELECT * FROM refusal($$SELECT snowflake_decode(2, 'timestamp:41,unused:1,sequence:1')$$);
SELECT * FROM refusal($$SELECT snowflake_timestamp(9223372036854775807, 'timestamp:63@1s')$$);

-- Fields
SELECT * FROM refusal($$SELECT snowflake_encode('2026-01-01', 1024, 0)$$);
SELECT * FROM refusal($$SELECT snowflake_encode('2026-01-01', -1, 0)$$);
SELECT * FROM refusal($$SELECT snowflake_encode('2026-01-01', 0, 4096)$$);
SELECT * FROM refusal($$SELECT snowflake_encode('2026-01-01', 0, -1)$$);
SELECT * FROM refusal($$SELECT snowflake_encode('2026-01-01', NULL, 0)$$);
SELECT * FROM refusal($$SELECT snowflake_encode('2026-01-01', 0, NULL)$$);
SELECT * FROM refusal($$SELECT snowflake_encode('2026-01-01', 0, 0, 0)$$);

-- Times
SELECT * FROM refusal($$SELECT snowflake_encode('2024-12-31 23:59:59.999999+00', 0, 0)$$);
SELECT * FROM refusal($$SELECT snowflake_encode('2094-09-07 15:47:35.552+00', 0, 0)$$);
SELECT * FROM refusal($$SELECT snowflake_encode('infinity', 0, 0)$$);
SELECT * FROM refusal($$SELECT snowflake_min('-infinity')$$);
SELECT * FROM refusal($$SELECT snowflake_min('2024-01-01')$$);
SELECT * FROM refusal($$SELECT snowflake_max('2100-01-01')$$);

-- Layouts
SELECT * FROM refusal($$SELECT snowflake_layout('timestamp:1,sequence:62')$$);
SELECT * FROM refusal($$SELECT snowflake_layout('worker:10,sequence:12')$$);
SELECT * FROM refusal($$SELECT snowflake_layout('timestamp:41,worker:5,worker:5')$$);
SELECT * FROM refusal($$SELECT snowflake_layout('timestamp:41,worker:12,sequence:12')$$);
SELECT * FROM refusal($$SELECT snowflake_layout('')$$);
SELECT * FROM refusal($$SELECT snowflake_layout('snowflake')$$);
SELECT * FROM refusal($$SELECT snowflake_layout('timestamp:41,node:10')$$);
SELECT * FROM refusal($$SELECT snowflake_layout('timestamp:41@1h,sequence:12')$$);
SELECT * FROM refusal($$SELECT snowflake_layout('timestamp:41,sequence:12@1ms')$$);
SELECT * FROM refusal($$SELECT snowflake_decode(1, 'timestamp:41;sequence:12')$$);
SELECT * FROM refusal($$SELECT snowflake_decode(1, 'default', 'infinity')$$);
SELECT * FROM refusal($$SELECT snowflake_layout('default', '-infinity')$$);

-- Texts
SELECT * FROM refusal('SELECT snowflake_base62(-1)');
SELECT * FROM refusal('SELECT snowflake_base32(-1)');
SELECT * FROM refusal($$SELECT snowflake_from_base62('')$$);
SELECT * FROM refusal($$SELECT snowflake_from_base62('not-an-id')$$);
SELECT * FROM refusal($$SELECT snowflake_from_base62('AzL8n0Y58m8')$$);
SELECT * FROM refusal($$SELECT snowflake_from_base62('zzzzzzzzzzzz')$$);
SELECT * FROM refusal($$SELECT snowflake_from_base32('7ZZZ')$$);
SELECT * FROM refusal($$SELECT snowflake_from_base32('U000000000000')$$);
SELECT * FROM refusal($$SELECT snowflake_from_base32('8000000000000')$$);

-- Settings that do not fit, and when they can be set.
ALTER SYSTEM SET snowflake_id.worker_id = 1024;
ALTER SYSTEM SET snowflake_id.worker_id = -2;
ALTER SYSTEM SET snowflake_id.datacenter_id = 1;
ALTER SYSTEM SET snowflake_id.layout = 'timestamp:1,sequence:62';
ALTER SYSTEM SET snowflake_id.layout = 'worker:10,timestamp:41,sequence:12';
ALTER SYSTEM SET snowflake_id.epoch = '2025-01-01';
SET snowflake_id.worker_id = 2;
SET snowflake_id.layout = 'twitter';
SET snowflake_id.max_ahead = '1s';
SET snowflake_id.backend_block = 0;
SET snowflake_id.no_such_setting = 1;
DROP FUNCTION refusal;
