-- What CREATE EXTENSION makes, and for whom.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS snowflake_id, snowflake_id_node;
CREATE SCHEMA ids;
CREATE EXTENSION snowflake_id SCHEMA ids;

-- Functions with what planner and users must know of them.
SELECT p.oid::regprocedure AS function,
       p.provolatile AS volatile, p.proparallel AS parallel, p.proisstrict AS strict
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
WHERE e.extname = 'snowflake_id'
ORDER BY p.oid::regprocedure::text COLLATE "C";

-- Everything has a comment.
SELECT d.classid::regclass, d.objid
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'snowflake_id'
WHERE d.deptype = 'e' AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass)
  AND obj_description(d.objid, d.classid::regclass::name) IS NULL;

-- It can move to another schema, with all that depends on it.
CREATE TABLE orders (id bigint PRIMARY KEY DEFAULT ids.snowflake_nextval());
ALTER EXTENSION snowflake_id SET SCHEMA public;
INSERT INTO orders DEFAULT VALUES;
SELECT count(*), bool_and(snowflake_between(id, now() - interval '1 minute', now() + interval '1 minute')) FROM orders;
SELECT count(*) FROM snowflake_layouts;
DROP TABLE orders;
DROP SCHEMA ids;

-- What a node and a registry keep is an extension of its own: not in a schema that somebody has
-- made, nor in any but its own.
-- (From PostgreSQL 18 on, it also says in which line of the script.)
\set SHOW_CONTEXT never
CREATE SCHEMA snowflake_id_node;
CREATE EXTENSION snowflake_id_node;
DROP SCHEMA snowflake_id_node;
CREATE EXTENSION snowflake_id_node SCHEMA public;
CREATE EXTENSION snowflake_id_node;
ALTER EXTENSION snowflake_id_node SET SCHEMA public;
SELECT pg_describe_object(d.classid, d.objid, 0) AS object
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'snowflake_id_node'
WHERE d.deptype = 'e' AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass)
ORDER BY pg_describe_object(d.classid, d.objid, 0) COLLATE "C";
SELECT p.oid::regprocedure AS function, p.provolatile AS volatile, p.proparallel AS parallel,
       p.proisstrict AS strict, p.prosecdef AS with_its_owners_rights, p.proconfig AS settings
FROM pg_proc p WHERE p.pronamespace = 'snowflake_id_node'::regnamespace
ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT d.classid::regclass, d.objid
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'snowflake_id_node'
WHERE d.deptype = 'e' AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass)
  AND obj_description(d.objid, d.classid::regclass::name) IS NULL;
