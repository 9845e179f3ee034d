-- A database as the registry: where nodes keep the leases of their worker ids. It is used by
-- nodes whose snowflake_id.registry names this database, and otherwise empty.

CREATE TABLE snowflake_id_node.registry (
    number bigint PRIMARY KEY,
    revision bigint NOT NULL,
    record jsonb NOT NULL,
    alive_until timestamptz NOT NULL
);

COMMENT ON TABLE snowflake_id_node.registry IS
'who has which worker id; written by the nodes through the functions snowflake_registry_...';
COMMENT ON COLUMN snowflake_id_node.registry.number IS 'the worker id, or datacenter and worker id as one number';
COMMENT ON COLUMN snowflake_id_node.registry.revision IS 'counts the changes of the record';
COMMENT ON COLUMN snowflake_id_node.registry.record IS 'the lease; see docs/ARCHITECTURE.md';
COMMENT ON COLUMN snowflake_id_node.registry.alive_until IS 'until when its holder counts as alive, unless it says so again; by this server''s clock';

-- A dump carries the leases along: nodes that come back by it find their own.
SELECT pg_extension_config_dump('snowflake_id_node.registry'::regclass, '');

-- Two registries are never merged: what logical replication brings is another one's.
CREATE TRIGGER skip_replicated BEFORE INSERT OR UPDATE OR DELETE ON snowflake_id_node.registry
FOR EACH ROW EXECUTE FUNCTION snowflake_id_node.skip_replicated();
ALTER TABLE snowflake_id_node.registry ENABLE REPLICA TRIGGER skip_replicated;
CREATE TRIGGER keep_rows BEFORE TRUNCATE ON snowflake_id_node.registry
FOR EACH STATEMENT EXECUTE FUNCTION snowflake_id_node.keep_rows();
CREATE TRIGGER keep_rows_again AFTER TRUNCATE ON snowflake_id_node.registry
FOR EACH STATEMENT EXECUTE FUNCTION snowflake_id_node.keep_rows();
ALTER TABLE snowflake_id_node.registry ENABLE REPLICA TRIGGER keep_rows;
ALTER TABLE snowflake_id_node.registry ENABLE REPLICA TRIGGER keep_rows_again;

-- The nodes' role needs these three functions and nothing else. They run with the rights of their
-- owner, and refuse a table that would run something of others with these.
CREATE FUNCTION snowflake_id_node.registry_read(of_number bigint DEFAULT NULL)
RETURNS TABLE (number bigint, revision bigint, record text, alive boolean)
STABLE SECURITY DEFINER ROWS 1000
SET search_path = pg_catalog, pg_temp
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_registry_read_wrapper';

COMMENT ON FUNCTION snowflake_id_node.registry_read(bigint) IS
'for nodes: the lease of one worker id, or all leases';

CREATE FUNCTION snowflake_id_node.registry_write(of_number bigint, revision_read bigint, record text)
RETURNS boolean
VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_registry_write_wrapper';

COMMENT ON FUNCTION snowflake_id_node.registry_write(bigint, bigint, text) IS
'for nodes: writes a lease if its revision is the one that was read, null for none; whether it did';

CREATE FUNCTION snowflake_id_node.registry_announce(of_number bigint, seconds double precision)
RETURNS void
VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_registry_announce_wrapper';

COMMENT ON FUNCTION snowflake_id_node.registry_announce(bigint, double precision) IS
'for nodes: says that the holder of a worker id is alive, for so long';

CREATE VIEW snowflake_id_node.leases AS
SELECT
    r.number,
    CASE WHEN r.record->>'state' = 'released' THEN 'released'
         WHEN r.alive_until > clock_timestamp() THEN r.record->>'state'
         ELSE 'silent' END AS state,
    to_timestamp((r.record->>'floor')::bigint / 1e6) AS valid_from,
    to_timestamp((r.record->>'until')::bigint / 1e6) AS valid_until,
    r.record->>'node' AS node,
    r.record->>'host' AS host,
    to_timestamp((r.record->>'updated_at')::bigint / 1e6) AS updated_at,
    r.record->>'layout' AS layout,
    to_timestamp((r.record->>'epoch')::bigint / 1e6) AS epoch
FROM snowflake_id_node.registry r;

COMMENT ON VIEW snowflake_id_node.leases IS
'who has which worker id, where this database is the registry';
COMMENT ON COLUMN snowflake_id_node.leases.number IS 'the worker id, or datacenter and worker id as one number';
COMMENT ON COLUMN snowflake_id_node.leases.state IS 'held; claimed, while others may object; silent, if the holder has not been heard of; released';
COMMENT ON COLUMN snowflake_id_node.leases.valid_from IS 'the holder generates no ids of an earlier time';
COMMENT ON COLUMN snowflake_id_node.leases.valid_until IS 'nor of this time or later; another node can take the worker id from then on';
COMMENT ON COLUMN snowflake_id_node.leases.node IS 'the holder''s name, see snowflake_status';
COMMENT ON COLUMN snowflake_id_node.leases.host IS 'the holder''s host';
COMMENT ON COLUMN snowflake_id_node.leases.updated_at IS 'when the lease was renewed last, by the holder''s clock';
COMMENT ON COLUMN snowflake_id_node.leases.layout IS 'the layout of the holder''s ids';
COMMENT ON COLUMN snowflake_id_node.leases.epoch IS 'the epoch of the holder''s ids';
