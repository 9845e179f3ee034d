"""snowflake_nextval_after: an id that is greater than one of another node, whatever the clocks of both say."""

import math
import re
import time

import psycopg
import pytest
from clients import eventually
from nodes import configure, next_id, seconds
from psycopg import errors
from throwaway import FakeClock

AFTER = "SELECT id, extract(epoch FROM clock_timestamp())::float8 FROM snowflake_nextval_after(%s) AS id"
AHEAD = r"snowflake id {} is (\d+(?:\.\d+)?) (ms|us|s) ahead of what this node may generate"
TICK = 0.001


@pytest.fixture
def behind(installation, start_server, connect):
    """A function: sessions of a parent, with worker id 9, and of a child, with worker id 1, whose clock is so many seconds behind."""

    def start(seconds, **settings):
        clock = FakeClock(installation.directory() / "clock")
        clock.offset(-seconds)
        parent = connect(start_server(worker_id=9))
        child = connect(start_server(worker_id=1, server_options={"clock": clock}, **settings))
        for connection in parent, child:
            connection.execute("CREATE EXTENSION snowflake_id")
            next_id(connection)
        return parent, child

    return start


def statistics(connection, what):
    return connection.execute(f"SELECT {what} FROM pg_stat_snowflake").fetchone()


@pytest.mark.parametrize("gap", [0, 0.003, 0.9], ids=lambda gap: f"{1000 * gap:g} ms")
@pytest.mark.parametrize("max_ahead", [0, 1], ids=lambda ahead: f"max_ahead {ahead} s")
def test_clocks_that_are_apart(behind, gap, max_ahead):
    """Order is kept, or the call is refused; and no id is farther ahead of its node's clock than allowed."""
    parent, child = behind(gap, max_ahead=f"{max_ahead}s")
    refused = gap > max_ahead + 0.005
    for _ in range(20):
        began = time.monotonic()
        seen = next_id(parent)
        try:
            number, now = child.execute(AFTER, [seen]).fetchone()
        except psycopg.Error as error:
            assert refused, error
            assert error.diag.sqlstate == "58000"
            ((by, unit),) = re.findall(f"^{AHEAD.format(seen)}$", error.diag.message_primary)
            by = float(by) / {"us": 1e6, "ms": 1e3, "s": 1}[unit]
            # A tick more, in which the first greater id is; and time went on meanwhile.
            assert gap + TICK - (time.monotonic() - began) - 2 * TICK < by <= gap + TICK
            assert error.diag.message_detail.startswith("The clock reads 20")
            assert error.diag.message_detail.endswith(
                "Up to 5 ms is waited for (snowflake_id.max_wait), and ids may run ahead of the clock by 0 us (snowflake_id.max_ahead)."
            )
            # Nothing has changed: the node's own ids go on where its clock is, unless that is there by now.
            assert seconds(next_id(child)) < seconds(seen) or time.monotonic() - began > gap - 0.01
            continue
        # Only if it took so long to ask.
        assert not refused or time.monotonic() - began > gap - 0.01
        assert number > seen
        assert seconds(number) <= now + max_ahead
        # For all others on the node, too.
        if seconds(number) > now:
            assert next_id(child) > number
    if refused:
        assert statistics(child, "refused_clock > 0, clock_backward") == (True, 0)
    else:
        assert statistics(child, "refused_clock, clock_backward") == (0, 0)


def test_a_window_is_made_as_far_as_it_must(behind, connect):
    """One reservation does not reach as far: the background worker goes on until it does; and after a crash, ids are greater still."""
    parent, child = behind(50, max_ahead="1min", postgres={"snowflake_id.reservation": "1s"})
    began = time.monotonic()
    seen = next_id(parent)
    number, now = child.execute(AFTER, [seen]).fetchone()
    assert number > seen
    # By less than 50 s, as time went on meanwhile.
    assert 50 - (time.monotonic() - began) - 2 * TICK < seconds(number) - now < 50.1
    windows, ahead = statistics(child, "windows, extract(epoch FROM ahead)::float8")
    assert windows > 2
    assert ahead > 50 - (time.monotonic() - began) - 2 * TICK
    # What is beyond the lead is refused, and moves nothing.
    far = child.execute("SELECT snowflake_encode(clock_timestamp() + interval '90 s', 2, 0)").fetchone()[0]
    with pytest.raises(errors.SystemError, match=AHEAD.format(far)):
        child.execute(AFTER, [far])
    assert seconds(number) <= seconds(next_id(child)) < now + 52


