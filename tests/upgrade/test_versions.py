"""Library, schema and records of different versions: what goes on working, and what is refused with which words."""

import json
import time

from clients import Load, eventually
from nodes import (
    EPOCH_2025,
    IDS,
    REPLICATION,
    caught_up,
    next_id,
    promote,
    refusal,
    status,
)
from releases import upgrade
from throwaway import HOST, Installation
from versions import CHANGES, NEXT, PRESENT, Package

EXTENSIONS = "SELECT extname, extversion FROM pg_extension WHERE extname LIKE 'snowflake\\_id%' ORDER BY extname"
LIBRARY = "SELECT current_setting('snowflake_id.version', true)"

def node_of(version, start, connect, **settings):
    """A server whose databases' extensions are of that version, before it is a node; and a session."""
    server = start(**{"snowflake_id.worker_id": None, **settings})
    connection = connect(server)
    # By name: the keeper would create the newest one.
    for extension in "snowflake_id", "snowflake_id_node":
        connection.execute(f"CREATE EXTENSION {extension} VERSION '{version}'")
    return server, connection


def begin(server):
    server.configure({"snowflake_id.worker_id": 1})
    server.reload()


def use(connection):
    """Each thing that a node does, once."""
    eventually(lambda: status(connection).state == "ready")
    first = next_id(connection)
    # Each view of the schema, and a function of each kind.
    for view in "snowflake_status", "pg_stat_snowflake", "pg_stat_snowflake_backends", "snowflake_layouts", "snowflake_id_node.leases":
        connection.execute(f"SELECT * FROM {view}")
    assert connection.execute("SELECT count(*) FROM snowflake_batch(10)").fetchone() == (10,)
    assert connection.execute("SELECT worker_id FROM snowflake_decode(%s::bigint)", [first]).fetchone() == (1,)
    assert connection.execute("SELECT snowflake_from_base62(snowflake_base62(%s))", [first]).fetchone() == (first,)
    assert connection.execute("SELECT snowflake_between(%s, now() - interval '1 hour')", [first]).fetchone() == (True,)
    connection.execute("SELECT snowflake_drain(), snowflake_resume()")
    eventually(lambda: status(connection).state == "ready")
    connection.execute("CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY DEFAULT snowflake_nextval())")
    connection.execute("INSERT INTO orders SELECT FROM generate_series(1, 100)")
    connection.execute("SELECT * FROM snowflake_audit('orders', 'id')")
    assert connection.execute("SELECT count FROM snowflake_id_node.audits WHERE finding = 'duplicate' AND relation = 'orders'::regclass").fetchone() == (0,)
    (mark,) = connection.execute("SELECT max(reserved_until) FROM snowflake_id_node.high_water_marks").fetchone()
    assert mark > first
    return next_id(connection)


def versions(package):
    """Each released version, and the present one."""
    return [*package.released, PRESENT]


def test_the_old_schema(package, start, connect):
    """The library is new and the schema is not: until somebody updates it, which may be never."""
    package.install(NEXT)
    for version in versions(package):
        server, connection = node_of(version, start, connect)
        assert connection.execute(LIBRARY).fetchone() == (NEXT,)
        begin(server)
        before = use(connection)
        for extension in "snowflake_id", "snowflake_id_node":
            connection.execute(f"ALTER EXTENSION {extension} UPDATE")
        assert connection.execute(EXTENSIONS).fetchall() == [("snowflake_id", NEXT), ("snowflake_id_node", NEXT)]
        assert connection.execute("SELECT answer FROM snowflake_made_up_view").fetchone() == (42,)
        assert use(connection) > before
        server.remove()


# As 0.1.0 wrote them.
RECORD = {
    "format": 1, "node": "7300000000000000001:00000000000000aa", "host": "db7", "nonce": "0123456789abcdef0123456789abcdef",
    "state": "held", "layout": "timestamp:41,worker:10,sequence:12", "epoch": EPOCH_2025 * 1000,
}  # fmt: skip
MARK = """
    INSERT INTO snowflake_id_node.high_water_marks (node, reserved_until, datacenter_id, worker_id, layout, epoch, timeline,
        updated_at, boot_id, booted_at, host, data_directory, lease, lease_until, drained, max_ahead)
    VALUES (%s, %s, NULL, 1, 'timestamp:41,worker:10,sequence:12', '2025-01-01 00:00:00+00', 1, now(), 'boot', now(),
        'db1', '/data', NULL, NULL, false, 0)
"""


