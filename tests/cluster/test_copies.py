"""No id twice when data is copied, set back or moved: base backups, recovery, dumps, pg_upgrade."""

import contextlib
import os
import re
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from clients import Load, eventually
from nodes import (
    BATCH,
    IDS,
    REPLICATION,
    ROWS,
    SCHEMA,
    Lessee,
    archiving,
    becomes_ready,
    duplicates,
    kept,
    milliseconds,
    next_id,
    status,
    warnings,
)
from registries import PostgresRegistry
from throwaway import (
    INITDB_OPTIONS,
    PROJECT,
    Installation,
    Server,
    ServerError,
    clean_environment,
)

# With so few ids in a millisecond a node soon runs far ahead of the clock, where it may.
NARROW = "timestamp:41,worker:10,sequence:3"
AHEAD = {"layout": NARROW, "max_ahead": "1h"}


def run_ahead(connection):
    """Take ids until they are nearly a minute ahead of the clock, which will not catch up during a test."""
    ids, ahead = [], False
    while not ahead:
        # A minute's; on a slow machine, it takes some more.
        ids += connection.execute("SELECT snowflake_batch_array(%s)", [40_000 if ids else 480_000]).fetchone()[0]
        query = "SELECT snowflake_timestamp(%s::bigint) - clock_timestamp() > interval '50 s'"
        (ahead,) = connection.execute(query, [ids[-1]]).fetchone()
    return ids


def verdict(before, after, what):
    """No id of the one is an id of the other, or stands twice."""
    twice = duplicates(before, after)
    print(f"{len(before)} ids before, {len(after)} after {what}: {twice} duplicates")
    assert twice == 0


def load(server, number=1000):
    """The ids of some sessions that make so many each."""
    with Load(server, IDS, ROWS, BATCH) as load:
        load.wait_for(number)
        ids = load.stop()
    assert not load.lost and not any(load.errors), (load.lost, load.errors)
    return ids


@pytest.mark.parametrize("on_copy", ["warn", "refuse"])
def test_a_copy_beside_the_original(start_server, copies, connect, on_copy):
    """It says whose copy it is, or refuses; another number, by a reload, makes it a node of its own."""
    original = start_server(on_copy=on_copy, postgres=REPLICATION)
    original.psql(SCHEMA)
    admin = connect(original)
    with Load(original, IDS, ROWS) as other:
        other.wait_for(1000)
        begin = time.time() * 1000
        copy = copies.make(original)
        session = connect(copy)
        if on_copy == "warn":
            number = next_id(session)
            # The default guard.
            assert milliseconds(number) >= int(begin) + 1000
            becomes_ready(session)
        else:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
                next_id(session)
            diag = caught.value.diag
            assert diag.message_primary == "this data directory may be a copy of another node's"
            assert diag.message_detail
            assert "worker_id" in diag.message_hint
            assert status(session).state == "copy"
        row = status(session)
        assert row.node != status(admin).node
        assert status(admin).node in row.conflict
        # Once, however often it is asked.
        warned = [line.partition("WARNING:  ")[2] for line in warnings(copy)]
        expected = {
            "warn": "snowflake_id: this node's worker id is also in another node's record",
            "refuse": "snowflake_id: no ids: this data directory may be a copy of another node's",
        }
        assert warned == [expected[on_copy]]
        copy.configure({"snowflake_id.worker_id": 2})
        copy.reload()

        def flows():
            try:
                return next_id(session) >> 12 & 1023 == 2
            except psycopg.errors.ObjectNotInPrerequisiteState:
                assert on_copy == "refuse"

        eventually(flows)
        assert becomes_ready(session).conflict is None
        ids = load(copy)
        other.wait_for(1000)
        originals = other.stop()
        assert not other.lost and not any(other.errors), other.errors
    # The original has nothing to do with all that, and is not taken for a copy of itself.
    assert status(admin).conflict is None
    assert warnings(original) == []
    original.kill9()
    original.start()
    admin = connect(original)
    originals.append(next_id(admin))
    assert status(admin).conflict is None
    assert warnings(original) == []
    twice = duplicates(originals, ids)
    print(f"{len(originals)} ids of an original, {len(ids)} of its copy with another worker id: {twice} duplicates")
    assert twice == 0


