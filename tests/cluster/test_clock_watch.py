"""A clock that goes wrong must not take the node's record with it: jumps, steps back, a bad synchronisation."""

import datetime
import re
import time

import psycopg
import pytest
from clients import TICK, Clients, eventually
from nodes import configure, next_id, refusal, seconds, status

TEN_DAYS = 864000


def one(connection, query):
    (value,) = connection.execute(query).fetchone()
    return value


def assert_jumped(connection):
    """Ids are refused because of ten days, and the record knows nothing of them."""
    with pytest.raises(psycopg.Error) as caught:
        next_id(connection)
    diag = caught.value.diag
    assert diag.sqlstate == "58000"
    assert re.fullmatch(r"the clock jumped forward by (10(\.0\d*)?|9\.99\d*) d", diag.message_primary)
    assert "SELECT snowflake_accept_clock()" in diag.message_hint
    assert status(connection).state == "clock_jumped"
    assert 9.99 < one(connection, "SELECT extract(epoch FROM clock_jump)::float / 86400 FROM snowflake_status") < 10.01
    mark = one(connection, "SELECT reserved_until FROM snowflake_id_node.high_water_marks")
    # The longest window, see docs/GUARANTEES.md.
    assert seconds(mark) <= time.time() + 1.25 + TICK


def assert_made_now(connection, above, offset=0):
    """An id is generated without an error, is greater than those before, and carries the time at which it was generated."""
    before = time.time() + offset
    number = next_id(connection)
    assert number > above
    assert before - TICK <= seconds(number) <= time.time() + offset
    # Where a window was still open, the keeper notices a moment later.
    eventually(lambda: status(connection).state == "ready")
    return number


def end(server, how):
    server.kill9() if how == "kill9" else server.stop(how)


def test_a_jump_forward_while_running(clock_server, made):
    """Ten days are refused as often as anyone asks; ids come back by themselves with the clock."""
    last = next_id(made)
    for _ in range(3):
        clock_server.clock.offset(TEN_DAYS)
        assert_jumped(made)
        # Looking again does not make the keeper used to it.
        for _ in range(3):
            looked = one(made, "SELECT keeper_looked_at FROM snowflake_status")
            assert_jumped(made)
            assert one(made, "SELECT keeper_looked_at FROM snowflake_status") > looked
        clock_server.clock.offset(0)
        last = assert_made_now(made, last)


@pytest.mark.parametrize("how", ["fast", "kill9"])
def test_a_jump_forward_while_down(clock_server, made, connect, how):
    """The machine has not been started anew, so its other clock tells."""
    last = next_id(made)
    end(clock_server, how)
    clock_server.clock.offset(TEN_DAYS)
    clock_server.start()
    connection = connect(clock_server)
    assert_jumped(connection)
    clock_server.clock.offset(0)
    assert_made_now(connection, last)


@pytest.mark.parametrize("how", ["fast", "kill9"])
def test_a_jump_outlasts_a_restart(clock_server, made, connect, how):
    """A restart is not an administrator's word that the clock is right."""
    last = next_id(made)
    clock_server.clock.offset(TEN_DAYS)
    connection = made
    for _ in range(2):
        assert_jumped(connection)
        end(clock_server, how)
        clock_server.start()
        connection = connect(clock_server)
    assert_jumped(connection)
    clock_server.clock.offset(0)
    assert_made_now(connection, last)


@pytest.mark.parametrize("how", ["fast", "kill9"])
def test_a_jump_is_accepted(clock_server, made, connect, how):
    """Ids carry the new time, and go on to do so after a restart; there is nothing to accept twice."""
    last = next_id(made)
    assert one(made, "SELECT snowflake_accept_clock()") is False
    clock_server.clock.offset(TEN_DAYS)
    assert_jumped(made)
    assert one(made, "SELECT snowflake_accept_clock()") is True
    last = assert_made_now(made, last, TEN_DAYS)
    assert one(made, "SELECT snowflake_accept_clock()") is False
    end(clock_server, how)
    clock_server.start()
    last = assert_made_now(connect(clock_server), last, TEN_DAYS)
    # The next jump is one again.
    clock_server.clock.offset(2 * TEN_DAYS)
    with pytest.raises(psycopg.Error) as caught:
        next_id(connect(clock_server))
    assert caught.value.diag.sqlstate == "58000"


