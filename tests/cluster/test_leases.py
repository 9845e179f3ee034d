"""No id twice when worker ids are leased, whatever becomes of the registry, of the network before it, and of the nodes.

Heartbeats are short here. A lease is an hour, unless its end is what a test is about: no test then depends on
how fast the machine is.
"""

import base64
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import time
import types
import urllib.request

import psycopg
import pytest
from clients import Load, eventually
from nodes import (
    BATCH,
    IDS,
    Lessee,
    duplicates,
    frozen,
    next_id,
    refusal,
    seconds,
)
from registries import (
    HOST,
    KINDS,
    Certificates,
    Etcd,
    PostgresRegistry,
    Proxy,
    free_port,
)
from throwaway import Server, ServerError

TERMS = {"heartbeat": "200ms", "lease_duration": "1h", "reservation": "200ms"}
# Ids in most milliseconds, which leaves the processors to others: two nodes with one number would be seen at once.
STEADY = "SELECT snowflake_nextval() FROM pg_sleep(0.001)"
CLAIMED = "this node's lease of a worker id is not valid yet"
ENDED = "this node's lease of a worker id has ended"
NO_LEASE = "this node has no lease of a worker id"
DRAINED = "this node has been drained: it generates no snowflake ids"
TWO_SOURCES = "this node has both a worker id and a registry to lease one from"
TAKEN = "all worker ids from {0} to {1} are taken, {2} of them by nodes that are alive"
ALIVE = TAKEN.format(7, 7, 1)

_numbers = itertools.count(1)


@pytest.fixture
def place():
    """A name in the registry that no other test has."""
    return f"leases{next(_numbers)}"


@pytest.fixture
def start_node(start_server, connect):
    """A function that starts a node and, unless it is not to `wait`, waits until it has a number."""

    def start(address, wait=True, **settings):
        server = start_server(**{"worker_id": None, "registry": address, **TERMS, **settings})
        node = Lessee(server, connect)
        if wait:
            node.flows()
        return node

    return start


@contextlib.contextmanager
def load(*nodes, queries=(STEADY, STEADY)):
    """Sessions that take ids from nodes; they have begun. One Load for each."""
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Load(node.server, *queries)) for node in nodes]
        for each in loads:
            each.wait_for(1)
        yield loads


def told(load):
    """What its sessions were told when there were no ids: SQLSTATE and message of each kind."""
    return {(error.sqlstate, error.diag.message_primary) for errors in load.errors for error in errors}


def verdict(*received):
    """Figures, and that no id was received twice."""
    twice = duplicates(*received)
    assert twice == 0
    return f"{sum(map(len, received))} ids of {len(received)} nodes: {twice} duplicates"


def numbers_of(ids):
    """The worker ids in ids of the default layout."""
    return {number >> 12 & 1023 for number in ids}


# Numbers


def test_each_node_has_a_number_of_its_own(registry, place, start_node, copies, connect):
    """Also a copy beside its original; and a node that is killed comes back with its own, above all that it has made."""
    address = registry.address(place)
    nodes = [start_node(address) for _ in range(3)]
    numbers = [node.number() for node in nodes]
    with load(*nodes, queries=(IDS, BATCH)) as loads:
        for each in loads:
            each.wait_for(5000)
        killed = nodes[0]
        claims = killed.claims()
        killed.server.kill9()
        before = loads[0].stop()
        killed.restart()
        with load(killed, queries=(IDS, BATCH)) as (again,):
            copy = Lessee(copies.make(nodes[1].server), connect)
            numbers.append((copy.flows(), copy.number())[1])
            with load(copy, queries=(IDS, BATCH)) as (copied,):
                for each in again, copied, *loads[1:]:
                    each.wait_for(5000)
                received = [each.stop() for each in (again, copied, *loads[1:])]
    after = received[0]
    assert killed.number() == numbers[0]
    # At once: it did not have to wait for others to object.
    assert killed.claims() == claims
    assert CLAIMED not in {message for _, message in told(again)}
    first, last = min(after), max(before)
    assert first > last
    assert len(set(numbers)) == 4
    for ids, number in zip([before, *received], [numbers[0], numbers[0], numbers[3], *numbers[1:3]], strict=True):
        assert numbers_of(ids) == {number}
    assert all(told(each) == set() for each in loads[1:])
    print(f"{verdict(before, *received)}, 1 kill -9, 1 copy")


def test_regions(start_registry, start_node):
    """Two registries that know nothing of each other, and ranges that do not meet."""
    regions = {Etcd: range(512), PostgresRegistry: range(512, 1024)}
    nodes = []
    for kind, numbers in regions.items():
        address = start_registry(kind).address("here")
        for _ in range(2):
            nodes.append(start_node(address, worker_id_range=f"{numbers[0]}-{numbers[-1]}"))
            assert nodes[-1].number() in numbers
    with load(*nodes) as loads:
        for each in loads:
            each.wait_for(100)
        received = [each.stop() for each in loads]
    for ids, node in zip(received, nodes, strict=True):
        assert numbers_of(ids) == {node.number()}
    print(f"{verdict(*received)}, 2 regions")


def test_another_layout(start_registry, start_node):
    """One registry, one layout and epoch: those of others would collide, or read each other's ids wrongly."""
    address = start_registry(Etcd).address("here")
    start_node(address)
    for settings in {"layout": "timestamp:42,worker:9,sequence:12"}, {"epoch": "2020-01-01 00:00:00+00"}:
        node = start_node(address, wait=False, **settings)
        node.state("no_lease", "lease for another layout")
        diag = node.refused("no_lease")
        assert (diag.sqlstate, diag.message_primary) == ("55P03", NO_LEASE)
        assert "is a lease for another layout: timestamp:41,worker:10,sequence:12" in diag.message_detail
        # The layout alone would not tell the two apart.
        assert "2025-01-01 00:00:00+00" in diag.message_detail


def test_a_crash_after_a_long_rest(start_registry, start_node):
    """Its record knows only of the lease that there was at its last id. It waits for others to object, and for nothing else."""
    node = start_node(start_registry(Etcd).address("here"))
    number, claims = node.number(), node.claims()
    before = next_id(node.connection)
    # While calls are expected, windows are renewed, and the record knows of the present lease.
    resting = "SELECT clock > reserved_until + interval '2 s' FROM snowflake_status"
    eventually(lambda: node.connection.execute(resting).fetchone() == (True,))
    node.sql("UPDATE snowflake_id_node.high_water_marks SET lease_until = clock_timestamp()")
    node.restart(node.server.kill9)
    # Over no other error than that there is no lease yet.
    assert node.flows() > before
    assert node.number() == number
    assert node.claims()[-1:] == [number] and len(node.claims()) > len(claims)


# The registry fails


