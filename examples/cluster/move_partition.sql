-- Moves a partition to another shard: to one that has joined, or to the other half of one that is split. No row
-- gets another key. Writes go on while it is copied, and wait at the end for as long as the last changes take.
--
--   psql -v ON_ERROR_STOP=1 -v modulus=12 -v number=3 -v from='host=a.example dbname=app' \
--        -v to='host=d.example dbname=app' -f move_partition.sql
--
-- Then, at once, on each router: CALL set_partition(12, 3, 'shard4'). Until then it is told that there is no such
-- table, so that no row goes where it is not looked for. When all routers have it: move_end.sql.
--
-- The shards need wal_level = logical, and the new one the tables (shard.sql with mine=''). What is copied is
-- written as replicas write it: the trigger of the log does not fire again.

SELECT 'move_' || :'number' AS move, 'orders_' || :'number' AS orders, 'order_log_' || :'number' AS order_log \gset

\connect :"from"
CREATE PUBLICATION :"move" FOR TABLE :"orders", :"order_log";

\connect :"to"
CALL add_partition(:modulus, :number);
CREATE SUBSCRIPTION :"move" CONNECTION :'from' PUBLICATION :"move";
DO $$ BEGIN
    WHILE EXISTS (SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r') LOOP
        PERFORM pg_sleep(0.1);
        COMMIT;
    END LOOP;
END $$;

\connect :"from"
BEGIN;
-- These two, and no other table: a statement that has written to another partition may be waiting for this one.
LOCK TABLE :"orders", :"order_log" IN ACCESS EXCLUSIVE MODE;
SELECT set_config('move.slot', :'move', true), set_config('move.lsn', pg_current_wal_insert_lsn()::text, true) \g /dev/null
-- All that was written before the lock has arrived.
DO $$ BEGIN
    WHILE (SELECT confirmed_flush_lsn < current_setting('move.lsn')::pg_lsn
           FROM pg_replication_slots WHERE slot_name = current_setting('move.slot')) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
CREATE SCHEMA IF NOT EXISTS moved;
ALTER TABLE :"orders" SET SCHEMA moved;
ALTER TABLE :"order_log" SET SCHEMA moved;
COMMIT;
