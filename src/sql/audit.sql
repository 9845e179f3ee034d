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
