"""No id twice after a promotion that left no trace, or a trace of something else.

What the new primary has no record of may have been issued all the same: 200,000 ids before, 200,000 after.
"""

import psycopg
import pytest
from clients import eventually
from nodes import (
    REPLICATION,
    archiving,
    becomes_ready,
    caught_up,
    configure,
    cut,
    duplicates,
    kept,
    next_id,
    promote,
    status,
    warnings,
)

# 64 ids in a millisecond: 200,000 take 3.1 s of id-time, which runs ahead of the clock where it may.
WIDTHS = {"layout": "timestamp:41,worker:10,sequence:6"}
SOME = 200_000
AHEAD = "5s"
MARKS = "snowflake_id_node.high_water_marks"


def take(connection):
    """Many ids at once."""
    return connection.execute(f"SELECT snowflake_batch_array({SOME})").fetchone()[0]


def records(connection):
    """How many records there are."""
    return connection.execute(f"SELECT count(*) FROM {MARKS}").fetchone()[0]


def verdict(before, after, what):
    twice = duplicates(before, after)
    print(f"{len(before)} ids before, {len(after)} after {what}: {twice} duplicates")
    assert twice == 0
    assert min(after) > max(before)


def node(start_server, connect, **settings):
    """A server that has not generated an id, and has no record; and a session in it."""
    server = start_server(**WIDTHS, **settings, on_copy="refuse")
    server.psql("CREATE EXTENSION snowflake_id")
    connection = connect(server)
    kept(connection)
    assert records(connection) == 0
    return server, connection


def promoted(standby, connect):
    """It has become a primary, and finds no record of any node."""
    promote(standby)
    connection = connect(standby)
    assert records(connection) == 0
    return connection


def lagging_with_ids_ahead(start_server, copies, connect, **_):
    """The standby has not heard of the first id, and all ids run ahead of the clock."""
    server, primary = node(start_server, connect, max_ahead=AHEAD, promotion_guard=0, postgres=REPLICATION)
    standby = copies.standby(server)
    cut(server)
    before = take(primary)
    server.kill9()
    return before, standby, promoted(standby, connect)


def lagging_with_a_slow_clock(start_server, copies, connect, **_):
    """The standby has not heard of the first id, and its clock is slow, by less than the guard."""
    server, primary = node(start_server, connect, promotion_guard="4s", postgres=REPLICATION)
    clock = copies.clock()
    clock.offset(-3.9)
    standby = copies.standby(server, clock=clock)
    cut(server)
    before = take(primary)
    server.kill9()
    return before, standby, promoted(standby, connect)


def without_the_old_row(start_server, copies, connect, **_):
    """The primary's record has been deleted, because that one will never run again."""
    server, primary = node(start_server, connect, max_ahead=AHEAD, promotion_guard=0, postgres=REPLICATION)
    standby = copies.standby(server)
    next_id(primary)
    caught_up(server, standby)
    cut(server)
    before = take(primary)
    server.kill9()
    promote(standby)
    connection = connect(standby)
    assert connection.execute(f"DELETE FROM {MARKS}").rowcount == 1
    return before, standby, connection


def recovered_to_before_the_first_record(start_server, copies, connect, installation):
    """By a base backup, and a target in the archive that lies before all ids."""
    archive = installation.directory()
    postgres = {**REPLICATION, **archiving(archive)}
    server, primary = node(start_server, connect, max_ahead=AHEAD, promotion_guard=0, postgres=postgres)
    recovery = {
        "archive_mode": "off",
        "restore_command": f"cp {archive}/%f %p",
        "recovery_target_name": "here",
        "recovery_target_action": "promote",
    }
    backup = copies.make(server, start=False, postgres=recovery)
    primary.execute("SELECT pg_create_restore_point('here')")
    before = take(primary)
    wal = primary.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()[0]
    eventually(lambda: (archive / wal).exists())
    server.kill9()
    installation.run("touch", backup.data / "recovery.signal")
    backup.start()
    eventually(lambda: backup.psql("SELECT pg_is_in_recovery()") == "f")
    connection = connect(backup)
    assert records(connection) == 0
    return before, backup, connection


@pytest.mark.parametrize(
    "history",
    [
        lagging_with_ids_ahead,
        lagging_with_a_slow_clock,
        without_the_old_row,
        recovered_to_before_the_first_record,
    ],
    ids=lambda history: history.__name__.replace("_", " "),
)
def test_a_promotion_that_left_no_trace(start_server, copies, connect, installation, history):
    """A timeline above the first is a promotion, whatever there is of records."""
    before, server, connection = history(start_server, copies, connect, installation=installation)
    after = [next_id(connection), *take(connection)]
    row = becomes_ready(connection)
    assert (row.timeline, row.conflict) == (2, None)
    assert warnings(server) == []
    verdict(before, after, f"a promotion, {history.__name__.replace('_', ' ')}")


def test_max_ahead_is_lowered_before_the_failover(start_server, copies, connect):
    """Of both nodes: the lead that the primary had really, its last record shows."""
    server, primary = node(start_server, connect, max_ahead=AHEAD, promotion_guard=0, postgres=REPLICATION)
    standby = copies.standby(server)
    next_id(primary)
    caught_up(server, standby)
    cut(server)
    before = take(primary)
    configure(server, primary, max_ahead="0")
    server.kill9()
    configure(standby, connect(standby), max_ahead="0")
    promote(standby)
    connection = connect(standby)
    after = [next_id(connection), *take(connection)]
    assert connection.execute("SHOW snowflake_id.max_ahead").fetchone() == ("0",)
    verdict(before, after, f"a failover before which max_ahead went from {AHEAD} to 0")


@pytest.mark.parametrize("how", ["promoted", "without standby.signal"])
def test_a_primary_whose_worker_id_was_changed(start_server, copies, connect, how):
    """Its last record names the new one; what it issued with the old one is below the same mark.

    The standby's file has the old worker id, and its clock is wrong by more than a window. There is no guard.
    """
    server, primary = node(start_server, connect, promotion_guard=0, postgres=REPLICATION)
    clock = copies.clock()
    clock.offset(-5)
    standby = copies.standby(server, clock=clock)
    before = take(primary)
    server.configure({"snowflake_id.worker_id": 5})
    server.reload()
    eventually(lambda: primary.execute("SELECT snowflake_worker_id(snowflake_nextval())").fetchone() == (5,))
    before.append(next_id(primary))
    caught_up(server, standby)
    server.kill9()
    if how == "promoted":
        promote(standby)
    else:
        standby.stop()
        (standby.data / "standby.signal").unlink()
        standby.start()
    connection = connect(standby)
    refused = set()

    def first():
        try:
            return next_id(connection)
        except psycopg.errors.LockNotAvailable:
            # On a slow machine, the keeper is not there yet.
            return None
        except psycopg.Error as error:
            refused.add(error.sqlstate)
            clock.offset(0)
            return None

    after = [eventually(first, "ids flow"), *take(connection)]
    assert {number >> 6 & 1023 for number in after} == {1}
    row = status(connection)
    assert (row.timeline, row.conflict) == (2 if how == "promoted" else 1, None)
    verdict(before, after, f"its standby, {how}, has the primary's old worker id and a clock 5 s slow")
    # It had to be set right.
    assert refused == {"58000"}
