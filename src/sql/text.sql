-- Text forms of ids, for URLs and for people.

CREATE FUNCTION snowflake_base62(id bigint) RETURNS text
IMMUTABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_base62_wrapper';

COMMENT ON FUNCTION snowflake_base62(bigint) IS
'the id in base 62 (0-9, A-Z, a-z), up to 11 characters';

CREATE FUNCTION snowflake_from_base62(encoded text) RETURNS bigint
IMMUTABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_from_base62_wrapper';

COMMENT ON FUNCTION snowflake_from_base62(text) IS
'the id that a base 62 text stands for';

CREATE FUNCTION snowflake_base32(id bigint) RETURNS text
IMMUTABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_base32_wrapper';

COMMENT ON FUNCTION snowflake_base32(bigint) IS
'the id in Crockford''s base 32, always 13 characters, which sort as the ids do';

CREATE FUNCTION snowflake_from_base32(encoded text) RETURNS bigint
IMMUTABLE STRICT PARALLEL SAFE
LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_from_base32_wrapper';

COMMENT ON FUNCTION snowflake_from_base32(text) IS
'the id that a base 32 text stands for; small letters, I, L and O for 1, 1 and 0, and hyphens are read';
