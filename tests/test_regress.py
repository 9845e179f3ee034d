"""`make installcheck`: the SQL tests in regress/ and isolation/, by PostgreSQL's own tools."""

import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.mark.every_major("functions, plans and error texts are PostgreSQL's as well")
@pytest.mark.parametrize("target", ["installcheck", *(f"installcheck-encoding encoding={name}" for name in ("LATIN1", "EUC_JP", "SQL_ASCII"))])
def test_installcheck(installation, server, target):
    environment = server.environment()
    # We may run below a make with flags of its own.
    for name in "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES":
        environment.pop(name, None)
    done = subprocess.run(
        ["make", "--no-print-directory", *target.split(), f"PG_CONFIG={installation.pg_config}"],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        differences = [
            path.read_text(errors="replace")
            for path in sorted(PROJECT.glob("target/*/regression.diffs"))
            if path.parent.name.startswith(("regress", "isolation"))
        ]
        pytest.fail("\n".join([done.stdout, *differences]), pytrace=False)
