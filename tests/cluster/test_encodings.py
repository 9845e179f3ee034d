"""Text goes in and out of databases of every encoding: converted, or replaced, and never in the way of what it says."""

import re
import shutil
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from clients import eventually
from nodes import refusal, status
from registries import PostgresRegistry
from test_audit import AUDIT
from throwaway import HOST, PROJECT, Server, free_port

# A registry's database that does not exist: PostgreSQL names it. The euro is in none of these encodings, the e with an
# accent in two.
MISSING = "caf\u00e9-\u20ac"
ENCODINGS = {"UTF8": MISSING, "LATIN1": "caf\u00e9-?", "EUC_JP": "caf\u00e9-?", "SQL_ASCII": "caf?-?"}


def create(server, encoding):
    """A database of that encoding, with the extension; its name."""
    name = f"in_{encoding.lower()}"
    server.psql(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    server.psql("CREATE EXTENSION snowflake_id", name)
    return name


@pytest.fixture
def databases(server, connect):
    """A session in a database of each encoding."""
    names = {encoding: create(server, encoding) for encoding in ENCODINGS}
    sessions = {encoding: connect(server, name, client_encoding="UTF8") for encoding, name in names.items()}
    yield sessions
    for encoding, name in names.items():
        sessions[encoding].close()
        server.psql(f"DROP DATABASE {name} WITH (FORCE)")


def without_a_lease(connection, database):
    """Wait until the status says so, and that the registry has no such database; the status."""

    def said():
        row = status(connection)
        return row.state == "no_lease" and (row.registry_trouble or "").endswith(f'database "{database}" does not exist') and row

    return eventually(said, "no lease")


def test_a_registry_whose_words_are_not_ascii(start_server, start_registry, connect):
    """Its refusal can be read in the status, in the error of a call and in the log."""
    registry = start_registry(PostgresRegistry)
    server = start_server(worker_id=None, registry=f"postgres://postgres@{HOST}:{registry.port}/{quote(MISSING)}")
    server.psql("CREATE EXTENSION snowflake_id")
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        whole = without_a_lease(connection, MISSING)
        assert refusal(connection).message_detail.endswith(f'database "{MISSING}" does not exist.')
    for encoding, text in ENCODINGS.items():
        connection = connect(server, create(server, encoding), client_encoding="UTF8")
        now = status(connection)
        assert now.registry_trouble == whole.registry_trouble.replace(MISSING, text)
        assert (now.state, now.reason, now.hint) == (whole.state, whole.reason.replace(MISSING, text), whole.hint)
        diag = refusal(connection)
        assert (diag.sqlstate, diag.message_primary) == ("55P03", "this node has no lease of a worker id")
        assert diag.message_detail.endswith(f'database "{text}" does not exist.')
        # By a client that has the database's encoding, too.
        assert server.psql("SELECT state FROM snowflake_status", f"in_{encoding.lower()}") == "no_lease"
        for view in "pg_stat_snowflake", "pg_stat_snowflake_backends", "snowflake_layouts":
            assert connection.execute(f"SELECT * FROM {view}").rowcount > 0


def test_a_server_that_speaks_german(installation, connect):
    """PostgreSQL's own errors, of this server and of a registry, are words of every encoding that has them."""
    messages = Path(f"/usr/share/locale/de/LC_MESSAGES/postgres-{installation.major}.mo")
    if not messages.exists():
        pytest.skip("the server's messages in German are missing")
    # PostgreSQL finds them from where its programs are.
    directory = installation.root / messages.parent.relative_to("/")
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(messages, directory)
    port = free_port()
    registry = f"postgres://postgres@{HOST}:{port}/none"
    settings = {"lc_messages": "C.utf8", "listen_addresses": HOST, "snowflake_id.registry": registry}
    with Server(installation, settings, env={"LANGUAGE": "de"}, port=port) as server:
        server.psql("CREATE ROLE reader")
        refused = "keine Berechtigung f\u00fcr Tabelle items"
        missing = "Datenbank \u00bbnone\u00ab existiert nicht"
        trouble = "CREATE EXTENSION IF NOT EXISTS snowflake_id; SELECT registry_trouble FROM snowflake_status"
        # The address is in each word of it.
        eventually(lambda: server.psql(trouble).endswith("existiert nicht"))
        for encoding in ENCODINGS:
            connection = connect(server, create(server, encoding), client_encoding="UTF8")
            connection.execute(f"CREATE TABLE items (id bigint); GRANT EXECUTE ON FUNCTION {AUDIT} TO reader; SET ROLE reader")
            known = {"EUC_JP": "\u00fc", "SQL_ASCII": "", "LATIN1": "\u00fc\u00bb\u00ab", "UTF8": "\u00fc\u00bb\u00ab"}[encoding]
            shown = [re.sub(rf"[^\x00-\x7f{known}]", "?", text) for text in (refused, missing)]
            diag = refusal(connection, "SELECT * FROM snowflake_audit('items', 'id')")
            assert (diag.sqlstate, diag.message_primary) == ("42501", shown[0])
            diag = refusal(connection)
            assert diag.sqlstate == "55P03"
            assert diag.message_detail.endswith(f"{shown[1]}.")
            assert status(connection).registry_trouble.endswith(shown[1])
        assert server.crashes() == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_keepers_database(start_server, start_registry, connect, encoding):
    """It has any encoding itself, and any name; what it says there is text of that encoding."""
    registry = start_registry(PostgresRegistry)
    server = start_server()
    name = create(server, encoding)
    server.psql(f'ALTER DATABASE {name} RENAME TO "{MISSING}"')
    address = f"postgres://postgres@{HOST}:{registry.port}/{quote(MISSING)}"
    settings = {"snowflake_id.database": MISSING, "snowflake_id.worker_id": None, "snowflake_id.registry": address}
    server.configure(settings)
    server.restart()
    connection = connect(server, MISSING, client_encoding="UTF8")
    assert without_a_lease(connection, ENCODINGS[encoding]).database == ENCODINGS[encoding]
    python = {"EUC_JP": "euc_jp", "LATIN1": "latin1"}.get(encoding, "utf-8")
    line = f'database "{ENCODINGS[encoding]}" does not exist.'.encode(python)
    eventually(lambda: line in server.logfile.read_bytes(), "it is in the log")
    server.configure({"snowflake_id.worker_id": 3, "snowflake_id.registry": None})
    server.reload()
    eventually(lambda: status(connection).state == "ready")
    assert connection.execute("SELECT snowflake_worker_id(snowflake_nextval())").fetchone() == (3,)


CALLS = {
    "snowflake_from_base62(%s)": ("22P02", 'invalid base62 snowflake id: "{}"'),
    "snowflake_from_base32(%s)": ("22P02", 'invalid base32 snowflake id: "{}"'),
    "snowflake_decode(1, %s)": ("22023", 'invalid snowflake layout "{}"'),
    "snowflake_timestamp(1, %s)": ("22023", 'invalid snowflake layout "{}"'),
    "snowflake_layout(%s)": ("22023", 'invalid snowflake layout "{}"'),
    "snowflake_audit('items', 'id', worker_ids => %s)": ("22023", 'invalid range of worker ids "{}"'),
    "snowflake_audit('items', %s)": ("42703", 'column "{}" of relation public.items does not exist'),
    "snowflake_audit('items', 'id', %s)": ("42703", 'column "{}" of relation public.items does not exist'),
}


@pytest.mark.parametrize("call", CALLS)
def test_arguments(databases, call):
    """Text that is nothing of ours is that error, and names it."""
    sqlstate, message = CALLS[call]
    texts = {"UTF8": "\u20ac\u00e9", "LATIN1": "\u00e9\u00a7", "EUC_JP": "\u65e5\u672c", "SQL_ASCII": "\u00e9"}
    for encoding, text in texts.items():
        connection = databases[encoding]
        connection.execute("CREATE TABLE IF NOT EXISTS items (id bigint)")
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(f"SELECT * FROM {call}", [text])
        shown = "?" if encoding == "SQL_ASCII" else text
        assert (caught.value.diag.sqlstate, caught.value.diag.message_primary) == (sqlstate, message.format(shown)), encoding


def test_records(databases):
    """What nodes keep in a registry comes back as it was."""
    for connection in databases.values():
        connection.execute("CREATE EXTENSION snowflake_id_node")
        host = {"EUC_JP": "\u65e5\u672c"}.get(connection.execute("SHOW server_encoding").fetchone()[0], "caf\u00e9")
        write = "SELECT snowflake_id_node.registry_write(7, NULL, jsonb_build_object('host', %s::text)::text)"
        assert connection.execute(write, [host]).fetchone() == (True,)
        read = "SELECT record::jsonb ->> 'host' FROM snowflake_id_node.registry_read(7)"
        assert connection.execute(read).fetchone() == (host,)


def test_bytes_that_are_no_text(databases):
    """Where the database takes any."""
    diag = refusal(databases["SQL_ASCII"], r"SELECT snowflake_from_base62(convert_from('\xe9ff', 'SQL_ASCII'))")
    assert (diag.sqlstate, diag.message_primary) == ("22P02", 'invalid base62 snowflake id: "??"')
    diag = refusal(databases["LATIN1"], r"SELECT snowflake_from_base62(convert_from('\xe9', 'LATIN1'))")
    assert (diag.sqlstate, diag.message_detail) == ("22P02", '"\u00e9" is none of 0-9, A-Z and a-z.')


def test_errors_of_others(databases):
    """That an audit meets: they keep their SQLSTATE, and can be read."""
    said = "abgebrochen: \u00fcberlang"
    for connection in databases.values():
        connection.execute(
            f"""
            CREATE FUNCTION fails() RETURNS bigint LANGUAGE plpgsql AS
                $$BEGIN RAISE EXCEPTION SQLSTATE '22012' USING MESSAGE = '{said}', HINT = '{said}'; END$$;
            CREATE VIEW failing AS SELECT fails() AS id
            """
        )
        diag = refusal(connection, "SELECT * FROM snowflake_audit('failing', 'id')")
        assert diag.sqlstate == "22012"
        assert (diag.message_primary, diag.message_hint) == (said, said)


def test_text_is_no_string():
    """What pgrx hands over as it is: a string as an argument, a result, a row's value. `Text` is in its place."""
    strings = r"get(?:_by_name|_one)?(?:_with_args)?::<(?:Option<)?(?:String|&str)|name!\(\w+, (?:Option<)?String"
    found = []
    for source in sorted((PROJECT / "src").rglob("*.rs")):
        text = source.read_text()
        found += [f"{source.name}: {match[0]}" for match in re.finditer(strings, text)]
        for function in re.finditer(r"#\[pg_extern\(sql = false\)\](?:\s*#\[[^\]]*\])*\s*fn (\w+)\(([^)]*)\)", text):
            if re.search(r": (?:Option<)?(?:&str|String)\b", function[2]):
                found.append(f"{source.name}: {function[1]}")
    # It is hexadecimal.
    assert found == ["home.rs: get_one_with_args::<String"]
