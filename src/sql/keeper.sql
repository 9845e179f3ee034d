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