# What a node says of a registry that has stopped, and of one that does not answer.
TROUBLE = {
    "stop": {
        "etcd": r"etcd at 127\.0\.0\.1:\d+ cannot be reached: Connection refused \(os error 111\)",
        "zookeeper": r"ZooKeeper at 127\.0\.0\.1:\d+ cannot be reached: Connection refused \(os error 111\)",
        "postgres": r"PostgreSQL at 127\.0\.0\.1:\d+/\w+ cannot be reached: Connection refused \(os error 111\)",
    },
    "pause": {
        "etcd": r"etcd at 127\.0\.0\.1:\d+ cannot be reached: no answer within 3 s",
        "zookeeper": r"ZooKeeper at 127\.0\.0\.1:\d+ cannot be reached: (no answer|it accepts connections and does not)",
        "postgres": r"PostgreSQL at 127\.0\.0\.1:\d+/\w+ cannot be reached: no answer within 3 s",
    },
}


def test_a_lease_that_is_not_renewed_is_in_the_log(start_registry, start_node):
    """While ids flow: once, with the time at which they will not; also by the lease on disk, after a restart; and when it has passed."""
    registry = start_registry(Etcd)
    node = start_node(registry.address("here"))
    registry.stop()
    not_renewed, renewed = "this node's lease of a worker id is not renewed", "snowflake_id: the lease is renewed again"
    said = rf"WARNING:  snowflake_id: {not_renewed}\n.*DETAIL:  Since [-\d]+ \S+: {TROUBLE['stop']['etcd']}\.\n.*HINT:  Ids flow until .* at ([-\d]+ \S+)\. "
    eventually(lambda: re.search(said, node.server.log))
    until = re.search(said, node.server.log)[1]
    assert node.sql(f"SELECT leased_until = '{until}' FROM snowflake_status").fetchone() == (True,)
    next_id(node.connection)
    node.restart(node.server.kill9)
    eventually(lambda: node.server.log.count(not_renewed) == 2)
    next_id(node.connection)
    # Which is seen as before.
    left = "SELECT leased_until > clock, lease_left > interval '50 min' FROM snowflake_status, pg_stat_snowflake"
    assert node.sql(left).fetchone() == (True, True)
    registry.start()
    eventually(lambda: renewed in node.server.log)
    node.state("ready")
    assert (node.server.log.count(not_renewed), node.server.log.count(renewed)) == (2, 1)


@pytest.mark.parametrize("fault", ["stop", "pause"])
def test_the_registry_fails(registry, place, start_node, fault):
    """Ids flow until the end of the lease and not beyond; they come back with the registry, by themselves."""
    # The trouble is seen at once, or after the time that a call may take.
    short = {"lease_duration": {"stop": "2s", "pause": "5s"}[fault]}
    node = start_node(registry.address(place), **short)
    # Its lease ends as well, while nobody asks it for anything.
    idle = start_node(registry.address(place), **short)
    number = node.number()
    trouble = TROUBLE[fault][registry.SCHEME]
    with load(node) as (ids,):
        getattr(registry, fault)()
        node.state("lease_ended", trouble)
        diag = node.refused("lease_ended")
        row = node.status()
        assert (diag.sqlstate, diag.message_primary) == ("55P03", ENDED)
        assert re.fullmatch(rf"It ended at {row.leased_until:%F %T}\S+\. {trouble}.*\.", diag.message_detail, re.IGNORECASE)
        eventually(lambda: all(ids.errors))
        assert told(ids) == {("55P03", ENDED)}
        # Ids flowed on in the trouble, to the end.
        last, end = seconds(max(ids.ids())), row.leased_until.timestamp()
        assert row.registry_trouble_since.timestamp() < last < end
        eventually(lambda: re.match(trouble, idle.status().registry_trouble or ""), "the other one knows of it")
        eventually(lambda: idle.status().leased_until < idle.status().clock)
        assert idle.refused("lease_ended").message_primary == ENDED
        # It wants to give its lease back, and nobody is there who takes it.
        idle.server.stop()
        getattr(registry, {"stop": "start", "pause": "resume"}[fault])()
        ids.wait_for(100)
        row = node.state("ready")
        assert (row.reason, row.worker_id) == (None, number)
        assert (row.registry_trouble, row.registry_trouble_since) == (None, None)
        assert row.leased_until.timestamp() > end
        received = ids.stop()
    print(f"{verdict(received)}, lease over {end - last:.3f} s after the last one, {registry.SCHEME}: {fault}")


def test_crashes_while_the_registry_is_away(start_registry, start_node):
    """A crash, a restart, a stop in order: the lease on its own disk is as good as that of a node that runs."""
    registry = start_registry(Etcd)
    node = start_node(registry.address("here"), postgres={"restart_after_crash": "on"})
    # From a stop in order, a node has five heartbeats to come back.
    node.renew(heartbeat="60s", lease_duration="2h")
    number, received, claims = node.number(), [next_id(node.connection)], node.claims()
    registry.stop()

    def crash():
        os.kill(node.connection.info.backend_pid, signal.SIGKILL)
        eventually(lambda: "all server processes terminated; reinitializing" in node.server.log, "the crash is seen")
        node.server.wait_ready()
        node.connect()

    for fall in crash, lambda: node.restart(node.server.kill9), node.restart:
        fall()
        received.append(node.flows())
        row = node.state("ready")
        assert row.worker_id == number
        assert row.registry_trouble.endswith("cannot be reached: Connection refused (os error 111)")
        assert node.claims() == claims
    assert received == sorted(set(received))
    # Once that lease has ended, nobody knows whose the worker id is.
    node.sql("UPDATE snowflake_id_node.high_water_marks SET lease_until = clock_timestamp()")
    node.server.configure({"snowflake_id.heartbeat": "200ms"})
    node.restart(node.server.kill9)
    assert node.refused("no_lease").sqlstate == "55P03"
    registry.start()
    assert node.flows() > received[-1]


def test_one_host_is_silent(registry, place, start_node):
    """Of several hosts, one accepts connections and never answers: another one is asked."""
    address, here = registry.address(place), f"{HOST}:{registry.port}"
    with silent() as server:
        start_node(address.replace(here, f"{HOST}:{server.getsockname()[1]},{here}"))


def test_a_partition(registry, place, proxy, start_node):
    """A node that is cut off generates ids to its lease's end; from there on another node has its number."""
    address = registry.address(place)
    only = {"lease_duration": "2s", "worker_id_range": "7-7"}
    one = start_node(registry.address(place, port=proxy.port), **only)
    with load(one) as (ids,):
        # It waits for the number while it is there: no hole in which it could come too late. And it keeps the number.
        two = start_node(address, wait=False, **{**only, "lease_duration": "1h"})
        two.state("no_lease", ALIVE)
        proxy.cut()
        two.flows()
        end = one.state("lease_ended").leased_until
        with load(two) as (others,):
            others.wait_for(100)
            proxy.heal()
            # It learns what has happened, and that there is nothing else to have.
            one.state("lease_ended", ALIVE)
            one.refused("lease_ended", rf"^It ended at .+\+00\. (Another node has the worker id now|A{ALIVE[1:]})\.$")
            one.configure(worker_id_range="7-8")
            eventually(lambda: one.number() == 8)
            for each in ids, others:
                each.wait_for(100)
            received = [each.stop() for each in (ids, others)]
    assert told(ids) <= {("55P03", ENDED), ("55P03", NO_LEASE), ("55P03", CLAIMED)}
    assert told(others) == set()
    assert [numbers_of(part) for part in received] == [{7, 8}, {7}]
    last, first = max(number for number in received[0] if numbers_of([number]) == {7}), min(received[1])
    assert seconds(last) < end.timestamp() <= seconds(first)
    print(f"{verdict(*received)}, 1 partition: the number was free for {seconds(first) - seconds(last):.2f} s")


