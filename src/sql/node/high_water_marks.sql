-- What this node, and perhaps others, have reserved: durable before the first id is generated from it.
-- Used in the keeper's database (snowflake_id.database) only. Rows of other nodes can come to
-- stand here, by a restored dump or by logical replication; that does no harm.
--
-- There is no key, and there could be two rows of one node: a row that is restored or copied
-- from another server must never fail, and the greatest counts. A replicated update finds its row
-- by the whole old one, so an echo of one's own older row finds nothing.
CREATE TABLE snowflake_id_node.high_water_marks (
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
    drained boolean NOT NULL,
    max_ahead bigint
);
ALTER TABLE snowflake_id_node.high_water_marks REPLICA IDENTITY FULL;

COMMENT ON TABLE snowflake_id_node.high_water_marks IS
'the keeper''s record of what was reserved, one row per node; written by the keeper alone';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.node IS 'system identifier of the cluster, and fingerprint of the data directory on its machine';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.reserved_until IS 'as an id of the layout: neither it nor a greater one has been made by the node';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.datacenter_id IS 'the worker id for which it was reserved, upper part';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.worker_id IS 'the worker id for which it was reserved';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.layout IS 'the layout of reserved_until';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.epoch IS 'its epoch';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.timeline IS 'the cluster''s timeline when it was written';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.updated_at IS 'when it was written, by the node''s clock';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.boot_id IS 'the kernel''s name for the machine''s run in which it was written';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.booted_at IS 'when that run began, by the clock that was trusted';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.host IS 'the node''s host, for people';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.data_directory IS 'the node''s data directory, for people';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.lease IS 'by what the registry knows the lease of the worker id; null where the worker id was set by hand';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.lease_until IS 'the lease''s end, or an earlier one';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.drained IS 'whether the node is to generate no ids, see snowflake_drain()';
COMMENT ON COLUMN snowflake_id_node.high_water_marks.max_ahead IS 'how far ids were allowed to run ahead of the clock then, in microseconds';

-- A dump carries the marks along: who restores it does not fall behind what was made.
SELECT pg_extension_config_dump('snowflake_id_node.high_water_marks'::regclass, '');

CREATE TRIGGER skip_known_node BEFORE INSERT ON snowflake_id_node.high_water_marks
FOR EACH ROW EXECUTE FUNCTION snowflake_id_node.skip_known_node();
ALTER TABLE snowflake_id_node.high_water_marks ENABLE REPLICA TRIGGER skip_known_node;
CREATE TRIGGER keep_rows BEFORE TRUNCATE ON snowflake_id_node.high_water_marks
FOR EACH STATEMENT EXECUTE FUNCTION snowflake_id_node.keep_rows();
CREATE TRIGGER keep_rows_again AFTER TRUNCATE ON snowflake_id_node.high_water_marks
FOR EACH STATEMENT EXECUTE FUNCTION snowflake_id_node.keep_rows();
ALTER TABLE snowflake_id_node.high_water_marks ENABLE REPLICA TRIGGER keep_rows;
ALTER TABLE snowflake_id_node.high_water_marks ENABLE REPLICA TRIGGER keep_rows_again;

