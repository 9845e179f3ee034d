"""docs/OPERATIONS.md: its set-up with PostgreSQL, everyday work and its statements for alerts are run; what it names exists."""

import re
import subprocess
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest
from throwaway import PATIENCE, PROJECT, Server, free_port, wait_until

OPERATIONS = (PROJECT / "docs/OPERATIONS.md").read_text()
REFERENCE = (PROJECT / "docs/REFERENCE.md").read_text()
PAGES = [OPERATIONS, (PROJECT / "README.md").read_text()]


def block(heading, kind, number=0):
    """One of the blocks of a kind below a heading."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", OPERATIONS.split(f"\n{heading}\n")[1], re.MULTILINE | re.DOTALL)[number]


@pytest.fixture
def registry(installation):
    """A PostgreSQL server without the library preloaded that listens at a port, with the access that the page gives."""
    port = free_port()
    access = installation.directory() / "pg_hba.conf"
    access.write_text("local all all trust\n" + block("### PostgreSQL", "text"))
    installation.hand_over(access)
    settings = {"shared_preload_libraries": None, "listen_addresses": "127.0.0.1", "hba_file": access}
    server = Server(installation, settings, port=port).start()
    yield server
    server.remove()
    assert server.crashes() == []


@pytest.fixture
def leased(installation, registry, start_server):
    """A node of that registry, set up as the page says but for host, port and the place of the password's file; its address."""
    registry.psql(block("### PostgreSQL", "sql"))
    password = installation.directory() / "password"
    password.write_text(re.search("^echo (.*) >", block("## Setting up a node", "sh"), re.MULTILINE)[1] + "\n")
    installation.hand_over(password)
    password.chmod(0o600)
    address = block("### PostgreSQL", "text", 1).strip()
    assert f"snowflake_id.registry = '{address}'" in block("## Setting up a node", "ini")
    address = address.replace("registry.example", f"127.0.0.1:{registry.port}")
    address = address.replace("/etc/snowflake_id/password", str(password))
    (behind,) = re.findall("behind what is there: '(.*)'$", block("## Setting up a node", "ini"), re.MULTILINE)
    node = start_server(worker_id=None, registry=address, heartbeat="200ms", postgres={"shared_preload_libraries": behind})
    node.psql(block("## Setting up a node", "sql"))
    becomes(node, "state = 'ready'")
    return node, address


def becomes(node, condition):
    """Wait until a condition holds in snowflake_status, and no error is made meanwhile."""
    wait_until(
        lambda: node.psql(f"SELECT {condition} FROM snowflake_status") == "t",
        PATIENCE,
        lambda: AssertionError(condition + node.psql("TABLE snowflake_status")),
    )


