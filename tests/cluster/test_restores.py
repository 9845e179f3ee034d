"""What is restored into the tables of snowflake_id_node arrives, whatever state its triggers are in; what is replicated does not.

A restore with --disable-triggers leaves them as ordinary ones (O), one in the role of a replica fires those of
replicas (R, A), somebody may have disabled them (D).
"""

import itertools

import psycopg
import pytest
from clients import eventually
from nodes import (
    REPLICATION,
    SCHEMA,
    Lessee,
    kept,
    next_id,
    status,
    subscription_errors,
)
from registries import PostgresRegistry
from test_copies import AHEAD, dump, load, run_ahead, verdict

STATES = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS", "D": "DISABLE"}
# A row of each table. The mark is another cluster's.
ROWS = {
    "high_water_marks": """('1-00', 1, NULL, 7, 'timestamp:41,worker:10,sequence:12', '2025-01-01 00:00+00', 1, now(), 'x', now(),
        'host', '/data', NULL, NULL, false)""",
    "samples": "(1, now(), 1, 'shop', 'app')",
    "registry": "(900, 1, '{}', now())",
    "audits": "('pg_class', 'id', 'rows', NULL, NULL, 1, NULL, NULL, 1, false, now(), '1 s')",
}
NODE = "snowflake_id_node"


def set_triggers(session, table, state):
    query = f"SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgrelid = '{NODE}.{table}'::regclass"
    for name, _ in session.execute(query).fetchall():
        session.execute(f"ALTER TABLE {NODE}.{table} {STATES[state]} TRIGGER {name}")
    assert {found for _, found in session.execute(query).fetchall()} == {state}


def count(session, table):
    return session.execute(f"SELECT count(*) FROM {NODE}.{table}").fetchone()[0]


@pytest.mark.parametrize("state", STATES)
def test_rows_arrive(server, database, connect, state):
    """INSERT, UPDATE, DELETE and TRUNCATE by hand, in both roles, as in any table."""
    session = connect(server, database)
    session.execute("CREATE EXTENSION snowflake_id_node")
    for (table, row), role in itertools.product(ROWS.items(), ("origin", "replica")):
        set_triggers(session, table, state)
        session.execute(f"SET session_replication_role = {role}")
        session.execute(f"INSERT INTO {NODE}.{table} VALUES {row}")
        assert count(session, table) == 1, (table, role)
        column = "sampled_at" if table == "samples" else "count" if table == "audits" else "revision" if table == "registry" else "reserved_until"
        changed = session.execute(f"UPDATE {NODE}.{table} SET {column} = {column} RETURNING 1").fetchall()
        assert len(changed) == 1, (table, role)
        session.execute(f"TRUNCATE {NODE}.{table}")
        assert count(session, table) == 0, (table, role)
        session.execute(f"INSERT INTO {NODE}.{table} VALUES {row}; DELETE FROM {NODE}.{table}")
        assert count(session, table) == 0, (table, role)


@pytest.mark.parametrize("state", STATES)
def test_a_node_and_its_registry_go_on(start_server, start_registry, connect, state):
    """Its record, its samples, its lease."""
    registry = start_registry(PostgresRegistry)
    address = registry.address("ids")
    settings = {"worker_id": None, "registry": address, "heartbeat": "200ms", "reservation": "200ms", "sample_rate": 1.0}
    node = Lessee(start_server(**settings), connect)
    node.flows()
    with psycopg.connect(address, autocommit=True) as records:
        set_triggers(records, "registry", state)
        for table in "high_water_marks", "samples":
            set_triggers(node.connection, table, state)
        until = node.status().leased_until
        mark = f"SELECT max(reserved_until) FROM {NODE}.high_water_marks"
        before, samples = node.sql(mark).fetchone()[0], count(node.connection, "samples")

        def goes_on():
            next_id(node.connection)
            row = node.status()
            return (
                row.leased_until > until
                and row.registry_trouble is None
                and node.sql(mark).fetchone()[0] > before
                and count(node.connection, "samples") > samples
            )

        eventually(goes_on, "lease, window and samples are renewed")
        alive = f"SELECT count(*) FROM {NODE}.registry WHERE alive_until > now()"
        # It says so for three heartbeats, and one may be late.
        eventually(lambda: records.execute(alive).fetchone() == (1,), "it says that it is alive")


