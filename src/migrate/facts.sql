-- What the catalogs say of a table that is to move: one row, one jsonb, as snowflake_migration::Facts
-- has it. $1 is the table, $2 the column or NULL, $3 whether to look for what only a person needs to
-- read. search_path is pg_catalog; so names have their schemas.
WITH RECURSIVE tree AS (
    SELECT $1::oid AS oid
    UNION
    SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
),
generator AS (
    SELECT p.oid, p.oid::regproc::text || '()' AS name
    FROM pg_extension e
    JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
        AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
    -- Whoever owns the extension can add a function to it, but none in C.
    JOIN pg_proc p ON p.oid = d.objid AND p.proname = 'snowflake_nextval' AND p.pronargs = 0
    JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'c'
    WHERE e.extname = 'snowflake_id'
),
-- Types that have no room for an id.
narrow AS (
    SELECT n.type::oid AS type FROM unnest(ARRAY['int4', 'int2']::regtype[]) AS n(type)
    UNION
    SELECT t.oid FROM narrow n JOIN pg_type t ON t.typtype = 'd' AND t.typbasetype = n.type
),
-- Columns that have numbers by themselves, where none is named.
numbered AS (
    SELECT a.attname FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND (
        a.attidentity <> '' OR EXISTS (
            SELECT FROM pg_depend p JOIN pg_class s ON s.oid = p.refobjid AND s.relkind = 'S'
            WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass)
        OR EXISTS (
            SELECT FROM pg_depend p JOIN generator g ON g.oid = p.refobjid
            WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_proc'::regclass))
),
key AS (
    SELECT a.attname, a.attnum, a.atttypid, a.attgenerated
    FROM pg_attribute a
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = coalesce(
        $2,
        (SELECT k.attname FROM pg_index i
         JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = i.indkey[0]
         WHERE i.indrelid = $1 AND i.indisprimary AND i.indnkeyatts = 1),
        (SELECT min(n.attname::text)::name FROM numbered n HAVING count(*) = 1))
),
tables AS (
    SELECT c.oid, c.relkind, c.relname, c.oid::regclass::text AS name, c.relowner, c.relispartition,
        a.attnum, a.attname, a.attidentity, d.oid AS default_oid, pg_get_expr(d.adbin, d.adrelid) AS default_text,
        row_number() OVER (ORDER BY c.oid <> $1, c.oid) AS place
    FROM tree t
    JOIN pg_class c ON c.oid = t.oid
    JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped AND a.attname = (SELECT attname FROM key)
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum AND a.attgenerated = ''
),
-- Columns that have its values, by foreign keys to it and to one another.
holders AS (
    SELECT t.oid AS relid, t.attnum FROM tables t
    UNION
    SELECT f.conrelid, u.mine FROM holders h
    JOIN pg_constraint f ON f.contype = 'f' AND f.confrelid = h.relid
    CROSS JOIN LATERAL unnest(f.conkey, f.confkey) AS u(mine, theirs)
    WHERE u.theirs = h.attnum
),
owned AS (
    SELECT d.objid AS sequence, t.oid AS relid, d.deptype
    FROM tables t
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = t.oid AND d.refobjsubid = t.attnum AND d.deptype IN ('a', 'i')
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
),
sequences AS (
    SELECT o.sequence AS oid FROM owned o
    UNION
    -- Partition by partition, however few the planner expects.
    SELECT d.refobjid FROM tables t
    CROSS JOIN LATERAL (
        SELECT d.refobjid FROM pg_depend d
        WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = t.default_oid AND d.refclassid = 'pg_class'::regclass
        OFFSET 0) AS d
    JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
),
-- Which defaults take numbers from them.
users AS (
    SELECT s.oid AS sequence, ad.oid AS default_oid, c.oid AS relid, c.relkind, c.oid::regclass::text AS name,
        c.relowner, a.attname, pg_get_expr(ad.adbin, ad.adrelid) AS default_text
    FROM sequences s
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid
        AND d.classid = 'pg_attrdef'::regclass
    JOIN pg_attrdef ad ON ad.oid = d.objid
    JOIN pg_class c ON c.oid = ad.adrelid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ad.adnum
),
-- Views of the table with a default of their own.
views AS (
    SELECT DISTINCT ON (u.default_oid) u.* FROM users u
    WHERE u.relkind = 'v' AND EXISTS (
        SELECT FROM pg_rewrite r
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_class'::regclass
        WHERE r.ev_class = u.relid AND d.refobjid IN (SELECT oid FROM tree))
),
-- What a reference to the table is likely to be called.
likely AS (
    SELECT unnest(ARRAY[
        c.relname || '_' || k.attname, regexp_replace(c.relname, 's$', '') || '_' || k.attname,
        CASE WHEN k.attname <> 'id' THEN k.attname::text END
    ]) AS name
    FROM pg_class c, key k WHERE c.oid = $1 AND $3
)
SELECT jsonb_build_object(
    'relation', coalesce((SELECT jsonb_build_object(
        'name', c.oid::regclass::text, 'oid', c.oid::bigint, 'kind', c.relkind, 'persistence', c.relpersistence,
        'owner', pg_get_userbyid(c.relowner),
        'partition_of', CASE WHEN c.relispartition THEN
            (SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = c.oid) END,
        'of_type', CASE WHEN c.reloftype <> 0 THEN format_type(c.reloftype, NULL) END)
        FROM pg_class c WHERE c.oid = $1), '{}'),
    'column', (SELECT jsonb_build_object(
        'name', quote_ident(k.attname), 'type_name', format_type(k.atttypid, NULL), 'is_generated', k.attgenerated <> '')
        FROM key k),
    'tables', (SELECT coalesce(jsonb_agg(x.item ORDER BY x.place, x.name), '[]') FROM (
        SELECT t.place, t.name, jsonb_build_object(
            'name', t.name, 'oid', t.oid::bigint, 'kind', t.relkind, 'owner', pg_get_userbyid(t.relowner),
            'column', quote_ident(t.attname), 'identity', t.attidentity,
            'own_identity', EXISTS (SELECT FROM owned o WHERE o.relid = t.oid AND o.deptype = 'i'),
            'default', t.default_text,
            'is_converted', EXISTS (
                SELECT FROM pg_depend d WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = t.default_oid
                    AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = (SELECT g.oid FROM generator g))) AS item
        FROM tables t
        UNION ALL
        SELECT 1000000000, v.name, jsonb_build_object(
            'name', v.name, 'oid', v.relid::bigint, 'kind', v.relkind, 'owner', pg_get_userbyid(v.relowner),
            'column', quote_ident(v.attname), 'default', v.default_text)
        FROM views v) AS x),
    'sequences', (SELECT coalesce(jsonb_agg(jsonb_build_object(
        'name', s.oid::regclass::text, 'literal', quote_literal(s.oid::regclass::text), 'oid', s.oid::bigint,
        'owner', pg_get_userbyid(c.relowner),
        'is_identity', EXISTS (SELECT FROM owned o WHERE o.sequence = s.oid AND o.deptype = 'i'),
        'owned_by', (SELECT a.attrelid::regclass::text || '.' || quote_ident(a.attname)
            FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                AND d.objid = s.oid AND d.deptype IN ('a', 'i')),
        'type_name', format_type(q.seqtypid, NULL), 'start', q.seqstart, 'increment', q.seqincrement,
        'min', q.seqmin, 'max', q.seqmax, 'cache', q.seqcache, 'cycles', q.seqcycle,
        'comment', quote_literal(obj_description(s.oid, 'pg_class')),
        'grants', (SELECT coalesce(jsonb_agg(jsonb_build_array(
                a.privilege_type,
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
                || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)), '[]')
            FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner),
        'other_defaults', (SELECT coalesce(jsonb_agg(DISTINCT u.name || '.' || quote_ident(u.attname)), '[]')
            FROM users u WHERE u.sequence = s.oid
                AND u.default_oid NOT IN (SELECT t.default_oid FROM tables t WHERE t.default_oid IS NOT NULL)
                AND u.default_oid NOT IN (SELECT v.default_oid FROM views v)),
        'mentions', (SELECT coalesce(jsonb_agg(DISTINCT m.what), '[]') FROM (
            SELECT 'view ' || r.ev_class::regclass::text AS what
            FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
            WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid
            UNION ALL
            SELECT 'function ' || p.oid::regprocedure::text
            FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
            WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid
            UNION ALL
            SELECT 'function ' || p.oid::regprocedure::text
            FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
            WHERE $3 AND l.lanname NOT IN ('c', 'internal') AND p.pronamespace <> 'pg_catalog'::regnamespace
                AND (strpos(p.prosrc, c.relname) > 0 AND p.prosrc ~* '(next|curr|set)val'
                    OR p.prosrc ~* '\mlastval\M')
                AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid
                    AND e.deptype = 'e')) AS m)
        ) ORDER BY s.oid), '[]')
        FROM sequences s JOIN pg_class c ON c.oid = s.oid JOIN pg_sequence q ON q.seqrelid = s.oid),
    'has_key', (SELECT EXISTS (
        SELECT FROM pg_index i, key k
        WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid
            AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indkey[0] = k.attnum
            AND NOT EXISTS (
                SELECT FROM generate_series(1, i.indnkeyatts - 1) AS n
                WHERE i.indkey[n] <> ALL (coalesce(
                    (SELECT p.partattrs::int2[] FROM pg_partitioned_table p WHERE p.partrelid = $1), '{}'))))),
    'partitioned_by_key', (SELECT coalesce(jsonb_agg(t.name ORDER BY t.place), '[]')
        FROM tables t JOIN pg_partitioned_table p ON p.partrelid = t.oid
        WHERE p.partstrat <> 'h' AND t.attnum = ANY (p.partattrs::int2[])),
    'narrow_references', (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_array(
            f.conrelid::regclass::text || '.' || quote_ident(a.attname),
            f.confrelid::regclass::text || '.' || quote_ident(k.attname))), '[]')
        FROM holders h
        JOIN pg_constraint f ON f.contype = 'f' AND f.confrelid = h.relid AND f.conparentid = 0
        CROSS JOIN LATERAL unnest(f.conkey, f.confkey) AS u(mine, theirs)
        JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = u.mine
        JOIN pg_attribute k ON k.attrelid = f.confrelid AND k.attnum = u.theirs
        WHERE u.theirs = h.attnum AND a.atttypid IN (SELECT type FROM narrow)),
    'unindexed', (SELECT coalesce(jsonb_agg(t.name ORDER BY t.place), '[]') FROM tables t
        WHERE $3 AND t.oid <> $1 AND t.relkind = 'r' AND NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
            WHERE i.indrelid = t.oid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = t.attnum
                AND m.amname = 'btree')),
    -- Row triggers before an insert: bits 0, 1 and 2 of the type.
    'key_triggers', (SELECT coalesce(jsonb_agg(quote_ident(g.tgname) || ' of ' || t.name ORDER BY t.place, g.tgname), '[]')
        FROM tables t
        JOIN pg_trigger g ON g.tgrelid = t.oid AND g.tgtype & 7 = 7 AND NOT g.tgisinternal AND g.tgenabled <> 'D'
            AND g.tgparentid = 0
        JOIN pg_proc p ON p.oid = g.tgfoid
        JOIN pg_language l ON l.oid = p.prolang
        WHERE $3 AND l.lanname NOT IN ('c', 'internal') AND p.prosrc ~* '\mnextval\M'),
    'computed', (SELECT coalesce(jsonb_agg(DISTINCT x.what), '[]') FROM (
        SELECT 'constraint ' || quote_ident(c.conname) || ' of ' || t.name AS what
        FROM tables t JOIN pg_constraint c ON c.conrelid = t.oid AND c.contype = 'c' AND t.attnum = ANY (c.conkey)
        WHERE $3 AND c.conislocal
        UNION ALL
        SELECT 'column ' || t.name || '.' || quote_ident(a.attname)
        FROM tables t
        JOIN pg_attribute a ON a.attrelid = t.oid AND a.attgenerated <> '' AND a.attislocal
        JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
        JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.refobjsubid = t.attnum
        WHERE $3
        UNION ALL
        SELECT 'index ' || i.indexrelid::regclass::text
        FROM tables t
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.refobjsubid = t.attnum
            AND d.classid = 'pg_class'::regclass
        JOIN pg_index i ON i.indexrelid = d.objid
        WHERE $3 AND t.attnum <> ALL (i.indkey::int2[]) AND NOT t.relispartition) AS x),
    'likely_references', (SELECT coalesce(jsonb_agg(DISTINCT a.attrelid::regclass::text || '.' || quote_ident(a.attname)), '[]')
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition
        WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid IN (SELECT type FROM narrow)
            AND a.attname IN (SELECT l.name FROM likely l) AND c.relnamespace <> 'pg_catalog'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_constraint f
                WHERE f.contype = 'f' AND f.conrelid = a.attrelid AND a.attnum = ANY (f.conkey))),
    'narrow_arguments', (SELECT coalesce(jsonb_agg(DISTINCT p.oid::regprocedure::text), '[]')
        FROM pg_proc p CROSS JOIN LATERAL unnest(p.proargnames) WITH ORDINALITY AS n(name, place)
        WHERE $3 AND p.pronamespace <> 'pg_catalog'::regnamespace
            AND (coalesce(p.proallargtypes, p.proargtypes::oid[]))[
                n.place::int + CASE WHEN p.proallargtypes IS NULL THEN -1 ELSE 0 END]
                IN (SELECT type FROM narrow)
            AND ltrim(n.name, '_p') IN (SELECT ltrim(l.name, '_p') FROM likely l)
            AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid
                AND e.deptype = 'e')),
    'narrow_views', (SELECT coalesce(jsonb_agg(DISTINCT v.oid::regclass::text), '[]')
        FROM tables t
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.refobjsubid = t.attnum
            AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite r ON r.oid = d.objid
        JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
        CROSS JOIN (VALUES ('::integer'), ('::smallint')) AS n(narrow)
        WHERE $3 AND strpos(translate(pg_get_viewdef(v.oid, true), '.(', '  '), ' ' || quote_ident(t.attname) || n.narrow) > 0),
    'publications', (SELECT coalesce(jsonb_agg(DISTINCT quote_ident(p.pubname)), '[]')
        FROM pg_publication p
        WHERE $3 AND (p.puballtables
            OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid IN (SELECT oid FROM tree))
            OR EXISTS (SELECT FROM pg_publication_namespace n JOIN pg_class c ON c.relnamespace = n.pnnspid
                WHERE n.pnpubid = p.oid AND c.oid = $1))),
    'standbys', (SELECT count(*) FROM pg_stat_get_wal_senders() AS w WHERE $3 AND w.state IN ('streaming', 'catchup')),
    'default_grantees', (SELECT coalesce(jsonb_agg(DISTINCT
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END), '[]')
        FROM pg_class c
        JOIN pg_default_acl d ON d.defaclrole = c.relowner AND d.defaclobjtype = 'S'
            AND d.defaclnamespace IN (0, c.relnamespace)
        CROSS JOIN LATERAL aclexplode(d.defaclacl) a
        WHERE c.oid = $1 AND a.grantee <> c.relowner),
    'generator', (SELECT g.name FROM generator g),
    'is_converted', coalesce((SELECT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = t.default_oid
            AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = (SELECT g.oid FROM generator g))
        FROM tables t WHERE t.oid = $1), false)
)::text
