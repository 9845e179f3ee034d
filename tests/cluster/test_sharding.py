"""A sharded cluster on postgres_fdw, and two regions: what docs/CLUSTER.md says of them. The SQL is that of examples/cluster/.

For longer, `make cluster options='--rows 2000000'` and `options='--regions 600'`.
"""

import contextlib
import os
import random
import re
import threading
import time

import numpy
import psycopg
import pytest
from clients import eventually
from cluster import (
    CONFLICT,
    DATABASE,
    EXAMPLES,
    MODULUS,
    Balancer,
    Cluster,
    Pooler,
    conninfo,
    digest,
    everywhere,
    independent_shards,
    replicate,
    stop_replication,
)
from psycopg import errors
from registries import Proxy
from storms import LINES, Storm
from throwaway import free_port

ROWS = int(os.environ.get("SNOWFLAKE_CLUSTER_ROWS") or 0)
SECONDS = int(os.environ.get("SNOWFLAKE_CLUSTER_SECONDS") or 0)
TICKETS = "SELECT count(*), count(DISTINCT id) FROM ({}) AS t"
AMBIGUOUS = """
    SELECT count(*) FILTER (WHERE tickets <> 1)
    FROM (SELECT r.note, count(t.id) AS tickets FROM ({}) AS r LEFT JOIN ({}) AS t ON t.id = r.ticket_id GROUP BY r.note) AS m
"""


@contextlib.contextmanager
def sharded(installation, **kinds):
    """A cluster with its tables."""
    if lacking := installation.lacks("postgres_fdw"):
        pytest.skip(f"this server has no {', '.join(lacking)}")
    with Cluster(installation, **kinds) as cluster:
        cluster.create_tables()
        yield cluster
        assert [line for server in cluster.servers for line in server.crashes()] == []


@pytest.fixture(scope="module")
def cluster(installation):
    """Three shards and a router, for all tests that leave them as they are."""
    with sharded(installation) as cluster:
        yield cluster


@pytest.fixture
def router(cluster):
    """A connection to the router; the tables are empty again."""
    with psycopg.connect(conninfo(cluster.routers[0]), autocommit=True) as connection:
        for shard in cluster.shards:
            shard.psql("TRUNCATE orders, order_log", DATABASE)
        yield connection


def worker_id(node):
    return int(node.psql("SELECT worker_id FROM snowflake_status", DATABASE))


def fill(router, rows=3000):
    router.execute("INSERT INTO orders (customer, amount) SELECT n, 1 FROM generate_series(1, %s) AS n", [rows])


def test_with_bigserial_and_without(cluster):
    """Each shard counts by itself: keys are there three times, a reply has three tickets, replication stops. And with ids nothing of that."""
    router, (first, second, _) = cluster.routers[0], cluster.shards
    tickets, replies = everywhere(cluster, "tickets"), everywhere(cluster, "replies")

    def outcome(script):
        independent_shards(cluster, script)
        counts = router.psql(TICKETS.format(tickets), DATABASE)
        ambiguous = router.psql(AMBIGUOUS.format(replies, tickets), DATABASE)
        replicate(cluster, first, second)
        arrived = second.psql("SELECT count(*) FROM tickets WHERE customer = 'of the first shard'", DATABASE)
        stop_replication(first, second)
        return counts, ambiguous, arrived

    assert outcome("bigserial.sql") == ("1500|500", "1500", "0")
    assert re.search(CONFLICT, second.log)
    assert outcome("snowflake.sql") == ("1500|1500", "0", "1")


def test_a_row_says_where_and_when(cluster, router):
    """Its shard by the hash of its key, its time and its node by the key; the shards' own ids behind it."""
    fill(router)
    nodes = [worker_id(node) for node in [cluster.routers[0], *cluster.shards]]
    assert len(set(nodes)) == 4
    rows = router.execute("SELECT shard, count(*), min(worker_id), max(worker_id), max(now() - ts) FROM whereabouts GROUP BY shard ORDER BY shard").fetchall()
    assert [row[0] for row in rows] == ["shard1", "shard2", "shard3"]
    assert all(row[2:4] == (nodes[0], nodes[0]) for row in rows)
    # The hash spreads them: 1000 each, and 250 in each partition, more or less.
    assert all(850 < row[1] < 1150 for row in rows)
    log = router.execute(
        """
        SELECT count(*), bool_and(l.id > l.order_id), array_agg(DISTINCT snowflake_worker_id(l.id))
        FROM order_log AS l JOIN orders AS o ON o.id = l.order_id
        """
    ).fetchone()
    assert log == (3000, True, sorted(nodes[1:]))


