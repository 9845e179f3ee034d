"""No id twice when servers replicate: promotion, synchronous standbys that are cut off, logical replication."""

import threading
import time

import psycopg
import pytest
from clients import Load, eventually
from nodes import (
    BATCH,
    IDS,
    REPLICATION,
    ROWS,
    SCHEMA,
    becomes_ready,
    clock_of,
    cut,
    duplicates,
    milliseconds,
    next_id,
    processes,
    promote,
    status,
    subscription_errors,
    warnings,
)


def waits_for_standby(connection, pid):
    """Whether a process waits for synchronous replication."""
    query = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
    return connection.execute(query, [pid]).rowcount == 1


# A record as logical replication brings it from a node with worker id 2 that was seeded by a
# copy of this one: of the same system identifier, and promoted more often.
SIBLING = """
    INSERT INTO snowflake_id_node.high_water_marks
    SELECT split_part(node, '-', 1) || '-0123456789abcdef', reserved_until, NULL, 2, layout, epoch, 9, updated_at,
           boot_id, booted_at, 'another', data_directory, NULL, NULL, false
    FROM snowflake_id_node.high_water_marks
"""


@pytest.mark.parametrize(
    ("guard", "behind", "others", "drain"),
    [
        pytest.param(1000, [700, 1400], "", False, marks=pytest.mark.every_major("streaming, and promotion")),
        (1000, [700], SIBLING, False),
        (1000, [700], "", True),
        (0, [0], "", False),
    ],
    ids=["guard and slow clocks", "beside a sibling", "drained before the first id", "no guard and the same clock"],
)
def test_promotion_of_an_asynchronous_standby(start_server, copies, connect, guard, behind, others, drain):
    """The new primary lacks the last windows of the old one, and its clock is slow, but by less than the guard.

    Where it happens twice, the standby of the first new primary is promoted as well.
    """
    server = start_server(reservation="200ms", promotion_guard=guard, on_copy="refuse", postgres=REPLICATION)
    server.psql(SCHEMA)
    next_id(connect(server))
    server.psql(others)
    received, promotions = [], []
    for slow in behind:
        clock = copies.clock()
        clock.offset(-slow / 1000)
        standby = copies.standby(server, clock=clock)
        with Load(server, IDS, ROWS, BATCH) as load:
            load.wait_for(1000)
            cut(server)
            replicated = int(standby.psql("SELECT max(reserved_until) FROM snowflake_id_node.high_water_marks"))
            # The windows that the standby has heard of are over.
            eventually(lambda load=load, end=replicated: max(load.ids()) > end + (300 << 22))
            load.wait_for(1000)
            server.kill9()
            received.append(load.stop())
            assert load.lost and not any(load.errors), load.errors
        before = promote(standby)
        connection = connect(standby)
        if drain:
            # What it writes down then says nothing of ids.
            connection.execute("SELECT snowflake_drain()")
            connection.execute("SELECT snowflake_resume()")
        first = next_id(connection)
        assert milliseconds(first) >= int(before) + guard
        assert becomes_ready(connection).conflict is None
        assert warnings(standby) == []
        promotions.append(milliseconds(first) - before)
        received.append([first])
        server = standby
    with Load(server, IDS, ROWS, BATCH) as load:
        load.wait_for(10_000)
        received.append(load.stop())
        assert not load.lost and not any(load.errors), load.errors
    twice = duplicates(*received)
    print(
        f"{sum(map(len, received))} ids over {len(behind)} promotions after kill -9, guard {guard} ms, clocks slow "
        f"by {behind} ms; first ids {[round(ms) for ms in promotions]} ms after promotion: {twice} duplicates"
    )
    assert twice == 0
    for before, after in zip(received[:-1:2], received[1::2], strict=True):
        first, last = after[0], max(before)
        assert first > last


