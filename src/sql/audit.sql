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