def test_search_by_time(cluster, router):
    """The bound of a time is computed on the router and sent to each shard, which uses its key; snowflake_between is not sent."""
    fill(router)
    search = "SELECT count(*) FROM orders WHERE {}"
    sent = "id >= (SELECT snowflake_lower_bound(now() - interval '1 hour'))"
    not_sent = "snowflake_between(id, now() - interval '1 hour')"
    for condition in sent, not_sent:
        assert router.execute(search.format(condition)).fetchone() == (3000,)

    def remote(condition):
        plan = "\n".join(row[0] for row in router.execute(f"EXPLAIN (VERBOSE, COSTS OFF) {search.format(condition)}"))
        queries = re.findall("Remote SQL: (.*)", plan)
        assert len(queries) == MODULUS
        return {re.sub(r"\d+", "N", query) for query in queries}

    assert remote(sent) == {"SELECT NULL FROM public.orders_N WHERE ((id >= $N::bigint))"}
    assert remote(not_sent) == {"SELECT id FROM public.orders_N"}
    with psycopg.connect(conninfo(cluster.shards[0])) as shard:
        shard.execute("ANALYZE orders; SET enable_seqscan = off")
        plan = "\n".join(row[0] for row in shard.execute("EXPLAIN SELECT FROM orders_0 WHERE id >= 7"))
        assert "orders_0_pkey" in plan


def test_the_audit_of_a_cluster(cluster, router):
    """One call on the router reads all shards: three faults on three of them are found, and nothing else."""
    rows = 30_000
    fill(router, rows)
    registry = cluster.registry
    try:
        cluster.introduce(cluster.routers[0], "registry", registry, dbname="ids")
        router.execute("IMPORT FOREIGN SCHEMA snowflake_id_node LIMIT TO (leases) FROM SERVER registry INTO public")
        audit = """
            SELECT finding, count, examples FROM snowflake_audit('orders', 'id',
                worker_ids => (SELECT string_agg(number::text, ',') FROM leases))
            WHERE finding NOT IN ('worker', 'rows') AND count > 0 ORDER BY finding
        """
        assert router.execute(audit).fetchall() == []
        whole = timed(lambda: router.execute(audit))
        alone = "SELECT sum(count) FROM snowflake_audit('orders', 'id')"
        parts = sum(timed(lambda shard=shard: shard.psql(alone, DATABASE)) for shard in cluster.shards)
        print(f"audit of {rows} rows: {whole:.2f} s on the router, {parts:.2f} s on its shards one by one")
        twice = router.execute("SELECT id FROM orders ORDER BY id LIMIT 1").fetchone()[0]
        taken = [int(number) for number in registry.psql("SELECT number FROM snowflake_id_node.registry", "ids").split()]
        nobody = min(set(range(1024)) - set(taken))
        ahead = f"snowflake_encode(now() + interval '1 day', {worker_id(cluster.shards[0])}, 0)"
        stranger = f"snowflake_encode(now() - interval '1 day', {nobody}, 0)"
        # Where a row belongs is nobody's business any more in a table that is no partition.
        for n, (shard, fault) in enumerate(zip(cluster.shards, [twice, ahead, stranger], strict=True)):
            shard.psql(f"ALTER TABLE orders DETACH PARTITION orders_{n}", DATABASE)
            shard.psql(f"ALTER TABLE orders_{n} DROP CONSTRAINT orders_{n}_pkey CASCADE", DATABASE)
            shard.psql(f"ALTER TABLE orders_{n} DISABLE TRIGGER USER; INSERT INTO orders_{n} VALUES ({fault}, 'fault', 0)", DATABASE)
        found = router.execute(audit).fetchall()
        assert [(finding, count) for finding, count, _ in found] == [("ahead_of_clock", 1), ("duplicate", 1), ("foreign_worker", 1)]
        assert found[1][2] == [twice]
        assert router.execute("SELECT snowflake_worker_id(%s)", [found[2][2][0]]).fetchone() == (nobody,)
    finally:
        router.execute("DROP FOREIGN TABLE IF EXISTS leases; DROP SERVER IF EXISTS registry CASCADE")
        for n, shard in enumerate(cluster.shards):
            shard.psql(f"DROP TABLE orders_{n}, order_log_{n} CASCADE; CALL add_partition({MODULUS}, {n})", DATABASE)


