-- The audit trail, in the keeper's database. By id, because the time of an id says how old it is.
CREATE TABLE snowflake_id_node.samples (
    id bigint NOT NULL,
    sampled_at timestamptz NOT NULL,
    pid integer NOT NULL,
    datname name,
    usename name
);
CREATE INDEX ON snowflake_id_node.samples (id);
-- Where all tables are published: to be deleted from, a table needs a replica identity; and no
-- node has another one's samples.
ALTER TABLE snowflake_id_node.samples REPLICA IDENTITY FULL;
CREATE TRIGGER skip_replicated BEFORE INSERT OR UPDATE OR DELETE ON snowflake_id_node.samples
FOR EACH ROW EXECUTE FUNCTION snowflake_id_node.skip_replicated();
ALTER TABLE snowflake_id_node.samples ENABLE REPLICA TRIGGER skip_replicated;

COMMENT ON TABLE snowflake_id_node.samples IS
'ids of this node, of which snowflake_id.sample_rate says how many; written by the keeper alone, in its database';
COMMENT ON COLUMN snowflake_id_node.samples.id IS 'the id';
COMMENT ON COLUMN snowflake_id_node.samples.sampled_at IS 'when it was generated, by the node''s clock';
COMMENT ON COLUMN snowflake_id_node.samples.pid IS 'the process of the session that had it made';
COMMENT ON COLUMN snowflake_id_node.samples.datname IS 'the session''s database';
COMMENT ON COLUMN snowflake_id_node.samples.usename IS 'the session''s role';
