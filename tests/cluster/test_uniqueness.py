"""No id twice on one node, whoever asks: sessions, databases, settings, restarts of the keeper."""

import itertools
import os
import signal
import threading

import numpy
import psycopg
import pytest
from clients import eventually
from nodes import kill_session, processes

SESSIONS = 8
IDS_PER_SESSION = 1_000_000
# One row of COPY's binary format with three columns of eight bytes: a count of
# columns, then length and value of each.
ROW = numpy.dtype(
    [("n", ">i2"), ("", ">i4"), ("before", ">i8"), ("", ">i4"), ("id", ">i8"), ("", ">i4"), ("after", ">i8")]
)
HEADER = 19
# PostgreSQL's timestamps count from 2000 on, the default layout from 2025 on.
EPOCH_2025 = 789_004_800_000_000


def in_threads(functions):
    """Run functions at the same time; the first exception is raised."""
    errors = []

    def run(function):
        try:
            function()
        except Exception as error:  # noqa: BLE001, it is raised in the main thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=[function]) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def receive(server, dbname, query, file):
    """The rows of a query for (before, id, after), as a client received them.

    The client is psql, which takes millions of rows in less time than Python would.
    """
    server.psql(f"\\copy ({query}) TO '{file}' (FORMAT binary)", dbname)
    data = file.read_bytes()
    file.unlink()
    end = len(data) - 2
    assert data[end:] == b"\xff\xff"
    rows = numpy.frombuffer(data[HEADER:end], ROW)
    assert (rows["n"] == 3).all()
    return [rows[column].astype("int64") for column in ("before", "id", "after")]


def number_of_distinct(ids):
    """How many different numbers there are in several arrays."""
    return len(numpy.unique(numpy.concatenate([numpy.asarray(part, "int64") for part in ids])))


@pytest.mark.every_major("shared memory, and how backends are numbered")
@pytest.mark.parametrize("block", [1, 64])
def test_eight_sessions_in_two_databases(start_server, connect, tmp_path, block):
    """Eight million ids are distinct, increase in each session, and carry the time of their making.

    With blocks, sessions hold back slots; that is the only difference.
    """
    server = start_server(backend_block=block)
    admin = connect(server)
    admin.execute("CREATE EXTENSION snowflake_id")
    for name in "one", "two":
        admin.execute(f"CREATE DATABASE {name}")
        connect(server, name).execute("CREATE EXTENSION snowflake_id")
    received = []
    # The server's clock before and after each id: whatever happens between the two,
    # the id's tick must begin between the tick of the first and the second.
    query = (
        "SELECT clock_timestamp(), snowflake_nextval(), clock_timestamp() "
        f"FROM generate_series(1, {IDS_PER_SESSION})"
    )

    def session(n):
        before, ids, after = receive(server, ["one", "two"][n % 2], query, tmp_path / str(n))
        assert (numpy.diff(ids) > 0).all(), "ids of one session do not increase"
        made = EPOCH_2025 + (ids >> 22) * 1000
        assert (before - 1000 < made).all() and (made <= after).all()
        received.append(ids)

    in_threads([lambda n=n: session(n) for n in range(SESSIONS)])
    assert [len(ids) for ids in received] == [IDS_PER_SESSION] * SESSIONS
    assert number_of_distinct(received) == SESSIONS * IDS_PER_SESSION
    assert (numpy.concatenate(received) >> 12 & 1023 == 1).all()
    print(f"{SESSIONS * IDS_PER_SESSION} ids from {SESSIONS} sessions, {block} a claim: 0 duplicates")


def test_a_reload_rotates_the_worker_id(start_server, connect):
    """While sessions generate ids, the number changes without an error and without a duplicate."""
    server = start_server()
    connect(server).execute("CREATE EXTENSION snowflake_id")
    stop = threading.Event()
    received = [[] for _ in range(4)]
    watcher = connect(server)

    def session(ids):
        with psycopg.connect(server.conninfo(), autocommit=True) as connection:
            while not stop.is_set():
                ids.extend(row[0] for row in connection.execute("SELECT snowflake_nextval() FROM generate_series(1, 1000)"))

    def rotate():
        try:
            for worker_id in [2, 1, 3, 1023, 0, 1]:
                server.configure({"snowflake_id.worker_id": worker_id})
                server.reload()
                while watcher.execute("SELECT snowflake_worker_id(snowflake_nextval())").fetchone() != (worker_id,):
                    pass
        finally:
            stop.set()

    in_threads([rotate, *(lambda ids=ids: session(ids) for ids in received)])
    for ids in received:
        assert (numpy.diff(ids) > 0).all(), "ids of one session do not increase"
    total = sum(map(len, received))
    assert number_of_distinct(received) == total
    assert {number >> 12 & 1023 for ids in received for number in ids} <= {0, 1, 2, 3, 1023}
    print(f"{total} ids over 6 changes of the worker id: 0 duplicates")


