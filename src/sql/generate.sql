-- Generating ids.
--
-- They are VOLATILE, work in a read-only transaction, as nothing is written, and are
-- not transactional: an id is never generated twice, whether its transaction commits or
-- not. PUBLIC may call them: a column default runs with the rights of whoever inserts.

CREATE FUNCTION snowflake_nextval() RETURNS bigint
VOLATILE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_nextval_wrapper';

COMMENT ON FUNCTION snowflake_nextval() IS
'generates the next id of this node; for use as a column default';

CREATE FUNCTION snowflake_nextval_after(id bigint) RETURNS bigint
VOLATILE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_nextval_after_wrapper';

COMMENT ON FUNCTION snowflake_nextval_after(bigint) IS
'generates the next id of this node that is greater than id, which another node may have generated';

CREATE FUNCTION snowflake_batch(n integer) RETURNS SETOF bigint
VOLATILE PARALLEL SAFE ROWS 1000
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_batch_wrapper';

COMMENT ON FUNCTION snowflake_batch(integer) IS
'generates n increasing ids, as rows; n from 0 to snowflake_id.max_batch';

CREATE FUNCTION snowflake_batch_array(n integer) RETURNS bigint[]
VOLATILE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_batch_array_wrapper';

COMMENT ON FUNCTION snowflake_batch_array(integer) IS
'generates n increasing ids, as an array; n from 0 to snowflake_id.max_batch';

-- The session's last id is the leader's: ids that parallel workers generated are not seen.
CREATE FUNCTION snowflake_lastval() RETURNS bigint
VOLATILE STRICT PARALLEL RESTRICTED
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_lastval_wrapper';

COMMENT ON FUNCTION snowflake_lastval() IS
'the last id that this session generated';