def restore_with_triggers_off(target, file, options):
    installation = target.installation
    installation.run(installation.bin("pg_restore"), "--exit-on-error", *options, "-d", target.conninfo(), file)


def restore_as_a_replica(target, file, options):
    installation = target.installation
    script = installation.directory() / "script"
    installation.run(installation.bin("pg_restore"), *options, "-f", script, file)
    psql = installation.bin("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-d", target.conninfo()
    installation.run(*psql, "-c", "SET session_replication_role = replica", "-f", script)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "how",
    [(restore_with_triggers_off, ["--data-only", "--disable-triggers"]), (restore_as_a_replica, ["--data-only"])],
    ids=["--disable-triggers", "in the role of a replica"],
)
def test_a_mark_that_is_restored_is_heeded(start_server, copies, connect, how, state):
    """The ids of the source are ahead of every clock; a new node with its worker id begins above them."""
    source = start_server(**AHEAD)
    source.psql(SCHEMA)
    before = load(source) + run_ahead(connect(source))
    file = dump(source, "postgres", "-Fc")
    source.stop()
    target = copies.adopt(source, data="initdb").start()
    session = connect(target)
    kept(session)
    session.execute(SCHEMA)
    for table in ROWS:
        set_triggers(session, table, state)
    restore, options = how
    restore(target, file, options)
    after = [next_id(session)]
    assert after[0] > max(before)
    after += load(target)
    verdict(before, after, f"a restore of data alone, {' '.join(options)}")
    assert count(session, "high_water_marks") == 2


@pytest.mark.parametrize("state", ["R", "A"])
def test_what_is_replicated_changes_nothing(start_server, copies, connect, state):
    """INSERT, UPDATE, DELETE and TRUNCATE on a publisher, of every table: the subscriber keeps its own rows."""
    publisher = start_server(postgres={**REPLICATION, "wal_level": "logical"})
    subscriber = copies.adopt(publisher, data="initdb", worker_id=2).start()
    here, there = connect(publisher), connect(subscriber)
    rows = {}
    for session in here, there:
        kept(session)
        session.execute("CREATE EXTENSION snowflake_id; CREATE TABLE items (id integer)")
        next_id(session)
        for table, row in ROWS.items():
            set_triggers(session, table, state)
            session.execute(f"INSERT INTO {NODE}.{table} VALUES {row}")
    content = "SELECT array_agg(t::text ORDER BY t::text) FROM snowflake_id_node.{} AS t WHERE t::text NOT LIKE %s"
    own = f"%{status(there).node}%"

    def kept_rows():
        return {table: there.execute(content.format(table), [own]).fetchone()[0] for table in ROWS}

    rows = kept_rows()
    here.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    subscription = "CREATE SUBSCRIPTION other CONNECTION '{}' PUBLICATION everything WITH (copy_data = false)"
    there.execute(subscription.format(publisher.conninfo()))
    for number, change in enumerate(
        (
            "INSERT INTO snowflake_id_node.registry VALUES (901, 1, '{}', now())",
            "INSERT INTO snowflake_id_node.samples VALUES (2, now(), 1, NULL, NULL)",
            "INSERT INTO snowflake_id_node.audits SELECT relation, 'other', finding, datacenter_id, worker_id, count, examples, since, sample, partial, audited_at, duration FROM snowflake_id_node.audits",
            "UPDATE snowflake_id_node.registry SET revision = revision + 1",
            "DELETE FROM snowflake_id_node.registry; DELETE FROM snowflake_id_node.audits",
            "TRUNCATE snowflake_id_node.registry, snowflake_id_node.audits, snowflake_id_node.high_water_marks",
            "TRUNCATE snowflake_id_node.registry",
        )
    ):
        here.execute(change)
        # It has arrived when what comes behind it has.
        here.execute("INSERT INTO items VALUES (%s)", [number])
        arrived = lambda number=number: there.execute("SELECT FROM items WHERE id = %s", [number]).rowcount == 1
        eventually(arrived, f"{change} is replicated")
        after = kept_rows()
        # The publisher's own mark may come; it is another node's.
        mark = after.pop("high_water_marks")
        assert set(rows["high_water_marks"]) <= set(mark), change
        assert after == {table: found for table, found in rows.items() if table != "high_water_marks"}, change
    assert subscription_errors(there) == [0]