@pytest.mark.parametrize(
    ("place", "ahead"), [("in place", {}), ("elsewhere", AHEAD)], ids=["in place", "elsewhere, ids ahead of the clock"]
)
def test_point_in_time_recovery(installation, start_server, copies, connect, place, ahead):
    """The record is set back with the data; the new timeline says so, and the guard is above all that was issued."""
    archive = installation.directory()
    backup = installation.directory() / "base"
    server = start_server(
        **ahead, postgres={**REPLICATION, **archiving(archive)}
    )
    server.psql(SCHEMA)
    installation.run(
        installation.bin("pg_basebackup"), "-D", backup, "-d", server.conninfo(), "-c", "fast", "--no-sync"
    )
    admin = connect(server)
    with Load(server, IDS, ROWS, BATCH) as session:
        session.wait_for(1000)
        admin.execute("SELECT pg_create_restore_point('here')")
        session.wait_for(1000)
        before = run_ahead(admin) if ahead else []
        wal = admin.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()[0]
        eventually(lambda: (archive / wal).exists())
        server.kill9()
        before += session.stop()
    server.remove()
    recovery = {
        "archive_mode": "off",
        "restore_command": f"cp {archive}/%f %p",
        "recovery_target_name": "here",
        "recovery_target_action": "promote",
    }
    if place == "in place":
        server.configure(recovery)
    else:
        server = copies.adopt(server, postgres=recovery)
    installation.run("mv", backup, server.data)
    installation.run("touch", server.data / "recovery.signal")
    server.start()
    eventually(lambda: server.psql("SELECT pg_is_in_recovery()") == "f")
    admin = connect(server)
    after = [next_id(admin)]
    # It is neither a copy nor a stranger.
    row = becomes_ready(admin)
    assert (row.timeline, row.conflict) == (2, None)
    after += load(server)
    verdict(before, after, "recovery to a point in time")
    first, last = after[0], max(before)
    assert first > last


def dump(server, dbname, *options):
    """The file into which a database was dumped."""
    installation = server.installation
    file = installation.directory() / "dump"
    installation.run(installation.bin("pg_dump"), "-d", server.conninfo(dbname), "-f", file, *options)
    return file


