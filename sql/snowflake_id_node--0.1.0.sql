\echo Use "CREATE EXTENSION snowflake_id_node" to load this file. \quit

-- What a node or a registry keeps: tables, in a schema that nobody else has made. It stands in the
-- keeper's database (snowflake_id.database), where the keeper creates it by itself, and in a
-- database that is a registry.
--
-- The schema must not exist: in one that somebody made before, he could have planted what is run
-- with the rights of others. From here on, no name leads anywhere but to pg_catalog.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE SCHEMA snowflake_id_node;

COMMENT ON SCHEMA snowflake_id_node IS
'what a node of snowflake_id keeps, and a registry of worker ids';

-- They act on what logical replication brings, and on nothing else.
CREATE FUNCTION snowflake_id_node.skip_known_node() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_skip_known_node_wrapper';

COMMENT ON FUNCTION snowflake_id_node.skip_known_node() IS
'for the table high_water_marks: keeps logical replication from adding a node''s row twice';

CREATE FUNCTION snowflake_id_node.skip_replicated() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_skip_replicated_wrapper';

COMMENT ON FUNCTION snowflake_id_node.skip_replicated() IS
'for the other tables: keeps logical replication from changing them';

CREATE FUNCTION snowflake_id_node.keep_rows() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_keep_rows_wrapper';

COMMENT ON FUNCTION snowflake_id_node.keep_rows() IS
'for the tables: keeps a TRUNCATE that logical replication brings from emptying them';

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

-- The audit trail, in the keeper's database. By id, because the time of an id says how old it is.
CREATE TABLE snowflake_id_node.samples (
    id bigint NOT NULL,
    sampled_at timestamptz NOT NULL,
    pid integer NOT NULL,
    datname name,
    usename name
);
CREATE INDEX ON snowflake_id_node.samples (id);
-- Where all tables are published: to be deleted from, a table needs a replica identity; and no
-- node has another one's samples.
ALTER TABLE snowflake_id_node.samples REPLICA IDENTITY FULL;
CREATE TRIGGER skip_replicated BEFORE INSERT OR UPDATE OR DELETE ON snowflake_id_node.samples
FOR EACH ROW EXECUTE FUNCTION snowflake_id_node.skip_replicated();
ALTER TABLE snowflake_id_node.samples ENABLE REPLICA TRIGGER skip_replicated;

COMMENT ON TABLE snowflake_id_node.samples IS
'ids of this node, of which snowflake_id.sample_rate says how many; written by the keeper alone, in its database';
COMMENT ON COLUMN snowflake_id_node.samples.id IS 'the id';
COMMENT ON COLUMN snowflake_id_node.samples.sampled_at IS 'when it was generated, by the node''s clock';
COMMENT ON COLUMN snowflake_id_node.samples.pid IS 'the process of the session that had it made';
COMMENT ON COLUMN snowflake_id_node.samples.datname IS 'the session''s database';
COMMENT ON COLUMN snowflake_id_node.samples.usename IS 'the session''s role';

-- Neither carried by a dump nor replicated: it says what was found in this database. (Where all
-- tables are published, a table needs a replica identity.)
CREATE TABLE snowflake_id_node.audits (
    relation regclass NOT NULL,
    column_name name NOT NULL,
    finding text NOT NULL,
    datacenter_id integer,
    worker_id integer,
    count bigint NOT NULL,
    examples bigint[],
    since timestamptz,
    sample double precision NOT NULL,
    partial boolean NOT NULL,
    audited_at timestamptz NOT NULL,
    duration interval NOT NULL
);
CREATE UNIQUE INDEX ON snowflake_id_node.audits
    (relation, column_name, partial, finding, datacenter_id, worker_id) NULLS NOT DISTINCT;
ALTER TABLE snowflake_id_node.audits REPLICA IDENTITY FULL;
CREATE TRIGGER skip_replicated BEFORE INSERT OR UPDATE OR DELETE ON snowflake_id_node.audits
FOR EACH ROW EXECUTE FUNCTION snowflake_id_node.skip_replicated();
ALTER TABLE snowflake_id_node.audits ENABLE REPLICA TRIGGER skip_replicated;
CREATE TRIGGER keep_rows BEFORE TRUNCATE ON snowflake_id_node.audits
FOR EACH STATEMENT EXECUTE FUNCTION snowflake_id_node.keep_rows();
CREATE TRIGGER keep_rows_again AFTER TRUNCATE ON snowflake_id_node.audits
FOR EACH STATEMENT EXECUTE FUNCTION snowflake_id_node.keep_rows();
ALTER TABLE snowflake_id_node.audits ENABLE REPLICA TRIGGER keep_rows;
ALTER TABLE snowflake_id_node.audits ENABLE REPLICA TRIGGER keep_rows_again;

COMMENT ON TABLE snowflake_id_node.audits IS
'what snowflake_audit() has found last in each column, a row per finding';
COMMENT ON COLUMN snowflake_id_node.audits.relation IS 'the table';
COMMENT ON COLUMN snowflake_id_node.audits.column_name IS 'the column';
COMMENT ON COLUMN snowflake_id_node.audits.finding IS 'rows, duplicate, ahead_of_clock, before_epoch, not_of_layout, foreign_worker, unknown_worker, inversion or worker';
COMMENT ON COLUMN snowflake_id_node.audits.datacenter_id IS 'for finding worker: upper part of the worker id';
COMMENT ON COLUMN snowflake_id_node.audits.worker_id IS 'for finding worker: the worker id';
COMMENT ON COLUMN snowflake_id_node.audits.count IS 'how many rows';
COMMENT ON COLUMN snowflake_id_node.audits.examples IS 'up to ten of their ids; for finding worker the first and the last';
COMMENT ON COLUMN snowflake_id_node.audits.since IS 'only ids since then were looked at; null for all';
COMMENT ON COLUMN snowflake_id_node.audits.sample IS 'the share of ids that was looked at, 1 for all';
COMMENT ON COLUMN snowflake_id_node.audits.partial IS 'whether since or sample left out ids; it then stands beside the result of all';
COMMENT ON COLUMN snowflake_id_node.audits.audited_at IS 'when the audit began';
COMMENT ON COLUMN snowflake_id_node.audits.duration IS 'how long it took';

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
        WHERE e.extname OPERATOR(pg_catalog.=) 'snowflake_id_node'::pg_catalog.name
            AND a.grantee OPERATOR(pg_catalog.<>) o.owner
        GROUP BY o.kind, o.name, a.grantee
    LOOP
        EXECUTE pg_catalog.format(
            'REVOKE ALL ON %s %s FROM %s'::pg_catalog.text, item.kind, item.name, item.grantee
        );
    END LOOP;
END
$$;


-- What is in the schema has rights of its own. The nodes' role is granted the three functions of the
-- registry by whoever sets it up.
GRANT USAGE ON SCHEMA snowflake_id_node TO PUBLIC;
GRANT SELECT ON
    snowflake_id_node.high_water_marks,
    snowflake_id_node.samples,
    snowflake_id_node.audits,
    snowflake_id_node.leases
TO pg_monitor;
