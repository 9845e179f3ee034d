"""No id twice, whatever crashes: the verdict is over what clients received, committed or not."""

import contextlib
import os
import random
import re
import signal
import time
from pathlib import Path

import psycopg
import pytest
from clients import TICK, Clients, eventually
from nodes import frozen, next_id, processes, seconds, status
from psycopg.rows import dict_row
from throwaway import state_of

# `make chaos` runs the long form; SNOWFLAKE_SEED repeats a run's faults.
CHAOS = os.environ.get("SNOWFLAKE_CHAOS") == "1"
SEED = int(os.environ.get("SNOWFLAKE_SEED") or random.randrange(10**9))
# Three of four crashes are those of the postmaster.
CRASHES, IDS = (40, 6_000_000) if CHAOS else (12, 1_800_000)
FAULTS = ["kill9", "backend", "kill9", "immediate", "hour", "kill9", "keeper", "kill9"]
# What a client may be told: the server goes or is not there, the clock is behind.
TOLERATED = {"no connection", "57P01", "57P02", "58000"}


def reconfigure(server, **settings):
    server.configure({f"snowflake_id.{name}": value for name, value in settings.items()})
    server.restart()


def kill_one(server, title, chance):
    """SIGKILL one of the server's processes, and wait until PostgreSQL has noticed."""
    while True:
        pid = chance.choice(eventually(lambda: processes(server, title)))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        eventually(lambda entry=Path(f"/proc/{pid}"): not entry.exists())
        # The postmaster says how it ended, and sleeps. It may have been on its way out already.
        eventually(lambda: state_of(server.pid) == "S")
        if f"(PID {pid}) was terminated by signal 9" in server.log:
            return


def record(server):
    """The row that a server which has just ended left behind, read without the extension's keeper."""
    server.configure({"shared_preload_libraries": ""})
    server.start()
    with psycopg.connect(server.conninfo(), row_factory=dict_row) as connection:
        (row,) = connection.execute("SELECT * FROM snowflake_id_node.high_water_marks").fetchall()
    server.stop()
    server.configure({"shared_preload_libraries": "snowflake_id"})
    return row


