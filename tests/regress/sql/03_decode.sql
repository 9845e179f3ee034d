-- Reading ids and packing them.
SET timezone = 'UTC';
SET datestyle = 'ISO';

SELECT * FROM snowflake_decode(132271570944004097);
SELECT (snowflake_decode(132271570944004097)).*;
SELECT snowflake_timestamp(132271570944004097), snowflake_worker_id(132271570944004097);
SELECT * FROM snowflake_decode(0);
SELECT * FROM snowflake_decode(9223372036854775807);
SELECT * FROM snowflake_decode(NULL);
SELECT snowflake_timestamp(NULL), snowflake_worker_id(NULL);
SELECT bool_and(snowflake_decode(id) IS NOT DISTINCT FROM snowflake_decode(id, 'default')) FROM generate_series(0, 9000000000000000000, 90000000000000007) AS id;

-- Named layouts, with their own epoch or another one.
SELECT * FROM snowflake_decode(175928847299117063, 'discord');
SELECT * FROM snowflake_decode(1541815603606036480, 'twitter');
SELECT * FROM snowflake_decode(103270115826048975, 'mastodon');
SELECT * FROM snowflake_decode(136169504773242881, 'timestamp:41,sequence:12,worker:10', '2023-01-01 00:00:00+00');
SELECT * FROM snowflake_decode(132271570944004097, 'default', '2024-01-01 00:00:00+00');
SELECT * FROM snowflake_decode(197, 'worker:2,timestamp:4@10us,unused:1,sequence:1', '2025-01-01 00:00:00+00');
SELECT * FROM snowflake_decode(NULL, 'default');
SELECT * FROM snowflake_decode(1, NULL);
SELECT snowflake_timestamp(175928847299117063, 'discord'), snowflake_timestamp(NULL, 'discord');
-- Ticks from a microsecond to an hour.
SELECT snowflake_timestamp(1, 'timestamp:41@1us'), snowflake_timestamp(1, 'timestamp:41@3600s');

-- Immutable, so that generated columns and indexes can use it.
CREATE TABLE notes (
    id bigint PRIMARY KEY DEFAULT snowflake_nextval(),
    created_at timestamptz GENERATED ALWAYS AS (snowflake_timestamp(id, 'default')) STORED
);
INSERT INTO notes VALUES (132271570944004097), (132271570944004098);
CREATE INDEX ON notes (snowflake_timestamp(id, 'default'));
SELECT * FROM notes;
DROP TABLE notes;

-- Packing is the reverse.
SELECT snowflake_encode('2026-01-01 00:00:00+00', 1, 1);
SELECT snowflake_encode('2026-01-01 00:00:00.0019+00', 1023, 4095);
SELECT snowflake_encode(NULL, 1, 1);
SELECT bool_and(snowflake_encode(d.ts, d.worker_id, d.sequence) = id)
FROM generate_series(0, 9000000000000000000, 90000000000000007) AS id, snowflake_decode(id) AS d;