def test_a_frozen_node(registry, place, start_node):
    """As when a virtual machine is paused, for longer than its lease: whoever has the number then, the ids are other ones."""
    address = registry.address(place)
    one = start_node(address, lease_duration="2s", worker_id_range="7-7")
    with load(one) as (ids,):
        ids.wait_for(100)
        with frozen(one.server):
            two = start_node(address, worker_id_range="7-7")
            with load(two) as (others,):
                others.wait_for(100)
                received = [others.stop()]
        with load(two) as (others,):
            one.state("lease_ended", ALIVE)
            others.wait_for(100)
            received.append(others.stop())
        first = ids.stop()
    assert numbers_of(first) == numbers_of(received[0]) == {7}
    assert told(ids) <= {("55P03", ENDED), ("55P03", NO_LEASE)}
    print(f"{verdict(first, received[0] + received[1])}, all processes of one stopped for longer than its lease")


def test_the_number_comes_back(start_registry, start_node, copies):
    """To a node that had lost it: of what the other one made, nothing, even if the clock goes back there."""
    registry, clock = start_registry(Etcd), copies.clock()
    only = {"lease_duration": "2s", "worker_id_range": "7-7"}
    with Proxy(registry.port) as proxy:
        one = start_node(registry.address("here", port=proxy.port), server_options={"clock": clock}, **only)
        before = [next_id(one.connection)]
        proxy.refuse()
        two = start_node(registry.address("here"), **only)
        with load(two) as (ids,):
            ids.wait_for(300)
            others = ids.stop()
        two.server.stop()
        end = one.status().leased_until
        proxy.heal()
        # Without asking for an id: it would be above them all.
        eventually(lambda: (row := one.status()).state == "ready" and row.leased_until > end)
        # To when the other one generated its ids.
        clock.offset(seconds(others[0]) - time.time())
        with load(one) as (ids,):
            ids.wait_for(300)
            after = ids.stop()
    assert numbers_of(before + others + after) == {7}
    print(f"{verdict(before + after, others)}, 1 step back")


def test_calls_that_hang_leave_no_connections_behind(start_registry, start_node):
    """In a PostgreSQL registry, where others need them."""
    registry = start_registry(PostgresRegistry)
    node = start_node(registry.address("here"))
    connections = "SELECT pid FROM pg_stat_activity WHERE application_name = 'snowflake_id lease'"
    seen = set()
    with psycopg.connect(registry.address("here")) as session, psycopg.connect(registry.address("here"), autocommit=True) as look:

        def several():
            now = {pid for (pid,) in look.execute(connections)}
            seen.update(now)
            return len(seen) > 4 and now

        session.execute("LOCK TABLE snowflake_id_node.registry")
        node.state("ready", "PostgreSQL at .* cannot be reached: no answer within 3 s")
        # The one in use, and one that the server has not missed yet.
        assert len(eventually(several)) <= 2
        session.rollback()
        eventually(lambda: node.status().registry_trouble is None)


def test_a_registry_that_does_not_wait_for_its_standby(start_registry, start_node):
    """A commit whose wait was cancelled succeeds with a warning, and is lost if the standby takes over: no renewal."""
    registry = start_registry(PostgresRegistry)
    node = start_node(registry.address("here"))
    registry.configure({"synchronous_standby_names": "nobody"})
    cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    refused = "^PostgreSQL at .* refuses: canceling wait for synchronous replication due to user request$"
    failures = "SELECT lease_failures FROM pg_stat_snowflake"

    def refusals(above):
        registry.ask(cancel)
        row = node.status()
        (count,) = node.sql(failures).fetchone()
        return count > above and re.search(refused, row.registry_trouble or "") and (count, row.leased_until)

    count, until = eventually(lambda: refusals(0), "the warning is a refusal")
    assert eventually(lambda: refusals(count + 2), "more of them")[1] == until
    assert node.flows()
    registry.configure({"synchronous_standby_names": ""})
    eventually(lambda: (row := node.status()).leased_until > until and row.registry_trouble is None, "a renewal")


# The registry forgets


def renewed(*nodes):
    """Wait until nodes have renewed their leases."""
    before = [node.status().leased_until for node in nodes]
    eventually(lambda: all(node.status().leased_until > end for node, end in zip(nodes, before, strict=True)))


def test_a_restored_registry(registry, place, proxy, start_node):
    """From a backup that does not know all nodes: one objects to a newcomer who claims its number, and keeps it.

    For those that are away nobody objects. They find out that they have lost their numbers, and take other ones.
    """
    # Slow: the newcomer waits for 3 s, in which it must be seen here, the network healed, and the other must object. It
    # has been started before.
    slow = {"heartbeat": "2s"}
    address = registry.address(place)
    one = start_node(address, worker_id_range="0-0")
    registry.backup()
    two = start_node(registry.address(place, port=proxy.port), worker_id_range="1-1")
    away = [start_node(address, worker_id_range="2-5") for _ in range(2)]
    numbers = [node.number() for node in away]
    with load(*away) as loads:
        for each in loads:
            each.wait_for(100)
        before = [each.stop() for each in loads]
    away[0].server.stop()
    away[1].server.kill9()
    for node in one, two:
        node.renew(**slow)
    newcomer = start_node(None, wait=False, worker_id_range="1-1", **slow)
    newcomer.state("no_worker_id")
    with load(one, two) as loads:
        # So that the newcomer comes first.
        proxy.refuse()
        registry.restore()
        newcomer.configure(registry=address)
        newcomer.state("lease_claimed")
        proxy.heal()
        followers = [start_node(address, worker_id_range=f"{number}-{number}") for number in numbers]
        for node in away:
            node.restart()
            node.flows()
        newcomer.state("no_lease", TAKEN.format(1, 1, 1))
        assert newcomer.claims() == [1]
        with load(*followers, *away) as more:
            for each in *loads, *more:
                each.wait_for(100)
            after = [each.stop() for each in (*loads, *more)]
    assert [told(each) for each in loads] == [set(), set()]
    assert [numbers_of(ids) for ids in after[:4]] == [{0}, {1}, *({number} for number in numbers)]
    assert {node.number() for node in away} == {2, 3, 4, 5} - set(numbers)
    for mine, theirs in zip(before, after[2:4], strict=True):
        first, last = min(theirs), max(mine)
        assert first > last
    print(f"{verdict(*before, *after)}, restored from a backup that knew 1 of 4, while 1 was stopped and 1 had crashed")