def timed(call):
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_merge_and_split(installation):
    """A shard joins, another is split, all become one: as many rows, the same keys, foreign keys that hold; while somebody writes."""
    with sharded(installation) as cluster, psycopg.connect(conninfo(cluster.routers[0]), autocommit=True) as router:
        fill(router)
        stop, refused = threading.Event(), []

        def write():
            with psycopg.connect(conninfo(cluster.routers[0]), autocommit=True) as connection:
                while not stop.is_set():
                    try:
                        connection.execute("INSERT INTO orders (customer, amount) VALUES ('meanwhile', 1)")
                    except psycopg.Error as error:
                        refused.append(error.sqlstate)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            before = keys(cluster.routers[0], "customer <> 'meanwhile'")
            fourth = cluster.add_shard()
            for number in 0, 5:
                cluster.move(number, fourth)
            fifth = cluster.add_shard()
            mine = cluster.partitions_of(cluster.shards[2])
            assert mine == [2, 8, 11]
            cluster.move(mine[0], fifth)
        finally:
            stop.set()
            writer.join()
        # From the switch on the shard to that on the router, it is told that there is no such table.
        assert set(refused) <= {"42P01"}
        assert keys(cluster.routers[0], "customer <> 'meanwhile'") == before
        meanwhile = int(router.execute("SELECT count(*) FROM orders WHERE customer = 'meanwhile'").fetchone()[0])
        assert meanwhile > 0
        places = dict(router.execute("SELECT shard, count(*) FROM whereabouts GROUP BY shard").fetchall())
        assert set(places) == {f"shard{n}" for n in range(1, 6)}
        everything = digest(cluster.routers[0])
        one = cluster.merge()
        assert digest(one) == everything
        assert one.psql("SELECT count(*) FROM orders", DATABASE) == str(3000 + meanwhile)
        constraints = "SELECT conname FROM pg_constraint WHERE contype IN ('p', 'f') AND convalidated AND conrelid IN ('orders'::regclass, 'order_log'::regclass) ORDER BY 1"
        assert one.psql(constraints, DATABASE).split() == ["order_log_order_id_fkey", "order_log_pkey", "orders_pkey"]
        # It goes on from there: a node as any other.
        assert one.psql("INSERT INTO orders (customer, amount) VALUES ('new', 1) RETURNING id > (SELECT max(id) FROM orders)", DATABASE) == "t"


def keys(server, condition):
    return server.psql(f"SELECT count(*), md5(string_agg(id::text, ',' ORDER BY id)) FROM orders WHERE {condition}", DATABASE)


@pytest.mark.once("base backups are tested on every version elsewhere")
def test_a_shard_is_restored(installation):
    """From a backup: rows that came later are lost there, and can be put in again as they are; its new ids are none of the old ones."""
    logged = "SELECT id FROM order_log"
    with sharded(installation, shards=2) as cluster:
        shard = cluster.shards[0]
        with psycopg.connect(conninfo(cluster.routers[0]), autocommit=True) as session:
            fill(session)
            backup = cluster.back_up(shard)
            backed_up = int(shard.psql("SELECT count(*) FROM orders", DATABASE))
            fill(session)
            everything = session.execute("SELECT id, customer, amount FROM orders ORDER BY id").fetchall()
            before = set(shard.psql(logged, DATABASE).split())
            shard.kill9()
            cluster.restore(0, backup)
            # It has another worker id: the old one is its predecessor's until the lease ends.
            number = worker_id(backup)
            assert {int(id) >> 12 & 1023 for id in before}.isdisjoint({number})
            assert int(backup.psql("SELECT count(*) FROM orders", DATABASE)) == backed_up
            kept = {row[0] for row in session.execute("SELECT id FROM orders")}
            lost = [row for row in everything if row[0] not in kept]
            assert len(lost) == len(before) - backed_up > 1000
            session.cursor().executemany("INSERT INTO orders (id, customer, amount) VALUES (%s, %s, %s)", lost)
            assert session.execute("SELECT id, customer, amount FROM orders ORDER BY id").fetchall() == everything
            fill(session)
            after = backup.psql(f"{logged} WHERE snowflake_worker_id(id) = {number}", DATABASE).split()
            assert len(after) == len(set(after)) > len(lost)
            assert not before.intersection(after)


# Hazards, see docs/CLUSTER.md. Some are elsewhere: 1 in test_sharding_proxies.py, 10 in test_patroni.py, 11 in test_replication.py.