def test_old_records(package, start, connect):
    """A node's mark, a registry's leases, samples and an audit's result, as 0.1.0 wrote them."""
    package.install(NEXT)
    server, connection = node_of("0.1.0", start, connect)
    begin(server)
    eventually(lambda: status(connection).state == "ready")
    # Some seconds ahead of the clock, as one that reserves more at once leaves behind when it is killed.
    mark = (int(time.time() * 1000) + 3000 - EPOCH_2025) << 22
    node = status(connection).node
    connection.execute("DELETE FROM snowflake_id_node.high_water_marks")
    connection.execute(MARK, [node, mark])
    sample = "INSERT INTO snowflake_id_node.samples VALUES (%s, now(), 1, 'postgres', 'postgres')"
    connection.execute(sample, [mark])
    connection.execute("INSERT INTO snowflake_id_node.audits VALUES ('pg_class', 'oid', 'duplicate', NULL, 1, 0, '{}', NULL, 1, false, now(), '1 s')")
    now = int(time.time() * 1_000_000)
    held = {**RECORD, "floor": now - 60_000_000, "until": now + 3_600_000_000, "updated_at": now}
    connection.execute("INSERT INTO snowflake_id_node.registry VALUES (0, 5, %s, now() + interval '1 hour')", [json.dumps(held)])
    for extension in "snowflake_id", "snowflake_id_node":
        connection.execute(f"ALTER EXTENSION {extension} UPDATE")

    server.stop("immediate")
    server.start()
    connection = connect(server)
    eventually(lambda: status(connection).state == "ready")
    assert next_id(connection) >= mark
    assert connection.execute("SELECT number, state, node, host FROM snowflake_id_node.leases").fetchall() == [(0, "held", RECORD["node"], "db7")]

    # The registry's records are the nodes': one that leases finds the number taken.
    connection.execute("CREATE ROLE snowflake_node LOGIN SUPERUSER")
    server.configure({"listen_addresses": HOST, "port": server.port})
    server.restart()
    address = f"postgres://snowflake_node@{HOST}:{server.port}/postgres"
    settings = {"registry": address, "worker_id_range": "0-1", "heartbeat": "200ms"}
    leased = connect(start(**{f"snowflake_id.{name}": value for name, value in {"worker_id": None, **settings}.items()}))
    leased.execute("CREATE EXTENSION snowflake_id")
    eventually(lambda: status(leased).state == "ready")
    assert status(leased).worker_id == 1


def test_update_before_the_restart(package, start, connect):
    """The library in memory is the old one: nothing changes, and the error says what to do first."""
    server, connection = node_of(PRESENT, start, connect)
    begin(server)
    before = use(connection)
    package.install(NEXT)
    for extension in "snowflake_id", "snowflake_id_node":
        said = refusal(connect(server), f"ALTER EXTENSION {extension} UPDATE")
        assert said.sqlstate == "55000"
        assert said.message_primary == f"the server still runs version {PRESENT} of the library of snowflake_id"
        assert said.message_detail == f"Version {NEXT} is installed, and is loaded by the next start."
        assert said.message_hint == f"Restart the server, then run: ALTER EXTENSION {extension} UPDATE;"
    # A database that is new would need the new library as well.
    said = refusal(connect(server, "template1"), "CREATE EXTENSION snowflake_id")
    assert (said.sqlstate, said.message_primary) == (
        "42883", f'could not find function "snowflake_made_up_wrapper" in file "{package.library}"'
    )  # fmt: skip
    assert connection.execute(EXTENSIONS).fetchall() == [("snowflake_id", PRESENT), ("snowflake_id_node", PRESENT)]
    assert use(connection) > before

    server.restart()
    connection = connect(server)
    assert connection.execute(LIBRARY).fetchone() == (NEXT,)
    for extension in "snowflake_id", "snowflake_id_node":
        connection.execute(f"ALTER EXTENSION {extension} UPDATE")
    assert connection.execute("SELECT snowflake_made_up()").fetchone() == (42,)
    assert use(connection) > before