def empty(registry, name):
    """Delete all that the registry has under a name, under the eyes of the nodes."""
    if registry.SCHEME == "postgres":
        with psycopg.connect(registry.address(name), autocommit=True) as session:
            session.execute("TRUNCATE snowflake_id_node.registry")
    elif registry.SCHEME == "etcd":
        first, end = (base64.b64encode(key.encode()).decode() for key in (f"/{name}/", f"/{name}0"))
        body = json.dumps({"key": first, "range_end": end}).encode()
        with urllib.request.urlopen(f"http://{HOST}:{registry.port}/v3/kv/deleterange", body) as answer:
            assert int(json.load(answer)["deleted"]) > 0
    else:
        jars = ":".join(f"/usr/share/java/{name}.jar" for name in ("zookeeper", "slf4j-simple", "commons-cli"))
        tool = ["java", "-cp", jars, "org.apache.zookeeper.ZooKeeperMain", "-server", f"{HOST}:{registry.port}"]
        # Where a node writes its lease again before all has been deleted, it says so, and that is all.
        subprocess.run([*tool, "deleteall", f"/{name}"], check=True, capture_output=True)


def test_an_emptied_registry(registry, place, start_node):
    """Nodes that run write their leases again."""
    address = registry.address(place)
    nodes = [start_node(address, worker_id_range=f"{number}-{number}") for number in (7, 8)]
    with load(*nodes) as loads:
        empty(registry, place)
        renewed(*nodes)
        newcomer = start_node(address, wait=False, worker_id_range="7-8")
        newcomer.state("no_lease", TAKEN.format(7, 8, 2))
        assert newcomer.claims() == []
        for each in loads:
            each.wait_for(100)
        received = [each.stop() for each in loads]
    assert [told(each) for each in loads] == [set(), set()]
    print(f"{verdict(*received)}, all leases deleted")


@pytest.mark.parts("etcd")
def test_a_registry_goes_back_to_an_earlier_run(start_registry, start_node):
    """A node knows its own records, also those of long ago."""
    registry = start_registry(Etcd)
    node = start_node(registry.address("here"), worker_id_range="0-1")
    number = node.number()
    registry.backup()
    for end in node.server.stop, node.server.kill9:
        node.restart(end)
        node.flows()
    with load(node) as (ids,):
        registry.restore()
        renewed(node)
        ids.wait_for(100)
        received = ids.stop()
    assert told(ids) == set()
    assert numbers_of(received) == {number}
    assert "is being used by another node" not in node.server.log
    print(f"{verdict(received)}, restored to before 2 restarts")


@pytest.mark.parts("etcd")
def test_a_registry_with_a_password_goes_back(start_registry, start_node):
    """etcd keeps waiting whoever comes with a token of its own future. The node then asks for another one."""
    registry = start_registry(Etcd, password="right")
    node = start_node(registry.address("here"))
    registry.backup()
    # Its token is of after the backup.
    node.restart()
    node.flows()
    with load(node) as (ids,):
        registry.restore()
        renewed(node)
        ids.wait_for(100)
    assert told(ids) == set()


def records_in(session):
    """What a PostgreSQL registry holds."""
    return session.execute("SELECT number, revision, record::text FROM snowflake_id_node.registry").fetchall()


def put_back(session, records):
    """It holds this again, without a pause, as a virtual machine that goes back to a snapshot."""
    with session.transaction():
        session.execute("DELETE FROM snowflake_id_node.registry")
        for record in records:
            session.execute("INSERT INTO snowflake_id_node.registry VALUES (%s, %s, %s::jsonb, '-infinity')", record)


def test_a_registry_goes_back_to_before_a_clean_stop(start_registry, start_node):
    """The number was given back since, and another node has it: it must have the time to object."""
    registry = start_registry(PostgresRegistry)
    address = registry.address("here")
    one = start_node(address, worker_id_range="7-8")
    number = one.number()
    before = [next_id(one.connection)]
    with Proxy(registry.port) as proxy, psycopg.connect(address, autocommit=True) as records:
        backup = records_in(records)
        one.server.stop()
        two = start_node(registry.address("here", port=proxy.port), worker_id_range=f"{number}-{number}")
        with load(two) as (ids,):
            proxy.refuse()
            put_back(records, backup)
            # It waits for 3 s, in which the network must be healed here, and the other must object. Its start takes
            # none of that: it does not know yet whom to ask.
            one.server.configure({"snowflake_id.heartbeat": "2s", "snowflake_id.registry": None})
            one.server.start()
            one.connect()
            one.state("no_worker_id")
            one.configure(registry=address)
            one.state("lease_claimed")
            proxy.heal()
            eventually(lambda: one.number() not in (None, number))
            after = [one.flows()]
            ids.wait_for(100)
            others = ids.stop()
    assert told(ids) == set()
    assert numbers_of(others) == {number}
    print(f"{verdict(before, after, others)}, restored to before a clean stop")


@pytest.mark.parametrize("name", ["another", "its own"])
def test_another_node_uses_the_number(start_registry, start_node, name):
    """A node that finds that out generates not one more id with it. By its own name, it is a clone that runs beside it."""
    address = start_registry(PostgresRegistry).address("here")
    node = start_node(address, heartbeat="1s")
    number = node.number()
    name = {"another": "another", "its own": node.status().node}[name]
    with psycopg.connect(address, autocommit=True) as records, load(node) as (ids,):
        other = "jsonb_build_object('nonce', 'other', 'node', %s::text, 'updated_at', floor(extract(epoch FROM now()) * 1e6))"
        records.execute(f"UPDATE snowflake_id_node.registry SET revision = revision + 1, record = record || {other}", [name])
        # Not at once: it goes without ids until it may use another number.
        eventually(lambda: told(ids))
        eventually(lambda: node.number() not in (None, number))
        ids.wait_for(100)
        received = ids.stop()
    assert told(ids) <= {("55P03", CLAIMED), ("55P03", NO_LEASE), ("55P03", "snowflake ids are not available yet")}
    assert numbers_of(received) == {number, node.number()}
    assert "WARNING:  snowflake_id: this node's worker id is being used by another node" in node.server.log
    detail = f"A node that calls itself {name} (" if name != "another" else "Node another ("
    assert detail in node.server.log


def test_a_registry_restored_after_the_end_of_a_lease(start_registry, start_node):
    """Who was cut off, and finds its old lease in a registry that has forgotten who followed, has no right to go on."""
    registry = start_registry(PostgresRegistry)
    address = registry.address("here")
    # Slow: whoever claims a number waits for 3 s, in which the other one notices.
    slow = {"heartbeat": "2s"}
    only = {"lease_duration": "6s", "worker_id_range": "7-7"}
    with Proxy(registry.port) as proxy, psycopg.connect(address, autocommit=True) as records:
        one = start_node(registry.address("here", port=proxy.port), **only)
        one.renew(**slow)
        backup = records_in(records)
        with load(one) as (ids,):
            proxy.refuse()
            two = start_node(address, **only)
            two.renew(**slow)
            with load(two) as (others,):
                # Right behind its heartbeat: it notices with the next one.
                before = two.status().leased_until
                eventually(lambda: two.status().leased_until > before)
                put_back(records, backup)
                proxy.heal()
                one.state("lease_ended", ALIVE)
                others.wait_for(100)
                received = [each.stop() for each in (ids, others)]
    assert told(others) == set()
    assert [numbers_of(part) for part in received] == [{7}, {7}]
    print(f"{verdict(*received)}, restored to before the second took the number that the first had lost")


