-- What layouts there are, and which one is in force.

CREATE FUNCTION snowflake_layout(layout text DEFAULT NULL, epoch timestamptz DEFAULT NULL)
RETURNS TABLE (
    name text,              -- the preset's; null for another layout or epoch
    layout text,            -- spelled out
    epoch timestamptz,
    tick interval,
    timestamp_bits integer,
    datacenter_bits integer,
    worker_bits integer,
    sequence_bits integer,
    nodes bigint,           -- how many can be told apart
    ids_per_tick bigint,    -- of one node
    ids_per_second double precision,
    ends_at timestamptz,    -- null behind the last timestamp
    source text             -- where the preset's system describes it
) STABLE ROWS 1 PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_layout_wrapper';

COMMENT ON FUNCTION snowflake_layout(text, timestamptz) IS
'the layout in force, or the one named, with its own epoch or the one given: its fields, what a node can make with it, and when its time field is used up';

CREATE FUNCTION snowflake_presets() RETURNS text[]
IMMUTABLE PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_presets_wrapper';

COMMENT ON FUNCTION snowflake_presets() IS
'the names of the layouts that have one, the default first';

CREATE VIEW snowflake_layouts AS
SELECT layout.*
FROM pg_catalog.unnest(snowflake_presets()) AS preset,
    -- All arguments are given: with fewer, another function of this name could be meant.
    snowflake_layout(preset, NULL::pg_catalog.timestamptz) AS layout;

COMMENT ON VIEW snowflake_layouts IS
'the layouts that have a name, the default first';
