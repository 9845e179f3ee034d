-- What a node or a registry keeps: tables, in a schema that nobody else has made. It stands in the
-- keeper's database (snowflake_id.database), where the keeper creates it by itself, and in a
-- database that is a registry.
--
-- The schema must not exist: in one that somebody made before, he could have planted what is run
-- with the rights of others. From here on, no name leads anywhere but to pg_catalog.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE SCHEMA snowflake_id_node;

COMMENT ON SCHEMA snowflake_id_node IS
'what a node of snowflake_id keeps, and a registry of worker ids';

-- They act on what logical replication brings, and on nothing else.
CREATE FUNCTION snowflake_id_node.skip_known_node() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_skip_known_node_wrapper';

COMMENT ON FUNCTION snowflake_id_node.skip_known_node() IS
'for the table high_water_marks: keeps logical replication from adding a node''s row twice';

CREATE FUNCTION snowflake_id_node.skip_replicated() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_skip_replicated_wrapper';

COMMENT ON FUNCTION snowflake_id_node.skip_replicated() IS
'for the other tables: keeps logical replication from changing them';

CREATE FUNCTION snowflake_id_node.keep_rows() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_keep_rows_wrapper';

COMMENT ON FUNCTION snowflake_id_node.keep_rows() IS
'for the tables: keeps a TRUNCATE that logical replication brings from emptying them';
