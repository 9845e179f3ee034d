"""What is counted is exact, whoever came and went, and says by itself how a node stands."""

import itertools
import os
import signal
import threading

import psycopg
import pytest
from clients import eventually, suspend
from nodes import REPLICATION, configure, processes, refusal
from psycopg.rows import namedtuple_row

SETUP = "CREATE EXTENSION IF NOT EXISTS snowflake_id"


def statistics(connection):
    """The one row of pg_stat_snowflake."""
    (row,) = connection.cursor(row_factory=namedtuple_row).execute("SELECT * FROM pg_stat_snowflake").fetchall()
    return row


def sessions(connection):
    """The rows of pg_stat_snowflake_backends, by process."""
    rows = connection.cursor(row_factory=namedtuple_row).execute("SELECT * FROM pg_stat_snowflake_backends").fetchall()
    assert len({row.pid for row in rows}) == len(rows)
    return {row.pid: row for row in rows}


def pid(connection):
    return connection.info.backend_pid


@pytest.fixture
def node(start_server, connect):
    """A connection to a server of the test's own that has generated no id."""
    connection = connect(start_server())
    connection.execute(SETUP)
    return connection


@pytest.mark.parametrize("block", [1, 64])
def test_the_sum_is_exact(start_server, connect, block):
    """Of sessions that are there, have ended, were terminated or rolled back; by one, by block and by batch."""
    server = start_server(backend_block=block)
    connection = connect(server)
    connection.execute(SETUP)
    queries = {
        "SELECT count(snowflake_nextval()) FROM generate_series(1, 1000)": (1000, 1000, 0),
        "SELECT count(*) FROM snowflake_batch(700)": (700, 1, 1),
        "SELECT array_length(snowflake_batch_array(300), 1)": (300, 1, 1),
        # Some are made for a batch that nobody reads to its end.
        "SELECT snowflake_batch(0)": (0, 0, 0),
    }
    rounds = 5

    def work(number):
        with psycopg.connect(server.conninfo(), autocommit=number % 2 == 0) as session:
            for _, query in itertools.product(range(rounds), queries):
                session.execute(query)
            if number % 2:
                session.rollback()
            if number % 3 == 0:
                connection.execute("SELECT pg_terminate_backend(%s)", [pid(session)])

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = [sum(counts) * rounds * 8 for counts in zip(*queries.values(), strict=True)]
    row = statistics(connection)
    assert [row.ids, row.calls, row.batches] == total
    assert sum(row.wait_histogram) == row.waits
    if block == 1:
        assert (row.blocks, row.dropped) == (0, 0)
    else:
        # Each id comes out of a block, or is dropped with what is left of one, at the end of a session at the latest.
        assert row.blocks >= 8 * rounds * 1000 // block
        assert 0 < row.dropped <= row.blocks * block - 8 * rounds * 1000
    # None of them is there any more.
    eventually(lambda: sessions(connection) == {})
    assert [statistics(connection)[i] for i in range(3)] == total


def test_a_reset_is_seen_as_a_whole(node):
    """Whoever reads while it happens sees all counters of before or all of after; and nothing is lost by it."""
    node.execute("SELECT count(snowflake_nextval()) FROM generate_series(1, 10000)")
    before = statistics(node)
    assert (before.ids, before.calls) == (10_000, 10_000)
    seen, stop = [], threading.Event()

    def read(session):
        while not stop.is_set():
            row = statistics(session)
            seen.append((row.ids, row.calls, row.stats_reset))

    readers = [psycopg.connect(node.info.dsn, autocommit=True) for _ in range(2)]
    threads = [threading.Thread(target=read, args=[session]) for session in readers]
    for thread in threads:
        thread.start()
    eventually(lambda: len(seen) > 10)
    node.execute("SELECT pg_stat_snowflake_reset()")
    after = statistics(node)
    number = len(seen)
    eventually(lambda: len(seen) > number + 10)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(seen) == {(10_000, 10_000, before.stats_reset), (0, 0, after.stats_reset)}
    assert after.stats_reset > before.stats_reset
    node.execute("SELECT snowflake_nextval()")
    assert statistics(node).ids == 1
    # The sessions' own counters go on.
    assert sessions(node)[pid(node)].ids == 10_001