def test_the_hint_lets_ids_run_as_far_ahead_as_it_takes(behind):
    """What it names is enough; for an id that no setting reaches, it names none."""
    parent, child = behind(3.5, max_ahead="1s")
    began = time.monotonic()
    seen = next_id(parent)
    with pytest.raises(errors.SystemError) as refused:
        child.execute(AFTER, [seen])
    # What is left of 3.5 s when it is asked for, rounded up.
    least = math.ceil(3.5 - (time.monotonic() - began))
    statements = refused.value.diag.message_hint.split("the clock: ")[1]
    named = re.fullmatch(r"ALTER SYSTEM SET snowflake_id\.max_ahead = '(\d)s'; SELECT pg_reload_conf\(\);", statements)[1]
    assert least <= int(named) <= 4
    for statement in statements.split("; "):
        child.execute(statement)
    eventually(lambda: child.execute("SHOW snowflake_id.max_ahead").fetchone() == (f"{named}s",))
    assert child.execute(AFTER, [seen]).fetchone() is not None
    far = child.execute("SELECT snowflake_encode(clock_timestamp() + interval '61 min', 2, 0)").fetchone()[0]
    with pytest.raises(errors.SystemError) as refused:
        child.execute(AFTER, [far])
    assert refused.value.diag.message_hint.endswith("check the time synchronisation (NTP) of both.")


def test_it_waits_as_long_as_may_be_waited(behind, connect):
    """With snowflake_id.max_wait, the call returns when the clock is there; and it can be cancelled."""
    parent, child = behind(0.9, max_wait="10s")

    def waited():
        number, now = child.execute(AFTER, [next_id(parent)]).fetchone()
        assert seconds(number) <= now
        return statistics(child, "waits")[0] >= 2

    eventually(waited, "calls wait")
    assert statistics(child, "refused_clock") == (0,)
    seen = child.execute("SELECT snowflake_encode(clock_timestamp() + interval '9 s', 2, 0)").fetchone()[0]
    # For this call alone: others may take longer.
    with pytest.raises(errors.QueryCanceled), child.transaction():
        child.execute("SET LOCAL statement_timeout = 50")
        child.execute(AFTER, [seen])
    assert next_id(child) < seen


@pytest.mark.parametrize("block", [1, 64])
def test_each_session_keeps_order(server, database, connect, block):
    """Two nodes' worth of ids in turn: each exceeds the one before, whichever of the sessions makes it."""
    sessions = [connect(server, database) for _ in range(3)]
    for session in sessions:
        session.execute(f"SET snowflake_id.backend_block = {block}")
    last = 0
    for turn in range(300):
        last_before, (last,) = last, sessions[turn % 3].execute("SELECT snowflake_nextval_after(%s)", [last]).fetchone()
        assert last > last_before


def test_what_is_no_id(start_server, connect):
    """22003: negative, or with a bit that the layout leaves zero; at the first call of a session and at a later one."""
    server = start_server(layout="timestamp:41,unused:4,worker:6,sequence:8")
    for number in -1, -(2**63), 1 << 14, 2**62 + (1 << 17):
        connection = connect(server)
        connection.execute("CREATE EXTENSION IF NOT EXISTS snowflake_id")
        for _ in range(2):
            with pytest.raises(errors.NumericValueOutOfRange) as caught:
                connection.execute("SELECT snowflake_nextval_after(%s::bigint)", [number])
            assert caught.value.diag.message_primary == (
                f'{number} is not a snowflake id of layout "timestamp:41,unused:4,worker:6,sequence:8"'
            )
            next_id(connection)
    # Of the end of the layout: as far ahead as that is.
    end = 2**59 - 1 & ~(15 << 14)
    with pytest.raises(errors.SystemError, match=r"is \d+\.\d+ d ahead"):
        connection.execute("SELECT snowflake_nextval_after(%s::bigint)", [end])


def test_a_configuration_that_is_wrong(start_server, connect):
    """Errors of the node come as those of snowflake_nextval() do."""
    server = start_server(worker_id=None)
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    for number in "NULL", "1":
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="this node has no worker id"):
            connection.execute(f"SELECT snowflake_nextval_after({number})")
    configure(server, connection, worker_id="3")
    assert connection.execute("SELECT snowflake_worker_id(snowflake_nextval_after(1))").fetchone() == (3,)