# The terms change


def test_ids_far_ahead_of_the_clock(start_registry, start_node):
    """The lease reaches as far as ids may, and is not taken for one that has ended."""
    # 8,000 ids are a second: a few calls take more than any machine needs for them.
    layout = "timestamp:41,worker:10,sequence:3"
    node = start_node(start_registry(Etcd).address("here"), lease_duration="5s", max_ahead="1h", heartbeat="500ms", layout=layout)
    claims = node.claims()
    ahead = "SELECT snowflake_timestamp(snowflake_nextval()) > clock_timestamp() + %s::interval"

    def made(interval):
        node.sql("SELECT count(*) FROM snowflake_batch(400000)")
        return node.connection.execute(ahead, [interval]).fetchone()[0]

    # Further ahead than the lease is long.
    eventually(lambda: made("1 min"))
    renewed(node)
    eventually(lambda: made("5 min"))
    assert node.claims() == claims


def test_terms_that_do_not_fit(start_registry, start_node):
    """The node goes on by those that it had, and says so."""
    node = start_node(start_registry(Etcd).address("here"), lease_duration="10s")
    with load(node) as (ids,):
        node.configure(heartbeat="5s")
        eventually(lambda: "A lease (snowflake_id.lease_duration) is shorter than three heartbeats" in node.server.log)
        # Beyond the end of the lease that it had then.
        end = time.time() + 10
        eventually(lambda: seconds(max(ids.ids())) > end)
        ids.stop()
    assert told(ids) == set()



def test_a_clock_that_is_not_believed(start_registry, start_node, copies):
    """It does not move the end of a lease."""
    address, clock = start_registry(Etcd).address("here"), copies.clock()
    node, other = start_node(address, server_options={"clock": clock}), start_node(address)
    ahead = next_id(node.connection)
    clock.offset(864_000)
    node.state("clock_jumped")
    for _ in range(3):
        renewed(other)
    end = node.status().leased_until.timestamp()
    assert end < time.time() + 3600
    clock.offset(0)
    assert node.flows() > ahead
    eventually(lambda: node.status().leased_until.timestamp() > end)


def test_a_shorter_lease(start_registry, start_node):
    """The end that a lease has does not come nearer: ids may have been reserved up to there."""
    node = start_node(start_registry(Etcd).address("here"), lease_duration="1h", reservation="1min")
    with load(node) as (ids,):
        end = node.status().leased_until
        node.renew(lease_duration="1s")
        row = node.status()
        assert row.state == "ready" and row.leased_until >= end
        assert node.number() == row.worker_id
        # All that may be made lies within it.
        assert row.reserved_until <= row.leased_until
        ids.wait_for(100)
    assert told(ids) == set()


# Numbers are given back


def test_a_clean_stop(registry, place, start_node):
    """The number waits for its node for five heartbeats, and is then free, long before the lease would have ended."""
    address = registry.address(place)
    one = start_node(address, worker_id_range="7-7")
    two = start_node(address, wait=False, worker_id_range="7-7")
    two.state("no_lease", ALIVE)
    diag = two.refused("no_lease", f"^A{ALIVE[1:]}\\.$")
    assert (diag.sqlstate, diag.message_primary) == ("55P03", NO_LEASE)
    # Time enough for any machine to restart.
    one.renew(heartbeat="10s")
    before = next_id(one.connection)
    claims = one.claims()
    one.server.stop()
    two.state("no_lease", TAKEN.format(7, 7, 0))
    one.restart()
    again = next_id(one.connection)
    one.state("ready")
    assert one.claims() == claims
    assert again > before
    one.renew(heartbeat="200ms")
    stopped = time.time()
    one.server.stop()
    number = two.flows()
    assert numbers_of([before, again, number]) == {7}
    assert stopped < seconds(number)
    one.restart()
    one.state("no_lease", ALIVE)
    print(f"another node has the number {seconds(number) - stopped:.1f} s after the stop, heartbeat 0.2 s")


def test_release(registry, place, start_node, connect):
    """A number is exchanged for another one, and is at once free; also if no id has been generated with it."""
    address = registry.address(place)
    one = start_node(address, worker_id_range="0-3")
    # Its number lies idle.
    two = start_node(address, wait=False, worker_id_range="0-3")
    two.state("ready")
    numbers = [one.number(), two.number()]
    one.sql("CREATE ROLE app")
    for function in "drain", "resume", "release_worker_id":
        with connect(one.server) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("SET ROLE app")
            app.execute(f"SELECT snowflake_{function}()")
    with load(one) as (ids,):
        for node in one, two:
            node.sql("SELECT snowflake_release_worker_id()")
        eventually(lambda: one.number() not in (None, *numbers))
        others = [start_node(address, worker_id_range=f"{number}-{number}") for number in numbers]
        with load(*others) as loads:
            for each in ids, *loads:
                each.wait_for(100)
            received = [each.stop() for each in (ids, *loads)]
    assert numbers_of(received[0]) == {numbers[0], one.number()}
    assert [numbers_of(part) for part in received[1:]] == [{number} for number in numbers]
    assert told(ids) <= {("55P03", CLAIMED), ("55P03", NO_LEASE)}
    print(f"{verdict(*received)}, 2 numbers released")


def test_rotation(start_registry, start_node):
    """From a worker id that is set to a leased one, to one of another range, and back: nobody gets an error."""
    address = start_registry(Etcd).address("here")
    # A claim takes longer than a window lasts.
    node = start_node(None, worker_id=5, heartbeat="500ms")
    number = 5
    seen = [number]
    with load(node, queries=(STEADY, "SELECT snowflake_nextval()")) as (ids,):
        for settings in (
            {"worker_id": None, "registry": address, "worker_id_range": "10-19"},
            {"worker_id_range": "20-29"},
            {"worker_id": 6, "registry": None},
        ):
            ids.wait_for(100)
            node.configure(**settings)
            number = eventually(lambda before=number: (now := node.number()) != before and now)
            seen.append(number)
        ids.wait_for(100)
        assert told(ids) == set()
        # What was leased has been given back.
        others = [start_node(address, worker_id_range=f"{number}-{number}") for number in seen[1:3]]
        with load(*others) as loads:
            for each in ids, *loads:
                each.wait_for(100)
            received = [each.stop() for each in (ids, *loads)]
    assert seen[0] == 5 and 10 <= seen[1] <= 19 and 20 <= seen[2] <= 29 and seen[3] == 6
    assert numbers_of(received[0]) == set(seen)
    assert told(ids) == set()
    row = node.status()
    assert (row.state, row.leased_until, row.registry_trouble) == ("ready", None, None)
    print(f"{verdict(*received)}, 4 numbers of one node one after the other without an error")


