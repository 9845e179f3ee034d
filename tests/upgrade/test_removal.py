"""docs/INSTALL.md, "Removing": the safe order, and what each wrong one says."""

import pytest
from clients import eventually
from documents import blocks, page, section
from nodes import next_id, refusal, status
from throwaway import ServerError

pytestmark = [pytest.mark.once("what is removed are files and objects of ours"), pytest.mark.usefixtures("package")]


@pytest.fixture
def node(start, connect):
    """A node with a table of ids, and a session."""
    server = start()
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    eventually(lambda: status(connection).state == "ready")
    connection.execute("CREATE TABLE orders (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), customer text)")
    connection.execute("INSERT INTO orders (customer) VALUES ('Ada')")
    return server, connection


def remove_files(package):
    package.library.unlink()
    for script in package.scripts.glob("snowflake_id*"):
        script.unlink()


@pytest.fixture
def files(package, tmp_path):
    """The package's files come back after the test."""
    kept = {path: path.read_bytes() for path in [package.library, *package.scripts.glob("snowflake_id*")]}
    yield
    for path, content in kept.items():
        path.write_bytes(content)
        path.chmod(0o755 if path.suffix == ".so" else 0o644)


def test_the_safe_order(node, package, connect, files):
    """Defaults, extensions, settings, restart, files: no error on the way, and nothing is left."""
    server, connection = node
    before = next_id(connection)
    defaults, extension, node_extension = blocks(section(page("docs/INSTALL.md"), "### The safe order"), "sql")
    connection.execute(defaults)
    connection.execute(extension)
    server.configure({"shared_preload_libraries": "", "snowflake_id.worker_id": None})
    server.restart()
    connection = connect(server)
    connection.execute(node_extension)
    remove_files(package)
    server.restart()
    connection = connect(server)
    connection.execute("INSERT INTO orders (customer) VALUES ('Grace')")
    ids = [number for (number,) in connection.execute("SELECT id FROM orders ORDER BY id")]
    assert len(ids) == 2 and ids[1] == ids[0] + 1 and ids[0] < before
    left = connection.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE '%snowflake%'").fetchone()
    assert left == (0,)
    assert "snowflake" not in server.log.rpartition("database system was shut down")[2]


def test_the_extension_before_the_defaults(node):
    """Refused; with CASCADE the default goes, not the column."""
    _, connection = node
    said = refusal(connection, "DROP EXTENSION snowflake_id")
    assert (said.sqlstate, said.message_primary, said.message_detail) == (
        "2BP01",
        "cannot drop extension snowflake_id because other objects depend on it",
        "default value for column id of table orders depends on function snowflake_nextval()",
    )
    connection.execute("DROP EXTENSION snowflake_id CASCADE")
    said = refusal(connection, "INSERT INTO orders (customer) VALUES ('Grace')")
    assert (said.sqlstate, said.message_primary) == (
        "23502", 'null value in column "id" of relation "orders" violates not-null constraint'
    )  # fmt: skip
    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (1,)


def test_the_nodes_tables_while_it_is_preloaded(node):
    """The keeper makes them anew when it reserves the next ids."""
    server, connection = node
    created = 'snowflake_id: created extension snowflake_id_node in database "postgres"'
    assert server.log.count(created) == 1
    connection.execute("DROP EXTENSION snowflake_id_node")
    before = next_id(connection)
    table = "SELECT to_regclass('snowflake_id_node.high_water_marks') FROM snowflake_nextval()"
    eventually(lambda: connection.execute(table).fetchone() != (None,))
    # Logged a moment after it was there.
    eventually(lambda: server.log.count(created) == 2)
    eventually(lambda: status(connection).state == "ready")
    assert next_id(connection) > before


def test_not_preloaded_before_the_defaults(node, connect):
    """Ids end with an error that names the setting; reading them goes on."""
    server, _ = node
    server.configure({"shared_preload_libraries": ""})
    server.restart()
    connection = connect(server)
    said = refusal(connection, "INSERT INTO orders (customer) VALUES ('Grace')")
    assert said.sqlstate == "55000"
    assert said.message_hint == "ALTER SYSTEM SET shared_preload_libraries = snowflake_id; Then restart the server."
    assert connection.execute("SELECT snowflake_worker_id(id) FROM orders").fetchone() == (1,)


def test_the_files_while_it_is_preloaded(node, package, connect, files):
    """Sessions that have used it go on, new ones do not find it; the next start fails, and the log says why."""
    server, connection = node
    before = next_id(connection)
    remove_files(package)
    assert next_id(connection) > before
    assert refusal(connect(server)).message_primary == 'could not access file "snowflake_id": No such file or directory'
    server.stop()
    with pytest.raises(ServerError):
        server.start()
    assert 'FATAL:  could not access file "snowflake_id": No such file or directory' in server.log.replace(" 58P01", "")
    # The way out of it.
    server.configure({"shared_preload_libraries": "", "snowflake_id.worker_id": None})
    server.start()


def test_the_files_before_the_extension(node, package, connect, files):
    """Functions fail by the file's name; dropping the extension needs no file."""
    server, _ = node
    server.configure({"shared_preload_libraries": "", "snowflake_id.worker_id": None})
    server.stop()
    remove_files(package)
    server.start()
    connection = connect(server)
    said = refusal(connection, "INSERT INTO orders (customer) VALUES ('Grace')")
    assert (said.sqlstate, said.message_primary) == (
        "58P01", 'could not access file "snowflake_id": No such file or directory'
    )  # fmt: skip
    connection.execute("DROP EXTENSION snowflake_id CASCADE")
    connection.execute("DROP EXTENSION snowflake_id_node")