def test_a_synchronous_standby_that_is_cut_off(start_server, copies, connect):
    """No window without the standby: not after a cancel, a new keeper, a crash; so it may be promoted meanwhile.

    Both then have the same worker id, and there is no guard: the record alone keeps them apart.
    """
    server = start_server(promotion_guard=0, postgres={**REPLICATION, "synchronous_commit": "off"})
    server.psql(SCHEMA)
    clock = copies.clock()
    standby = copies.standby(server, clock=clock, postgres={"synchronous_standby_names": ""})
    server.configure({"synchronous_standby_names": "standby"})
    server.reload()
    eventually(lambda: server.psql("SELECT sync_state FROM pg_stat_replication") == "sync")
    faults = 1
    with Load(server, IDS, ROWS, BATCH) as load:
        load.wait_for(5000)
        admin = connect(server)
        cut(server)
        begin = clock_of(admin)
        eventually(lambda: all(load.errors))
        count, last = load.count(), max(load.ids())
        # The window of the moment, and one that the standby may just have confirmed.
        assert milliseconds(last) <= begin + 2000
        for errors in load.errors:
            diag = errors[0].diag
            assert diag.sqlstate == "55P03"
            assert diag.message_primary == "snowflake ids are not available yet"
            assert diag.message_detail.startswith("The keeper has been writing this node's record since 20")
        # PostgreSQL answers a cancel by taking the commit for done; the keeper must not.
        keeper = status(admin).keeper_pid
        for _ in range(3):
            eventually(lambda: waits_for_standby(admin, keeper))
            faults += 1
            admin.execute("SELECT pg_cancel_backend(%s)", [keeper])
        # A new keeper finds the record that is committed here and nowhere else.
        faults += 1
        admin.execute("SELECT pg_terminate_backend(%s)", [keeper])
        eventually(lambda: waits_for_standby(admin, status(admin).keeper_pid) and status(admin).keeper_pid != keeper)
        # Split brain. The standby's clock is as far behind the record as it may be and be waited for.
        mark = int(standby.psql("SELECT max(reserved_until) FROM snowflake_id_node.high_water_marks"))
        assert mark > last
        clock.offset(milliseconds(mark) / 1000 - time.time() - 0.5)
        promote(standby)
        faults += 1
        with Load(standby, IDS, ROWS, BATCH) as other:
            other.wait_for(5000)
            new = other.stop()
        assert not any(other.errors), other.errors
        # One more call, from its beginning to its end.
        with pytest.raises(psycopg.errors.LockNotAvailable):
            next_id(admin)
        assert load.count() == count, "ids from a window that the standby does not know"
        server.kill9()
        old = load.stop()
    # Crash recovery takes every record for committed; the keeper does not.
    faults += 1
    server.start()
    admin = connect(server)
    with Load(server, IDS, ROWS, BATCH) as load:
        eventually(lambda: waits_for_standby(admin, status(admin).keeper_pid))
        begin = time.monotonic()
        server.stop("fast")
        took = time.monotonic() - begin
        assert load.stop() == []
    twice = duplicates(old, new)
    print(
        f"{len(old)} ids before, {len(new)} after {faults} faults around a synchronous standby, "
        f"stopped in {took:.1f} s: {twice} duplicates"
    )
    assert twice == 0
    first, last = min(new), max(old)
    assert first >= mark > last


@pytest.mark.every_major("hot standby")
def test_a_standby_is_quiet(installation, start_server, copies, connect):
    """25006, a status that answers, no keeper and no line in the log; whatever the primary's keeper does."""
    server = start_server(reservation="100ms", postgres=REPLICATION)
    server.psql(SCHEMA)
    standby = copies.standby(server)
    connection = connect(standby)
    marks = set()

    def mark():
        marks.update(connection.execute("SELECT reserved_until FROM snowflake_id_node.high_water_marks").fetchall())
        return len(marks) > 10

    with Load(server, IDS) as load:
        eventually(mark)
        load.stop()
        assert not any(load.errors), load.errors
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        next_id(connection)
    row = status(connection)
    assert row.state == "standby"
    assert row.keeper_pid is None
    assert row.conflict is None
    assert processes(standby, "keeper") == []
    assert len(processes(server, "keeper")) == 1
    log = standby.log
    connection.execute("SELECT pg_reload_conf()")
    eventually(lambda: len(standby.log) > len(log))
    log = standby.log.replace(str(installation.root), "")
    assert [line for line in log.splitlines() if "snowflake" in line and "client backend" not in line] == []
    # A restart of the standby changes nothing.
    standby.restart()
    assert status(connect(standby)).state == "standby"
    assert processes(standby, "keeper") == []


@pytest.fixture
def nodes(start_server, copies):
    """Two nodes, worker ids 1 and 2, that publish all their tables and subscribe to each other's."""
    settings = {"wal_level": "logical", "max_wal_senders": 8, "autovacuum": "off", "checkpoint_timeout": "1h"}
    one = start_server(reservation="200ms", postgres=settings)
    two = copies.adopt(one, data="initdb", worker_id=2).start()
    for node in one, two:
        # PostgreSQL 15 sends a row back to where it came from. What a user has to do about it
        # is simple where an id says who made it.
        node.psql(
            SCHEMA
            + f"""
            CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RETURN CASE WHEN public.snowflake_worker_id(new.id) <> {node.settings["snowflake_id.worker_id"]} THEN new END;
            END $$;
            CREATE TRIGGER own BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION own();
            ALTER TABLE items ENABLE REPLICA TRIGGER own;
            CREATE PUBLICATION everything FOR ALL TABLES;
            INSERT INTO items (note) SELECT 'before' FROM generate_series(1, 1000);
            """
        )
    return one, two


