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
-- Names are then complete whoever calls, and rows that the caller may not see are an error.
SET search_path = pg_catalog, pg_temp
SET row_security = off
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_audit_wrapper';

COMMENT ON FUNCTION snowflake_audit(regclass, name, name, text, timestamptz, double precision, interval) IS
'looks for what is wrong with the ids of a column: duplicates, ids ahead of the clock, ids of workers that should not be';
REVOKE ALL ON FUNCTION snowflake_audit(regclass, name, name, text, timestamptz, double precision, interval) FROM PUBLIC;

-- The query of an audit calls these for each row; elsewhere they do nothing.
CREATE FUNCTION snowflake_audit_reads(id bigint) RETURNS boolean
VOLATILE STRICT PARALLEL UNSAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_audit_reads_wrapper';

COMMENT ON FUNCTION snowflake_audit_reads(bigint) IS
'for snowflake_audit(): whether an id belongs to the sample';

CREATE FUNCTION snowflake_audit_judges(id bigint, created timestamptz) RETURNS boolean
VOLATILE PARALLEL UNSAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_audit_judges_wrapper';

COMMENT ON FUNCTION snowflake_audit_judges(bigint, timestamptz) IS
'for snowflake_audit(): judges the next id';

-- Neither carried by a dump nor replicated: it says what was found in this database. (Where all
-- tables are published, a table needs a replica identity.)
CREATE TABLE snowflake_audits (
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
CREATE UNIQUE INDEX ON snowflake_audits
    (relation, column_name, partial, finding, datacenter_id, worker_id) NULLS NOT DISTINCT;
ALTER TABLE snowflake_audits REPLICA IDENTITY FULL;
CREATE TRIGGER skip_replicated BEFORE INSERT OR UPDATE OR DELETE ON snowflake_audits
FOR EACH ROW EXECUTE FUNCTION snowflake_skip_replicated();
ALTER TABLE snowflake_audits ENABLE REPLICA TRIGGER skip_replicated;
REVOKE ALL ON snowflake_audits FROM PUBLIC;
GRANT SELECT ON snowflake_audits TO pg_monitor;

COMMENT ON TABLE snowflake_audits IS
'what snowflake_audit() has found last in each column, a row per finding';
COMMENT ON COLUMN snowflake_audits.relation IS 'the table';
COMMENT ON COLUMN snowflake_audits.column_name IS 'the column';
COMMENT ON COLUMN snowflake_audits.finding IS 'rows, duplicate, ahead_of_clock, before_epoch, not_of_layout, foreign_worker, unknown_worker, inversion or worker';
COMMENT ON COLUMN snowflake_audits.datacenter_id IS 'for finding worker: upper part of the number';
COMMENT ON COLUMN snowflake_audits.worker_id IS 'for finding worker: the number';
COMMENT ON COLUMN snowflake_audits.count IS 'how many rows';
COMMENT ON COLUMN snowflake_audits.examples IS 'up to ten of their ids; for finding worker the first and the last';
COMMENT ON COLUMN snowflake_audits.since IS 'only ids since then were looked at; null for all';
COMMENT ON COLUMN snowflake_audits.sample IS 'the share of ids that was looked at, 1 for all';
COMMENT ON COLUMN snowflake_audits.partial IS 'whether since or sample left out ids; it then stands beside the result of all';
COMMENT ON COLUMN snowflake_audits.audited_at IS 'when the audit began';
COMMENT ON COLUMN snowflake_audits.duration IS 'how long it took';
