"""tools/check_scripts.py, a part of `make lint`: what it lets pass, and what it does not."""

import subprocess
import sys

import pytest
from throwaway import PROJECT

pytestmark = pytest.mark.once("scripts are read, no server is asked")


def check(path):
    command = [sys.executable, PROJECT / "tools/check_scripts.py", path]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, [line.strip() for line in done.stdout.splitlines()[1:]]


@pytest.mark.parametrize("name", ["snowflake_id", "snowflake_id_node", "snowflake_id_migrate"])
def test_the_scripts(installation, name):
    script = next(installation.extensions.glob(f"{name}--*.sql"))
    assert check(script) == (0, [])


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("CREATE VIEW v AS SELECT 1 + 1;", "PS001: Unqualified operator: '+' in 1 + 1 at line 1"),
        ("CREATE FUNCTION f(id bigint) RETURNS boolean LANGUAGE sql\nRETURN id > 1;", "PS001: Unqualified operator: '>' in id > 1 at line 1"),
        ("SELECT unnest('{}'::pg_catalog.text[]);", "PS016: Unqualified function call: unnest at line 1"),
        ("CREATE OR REPLACE FUNCTION f() RETURNS integer LANGUAGE c AS 'x', 'f';", "PS002: Unsafe function creation: f() at line 1"),
        ("CREATE PROCEDURE p()\nLANGUAGE plpgsql AS $$\nBEGIN\n    NULL;\nEND\n$$;", "PS005: Function without explicit search_path: p() at line 1"),
        ("CREATE PROCEDURE p()\nLANGUAGE plpgsql AS $$\nBEGIN\n    COMMIT;\n    PERFORM 1 + 1;\nEND\n$$;", "PS001: Unqualified operator: '+' in 1 + 1 at line 1"),
        ("GRANT SELECT ON other TO PUBLIC;", "PS017: Unqualified object reference: other at line 1"),
    ],
)
def test_a_finding(tmp_path, statement, finding):
    script = tmp_path / "script.sql"
    script.write_text(f"\\echo for psql \\quit\n{statement}\n")
    status, found = check(script)
    assert status == 1
    assert finding in found


def test_what_pgspot_cannot_read(tmp_path):
    """Is a finding: nothing passes unread."""
    script = tmp_path / "script.sql"
    script.write_text("CREATE FUNCTION f(");
    status, found = check(script)
    assert status == 1
    assert found[0].startswith("pgspot could not read it")
