"""snowflake_set_floor: no id at or below it, after a crash, a restart and a promotion."""

import psycopg
import pytest
from clients import eventually
from nodes import (
    EPOCH_2025,
    REPLICATION,
    caught_up,
    configure,
    next_id,
    processes,
    promote,
    refusal,
    status,
)

SECOND = 1000 << 22


def ahead(connection, seconds):
    """An id of worker 900 that lies so far ahead of the clock."""
    query = "SELECT snowflake_lower_bound(clock_timestamp() + make_interval(secs => %s)) + (900 << 12) + 4095"
    return connection.execute(query, [seconds]).fetchone()[0]


def first_id(connection):
    """The next one, when the clock has come there."""

    def made():
        try:
            return next_id(connection)
        except (psycopg.errors.SystemError, psycopg.errors.LockNotAvailable):
            return None

    return eventually(made, "ids flow")


def set_floor(connection, floor):
    return connection.execute("SELECT snowflake_set_floor(%s), snowflake_timestamp(%s)", [floor, floor]).fetchone()


@pytest.fixture
def node(start_server, connect):
    """A server that has generated an id."""
    server = start_server(postgres=REPLICATION)
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    next_id(connection)
    return server, connection


def test_a_running_node(node):
    _, connection = node
    before = next_id(connection)
    # Far below: nothing changes, and nothing is waited for.
    set_floor(connection, before - 3600 * SECOND)
    assert next_id(connection) > before
    floor = ahead(connection, 2)
    begins, of_floor = set_floor(connection, floor)
    assert 0 < (begins - of_floor).total_seconds() <= 0.001
    first = first_id(connection)
    assert first > floor
    # Every session, also one that has claimed slots before, and everything that generates ids.
    floor = ahead(connection, 2)
    connection.execute("SET snowflake_id.backend_block = 100")
    next_id(connection)
    set_floor(connection, floor)
    assert first_id(connection) > floor
    assert min(connection.execute("SELECT snowflake_batch_array(10)").fetchone()[0]) > floor


def test_blocks(start_server, connect):
    """What sessions have claimed before is below it, and not issued, though its tick, of 20 minutes, has not ended."""
    server = start_server(layout="timestamp:32@1200s,worker:3,sequence:28", max_ahead="1h")
    holder, other = connect(server), connect(server)
    other.execute("CREATE EXTENSION snowflake_id")
    holder.execute("SET snowflake_id.backend_block = 100")
    next_id(holder)
    floor = next_id(other)
    assert next_id(holder) < floor
    set_floor(other, floor)
    assert next_id(holder) > floor


def test_an_idle_node(start_server, connect):
    """Before the first id, with nobody who asks for one."""
    connection = connect(start_server())
    connection.execute("CREATE EXTENSION snowflake_id")
    eventually(lambda: status(connection).state == "ready")
    floor = ahead(connection, 2)
    set_floor(connection, floor)
    assert connection.execute("SELECT reserved_until > %s FROM snowflake_id_node.high_water_marks", [floor]).fetchone() == (True,)
    assert first_id(connection) > floor


@pytest.mark.parametrize("how", ["kill -9", "restart", "the keeper is killed"])
def test_it_outlasts(node, connect, how):
    server, connection = node
    floor = ahead(connection, 4)
    set_floor(connection, floor)
    if how == "kill -9":
        server.kill9()
        server.start()
    elif how == "restart":
        server.restart()
    else:
        (keeper,) = processes(server, "snowflake_id keeper")
        connection.execute("SELECT pg_terminate_backend(%s)", [keeper])
    connection = connect(server)
    first = first_id(connection)
    assert first > floor
    print(f"floor {floor}, first id {first} after {how}")


def test_promotion(node, copies, connect):
    """Of a synchronous standby, whose worker id is another one."""
    server, connection = node
    standby = copies.standby(server, worker_id=0, promotion_guard=0)
    server.configure({"synchronous_standby_names": "*"})
    server.reload()
    eventually(lambda: connection.execute("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone() == (1,))
    floor = ahead(connection, 5)
    set_floor(connection, floor)
    server.kill9()
    promote(standby)
    first = first_id(connect(standby))
    assert first > floor
    print(f"floor {floor}, first id {first} of the promoted standby")


def test_a_changed_worker_id(node):
    server, connection = node
    floor = ahead(connection, 2)
    set_floor(connection, floor)
    configure(server, connection, worker_id="0")
    eventually(lambda: first_id(connection) and status(connection).worker_id == 0)
    assert first_id(connection) > floor


def test_refused(node, copies, connect):
    server, connection = node
    for id, detail in (
        (ahead(connection, 95_000), 'In layout "default" it is 26.3'),
        (2**63 - 1, 'Layout "default" has no greater id.'),
    ):
        diag = refusal(connection, f"SELECT snowflake_set_floor({id})")
        assert (diag.sqlstate, diag.message_primary) == ("22003", f"{id} is too far ahead of the clock for a floor")
        assert diag.message_detail.startswith(detail)
        assert id == 2**63 - 1 or diag.message_detail.endswith(" h ahead; up to 24 h is allowed (snowflake_id.max_clock_jump, or a day).")
        assert diag.message_hint.endswith("snowflake_decode(id) shows what is in one.")
    configure(server, connection, max_clock_jump="1s")
    assert refusal(connection, f"SELECT snowflake_set_floor({ahead(connection, 10)})").sqlstate == "22003"
    # No jump is too great, but a floor is.
    configure(server, connection, max_clock_jump="0")
    assert refusal(connection, f"SELECT snowflake_set_floor({ahead(connection, 90_000)})").sqlstate == "22003"
    # Nothing has happened.
    assert next_id(connection) < ahead(connection, 1)
    connection.execute("SELECT snowflake_drain()")
    assert refusal(connection, "SELECT snowflake_set_floor(1)").message_primary == "this node has been drained: it generates no snowflake ids"
    standby = copies.standby(server)
    caught_up(server, standby)
    assert refusal(connect(standby), "SELECT snowflake_set_floor(1)").sqlstate == "25006"


def test_negative_keys(node):
    """All ids are above."""
    _, connection = node
    (begins,) = connection.execute("SELECT extract(epoch FROM snowflake_set_floor(-5))").fetchone()
    assert begins * 1000 == EPOCH_2025
    next_id(connection)
