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
COMMENT ON COLUMN snowflake_layouts.name IS 'the preset''s name';
COMMENT ON COLUMN snowflake_layouts.layout IS 'spelled out';
COMMENT ON COLUMN snowflake_layouts.epoch IS 'the moment of tick 0';
COMMENT ON COLUMN snowflake_layouts.tick IS 'the tick''s length';
COMMENT ON COLUMN snowflake_layouts.timestamp_bits IS 'the width of the time field';
COMMENT ON COLUMN snowflake_layouts.datacenter_bits IS 'that of the datacenter field; 0 where there is none';
COMMENT ON COLUMN snowflake_layouts.worker_bits IS 'that of the worker field; 0 where there is none';
COMMENT ON COLUMN snowflake_layouts.sequence_bits IS 'that of the sequence; 0 where there is none';
COMMENT ON COLUMN snowflake_layouts.nodes IS 'how many nodes can be told apart';
COMMENT ON COLUMN snowflake_layouts.ids_per_tick IS 'how many ids a node can generate in one tick';
COMMENT ON COLUMN snowflake_layouts.ids_per_second IS 'how many ids a node can generate in one second';
COMMENT ON COLUMN snowflake_layouts.ends_at IS 'the first moment after the last tick; null behind the last timestamptz';
COMMENT ON COLUMN snowflake_layouts.source IS 'where the preset''s system describes it';
