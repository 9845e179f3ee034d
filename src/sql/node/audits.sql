-- Neither carried by a dump nor replicated: it says what was found in this database. (Where all
-- tables are published, a table needs a replica identity.)
CREATE TABLE snowflake_id_node.audits (
    relation regclass NOT NULL,
    column_name name NOT NULL,
    finding text NOT NULL,
    datacenter_id integer,
    worker_id integer,
    count bigint NOT NULL,
    examples bigint[],
    since timestamptz,
    sample double precision NOT NULL,
    partial boolean NOT NULL,
    audited_at timestamptz NOT NULL,
    duration interval NOT NULL
);
CREATE UNIQUE INDEX ON snowflake_id_node.audits
    (relation, column_name, partial, finding, datacenter_id, worker_id) NULLS NOT DISTINCT;
ALTER TABLE snowflake_id_node.audits REPLICA IDENTITY FULL;
CREATE TRIGGER skip_replicated BEFORE INSERT OR UPDATE OR DELETE ON snowflake_id_node.audits
FOR EACH ROW EXECUTE FUNCTION snowflake_id_node.skip_replicated();
ALTER TABLE snowflake_id_node.audits ENABLE REPLICA TRIGGER skip_replicated;
CREATE TRIGGER keep_rows BEFORE TRUNCATE ON snowflake_id_node.audits
FOR EACH STATEMENT EXECUTE FUNCTION snowflake_id_node.keep_rows();
CREATE TRIGGER keep_rows_again AFTER TRUNCATE ON snowflake_id_node.audits
FOR EACH STATEMENT EXECUTE FUNCTION snowflake_id_node.keep_rows();
ALTER TABLE snowflake_id_node.audits ENABLE REPLICA TRIGGER keep_rows;
ALTER TABLE snowflake_id_node.audits ENABLE REPLICA TRIGGER keep_rows_again;

COMMENT ON TABLE snowflake_id_node.audits IS
'what snowflake_audit() has found last in each column, a row per finding';
COMMENT ON COLUMN snowflake_id_node.audits.relation IS 'the table';
COMMENT ON COLUMN snowflake_id_node.audits.column_name IS 'the column';
COMMENT ON COLUMN snowflake_id_node.audits.finding IS 'rows, duplicate, ahead_of_clock, before_epoch, not_of_layout, foreign_worker, unknown_worker, inversion or worker';
COMMENT ON COLUMN snowflake_id_node.audits.datacenter_id IS 'for finding worker: upper part of the worker id';
COMMENT ON COLUMN snowflake_id_node.audits.worker_id IS 'for finding worker: the worker id';
COMMENT ON COLUMN snowflake_id_node.audits.count IS 'how many rows';
COMMENT ON COLUMN snowflake_id_node.audits.examples IS 'up to ten of their ids; for finding worker the first and the last';
COMMENT ON COLUMN snowflake_id_node.audits.since IS 'only ids since then were looked at; null for all';
COMMENT ON COLUMN snowflake_id_node.audits.sample IS 'the share of ids that was looked at, 1 for all';
COMMENT ON COLUMN snowflake_id_node.audits.partial IS 'whether since or sample left out ids; it then stands beside the result of all';
COMMENT ON COLUMN snowflake_id_node.audits.audited_at IS 'when the audit began';
COMMENT ON COLUMN snowflake_id_node.audits.duration IS 'how long it took';
