\echo Use "CREATE EXTENSION snowflake_id" to load this file. \quit

-- Generating ids.
--
-- They are VOLATILE, work in a read-only transaction, as nothing is written, and are
-- not transactional: an id is never generated twice, whether its transaction commits or
-- not. PUBLIC may call them: a column default runs with the rights of whoever inserts.

CREATE FUNCTION snowflake_nextval() RETURNS bigint
VOLATILE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_nextval_wrapper';

COMMENT ON FUNCTION snowflake_nextval() IS
'generates the next id of this node; for use as a column default';

CREATE FUNCTION snowflake_nextval_after(id bigint) RETURNS bigint
VOLATILE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_nextval_after_wrapper';

COMMENT ON FUNCTION snowflake_nextval_after(bigint) IS
'generates the next id of this node that is greater than id, which another node may have generated';

CREATE FUNCTION snowflake_batch(n integer) RETURNS SETOF bigint
VOLATILE PARALLEL SAFE ROWS 1000
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_batch_wrapper';

COMMENT ON FUNCTION snowflake_batch(integer) IS
'generates n increasing ids, as rows; n from 0 to snowflake_id.max_batch';

CREATE FUNCTION snowflake_batch_array(n integer) RETURNS bigint[]
VOLATILE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_batch_array_wrapper';

COMMENT ON FUNCTION snowflake_batch_array(integer) IS
'generates n increasing ids, as an array; n from 0 to snowflake_id.max_batch';

-- The session's last id is the leader's: ids that parallel workers generated are not seen.
CREATE FUNCTION snowflake_lastval() RETURNS bigint
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_lastval_wrapper';

COMMENT ON FUNCTION snowflake_lastval() IS
'the last id that this session generated';

-- Reading ids, and packing them from their fields.
--
-- With the layout in force the functions are STABLE: a restart can change it. With the
-- layout named they are IMMUTABLE, and serve indexes and generated columns.

CREATE FUNCTION snowflake_decode(
    id bigint,
    OUT ts timestamptz, OUT datacenter_id integer, OUT worker_id integer, OUT sequence integer
) STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_decode_wrapper';

COMMENT ON FUNCTION snowflake_decode(bigint) IS
'the fields of an id of the layout in force; a field that the layout does not have is null';

CREATE FUNCTION snowflake_decode(
    id bigint, layout text, epoch timestamptz DEFAULT NULL,
    OUT ts timestamptz, OUT datacenter_id integer, OUT worker_id integer, OUT sequence integer
) IMMUTABLE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_decode_as_wrapper';

COMMENT ON FUNCTION snowflake_decode(bigint, text, timestamptz) IS
'the fields of an id of the named layout: a preset or a spelled-out one, with its own epoch or the one given';

CREATE FUNCTION snowflake_timestamp(id bigint) RETURNS timestamptz
STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_timestamp_wrapper';

COMMENT ON FUNCTION snowflake_timestamp(bigint) IS
'the time at which an id of the layout in force was generated, to the tick';

CREATE FUNCTION snowflake_timestamp(id bigint, layout text, epoch timestamptz DEFAULT NULL)
RETURNS timestamptz
IMMUTABLE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_timestamp_as_wrapper';

COMMENT ON FUNCTION snowflake_timestamp(bigint, text, timestamptz) IS
'the time at which an id of the named layout was generated, to the tick; for generated columns and indexes';

CREATE FUNCTION snowflake_worker_id(id bigint) RETURNS integer
STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_worker_id_wrapper';

COMMENT ON FUNCTION snowflake_worker_id(bigint) IS
'the worker id of the node that generated an id of the layout in force';

CREATE FUNCTION snowflake_encode(
    ts timestamptz, worker_id integer, sequence integer, datacenter_id integer DEFAULT NULL
) RETURNS bigint
STABLE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_encode_wrapper';

COMMENT ON FUNCTION snowflake_encode(timestamptz, integer, integer, integer) IS
'the id of the layout in force with these fields, for backfill; it is not made unique, use worker ids that no node has';