@pytest.mark.every_major("signals, background workers and crash recovery are the server's")
def test_a_kill_loop(clock_server):
    """The server, a backend or the keeper is killed under load, over and over, and the clock steps back each time.

    Mostly by 1 ms to 0.8 s, before the crash or while the server is down; and sometimes by
    an hour, until a client has been refused.
    """
    print(f"SNOWFLAKE_SEED={SEED}")
    chance = random.Random(SEED)
    server, clock = clock_server, clock_server.clock
    server.psql("CREATE EXTENSION snowflake_id")
    offset, steps, ids_of_an_hour_ago = 0, 0, 0
    with Clients(server) as clients:
        for crash in range(CRASHES):
            # Sometimes one crash follows the other at once.
            clients.wait_for(chance.choice([0, 1] + [IDS // CRASHES] * 6))
            fault = FAULTS[crash % len(FAULTS)]
            # Short ones are over when the server is up again, long ones are not.
            offset -= chance.choice([chance.uniform(0.001, 0.1), chance.uniform(0.1, 0.8), chance.uniform(0.1, 0.8)])
            steps += 1
            if chance.random() < 0.25:
                clock.offset(offset)
            if fault in ("backend", "keeper"):
                kill_one(server, {"backend": r"^postgres: postgres ", "keeper": "keeper"}[fault], chance)
            elif fault == "immediate":
                server.stop("immediate")
            else:
                server.kill9()
            clients.round += 1
            refused = clients.errors["58000"]
            clock.offset(offset - 3600 if fault == "hour" else offset)
            if not server.running():
                server.start()
            if fault == "hour":
                eventually(lambda before=refused: clients.errors["58000"] > before or clients.received_now)
                ids_of_an_hour_ago += clients.received_now
                clock.offset(offset := 0)
                steps += 1
        clients.wait_for(max(1, IDS - clients.received))
    ids = clients.distinct()
    print(f"{ids.size} ids, {CRASHES} crashes, {steps} steps of the clock: 0 duplicates; {dict(clients.errors)}")
    assert ids.size >= IDS
    assert ids_of_an_hour_ago == 0
    assert set(clients.errors) <= TOLERATED


def test_the_clock_is_set_back_an_hour_after_a_crash(clock_server, connect):
    """58000 at once and not a wait of an hour; ids again when the clock is back, all of them greater."""
    server, clock = clock_server, clock_server.clock
    server.psql("CREATE EXTENSION snowflake_id")
    with Clients(server) as clients:
        clients.wait_for(50_000)
        server.kill9()
        clock.offset(-3600)
    before = clients.distinct()
    server.start()
    connection = connect(server)
    for _ in range(3):
        with pytest.raises(psycopg.Error) as caught:
            next_id(connection)
        assert caught.value.diag.sqlstate == "58000"
        assert re.fullmatch(
            r"the clock is (1 h|60(\.\d+)? min|59\.\d+ min) behind this node's record of snowflake ids",
            caught.value.diag.message_primary,
        )
        assert status(connection).state == "clock_behind"
    clock.offset(0)
    assert next_id(connection) > before[-1]
    eventually(lambda: status(connection).state == "ready")
    with Clients(server) as clients:
        clients.wait_for(50_000)
    after = clients.distinct()
    assert after[0] > before[-1]
    print(f"{before.size + after.size} ids, 1 crash, 2 steps of the clock: 0 duplicates")


def test_ids_within_the_reservation_of_a_crash(clock_server, connect):
    """What a crash leaves behind is recorded for no longer than `reservation`, and nobody gets an error."""
    server = clock_server
    reconfigure(server, reservation="2s")
    server.psql("CREATE EXTENSION snowflake_id")
    connection = connect(server)
    marks = set()

    def extended():
        last = next_id(connection)
        marks.update(connection.execute("SELECT reserved_until FROM snowflake_id_node.high_water_marks").fetchone())
        return len(marks) > 3 and last

    last = eventually(extended)
    server.kill9()
    killed = time.time()
    mark = record(server)["reserved_until"]
    assert mark > last
    assert seconds(mark) <= killed + 2 + TICK
    server.start()
    ready = time.time()
    number = next_id(connect(server))
    waited = time.time() - ready
    assert number >= mark
    print(f"reservation 2 s: ids {waited:.2f} s after the server is ready")


def test_ids_when_the_clock_has_passed_the_record(clock_server, connect):
    """After a crash it is the clock alone that is waited for, up to the recorded mark and no further."""
    server, clock = clock_server, clock_server.clock
    reconfigure(server, reservation="10min")
    server.psql("CREATE EXTENSION snowflake_id")
    last = next_id(connect(server))
    server.kill9()
    killed = time.time()
    mark = record(server)["reserved_until"]
    assert mark > last
    assert seconds(mark) <= killed + 600 + TICK
    # Minutes before the mark a call waits.
    clock.offset(seconds(mark) - 500 - time.time())
    server.start()
    connection = connect(server)
    connection.execute("SET statement_timeout = '500ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        next_id(connection)
    # At the mark it does not.
    connection.execute("RESET statement_timeout")
    clock.offset(seconds(mark) - time.time())
    number, now = connection.execute(
        "SELECT id, extract(epoch FROM clock_timestamp())::float FROM snowflake_nextval() AS id"
    ).fetchone()
    assert number >= mark
    assert seconds(mark) <= seconds(number) <= now


@pytest.mark.parametrize("mode", ["fast", "smart"])
def test_a_clean_restart_waits_for_nothing(start_server, mode):
    """The exact last slot is recorded, so that ids flow at once where a window of an hour had been reserved."""
    server = start_server(reservation="1h")
    server.psql("CREATE EXTENSION snowflake_id")
    for _ in range(2):
        server.psql("SELECT max(id) FROM snowflake_batch(100000) AS id")
        last = int(server.psql("SELECT snowflake_nextval()"))
        server.stop(mode)
        sequence = last & 4095
        # The slot behind it, as an id of the layout.
        behind = last + 1 if sequence < 4095 else last - sequence + (1 << 22)
        assert record(server)["reserved_until"] == behind
        asked = time.time()
        server.start()
        number = int(server.psql("SELECT snowflake_nextval()"))
        assert number > last
        assert asked - TICK < seconds(number) <= time.time()


@pytest.mark.parametrize("end", ["kill9", "immediate", "backend"])
def test_ids_of_a_lost_transaction(clock_server, connect, end):
    """A client saw them and may have passed them on: they are not issued again when their time comes again.

    PostgreSQL's own nextval() does issue its numbers again after such a crash.
    """
    server = clock_server
    server.psql("CREATE EXTENSION snowflake_id; CREATE TABLE t (id bigint DEFAULT snowflake_nextval() PRIMARY KEY)")
    lost = connect(server, autocommit=False)
    rows = lost.execute("INSERT INTO t SELECT FROM generate_series(1, 10000) RETURNING id").fetchall()
    if end == "backend":
        server.clock.offset(-0.8)
        kill_one(server, r"^postgres: postgres ", random.Random(0))
        server.wait_ready()
    else:
        server.kill9() if end == "kill9" else server.stop(end)
        server.clock.offset(-0.8)
        server.start()
    connection = connect(server)
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    again = connection.execute("INSERT INTO t SELECT FROM generate_series(1, 10000) RETURNING id").fetchall()
    assert min(again) > max(rows)
    print(f"20000 ids from before and after {end}: 0 duplicates")


def test_the_postmaster_dies_while_calls_wait(start_server, connect):
    """They notice, though each wait is shorter than a millisecond: until all have ended, there is no new start."""
    # 8 ids in a millisecond: calls do nothing but wait for the next one. And for an hour, none waits for the keeper.
    server = start_server(layout="timestamp:41,worker:10,sequence:3", reservation="1h")
    server.psql("CREATE EXTENSION snowflake_id")
    sessions = [connect(server) for _ in range(4)]
    for session in sessions:
        session.pgconn.send_query(b"SELECT max(snowflake_nextval()) FROM (SELECT generate_series(1, 1000000000)) AS many")
    watcher = connect(server)
    last = next_id(watcher)
    # To let them begin.
    eventually(lambda: next_id(watcher) > last + (1000 << 13))
    children = server.suspend()
    assert {session.info.backend_pid for session in sessions} < set(children)
    try:
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not server.running())
        # The server's own processes, too: as long as one is there, no new start is possible.
        eventually(lambda: all(state_of(pid) in "ZX" for pid in children), "the sessions end")
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    server.start()


def test_everything_stops_for_longer_than_a_window(start_server):
    """As when a virtual machine is paused: what was checked before the pause is used after it, and harms nobody."""
    server = start_server(reservation="1s")
    server.psql("CREATE EXTENSION snowflake_id")
    with Clients(server) as clients:
        for _ in range(2):
            clients.wait_for(100_000)
            with frozen(server):
                # The fault itself.
                time.sleep(2.5)
            clients.round += 1
        clients.wait_for(100_000)
    ids = clients.distinct()
    print(f"{ids.size} ids, all processes stopped 2 times for 2.5 s: 0 duplicates")
    assert not clients.errors
