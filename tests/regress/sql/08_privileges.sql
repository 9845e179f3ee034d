-- What an ordinary role may do, and what a hostile search_path can.
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE ROLE snowflake_user;
CREATE TABLE things (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), name text);
GRANT INSERT, SELECT ON things TO snowflake_user;
SET ROLE snowflake_user;

-- Generate and read ids.
INSERT INTO things (name) VALUES ('a'), ('b');
SELECT count(*) FROM things WHERE snowflake_between(id, now() - interval '1 hour', now() + interval '1 hour');
SELECT count(*) FROM snowflake_batch(10);
SELECT name FROM snowflake_layouts WHERE name = 'default';
SELECT state, reason, hint FROM snowflake_status;
-- Not the keeper's business.
SELECT snowflake_accept_clock();
TABLE snowflake_id_node.high_water_marks;
DELETE FROM snowflake_id_node.high_water_marks;
TABLE snowflake_id_node.samples;
-- Nor a registry's nodes'.
TABLE snowflake_id_node.registry;
TABLE snowflake_id_node.leases;
SELECT * FROM snowflake_id_node.registry_read();
SELECT snowflake_id_node.registry_write(1, NULL, '{}');
SELECT snowflake_id_node.registry_announce(1, 1);
CREATE TABLE snowflake_id_node.mine ();
-- What is counted, and what was found.
TABLE pg_stat_snowflake;
TABLE pg_stat_snowflake_backends;
SELECT * FROM snowflake_counters();
SELECT * FROM snowflake_session_counters();
SELECT pg_stat_snowflake_reset();
SELECT * FROM snowflake_audit('things', 'id');
TABLE snowflake_id_node.audits;
DELETE FROM snowflake_id_node.audits;
-- Change nothing that decides uniqueness.
SET snowflake_id.worker_id = 2;
SET snowflake_id.datacenter_id = 2;
SET snowflake_id.layout = 'twitter';
SET snowflake_id.epoch = '2026-01-01 00:00:00+00';
SET snowflake_id.max_wait = '1h';
SET snowflake_id.max_ahead = '1h';
SET snowflake_id.max_batch = 100000000;
SET snowflake_id.reservation = '1h';
SET snowflake_id.max_clock_jump = 0;
SET snowflake_id.promotion_guard = 0;
SET snowflake_id.on_copy = 'warn';
ALTER SYSTEM SET snowflake_id.worker_id = 2;
ALTER ROLE snowflake_user SET snowflake_id.max_batch = 100000000;
ALTER DATABASE contrib_regression SET snowflake_id.worker_id = 2;
-- The order within a tick is one's own.
SET snowflake_id.backend_block = 16;
RESET snowflake_id.backend_block;
RESET ROLE;
-- A monitoring role sees it, and changes nothing.
GRANT pg_monitor TO snowflake_user;
SET ROLE snowflake_user;
SELECT ids > 0 AS some FROM pg_stat_snowflake;
SELECT count(*) FROM pg_stat_snowflake_backends WHERE pid = pg_backend_pid();
SELECT count(*) FROM snowflake_id_node.audits;
SELECT count(*) FROM snowflake_id_node.high_water_marks;
SELECT count(*) FROM snowflake_id_node.samples;
SELECT count(*) FROM snowflake_id_node.leases;
TABLE snowflake_id_node.registry;
SELECT pg_stat_snowflake_reset();
SELECT * FROM snowflake_audit('things', 'id');
DELETE FROM snowflake_id_node.audits;
RESET ROLE;
REVOKE pg_monitor FROM snowflake_user;

-- Operators and functions of the same names, found first.
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.wrong(bigint, bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE OPERATOR hostile.>= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.wrong);
CREATE OPERATOR hostile.< (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.wrong);
CREATE FUNCTION hostile.snowflake_lower_bound(timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 0::bigint';
CREATE FUNCTION hostile.snowflake_presets() RETURNS text[] LANGUAGE sql IMMUTABLE AS $$SELECT '{hostile}'::text[]$$;
CREATE FUNCTION hostile.snowflake_nextval() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE FUNCTION hostile.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS $$SELECT 'hostile'$$;
SET search_path = hostile, pg_catalog;
INSERT INTO public.things (name) VALUES ('c');
SELECT name, id OPERATOR(pg_catalog.>) 1 AS real FROM public.things WHERE public.snowflake_between(id, now() - interval '1 hour', now() + interval '1 hour');
SELECT count(*) FROM public.snowflake_layouts;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT name FROM public.things WHERE public.snowflake_between(id, '2026-01-01', '2026-01-02');
SET search_path = '';
INSERT INTO public.things (name) VALUES ('d');
SELECT count(*) FROM public.things WHERE public.snowflake_between(id, now() - interval '1 hour', now() + interval '1 hour');
SELECT count(*) FROM public.snowflake_layouts;
SELECT state FROM public.snowflake_status;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA hostile CASCADE;
DROP TABLE things;
DROP ROLE snowflake_user;
