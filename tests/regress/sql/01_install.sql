-- What CREATE EXTENSION makes, and for whom.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS snowflake_id;
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
