"""How the server starts, or does not, with which settings; and where ids cannot be generated."""

import json
import re
import shutil
from pathlib import Path

import psycopg
import pytest
from clients import eventually
from nodes import promote
from throwaway import PROJECT, Server, ServerError

NOT_PRELOADED = (
    "55000",
    "snowflake ids can be generated only if snowflake_id is preloaded",
    "The ids of a node come from its shared memory. Reading ids works without.",
)
START_HINT = (
    "Correct it in postgresql.conf, or in postgresql.auto.conf after ALTER SYSTEM, and start the server again. "
    "For example: timestamp:41,worker:10,sequence:12. The presets are in the view snowflake_layouts."
)
DATACENTER_HINT = (
    "Datacenter and worker id together name the node: ALTER SYSTEM SET snowflake_id.datacenter_id = 1; "
    "SELECT pg_reload_conf();"
)


def refused(connection, query):
    """What an error says: SQLSTATE, message, detail, hint."""
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(query)
    return told(caught.value.diag)


def told(diag):
    """The same of an error or a warning."""
    return diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint


def test_not_preloaded(start_server, connect):
    """Generating ids says what to do; reading them works, with the configured layout."""
    server = start_server(postgres={"shared_preload_libraries": ""}, layout="twitter")
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    for query in (
        "SELECT snowflake_nextval()",
        "SELECT snowflake_batch(1)",
        "SELECT snowflake_batch_array(1)",
        "SELECT snowflake_lastval()",
    ):
        hint = "ALTER SYSTEM SET shared_preload_libraries = snowflake_id; Then restart the server."
        assert refused(connection, query) == (*NOT_PRELOADED, hint)
    row = connection.execute("SELECT datacenter_id, worker_id FROM snowflake_decode(1541815603606036480)").fetchone()
    assert row == (11, 26)
    assert connection.execute("SELECT snowflake_batch_array(0)").fetchone() == ([],)
    assert connection.execute("SHOW snowflake_id.epoch").fetchone() == ("2010-11-04 01:42:54.657+00",)
    assert refused(connection, "SET snowflake_id.layout = 'default'")[0] == "55P02"


@pytest.mark.parametrize(
    ("preloaded", "names"),
    [
        ("", ""),
        ("pg_stat_statements", "pg_stat_statements, "),
        ("auto_explain,pg_stat_statements", "auto_explain, pg_stat_statements, "),
        # What an identifier cannot spell: a path, capital letters, a word of SQL.
        ("$libdir/auto_explain, \"Trap\", select", "'$libdir/auto_explain', 'Trap', 'select', "),
    ],
)
def test_the_statement_that_preloads(installation, start_server, connect, preloaded, names):
    """CREATE EXTENSION warns with it; it adds to what is there, and after a restart there are ids and all that was before."""
    libraries = Path(installation.run(installation.bin("pg_config"), "--pkglibdir").strip())
    for name in "Trap", "select":
        (libraries / f"{name}.so").unlink(missing_ok=True)
        (libraries / f"{name}.so").symlink_to(libraries / "auto_explain.so")
    server = start_server(postgres={"shared_preload_libraries": preloaded}, worker_id=None)
    before = server.psql("SHOW shared_preload_libraries")
    connection = connect(server)
    notices = []
    connection.add_notice_handler(lambda notice: notices.append((notice.severity, *told(notice))))
    connection.execute("CREATE EXTENSION snowflake_id")
    statement = f"ALTER SYSTEM SET shared_preload_libraries = {names}snowflake_id;"
    said = (*NOT_PRELOADED, f"{statement} Then restart the server.")
    assert notices == [("WARNING", *said)]
    assert refused(connection, "SELECT snowflake_nextval()") == said
    assert connection.execute("SELECT hint FROM snowflake_status").fetchone() == (said[-1],)
    # Who may not see what is preloaded is not shown it here.
    connection.execute("CREATE ROLE ordinary LOGIN")
    ordinary = connect(server, user="ordinary")
    hint = "A superuser is shown the statement that adds it to what is preloaded: SELECT hint FROM snowflake_status;"
    assert refused(ordinary, "SELECT snowflake_nextval()") == (*NOT_PRELOADED, hint)
    assert ordinary.execute("SELECT hint FROM snowflake_status").fetchone() == (hint,)

    connection.execute(statement)
    server.restart()
    connection = connect(server)
    (after,) = connection.execute("SHOW shared_preload_libraries").fetchone()
    assert [name.strip(' "') for name in after.split(",")] == [*[name.strip(' "') for name in before.split(",") if name], "snowflake_id"]
    # The next hint leads to the first id.
    hint = refused(connection, "SELECT snowflake_nextval()")[-1]
    for part in re.search(r"ALTER .*?;.*?;", hint)[0].split("; "):
        connection.execute(part)
    eventually(lambda: connection.execute("SELECT state FROM snowflake_status").fetchone() == ("ready",))
    assert connection.execute("SELECT snowflake_nextval()").fetchone()[0] > 0


