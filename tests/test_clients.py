"""examples/clients: each program runs against a real server as docs/COOKBOOK.md says, and the page shows what runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pytest
from documents import page
from throwaway import HOST, PROJECT, FakeClock, Server, clean_environment, free_port

CLIENTS = PROJECT / "examples/clients"
PAGE = page("docs/COOKBOOK.md")
# What tools/setup and `make test-clients` have installed and built.
BUILT = PROJECT / "target/clients"
JDBC = "/usr/share/java/postgresql.jar"

# Client: (its command, what must be there first). SQLAlchemy, Django and Rails make their tables themselves.
SCHEMA = (CLIENTS / "schema.sql").read_text()
QUICK = {
    "psycopg": ([sys.executable, CLIENTS / "psycopg/example.py"], SCHEMA),
    "SQLAlchemy": ([sys.executable, CLIENTS / "sqlalchemy/example.py"], ""),
    "Django": ([sys.executable, CLIENTS / "django/example.py"], ""),
    "node-postgres": (["node", BUILT / "node/pg.mjs"], SCHEMA),
    "Drizzle": (["node", BUILT / "node/drizzle.mjs"], SCHEMA),
}
# They take compilers and packages that nothing else here needs: `make test-clients`.
DEAR = {
    "Prisma": (["node", BUILT / "prisma/example.mjs"], SCHEMA),
    "JDBC": (["java", "-cp", JDBC, CLIENTS / "jdbc/Example.java"], SCHEMA),
    "tokio-postgres": ([PROJECT / "target/debug/snowflake-example"], SCHEMA),
    "Rails": (["ruby", CLIENTS / "rails/example.rb"], ""),
}
ALL = {**QUICK, **DEAR}
RUN = ALL if os.environ.get("SNOWFLAKE_CLIENTS") == "1" else QUICK

pytestmark = pytest.mark.once("what a client's library does with a key, whatever the server's version")


@pytest.fixture(scope="module")
def servers(installation):
    """A function that gives the server of a layout that clients connect to, with a clock that can be set."""
    started = {}

    def server(layout="default"):
        if layout not in started:
            clock = FakeClock(installation.root / f"clients_{layout}")
            settings = {"snowflake_id.worker_id": 1, "snowflake_id.layout": layout, "listen_addresses": HOST}
            started[layout] = Server(installation, settings, clock=clock, port=free_port()).start()
        return started[layout]

    yield server
    for one in started.values():
        one.remove()
        assert one.crashes() == []


@pytest.fixture
def ready(servers, request):
    """A function that gives the server of a layout with a fresh database, which it returns a connection and an environment for."""
    opened = []

    def ready(schema, layout="default"):
        server = servers(layout)
        admin = psycopg.connect(server.conninfo(), autocommit=True)
        opened.append(admin)
        admin.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        admin.execute("CREATE DATABASE shop")
        connection = psycopg.connect(server.conninfo("shop"), autocommit=True)
        opened.append(connection)
        connection.execute(f"CREATE EXTENSION snowflake_id; {schema}")
        url = f"postgresql://postgres@{HOST}:{server.port}/shop"
        return server, connection, url

    yield ready
    for connection in opened:
        connection.close()


def command(client, url, what):
    """What runs a client, and its environment."""
    program, _ = ALL[client]
    if program[0] == "node":
        # Its packages are beside it, in target/.
        target = Path(program[1])
        for source in (CLIENTS / target.parent.name).glob("*.mjs"):
            shutil.copy(source, target.parent)
    if client == "JDBC":
        url = f"jdbc:{url.replace('postgres@', '')}?user=postgres&reWriteBatchedInserts=true"
    # Nobody's bytecode in the repository.
    return [*program, what], clean_environment({"DATABASE_URL": url, "PYTHONDONTWRITEBYTECODE": "1"})


def run(client, url, what):
    """What a client prints."""
    program, environment = command(client, url, what)
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def numbers(value):
    """Keys, which clients print as strings."""
    if isinstance(value, list):
        return [numbers(part) for part in value]
    assert isinstance(value, str)
    return int(value)


@pytest.mark.parametrize("client", RUN)
def test_tour(ready, client):
    """Keys by default and in bulk, a graph with keys ahead, pages, late commits, JSON: as they stand in the database."""
    _, connection, url = ready(ALL[client][1])

    def rows(query, *values):
        return [row if len(row) > 1 else row[0] for row in connection.execute(query, values).fetchall()]

    said = run(client, url, "tour")
    one = numbers(said["one"])
    assert rows("SELECT customer FROM orders WHERE id = %s", one) == ["Ada"]
    bulk = numbers(said["bulk"])
    assert sorted(rows("SELECT id FROM orders WHERE customer ~ '^customer [0-9]+$'")) == sorted(bulk)
    assert len(set(bulk)) == 1000
    order, *lines = numbers(said["graph"])
    assert rows("SELECT customer FROM orders WHERE id = %s", order) == ["Grace"]
    assert sorted(rows("SELECT id, order_id, product FROM lines")) == [(key, order, f"product {key}") for key in sorted(lines)]
    slow, fast = numbers(said["late"]["keys"])
    # All the orders that there were then, the newest first.
    pages = [key for part in numbers(said["pages"]) for key in part]
    assert pages == rows("SELECT id FROM orders WHERE id NOT IN (%s, %s) ORDER BY id DESC", slow, fast)
    assert max(len(part) for part in said["pages"]) == 500
    # The slow one was committed behind the fast one, whose key is greater.
    assert slow < fast
    assert numbers(said["late"]["naive"]) == [fast]
    assert numbers(said["late"]["waited"]) == []
    assert numbers(said["late"]["followed"]) == [slow, fast]
    assert json.loads(said["json"]) == {"id": said["one"], "customer": "Ada"}
    # Where the client has migrations: they propose nothing more.
    assert said.get("changes", []) == []
    if client == "SQLAlchemy":
        # What the page says: one statement for a hundred objects with keys, one for each without.
        assert (said["with keys"], said["without"]) == (1, 100)
    if client == "Django":
        assert said["unknown"] == "DatabaseDefault"
    if client == "Rails":
        assert said["dump"].count('id: :bigint, default: -> { "snowflake_nextval()" }') == 2


@pytest.mark.parametrize("client", RUN)
def test_retry(ready, client):
    """The node makes no ids while its clock stands back: the client tries again, and has its one row."""
    server, connection, url = ready(SCHEMA)
    connection.execute("SELECT snowflake_nextval()")
    server.clock.offset(-3600)
    program, environment = command(client, url, "retry")
    running = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        first = json.loads(running.stdout.readline())
        server.clock.offset(0)
        *_, last = running.stdout
        assert running.wait() == 0
    finally:
        server.clock.offset(0)
        running.kill()
        running.wait()
        running.stdout.close()
    assert first == {"retry": "58000"}
    assert connection.execute("SELECT id::text, customer FROM orders").fetchall() == [(json.loads(last)["key"], "Barbara")]


def test_js53(ready):
    """Keys of this layout are JavaScript's numbers, there and back."""
    _, _, url = ready(SCHEMA, "js53")
    said = run("node-postgres", url, "tour")
    assert int(said["one"]) < 2**53
    program, environment = command("node-postgres", url, "tour")
    done = subprocess.run(["node", Path(program[1]).with_name("js53.mjs")], env=environment, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["id"] == said["back"] == int(said["text"])
    # With another layout it is an error, and no other key.
    _, connection, url = ready(SCHEMA)
    environment["DATABASE_URL"] = url
    done = subprocess.run(["node", Path(program[1]).with_name("js53.mjs")], env=environment, capture_output=True, text=True, check=False)
    (key,) = connection.execute("SELECT id FROM orders").fetchone()
    assert done.returncode == 1
    assert f"RangeError: {key} is no number of JavaScript's" in done.stderr


def sources():
    """The text of every example, by the client's folder."""
    kinds = "py", "mjs", "java", "rs", "rb", "sql", "prisma"
    files = [path for kind in kinds for path in CLIENTS.rglob(f"*.{kind}")]
    return {path.relative_to(PROJECT): path.read_text() for path in files}


def stands_in(block, text):
    """Whether lines stand in a text, wherever they are indented to."""
    lines, wanted = text.splitlines(), block.rstrip("\n").splitlines()
    windows = ("\n".join(lines[at : at + len(wanted)]) for at in range(len(lines)))
    return any(textwrap.dedent(window) == "\n".join(wanted) for window in windows)


def test_the_page_shows_what_runs():
    """Each piece of code below a heading is in one of the files that are named there."""
    files = sources()
    shown = 0
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE):
        named = [files[Path(name)] for name in re.findall(r"\]\(\.\./(examples/clients/[^)]*\.\w+)\)", section) if Path(name) in files]
        for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
            if kind in ("sql", "python", "js", "java", "rust", "ruby", "prisma"):
                assert any(stands_in(block, text) for text in named), block
                shown += 1
    assert shown > 20


def test_every_client_is_on_the_page():
    """And every program that the page names is here."""
    named = {name for name in re.findall(r"\]\(\.\./examples/clients/([^)/#]+)", PAGE)}
    assert named == {path.name for path in CLIENTS.iterdir()}


def test_what_passes_by_itself():
    """Every program has the same codes, and they are the page's."""
    codes = set(re.findall(r"`(\w{5})`", PAGE.split("| passes by itself |")[1].split("| does not |")[0]))
    lost = {code for code in codes if code.startswith("08")}
    checked = 0
    for path, text in sources().items():
        if found := re.search(r"PASSES\b[^=]*=\s.*?[;\]})]\n", text, re.DOTALL):
            written = set(re.findall(r"\b(?=\w*\d)[0-9A-Z]{5}\b", found[0]))
            assert written in (codes, codes - lost), path
            checked += 1
    assert checked == 7
