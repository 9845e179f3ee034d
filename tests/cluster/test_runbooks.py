"""docs/OPERATIONS.md: ways out that take a fault first, done as they are written."""

from datetime import UTC, datetime, timedelta

import pytest
from clients import eventually
from documents import blocks, page, section
from nodes import refusal
from psycopg import errors
from registries import Etcd

OPERATIONS = page("docs/OPERATIONS.md")
HOURS = 20 * 3600


@pytest.fixture(params=["by hand", "leased"])
def node(request, installation, clock_server, start_registry):
    """A server under a movable clock, which has its number in this way; it has generated an id."""
    if installation.lacks("pg_stat_statements"):
        pytest.skip("this server has no pg_stat_statements")
    server = clock_server
    if request.param == "leased":
        address = start_registry(Etcd).address("runbooks")
        server.configure({"snowflake_id.worker_id": None, "snowflake_id.registry": address, "snowflake_id.heartbeat": "200ms"})
        server.configure({"snowflake_id.lease_duration": "2d"})
    server.configure({"shared_preload_libraries": "pg_stat_statements, snowflake_id"})
    server.restart()
    server.psql("CREATE EXTENSION snowflake_id")
    eventually(lambda: state(server) == "ready", "ids flow")
    server.psql("SELECT snowflake_nextval()")
    return server


def state(server):
    return server.psql("SELECT state FROM snowflake_status")


def of_now(server):
    """Whether an id is generated, and with the time of the clock."""
    return server.psql("SELECT clock_timestamp() - snowflake_timestamp(snowflake_nextval()) BETWEEN '-1 h' AND '1 h'") == "t"


def ahead(server, seconds):
    """Ids of a clock that is this far ahead; then it is right."""
    server.clock.offset(seconds)
    server.psql("SELECT snowflake_nextval()")
    server.clock.offset(0)
    eventually(lambda: state(server) == "clock_behind", "the clock is behind")


def test_a_little_ahead_of_the_clock(node, connect):
    ahead(node, 1800)
    assert refusal(connect(node)).sqlstate == "58000"
    node.psql(blocks(section(OPERATIONS, "### Ids are far ahead of the clock"), "sql")[0])
    eventually(lambda: state(node) == "ready", "ids flow")
    node.psql("SELECT snowflake_nextval()")


def test_far_ahead_of_the_clock(node, connect):
    """Beginning anew, with another number."""
    who, delete = blocks(section(OPERATIONS, "### Ids are far ahead of the clock"), "sql")[1:]
    ahead(node, HOURS)
    name = node.psql(who)
    assert refusal(connect(node)).sqlstate == "58000"
    if "snowflake_id.worker_id" in node.settings:
        node.configure({"snowflake_id.worker_id": 2})
    node.configure({"shared_preload_libraries": "pg_stat_statements"})
    node.restart()
    assert node.psql(delete.replace("7710618454711928322-560ee3c4c5c43ab8", name) + "SELECT count(*) FROM snowflake_id_node.high_water_marks") == "0"
    node.configure({"shared_preload_libraries": "pg_stat_statements, snowflake_id"})
    node.restart()
    eventually(lambda: state(node) == "ready", "ids flow")
    assert of_now(node)
    assert node.psql("SELECT snowflake_worker_id(snowflake_nextval()) = 1") == "f"


def test_a_lease_without_ids_ahead_of_the_clock(clock_server, start_registry, connect):
    """What was reserved by a wrong clock is left behind with the number."""
    server = clock_server
    address = start_registry(Etcd).address("runbooks")
    server.configure({"snowflake_id.worker_id": None, "snowflake_id.registry": address, "snowflake_id.heartbeat": "200ms"})
    server.restart()
    server.psql("CREATE EXTENSION snowflake_id")
    eventually(lambda: state(server) == "ready", "ids flow")
    server.psql("SELECT snowflake_nextval()")
    session = connect(server)
    # From now on it takes longer than the call to have another one.
    server.configure({"snowflake_id.heartbeat": "1min"})
    server.reload()
    server.clock.offset(HOURS)
    # The lease is shorter.
    assert refusal(session).sqlstate == "55P03"
    server.clock.offset(0)
    server.configure({"snowflake_id.heartbeat": "200ms"})
    server.reload()
    server.psql("SELECT snowflake_release_worker_id()")
    eventually(lambda: state(server) == "ready", "ids flow")
    assert of_now(server)


def test_the_layout_has_ended(node, connect):
    change, delete = blocks(section(OPERATIONS, "### The layout has ended"), "sql")
    # It ends in an hour; then it is two hours later.
    epoch = datetime.now(UTC) - timedelta(milliseconds=2**41) + timedelta(hours=1)
    node.configure({"snowflake_id.epoch": epoch.isoformat(timespec="seconds"), "snowflake_id.layout": "timestamp:41,worker:10,sequence:12"})
    if "snowflake_id.registry" in node.settings:
        node.configure({"snowflake_id.registry": node.settings["snowflake_id.registry"].replace("runbooks", "old")})
    node.psql(delete)
    node.restart()
    eventually(lambda: state(node) in ("ready", "layout_changed"), "the keeper has looked")
    node.psql(delete)
    eventually(lambda: state(node) == "ready", "ids flow")
    node.psql("SELECT snowflake_nextval()")
    node.clock.offset(7200)
    eventually(lambda: state(node) == "time_exhausted", "the layout has ended")
    assert refusal(connect(node)).sqlstate == "2200H"
    node.psql(change)
    if "snowflake_id.registry" in node.settings:
        node.configure({"snowflake_id.registry": node.settings["snowflake_id.registry"].replace("old", "new")})
    node.restart()
    session = connect(node)
    eventually(lambda: state(node) == "layout_changed", "it is not taken for meant")
    assert refusal(session).sqlstate == "55000"
    session.execute(delete)

    def made():
        try:
            return session.execute("SELECT snowflake_nextval()").fetchone()[0]
        except (errors.LockNotAvailable, errors.ObjectNotInPrerequisiteState):
            return None

    eventually(made, "ids flow")
    assert of_now(node)
