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
        WHERE e.extname OPERATOR(pg_catalog.=) '@extension@'::pg_catalog.name
            AND a.grantee OPERATOR(pg_catalog.<>) o.owner
        GROUP BY o.kind, o.name, a.grantee
    LOOP
        EXECUTE pg_catalog.format(
            'REVOKE ALL ON %s %s FROM %s'::pg_catalog.text, item.kind, item.name, item.grantee
        );
    END LOOP;
END
$$;
