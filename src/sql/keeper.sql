-- The keeper: its table, its status, and the one thing that it can be told.

-- What this node, and perhaps others, have reserved: durable before the first id is made from it.
-- Used in the keeper's database (snowflake_id.database) only. Rows of other nodes can come to
-- stand here, by a restored dump or by logical replication; that does no harm.
--
-- There is no key, and there could be two rows of one node: a row that is restored or copied
-- from another server must never fail, and the greatest counts. A replicated update finds its row
-- by the whole old one, so an echo of one's own older row finds nothing.
CREATE TABLE snowflake_high_water_marks (
    node text NOT NULL,
    reserved_until bigint NOT NULL,
    datacenter_id integer,
    worker_id integer,
    layout text NOT NULL,
    epoch timestamptz NOT NULL,
    timeline bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    boot_id text NOT NULL,
    booted_at timestamptz NOT NULL,
    host text NOT NULL,
    data_directory text NOT NULL,
    lease text,
    lease_until timestamptz,
    drained boolean NOT NULL DEFAULT false
);
ALTER TABLE snowflake_high_water_marks REPLICA IDENTITY FULL;
REVOKE ALL ON snowflake_high_water_marks FROM PUBLIC;
GRANT SELECT ON snowflake_high_water_marks TO pg_monitor;

COMMENT ON TABLE snowflake_high_water_marks IS
'the keeper''s record of what was reserved, one row per node; written by the keeper alone';
COMMENT ON COLUMN snowflake_high_water_marks.node IS 'system identifier of the cluster, and fingerprint of the data directory on its machine';
COMMENT ON COLUMN snowflake_high_water_marks.reserved_until IS 'as an id of the layout: neither it nor a greater one has been made by the node';
COMMENT ON COLUMN snowflake_high_water_marks.datacenter_id IS 'the number for which it was reserved, upper part';
COMMENT ON COLUMN snowflake_high_water_marks.worker_id IS 'the number for which it was reserved';
COMMENT ON COLUMN snowflake_high_water_marks.layout IS 'the layout of reserved_until';
COMMENT ON COLUMN snowflake_high_water_marks.epoch IS 'its epoch';
COMMENT ON COLUMN snowflake_high_water_marks.timeline IS 'the cluster''s timeline when it was written';
COMMENT ON COLUMN snowflake_high_water_marks.updated_at IS 'when it was written, by the node''s clock';
COMMENT ON COLUMN snowflake_high_water_marks.boot_id IS 'the kernel''s name for the machine''s run in which it was written';
COMMENT ON COLUMN snowflake_high_water_marks.booted_at IS 'when that run began, by the clock that was trusted';
COMMENT ON COLUMN snowflake_high_water_marks.host IS 'the node''s host, for people';
COMMENT ON COLUMN snowflake_high_water_marks.data_directory IS 'the node''s data directory, for people';
COMMENT ON COLUMN snowflake_high_water_marks.lease IS 'by what the registry knows the lease of the number; null where the number was set by hand';
COMMENT ON COLUMN snowflake_high_water_marks.lease_until IS 'the lease''s end, or an earlier one';
COMMENT ON COLUMN snowflake_high_water_marks.drained IS 'whether the node is to make no ids, see snowflake_drain()';

-- A dump carries the marks along: who restores it does not fall behind what was made.
SELECT pg_extension_config_dump('snowflake_high_water_marks', '');

CREATE FUNCTION snowflake_skip_known_node() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_skip_known_node_wrapper';

COMMENT ON FUNCTION snowflake_skip_known_node() IS
'for the table snowflake_high_water_marks: keeps logical replication from adding a node''s row twice';
REVOKE ALL ON FUNCTION snowflake_skip_known_node() FROM PUBLIC;

CREATE TRIGGER skip_known_node BEFORE INSERT ON snowflake_high_water_marks
FOR EACH ROW EXECUTE FUNCTION snowflake_skip_known_node();
ALTER TABLE snowflake_high_water_marks ENABLE REPLICA TRIGGER skip_known_node;