@pytest.mark.once("postgres_fdw and replication do that on every version")
def test_hazard_2_and_5_the_router_is_a_node(cluster, router):
    """A foreign table's default is the router's; without a worker id, it can store nothing that is to get an id."""
    fill(router, 10)
    assert router.execute("SELECT DISTINCT worker_id FROM whereabouts").fetchall() == [(worker_id(cluster.routers[0]),)]
    router.execute("CREATE FOREIGN TABLE direct (id bigint DEFAULT snowflake_nextval(), customer text, amount numeric) SERVER shard2 OPTIONS (table_name 'orders')")
    # Of the shard's default nothing is left where it is imported without one: the column is NULL.
    cluster.shards[1].psql("CREATE TABLE labels (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), customer text)", DATABASE)
    router.execute("IMPORT FOREIGN SCHEMA public LIMIT TO (labels) FROM SERVER shard2 INTO public")
    with pytest.raises(errors.NotNullViolation):
        router.execute("INSERT INTO labels (customer) VALUES ('x')")
    router.execute("DROP FOREIGN TABLE direct, labels")
    cluster.shards[1].psql("DROP TABLE labels", DATABASE)


@pytest.mark.once("postgres_fdw and replication do that on every version")
def test_hazard_3_remainders(cluster, router):
    """Ids made one at a time have sequence 0: by id % n nearly all are in one place; by their hash they are not."""
    for _ in range(200):
        # Each in a tick of its own, however fast the machine is.
        router.execute("SELECT pg_sleep(0.002)")
        router.execute("INSERT INTO orders (customer, amount) VALUES ('one at a time', 1)")
    most = "SELECT max(n) FROM (SELECT count(*) AS n FROM orders WHERE customer = 'one at a time' GROUP BY {}) AS places"
    assert router.execute(most.format("id % 4")).fetchone() == (200,)
    assert router.execute(most.format("hashint8(id) & 3")).fetchone()[0] < 90


@pytest.mark.once("postgres_fdw and replication do that on every version")
def test_hazard_4_where_a_row_was_born(cluster, router):
    """The worker id says who made the key. Of an order that is the router, on whichever shard it is."""
    fill(router)
    shards = router.execute("SELECT count(DISTINCT shard), count(DISTINCT worker_id) FROM whereabouts").fetchone()
    assert shards[0] > 2 and shards[1] == 1


@pytest.mark.once("postgres_fdw and replication do that on every version")
def test_hazard_9_a_transaction_over_two_shards(cluster, router):
    """It can commit on one and not on the other, and its client is told that it failed."""
    refuse = """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not here'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()
    """
    left = []
    # Which of the two commits first is the router's secret, and the same each time.
    for good, bad in (cluster.shards[:2], cluster.shards[1::-1]):
        bad.psql(refuse, DATABASE)
        try:
            with psycopg.connect(conninfo(cluster.routers[0])) as connection:
                for shard in good, bad:
                    partition = cluster.partitions_of(shard)[-1]
                    connection.execute(
                        f"INSERT INTO orders_{partition} SELECT id, 'both', 1 FROM snowflake_batch(500) AS id"
                        f" WHERE satisfies_hash_partition('orders'::regclass, {MODULUS}, {partition}, id) LIMIT 1"
                    )
                with pytest.raises(psycopg.Error, match="not here"):
                    connection.commit()
            assert bad.psql("SELECT count(*) FROM orders WHERE customer = 'both'", DATABASE) == "0"
            left.append(good.psql("SELECT count(*) FROM orders WHERE customer = 'both'", DATABASE))
        finally:
            bad.psql("DROP FUNCTION refuse CASCADE", DATABASE)
    assert sorted(left) == ["0", "1"]


