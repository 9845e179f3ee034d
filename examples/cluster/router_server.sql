-- A router learns of a server: a shard, or the registry. With a standby, name both hosts: whichever takes writes is
-- asked, so that a promotion needs no change here.
--
--   psql -v ON_ERROR_STOP=1 -v server=shard1 -v host=a.example,b.example -v port=5432,5432 \
--        -v dbname=app -v user=app -f router_server.sql
--
-- A role that is no superuser needs a password in the mapping: PostgreSQL insists on it.

CREATE EXTENSION IF NOT EXISTS postgres_fdw;

CREATE SERVER :"server" FOREIGN DATA WRAPPER postgres_fdw OPTIONS (
    host :'host',
    port :'port',
    dbname :'dbname',
    target_session_attrs 'read-write',
    connect_timeout '5',
    batch_size '100',
    fetch_size '10000'
);

CREATE USER MAPPING FOR CURRENT_USER SERVER :"server" OPTIONS (user :'user');