def test_a_number_is_given_back_from_behind_its_last_id(start_registry, start_node):
    """Also where the old one goes on for long, while the keeper writes the record of the new one."""
    registry = start_registry(PostgresRegistry)
    address = registry.address("here")
    node = start_node(address, worker_id_range="5-5", reservation="20s")
    waits = "SELECT FROM pg_stat_activity WHERE backend_type = 'snowflake_id keeper' AND wait_event_type = 'Lock'"
    with load(node) as (ids,), psycopg.connect(node.server.conninfo()) as session:
        session.execute("SELECT FROM snowflake_id_node.high_water_marks FOR UPDATE")
        node.configure(worker_id_range="6-6")
        eventually(lambda: node.sql(waits).fetchall())
        ids.wait_for(100)
        session.rollback()
        eventually(lambda: node.number() == 6)
        ids.wait_for(10)
        received = ids.stop()
    assert told(ids) == set()
    with psycopg.connect(address, autocommit=True) as records:
        lease = "SELECT (record->>'until')::bigint FROM snowflake_id_node.registry WHERE number = 5 AND record->>'state' = 'released'"
        ((until,),) = eventually(lambda: records.execute(lease).fetchall())
    last = max(seconds(number) for number in received if numbers_of([number]) == {5})
    assert last < until / 1e6 <= last + 1


def test_a_leased_number_that_is_set_by_hand(start_registry, start_node):
    """As in a long outage of the registry: it stays the node's until the end of the lease, also over a restart."""
    address = start_registry(PostgresRegistry).address("here")
    node, other = start_node(address, worker_id_range="5-5"), start_node(address, worker_id_range="6-6")
    with load(node) as (ids,), psycopg.connect(address, autocommit=True) as records:
        node.configure(worker_id=5, registry=None)
        eventually(lambda: node.status().leased_until is None)
        lease = "SELECT record FROM snowflake_id_node.registry WHERE number = 5"
        # A heartbeat that was under way may still be written.
        renewed(other)
        before = records.execute(lease).fetchone()
        renewed(other)
        ids.wait_for(100)
        ids.stop()
        node.restart()
        node.flows()
        assert records.execute(lease).fetchone() == before
    assert before[0]["state"] == "held"
    assert told(ids) == set()


def test_rotation_of_an_idle_node(start_registry, start_node):
    """Numbers are given back also if no id has been generated with them."""
    address = start_registry(Etcd).address("here")
    node = start_node(address, wait=False, worker_id_range="10-10")
    node.state("ready")
    node.configure(worker_id_range="20-20")
    eventually(lambda: node.number() == 20)
    node.configure(worker_id=6, registry=None)
    eventually(lambda: node.number() == 6)
    assert [start_node(address, worker_id_range=f"{number}-{number}").number() for number in (10, 20)] == [10, 20]


def test_a_change_of_mind(start_registry, start_node):
    """A number that was only claimed is free again when the node is given another one by hand."""
    address = start_registry(Etcd).address("here")
    # The claim would last for an hour.
    node = start_node(None, worker_id=5, heartbeat="10s")
    with load(node) as (ids,):
        node.configure(worker_id=None, registry=address, worker_id_range="7-7")
        eventually(lambda: node.claims() == [7])
        assert node.status().state == "ready" and node.number() == 5
        node.configure(worker_id=5, registry=None)
        assert start_node(address, worker_id_range="7-7").number() == 7
        ids.wait_for(100)
        received = ids.stop()
    assert told(ids) == set()
    assert numbers_of(received) == {5}
    # It has not gone on to take the number later.
    assert node.claims() == [7]


@pytest.mark.parametrize("source", ["registry", "worker_id"])
def test_drained(start_registry, start_node, source):
    """No ids, also after a stop and a crash, until the node is told otherwise: with a leased number or with any other."""
    address = start_registry(Etcd).address("here") if source == "registry" else None
    node = start_node(address, wait=False, worker_id=None if address else 5)
    marks = "SELECT reserved_until FROM snowflake_id_node.high_water_marks"
    # Before the first id, and after ids.
    for phase in range(2):
        if phase or address:
            node.state("ready")
        node.sql("SELECT snowflake_drain()")
        mark = node.sql(marks).fetchone()[0]
        for end in None, node.server.stop, node.server.kill9:
            if end:
                node.restart(end)
                node.state("drained")
            diag = node.refused("drained")
            assert (diag.sqlstate, diag.message_primary) == ("55000", DRAINED)
            assert diag.message_hint == "To let it generate ids again: SELECT snowflake_resume();"
            if address:
                # What is refused now is not done later.
                diag = refusal(node.connection, "SELECT snowflake_release_worker_id()")
                assert (diag.sqlstate, diag.message_primary) == ("55000", DRAINED)
        with Load(node.server, IDS, BATCH) as ids:
            eventually(lambda ids=ids: all(ids.errors))
            assert told(ids) == {("55000", DRAINED)}
            node.sql("SELECT snowflake_resume()")
            ids.wait_for(100)
            node.sql("SELECT snowflake_drain()")
            behind = node.sql(marks).fetchone()[0]
            received = ids.stop()
            assert mark <= min(received) <= max(received) < behind
            node.sql("SELECT snowflake_resume()")
            assert node.flows() >= behind
        print(f"{verdict(received)}, drained 2 times")


def test_two_sources(start_registry, start_node):
    """A worker id that is set and a registry: which of the two is meant, nobody knows."""
    node = start_node(start_registry(Etcd).address("here"), wait=False, worker_id=5)
    node.state("two_sources")
    diag = node.refused("two_sources")
    assert (diag.sqlstate, diag.message_primary) == ("55000", TWO_SOURCES)
    assert diag.message_detail == "snowflake_id.worker_id and snowflake_id.registry are both set."
    assert "ALTER SYSTEM SET snowflake_id.worker_id = -1;" in diag.message_hint
    # What is refused now is not done later.
    for function in "drain", "resume", "release_worker_id":
        diag = refusal(node.connection, f"SELECT snowflake_{function}()")
        assert (diag.sqlstate, diag.message_primary) == ("55000", TWO_SOURCES)
    node.configure(worker_id=None)
    node.state("ready")
    before = node.flows()
    number = node.number()
    # A node that runs goes on with its lease, which is renewed, and says so once.
    until = node.state("ready").leased_until
    node.configure(worker_id=5)
    unused = f"WARNING:  snowflake_id: the node goes on as it was: {TWO_SOURCES}"
    eventually(lambda: node.server.log.count(unused) == 1)
    eventually(lambda: node.state("ready").leased_until > until)
    assert node.flows() > before
    assert node.number() == number
    assert node.server.log.count(unused) == 1
    # But it does not start by them.
    node.restart()
    node.state("two_sources")
    node.configure(worker_id=None)
    node.state("ready")
    assert node.flows() > before
    assert node.number() == number
    node.configure(worker_id=5, registry=None)
    eventually(lambda: node.number() == 5)
    assert node.flows()
    diag = refusal(node.connection, "SELECT snowflake_release_worker_id()")
    assert (diag.sqlstate, diag.message_primary) == ("55000", "this node's worker id is not leased")