def test_update_where_it_is_not_preloaded(package, start, connect):
    """A session that has loaded nothing yet loads the installed library; one that has, is told so."""
    server = start(shared_preload_libraries="", **{"snowflake_id.worker_id": None})
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    package.install(NEXT)
    assert refusal(connection, "ALTER EXTENSION snowflake_id UPDATE").sqlstate == "55000"
    connect(server).execute("ALTER EXTENSION snowflake_id UPDATE")


def test_down_again(package, start, connect):
    """There is no script that leads back. An old library serves what it knows of a newer schema."""
    package.install(NEXT)
    server, connection = node_of(NEXT, start, connect)
    begin(server)
    before = use(connection)
    said = refusal(connection, f"ALTER EXTENSION snowflake_id UPDATE TO '{PRESENT}'")
    assert (said.sqlstate, said.message_primary) == (
        "22023", f'extension "snowflake_id" has no update path from version "{NEXT}" to version "{PRESENT}"'
    )  # fmt: skip
    package.install(PRESENT)
    server.restart()
    connection = connect(server)
    assert use(connection) > before
    assert refusal(connection, "SELECT snowflake_made_up()").message_primary == (
        f'could not find function "snowflake_made_up_wrapper" in file "{package.library}"'
    )


# A table that the old library does not know, because a script has changed it.
COLUMN = {**CHANGES, "snowflake_id_node": "ALTER TABLE snowflake_id_node.high_water_marks ADD COLUMN made_up bigint;"}


def test_a_primary_and_a_standby_of_different_versions(package, start, connect):
    """Standbys first: the new library on what the old one writes. After the UPDATE, an old one refuses by name."""
    with Installation() as installation:
        other = Package(installation)
        other.install(NEXT)
        primary, connection = node_of(PRESENT, start, connect, **REPLICATION)
        begin(primary)
        eventually(lambda: status(connection).state == "ready")
        standby = copy(primary, start, installation)
        with Load(primary, IDS) as load:
            load.wait_for(1000)
            caught_up(primary, standby)
            primary.stop("immediate")
            received = load.stop()
        promote(standby)
        connection = connect(standby)
        assert connection.execute(LIBRARY).fetchone() == (NEXT,)
        eventually(lambda: status(connection).state == "ready")
        first = next_id(connection)
        print(f"{len(received)} ids by {PRESENT}, the last {(first >> 22) - (max(received) >> 22)} ms before the first by {NEXT}")
        assert first > max(received)

        # The other way round, which is not the documented order.
        late = copy(standby, start, package.installation)
        script = other.scripts / f"snowflake_id_node--{PRESENT}--{NEXT}.sql"
        script.write_text(upgrade("snowflake_id_node", NEXT, COLUMN["snowflake_id_node"]))
        connection.execute("ALTER EXTENSION snowflake_id_node UPDATE")
        caught_up(standby, late)
        standby.stop("immediate")
        promote(late)
        connection = connect(late)
        assert connection.execute(LIBRARY).fetchone() == (PRESENT,)
        said = refusal(connection)
        assert (said.sqlstate, said.message_primary) == ("55000", "a newer version of its extension has made table snowflake_id_node.high_water_marks")
        assert said.message_detail == (
            f"snowflake_id_node is of version {NEXT} in this database; the server runs version {PRESENT} of its library."
        )
        assert said.message_hint == "Install that version or a later one on this server, and restart it."
        assert status(connection).state == "table_changed"
        late.stop()


def copy(primary, start, installation):
    """A standby of the primary, with the programs and the package of an installation."""
    standby = start(installation, data="none", **REPLICATION)
    installation.run(
        installation.bin("pg_basebackup"), "-D", standby.data, "-R", "-c", "fast",
        "-h", primary.directory, "-p", primary.port, "-U", "postgres",
    )  # fmt: skip
    return standby.start()