def subscribe(node, publisher):
    origin = ", origin = none" if node.installation.major >= 16 else ""
    node.psql(
        f"CREATE SUBSCRIPTION other CONNECTION '{publisher.conninfo()}' PUBLICATION everything "
        f"WITH (copy_data = true{origin})"
    )
    eventually(
        lambda: node.psql("SELECT count(*) > 1 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel") == "t"
    )


class Watch:
    """Looks at a node's own record all the time, as a session and a client would."""

    def __init__(self, node):
        self._stop = threading.Event()
        self._node = node
        self.marks = []
        self.wrong = []
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with psycopg.connect(self._node.conninfo(), autocommit=True) as connection:
            name = status(connection).node
            query = "SELECT reserved_until FROM snowflake_id_node.high_water_marks WHERE node = %s"
            while not self._stop.is_set():
                rows = connection.execute(query, [name]).fetchall()
                if len(rows) != 1:
                    self.wrong.append(rows)
                elif self.marks and rows[0][0] < self.marks[-1]:
                    self.wrong.append((self.marks[-1], rows[0][0]))
                elif not self.marks or rows[0][0] > self.marks[-1]:
                    self.marks.append(rows[0][0])
                time.sleep(0.001)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def test_two_nodes_that_replicate_all_their_tables(nodes, connect):
    """Each holds the other's record, which does no harm; two nodes with one number are noticed."""
    one, two = nodes
    sessions = connect(one), connect(two)
    for session in sessions:
        next_id(session)
    subscribe(two, one)
    subscribe(one, two)
    with Load(one, IDS, ROWS, BATCH) as left, Load(two, IDS, ROWS, BATCH) as right, Watch(one) as a, Watch(two) as b:
        # Over many windows.
        eventually(lambda: len(a.marks) > 15 and len(b.marks) > 15)
        received = [left.stop(), right.stop()]
    assert a.wrong == b.wrong == []
    for load in left, right:
        assert not load.lost and not any(load.errors), load.errors
    twice = duplicates(*received)
    assert twice == 0
    # Everything arrives, and only once; nothing had to be skipped or tried again.
    query = "SELECT count(*), count(DISTINCT id), sum(id) FROM items"
    eventually(lambda: one.psql(query) == two.psql(query))
    for session, node in zip(sessions, nodes, strict=True):
        rows = session.execute("SELECT node, count(*) FROM snowflake_id_node.high_water_marks GROUP BY node").fetchall()
        assert sorted(rows) == sorted((status(session).node, 1) for session in sessions)
        assert status(session).conflict is None
        assert subscription_errors(session) == [0], node.log
    # They do not keep each other busy.
    def settled():
        query = "SELECT pg_current_wal_insert_lsn() - '0/0'"
        before = [int(node.psql(query)) for node in nodes]
        time.sleep(2)
        after = [int(node.psql(query)) for node in nodes]
        return all(y - x < 500 for x, y in zip(before, after, strict=True))

    eventually(settled)
    print(
        f"{sum(map(len, received))} ids of 2 nodes that replicate to each other, {len(a.marks)} and {len(b.marks)} "
        f"windows: {twice} duplicates"
    )
    # The same number twice is against the rules. Each sees it at its next window, and goes on.
    names = [status(session).node for session in sessions]
    two.configure({"snowflake_id.worker_id": 1})
    two.reload()

    def conflicts():
        for session in sessions:
            next_id(session)
        return [status(session).conflict for session in sessions]

    begin = time.monotonic()
    eventually(lambda: None not in conflicts())
    print(f"the same worker id was noticed by both after {time.monotonic() - begin:.1f} s")
    for conflict, name in zip(conflicts(), reversed(names), strict=True):
        assert name in conflict
    # Logged a moment after it was shown.
    eventually(lambda: all(warnings(node) for node in nodes), "it is in the logs")
    assert [len(warnings(node)) for node in nodes] == [1, 1]
    # Mended by a reload, without an error for anyone.
    two.configure({"snowflake_id.worker_id": 3})
    two.reload()
    eventually(lambda: conflicts() == [None, None])
