"""Each statement that a reader is told to run was run: README, the demo's end, monitoring/README.md, and the HINTs.

It begins with a server that preloads pg_stat_statements, and nothing of ours. docs/REFERENCE.md is run by
test_reference.py, docs/OPERATIONS.md by test_operations.py and cluster/test_runbooks.py.
"""

import re
import subprocess

import demo
import psycopg
import pytest
from documents import blocks, page, section
from throwaway import PATIENCE, clean_environment, wait_until

PAGES = ["README.md", "docs/OPERATIONS.md", "docs/REFERENCE.md", "docs/GUARANTEES.md", "docs/ARCHITECTURE.md", "monitoring/README.md"]
HINT = r"HINT:  (ALTER SYSTEM SET shared_preload_libraries = .*;) Then restart the server\."


@pytest.fixture
def server(start_server):
    return start_server(worker_id=None, postgres={"shared_preload_libraries": "pg_stat_statements"})


def run(server, statements, dbname="postgres"):
    """What psql prints, and what the server says to it."""
    psql = [server.installation.bin("psql"), "-XAt", "-v", "ON_ERROR_STOP=1", "-d", server.conninfo(dbname)]
    done = subprocess.run(psql, input=statements, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def preload(server, install, statement):
    """CREATE EXTENSION, which warns with the statement that the page shows; that, and a restart."""
    server.psql("CREATE DATABASE shop")
    (hint,) = re.findall(HINT, run(server, install, "shop")[1])
    assert hint == statement.strip()
    run(server, hint)
    server.restart()
    assert server.psql("SHOW shared_preload_libraries") == "pg_stat_statements, snowflake_id"


def ready(server, dbname="shop"):
    state = "SELECT state FROM snowflake_status"
    wait_until(lambda: server.psql(state, dbname) == "ready", PATIENCE, lambda: AssertionError(server.psql("TABLE snowflake_status", dbname)))


def test_readme(server):
    """In its order; and the extension in a further database, as its owner."""
    install, statement, number, *rest = blocks(page("README.md"), "sql")
    assert install in section(page("README.md"), "## Use it")
    preload(server, install, statement)
    run(server, number)
    ready(server)
    for block in rest:
        assert "ERROR" not in run(server, block, "shop")[1]
    assert server.psql("SELECT worker_id FROM snowflake_status", "shop") == "1"
    server.psql("CREATE ROLE owner LOGIN")
    server.psql("CREATE DATABASE further OWNER owner")
    with psycopg.connect(server.conninfo("further"), user="owner", autocommit=True) as connection:
        connection.execute(install)
        connection.execute("SELECT snowflake_nextval()")


def test_the_end_of_the_demo(server, capsys):
    demo.farewell("/path/to/pg_config")
    shown = [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    install, statement, *number, table = [line for line in shown if "make" not in line]
    preload(server, install, statement)
    run(server, "\n".join(number))
    ready(server)
    run(server, f"{table}\nINSERT INTO orders (customer) VALUES ('Ada');", "shop")


def test_the_role_that_monitors(start_server):
    """Also where the extension is in a schema of its own."""
    server = start_server(postgres={"shared_preload_libraries": "pg_stat_statements, snowflake_id"})
    role, schema = blocks(page("monitoring/README.md"), "sql")
    run(server, f"CREATE SCHEMA ids; CREATE EXTENSION snowflake_id SCHEMA ids; {role} {schema}")
    ready_as = "SELECT count(*) FROM snowflake_status, pg_stat_snowflake"
    with psycopg.connect(server.conninfo(), user="snowflake_monitor") as connection:
        assert connection.execute(ready_as).fetchone() == (1,)


# What stands for a name or a number in src/error.rs, as it is in a message.
FACTS = {
    "{sequence} OWNER TO {}": "orders_id_seq OWNER TO postgres",
    "DATABASE {}": "DATABASE shop",
    "{}": "1",
    "= N;": "= 2;",
    "{n}": "2000000",
    "{seconds}": "1",
    "{was}": "twitter",
    "epoch = '1'": "epoch = '2010-11-04 01:42:54.657+00'",
    "{pid}": "0",
    "backend(pid)": "backend(0)",
    "{relation}": "orders",
    "{column}": "id",
    "{{{names}}}": "{read}",
    "revert(...)": "revert('orders', 'id')",
    "database = '...'": "database = 'postgres'",
    "{EXTENSION}": "snowflake_id_node",
    "FUNCTION ...": "FUNCTION snowflake_drain",
    "TO ...": "TO ordinary",
}
STATEMENT = r"\b(?:ALTER|CREATE|DELETE|GRANT|SELECT|SET)\b[^;]*;"


def texts_of_errors():
    """The source of all that is said of errors."""
    return re.search(r"fn text\(&self.*", page("src/error.rs"), re.DOTALL)[0]


def test_each_error_has_a_hint():
    """docs/REFERENCE.md says so; the last argument of each text is one."""
    texts = re.findall(r"Text::new\((.*?)\n {12}\),", texts_of_errors(), re.DOTALL)
    assert len(texts) > 50
    assert [text for text in texts if re.search(r'""(?:\.to_owned\(\))?,?\s*$', text)] == []


def hints():
    """The statements of all hints."""
    texts = re.findall(r'"((?:[^"\\]|\\.)*)"', texts_of_errors())
    for text in texts:
        text = text.replace('\\"', '"')
        for name, value in FACTS.items():
            text = text.replace(name, value)
        yield from re.findall(STATEMENT, text)


def test_hints(start_server):
    """Each runs as it is shown, with the names that it is about."""
    server = start_server(datacenter_id=1, layout="twitter", postgres={"shared_preload_libraries": "pg_stat_statements, snowflake_id"})
    run(server, "CREATE EXTENSION snowflake_id; CREATE EXTENSION snowflake_id_migrate; CREATE ROLE ordinary")
    ready(server, "postgres")
    run(server, "CREATE TABLE orders (id bigserial PRIMARY KEY)")
    found = list(hints())
    assert len(found) > 20
    for statement in found:
        if statement.startswith("CREATE EXTENSION"):
            # Where it is missing.
            missing = "DROP EXTENSION IF EXISTS snowflake_id_node; DROP EXTENSION IF EXISTS snowflake_id_migrate"
            run(server, f"{missing}; CREATE EXTENSION IF NOT EXISTS snowflake_id; {statement}", "shop")
        elif statement.startswith("ALTER SCHEMA"):
            # Where the schema is somebody else's.
            run(server, f"DROP EXTENSION IF EXISTS snowflake_id_node; CREATE SCHEMA snowflake_id_node; {statement}", "shop")
        else:
            run(server, statement)


@pytest.mark.parametrize("name", PAGES)
def test_alter_system_names_each_library_by_itself(name):
    """Between one pair of quotes they are one name, with which no server starts."""
    values = re.findall(r"ALTER SYSTEM SET shared_preload_libraries = ([^;]*);", page(name))
    assert [value for value in values if "'" in value] == []


def test_no_statement_leaves_what_a_file_sets():
    """ALTER SYSTEM RESET does nothing to what stands in postgresql.conf."""
    for name in (*PAGES, "src/error.rs"):
        assert "ALTER SYSTEM RESET" not in page(name), name
