-- Reading ids, and packing them from their fields.
--
-- With the layout in force the functions are STABLE: a restart can change it. With the
-- layout named they are IMMUTABLE, and serve indexes and generated columns.

CREATE FUNCTION snowflake_decode(
    id bigint,
    OUT ts timestamptz, OUT datacenter_id integer, OUT worker_id integer, OUT sequence integer
) STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_decode_wrapper';

COMMENT ON FUNCTION snowflake_decode(bigint) IS
'the fields of an id of the layout in force; a field that the layout does not have is null';

CREATE FUNCTION snowflake_decode(
    id bigint, layout text, epoch timestamptz DEFAULT NULL,
    OUT ts timestamptz, OUT datacenter_id integer, OUT worker_id integer, OUT sequence integer
) IMMUTABLE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_decode_as_wrapper';

COMMENT ON FUNCTION snowflake_decode(bigint, text, timestamptz) IS
'the fields of an id of the named layout: a preset or a spelled-out one, with its own epoch or the one given';

CREATE FUNCTION snowflake_timestamp(id bigint) RETURNS timestamptz
STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_timestamp_wrapper';

COMMENT ON FUNCTION snowflake_timestamp(bigint) IS
'the time at which an id of the layout in force was generated, to the tick';

CREATE FUNCTION snowflake_timestamp(id bigint, layout text, epoch timestamptz DEFAULT NULL)
RETURNS timestamptz
IMMUTABLE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_timestamp_as_wrapper';

COMMENT ON FUNCTION snowflake_timestamp(bigint, text, timestamptz) IS
'the time at which an id of the named layout was generated, to the tick; for generated columns and indexes';

CREATE FUNCTION snowflake_worker_id(id bigint) RETURNS integer
STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_worker_id_wrapper';

COMMENT ON FUNCTION snowflake_worker_id(bigint) IS
'the worker id of the node that generated an id of the layout in force';

CREATE FUNCTION snowflake_encode(
    ts timestamptz, worker_id integer, sequence integer, datacenter_id integer DEFAULT NULL
) RETURNS bigint
STABLE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_encode_wrapper';

COMMENT ON FUNCTION snowflake_encode(timestamptz, integer, integer, integer) IS
'the id of the layout in force with these fields, for backfill; it is not made unique, use worker ids that no node has';
