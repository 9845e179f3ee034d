-- Layouts.
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
SHOW snowflake_id.layout;
SHOW snowflake_id.epoch;
\x on
SELECT * FROM snowflake_layout();
\x off
SELECT name, layout, epoch, tick, nodes, ids_per_tick, ids_per_second, ends_at FROM snowflake_layouts;
SELECT name, source FROM snowflake_layouts;
-- One may be looked at before it is chosen.
SELECT name, layout, epoch, nodes, ids_per_second, ends_at FROM snowflake_layout(' timestamp : 39 @ 10000us , worker:8, datacenter:8,unused:2,sequence:6', '2020-01-01 00:00:00+00');
SELECT name, layout, ends_at FROM snowflake_layout('timestamp:62@1s');
SELECT name FROM snowflake_layout('timestamp:41,worker:10,sequence:12');
SELECT name FROM snowflake_layout('default', '2024-01-01 00:00:00+00');
SELECT name, layout, epoch FROM snowflake_layout(NULL, '2024-01-01 00:00:00+00');
SELECT name FROM snowflake_layout('TWITTER');