# Secrets, and what else keeps a node out


# In every password here, and in no other word.
SECRET = "s3cr3t"


def silent():
    """A server that accepts connections and never answers."""
    return socket.create_server((HOST, 0), backlog=100)


def broken(kind, start_registry, certificates, others, silent_port):
    """Addresses that do not work, and what a node says of them."""
    scheme, user = kind.SCHEME, f"node:{SECRET}@"
    name = {"etcd": "etcd", "zookeeper": "ZooKeeper", "postgres": "PostgreSQL"}[scheme]
    yield f"{scheme}://{user}{HOST}:{free_port()}/here", rf"{name} at 127\.0\.0\.1\S* cannot be reached: Connection refused"
    yield f"{scheme}://{user}name.invalid:1/here", rf"{name} at name\.invalid\S* cannot be reached: .*(lookup|resolve)"
    yield f"{scheme}://{user}{HOST}:{silent_port}/here", rf"{name} at 127\.0\.0\.1\S* cannot be reached: .*answer"
    registry = start_registry(kind, password=f"right-{SECRET}", certificates=certificates)
    if certificates:
        authority = {kind.OPTIONS[0]: others.authority}
        yield registry.address("here", **authority), rf"{name} at 127\.0\.0\.1\S* cannot be reached: .*UnknownIssuer"
    address = registry.address("here")
    yield address, None
    refuses = {
        "etcd": "authentication failed, invalid user ID or password",
        "zookeeper": "not authorized",
        "postgres": 'password authentication failed for user "postgres"',
    }
    yield address.replace("right-", "wrong-"), rf"{name} at 127\.0\.0\.1\S* refuses: .*{refuses[scheme]}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.SCHEME)
def test_failures_and_secrets(installation, start_registry, certificates, start_node, connect, kind):
    """Each failure has a reason of its own, holds up no stop, and shows the password to nobody."""
    node = start_node(None, worker_id=5)
    node.sql("CREATE ROLE app LOGIN")
    # ZooKeeper's is not for nodes; and not every PostgreSQL is built with it.
    tls = {"etcd": True, "zookeeper": False, "postgres": node.sql("SHOW ssl_library").fetchone() != ("",)}
    certificates, others = certificates if tls[kind.SCHEME] else None, Certificates(installation)
    with silent() as server:
        port = server.getsockname()[1]
        for address, trouble in broken(kind, start_registry, certificates, others, port):
            # Not by a reload: PostgreSQL would log the new value.
            node.server.stop()
            node.server.configure({"snowflake_id.worker_id": None, "snowflake_id.registry": address})
            node.restart()
            app = connect(node.server, user="app")
            if trouble is None:
                node.flows()
            else:
                node.state("no_lease", trouble)
                diag = node.refused("no_lease")
                assert (diag.sqlstate, diag.message_primary) == ("55P03", NO_LEASE)
                assert re.search(trouble, diag.message_detail, re.IGNORECASE)
                shown = [diag.message_detail, diag.message_hint, *app.execute("SELECT * FROM snowflake_status").fetchone()]
                assert SECRET not in str(shown)
            for query in "SHOW snowflake_id.registry", "SELECT current_setting('snowflake_id.registry')":
                assert refusal(app, query).sqlstate == "42501"
            for view in "pg_settings", "pg_stat_activity", "pg_file_settings":
                with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                    assert SECRET not in str(app.execute(f"SELECT * FROM {view}").fetchall())
            assert SECRET not in str(node.sql("SELECT * FROM pg_stat_activity").fetchall())
            assert node.sql("SHOW snowflake_id.registry").fetchone() == (address,)
            node.server.stop("fast")
    assert SECRET not in node.server.log


def certificate(installation, recipe):
    """Files of a server's certificate as PostgreSQL's manual has them made: "self-signed", or signed by an authority."""
    directory = installation.directory()

    def openssl(*arguments):
        installation.run("sh", "-c", f'cd {directory} && exec openssl "$@"', "openssl", *arguments)

    if recipe == "self-signed":
        openssl("req", "-new", "-x509", "-nodes", "-out", "server.pem", "-keyout", "server.key", "-subj", f"/CN={HOST}")
        authority = "server.pem"
    else:
        openssl("req", "-new", "-nodes", "-out", "root.csr", "-keyout", "root.key", "-subj", "/CN=root.example")
        (directory / "ca.conf").write_text("[v3_ca]\nbasicConstraints = critical,CA:true\n")
        extensions = ["-extfile", "ca.conf", "-extensions", "v3_ca"]
        openssl("x509", "-req", "-in", "root.csr", *extensions, "-signkey", "root.key", "-out", "root.pem")
        openssl("req", "-new", "-nodes", "-out", "server.csr", "-keyout", "server.key", "-subj", f"/CN={HOST}")
        signed_by = ["-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial"]
        openssl("x509", "-req", "-in", "server.csr", *signed_by, "-out", "server.pem")
        authority = "root.pem"
    (directory / "server.key").chmod(0o600)
    files = types.SimpleNamespace(client=None, client_key=None)
    files.authority, files.server, files.server_key = (directory / name for name in (authority, "server.pem", "server.key"))
    return files


@pytest.mark.parametrize(
    ("recipe", "trouble"),
    [
        (
            "self-signed",
            r"the server's certificate is that of an authority \(CaUsedAsEndEntity\): give the server one with CA:FALSE",
        ),
        (
            "signed",
            r"a certificate of the server is of version 1 \(UnsupportedCertVersion\): give the server one of version 3",
        ),
    ],
)
def test_certificates_that_psql_takes(installation, server, start_registry, start_node, recipe, trouble):
    """The two recipes of PostgreSQL's manual: what is wrong is said, and what to do."""
    if server.psql("SHOW ssl_library") == "":
        pytest.skip("this PostgreSQL is built without TLS")
    files = certificate(installation, recipe)
    if recipe == "signed" and "Version: 1 " not in installation.run("openssl", "x509", "-text", "-noout", "-in", files.server):
        pytest.skip("this openssl makes certificates of version 3")
    registry = start_registry(PostgresRegistry, certificates=files)
    node = start_node(registry.address("here"), wait=False)
    node.state("no_lease", f"cannot be reached: {trouble}")


