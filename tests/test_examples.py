"""Every file in examples/ runs as it says it does, also a second time, in whatever time zone and layout."""

import itertools
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from throwaway import PROJECT, Server, clean_environment

BACKFILL = PROJECT / "examples/backfill.sql"
PARTITIONS = PROJECT / "examples/partitions_by_time.sql"
LAYOUTS = {
    "default": "default",
    "10 ms": "timestamp:39@10ms,sequence:8,worker:16",
    "datacenter": "twitter",
    "8 workers bits": "timestamp:42,worker:8,sequence:13",
    "no room in a tick": "timestamp:41,unused:2,worker:10,sequence:1",
    "no sequence": "timestamp:53@1us,worker:10",
    "seconds": "timestamp:32@1s,worker:8,sequence:22",
}


def run(server, database, path, *options, timezone="UTC"):
    """Run a file as its head says; what psql says."""
    return subprocess.run(
        [server.installation.bin("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", *options, "-d", server.conninfo(database), "-f", path],
        env={**clean_environment(), "PGTZ": timezone},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("path", sorted(PROJECT.glob("examples/*.sql")), ids=lambda path: path.name)
def test_example(server, database, path):
    for timezone in "America/New_York", "Asia/Kathmandu":
        done = run(server, database, path, timezone=timezone)
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stderr.splitlines() if "NOTICE:" not in line] == []


def bounds(connection):
    """From when to when each partition is, by its name."""
    return {
        name: tuple(connection.execute("SELECT snowflake_timestamp(%s), snowflake_timestamp(%s)", [first, last]).fetchone())
        for name, first, last in connection.execute(
            r"""
            SELECT relname, (m.bound)[1]::bigint, (m.bound)[2]::bigint
            FROM pg_inherits JOIN pg_class ON oid = inhrelid,
                 regexp_match(pg_get_expr(relpartbound, oid), $$FROM \('(\d+)'\) TO \('(\d+)'\)$$) AS m (bound)
            WHERE inhparent = 'measurements'::regclass
            """
        ).fetchall()
    }


def months(first, number):
    """What partitions of these months are called and hold: from the first of the month on, in UTC."""
    begins = [datetime(first.year + (first.month - 1 + i) // 12, (first.month - 1 + i) % 12 + 1, 1, tzinfo=UTC) for i in range(number + 1)]
    return {f"measurements_{a:%Y_%m}": (a, b) for a, b in itertools.pairwise(begins)}


def test_partitions_are_months_of_utc(server, database, connection):
    """They meet, whoever makes them; the statement for every day makes the next one, and drops the oldest."""
    while True:
        connection.execute("DROP TABLE IF EXISTS measurements")
        now = datetime.now(UTC)
        for timezone in "America/New_York", "Asia/Kathmandu", "UTC":
            assert run(server, database, PARTITIONS, timezone=timezone).returncode == 0
        # Not while one month ends and the next one begins.
        if datetime.now(UTC).month == now.month:
            break
    assert bounds(connection) == months(now, 3)
    assert connection.execute("SELECT count(*) FROM measurements").fetchone() == (3000,)
    # The last minute of a month in New York is in the next one of UTC: where daylight saving begins and ends, too.
    for month in range(1, 14):
        last = datetime(now.year + 1 + month // 12, month % 12 + 1, 1, tzinfo=UTC) - timedelta(minutes=1)
        for timezone, at in (("America/New_York", last), ("Asia/Kathmandu", last + timedelta(minutes=1))):
            connection.execute(f"SET timezone = '{timezone}'")
            connection.execute("CALL roll_partitions('measurements', ahead => 1, keep => 1, at => %s)", [at])
            before = datetime(at.year - (at.month == 1), (at.month - 2) % 12 + 1, 1, tzinfo=UTC)
            found = {name: span for name, span in bounds(connection).items() if span[0] >= before}
            assert found == months(before, 3)
    # All that was before is gone.
    assert len(bounds(connection)) == 3
    connection.execute('CREATE SCHEMA "My shop"; CREATE TABLE "My shop".items (id bigint PRIMARY KEY) PARTITION BY RANGE (id)')
    connection.execute("CALL roll_partitions('\"My shop\".items', ahead => 1)")
    in_schema = "SELECT count(*) FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE relnamespace = '\"My shop\"'::regnamespace AND relkind = 'r'"
    assert connection.execute(in_schema).fetchone() == (2,)


@pytest.fixture(scope="module")
def of_layout(installation):
    """A function that gives a server with a layout, which the tests of this file share."""
    servers = {}

    def start(layout):
        if layout not in servers:
            settings = {"snowflake_id.layout": layout, "snowflake_id.epoch": "2025-01-01 00:00:00+00", "snowflake_id.worker_id": 1}
            if layout == "twitter":
                settings["snowflake_id.datacenter_id"] = 1
            servers[layout] = Server(installation, settings).start()
        return servers[layout]

    yield start
    for server in servers.values():
        server.remove()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp"])
def test_backfill(of_layout, connect, layout, kind):
    """With every layout: keys are distinct and in order, of the rows' times, of a worker id that no node has."""
    server = of_layout(layout)
    server.psql("DROP TABLE IF EXISTS legacy; CREATE EXTENSION IF NOT EXISTS snowflake_id")
    # As the example makes it; and 5000 rows of one transaction, and of the microseconds behind it.
    server.psql(f"CREATE TABLE legacy (id integer PRIMARY KEY, created_at {kind} NOT NULL, name text)")
    server.psql("INSERT INTO legacy SELECT 20000 + n, '2025-07-01 00:00:00'::timestamp FROM generate_series(1, 5000) AS n")
    server.psql("INSERT INTO legacy SELECT 30000 + n, '2025-07-01 00:00:00'::timestamp + n * interval '7 us' FROM generate_series(1, 500) AS n")
    moment = "created_at" if kind == "timestamptz" else "created_at AT TIME ZONE 'UTC'"
    if kind == "timestamp":
        done = run(server, "postgres", BACKFILL, timezone="America/New_York")
        assert done.returncode == 3
        assert "ERROR:  which time zone is created_at of? See the head of this file." in done.stderr
    for _ in range(2):
        done = run(server, "postgres", BACKFILL, "-v", f"moment={moment}", timezone="UTC" if kind == "timestamptz" else "Asia/Kathmandu")
        assert done.returncode == 0, done.stderr
        row = connect(server).execute(
            f"""
            SELECT count(*), count(DISTINCT key), array_agg(key ORDER BY key) = array_agg(key ORDER BY {moment}, id),
                   bool_and(snowflake_timestamp(key) >= {moment} - tick AND snowflake_timestamp(key) <= {moment} + 5500 * tick),
                   count(*) FILTER (WHERE id <= 9999 AND snowflake_timestamp(key) + tick <= {moment}),
                   bool_and(to_jsonb(d) - 'ts' - 'sequence' = to_jsonb(top) - 'ts' - 'sequence')
            FROM legacy, snowflake_layout(), snowflake_decode(key) AS d, snowflake_decode(snowflake_max(epoch)) AS top
            """
        ).fetchone()
        assert row == (15_499, 15_499, True, True, 0, True)


def test_backfilled_keys_keep_their_order(server, database, connection):
    """What backfill.sql promises of its keys, of the rows that it makes itself."""
    assert run(server, database, BACKFILL).returncode == 0
    row = connection.execute(
        """
        SELECT count(*), count(DISTINCT key), bool_and(snowflake_timestamp(key) = created_at),
               array_agg(DISTINCT key ORDER BY key) = array_agg(key ORDER BY id)
        FROM legacy
        """
    ).fetchone()
    assert row == (9999, 9999, True, True)
