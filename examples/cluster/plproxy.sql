-- The same shards behind PL/Proxy: functions that run where a row is. On the router, a node with the extension plproxy:
--
--   psql -v ON_ERROR_STOP=1 -v p0='host=a.example dbname=app' -v p1='host=b.example dbname=app' \
--        -v user=app -f plproxy.sql
--
-- The number of partitions is a power of two. On each shard, first: plproxy_shard.sql. The caller brings the key:
--
--   SELECT add_customer(snowflake_nextval(), 'Ada');

CREATE EXTENSION IF NOT EXISTS snowflake_id;
CREATE EXTENSION IF NOT EXISTS plproxy;

CREATE SERVER customers FOREIGN DATA WRAPPER plproxy OPTIONS (p0 :'p0', p1 :'p1');
CREATE USER MAPPING FOR CURRENT_USER SERVER customers OPTIONS (user :'user');

CREATE FUNCTION add_customer(id bigint, name text) RETURNS bigint LANGUAGE plproxy AS $$
    CLUSTER 'customers';
    RUN ON hashint8(id);
$$;

CREATE FUNCTION customer_name(id bigint) RETURNS text LANGUAGE plproxy AS $$
    CLUSTER 'customers';
    RUN ON hashint8(id);
$$;

-- Of all shards.
CREATE FUNCTION customers_since(at timestamptz) RETURNS TABLE (id bigint, name text) LANGUAGE plproxy AS $$
    CLUSTER 'customers';
    RUN ON ALL;
$$;

-- What every shard stores gets its id here, once, and not by a default on each of them.
CREATE FUNCTION add_country(id bigint, name text) RETURNS SETOF bigint LANGUAGE plproxy AS $$
    CLUSTER 'customers';
    RUN ON ALL;
$$;
