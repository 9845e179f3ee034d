-- Ids as bounds of a time, for searches on a key's own index.

CREATE FUNCTION snowflake_min(ts timestamptz) RETURNS bigint
STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_min_wrapper';

COMMENT ON FUNCTION snowflake_min(timestamptz) IS
'the least id of the tick in which the time lies';

CREATE FUNCTION snowflake_max(ts timestamptz) RETURNS bigint
STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_max_wrapper';

COMMENT ON FUNCTION snowflake_max(timestamptz) IS
'the greatest id of the tick in which the time lies';

CREATE FUNCTION snowflake_lower_bound(ts timestamptz) RETURNS bigint
STABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_lower_bound_wrapper';

COMMENT ON FUNCTION snowflake_lower_bound(timestamptz) IS
'the least id whose time is at or after the one given; defined for every time, for bounds of searches and partitions';

-- The body is parsed here and kept as a tree: it does not depend on the caller's
-- search_path. It is inlined, so that the planner sees a range of the id.
CREATE FUNCTION snowflake_between(id bigint, "from" timestamptz, until timestamptz DEFAULT 'infinity')
RETURNS boolean
STABLE PARALLEL SAFE
LANGUAGE sql
RETURN id OPERATOR(pg_catalog.>=) snowflake_lower_bound("from")
    AND id OPERATOR(pg_catalog.<) snowflake_lower_bound(until);

COMMENT ON FUNCTION snowflake_between(bigint, timestamptz, timestamptz) IS
'whether an id was generated at or after the first time and, if there is one, before the second; an index on the id and partitions by it serve the search';
