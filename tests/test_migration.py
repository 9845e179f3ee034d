"""docs/MIGRATION.md: each path is run, in a database and by a server as it describes them."""

import re
import subprocess

import pytest
from documents import page, section
from throwaway import PROJECT, clean_environment

PAGE = page("docs/MIGRATION.md")

# What other systems have left, by their published layouts.
PGEDGE = """
    CREATE EXTENSION snowflake_id_migrate;
    CREATE SCHEMA snowflake;
    CREATE FUNCTION snowflake.nextval(counter regclass) RETURNS bigint LANGUAGE sql AS $$
        SELECT ((floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1672531200000) << 22)
            | (1 << 12) | nextval(counter) % 4096
    $$;
    CREATE SEQUENCE orders_id_seq;
    CREATE TABLE orders (id bigint PRIMARY KEY DEFAULT snowflake.nextval('orders_id_seq'), customer text);
    INSERT INTO orders (customer) SELECT 'x' FROM generate_series(1, 100);
"""
INSTAGRAM = """
    CREATE EXTENSION snowflake_id_migrate;
    CREATE SEQUENCE photos_id_seq;
    CREATE FUNCTION next_id() RETURNS bigint LANGUAGE sql AS $$
        SELECT ((floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1314220021721) << 23)
            | (1 << 10) | nextval('photos_id_seq') % 1024
    $$;
    CREATE TABLE photos (id bigint PRIMARY KEY DEFAULT next_id(), owner text);
    INSERT INTO photos (owner) SELECT 'x' FROM generate_series(1, 100);
"""
# Path: (settings of the node, what is there before, what must be true at the end).
PATHS = {
    "A bigint key": ({}, "", "SELECT count(*) = 4 FROM orders"),
    "An integer key": ({}, "", "SELECT count(*) = 2 FROM customers"),
    "pgEdge": ({"layout": "pgedge"}, PGEDGE, "INSERT INTO orders (customer) VALUES ('y') RETURNING id > (SELECT max(id) FROM orders)"),
    "A function of your own": ({"layout": "instagram"}, INSTAGRAM, "INSERT INTO photos (owner) VALUES ('y') RETURNING id > (SELECT max(id) FROM photos)"),
    "Ids by the application": ({}, "", "SELECT true"),
    "Keys from before, and time": ({}, "", "SELECT true"),
    "A second key": ({}, "", "SELECT count(DISTINCT u.key) = 2500 AND bool_and(p.user_key = u.key) FROM users u JOIN posts p ON p.user_id = u.id"),
}


def test_every_path_is_here():
    paths = [heading for heading in re.findall(r"^## (.*)$", PAGE, re.MULTILINE) if "```sql" in section(PAGE, f"## {heading}")]
    assert paths == list(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_path(installation, start_server, path):
    settings, before, after = PATHS[path]
    server = start_server(**settings)
    server.psql("CREATE EXTENSION snowflake_id")
    server.psql(f"SELECT count(snowflake_nextval()); {before}")
    for sql, output in re.findall(r"^```sql\n(.*?)^```\n(?:```output\n(.*?)^```\n)?", section(PAGE, f"## {path}"), re.MULTILINE | re.DOTALL):
        done = subprocess.run(
            [installation.bin("psql"), "-X", "-d", server.conninfo()],
            input=sql,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        assert "ERROR:" not in done.stdout, done.stdout
        if output:
            # Without psql's words for statements that return nothing, but for those that the page shows.
            shown = [line for line in done.stdout.splitlines() if not re.fullmatch(r"(CREATE|ALTER|INSERT|DROP|DO|CALL)\b[A-Z0-9 ]*", line)]
            assert "\n".join(shown).strip("\n") == output.strip("\n")
    assert server.psql(after) == "t"


def test_findings():
    """The page names every finding that there is, and no other."""
    source = (PROJECT / "crates/migration/src/plan.rs").read_text()
    calls = re.findall(r"\b(?:refuse|warn|info)\(\s*\"(\w+)\"", source)
    assert calls
    written = re.findall(r"`(\w+)`", section(PAGE, "## Findings"))
    others = {"accept", "refuse", "warn", "info", "nextval", "bigint", "snowflake_convert_plan", "snowflake_id_migrate"}
    assert set(written) - others == set(calls)
