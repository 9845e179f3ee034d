"""What happens when the wall clock is moved. libfaketime moves it for real, for the whole server."""

import re
import threading

import psycopg
import pytest
from clients import eventually
from nodes import configure, next_id
from psycopg import errors
from throwaway import PATIENCE


@pytest.mark.every_major("libfaketime, and waits inside PostgreSQL")
def test_a_clock_that_stands_far_back_is_an_error(clock_server, made):
    """58000, with how far and until when; and ids again when the clock is back."""
    last = next_id(made)
    clock_server.clock.offset(-3600)
    with pytest.raises(psycopg.Error) as caught:
        next_id(made)
    diag = caught.value.diag
    assert diag.sqlstate == "58000"
    assert re.fullmatch(r"the clock is (5\d\.\d+|60) min behind this node's snowflake ids", diag.message_primary)
    assert diag.message_detail.startswith("The clock reads 20")
    assert diag.message_detail.endswith("Up to 5 ms is waited for (snowflake_id.max_wait).")
    assert diag.message_hint == (
        "Ids flow again by themselves when the clock has caught up. Check the machine's time synchronisation (NTP); "
        "SELECT * FROM snowflake_layout() shows the epoch."
    )
    # Every way to generate ids says the same; reading them goes on.
    for query in "SELECT snowflake_batch(1)", "SELECT snowflake_batch_array(1)":
        with pytest.raises(psycopg.Error) as caught:
            made.execute(query)
        assert caught.value.diag.sqlstate == "58000"
    made.execute("SELECT * FROM snowflake_decode(%s::bigint)", [last])
    clock_server.clock.offset(0)
    assert next_id(made) > last


@pytest.mark.every_major("libfaketime, and waits inside PostgreSQL")
def test_a_small_step_back_is_waited_for(clock_server, made):
    """No error and no duplicate: the call returns when the clock has caught up."""
    configure(clock_server, made, max_wait="10s")
    last = next_id(made)
    for step in 0.003, 0.05, 0.5:
        # The clock goes on from where it is put, so each step is a step back.
        clock_server.clock.offset(-step)
        number, now = made.execute("SELECT id, clock_timestamp() FROM snowflake_nextval() AS id").fetchone()
        assert number > last
        made_at = made.execute("SELECT snowflake_timestamp(%s::bigint)", [number]).fetchone()[0]
        assert made_at <= now, "the id is ahead of the clock"
        last = number
        clock_server.clock.offset(0)
        last = next_id(made)


def test_ids_may_run_ahead_instead(clock_server, made):
    """With max_ahead, a step back within it is neither waited for nor an error."""
    configure(clock_server, made, max_ahead="1h", max_wait="0")
    last = next_id(made)
    clock_server.clock.offset(-3000)
    number = next_id(made)
    assert number > last
    ahead = made.execute(
        "SELECT extract(epoch FROM snowflake_timestamp(%s::bigint) - clock_timestamp())::float", [number]
    ).fetchone()[0]
    assert 2000 < ahead <= 3000
    clock_server.clock.offset(-10_000)
    with pytest.raises(psycopg.Error) as caught:
        next_id(made)
    assert caught.value.diag.sqlstate == "58000"


def test_a_clock_before_the_epoch(clock_server, made):
    clock_server.clock.set("@2024-06-01 00:00:00")
    with pytest.raises(psycopg.Error) as caught:
        next_id(made)
    assert caught.value.diag.sqlstate == "58000"


def test_an_epoch_in_the_future(start_server, connect):
    """58000, with how far; the node waits for the epoch, not for a record."""
    server = start_server(epoch="2100-01-01 00:00:00+00")
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    for _ in range(2):
        with pytest.raises(psycopg.Error) as caught:
            next_id(connection)
        diag = caught.value.diag
        assert diag.sqlstate == "58000"
        assert re.fullmatch(r"the clock is \d+(\.\d+)? d behind this node's snowflake ids", diag.message_primary)
        assert re.search(r"ids can be generated again from 2100-01-01 00:00:00(\.\d+)?\+00 on", diag.message_detail)
    state = "SELECT state FROM snowflake_status"
    eventually(lambda: connection.execute(state).fetchone() == ("clock_behind",), "the keeper has looked")