CREATE FUNCTION snowflake_node()
RETURNS TABLE (
    state text,
    reason text,
    hint text,
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
COMMENT ON COLUMN snowflake_status.worker_id IS 'the number that ids are made with; null before there is a window, unless ready';
COMMENT ON COLUMN snowflake_status.datacenter_id IS 'the upper part of that number, where the layout has it';
COMMENT ON COLUMN snowflake_status.leased_until IS 'the end of the lease of that number; null where it is set by hand';
COMMENT ON COLUMN snowflake_status.registry_trouble IS 'why the registry does not answer, or does not as wished; null if nothing is the matter';
COMMENT ON COLUMN snowflake_status.registry_trouble_since IS 'since when';
COMMENT ON COLUMN snowflake_status.node IS 'this node''s name in snowflake_high_water_marks';
COMMENT ON COLUMN snowflake_status.conflict IS 'the node whose record has the same number; null if there is none';
COMMENT ON COLUMN snowflake_status.issued_until IS 'the time of the next id, if the clock has not passed it';
COMMENT ON COLUMN snowflake_status.reserved_until IS 'the end of the window: no id of this time or later can be made yet';
COMMENT ON COLUMN snowflake_status.clock IS 'the wall clock';
COMMENT ON COLUMN snowflake_status.clock_jump IS 'how far it jumped forward and is not believed';
COMMENT ON COLUMN snowflake_status.clock_error IS 'how wrong it can be, as the kernel estimates';
COMMENT ON COLUMN snowflake_status.clock_offset IS 'what the kernel is still correcting';
COMMENT ON COLUMN snowflake_status.clock_synchronized IS 'whether a time daemon keeps it';
COMMENT ON COLUMN snowflake_status.database IS 'the keeper''s database';
COMMENT ON COLUMN snowflake_status.timeline IS 'the cluster''s timeline';
COMMENT ON COLUMN snowflake_status.keeper_pid IS 'the keeper''s process; null if it does not run';
COMMENT ON COLUMN snowflake_status.keeper_looked_at IS 'when the keeper looked last at clock and window';
COMMENT ON COLUMN snowflake_status.keeper_writing_since IS 'since when it has been writing its record; null if it is not';

GRANT SELECT ON snowflake_status TO PUBLIC;

CREATE FUNCTION snowflake_accept_clock() RETURNS boolean
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_accept_clock_wrapper';

COMMENT ON FUNCTION snowflake_accept_clock() IS
'declares right a clock that jumped forward by more than snowflake_id.max_clock_jump; false if there was none';
REVOKE ALL ON FUNCTION snowflake_accept_clock() FROM PUBLIC;

CREATE FUNCTION snowflake_drain() RETURNS void
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_drain_wrapper';

COMMENT ON FUNCTION snowflake_drain() IS
'ends the making of ids on this node, also after a restart, until snowflake_resume()';
REVOKE ALL ON FUNCTION snowflake_drain() FROM PUBLIC;

CREATE FUNCTION snowflake_resume() RETURNS void
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_resume_wrapper';

COMMENT ON FUNCTION snowflake_resume() IS
'lets a node that was drained make ids again';
REVOKE ALL ON FUNCTION snowflake_resume() FROM PUBLIC;

CREATE FUNCTION snowflake_release_worker_id() RETURNS void
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_release_worker_id_wrapper';

COMMENT ON FUNCTION snowflake_release_worker_id() IS
'gives this node''s leased worker id back to the registry, at once, and leases another one';
REVOKE ALL ON FUNCTION snowflake_release_worker_id() FROM PUBLIC;

-- Says at once where the extension is still missing, if it is.
CREATE FUNCTION snowflake_check_keeper() RETURNS void
VOLATILE LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_check_keeper_wrapper';
SELECT snowflake_check_keeper();
DROP FUNCTION snowflake_check_keeper();