def test_a_jump_while_down_is_accepted(clock_server, made, connect):
    last = next_id(made)
    clock_server.stop()
    clock_server.clock.offset(TEN_DAYS)
    clock_server.start()
    connection = connect(clock_server)
    assert_jumped(connection)
    assert one(connection, "SELECT snowflake_accept_clock()") is True
    assert_made_now(connection, last, TEN_DAYS)


def test_who_may_accept_a_clock(clock_server, made, connect):
    """42501 for anyone who has not been granted it, whatever the clock does."""
    made.execute("CREATE ROLE ordinary LOGIN")
    ordinary = connect(clock_server, user="ordinary")
    for offset in 0, TEN_DAYS:
        clock_server.clock.offset(offset)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ordinary.execute("SELECT snowflake_accept_clock()")
    assert_jumped(made)
    # Everyone may read why there are no ids.
    assert status(ordinary).state == "clock_jumped"


@pytest.mark.parametrize(("allowed", "offset"), [("1d", 86000), ("0", TEN_DAYS)])
def test_a_jump_that_is_allowed(clock_server, made, connect, allowed, offset):
    """Up to max_clock_jump the clock is believed; with 0, always: while running, and over a restart."""
    configure(clock_server, made, max_clock_jump=allowed)
    last = next_id(made)
    clock_server.clock.offset(offset)
    last = assert_made_now(made, last, offset)
    assert one(made, "SELECT snowflake_accept_clock()") is False
    clock_server.stop()
    clock_server.clock.offset(2 * offset)
    clock_server.start()
    assert_made_now(connect(clock_server), last, 2 * offset)


def test_allowing_a_jump_ends_the_quarantine(clock_server, made):
    """An hour against a minute is refused; a reload that allows two hours helps the next call."""
    configure(clock_server, made, max_clock_jump="1min")
    last = next_id(made)
    clock_server.clock.offset(3600)
    with pytest.raises(psycopg.Error) as caught:
        next_id(made)
    assert caught.value.diag.sqlstate == "58000"
    assert status(made).state == "clock_jumped"
    configure(clock_server, made, max_clock_jump="2h")
    # The keeper reads its configuration soon after the session.
    eventually(lambda: not is_refused(made))
    assert_made_now(made, last, 3600)


def is_refused(connection):
    try:
        next_id(connection)
    except psycopg.Error as error:
        assert error.sqlstate == "58000", error
        return True
    return False


def test_jumps_under_load(clock_server, made):
    """Not one id carries the time of a jump, and none is made twice."""
    started = time.time()
    with Clients(clock_server, 4) as clients:
        for jump in TEN_DAYS, TEN_DAYS, 86401:
            clients.wait_for(50_000)
            refused = clients.errors["58000"]
            clock_server.clock.offset(jump)
            eventually(lambda before=refused: clients.errors["58000"] > before)
            clock_server.clock.offset(0)
            clients.round += 1
        clients.wait_for(50_000)
    ids = clients.distinct()
    print(f"{ids.size} ids, 3 jumps of the clock and back: 0 duplicates; {dict(clients.errors)}")
    assert started - TICK <= seconds(int(ids[0]))
    assert seconds(int(ids[-1])) <= time.time()
    assert set(clients.errors) == {"58000"}


