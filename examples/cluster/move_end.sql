-- The end of move_partition.sql, when all routers know where the partition is: what was its old place goes.
--
--   psql -v ON_ERROR_STOP=1 -v number=3 -v from='...' -v to='...' -f move_end.sql

SELECT 'move_' || :'number' AS move, 'orders_' || :'number' AS orders, 'order_log_' || :'number' AS order_log \gset

\connect :"to"
DROP SUBSCRIPTION :"move";

\connect :"from"
DROP PUBLICATION :"move";
DROP TABLE moved.:"order_log";
DROP TABLE moved.:"orders";
