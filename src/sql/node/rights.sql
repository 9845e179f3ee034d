
-- What is in the schema has rights of its own. The nodes' role is granted the three functions of the
-- registry by whoever sets it up.
GRANT USAGE ON SCHEMA snowflake_id_node TO PUBLIC;
GRANT SELECT ON
    snowflake_id_node.high_water_marks,
    snowflake_id_node.samples,
    snowflake_id_node.audits,
    snowflake_id_node.leases
TO pg_monitor;
