-- What is counted. The functions fill in each column by its name, see src/statistics.rs. They neither
-- wait for anything nor ask the keeper.

CREATE FUNCTION snowflake_counters()
RETURNS TABLE (
    ids bigint,
    calls bigint,
    batches bigint,
    blocks bigint,
    dropped bigint,
    ticks_exhausted bigint,
    waits bigint,
    wait_time double precision,
    wait_p50 double precision,
    wait_p99 double precision,
    wait_p999 double precision,
    wait_histogram bigint[],
    clock_backward bigint,
    clock_backward_max double precision,
    clock_forward bigint,
    refused_clock bigint,
    refused_window bigint,
    refused_lease bigint,
    refused_setup bigint,
    refused_time bigint,
    cancelled bigint,
    windows bigint,
    window_time double precision,
    lease_renewals bigint,
    lease_failures bigint,
    worker_id_changes bigint,
    samples bigint,
    samples_dropped bigint,
    ids_per_second double precision,
    ceiling double precision,
    layout_ends_at timestamptz,
    stats_reset timestamptz
) VOLATILE ROWS 1 PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_counters_wrapper';

COMMENT ON FUNCTION snowflake_counters() IS
'what the view pg_stat_snowflake shows';
CREATE VIEW pg_stat_snowflake AS
SELECT
    c.ids,
    c.calls,
    c.batches,
    c.blocks,
    c.dropped,
    c.ticks_exhausted,
    c.waits,
    c.wait_time,
    c.wait_p50,
    c.wait_p99,
    c.wait_p999,
    c.wait_histogram,
    c.clock_backward,
    c.clock_backward_max,
    c.clock_forward,
    c.refused_clock,
    c.refused_window,
    c.refused_lease,
    c.refused_setup,
    c.refused_time,
    c.cancelled,
    c.windows,
    c.window_time,
    c.lease_renewals,
    c.lease_failures,
    c.worker_id_changes,
    c.samples,
    c.samples_dropped,
    c.ids_per_second,
    c.ceiling,
    c.ids_per_second OPERATOR(pg_catalog./) c.ceiling AS ceiling_used,
    greatest(s.issued_until OPERATOR(pg_catalog.-) s.clock, '0'::interval) AS ahead,
    greatest(s.reserved_until OPERATOR(pg_catalog.-) greatest(s.clock, s.issued_until), '0'::interval) AS window_left,
    -- greatest() would make 0 of null.
    CASE WHEN s.leased_until IS NOT NULL THEN greatest(s.leased_until OPERATOR(pg_catalog.-) s.clock, '0'::interval) END AS lease_left,
    s.clock_error,
    extract(epoch FROM c.layout_ends_at OPERATOR(pg_catalog.-) s.clock)::double precision OPERATOR(pg_catalog./) 31557600::double precision AS years_left,
    c.stats_reset
FROM snowflake_counters() AS c, snowflake_status AS s;

COMMENT ON VIEW pg_stat_snowflake IS
'what this node has counted since the last reset, and how it stands: one row';
COMMENT ON COLUMN pg_stat_snowflake.ids IS 'ids generated';
COMMENT ON COLUMN pg_stat_snowflake.calls IS 'calls that were to generate ids';
COMMENT ON COLUMN pg_stat_snowflake.batches IS 'of these, calls for batches';
COMMENT ON COLUMN pg_stat_snowflake.blocks IS 'blocks that sessions have claimed, see snowflake_id.backend_block';
COMMENT ON COLUMN pg_stat_snowflake.dropped IS 'ids of blocks that were never generated';
COMMENT ON COLUMN pg_stat_snowflake.ticks_exhausted IS 'waits for the next tick, because all ids of one were generated';
COMMENT ON COLUMN pg_stat_snowflake.waits IS 'claims that found no id at once, for whatever reason; a batch can claim once in each tick';
COMMENT ON COLUMN pg_stat_snowflake.wait_time IS 'how long these took together: milliseconds';
COMMENT ON COLUMN pg_stat_snowflake.wait_p50 IS 'half of them took no longer than this: milliseconds, rounded up to a power of two microseconds';
COMMENT ON COLUMN pg_stat_snowflake.wait_p99 IS '99 % of them likewise';
COMMENT ON COLUMN pg_stat_snowflake.wait_p999 IS '99.9 % of them likewise';
COMMENT ON COLUMN pg_stat_snowflake.wait_histogram IS 'how many took 2^(k-1) up to 2^k microseconds, in element k';
COMMENT ON COLUMN pg_stat_snowflake.clock_backward IS 'claims that found the clock behind the node''s ids';
COMMENT ON COLUMN pg_stat_snowflake.clock_backward_max IS 'by how much at most: milliseconds';
COMMENT ON COLUMN pg_stat_snowflake.clock_forward IS 'jumps of the clock that were not believed';
COMMENT ON COLUMN pg_stat_snowflake.refused_clock IS 'calls that ended with an error because of the clock';
COMMENT ON COLUMN pg_stat_snowflake.refused_window IS 'because no window could be reserved';
COMMENT ON COLUMN pg_stat_snowflake.refused_lease IS 'because there was no lease of a worker id';
COMMENT ON COLUMN pg_stat_snowflake.refused_setup IS 'because of the configuration, or because the node was drained';
COMMENT ON COLUMN pg_stat_snowflake.refused_time IS 'because the layout has no more time';
COMMENT ON COLUMN pg_stat_snowflake.cancelled IS 'calls that were cancelled while they waited, by statement_timeout, say';
COMMENT ON COLUMN pg_stat_snowflake.windows IS 'windows that were reserved';
COMMENT ON COLUMN pg_stat_snowflake.window_time IS 'how long writing their records took together: milliseconds';
COMMENT ON COLUMN pg_stat_snowflake.lease_renewals IS 'heartbeats that the registry has answered';
COMMENT ON COLUMN pg_stat_snowflake.lease_failures IS 'calls to the registry that failed';
COMMENT ON COLUMN pg_stat_snowflake.worker_id_changes IS 'changes of the worker id while the server ran';
COMMENT ON COLUMN pg_stat_snowflake.samples IS 'ids sampled for snowflake_id_node.samples, see snowflake_id.sample_rate';
COMMENT ON COLUMN pg_stat_snowflake.samples_dropped IS 'of these, how many were not written down';
COMMENT ON COLUMN pg_stat_snowflake.ids_per_second IS 'ids generated per second, over the last second or so; null if the keeper does not measure it';
COMMENT ON COLUMN pg_stat_snowflake.ceiling IS 'ids per second that the layout can hold';
COMMENT ON COLUMN pg_stat_snowflake.ceiling_used IS 'the share of that which is generated: 0 to 1, more if ids run ahead of the clock';
COMMENT ON COLUMN pg_stat_snowflake.ahead IS 'how far ids run ahead of the clock';
COMMENT ON COLUMN pg_stat_snowflake.window_left IS 'how long the window still lasts from where ids are now; it is renewed while ids are generated';
COMMENT ON COLUMN pg_stat_snowflake.lease_left IS 'how long the lease of the worker id still lasts; null where it is set by hand';
COMMENT ON COLUMN pg_stat_snowflake.clock_error IS 'how wrong the clock can be, as the kernel estimates; null where it may not be asked';
COMMENT ON COLUMN pg_stat_snowflake.years_left IS 'until the last tick of the layout';
COMMENT ON COLUMN pg_stat_snowflake.stats_reset IS 'since when is counted';

