"""Every file in examples/ runs as it says it does."""

import subprocess

import pytest
from throwaway import PROJECT, clean_environment

EXAMPLES = sorted(PROJECT.glob("examples/*.sql"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(installation, server, database, path):
    subprocess.run(
        [installation.bin("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-d", server.conninfo(database), "-f", path],
        env=clean_environment(),
        check=True,
    )


def test_backfilled_keys_keep_their_order(installation, server, database, connection):
    """What backfill.sql promises of its keys."""
    server.psql((PROJECT / "examples/backfill.sql").read_text(), database)
    row = connection.execute(
        """
        SELECT count(*), count(DISTINCT key), bool_and(snowflake_timestamp(key) = created_at),
               array_agg(DISTINCT key ORDER BY key) = array_agg(key ORDER BY id)
        FROM legacy
        """
    ).fetchone()
    assert row == (9999, 9999, True, True)