def run(server, statements, dbname="postgres"):
    """Run statements as they stand in a page, in psql; what it says."""
    psql = [server.installation.bin("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", server.conninfo(dbname)]
    done = subprocess.run(psql, input=statements.replace(r"\gx", ";"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), statements
    return done.stdout.strip()


def test_a_registry_and_a_node(registry, leased):
    node, address = leased
    worker_id, _, _ = node.psql(block("## At night", "sql").replace(r"\gx", ";")).split("|")[5:8]
    for number in 1, 2:
        assert run(node, block("## Setting up a node", "sql", number)).startswith("ready|")
    leases = registry.psql(block("## Setting up a node", "sql", 3), "ids")
    assert leases.split("|")[:2] == [worker_id, "held"]
    assert registry.psql(block("## What to watch", "sql", 1), "ids") == "held|1"

    # The nodes' role may do what nodes do, and nothing else.
    password = Path(address.split("password_file=")[1]).read_text().strip()
    conninfo = f"host=127.0.0.1 port={registry.port} user=snowflake_node password={password} dbname=ids"
    with psycopg.connect(conninfo, autocommit=True) as role:
        for statement in "TABLE snowflake_id_node.registry", "TABLE snowflake_id_node.leases", "CREATE TABLE t ()", "CREATE TEMP TABLE t ()":
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                role.execute(statement)
    with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry"):
        psycopg.connect(conninfo.replace("dbname=ids", "dbname=postgres"))
    # The line for the server's address was needed.
    assert registry.psql("SELECT setting FROM pg_file_settings WHERE name = 'listen_addresses' ORDER BY seqno DESC LIMIT 1") == "*"


def test_everyday_work(registry, leased):
    """Every statement of it, one after the other, on one node; it generates ids all the while, unless that is what it is about."""
    node, address = leased
    # What ALTER SYSTEM sets stands behind the configuration file, as on any server.
    assert run(node, block("### Failover", "sql")) == "t"
    assert run(node, block("## What to watch", "sql")).startswith("ready|")
    run(node, block("## Regions", "sql"))
    becomes(node, "state = 'ready' AND worker_id BETWEEN 0 AND 341")
    for number in 0, 1:
        run(node, block("### Another worker id for a node", "sql", number))
        becomes(node, "state = 'ready' AND worker_id BETWEEN 100 AND 109")
    run(node, block("### Before maintenance", "sql"))
    becomes(node, "state = 'drained'")
    run(node, block("### Before maintenance", "sql", 1))
    becomes(node, "state = 'ready'")
    run(registry, "SELECT snowflake_id_node.registry_write(558, NULL, '{}')", "ids")
    run(registry, block("### Taking a node away", "sql"), "ids")
    assert registry.psql("SELECT count(*) FROM snowflake_id_node.registry WHERE number = 558", "ids") == "0"
    run(node, block("### The registry is down, or cut off", "sql"))
    becomes(node, "state = 'ready' AND worker_id = 104 AND leased_until IS NULL")
    there, all_of_them = (dedent(text) for text in blocks("### From worker ids set by hand to a registry"))
    run(node, there.replace(re.search("'(postgres:.*)'", there)[1], address))
    becomes(node, "state = 'ready' AND worker_id BETWEEN 100 AND 1023 AND leased_until > clock")
    run(node, all_of_them)
    assert node.psql("SHOW snowflake_id.worker_id_range") == ""
    run(node, block("### And back", "sql"))
    becomes(node, "state = 'ready' AND worker_id = 5 AND leased_until IS NULL")
    node.psql("CREATE TABLE orders (id bigint)")
    run(node, block("### A worker id was lost to another node", "sql"))


def blocks(heading):
    """The blocks of SQL in a section, whatever they are indented by."""
    section = re.split(r"^##", OPERATIONS.split(f"\n{heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^ *```sql\n(.*?)^ *```$", section, re.MULTILINE | re.DOTALL)


@pytest.mark.once("certificates are the business of the registry's client, which is the same everywhere")
def test_certificates(installation, registry, start_server):
    """In the place of a password, made and used as the page says, but for the host and the directory."""
    directory = installation.directory()

    def here(text):
        return text.replace("/etc/snowflake_id", str(directory)).replace("registry.example", "localhost")

    registry.psql(block("### PostgreSQL", "sql"))
    subprocess.run(["sh", "-eu", "-c", here(block("### Certificates", "sh"))], capture_output=True, check=True)
    for path in directory.iterdir():
        path.chmod(0o600)
        installation.hand_over(path)
    run(registry, here(block("### PostgreSQL", "sql", 1)))
    access = Path(registry.settings["hba_file"])
    access.write_text("local all all trust\n" + block("### PostgreSQL", "text", 2))
    registry.configure({"listen_addresses": "localhost"})
    registry.restart()
    address = here(block("### PostgreSQL", "text", 3)).strip().replace("localhost", f"localhost:{registry.port}")
    node = start_server(worker_id=None, registry=address, heartbeat="200ms")
    node.psql(block("## Setting up a node", "sql"))
    becomes(node, "state = 'ready'")
    encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND usename = 'snowflake_node'"
    # One that was broken off may be there a moment longer.
    wait_until(lambda: registry.psql(encrypted) == "1", PATIENCE, lambda: AssertionError(registry.psql("TABLE pg_stat_ssl")))


def columns(output):
    """The names of the columns in a block of psql's output, expanded or not."""
    if output.startswith("-[ RECORD"):
        return [line.split("|")[0].strip() for line in output.split("-[ RECORD")[1].splitlines()[1:]]
    return [name.strip() for name in output.splitlines()[0].split("|")]


def test_each_alert_has_its_entry():
    """Where its runbook_url leads; and in the list by urgency."""
    rules = (PROJECT / "monitoring/rules.yml").read_text()
    alerts = re.findall(r"alert: (\w+)$", rules, re.MULTILINE)
    assert re.findall(r"runbook_url: (\S+)$", rules, re.MULTILINE) == [f"docs/OPERATIONS.md#{name.lower()}" for name in alerts]
    assert sorted(re.findall(r"^### (\w+)$", OPERATIONS.split("\n## Alerts\n")[1].split("\n## ")[0], re.MULTILINE)) == sorted(alerts)
    assert sorted(re.findall(r"^\| \[(\w+)\]", OPERATIONS.split("\n## Monitoring\n")[1], re.MULTILINE)) == sorted(alerts)


def test_statements_for_alerts(start_server):
    """On a node that has none of it they run, and have the columns that are shown."""
    server = start_server()
    server.psql("CREATE EXTENSION snowflake_id; CREATE TABLE orders (id bigint)")
    section = OPERATIONS.split("\n## Alerts\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^( *)```sql\n(.*?)^ *```\n(?: *```output\n(.*?)^ *```\n)?", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) > len(re.findall("^### ", section, re.MULTILINE))
    version = int(server.psql("SHOW server_version_num"))
    for indent, statements, output in blocks:
        if "confl_" in statements and version < 180000:
            # As the page says: from 18 on.
            continue
        psql = [server.installation.bin("psql"), "-X", "-v", "ON_ERROR_STOP=1", "-d", server.conninfo()]
        done = subprocess.run(psql, input=statements.replace(r"\gx", ";"), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), statements
        if output:
            assert columns(done.stdout) == columns(re.sub(f"^{indent}", "", output, flags=re.MULTILINE)), statements


def test_names(connection):
    """Settings and functions, as there are; states, as the reference has them."""
    settings = {name for (name,) in connection.execute("SELECT name FROM pg_settings WHERE name ^@ 'snowflake_id.'")}
    functions = {name for (name,) in connection.execute("SELECT proname FROM pg_proc WHERE proname ^@ 'snowflake_'")}
    functions |= set(re.findall(r"^CREATE FUNCTION (snowflake_\w+)\(", (PROJECT / "src/sql/migrate/convert.sql").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"\bsnowflake_id\.(?!so\b)\w+", page)) <= settings
        assert set(re.findall(r"\b(snowflake_\w+)\(", page)) <= functions
    states = {word for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) ", REFERENCE, re.MULTILINE) for word in row.split(", ")}
    for heading in "### SnowflakeNotReady", "## What to do":
        section = OPERATIONS.split(f"\n{heading}\n")[1].split("\n### ")[0]
        rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*)(?: …)? \|", section, re.MULTILINE)
        assert rows
        assert {word for row in rows for word in row.split(", ")} <= states
