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
