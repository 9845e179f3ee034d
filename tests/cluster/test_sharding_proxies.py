"""A sharded cluster behind PL/Proxy, PgBouncer, HAProxy and libpq's own list of hosts: see docs/CLUSTER.md."""

import psycopg
import pytest
from clients import eventually
from cluster import DATABASE, Balancer, Cluster, Pooler, conninfo

pytestmark = [
    pytest.mark.once("what stands before the servers has nothing to do with their version"),
    pytest.mark.parts("PgBouncer, PL/Proxy"),
]


@pytest.fixture(scope="module")
def cluster(installation):
    """Two shards and two routers, without tables."""
    with Cluster(installation, shards=2, routers=2) as cluster:
        yield cluster
        assert [line for server in cluster.servers for line in server.crashes()] == []


@pytest.fixture(scope="module")
def router(installation, cluster):
    """A connection to a router with PL/Proxy before the two shards."""
    if lacking := installation.lacks("plproxy"):
        pytest.skip(f"this server has no {', '.join(lacking)}")
    for shard in cluster.shards:
        cluster.run(shard, "plproxy_shard.sql")
    places = {f"p{n}": f"host=127.0.0.1 port={shard.port} dbname={DATABASE}" for n, shard in enumerate(cluster.shards)}
    cluster.run(cluster.routers[0], "plproxy.sql", user="postgres", **places)
    with psycopg.connect(conninfo(cluster.routers[0]), autocommit=True) as connection:
        yield connection


def worker_id(node):
    return int(node.psql("SELECT worker_id FROM snowflake_status", DATABASE))


def test_plproxy(cluster, router):
    """The router makes the key, its hash says where the row goes; each is found by it, and all by time."""
    router.execute("SELECT add_customer(snowflake_nextval(), 'customer ' || n) FROM generate_series(1, 1000) AS n")
    rows = [set(shard.psql("SELECT id FROM customers", DATABASE).split()) for shard in cluster.shards]
    assert len(rows[0]) + len(rows[1]) == len(rows[0] | rows[1]) == 1000
    assert all(400 < len(part) < 600 for part in rows)
    found = router.execute(
        "SELECT count(*), count(DISTINCT id), bool_and(customer_name(id) = name), array_agg(DISTINCT snowflake_worker_id(id))"
        " FROM customers_since(now() - interval '1 hour')"
    ).fetchone()
    assert found == (1000, 1000, True, [worker_id(cluster.routers[0])])


def test_hazard_1_what_every_shard_stores(cluster, router):
    """A default on each shard gives one row as many keys; an id that is sent, one."""
    (default,) = zip(*router.execute("SELECT add_country(NULL, 'Norway')").fetchall(), strict=True)
    assert len(set(default)) == 2
    (sent,) = zip(*router.execute("SELECT add_country(id, 'Sweden') FROM snowflake_nextval() AS id").fetchall(), strict=True)
    assert len(set(sent)) == 1
    names = [shard.psql("SELECT id, name FROM countries WHERE name = 'Sweden'", DATABASE) for shard in cluster.shards]
    assert names[0] == names[1]


def test_hazard_7_pgbouncer(installation, cluster):
    """64 clients in transaction mode: every id is different; the last id of a session is another client's."""
    with Pooler(installation, cluster.routers[0].port, size=4) as pooler:
        options = {"autocommit": True, "prepare_threshold": None, "connect_timeout": 10}
        first = eventually(lambda: try_connect(pooler.conninfo(), **options), "the pooler serves")
        clients = [first, *(psycopg.connect(pooler.conninfo(), **options) for _ in range(63))]
        try:
            ids = []
            for _ in range(20):
                for client in clients:
                    ids.append(client.execute("SELECT snowflake_nextval()").fetchone()[0])
            assert len(set(ids)) == 64 * 20
            # A client that made one, and then another on the same server connection.
            mine = clients[0].execute("SELECT snowflake_nextval()").fetchone()[0]
            others = clients[1].execute("SELECT snowflake_nextval()").fetchone()[0]
            assert clients[0].execute("SELECT snowflake_lastval()").fetchone()[0] == others != mine
            # Within one transaction, it is its own.
            with clients[0].transaction():
                mine = clients[0].execute("SELECT snowflake_nextval()").fetchone()[0]
                assert clients[0].execute("SELECT snowflake_lastval()").fetchone()[0] == mine
            # What a client has prepared is on one connection of the pool's, and not on the next.
            clients[0].execute("PREPARE made AS SELECT snowflake_nextval()")
            with clients[1].transaction():
                clients[1].execute("SELECT 1")
                with pytest.raises(psycopg.errors.InvalidSqlStatementName):
                    for _ in range(2):
                        clients[0].execute("EXECUTE made")
        finally:
            for client in clients:
                client.close()


def try_connect(source, **options):
    try:
        return psycopg.connect(source, **options)
    except psycopg.Error:
        return None


def test_two_routers_and_their_clients(installation, cluster):
    """HAProxy sends clients to the router that lives; so does libpq, by a list of hosts. Each router makes ids of its own."""
    both = f"host=127.0.0.1,127.0.0.1 port={cluster.routers[0].port},{cluster.routers[1].port} user=postgres dbname={DATABASE} connect_timeout=5"
    numbers = [worker_id(router) for router in cluster.routers]
    asked = "SELECT snowflake_worker_id(snowflake_nextval())"
    with Balancer(installation, cluster.routers) as balancer:

        def through(source):
            connection = try_connect(source, autocommit=True)
            if connection is None:
                return None
            try:
                return connection.execute(asked).fetchone()[0]
            except psycopg.Error:
                return None
            finally:
                connection.close()

        eventually(lambda: {through(balancer.conninfo()) for _ in range(4)} == set(numbers), "both routers are used")
        assert through(both) == numbers[0]
        cluster.routers[0].kill9()
        assert through(both) == numbers[1]
        eventually(lambda: all(through(balancer.conninfo()) == numbers[1] for _ in range(4)), "the dead router is left out")
        cluster.routers[0].start()
        eventually(lambda: {through(balancer.conninfo()) for _ in range(4)} == set(numbers), "both routers are used again")