UNUSABLE = "the file that password_file names cannot be used: "


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.SCHEME)
def test_password_files(installation, start_registry, start_node, connect, kind):
    """A password that is not in the address can be set by a reload, and be changed without one.

    What is no password is not sent: a registry's address is not to be a way to other files of the server.
    """
    registry = start_registry(kind, password=f"right-{SECRET}")
    file = installation.directory() / "password"
    address = registry.address("here", password_file=file).replace(f":right-{SECRET}@", "@")
    assert SECRET not in address
    start_node(registry.address("here"))
    node = start_node(None, worker_id=5)
    node.sql("CREATE ROLE app LOGIN")
    app = connect(node.server, user="app")
    node.configure(worker_id=None, registry=address)

    def write(text, mode=0o600):
        file.unlink(missing_ok=True)
        with open(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode), "w") as open_file:
            os.fchmod(open_file.fileno(), mode)
            open_file.write(text)
        installation.hand_over(file)

    key = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
    for prepare, trouble in [
        (lambda: None, "No such file"),
        (lambda: os.mkfifo(file), "it is no regular file"),
        (lambda: write(f"right-{SECRET}\n", 0o640), "its mode is 0640 and must be 0600 or 0400"),
        (lambda: write(key), "it holds more than one line"),
        (lambda: write(SECRET * 1000), "it is larger than 1024 bytes"),
    ]:
        prepare()
        eventually(lambda trouble=trouble: re.search(f"^{UNUSABLE}{trouble}", node.status().registry_trouble or ""))
        assert str(file.parent) not in str(app.execute("SELECT * FROM snowflake_status").fetchone())
    for password in "wrong", "right":
        write(f"{password}-{SECRET}\n", 0o400)
        if password == "wrong":
            eventually(lambda: re.search(" refuses: ", node.status().registry_trouble or ""))
    eventually(lambda: node.number() not in (None, 5))
    assert node.flows()
    assert SECRET not in node.server.log
    assert f'parameter "snowflake_id.registry" changed to "{address}"' in node.server.log


@pytest.mark.parametrize(
    ("address", "detail"),
    [
        (SECRET, "An address begins with postgres://, etcd:// or zookeeper://."),
        (f"consul://node:{SECRET}@host/x", "The known registries are postgres://, etcd:// and zookeeper://."),
        (f"etcd://node:{SECRET}@host", "It ends with a path, for example /snowflake."),
        (f"etcd://node:{SECRET}@host:{SECRET}/x", "A port is a number from 1 to 65535."),
        ("etcd://host/x?foo=3", "There is no option foo; the options are cacert, cert, key, password_file."),
        # What follows a ? in a password is no option.
        (f"etcd://node:1/x?{SECRET}@host/x", "There is no option ...; the options are cacert, cert, key, password_file."),
        (f"zookeeper://{SECRET}@host/x", "A user has a password: user:password@, or password_file=/file."),
        (f"zookeeper://node:{SECRET}@host/x?foo=3", "There is no option foo; the options are password_file."),
        (f"postgres://node:{SECRET}@host:{SECRET}/x", "It is not an address of a PostgreSQL database."),
        (
            f"postgres://node:{SECRET}@host/x?connect_timeout=3",
            "There is no option connect_timeout; the options are sslrootcert, sslcert, sslkey, sslmode, target_session_attrs, password_file.",
        ),
        (f"postgres://node:{SECRET}@host/x?sslmode=require", "With sslrootcert, sslmode is verify-full; without it, disable."),
    ],
)
def test_malformed_addresses(installation, server, connect, address, detail):
    """Refused at the start, by a reload and by ALTER SYSTEM, with a reason and without the address."""
    diag = refusal(connect(server), f"ALTER SYSTEM SET snowflake_id.registry = '{address}'")
    assert (diag.sqlstate, diag.message_primary) == ("22023", 'invalid value for parameter "snowflake_id.registry"')
    assert diag.message_detail == detail
    assert diag.message_hint.startswith("For example: postgres://user@host/database?password_file=/file, ")
    one = Server(installation, {"snowflake_id.registry": address})
    with pytest.raises(ServerError):
        one.start()
    assert 'FATAL:  invalid value for parameter "snowflake_id.registry": "..."' in one.log
    assert detail in one.log
    one.configure({"snowflake_id.registry": None, "snowflake_id.worker_id": 1})
    with one:
        one.configure({"snowflake_id.registry": address})
        one.reload()
        eventually(lambda: "unaffected changes were applied" in one.log)
        assert connect(one).execute("SHOW snowflake_id.registry").fetchone() == ("",)
    assert SECRET not in one.log


def test_the_role_of_the_nodes(start_registry, start_node):
    """In a PostgreSQL registry it needs three functions and nothing else; what it lacks is named."""
    registry = start_registry(PostgresRegistry)
    address = registry.address("here")
    functions = ["read(bigint)", "write(bigint, bigint, text)", "announce(bigint, double precision)"]
    functions = [f"snowflake_id_node.registry_{function}" for function in functions]
    with psycopg.connect(address, autocommit=True) as admin:
        for statement in (
            "CREATE ROLE node LOGIN",
            "REVOKE ALL ON DATABASE here FROM PUBLIC",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
            "GRANT CONNECT ON DATABASE here TO node",
            *[f"GRANT EXECUTE ON FUNCTION {function} TO node" for function in functions],
        ):
            admin.execute(statement)
        address = address.replace("postgres@", "node@")
        node = start_node(address, worker_id_range="3-3")
        assert node.number() == 3
        row = admin.execute("SELECT number, state, node FROM snowflake_id_node.leases").fetchall()
        assert row == [(3, "held", node.status().node)]
        with psycopg.connect(address, autocommit=True) as session:
            for query in (
                "SELECT FROM snowflake_id_node.registry",
                "SELECT FROM snowflake_id_node.leases",
                "DELETE FROM snowflake_id_node.registry",
                "INSERT INTO snowflake_id_node.registry VALUES (1, 1, '{}', 'infinity')",
                "CREATE TABLE snowflake_id_node.mine ()",
            ):
                assert refusal(session, query).sqlstate == "42501"
        for function in functions:
            admin.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM node")
        newcomer = start_node(address, wait=False, worker_id_range="4-4")
        for function in functions:
            name = re.search(r"registry_\w+", function)[0]
            refuses = f"PostgreSQL at 127.0.0.1:{registry.port}/here refuses: permission denied for function {name}"
            newcomer.state("no_lease", re.escape(refuses))
            diag = newcomer.refused("no_lease")
            assert (diag.sqlstate, diag.message_detail) == ("55P03", f"{refuses}.")
            eventually(lambda refuses=refuses: node.status().registry_trouble == refuses)
            assert node.flows()
            admin.execute(f"GRANT EXECUTE ON FUNCTION {function} TO node")
        newcomer.flows()
        assert newcomer.number() == 4
        eventually(lambda: node.status().registry_trouble is None)


def test_a_database_that_is_no_registry(start_registry, start_node):
    """The node says what the database lacks, and has its number as soon as it is there."""
    registry = start_registry(PostgresRegistry)
    address = registry.address("here")
    with psycopg.connect(address, autocommit=True) as admin:
        admin.execute("DROP EXTENSION snowflake_id_node; CREATE EXTENSION snowflake_id")
        node = start_node(address, wait=False)
        refuses = f"PostgreSQL at 127.0.0.1:{registry.port}/here refuses: it is no registry: CREATE EXTENSION snowflake_id_node"
        node.state("no_lease", re.escape(refuses))
        diag = node.refused("no_lease")
        assert (diag.sqlstate, diag.message_detail) == ("55P03", f"{refuses}.")
        admin.execute("CREATE EXTENSION snowflake_id_node")
        node.flows()