def test_steps_back_while_running(clock_server, made):
    """3 ms are waited for; 50 ms are an error that passes by itself; an hour is one until the clock is back."""
    clock, offset = clock_server.clock, 0
    last = next_id(made)
    for _ in range(50):
        clock.offset(offset := offset - 0.003)
        number = next_id(made)
        assert number > last
        last = number
    # A step back that nobody saw, because the machine was slow, is made again.
    refused = 0
    while not refused:
        clock.offset(offset := offset - 0.050)
        while is_refused(made):
            refused += 1
        number = next_id(made)
        assert number > last
        last = number
    clock.offset(offset - 3600)
    for _ in range(3):
        assert is_refused(made)
    eventually(lambda: status(made).state == "clock_behind", "the keeper has looked")
    clock.offset(0)
    assert_made_now(made, last)


@pytest.fixture
def estimated(start_server, connect, kernel_clock):
    """A server by its kernel's estimate of the clock's error: a connection, and functions that set and await that."""
    env, wrong_by = kernel_clock
    server = start_server(server_options={"env": env}, max_clock_error=RECOMMENDED)
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")

    def becomes(seconds):
        wrong_by(seconds)
        known = None if seconds is None else datetime.timedelta(seconds=seconds)
        eventually(lambda: one(connection, "SELECT clock_error FROM pg_stat_snowflake") == known)

    return server, connection, becomes


# As docs/REFERENCE.md recommends it.
RECOMMENDED = "5s"


def test_the_kernels_estimate_of_the_error(estimated):
    """No new windows while it exceeds max_clock_error; ids again when it does not, by the clock or by the setting."""
    server, connection, becomes = estimated
    last = next_id(connection)
    becomes(5)
    assert next_id(connection) > last
    becomes(5.001)
    # As soon as the window is used up.
    eventually(lambda: is_refused(connection))
    diag = refusal(connection)
    assert (diag.sqlstate, diag.message_primary) == ("58000", "the clock error may be as large as 5.001 s")
    assert diag.message_detail == "That is the kernel's estimate; up to 5 s is allowed (snowflake_id.max_clock_error)."
    assert status(connection).state == "clock_error"
    becomes(5)
    assert next_id(connection) > last
    becomes(16)
    eventually(lambda: is_refused(connection))
    configure(server, connection, max_clock_error="0")
    # The keeper reads its configuration soon after the session.
    eventually(lambda: not is_refused(connection))
    eventually(lambda: status(connection).state == "ready")


def test_the_teeth_of_a_saw(estimated):
    """The estimate grows by 0.5 ms a second from one answer of a time server to the next: not a reason to stop.

    Of chrony (1,024 s) and systemd-timesyncd (2,048 s), with the error that the servers admit, and one answer missed.
    """
    _, connection, becomes = estimated
    last = next_id(connection)
    for age in (*range(0, 1025, 64), *range(0, 2049, 128), 2100, 4096):
        becomes(0.1 + age * 0.0005)
        number = next_id(connection)
        assert number > last
        last = number
    assert status(connection).state == "ready"
    assert one(connection, "SELECT refused_clock FROM pg_stat_snowflake") == 0


def test_a_kernel_that_may_not_be_asked(estimated):
    """NULL, not an error of 16 s; where the error is bounded, a reason of its own, and the way out that it names."""
    _, connection, becomes = estimated
    last = next_id(connection)
    becomes(None)
    row = status(connection)
    assert (row.clock_error, row.clock_offset, row.clock_synchronized) == (None, None, None)
    eventually(lambda: is_refused(connection))
    diag = refusal(connection)
    assert (diag.sqlstate, diag.message_primary) == ("58000", "the clock error is not known: the kernel may not be asked")
    assert diag.message_detail == (
        "Up to 5 s is allowed (snowflake_id.max_clock_error), and adjtimex is forbidden to this server."
    )
    row = status(connection)
    assert (row.state, row.hint) == ("clock_unknown", diag.message_hint)
    for statement in re.search(r"asking: (.*;)$", diag.message_hint)[1].split("; "):
        connection.execute(statement)
    eventually(lambda: not is_refused(connection))
    assert next_id(connection) > last
    eventually(lambda: status(connection).state == "ready")
    assert status(connection).clock_error is None