def test_not_preloaded_with_a_bad_layout(start_server, connect):
    """Reading ids with another layout than the configured one would be a lie."""
    server = start_server(postgres={"shared_preload_libraries": ""}, layout="timestamp:41,worker:99")
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    for _ in range(2):
        assert refused(connection, "SELECT snowflake_decode(1)") == (
            "22023",
            'invalid value for parameter "snowflake_id.layout": "timestamp:41,worker:99"',
            'The width of worker is "99", not a number from 1 to 31.',
            START_HINT,
        )
    row = connection.execute("SELECT worker_id FROM snowflake_decode(175928847299117063, 'discord')").fetchone()
    assert row == (1,)


@pytest.mark.parametrize(
    ("settings", "parameter", "value", "detail"),
    [
        ({"layout": "timestamp:1,sequence:62"}, "layout", "timestamp:1,sequence:62", 'The width of sequence is "62"'),
        ({"layout": "worker:10,sequence:12"}, "layout", "worker:10,sequence:12", "There is no timestamp field."),
        ({"layout": "timestamp:41,worker:5,worker:5"}, "layout", "timestamp:41,worker:5,worker:5", "stands twice"),
        ({"layout": "timestamp:41,worker:12,sequence:12"}, "layout", "timestamp:41,worker:12,sequence:12", "65 bits"),
        ({"layout": "snowflake"}, "layout", "snowflake", "neither a preset nor of the form field:bits"),
        ({"layout": "worker:10,timestamp:41"}, "layout", "worker:10,timestamp:41", "not the most significant"),
        ({"database": ""}, "database", "", "A database's name has 1 to 63 bytes"),
        ({"database": "template1"}, "database", "template1", "the keeper stays connected"),
        ({"epoch": "yesterday"}, "epoch", "yesterday", "An epoch is a timestamp with its offset from UTC."),
        ({"worker_id": 1024}, "worker_id", "1024", 'The worker field of layout "default" takes 0 to 1023.'),
        ({"layout": "twitter", "worker_id": 32}, "worker_id", "32", 'layout "twitter" takes 0 to 31.'),
        ({"datacenter_id": 1}, "datacenter_id", "1", 'Layout "default" has no datacenter field.'),
        ({"layout": "mastodon"}, "worker_id", "1", 'Layout "mastodon" has no worker field.'),
    ],
)
def test_the_server_does_not_start_with_nonsense(installation, settings, parameter, value, detail):
    """It would generate ids of another layout, or of another node, than the ones asked for."""
    names = {f"snowflake_id.{name}": setting for name, setting in {"worker_id": 1, **settings}.items()}
    server = Server(installation, names)
    with pytest.raises(ServerError):
        server.start()
    assert f'FATAL:  invalid value for parameter "snowflake_id.{parameter}": "{value}"' in server.log
    assert detail in server.log
    # What it says to do can be done where no server runs.
    assert re.search("HINT:  Correct it in postgresql.conf, (?!.*SELECT)", server.log)


def test_no_worker_id(start_server, connect):
    """There is no silent 0."""
    server = start_server(worker_id=None)
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    assert refused(connection, "SELECT snowflake_nextval()") == (
        "55000",
        "this node has no worker id",
        'snowflake_id.worker_id is not set. Layout "default" takes 0 to 1023.',
        "Give every node a worker id of its own: ALTER SYSTEM SET snowflake_id.worker_id = 1; SELECT pg_reload_conf(); Or set snowflake_id.registry, to have it leased.",
    )
    # The hint's statements, as they stand there.
    connection.execute("ALTER SYSTEM SET snowflake_id.worker_id = 1")
    connection.execute("SELECT pg_reload_conf()")
    while True:
        try:
            row = connection.execute("SELECT snowflake_worker_id(snowflake_nextval())").fetchone()
            break
        except psycopg.errors.ObjectNotInPrerequisiteState:
            pass
    assert row == (1,)


def test_no_datacenter_id(start_server, connect):
    server = start_server(layout="twitter", worker_id=7)
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    assert refused(connection, "SELECT snowflake_nextval()") == (
        "55000",
        "this node has no datacenter id",
        'snowflake_id.datacenter_id is not set. Layout "twitter" takes 0 to 31.',
        DATACENTER_HINT,
    )


