-- Keys for rows that were there before: their time of creation becomes the key's.
--
-- Run it in a database with the extension: psql -f examples/backfill.sql
-- It works with every layout, and can be run again. The tests run it as well.
--
-- It needs a worker id that no node has or ever had, nor may lease (snowflake_id.worker_id_range): the
-- greatest one of the layout, here. And it needs to know which moment created_at means. A column of
-- type timestamp does not say of which time zone it is; say it:
--   psql -v moment="created_at AT TIME ZONE 'Europe/Berlin'" -f examples/backfill.sql
\set ON_ERROR_STOP on
\if :{?moment}
\else
    \set moment created_at
\endif

CREATE TABLE IF NOT EXISTS legacy (id integer PRIMARY KEY, created_at timestamptz NOT NULL, name text);
INSERT INTO legacy
SELECT n, timestamptz '2025-06-01 00:00:00+00' + (n / 3) * interval '1 second', 'row ' || n
FROM generate_series(1, 9999) AS n
WHERE NOT EXISTS (SELECT FROM legacy WHERE id = n);

-- An error, rather than keys whose times are some hours off.
SELECT $$DO 'BEGIN RAISE ''which time zone is created_at of? See the head of this file.''; END'$$
FROM (SELECT pg_typeof(:moment) AS type FROM legacy LIMIT 1) AS moment
WHERE type <> 'timestamptz'::regtype
\gexec

ALTER TABLE legacy ADD COLUMN IF NOT EXISTS key bigint;

-- Keys increase with created_at, and among equal ones with the old key. A slot is one place in one
-- tick. Each row gets the first one of its own tick, or where rows before it have taken that, the next
-- one: of rows that were written all at once, more than a tick has room for, some are given a time
-- that is a little later.
WITH layout AS (
    SELECT l.epoch, l.tick, l.ids_per_tick, l.sequence_bits, top.worker_id, top.datacenter_id
    FROM snowflake_layout() AS l, snowflake_decode(snowflake_max(l.epoch)) AS top
), aged AS (
    SELECT id, row_number() OVER (ORDER BY :moment, id) AS n,
           floor(extract(epoch FROM :moment - epoch) / extract(epoch FROM tick))::bigint * ids_per_tick AS slot
    FROM legacy, layout
), placed AS (
    SELECT id, n + max(slot - n) OVER (ORDER BY n) AS slot FROM aged
), made AS (
    SELECT id, snowflake_encode(
        epoch + slot / ids_per_tick * tick,
        worker_id => worker_id,
        sequence => CASE WHEN sequence_bits > 0 THEN (slot % ids_per_tick)::integer END,
        datacenter_id => datacenter_id) AS key
    FROM placed, layout
)
UPDATE legacy SET key = made.key FROM made WHERE made.id = legacy.id AND legacy.key IS NULL;

CREATE UNIQUE INDEX IF NOT EXISTS legacy_key ON legacy (key);
ALTER TABLE legacy ALTER COLUMN key SET NOT NULL;

SELECT id, key, d.* FROM legacy, snowflake_decode(key) AS d ORDER BY id LIMIT 5;
