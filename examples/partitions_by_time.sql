-- A table that is partitioned by month, on its snowflake key alone.
--
-- Run it in a database with the extension, on a server with a worker id:
--   psql -f examples/partitions_by_time.sql
-- It can be run again. The tests run it as well.

CREATE TABLE IF NOT EXISTS measurements (
    id    bigint PRIMARY KEY DEFAULT snowflake_nextval(),
    value double precision NOT NULL
) PARTITION BY RANGE (id);

-- Makes a table's partitions for the month of a moment and some more ahead, if they are missing, and
-- drops those that are older than some months. The bounds of one are the least ids of two months:
-- months of UTC, so that partitions meet, whichever time zone the sessions have that make them.
-- What a partition takes is a lock on the table; where it cannot be had soon, the next run does it.
CREATE OR REPLACE PROCEDURE roll_partitions(
    parent regclass, ahead integer DEFAULT 2, keep integer DEFAULT 12, at timestamptz DEFAULT now()
)
LANGUAGE plpgsql
SET timezone = 'UTC'
SET lock_timeout = '5s'
AS $$
DECLARE
    this_month CONSTANT timestamptz := date_trunc('month', at);
    month timestamptz;
    name text;
BEGIN
    FOR month IN SELECT generate_series(this_month, this_month + ahead * interval '1 month', interval '1 month') LOOP
        name := (SELECT relname FROM pg_class WHERE oid = parent) || to_char(month, '"_"YYYY"_"MM');
        IF NOT EXISTS (SELECT FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = parent AND relname = name) THEN
            EXECUTE format('CREATE TABLE %s.%I PARTITION OF %s FOR VALUES FROM (%s) TO (%s)',
                (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = parent), name, parent,
                snowflake_lower_bound(month), snowflake_lower_bound(month + interval '1 month'));
        END IF;
    END LOOP;
    FOR name IN
        SELECT inhrelid::regclass FROM pg_inherits JOIN pg_class ON oid = inhrelid
        WHERE inhparent = parent AND relname ~ '_\d{4}_\d\d$'
          AND right(relname, 7) < to_char(this_month - keep * interval '1 month', 'YYYY_MM')
    LOOP
        EXECUTE format('DROP TABLE %s', name);
    END LOOP;
END $$;

-- The statement to run every day: makes the partitions of this month and the next two, and drops those
-- of more than twelve months ago. With pg_cron, in its database:
--   SELECT cron.schedule('measurements', '0 3 * * *', $$CALL roll_partitions('measurements')$$);
CALL roll_partitions('measurements');

INSERT INTO measurements (value) SELECT random() FROM generate_series(1, 1000);

-- A search by time looks at the partitions of that time only.
EXPLAIN (COSTS OFF)
SELECT avg(value) FROM measurements WHERE snowflake_between(id, now() - interval '1 hour');
