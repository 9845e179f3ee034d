\echo Use "CREATE EXTENSION snowflake_id_migrate" to load this file. \quit

-- Moving live tables to snowflake_nextval(), and back. For the time of a migration: it is dropped
-- afterwards.
--
-- The schema must not exist: in one that somebody made before, he could have planted what is run
-- with the rights of others. What the way back needs is kept in it.
CREATE SCHEMA snowflake_id_migrate;

COMMENT ON SCHEMA snowflake_id_migrate IS
'what snowflake_id_migrate keeps of conversions';

CREATE TABLE snowflake_id_migrate.conversions (
    relation pg_catalog.regclass NOT NULL,
    column_name pg_catalog.text NOT NULL,
    before pg_catalog.jsonb NOT NULL,
    converted_at pg_catalog.timestamptz NOT NULL,
    PRIMARY KEY (relation, column_name)
);

COMMENT ON TABLE snowflake_id_migrate.conversions IS
'what has been converted, and what the way back needs';
COMMENT ON COLUMN snowflake_id_migrate.conversions.relation IS 'the table';
COMMENT ON COLUMN snowflake_id_migrate.conversions.column_name IS 'its column, as it is written in a statement';
COMMENT ON COLUMN snowflake_id_migrate.conversions.before IS 'what defaults and sequences were before';
COMMENT ON COLUMN snowflake_id_migrate.conversions.converted_at IS 'when';

-- But for tables that have been dropped: where a dump is restored, another one may have the number.
SELECT pg_catalog.pg_extension_config_dump(
    'snowflake_id_migrate.conversions'::pg_catalog.regclass,
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS r WHERE r.oid OPERATOR(pg_catalog.=) relation::pg_catalog.oid)'::pg_catalog.text
);

-- What is in the table is run as the owners of tables. So nobody else writes it: rights cannot be taken
-- from the members of pg_write_all_data. Nor does logical replication, where all tables are published: what
-- was converted on another server, was not converted here.
CREATE FUNCTION snowflake_id_migrate.guard() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_guard_wrapper';

COMMENT ON FUNCTION snowflake_id_migrate.guard() IS
'for the table conversions: keeps everybody but its owner from changing it, and logical replication';

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON snowflake_id_migrate.conversions
FOR EACH ROW EXECUTE FUNCTION snowflake_id_migrate.guard();
ALTER TABLE snowflake_id_migrate.conversions ENABLE ALWAYS TRIGGER guard;

CREATE FUNCTION snowflake_convert_plan(
    relation regclass,
    column_name name DEFAULT NULL
)
RETURNS TABLE (
    step integer,
    severity text,
    finding text,
    object text,
    detail text,
    hint text,
    statement text,
    lock text,
    locked regclass,
    work text
) STABLE ROWS 20 PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_convert_plan_wrapper';

COMMENT ON FUNCTION snowflake_convert_plan(regclass, name) IS
'what snowflake_convert() would find and run; it writes nothing';

CREATE FUNCTION snowflake_convert(
    relation regclass,
    column_name name DEFAULT NULL,
    lock_timeout interval DEFAULT '100 ms',
    attempts integer DEFAULT 30,
    accept text[] DEFAULT '{}'
)
RETURNS TABLE (
    step integer,
    statement text,
    took interval
) VOLATILE ROWS 20 PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_convert_wrapper';

COMMENT ON FUNCTION snowflake_convert(regclass, name, interval, integer, text[]) IS
'has a table of bigint keys generate ids from now on: runs what snowflake_convert_plan() shows';

CREATE FUNCTION snowflake_revert(
    relation regclass,
    column_name name DEFAULT NULL,
    lock_timeout interval DEFAULT '100 ms',
    attempts integer DEFAULT 30
)
RETURNS TABLE (
    step integer,
    statement text,
    took interval
) VOLATILE ROWS 20 PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_revert_wrapper';

COMMENT ON FUNCTION snowflake_revert(regclass, name, interval, integer) IS
'takes a conversion back: defaults, identity and sequences are as they were';

CREATE FUNCTION snowflake_convert_finish(
    relation regclass,
    column_name name DEFAULT NULL,
    lock_timeout interval DEFAULT '100 ms',
    attempts integer DEFAULT 30
)
RETURNS TABLE (
    step integer,
    statement text,
    took interval
) VOLATILE ROWS 20 PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_convert_finish_wrapper';

COMMENT ON FUNCTION snowflake_convert_finish(regclass, name, interval, integer) IS
'drops the sealed sequences of a conversion: there is no way back from here on';

-- Where the next batch begins, which is NULL behind the last one, and how many rows have been filled.
CREATE FUNCTION snowflake_id_migrate.backfill_batch(
    relation regclass,
    column_name name,
    value text,
    condition text,
    batch integer,
    after text
)
RETURNS TABLE (
    next text,
    filled bigint
) VOLATILE ROWS 1 PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
LANGUAGE c AS 'MODULE_PATHNAME', 'backfill_batch_wrapper';

COMMENT ON FUNCTION snowflake_id_migrate.backfill_batch(regclass, name, text, text, integer, text) IS
'one batch of snowflake_backfill()';