CREATE FUNCTION snowflake_session_counters()
RETURNS TABLE (
    pid integer,
    ids bigint,
    calls bigint,
    batches bigint,
    blocks bigint,
    dropped bigint,
    ticks_exhausted bigint,
    waits bigint,
    wait_time double precision,
    clock_backward bigint,
    refused bigint,
    cancelled bigint
) VOLATILE ROWS 100 PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_session_counters_wrapper';

COMMENT ON FUNCTION snowflake_session_counters() IS
'what the view pg_stat_snowflake_backends shows';
CREATE VIEW pg_stat_snowflake_backends AS
SELECT
    c.pid,
    a.datname,
    a.usename,
    a.application_name,
    a.backend_start,
    c.ids,
    c.calls,
    c.batches,
    c.blocks,
    c.dropped,
    c.ticks_exhausted,
    c.waits,
    c.wait_time,
    c.clock_backward,
    c.refused,
    c.cancelled
FROM snowflake_session_counters() AS c JOIN pg_catalog.pg_stat_activity AS a
    ON a.pid OPERATOR(pg_catalog.=) c.pid;

COMMENT ON VIEW pg_stat_snowflake_backends IS
'what each session that has generated ids has counted since it began; a reset changes nothing of it';
COMMENT ON COLUMN pg_stat_snowflake_backends.pid IS 'the session''s process';
COMMENT ON COLUMN pg_stat_snowflake_backends.datname IS 'its database';
COMMENT ON COLUMN pg_stat_snowflake_backends.usename IS 'its role';
COMMENT ON COLUMN pg_stat_snowflake_backends.application_name IS 'its application';
COMMENT ON COLUMN pg_stat_snowflake_backends.backend_start IS 'when it connected';
COMMENT ON COLUMN pg_stat_snowflake_backends.ids IS 'ids generated';
COMMENT ON COLUMN pg_stat_snowflake_backends.calls IS 'calls that were to generate ids';
COMMENT ON COLUMN pg_stat_snowflake_backends.batches IS 'of these, calls for batches';
COMMENT ON COLUMN pg_stat_snowflake_backends.blocks IS 'blocks that it has claimed';
COMMENT ON COLUMN pg_stat_snowflake_backends.dropped IS 'ids of blocks that were never generated';
COMMENT ON COLUMN pg_stat_snowflake_backends.ticks_exhausted IS 'waits for the next tick';
COMMENT ON COLUMN pg_stat_snowflake_backends.waits IS 'claims that found no id at once';
COMMENT ON COLUMN pg_stat_snowflake_backends.wait_time IS 'how long these took together: milliseconds';
COMMENT ON COLUMN pg_stat_snowflake_backends.clock_backward IS 'claims that found the clock behind the node''s ids';
COMMENT ON COLUMN pg_stat_snowflake_backends.refused IS 'calls that ended with an error';
COMMENT ON COLUMN pg_stat_snowflake_backends.cancelled IS 'calls that were cancelled while they waited';

CREATE FUNCTION pg_stat_snowflake_reset() RETURNS void
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'pg_stat_snowflake_reset_wrapper';

COMMENT ON FUNCTION pg_stat_snowflake_reset() IS
'has pg_stat_snowflake count anew';
