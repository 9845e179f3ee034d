"""The audit trail: samples of ids come into a table by way of the keeper, and nobody waits for them."""

import os
import signal
import threading
from pathlib import Path

import psycopg
import pytest
from clients import eventually, suspend
from nodes import configure, kept, milliseconds, next_id, processes, status
from psycopg.rows import namedtuple_row
from throwaway import compile_library

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


def is_sampled(number, rate):
    """As docs/REFERENCE.md says it."""
    return ((number ^ number >> 29) * GOLDEN) & MASK <= rate * 2**64


@pytest.fixture
def sampled(start_server, connect):
    """A function that starts a node which samples, and connects to it."""

    def start(rate, **settings):
        server = start_server(sample_rate=rate, **settings)
        connection = connect(server)
        connection.execute("CREATE EXTENSION snowflake_id")
        kept(connection)
        return server, connection

    return start


def samples(connection):
    cursor = connection.cursor(row_factory=namedtuple_row)
    return cursor.execute("SELECT * FROM snowflake_id_node.samples ORDER BY id").fetchall()


def counted(connection):
    return connection.execute("SELECT samples, samples_dropped FROM pg_stat_snowflake").fetchone()


@pytest.mark.parametrize("block", [1, 64])
def test_the_sample_is_a_share_of_all_ids(sampled, block):
    """By whatever function they are made, and whatever becomes of their transaction."""
    rate = 0.01
    _, connection = sampled(rate, backend_block=block)
    made = [number for (number,) in connection.execute("SELECT snowflake_nextval() FROM generate_series(1, 1000)")]
    made += [number for (number,) in connection.execute("SELECT * FROM snowflake_batch(1000)")]
    made += connection.execute("SELECT snowflake_batch_array(1000)").fetchone()[0]
    with pytest.raises(ZeroDivisionError), connection.transaction():
        made += [next_id(connection) for _ in range(100)]
        raise ZeroDivisionError
    expected = sorted(number for number in made if is_sampled(number, rate))
    assert expected
    eventually(lambda: [row.id for row in samples(connection)] == expected)
    assert counted(connection) == (len(expected), 0)
    # An audit of as great a share judges the same ids.
    connection.execute("CREATE TABLE keys (id bigint)")
    connection.cursor().executemany("INSERT INTO keys VALUES (%s)", [(number,) for number in made])
    audited = connection.execute("SELECT count FROM snowflake_audit('keys', 'id', sample => %s) WHERE finding = 'rows'", [rate])
    assert audited.fetchone() == (len(expected),)


def test_who_had_it_made(sampled, connect):
    """And when: the session's process, its database and its role, though another one is set."""
    server, connection = sampled(1)
    connection.execute("CREATE DATABASE shop")
    connection.execute("CREATE ROLE app LOGIN")
    connect(server, "shop").execute("CREATE EXTENSION snowflake_id")
    session = connect(server, "shop", user="app")
    number = next_id(session)
    eventually(lambda: samples(connection))
    (row,) = samples(connection)
    assert (row.id, row.pid, row.datname, row.usename) == (number, session.info.backend_pid, "shop", "app")
    assert 0 <= row.sampled_at.timestamp() * 1000 - milliseconds(number) < 1000
    # In the keeper's database alone: the other one has no table for them, and gets none if it has.
    shop = connect(server, "shop")
    assert shop.execute("SELECT to_regnamespace('snowflake_id_node')").fetchone() == (None,)
    shop.execute("CREATE EXTENSION snowflake_id_node")
    number = next_id(session)
    eventually(lambda: samples(connection)[-1].id == number)
    assert samples(shop) == []


def test_the_rate_is_followed_at_once(sampled, server):
    node, connection = sampled(0)
    next_id(connection)
    configure(node, connection, sample_rate="1")
    number = next_id(connection)
    eventually(lambda: [row.id for row in samples(connection)] == [number])
    configure(node, connection, sample_rate="0")
    next_id(connection)
    configure(node, connection, sample_rate="1")
    second = next_id(connection)
    eventually(lambda: [row.id for row in samples(connection)] == [number, second])
    assert counted(connection) == (2, 0)


def test_what_cannot_be_written_is_dropped_and_counted(sampled, connect):
    """A table that somebody has locked costs samples, but no id and no window."""
    server, connection = sampled(1, reservation="100ms")
    next_id(connection)
    eventually(lambda: len(samples(connection)) == 1)
    locker = connect(server, autocommit=False)
    locker.execute("LOCK TABLE snowflake_id_node.samples")
    windows = "SELECT windows FROM pg_stat_snowflake"
    (before,) = connection.execute(windows).fetchone()
    made = 1

    def reserved():
        nonlocal made
        made += connection.execute("SELECT count(snowflake_nextval()) FROM generate_series(1, 100)").fetchone()[0]
        return connection.execute(windows).fetchone()[0] >= before + 3

    eventually(reserved)
    eventually(lambda: counted(connection)[1] > 0)
    locker.rollback()
    # Each one is in the table or was dropped, and then they come through again.
    eventually(lambda: counted(connection) == (made, made - len(samples(connection))))
    last = next_id(connection)
    eventually(lambda: samples(connection)[-1].id == last)
    assert counted(connection) == (made + 1, made + 1 - len(samples(connection)))
    warnings = [line for line in server.log.splitlines() if "samples cannot be written" in line]
    assert len(warnings) == 1
    assert "WARNING" in warnings[0] and "lock timeout" in warnings[0]


