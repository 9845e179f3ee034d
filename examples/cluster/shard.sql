-- A shard: the tables of the rows that it keeps. On each shard, with the partitions that are its own:
--
--   psql -v ON_ERROR_STOP=1 -v modulus=12 -v mine=0,3,6,9 -f shard.sql
--
-- It is a node: it has snowflake_id preloaded, and a worker id by snowflake_id.registry. An order's id comes from
-- the router, as it says where the order goes; the log's ids are the shard's own. They are greater than the
-- order's, whatever the two clocks say.

CREATE EXTENSION IF NOT EXISTS snowflake_id;

CREATE TABLE orders (
    id       bigint PRIMARY KEY DEFAULT snowflake_nextval(),
    customer text NOT NULL,
    amount   numeric(10, 2) NOT NULL
) PARTITION BY HASH (id);

CREATE TABLE order_log (
    order_id bigint NOT NULL,
    id       bigint NOT NULL,
    what     text NOT NULL,
    PRIMARY KEY (order_id, id)
) PARTITION BY HASH (order_id);

-- With all names in full: a session of postgres_fdw has no search_path but pg_catalog.
CREATE FUNCTION log_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.order_log (order_id, id, what)
    VALUES (NEW.id, public.snowflake_nextval_after(NEW.id), 'received');
    RETURN NULL;
END
$$;

-- A partition of both tables. Rows of one order are on one shard, so the key between them is an ordinary one.
CREATE PROCEDURE add_partition(modulus integer, number integer) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE orders_%s PARTITION OF orders FOR VALUES WITH (MODULUS %s, REMAINDER %s)',
                   number, modulus, number);
    EXECUTE format('CREATE TABLE order_log_%s PARTITION OF order_log FOR VALUES WITH (MODULUS %s, REMAINDER %s)',
                   number, modulus, number);
    EXECUTE format('ALTER TABLE order_log_%s ADD FOREIGN KEY (order_id) REFERENCES orders_%s', number, number);
    EXECUTE format('CREATE TRIGGER log_order AFTER INSERT ON orders_%s FOR EACH ROW EXECUTE FUNCTION log_order()',
                   number);
END
$$;

SELECT format('CALL add_partition(%s, %s)', :modulus, number)
FROM unnest(string_to_array(:'mine', ',')::integer[]) AS number \gexec