def restore(server, dbname, file, *options):
    """What pg_dump wrote; an error fails the test."""
    installation = server.installation
    if file.read_bytes().startswith(b"PGDMP"):
        command = [installation.bin("pg_restore"), "--exit-on-error", *options, file]
    else:
        command = [installation.bin("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", *options, "-f", file]
    assert "ERROR" not in installation.run(*command, "-d", server.conninfo(dbname))


@pytest.mark.parametrize(
    "options",
    [["-Fp"], ["-Fc", "--single-transaction"]],
    ids=["plain", "custom, one transaction"],
)
def test_dump_and_restore_elsewhere(start_server, copies, connect, options):
    """The record moves with the data: a new cluster with the same worker id goes on above the old ids."""
    source = start_server(**AHEAD)
    source.psql(SCHEMA)
    before = load(source) + run_ahead(connect(source))
    file = dump(source, "postgres", options[0])
    node = status(connect(source)).node
    source.stop()
    target = copies.adopt(source, data="initdb").start()
    kept(connect(target))
    restore(target, "postgres", file, *options[1:])
    session = connect(target)
    after = [next_id(session)]
    first, last = after[0], max(before)
    assert first > last
    # The old node may still be there, for all the new one knows.
    assert node in status(session).conflict
    after += load(target)
    assert session.execute("SELECT count(*) - count(DISTINCT id) FROM items").fetchone() == (0,)
    verdict(before, after, "dump and restore")
    # What the new node has recorded is worth as much as what was restored.
    target.kill9()
    target.start()
    first, last = next_id(connect(target)), max(after)
    assert first > last


@pytest.mark.parametrize("lease", ["older", "newer"])
def test_restore_into_a_node_that_runs(start_server, copies, connect, lease):
    """A record that arrives when ids have been generated already is heeded from the next window on."""
    source = start_server(**AHEAD)
    source.psql(SCHEMA)
    target = copies.adopt(source, data="initdb").start()
    target.psql("CREATE EXTENSION snowflake_id")
    session = connect(target)
    if lease == "older":
        next_id(session)
    before = run_ahead(connect(source))
    file = dump(source, "postgres", "-Fc")
    source.stop()
    if lease == "newer":
        next_id(session)
    restore(target, "postgres", file)
    # The last window has been used up, or closed for the record; or the next one has begun already.
    over = """
        SELECT reserved_until IS NULL OR clock > reserved_until OR reserved_until > clock + interval '30 s'
        FROM snowflake_status
    """
    eventually(lambda: session.execute(over).fetchone() == (True,))
    after = [next_id(session)]
    after += load(target)
    verdict(before, after, "a restore into a running node")
    first, last = after[0], max(before)
    assert first > last


@pytest.mark.parametrize("dropped", ["extension", "database"])
def test_dump_and_restore_in_place(start_server, connect, dropped):
    """The record is lost with the extension or its database, and comes back with the dump."""
    home = "app" if dropped == "database" else "postgres"
    server = start_server(**AHEAD, database=home)
    if dropped == "database":
        server.psql("CREATE DATABASE app")
    server.psql(SCHEMA, home)
    before = []
    session = connect(server, home)
    eventually(lambda: flows(session, before))
    before += run_ahead(session)
    file = dump(server, home, "-Fc")
    session.close()
    if dropped == "database":
        server.psql("DROP DATABASE app WITH (FORCE)")
    else:
        server.psql("DROP EXTENSION snowflake_id CASCADE; DROP EXTENSION snowflake_id_node; DROP TABLE items")
    # Shared memory would remember, and a clean stop writes the record again.
    server.kill9()
    server.start()
    if dropped == "database":
        server.psql("CREATE DATABASE app")
    session = connect(server, home)
    kept(session)
    assert session.execute("SELECT count(*) FROM snowflake_id_node.high_water_marks").fetchone() == (0,)
    session.close()
    restore(server, home, file)
    session = connect(server, home)
    after = []
    eventually(lambda: flows(session, after))
    assert status(session).conflict is None
    first, last = after[0], max(before)
    print(f"{len(before)} ids before the {dropped} was dropped and restored, {len(after)} after: 0 duplicates")
    assert first > last


def flows(session, ids):
    """Whether ids flow; the new id is kept. Only the causes that this file makes may stop them."""
    try:
        ids.append(next_id(session))
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        assert error.diag.message_primary.startswith("the keeper of snowflake ids cannot connect to database")
    return ids


def servers():
    """The pg_config of each server there is to test with."""
    setup = subprocess.run(
        [PROJECT / "tools/setup", "servers"],
        env={name: value for name, value in os.environ.items() if name != "PG_CONFIG"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return setup.stdout.split()


def version(pg_config):
    """The major version of a server."""
    command = [pg_config, "--version"]
    output = subprocess.run(command, env=clean_environment(), stdout=subprocess.PIPE, text=True, check=True).stdout
    return int(re.search(r"\d+", output).group())


def scripts(installation):
    """The SQL of the extension in an installation."""
    return {file.name: file.read_text() for file in installation.extensions.glob("snowflake_id--*.sql")}


@contextlib.contextmanager
def older(installation, pg_config):
    """An installation to upgrade from; skips the test where there is none with the same extension."""
    major = version(pg_config)
    if major == installation.major:
        yield installation
        return
    if major > installation.major:
        pytest.skip(f"PostgreSQL {major} is newer than {installation.major}")
    try:
        found = Installation(pg_config, PROJECT / f"target/package/pg{major}")
    except ServerError as error:
        pytest.skip(str(error))
    with found:
        if scripts(found) != scripts(installation):
            pytest.skip(f"another version of the extension is built for it: run 'make PG_CONFIG={pg_config}'")
        yield found


def upgrade(old, new, settings):
    """The data of a server that has stopped, as that of another one of the same or a later version."""
    origin, installation = old.installation, new.installation
    # A default that changed in version 18.
    checksums = ["--no-data-checksums"] if installation.major >= 18 > origin.major else []
    installation.run(installation.bin("initdb"), "-D", new.data, *INITDB_OPTIONS, *checksums)
    settings = {**settings, "shared_preload_libraries": "snowflake_id"}
    for server in old, new:
        with open(server.data / "postgresql.conf", "a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    try:
        installation.run(
            # In a directory of the servers' user, because it leaves scripts there.
            *["env", "-C", new.directory, installation.bin("pg_upgrade"), "-U", "postgres", "-s", new.directory],
            *["-b", Path(origin.bin("postgres")).parent, "-d", old.data],
            *["-B", Path(installation.bin("postgres")).parent, "-D", new.data],
        )
    except ServerError as error:
        logs = sorted(new.data.glob("pg_upgrade_output.d/*/log/*"))
        raise AssertionError("\n".join([str(error), *(log.read_text()[-2000:] for log in logs)])) from None
    new.start()


# The name of a column's option in which the minor releases of November 2026 keep its version.
COLUMN_VERSION = b"pg_attver"


def prepare(old, installation):
    """Takes from the old server's catalog what a new one that was released before it would refuse.

    Columns have versions since 15.20, 16.16 and 17.12. A pg_dump that knows them leaves them out; an older one
    of a later major would give them to a server that says `unrecognized parameter "pg_attver"`. They
    tell of rows that are older than a change of their columns' types, and there are none here.
    """
    if COLUMN_VERSION in Path(installation.bin("pg_dump")).read_bytes():
        return
    old.psql(f"""
        UPDATE pg_attribute SET attoptions = (
            SELECT nullif(array_agg(o), '{{}}') FROM unnest(attoptions) o WHERE o NOT LIKE '{COLUMN_VERSION.decode()}=%'
        )
        WHERE attoptions IS NOT NULL
    """)


# What an upgrade takes along beside the mark: rows, another node's lease, samples, results of audits.
UPGRADED = "items", *(f"snowflake_id_node.{name}" for name in ("registry", "samples", "audits"))
LEASE = "INSERT INTO snowflake_id_node.registry VALUES (7, 3, '{\"state\": \"held\"}', now() + interval '1 hour')"


@pytest.mark.parametrize("pg_config", servers(), ids=lambda pg_config: f"from {version(pg_config)}")
def test_pg_upgrade(installation, copies, connect, pg_config):
    """From an older server, or one of the same version, to the one under test: the record moves with the data.

    The extension is preloaded on both sides meanwhile, as it is in the configuration of
    servers that have it; its keepers stay out of the way.
    """
    with older(installation, pg_config) as origin:
        settings = {"snowflake_id.worker_id": 1, **{f"snowflake_id.{name}": value for name, value in AHEAD.items()}}
        old = Server(origin, settings)
        old.start()
        old.psql(SCHEMA)
        with psycopg.connect(old.conninfo(), autocommit=True) as session:
            before = load(old) + run_ahead(session)
            session.execute("INSERT INTO items (note) VALUES ('the last')")
            session.execute(LEASE)
            session.execute("INSERT INTO snowflake_id_node.samples SELECT snowflake_nextval(), now(), 1, 'postgres', 'postgres'")
            session.execute("SELECT * FROM snowflake_audit('items', 'id')")
            tables = {table: session.execute(f"SELECT t FROM {table} t ORDER BY t").fetchall() for table in UPGRADED}
        prepare(old, installation)
        old.stop()
        new = copies.adopt(old)
        upgrade(old, new, settings)
        session = connect(new)
        for table, rows in tables.items():
            assert rows and session.execute(f"SELECT t FROM {table} t ORDER BY t").fetchall() == rows, table
        after = [next_id(session)]
        first, last = after[0], max(before)
        assert first > last
        after += load(new)
        verdict(before, after, f"an upgrade from {origin.major} to {installation.major}")
        # Its record goes on under its new name: it is in conflict with nobody.
        assert session.execute("SELECT node FROM snowflake_id_node.high_water_marks").fetchall() == [
            (status(session).node,)
        ]
        assert status(session).conflict is None
        assert warnings(new) == []
        assert old.crashes() == []
        assert session.execute("SELECT count(*) - count(DISTINCT id) FROM items").fetchone() == (0,)
        old.remove()


@pytest.mark.parametrize("pg_config", servers(), ids=lambda pg_config: f"from {version(pg_config)}")
def test_an_upgrade_of_a_node_that_leases(installation, start_registry, copies, connect, pg_config):
    """It stays drained: it is the same node, and nobody else's record is its own. It leases a worker id anew."""
    address = start_registry(PostgresRegistry).address("here")
    settings = {"snowflake_id.heartbeat": "300ms", "snowflake_id.on_copy": "refuse"}
    with older(installation, pg_config) as origin:
        old = Server(origin, {"snowflake_id.registry": address, **settings}).start()
        node = Lessee(old, connect)
        last = node.flows()
        name = node.status().node
        # Of another cluster, as logical replication brings it; and of a primary before a promotion.
        columns = """
            reserved_until, datacenter_id, worker_id, layout, epoch, timeline - 1, updated_at, boot_id, booted_at, 'other',
            data_directory, lease, lease_until, false, max_ahead
        """
        for other in "7777777777777777777-0123456789abcdef", f"{name.partition('-')[0]}-0123456789abcdef":
            table = "snowflake_id_node.high_water_marks"
            node.sql(f"INSERT INTO {table} SELECT '{other}', {columns} FROM {table} WHERE node = '{name}'")
        node.sql("SELECT snowflake_drain()")
        prepare(old, installation)
        old.stop()
        new = copies.adopt(old)
        upgrade(old, new, settings)
        node = Lessee(new, connect)
        row = node.state("drained")
        assert row.conflict is None
        assert row.node != name
        node.sql("SELECT snowflake_resume()")
        assert node.flows() > last
        assert set(node.claims()) == {node.number()}
        names = [row[0] for row in node.sql("SELECT node FROM snowflake_id_node.high_water_marks ORDER BY host <> 'other'")]
        assert names == ["7777777777777777777-0123456789abcdef", row.node]
        # Once and for all.
        node.restart()
        assert node.flows() > last
        assert new.log.count("after an upgrade, this node goes on with the record of") == 1
        old.remove()


def test_an_upgraded_copy_of_a_node_that_leases(installation, start_server, start_registry, copies, connect):
    """A rehearsal, whose data never ran as a node: it leases a worker id of its own, while the original goes on with its."""
    address = start_registry(PostgresRegistry).address("here")
    terms = {"registry": address, "heartbeat": "300ms", "reservation": "200ms", "lease_duration": "1h"}
    original = Lessee(start_server(worker_id=None, postgres=REPLICATION, **terms), connect)
    original.flows()
    number, name = original.number(), original.status().node
    old = copies.make(original.server, postgres={"shared_preload_libraries": None})
    prepare(old, installation)
    old.stop()
    new = copies.adopt(original.server)
    upgrade(old, new, {f"snowflake_id.{setting}": value for setting, value in terms.items()})
    copied = Lessee(new, connect)
    copied.flows()
    assert f"this node goes on with the record of {name}" in new.log
    with Load(original.server, IDS, BATCH) as load, Load(new, IDS, BATCH) as other:
        load.wait_for(5000)
        other.wait_for(5000)
        received = [load.stop(), other.stop()]
    assert not any(load.errors) and not any(other.errors)
    assert duplicates(*received) == 0
    assert {id >> 12 & 1023 for id in received[0]} == {number}
    assert number not in {id >> 12 & 1023 for id in received[1]}
