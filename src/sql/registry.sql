-- A database as the registry: where nodes keep the leases of their worker ids. It is used by
-- nodes whose snowflake_id.registry names this database, and otherwise empty.

CREATE TABLE snowflake_registry (
    number bigint PRIMARY KEY,
    revision bigint NOT NULL,
    record jsonb NOT NULL,
    alive_until timestamptz NOT NULL
);
REVOKE ALL ON snowflake_registry FROM PUBLIC;

COMMENT ON TABLE snowflake_registry IS
'who has which worker id; written by the nodes through the functions snowflake_registry_...';
COMMENT ON COLUMN snowflake_registry.number IS 'the worker id, or datacenter and worker id as one number';
COMMENT ON COLUMN snowflake_registry.revision IS 'counts the changes of the record';
COMMENT ON COLUMN snowflake_registry.record IS 'the lease; see docs/ARCHITECTURE.md';
COMMENT ON COLUMN snowflake_registry.alive_until IS 'until when its holder counts as alive, unless it says so again; by this server''s clock';

-- A dump carries the leases along: nodes that come back by it find their own.
SELECT pg_extension_config_dump('snowflake_registry', '');

-- Two registries are never merged: what logical replication brings is another one's.
CREATE FUNCTION snowflake_skip_replicated() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_skip_replicated_wrapper';

COMMENT ON FUNCTION snowflake_skip_replicated() IS
'for the table snowflake_registry: keeps logical replication from changing it';
REVOKE ALL ON FUNCTION snowflake_skip_replicated() FROM PUBLIC;

CREATE TRIGGER skip_replicated BEFORE INSERT OR UPDATE OR DELETE ON snowflake_registry
FOR EACH ROW EXECUTE FUNCTION snowflake_skip_replicated();
ALTER TABLE snowflake_registry ENABLE REPLICA TRIGGER skip_replicated;

-- The nodes' role needs these three functions and nothing else. Their bodies are bound to the
-- table when they are made, so that no search_path can lead them elsewhere.
CREATE FUNCTION snowflake_registry_read(of_number bigint DEFAULT NULL)
RETURNS TABLE (number bigint, revision bigint, record text, alive boolean)
STABLE SECURITY DEFINER ROWS 1000
BEGIN ATOMIC
    SELECT r.number, r.revision, r.record::text, r.alive_until > clock_timestamp()
    FROM snowflake_registry r
    WHERE of_number IS NULL OR r.number = of_number;
END;

COMMENT ON FUNCTION snowflake_registry_read(bigint) IS
'for nodes: the lease of one number, or all leases';
REVOKE ALL ON FUNCTION snowflake_registry_read(bigint) FROM PUBLIC;

CREATE FUNCTION snowflake_registry_write(of_number bigint, revision_read bigint, record text)
RETURNS boolean
VOLATILE SECURITY DEFINER
BEGIN ATOMIC
    WITH changed AS (
        UPDATE snowflake_registry r
        SET revision = r.revision + 1, record = snowflake_registry_write.record::jsonb
        WHERE r.number = of_number AND r.revision = revision_read
        RETURNING 1
    ), added AS (
        INSERT INTO snowflake_registry (number, revision, record, alive_until)
        SELECT of_number, 1, snowflake_registry_write.record::jsonb, '-infinity'
        WHERE revision_read IS NULL
        ON CONFLICT DO NOTHING
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM changed UNION ALL SELECT FROM added);
END;

COMMENT ON FUNCTION snowflake_registry_write(bigint, bigint, text) IS
'for nodes: writes a lease if its revision is the one that was read, null for none; whether it did';
REVOKE ALL ON FUNCTION snowflake_registry_write(bigint, bigint, text) FROM PUBLIC;

CREATE FUNCTION snowflake_registry_announce(of_number bigint, seconds double precision) RETURNS void
VOLATILE STRICT SECURITY DEFINER
BEGIN ATOMIC
    UPDATE snowflake_registry
    SET alive_until = clock_timestamp() + make_interval(secs => seconds)
    WHERE number = of_number;
END;

COMMENT ON FUNCTION snowflake_registry_announce(bigint, double precision) IS
'for nodes: says that the holder of a number is alive, for so long';
REVOKE ALL ON FUNCTION snowflake_registry_announce(bigint, double precision) FROM PUBLIC;

CREATE VIEW snowflake_leases AS
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
FROM snowflake_registry r;

COMMENT ON VIEW snowflake_leases IS
'who has which worker id, where this database is the registry';
COMMENT ON COLUMN snowflake_leases.number IS 'the worker id, or datacenter and worker id as one number';
COMMENT ON COLUMN snowflake_leases.state IS 'held; claimed, while others may object; silent, if the holder has not been heard of; released';
COMMENT ON COLUMN snowflake_leases.valid_from IS 'the holder makes no ids of an earlier time';
COMMENT ON COLUMN snowflake_leases.valid_until IS 'nor of this time or later; another node can take the number from then on';
COMMENT ON COLUMN snowflake_leases.node IS 'the holder''s name, see snowflake_status';
COMMENT ON COLUMN snowflake_leases.host IS 'the holder''s host';
COMMENT ON COLUMN snowflake_leases.updated_at IS 'when the lease was renewed last, by the holder''s clock';
COMMENT ON COLUMN snowflake_leases.layout IS 'the layout of the holder''s ids';
COMMENT ON COLUMN snowflake_leases.epoch IS 'the epoch of the holder''s ids';
REVOKE ALL ON snowflake_leases FROM PUBLIC;
GRANT SELECT ON snowflake_leases TO pg_monitor;