@pytest.mark.parametrize(
    ("layout", "numbers"),
    [
        ("default", {"worker_id": 1023}),
        ("twitter", {"worker_id": 31, "datacenter_id": 30}),
        ("discord", {"worker_id": 31, "datacenter_id": 30}),
        ("instagram", {"worker_id": 8191}),
        ("sonyflake", {"worker_id": 65535}),
        ("mastodon", {"worker_id": 0}),
        ("pgedge", {"worker_id": 513}),
        ("js53", {"worker_id": 31}),
        ("timestamp:41,sequence:3,unused:2,worker:3,datacenter:3", {"worker_id": 5, "datacenter_id": 6}),
        ("timestamp:51@1us,worker:4,sequence:8", {"worker_id": 9}),
        ("timestamp:32@1s,worker:3,sequence:28", {"worker_id": 7}),
    ],
)
def test_any_layout_generates(start_server, connect, layout, numbers):
    """Distinct, increasing ids that carry the node's numbers and the time, from a spell of claims and waits."""
    server = start_server(layout=layout, **numbers)
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    row = connection.execute(
        """
        SELECT count(*), count(DISTINCT id), bool_and(id > before), array_agg(DISTINCT d.worker_id),
               array_agg(DISTINCT d.datacenter_id), bool_and(d.ts BETWEEN %s::timestamptz - l.tick AND clock_timestamp())
        FROM (SELECT id, lag(id, 1, -1::bigint) OVER (ORDER BY n) AS before
              FROM snowflake_batch(1000) WITH ORDINALITY AS batch (id, n)) AS ids,
             snowflake_decode(id) AS d, snowflake_layout() AS l
        """,
        [connection.execute("SELECT clock_timestamp()").fetchone()[0]],
    ).fetchone()
    worker_id = numbers["worker_id"] if layout != "mastodon" else None
    assert row == (1000, 1000, True, [worker_id], [numbers.get("datacenter_id")], True)


def test_published_ids(connection):
    """What other systems published, through SQL; the file is that of snowflake-core's own test."""
    vectors = json.loads(Path(PROJECT / "crates/core/tests/vectors.json").read_text())
    assert len(vectors) == 15
    for vector in vectors:
        row = connection.execute(
            """
            SELECT (extract(epoch FROM ts) * 1000)::bigint, datacenter_id, worker_id, sequence
            FROM snowflake_decode(%s::bigint, %s, to_timestamp(%s::numeric / 1000000))
            """,
            [vector["id"], vector["layout"], vector.get("epoch")],
        ).fetchone()
        expected = (vector["time_ms"], vector.get("datacenter"), vector.get("worker"), vector["sequence"])
        assert row == expected, vector["source"]


def test_a_standby_reads_but_makes_no_ids(installation, start_server, connect):
    """25006; the same configuration, and no noise in the log."""
    primary = start_server(postgres={"wal_level": "replica", "max_wal_senders": 5})
    connect(primary).execute("CREATE EXTENSION snowflake_id")
    standby = Server(installation, {"snowflake_id.worker_id": 1}, data="none")
    installation.run(
        installation.bin("pg_basebackup"), "-D", standby.data, "-d", primary.conninfo(), "-R", "-c", "fast"
    )
    standby.start()
    try:
        connection = connect(standby)
        assert refused(connection, "SELECT snowflake_nextval()") == (
            "25006",
            "cannot generate snowflake ids during recovery",
            "This server is a standby.",
            "Insert on the primary. Reading ids works on a standby.",
        )
        row = connection.execute("SELECT ts::text, worker_id FROM snowflake_decode(132271570944004097)").fetchone()
        assert row == ("2026-01-01 00:00:00+00", 1)
        assert "keeper" not in standby.log
        # Promoted, it is a node like any other.
        promote(standby)
        assert connection.execute("SELECT snowflake_worker_id(snowflake_nextval())").fetchone() == (1,)
    finally:
        standby.stop()


def test_files_in_a_place_of_their_own(installation, start_server, connect):
    """As docs/OPERATIONS.md says: nothing of the extension need be in the server's own directories."""
    if installation.major < 18:
        pytest.skip("extension_control_path came with PostgreSQL 18")
    place = installation.directory()
    sql, library = place / "share/extension", place / "lib"
    sql.mkdir(parents=True)
    library.mkdir()
    for file in installation.extensions.glob("snowflake_id*"):
        shutil.copy(file, sql)
    shutil.copy(installation.library, library)
    # Without $system: what is found is found there.
    server = start_server(postgres={"extension_control_path": f"{place}/share", "dynamic_library_path": f"{place}/lib:$libdir"})
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    assert connection.execute("SELECT snowflake_worker_id(snowflake_nextval())").fetchone() == (1,)
    assert f"{place}/lib/snowflake_id.so" in Path(f"/proc/{server.pid}/maps").read_text()