def test_samples_that_come_faster_than_they_are_taken(sampled):
    """While the keeper stands still each session has room for 256; when it goes on these are there."""
    _, connection = sampled(1, reservation="1h")
    first = next_id(connection)
    eventually(lambda: len(samples(connection)) == 1)
    (keeper,) = connection.execute("SELECT keeper_pid FROM snowflake_status").fetchone()
    suspend(keeper)
    try:
        made = [number for (number,) in connection.execute("SELECT snowflake_nextval() FROM generate_series(1, 300)")]
        assert counted(connection) == (301, 44)
    finally:
        os.kill(keeper, signal.SIGCONT)
    eventually(lambda: [row.id for row in samples(connection)] == [first, *made[:256]])


def test_a_standby_is_not_waited_for(sampled):
    """A commit of samples is asynchronous, that of a window is not."""
    server, connection = sampled(1, reservation="1h")
    first = next_id(connection)
    eventually(lambda: len(samples(connection)) == 1)
    server.configure({"synchronous_standby_names": "nobody"})
    server.reload()
    eventually(lambda: connection.execute("SHOW synchronous_standby_names").fetchone() == ("nobody",))
    second = next_id(connection)
    eventually(lambda: [row.id for row in samples(connection)] == [first, second])
    third = next_id(connection)
    eventually(lambda: [row.id for row in samples(connection)] == [first, second, third])
    assert status(connection).keeper_writing_since is None
    # The record of a window still is.
    configure(server, connection, worker_id="2")
    eventually(lambda: status(connection).keeper_writing_since is not None)
    server.configure({"synchronous_standby_names": ""})
    server.reload()
    eventually(lambda: status(connection).worker_id == 2)


def test_old_samples_are_deleted(sampled):
    """By the time in the id. 0 keeps them for ever. That all tables are published does not matter."""
    server, connection = sampled(1, sample_retention=0)
    connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    connection.execute(
        "INSERT INTO snowflake_id_node.samples SELECT snowflake_min(clock_timestamp() - age), now(), 0"
        " FROM unnest(ARRAY['3 days', '62 minutes', '58 minutes']::interval[]) AS age"
    )
    old, older, young = (row.id for row in samples(connection))
    first = next_id(connection)
    eventually(lambda: [row.id for row in samples(connection)] == [old, older, young, first])
    configure(server, connection, sample_retention="1h")
    second = next_id(connection)
    eventually(lambda: [row.id for row in samples(connection)] == [young, first, second])


@pytest.fixture
def slow(installation):
    """What a server is started with whose samples take for ever while a file exists, and that file."""
    directory = installation.directory()
    library, flag = directory / "slow_samples.so", directory / "slow"
    compile_library(Path(__file__).with_name("slow_samples.c"), library, [installation.headers])
    postgres = {"shared_preload_libraries": f"{library}, snowflake_id"}
    return {"postgres": postgres, "server_options": {"env": {"SLOW_SAMPLES": str(flag)}}}, flag


def test_a_table_that_takes_its_time(sampled, slow):
    """Windows come in time whatever holds up those who write to it: here, another extension."""
    options, flag = slow
    server, connection = sampled(1, reservation="100ms", **options)
    flag.touch()
    (before,) = connection.execute("SELECT windows FROM pg_stat_snowflake").fetchone()
    made = 0

    def reserved():
        nonlocal made
        made += connection.execute("SELECT count(snowflake_nextval()) FROM generate_series(1, 10)").fetchone()[0]
        return connection.execute("SELECT windows FROM pg_stat_snowflake").fetchone()[0] >= before + 10

    eventually(reserved)
    eventually(lambda: counted(connection)[1] > 0)
    assert status(connection).state == "ready"
    # Logged a moment after they were counted.
    said = "samples cannot be written"
    (warning,) = eventually(lambda: [line for line in server.log.splitlines() if said in line], said)
    assert "canceling statement due to statement timeout" in warning
    assert samples(connection) == []
    flag.unlink()
    eventually(lambda: counted(connection) == (made, made - len(samples(connection))))
    last = next_id(connection)
    eventually(lambda: samples(connection)[-1:] and samples(connection)[-1].id == last)


def test_a_clock_that_is_not_believed_deletes_nothing(clock_server, connect):
    connection = connect(clock_server)
    connection.execute("CREATE EXTENSION snowflake_id")
    configure(clock_server, connection, sample_rate="1")
    first = next_id(connection)
    eventually(lambda: [row.id for row in samples(connection)] == [first])
    (keeper,) = processes(clock_server, "snowflake_id keeper")
    suspend(keeper)
    try:
        second = next_id(connection)
        # Longer than samples are kept.
        clock_server.clock.offset(10 * 86_400)
    finally:
        os.kill(keeper, signal.SIGCONT)
    eventually(lambda: [row.id for row in samples(connection)] == [first, second])
    # These may be of the moment before it looked.
    eventually(lambda: status(connection).state == "clock_jumped", "the keeper has looked")


def test_every_session_s_samples_arrive(sampled):
    """Also of sessions that have ended since."""
    server, connection = sampled(1)
    made, lock = [], threading.Lock()

    def work():
        with psycopg.connect(server.conninfo(), autocommit=True) as session:
            numbers = [next_id(session) for _ in range(30)]
        with lock:
            made.extend(numbers)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: [row.id for row in samples(connection)] == sorted(made))
    assert counted(connection) == (240, 0)


def test_who_may_read(sampled):
    _, connection = sampled(0)
    connection.execute("CREATE ROLE app; CREATE ROLE watcher IN ROLE pg_monitor")
    connection.execute("SET ROLE watcher")
    assert samples(connection) == []
    for statement in "DELETE FROM snowflake_id_node.samples", "INSERT INTO snowflake_id_node.samples VALUES (1, now(), 1)":
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)
    connection.execute("SET ROLE app")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        samples(connection)
