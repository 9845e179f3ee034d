\echo Use "ALTER EXTENSION @extension@ UPDATE TO '@to@'" to load this file. \quit

-- A preloaded library stays in memory until the server is restarted: the one of before lacks what
-- this script declares. Where none has been loaded yet, the installed one will be.
DO $$
DECLARE
    library pg_catalog.text := pg_catalog.current_setting('snowflake_id.version'::pg_catalog.text, true);
BEGIN
    IF pg_catalog.string_to_array(library, '.'::pg_catalog.text)::pg_catalog.int4[]
        OPERATOR(pg_catalog.<) pg_catalog.string_to_array('@to@'::pg_catalog.text, '.'::pg_catalog.text)::pg_catalog.int4[]
    THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = pg_catalog.format('the server still runs version %s of the library of snowflake_id'::pg_catalog.text, library),
            DETAIL = 'Version @to@ is installed, and is loaded by the next start.',
            HINT = 'Restart the server, then run: ALTER EXTENSION @extension@ UPDATE;';
    END IF;
END
$$;