@pytest.mark.once("postgres_fdw and replication do that on every version")
def test_hazard_8_a_column_with_a_default(start_server, connect):
    """A default that is evaluated on two replicated nodes gives one row two keys; taken on one, and sent, it is one."""
    a, b = (start_server(worker_id=n, postgres={"wal_level": "logical"}) for n in (1, 2))
    sessions = connect(a), connect(b)
    for session in sessions:
        session.execute("CREATE EXTENSION snowflake_id; CREATE TABLE old (n integer PRIMARY KEY)")
    sessions[0].execute("CREATE PUBLICATION p FOR TABLE old; INSERT INTO old SELECT generate_series(1, 100)")
    sessions[1].execute(f"CREATE SUBSCRIPTION s CONNECTION '{a.conninfo()}' PUBLICATION p")
    count = "SELECT count(*) FROM old"
    eventually(lambda: sessions[1].execute(count).fetchone() == (100,))
    for session in sessions:
        session.execute("ALTER TABLE old ADD COLUMN id bigint DEFAULT snowflake_nextval()")
    read = "SELECT array_agg(id ORDER BY n) FROM old"
    different = [x == y for x, y in zip(*(session.execute(read).fetchone()[0] for session in sessions), strict=True)]
    assert not any(different)
    # The way that is right: a column without a default, filled on one, then the default.
    for session in sessions:
        session.execute("ALTER TABLE old DROP COLUMN id; ALTER TABLE old ADD COLUMN id bigint")
    sessions[0].execute("UPDATE old SET id = snowflake_nextval()")
    eventually(lambda: sessions[1].execute("SELECT count(id) FROM old").fetchone() == (100,))
    one, two = (session.execute(read).fetchone()[0] for session in sessions)
    assert one == two
    sessions[1].execute("DROP SUBSCRIPTION s")


# Two regions


