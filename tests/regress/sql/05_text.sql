-- Text forms.
SELECT snowflake_base62(id), snowflake_base32(id) FROM (VALUES (0), (1), (61), (62), (132271570944004097), (9223372036854775807)) AS ids (id);
SELECT snowflake_from_base62('9kHyaD5VdV'), snowflake_from_base62('0000000000z'), snowflake_from_base32('7ZZZZZZZZZZZZ');
SELECT snowflake_from_base32('03nf-oj00-0o0i-j'), snowflake_from_base32('03NF0J00000' || '1J');
SELECT snowflake_base62(NULL), snowflake_base32(NULL), snowflake_from_base62(NULL), snowflake_from_base32(NULL);
SELECT bool_and(snowflake_from_base62(snowflake_base62(id)) = id AND snowflake_from_base32(snowflake_base32(id)) = id) AS round_trip,
       bool_and((snowflake_base32(id) < snowflake_base32(id + 7) COLLATE "C")) AS sorts
FROM generate_series(0, 9000000000000000000, 9000000000000007) AS id;