-- Ids as bounds of a time, for searches on a key's own index.

CREATE FUNCTION snowflake_min(ts timestamptz) RETURNS bigint
STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_min_wrapper';

COMMENT ON FUNCTION snowflake_min(timestamptz) IS
'the least id of the tick in which the time lies';

CREATE FUNCTION snowflake_max(ts timestamptz) RETURNS bigint
STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_max_wrapper';

COMMENT ON FUNCTION snowflake_max(timestamptz) IS
'the greatest id of the tick in which the time lies';

CREATE FUNCTION snowflake_lower_bound(ts timestamptz) RETURNS bigint
STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_lower_bound_wrapper';

COMMENT ON FUNCTION snowflake_lower_bound(timestamptz) IS
'the least id whose time is at or after the one given; defined for every time, for bounds of searches and partitions';

-- The body is parsed here and kept as a tree: it does not depend on the caller's
-- search_path. It is inlined, so that the planner sees a range of the id.
CREATE FUNCTION snowflake_between(id bigint, "from" timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS boolean
STABLE PARALLEL SAFE
LANGUAGE sql
RETURN id OPERATOR(pg_catalog.>=) snowflake_lower_bound("from")
    AND id OPERATOR(pg_catalog.<) snowflake_lower_bound(until);

COMMENT ON FUNCTION snowflake_between(bigint, timestamptz, timestamptz) IS
'whether an id was generated at or after the first time and, if there is one, before the second; an index on the id and partitions by it serve the search';

-- Text forms of ids, for URLs and for people.

CREATE FUNCTION snowflake_base62(id bigint) RETURNS text
IMMUTABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_base62_wrapper';

COMMENT ON FUNCTION snowflake_base62(bigint) IS
'the id in base 62 (0-9, A-Z, a-z), up to 11 characters';

CREATE FUNCTION snowflake_from_base62(encoded text) RETURNS bigint
IMMUTABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_from_base62_wrapper';

COMMENT ON FUNCTION snowflake_from_base62(text) IS
'the id that a base 62 text stands for';

CREATE FUNCTION snowflake_base32(id bigint) RETURNS text
IMMUTABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_base32_wrapper';

COMMENT ON FUNCTION snowflake_base32(bigint) IS
'the id in Crockford''s base 32, always 13 characters, which sort as the ids do';

CREATE FUNCTION snowflake_from_base32(encoded text) RETURNS bigint
IMMUTABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_from_base32_wrapper';

COMMENT ON FUNCTION snowflake_from_base32(text) IS
'the id that a base 32 text stands for; small letters, I, L and O for 1, 1 and 0, and hyphens are read';

-- What layouts there are, and which one is in force.

CREATE FUNCTION snowflake_layout(layout text DEFAULT NULL, epoch timestamptz DEFAULT NULL)
RETURNS TABLE (
    name text,              -- the preset's; null for another layout or epoch
    layout text,            -- spelled out
    epoch timestamptz,
    tick interval,
    timestamp_bits integer,
    datacenter_bits integer,
    worker_bits integer,
    sequence_bits integer,
    nodes bigint,           -- how many can be told apart
    ids_per_tick bigint,    -- of one node
    ids_per_second double precision,
    ends_at timestamptz,    -- null behind the last timestamp
    source text             -- where the preset's system describes it
) STABLE ROWS 1 PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_layout_wrapper';

COMMENT ON FUNCTION snowflake_layout(text, timestamptz) IS
'the layout in force, or the one named, with its own epoch or the one given: its fields, what a node can make with it, and when its time field is used up';

CREATE FUNCTION snowflake_presets() RETURNS text[]
IMMUTABLE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_presets_wrapper';

COMMENT ON FUNCTION snowflake_presets() IS
'the names of the layouts that have one, the default first';

CREATE VIEW snowflake_layouts AS
SELECT layout.*
FROM pg_catalog.unnest(snowflake_presets()) AS preset,
    -- All arguments are given: with fewer, another function of this name could be meant.
    snowflake_layout(preset, NULL::pg_catalog.timestamptz) AS layout;

COMMENT ON VIEW snowflake_layouts IS
'the layouts that have a name, the default first';
COMMENT ON COLUMN snowflake_layouts.name IS 'the preset''s name';
COMMENT ON COLUMN snowflake_layouts.layout IS 'spelled out';
COMMENT ON COLUMN snowflake_layouts.epoch IS 'the moment of tick 0';
COMMENT ON COLUMN snowflake_layouts.tick IS 'the tick''s length';
COMMENT ON COLUMN snowflake_layouts.timestamp_bits IS 'the width of the time field';
COMMENT ON COLUMN snowflake_layouts.datacenter_bits IS 'that of the datacenter field; 0 where there is none';
COMMENT ON COLUMN snowflake_layouts.worker_bits IS 'that of the worker field; 0 where there is none';
COMMENT ON COLUMN snowflake_layouts.sequence_bits IS 'that of the sequence; 0 where there is none';
COMMENT ON COLUMN snowflake_layouts.nodes IS 'how many nodes can be told apart';
COMMENT ON COLUMN snowflake_layouts.ids_per_tick IS 'how many ids a node can generate in one tick';
COMMENT ON COLUMN snowflake_layouts.ids_per_second IS 'how many ids a node can generate in one second';
COMMENT ON COLUMN snowflake_layouts.ends_at IS 'the first moment after the last tick; null behind the last timestamptz';
COMMENT ON COLUMN snowflake_layouts.source IS 'where the preset''s system describes it';

-- The keeper seen from SQL: how the node stands, and what it can be told to do.

CREATE FUNCTION snowflake_node()
RETURNS TABLE (
    state text,
    reason text,
    hint text,
    last_error text,
    last_error_at timestamptz,
    worker_id integer,
    datacenter_id integer,
    leased_until timestamptz,
    registry_trouble text,
    registry_trouble_since timestamptz,
    node text,
    conflict text,
    issued_until timestamptz,
    reserved_until timestamptz,
    clock timestamptz,
    clock_jump interval,
    clock_error interval,
    clock_offset interval,
    clock_synchronized boolean,
    database text,
    timeline integer,
    keeper_pid integer,
    keeper_looked_at timestamptz,
    keeper_writing_since timestamptz
) VOLATILE ROWS 1 PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_node_wrapper';

COMMENT ON FUNCTION snowflake_node() IS
'what the view snowflake_status shows';

CREATE VIEW snowflake_status AS SELECT * FROM snowflake_node();

COMMENT ON VIEW snowflake_status IS
'whether ids flow on this node, and why not: one row';
COMMENT ON COLUMN snowflake_status.state IS 'ready, or one word for what is the matter';
COMMENT ON COLUMN snowflake_status.reason IS 'what is the matter, in words; null if nothing is';
COMMENT ON COLUMN snowflake_status.hint IS 'what to do about it';
COMMENT ON COLUMN snowflake_status.last_error IS 'what was the matter last, in words, also where it has passed; null if nothing was since the server''s start';
COMMENT ON COLUMN snowflake_status.last_error_at IS 'when the keeper met it last';
COMMENT ON COLUMN snowflake_status.worker_id IS 'the worker id that ids are generated with; null before there is a window, unless ready';
COMMENT ON COLUMN snowflake_status.datacenter_id IS 'the upper part of that worker id, where the layout has it';
COMMENT ON COLUMN snowflake_status.leased_until IS 'the end of the lease of that worker id; null where it is set by hand';
COMMENT ON COLUMN snowflake_status.registry_trouble IS 'why the registry does not answer, or does not as wished; null if nothing is the matter';
COMMENT ON COLUMN snowflake_status.registry_trouble_since IS 'since when';
COMMENT ON COLUMN snowflake_status.node IS 'this node''s name in snowflake_id_node.high_water_marks';
COMMENT ON COLUMN snowflake_status.conflict IS 'the node whose record has the same worker id; null if there is none';
COMMENT ON COLUMN snowflake_status.issued_until IS 'the time of the next id, if the clock has not passed it';
COMMENT ON COLUMN snowflake_status.reserved_until IS 'the end of the window: no id of this time or later can be generated yet';
COMMENT ON COLUMN snowflake_status.clock IS 'the wall clock';
COMMENT ON COLUMN snowflake_status.clock_jump IS 'how far it jumped forward and is not believed';
COMMENT ON COLUMN snowflake_status.clock_error IS 'how wrong it can be, as the kernel estimates; null where the kernel may not be asked';
COMMENT ON COLUMN snowflake_status.clock_offset IS 'what the kernel is still correcting; null likewise';
COMMENT ON COLUMN snowflake_status.clock_synchronized IS 'whether a time daemon keeps it; null likewise';
COMMENT ON COLUMN snowflake_status.database IS 'the keeper''s database';
COMMENT ON COLUMN snowflake_status.timeline IS 'the cluster''s timeline';
COMMENT ON COLUMN snowflake_status.keeper_pid IS 'the keeper''s process; null if it does not run';
COMMENT ON COLUMN snowflake_status.keeper_looked_at IS 'when the keeper looked last at clock and window';
COMMENT ON COLUMN snowflake_status.keeper_writing_since IS 'since when it has been writing its record; null if it is not';

CREATE FUNCTION snowflake_accept_clock() RETURNS boolean
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_accept_clock_wrapper';

COMMENT ON FUNCTION snowflake_accept_clock() IS
'declares right a clock that jumped forward by more than snowflake_id.max_clock_jump; false if there was none';

CREATE FUNCTION snowflake_drain() RETURNS void
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_drain_wrapper';

COMMENT ON FUNCTION snowflake_drain() IS
'ends the generation of ids on this node, also after a restart, until snowflake_resume()';

CREATE FUNCTION snowflake_resume() RETURNS void
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_resume_wrapper';

COMMENT ON FUNCTION snowflake_resume() IS
'lets a node that was drained generate ids again';

CREATE FUNCTION snowflake_release_worker_id() RETURNS void
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_release_worker_id_wrapper';

COMMENT ON FUNCTION snowflake_release_worker_id() IS
'gives this node''s leased worker id back to the registry, at once, and leases another one';

CREATE FUNCTION snowflake_set_floor(id bigint) RETURNS timestamptz
VOLATILE PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_set_floor_wrapper';

COMMENT ON FUNCTION snowflake_set_floor(bigint) IS
'has this node generate no id at or below this one, from now on and for good; the time that its ids begin with';

-- Says at once what the keeper lacks, if anything.
CREATE FUNCTION snowflake_check_keeper() RETURNS void
VOLATILE LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_check_keeper_wrapper';
SELECT snowflake_check_keeper();
DROP FUNCTION snowflake_check_keeper();

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

-- Audits of tables, and what they found last.

CREATE FUNCTION snowflake_audit(
    relation regclass,
    column_name name,
    created_column name DEFAULT NULL,
    worker_ids text DEFAULT NULL,
    since timestamptz DEFAULT NULL,
    sample double precision DEFAULT 1,
    tolerance interval DEFAULT '1 second'
)
RETURNS TABLE (
    finding text,
    datacenter_id integer,
    worker_id integer,
    count bigint,
    examples bigint[]
) VOLATILE ROWS 20 PARALLEL UNSAFE
-- What a view runs finds the same names whoever calls.
SET search_path = pg_catalog, pg_temp
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_audit_wrapper';

COMMENT ON FUNCTION snowflake_audit(regclass, name, name, text, timestamptz, double precision, interval) IS
'looks for what is wrong with the ids of a column: duplicates, ids ahead of the clock, ids of workers that should not be';


-- Rights. By default privileges, others may have been given rights on what has just been created:
-- whoever has any but the owner loses it, and what is meant is granted below.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT
            o.kind,
            o.name,
            CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC'::pg_catalog.text
                 ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END AS grantee
        FROM pg_catalog.pg_extension AS e
        JOIN pg_catalog.pg_depend AS d
            ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid
            AND d.refobjid OPERATOR(pg_catalog.=) e.oid
            AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"
        CROSS JOIN LATERAL (
            SELECT 'ROUTINE'::pg_catalog.text AS kind, p.oid::pg_catalog.regprocedure::pg_catalog.text AS name,
                p.proowner AS owner,
                COALESCE(p.proacl, pg_catalog.acldefault('f'::pg_catalog."char", p.proowner)) AS acl
            FROM pg_catalog.pg_proc AS p
            WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
                AND p.oid OPERATOR(pg_catalog.=) d.objid
            UNION ALL
            SELECT 'TABLE'::pg_catalog.text, c.oid::pg_catalog.regclass::pg_catalog.text, c.relowner, c.relacl
            FROM pg_catalog.pg_class AS c
            WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
                AND c.oid OPERATOR(pg_catalog.=) d.objid
            UNION ALL
            SELECT 'SCHEMA'::pg_catalog.text, pg_catalog.quote_ident(n.nspname::pg_catalog.text), n.nspowner, n.nspacl
            FROM pg_catalog.pg_namespace AS n
            WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid
                AND n.oid OPERATOR(pg_catalog.=) d.objid
        ) AS o
        CROSS JOIN LATERAL pg_catalog.aclexplode(o.acl) AS a
        WHERE e.extname OPERATOR(pg_catalog.=) 'snowflake_id'::pg_catalog.name
            AND a.grantee OPERATOR(pg_catalog.<>) o.owner
        GROUP BY o.kind, o.name, a.grantee
    LOOP
        EXECUTE pg_catalog.format(
            'REVOKE ALL ON %s %s FROM %s'::pg_catalog.text, item.kind, item.name, item.grantee
        );
    END LOOP;
END
$$;


-- Everybody generates and reads ids, and sees whether they flow. PUBLIC has the rights, as a column
-- default is evaluated with those of whoever inserts.
GRANT EXECUTE ON FUNCTION
    snowflake_nextval(),
    snowflake_nextval_after(bigint),
    snowflake_batch(integer),
    snowflake_batch_array(integer),
    snowflake_lastval(),
    snowflake_decode(bigint),
    snowflake_decode(bigint, text, timestamptz),
    snowflake_timestamp(bigint),
    snowflake_timestamp(bigint, text, timestamptz),
    snowflake_worker_id(bigint),
    snowflake_encode(timestamptz, integer, integer, integer),
    snowflake_min(timestamptz),
    snowflake_max(timestamptz),
    snowflake_lower_bound(timestamptz),
    snowflake_between(bigint, timestamptz, timestamptz),
    snowflake_base62(bigint),
    snowflake_from_base62(text),
    snowflake_base32(bigint),
    snowflake_from_base32(text),
    snowflake_layout(text, timestamptz),
    snowflake_presets(),
    snowflake_node()
TO PUBLIC;
GRANT SELECT ON snowflake_layouts, snowflake_status TO PUBLIC;

-- Whoever watches the node sees what is counted.
GRANT EXECUTE ON FUNCTION snowflake_counters(), snowflake_session_counters() TO pg_monitor;
GRANT SELECT ON pg_stat_snowflake, pg_stat_snowflake_backends TO pg_monitor;

-- The owner of the database audits what he may read. On the others he has a right because GRANT and
-- REVOKE ... ON ALL FUNCTIONS, ON ALL TABLES IN SCHEMA would be errors for him without: the functions
-- themselves refuse whoever has no other one (src/rights.rs).
GRANT EXECUTE ON FUNCTION
    snowflake_audit(regclass, name, name, text, timestamptz, double precision, interval),
    snowflake_counters(),
    snowflake_session_counters(),
    snowflake_accept_clock(),
    snowflake_drain(),
    snowflake_resume(),
    snowflake_release_worker_id(),
    snowflake_set_floor(bigint),
    pg_stat_snowflake_reset()
TO pg_database_owner;
GRANT SELECT ON pg_stat_snowflake, pg_stat_snowflake_backends TO pg_database_owner;