def test_the_time_field_is_used_up(start_server, connect):
    """2200H, not a wrapped number; keys can still be read."""
    server = start_server(epoch="1900-01-01 00:00:00+00")
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    with pytest.raises(psycopg.Error) as caught:
        next_id(connection)
    diag = caught.value.diag
    assert diag.sqlstate == "2200H"
    assert diag.message_primary == 'the time field of layout "timestamp:41,worker:10,sequence:12" is used up'
    assert diag.message_detail == "The layout ended at 1969-09-07 15:47:35.552+00."
    assert diag.message_hint
    assert connection.execute("SELECT worker_id FROM snowflake_decode(4096)").fetchone() == (1,)


@pytest.fixture
def waiting(clock_server, made, connect):
    """A session in whose statement snowflake_nextval() waits for a clock that stands 50 min back."""
    configure(clock_server, made, max_wait="1h")
    waiter = connect(clock_server)
    watcher = connect(clock_server)
    next_id(made)
    clock_server.clock.offset(-3000)
    outcome = []

    class Waiting:
        session, observer = waiter, watcher

        @staticmethod
        def start(query="SELECT snowflake_nextval()"):
            def run():
                try:
                    waiter.execute(query)
                    outcome.append(None)
                except psycopg.Error as error:
                    outcome.append(error)

            thread = threading.Thread(target=run)
            thread.start()
            while not watcher.execute(
                "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Extension'",
                [waiter.info.backend_pid],
            ).fetchall():
                assert not outcome, outcome
            return thread

        @staticmethod
        def end(thread):
            # Far less than the clock would take.
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the wait was not interrupted"
            return outcome[0]

    yield Waiting
    clock_server.clock.offset(0)


@pytest.mark.parametrize("query", ["SELECT snowflake_nextval()", "SELECT snowflake_batch(9)", "SELECT snowflake_batch_array(9)"])
def test_a_wait_can_be_cancelled(waiting, query):
    thread = waiting.start(query)
    waiting.observer.execute("SELECT pg_cancel_backend(%s)", [waiting.session.info.backend_pid])
    assert isinstance(waiting.end(thread), errors.QueryCanceled)
    assert waiting.session.execute("SELECT 1").fetchone() == (1,)


def test_a_wait_ends_with_statement_timeout(waiting):
    waiting.session.execute("SET statement_timeout = '2s'")
    # Not by start(), which has to see it wait: it may be over before that.
    with pytest.raises(errors.QueryCanceled, match="canceling statement due to statement timeout"):
        next_id(waiting.session)


def test_a_wait_ends_with_the_session(waiting):
    thread = waiting.start()
    waiting.observer.execute("SELECT pg_terminate_backend(%s)", [waiting.session.info.backend_pid])
    assert isinstance(waiting.end(thread), (errors.AdminShutdown, psycopg.OperationalError))


def test_a_wait_ends_with_the_server(waiting, clock_server):
    thread = waiting.start()
    clock_server.stop("fast")
    assert isinstance(waiting.end(thread), psycopg.OperationalError)


def test_a_wait_ends_when_the_clock_is_put_right(waiting, clock_server):
    thread = waiting.start()
    clock_server.clock.offset(0)
    assert waiting.end(thread) is None


@pytest.mark.every_major("names of wait events are known from 17 on")
def test_what_is_waited_for(installation, waiting, clock_server):
    """pg_stat_activity names it where a server knows names of extensions, which is from 17 on."""
    thread = waiting.start()
    query = "SELECT wait_event FROM pg_stat_activity WHERE wait_event_type = 'Extension' ORDER BY backend_type"
    names = ["SnowflakeIdClock", "SnowflakeIdMain"] if installation.major >= 17 else ["Extension", "Extension"]
    eventually(lambda: [event for (event,) in waiting.observer.execute(query)] == names)
    clock_server.clock.offset(0)
    assert waiting.end(thread) is None
