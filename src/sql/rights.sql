
-- Everybody generates and reads ids, and sees whether they flow. PUBLIC has the rights, as a column
-- default is evaluated with those of whoever inserts.
GRANT EXECUTE ON FUNCTION
    snowflake_nextval(),
    snowflake_nextval_after(bigint),
    snowflake_batch(integer),
    snowflake_batch_array(integer),
    snowflake_lastval(),
    snowflake_decode(bigint),
    snowflake_decode(bigint, text, timestamptz),
    snowflake_timestamp(bigint),
    snowflake_timestamp(bigint, text, timestamptz),
    snowflake_worker_id(bigint),
    snowflake_encode(timestamptz, integer, integer, integer),
    snowflake_min(timestamptz),
    snowflake_max(timestamptz),
    snowflake_lower_bound(timestamptz),
    snowflake_between(bigint, timestamptz, timestamptz),
    snowflake_base62(bigint),
    snowflake_from_base62(text),
    snowflake_base32(bigint),
    snowflake_from_base32(text),
    snowflake_layout(text, timestamptz),
    snowflake_presets(),
    snowflake_node()
TO PUBLIC;
GRANT SELECT ON snowflake_layouts, snowflake_status TO PUBLIC;

-- Whoever watches the node sees what is counted.
GRANT EXECUTE ON FUNCTION snowflake_counters(), snowflake_session_counters() TO pg_monitor;
GRANT SELECT ON pg_stat_snowflake, pg_stat_snowflake_backends TO pg_monitor;

-- The owner of the database audits what he may read. On the others he has a right because GRANT and
-- REVOKE ... ON ALL FUNCTIONS, ON ALL TABLES IN SCHEMA would be errors for him without: the functions
-- themselves refuse whoever has no other one (src/rights.rs).
GRANT EXECUTE ON FUNCTION
    snowflake_audit(regclass, name, name, text, timestamptz, double precision, interval),
    snowflake_counters(),
    snowflake_session_counters(),
    snowflake_accept_clock(),
    snowflake_drain(),
    snowflake_resume(),
    snowflake_release_worker_id(),
    snowflake_set_floor(bigint),
    pg_stat_snowflake_reset()
TO pg_database_owner;
GRANT SELECT ON pg_stat_snowflake, pg_stat_snowflake_backends TO pg_database_owner;