@pytest.mark.every_major("logical replication, and what it counts as a conflict; a quarter of a minute on each of four")
def test_two_regions(installation, start_server, connect):
    """Both write the same tables, and replicate to each other, over a network that fails five times: no conflict, and both have all."""
    if installation.major < 16:
        pytest.skip("origin = none is there from 16 on")
    settings = {"listen_addresses": "127.0.0.1", "wal_level": "logical", "wal_receiver_timeout": "5s", "wal_retrieve_retry_interval": "200ms"}
    regions = []
    for n in 1, 2:
        server = start_server(worker_id=n, postgres=settings | {"port": (port := free_port())}, server_options={"port": port})
        session = connect(server)
        session.execute("CREATE EXTENSION snowflake_id")
        run_file(server, "snowflake.sql")
        session.execute("CREATE PUBLICATION p FOR TABLE tickets, replies")
        regions.append((server, session))
    proxies = [Proxy(server.port) for server, _ in regions]
    stop = threading.Event()
    written = [0, 0]

    def write(n):
        with psycopg.connect(regions[n][0].conninfo(), autocommit=True) as connection:
            while not stop.is_set():
                connection.execute(
                    "WITH t AS (INSERT INTO tickets (customer) SELECT 'x' FROM generate_series(1, 10) RETURNING id)"
                    " INSERT INTO replies (ticket_id) SELECT id FROM t"
                )
                written[n] += 10
                time.sleep(0.01)

    with proxies[0], proxies[1]:
        for n, (_, session) in enumerate(regions):
            source = f"host=127.0.0.1 port={proxies[1 - n].port} user=postgres dbname=postgres"
            session.execute(f"CREATE SUBSCRIPTION s CONNECTION '{source}' PUBLICATION p WITH (origin = none, copy_data = false)")
        threads = [threading.Thread(target=write, args=[n]) for n in (0, 1)]
        for thread in threads:
            thread.start()
        try:
            pause = (SECONDS or 15) / 11
            for cut in range(5):
                time.sleep(pause)
                # Packets are lost, or connections end; in one direction, or both.
                for proxy in proxies if cut % 2 else proxies[:1]:
                    proxy.refuse() if cut % 3 == 0 else proxy.cut()
                time.sleep(pause)
                for proxy in proxies:
                    proxy.heal()
            time.sleep(pause)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        total = sum(written)
        count = "SELECT (SELECT count(*) FROM tickets), (SELECT count(*) FROM replies)"
        for _, session in regions:
            eventually(lambda session=session: session.execute(count).fetchone() == (total, total), f"both have {total}")
        sums = [
            session.execute("SELECT md5(string_agg(id || ' ' || ticket_id, ',' ORDER BY id)) FROM replies").fetchone() for _, session in regions
        ]
        assert sums[0] == sums[1]
        # Each made its own.
        made = regions[0][1].execute("SELECT snowflake_worker_id(id), count(*) FROM tickets GROUP BY 1 ORDER BY 1").fetchall()
        assert made == [(1, written[0]), (2, written[1])]
        conflicts = []
        for server, session in regions:
            assert "duplicate key" not in server.log
            assert "conflict detected" not in server.log
            if installation.major >= 18:
                columns = [row[0] for row in session.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'pg_stat_subscription_stats'::regclass AND attname LIKE 'confl%'")]
                assert len(columns) >= 6
                conflicts.append(session.execute(f"SELECT {' + '.join(columns)} FROM pg_stat_subscription_stats").fetchone()[0])
            for statement in "ALTER SUBSCRIPTION s DISABLE", "ALTER SUBSCRIPTION s SET (slot_name = NONE)", "DROP SUBSCRIPTION s":
                session.execute(statement)
        assert not any(conflicts)
        print(f"{installation.version.split()[1]}: {written[0]} and {written[1]} tickets in {11 * pause:.0f} s, link cut 5 times; conflicts: {conflicts or 'none logged'}")


def run_file(server, name):
    server.psql((EXAMPLES / name).read_text().replace("CREATE EXTENSION IF NOT EXISTS snowflake_id;", ""))


# Many clients, through a pooler and two routers, while the cluster changes


@pytest.mark.once("postgres_fdw and replication do that on every version")
def test_storm(installation):
    """A shard joins, the registry is out, a shard is killed and its standby promoted, a router dies: no id is lost, none is there twice."""
    clients, rows = (64, ROWS) if ROWS else (16, 12_000)
    with sharded(installation, routers=2, standby=True) as cluster:
        with (
            Balancer(installation, cluster.routers) as balancer,
            Pooler(installation, balancer.port, size=24) as pooler,
        ):
            eventually(lambda: reaches(pooler), "the pooler reaches a router")
            if ROWS:
                cost_of_ids(pooler)
                for shard in cluster.shards:
                    shard.psql("TRUNCATE orders, order_log", DATABASE)
            part = rows // 6
            with Storm(pooler.conninfo(), clients) as storm:
                storm.wait_for(part, 3600)
                storm.event("a shard joins, and gets three partitions")
                fourth = cluster.add_shard()
                for number in 0, 4, 8:
                    cluster.move(number, fourth)
                storm.wait_for(part, 3600)
                storm.event("the registry is out")
                cluster.registry.stop("immediate")
                storm.wait_for(part, 3600)
                storm.event("the registry is back")
                cluster.registry.start()
                storm.wait_for(part // 2, 3600)
                storm.event("a shard is killed, its standby promoted")
                cluster.fail_over(1)
                storm.wait_for(part, 3600)
                storm.event("a router dies")
                cluster.routers[0].kill9()
                storm.wait_for(part // 2, 3600)
                storm.event("the router is back")
                cluster.routers[0].start()
                storm.wait_for(max(part, rows - storm.rows()), 3600)
            storm.report()
            storm.judge(cluster.shards)
        log = "SELECT count(*), count(DISTINCT id), bool_and(id > order_id) FROM order_log"
        assert cluster.routers[1].psql(log, DATABASE).endswith("|t")


def reaches(pooler):
    try:
        psycopg.connect(pooler.conninfo(), connect_timeout=5).close()
    except psycopg.Error:
        return False
    return True


def cost_of_ids(pooler):
    """INSERTs whose ids are the default against INSERTs that bring theirs, in turn, through the whole chain."""
    rounds, statements, pairs = 60, 40, []
    chance = random.Random(1)
    with psycopg.connect(pooler.conninfo(), autocommit=True, prepare_threshold=None) as connection:
        ids = iter(row[0] for _ in range(2) for row in connection.execute("SELECT snowflake_batch(%s)", [rounds * statements * LINES // 2 + LINES]))

        def default():
            for _ in range(statements):
                connection.execute(f"INSERT INTO orders (customer, amount) SELECT 1, n FROM generate_series(1, {LINES}) AS n")

        def brought():
            for _ in range(statements):
                mine = [next(ids) for _ in range(LINES)]
                connection.execute("INSERT INTO orders (id, customer, amount) SELECT id, 1, n FROM unnest(%s::bigint[]) WITH ORDINALITY AS t (id, n)", [mine])

        default()
        for _ in range(rounds - 1):
            order = [default, brought]
            chance.shuffle(order)
            times = {call: timed(call) for call in order}
            pairs.append(times[default] / times[brought])
    ratios = numpy.sort(pairs)
    middle = numpy.median(ratios)
    spread = 1.25 * ratios.std() / len(ratios) ** 0.5
    print(f"INSERTs by default take {100 * (middle - 1):+.1f} % ± {200 * spread:.1f} % of those that bring their ids, in {len(pairs)} pairs of {statements * LINES} rows")
    assert middle < 1.03