def test_a_smaller_worker_id_within_one_statement(start_server, connect):
    """Its first id lies behind the tick of the greater one's last: order is the node's, not the worker id's."""
    # Ids run ahead of the clock: whenever the worker id changes, a tick has begun that has not ended.
    server = start_server(layout="timestamp:41,worker:10,sequence:8", max_ahead="1h")
    admin = connect(server)
    admin.execute("CREATE EXTENSION snowflake_id")
    statement = """
        SELECT count(*) FILTER (WHERE id <= before), snowflake_worker_id(min(id)), snowflake_worker_id(max(id))
        FROM (
            SELECT id, lag(id) OVER () AS before
            FROM (SELECT snowflake_nextval() AS id, generate_series(1, 300000)) AS ids
        ) AS pairs
    """
    ended = threading.Event()
    results = []

    def session():
        with psycopg.connect(server.conninfo(), autocommit=True) as connection:
            while not ended.is_set():
                results.append(connection.execute(statement).fetchone())

    def rotate():
        try:
            for worker_id in itertools.cycle([9, 3]):
                server.configure({"snowflake_id.worker_id": worker_id})
                server.reload()
                changed = lambda worker_id=worker_id: results and results[-1][2] == worker_id
                eventually(changed, "a statement ends with the new worker id")
                if len([row for row in results if row[1:] == (9, 3)]) > 2:
                    return
        finally:
            ended.set()

    in_threads([session, rotate])
    assert {row[0] for row in results} == {0}, results


def test_without_a_worker_id_and_back(start_server, connect):
    """The number taken away: an error that says what to set. Given back: ids that follow the old ones."""
    server = start_server()
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    last = connection.execute("SELECT snowflake_nextval()").fetchone()[0]
    server.configure({"snowflake_id.worker_id": -1})
    server.reload()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        while True:
            last = connection.execute("SELECT snowflake_nextval()").fetchone()[0]
    assert caught.value.diag.message_primary == "this node has no worker id"
    # A statement that waits for its turn is told as well.
    server.configure({"snowflake_id.worker_id": 1})
    server.reload()
    while True:
        try:
            number = connection.execute("SELECT snowflake_nextval()").fetchone()[0]
            break
        except psycopg.errors.ObjectNotInPrerequisiteState:
            pass
    assert number > last


@pytest.fixture
def hourly(start_server, connect):
    """A server with ticks of an hour: no tick, and no block, ends by itself within a test."""
    # A lease begins with the next tick, which is at most an hour ahead.
    server = start_server(
        layout="timestamp:30@3600s,worker:3,sequence:28", epoch="2000-01-01 00:00:00+00", max_ahead="1h"
    )
    connect(server).execute("CREATE EXTENSION snowflake_id")
    return server


def test_a_block_is_spent_to_its_end(hourly, connect):
    """What a session has claimed at once it issues one by one, and others claim behind it."""
    holder, other = connect(hourly), connect(hourly)
    holder.execute("SET snowflake_id.backend_block = 4")

    def sequence(connection):
        row = connection.execute("SELECT sequence FROM snowflake_decode(snowflake_nextval())").fetchone()
        return row[0]

    who = [holder, other, holder, holder, other, holder, holder]
    assert [sequence(connection) for connection in who] == [0, 4, 1, 2, 5, 3, 6]


def test_a_block_ends_with_its_lease(hourly, connect):
    """What a session has claimed is not issued once the node's number has been taken away."""
    holder, watcher = connect(hourly), connect(hourly)
    holder.execute("SET snowflake_id.backend_block = 65536")
    holder.execute("SELECT snowflake_nextval()")
    hourly.configure({"snowflake_id.worker_id": -1})
    hourly.reload()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        while True:
            watcher.execute("SELECT snowflake_nextval()")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        holder.execute("SELECT snowflake_nextval()")


@pytest.mark.parametrize("end", ["fast", "immediate", "kill9"])
def test_a_restart_within_a_tick(start_server, connect, end):
    """The clock is right, but the tick is long: what was issued of it is not issued again."""
    server = start_server(layout="timestamp:32@1s,worker:3,sequence:28")
    connect(server).execute("CREATE EXTENSION snowflake_id")
    last = -1
    for _ in range(3):
        number = connect(server).execute("SELECT snowflake_nextval()").fetchone()[0]
        assert number > last
        last = number
        server.kill9() if end == "kill9" else server.stop(end)
        server.start()


def test_the_keeper_may_end_at_any_time(start_server, connect):
    """Ids flow on without it; it comes back by itself and changes nothing."""
    server = start_server()
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")

    (keeper,) = eventually(lambda: processes(server, "keeper"), "the keeper has started")
    last = connection.execute("SELECT snowflake_nextval()").fetchone()[0]
    os.kill(keeper, signal.SIGTERM)
    while processes(server, "keeper") in ([], [keeper]):
        number = connection.execute("SELECT snowflake_nextval()").fetchone()[0]
        assert number > last
        last = number
    # The new one does the keeper's work.
    server.configure({"snowflake_id.worker_id": 5})
    server.reload()
    while connection.execute("SELECT snowflake_worker_id(snowflake_nextval())").fetchone() != (5,):
        pass


def test_a_crash_of_a_backend(start_server, connect):
    """PostgreSQL makes shared memory anew; ids flow again and are greater."""
    server = start_server(postgres={"restart_after_crash": "on"})
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    last = max(row[0] for row in connection.execute("SELECT snowflake_batch(100000)"))
    kill_session(server, connection.info.backend_pid)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    server.wait_ready()
    number = connect(server).execute("SELECT snowflake_nextval()").fetchone()[0]
    assert number > last
