-- The end of merge.sql, when all rows are there. The log's ids are the shards' own, and one key for all of them, too.

ALTER TABLE order_log ADD FOREIGN KEY (order_id) REFERENCES orders;
CREATE INDEX ON order_log (order_id);
