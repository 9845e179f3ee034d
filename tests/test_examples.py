"""Every file in examples/ runs as it says it does."""

import pytest
from throwaway import PROJECT

EXAMPLES = sorted(PROJECT.glob("examples/*.sql"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(server, database, path):
    server.psql(path.read_text(), database)


def test_backfilled_keys_keep_their_order(server, database, connection):
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