-- What commits can have no SET clause: so its body has the schema of all that it names. It does nothing
-- that it could be used for; what it calls asks for rights.
CREATE PROCEDURE snowflake_backfill(
    relation regclass,
    column_name name,
    value text DEFAULT NULL,
    condition text DEFAULT NULL,
    batch integer DEFAULT 1000,
    pause interval DEFAULT '0',
    INOUT filled bigint DEFAULT 0
)
LANGUAGE plpgsql AS $$
DECLARE
    position pg_catalog.text;
    rows bigint;
BEGIN
    filled := 0;
    LOOP
        SELECT b.next, b.filled INTO STRICT position, rows
        FROM snowflake_id_migrate.backfill_batch(relation, column_name, value, condition, batch, position) AS b;
        COMMIT;
        filled := filled OPERATOR(pg_catalog.+) rows;
        EXIT WHEN position IS NULL;
        IF rows OPERATOR(pg_catalog.>) 0::bigint THEN
            PERFORM pg_catalog.pg_sleep_for(pause);
        END IF;
    END LOOP;
END
$$;

COMMENT ON PROCEDURE snowflake_backfill(regclass, name, text, text, integer, interval, bigint) IS
'fills a column of a table in batches, along its primary key, each in a transaction of its own';

-- The stage is what the catalogs say. Everybody sees his own tables', whatever functions he asks with.
CREATE VIEW snowflake_conversions WITH (security_barrier) AS
SELECT
    c.relation,
    c.column_name,
    CASE WHEN g.is_default THEN 'switched'::pg_catalog.text ELSE 'changed'::pg_catalog.text END AS stage,
    g.is_default AS revertible,
    c.converted_at
FROM snowflake_id_migrate.conversions AS c
JOIN pg_catalog.pg_class AS r ON r.oid OPERATOR(pg_catalog.=) c.relation::pg_catalog.oid
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS a
        JOIN pg_catalog.pg_attrdef AS f
            ON f.adrelid OPERATOR(pg_catalog.=) a.attrelid AND f.adnum OPERATOR(pg_catalog.=) a.attnum
        JOIN pg_catalog.pg_depend AS d
            ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid
            AND d.objid OPERATOR(pg_catalog.=) f.oid
            AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
        JOIN pg_catalog.pg_depend AS m
            ON m.classid OPERATOR(pg_catalog.=) d.refclassid AND m.objid OPERATOR(pg_catalog.=) d.refobjid
            AND m.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"
            AND m.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid
        JOIN pg_catalog.pg_extension AS e
            ON e.oid OPERATOR(pg_catalog.=) m.refobjid
            AND e.extname OPERATOR(pg_catalog.=) 'snowflake_id'::pg_catalog.name
        WHERE a.attrelid OPERATOR(pg_catalog.=) r.oid
            -- The first where quote_all_identifiers is on.
            AND c.column_name OPERATOR(pg_catalog.=) ANY (
                ARRAY[a.attname::pg_catalog.text, pg_catalog.quote_ident(a.attname::pg_catalog.text)])
    ) AS is_default
) AS g
WHERE pg_catalog.pg_has_role(r.relowner, 'USAGE'::pg_catalog.text);

COMMENT ON VIEW snowflake_conversions IS
'tables that have been converted, and can be taken back';
COMMENT ON COLUMN snowflake_conversions.relation IS 'the table';
COMMENT ON COLUMN snowflake_conversions.column_name IS 'its column, as it is written in a statement';
COMMENT ON COLUMN snowflake_conversions.stage IS 'switched; or changed, where the default is not the generator any more';
COMMENT ON COLUMN snowflake_conversions.revertible IS 'whether snowflake_revert() takes it back';
COMMENT ON COLUMN snowflake_conversions.converted_at IS 'when it was converted';

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
        WHERE e.extname OPERATOR(pg_catalog.=) 'snowflake_id_migrate'::pg_catalog.name
            AND a.grantee OPERATOR(pg_catalog.<>) o.owner
        GROUP BY o.kind, o.name, a.grantee
    LOOP
        EXECUTE pg_catalog.format(
            'REVOKE ALL ON %s %s FROM %s'::pg_catalog.text, item.kind, item.name, item.grantee
        );
    END LOOP;
END
$$;

-- Everybody: the functions act as a table's owner, for whoever may act as he does. Nobody but them
-- writes to the table.
GRANT EXECUTE ON FUNCTION
    snowflake_convert_plan(regclass, name),
    snowflake_convert(regclass, name, interval, integer, text[]),
    snowflake_revert(regclass, name, interval, integer),
    snowflake_convert_finish(regclass, name, interval, integer),
    snowflake_id_migrate.backfill_batch(regclass, name, text, text, integer, text)
TO PUBLIC;
GRANT EXECUTE ON PROCEDURE snowflake_backfill(regclass, name, text, text, integer, interval, bigint) TO PUBLIC;
GRANT SELECT ON snowflake_conversions TO PUBLIC;
-- Or his pg_dump would end with an error.
GRANT SELECT ON snowflake_id_migrate.conversions TO pg_database_owner;
-- What is in it has rights of its own.
GRANT USAGE ON SCHEMA snowflake_id_migrate TO PUBLIC;