def test_resets_at_once(node):
    """As many as there are sessions: none is lost, none waits for ever."""
    node.execute("SELECT snowflake_nextval()")
    dsn = node.info.dsn

    def reset():
        with psycopg.connect(dsn, autocommit=True) as session:
            for _ in range(100):
                session.execute("SELECT pg_stat_snowflake_reset()")

    threads = [threading.Thread(target=reset) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statistics(node).ids == 0


def test_sessions(node):
    """What each has counted since it began, with who it is; those that have made none are not there."""
    other = psycopg.connect(node.info.dsn, autocommit=True, application_name="other")
    assert sessions(node) == {}
    other.execute("SELECT count(snowflake_nextval()) FROM generate_series(1, 10)")
    other.execute("SELECT count(*) FROM snowflake_batch(5)")
    (row,) = sessions(node).values()
    assert (row.pid, row.datname, row.usename, row.application_name) == (pid(other), "postgres", "postgres", "other")
    assert (row.ids, row.calls, row.batches, row.refused) == (15, 11, 1, 0)
    other.close()
    eventually(lambda: sessions(node) == {})
    # Whoever comes next begins at 0, in the same slot.
    with psycopg.connect(node.info.dsn, autocommit=True) as session:
        session.execute("SELECT snowflake_nextval()")
        assert sessions(node)[pid(session)].ids == 1
    assert statistics(node).ids == 16


def test_waits(start_server, connect):
    """At the ceiling: how often, how long, and how they are distributed."""
    # Half a second is long enough to claim all of it, whoever else is at work.
    server = start_server(layout="timestamp:41@500ms,worker:10,sequence:3")
    connection = connect(server)
    connection.execute(SETUP)
    connection.execute("SELECT snowflake_nextval()")
    connection.execute("SELECT pg_stat_snowflake_reset()")
    begin = connection.execute("SELECT clock_timestamp()").fetchone()[0]
    connection.execute("SELECT count(*) FROM snowflake_batch(64)")
    end = connection.execute("SELECT clock_timestamp()").fetchone()[0]
    row = statistics(connection)
    # Eight ticks, or a part of a ninth. Before some of them it looks twice: a wait is cut into pieces.
    assert 7 <= row.ticks_exhausted
    assert 7 <= row.waits <= 8
    assert sum(row.wait_histogram) == row.waits
    assert 0 < row.wait_time <= (end - begin).total_seconds() * 1000
    # The bounds of the classes: no shorter than they can have been on average.
    assert row.wait_time <= sum(number * 2**k / 1000 for k, number in enumerate(row.wait_histogram, 1))
    assert row.wait_p50 <= row.wait_p99 <= row.wait_p999
    bounds = [2**k / 1000 for k in range(1, 33)]
    assert {row.wait_p50, row.wait_p99, row.wait_p999} <= set(bounds)
    below = sum(number for number, bound in zip(row.wait_histogram, bounds, strict=True) if bound <= row.wait_p50)
    assert below >= row.waits / 2
    assert row.ceiling == 16

    def busy():
        connection.execute("SELECT count(*) FROM snowflake_batch(16)")
        row = statistics(connection)
        return row.ceiling_used > 0 and row

    row = eventually(busy)
    assert row.ids_per_second == pytest.approx(16 * row.ceiling_used)


def test_the_clock(clock_server, made):
    """Steps back, as calls find them, and jumps that are not believed."""
    made.execute("SELECT pg_stat_snowflake_reset()")
    clock_server.clock.offset(-3600)
    for _ in range(3):
        assert refusal(made).sqlstate == "58000"
    row = statistics(made)
    assert (row.clock_backward, row.refused_clock, row.calls, row.ids) == (3, 3, 3, 0)
    assert 3_590_000 < row.clock_backward_max <= 3_600_000
    clock_server.clock.offset(0)
    made.execute("SELECT snowflake_nextval()")
    made.execute("SELECT pg_stat_snowflake_reset()")
    row = statistics(made)
    assert (row.clock_backward, row.clock_backward_max, row.refused_clock, row.clock_forward) == (0, 0, 0, 0)
    clock_server.clock.offset(864_000)
    eventually(lambda: statistics(made).clock_forward == 1)
    assert sessions(made)[pid(made)].refused == 3


def test_refusals(start_server, connect):
    """By what they come of."""
    server = start_server(worker_id=None)
    connection = connect(server)
    connection.execute(SETUP)
    assert refusal(connection).sqlstate == "55000"
    row = statistics(connection)
    assert (row.calls, row.refused_setup) == (1, 1)
    configure(server, connection, registry="etcd://127.0.0.1:1/here")
    eventually(lambda: refusal(connection).sqlstate == "55P03")
    row = statistics(connection)
    assert row.refused_lease == 1
    assert row.lease_failures > 0 and row.lease_renewals == 0
    assert row.calls == row.refused_setup + 1


def test_what_a_node_has_left(node):
    """A window, once there is one; no lease that could end, where the number is set by hand; years."""
    assert statistics(node).lease_left is None
    node.execute("SELECT snowflake_nextval()")
    row = statistics(node)
    assert row.lease_left is None
    assert 0 <= row.window_left.total_seconds() < 60
    ends, now = node.execute("SELECT ends_at, now() FROM snowflake_layout()").fetchone()
    assert row.years_left == pytest.approx((ends - now).total_seconds() / 31_557_600, abs=1e-4)


def test_cancelled_calls(node):
    """They are calls, and their waits are waits."""
    node.execute("SELECT snowflake_nextval()")
    (keeper,) = node.execute("SELECT keeper_pid FROM snowflake_status").fetchone()
    node.execute("SELECT pg_stat_snowflake_reset(); SET statement_timeout = '1s'")
    suspend(keeper)
    try:
        # What is left of the window.
        eventually(lambda: ended(node) == "57014")
        row = statistics(node)
        for query in "SELECT snowflake_nextval()", "SELECT count(*) FROM snowflake_batch(10)":
            assert refusal(node, query).sqlstate == "57014"
    finally:
        os.kill(keeper, signal.SIGCONT)
    after = statistics(node)
    assert (after.ids, after.calls, after.batches) == (row.ids, row.calls + 2, 1)
    assert (row.cancelled, after.cancelled) == (1, 3)
    assert after.waits - row.waits == 2
    # Most of twice a second: the timeout runs from before the call on.
    assert 1000 < after.wait_time - row.wait_time
    assert sessions(node)[pid(node)].cancelled == 3


def test_terminated_calls(clock_server, made, connect):
    """Likewise, though a session that is terminated unwinds nothing; also where it stands in a batch."""
    configure(clock_server, made, max_wait="1h")
    made.execute("SELECT snowflake_nextval()")
    clock_server.clock.offset(-600)
    before = statistics(made)
    waits = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Extension'"
    for query in "SELECT snowflake_nextval()", "SELECT count(*) FROM snowflake_batch(10)":
        session = connect(clock_server)
        number = pid(session)
        thread = threading.Thread(target=ended, args=(session, query))
        thread.start()
        eventually(lambda number=number: made.execute(waits, [number]).fetchall())
        made.execute("SELECT pg_terminate_backend(%s)", [number])
        thread.join()
        eventually(lambda number=number: number not in sessions(made))
    after = statistics(made)
    counted = ("ids", "calls", "batches", "cancelled", "waits", "clock_backward")
    assert [getattr(after, name) - getattr(before, name) for name in counted] == [0, 2, 1, 2, 2, 2]
    assert sum(after.wait_histogram) == after.waits
    assert after.wait_time > before.wait_time


def ended(connection, query="SELECT snowflake_nextval()"):
    """By what SQLSTATE a call ended; None if it did not."""
    try:
        connection.execute(query)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def test_changes_of_the_worker_id(start_server, connect):
    server = start_server()
    connection = connect(server)
    connection.execute(SETUP)
    connection.execute("SELECT snowflake_nextval()")
    assert statistics(connection).worker_id_changes == 0
    for number in "2", "3":
        configure(server, connection, worker_id=number)
        eventually(lambda number=number: connection.execute("SELECT worker_id FROM snowflake_status").fetchone() == (int(number),))
    # The second one is counted a moment after the window was opened.
    row = eventually(lambda: (row := statistics(connection)).worker_id_changes == 2 and row)
    assert row.windows >= 3
    assert row.window_time > 0


def test_who_may_read(node):
    """Members of pg_monitor; and only superusers reset."""
    node.execute("CREATE ROLE app; CREATE ROLE watcher IN ROLE pg_monitor")
    reads = ["SELECT * FROM pg_stat_snowflake", "SELECT * FROM pg_stat_snowflake_backends"]
    node.execute("SET ROLE watcher")
    for query in reads:
        node.execute(query)
    assert refusal(node, "SELECT pg_stat_snowflake_reset()").sqlstate == "42501"
    node.execute("SET ROLE app")
    for query in [*reads, "SELECT pg_stat_snowflake_reset()"]:
        assert refusal(node, query).sqlstate == "42501"


def test_a_standby(start_server, copies, connect):
    """It answers, and has counted nothing."""
    server = start_server(postgres=REPLICATION)
    server.psql("CREATE EXTENSION snowflake_id; SELECT snowflake_nextval()")
    connection = connect(copies.standby(server))
    row = statistics(connection)
    assert (row.ids, row.calls, row.windows, row.ids_per_second, row.lease_left) == (0, 0, 0, None, None)
    assert sessions(connection) == {}


def test_a_keeper_that_stands_still(start_server, connect):
    """What is counted is shown whatever the keeper does, also before it has a database."""
    server = start_server(database="later")
    connection = connect(server)
    connection.execute(SETUP)
    assert refusal(connection).sqlstate == "55000"
    assert statistics(connection).refused_setup == 1
    connection.execute("CREATE DATABASE later")
    connect(server, "later").execute(SETUP)
    eventually(lambda: connection.execute("SELECT state FROM snowflake_status").fetchone() == ("ready",))
    connection.execute("SELECT count(snowflake_nextval()) FROM generate_series(1, 10)")
    (keeper,) = processes(server, "snowflake_id keeper")
    suspend(keeper)
    try:
        assert statistics(connection).ids == 10
        assert sessions(connection)[pid(connection)].ids == 10
        connection.execute("SELECT pg_stat_snowflake_reset()")
        assert statistics(connection).ids == 0
        # Nobody measures this.
        eventually(lambda: statistics(connection).ids_per_second is None)
    finally:
        os.kill(keeper, signal.SIGCONT)
