"""snowflake_audit finds what is wrong with a table's ids, and only that; it stays small, and can be stopped."""

import itertools
import statistics
import threading
import time
from pathlib import Path

import psycopg
import pytest
from clients import eventually
from nodes import REPLICATION, next_id, refusal, subscription_errors
from psycopg.rows import namedtuple_row
from throwaway import PATIENCE, Server

AUDIT = "snowflake_audit(regclass, name, name, text, timestamptz, double precision, interval)"
# What is looked for wherever it is not said against what.
ALWAYS = ("rows", "duplicate", "ahead_of_clock", "before_epoch", "not_of_layout")


def audit(connection, arguments="'items', 'id'", parameters=None):
    """All rows of an audit."""
    cursor = connection.cursor(row_factory=namedtuple_row)
    return cursor.execute(f"SELECT * FROM snowflake_audit({arguments})", parameters).fetchall()


def found(rows):
    """The findings of an audit that are not 0: how many rows, and examples."""
    return {row.finding: (row.count, row.examples) for row in rows if row.finding != "worker" and row.count}


def workers(rows):
    """How many ids each worker has, by datacenter and worker id."""
    return {(row.datacenter_id, row.worker_id): row.count for row in rows if row.finding == "worker"}


def number_of_rows(rows):
    assert rows[0].finding == "rows"
    return rows[0].count


def kept(connection):
    """Which audits are kept: table, column, and how many rows were looked at."""
    query = "SELECT relation::text, column_name, count FROM snowflake_id_node.audits WHERE finding = 'rows' ORDER BY relation::text, 2"
    return connection.execute(query).fetchall()


def notices(connection):
    """A list that fills with what the server says on the side."""
    said = []
    connection.add_notice_handler(lambda diag: said.append(diag.message_primary))
    return said


def waits_for_a_lock(connection, backend):
    query = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
    eventually(lambda: connection.execute(query, [backend.info.backend_pid]).fetchone() == ("Lock",))


class Audit(threading.Thread):
    """An audit in a session of its own, which ends with the `with` block."""

    def __init__(self, connection, arguments="'items', 'id'"):
        super().__init__()
        self.rows = self.error = None
        self._work = connection, arguments

    def run(self):
        try:
            self.rows = audit(*self._work)
        except psycopg.Error as error:
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.join(PATIENCE)
        assert not self.is_alive(), "the audit does not end"


@pytest.fixture
def items(connection):
    """A connection to a database with an empty table."""
    # Where results are kept.
    connection.execute("CREATE EXTENSION snowflake_id_node")
    # Nobody else analyzes it, so that the number of its rows is known when the test says so.
    connection.execute("CREATE TABLE items (id bigint, created timestamptz) WITH (autovacuum_enabled = off)")
    return connection


# Ten million rows.

# Two bits that must be 0 between the time and the worker id.
LAYOUT = "timestamp:41,unused:2,worker:8,sequence:12"
UNUSED = 1 << 20
ROWS = 10_000_000


@pytest.fixture(scope="module")
def millions(installation):
    """A server with ten million rows in no order, and what was planted among them: a map of the findings."""
    settings = {"snowflake_id.worker_id": 1, "snowflake_id.layout": LAYOUT, "snowflake_id.max_ahead": "1h"}
    # Little of what is shared, so that what a process takes is its own.
    server = Server(installation, {**settings, "shared_buffers": "8MB", "max_wal_size": "4GB"})
    with server, psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION snowflake_id")
        connection.execute("CREATE UNLOGGED TABLE items (id bigint, created timestamptz) WITH (autovacuum_enabled = off)")
        connection.execute("SET work_mem = '1GB'")
        connection.execute(
            """
            INSERT INTO items
            SELECT id, snowflake_timestamp(id)
            FROM (SELECT snowflake_batch(1000000) AS id FROM generate_series(1, 10)) AS batches
            ORDER BY hashint8(id)
            """
        )
        yield server, plant(connection)
    server.remove()
    assert server.crashes() == []


def plant(connection):
    """Plant faults of all kinds; what an audit must find."""
    query = "SELECT id FROM items ORDER BY id LIMIT 200000"
    ids = [number for (number,) in connection.execute(query)]
    # Rows behind another one of the same tick, far from each other.
    late = [b for a, b in itertools.pairwise(ids) if b == a + 1][::5000][:24]
    assert len(late) == 24
    twice, thrice, tolerated, inverted = late[:12], late[12], late[13:18], late[18:]
    copy = "INSERT INTO items SELECT * FROM items WHERE id = ANY(%s)"
    connection.execute(copy, [[*twice, thrice]])
    connection.execute("INSERT INTO items SELECT DISTINCT * FROM items WHERE id = %s", [thrice])
    # By as much as is tolerated, and by a microsecond more.
    earlier = "UPDATE items SET created = created - %s::interval WHERE id = ANY(%s)"
    connection.execute(earlier, ["1 second", tolerated])
    connection.execute(earlier, ["1 second 1 microsecond", inverted])

    def add(numbers):
        with connection.cursor().copy("COPY items (id) FROM STDIN") as rows:
            for number in numbers:
                rows.write_row([number])
        return sorted(numbers)

    def encode(when, worker_id, numbers):
        query = f"SELECT snowflake_encode({when}, %s, n) FROM generate_series(1, %s) AS n"
        return add([number for (number,) in connection.execute(query, [worker_id, numbers])])

    # All that may have been made runs an hour ahead at most.
    ahead = encode("now() + interval '2 hours'", 1, 3)
    known = encode("'2025-02-02'", 7, 5)
    unknown = encode("'2025-02-03'", 8, 4)
    negative = add([-1, -(2**62), -(2**63)])
    misfits = add([ids[0] | UNUSED, ids[9] | UNUSED << 1])
    record = '{"format": 1, "state": "held"}'
    connection.execute("SELECT snowflake_id_node.registry_write(7, NULL, %s)", [record])
    return {
        "rows": (ROWS + 14 + 3 + 5 + 4 + 3 + 2, None),
        # Of the first ten.
        "duplicate": (14, twice[:10]),
        "ahead_of_clock": (3, ahead),
        "before_epoch": (3, negative),
        "not_of_layout": (2, misfits),
        "foreign_worker": (9, known + unknown),
        "unknown_worker": (4, unknown),
        "inversion": (len(inverted), inverted),
    }


def test_ten_million_rows(millions, connect):
    """Each planted fault is found, and nothing else; the cost is that of a count of distinct ids and a bit."""
    server, planted = millions
    connection = connect(server)
    rows = audit(connection, "'items', 'id', 'created', '0-6'")
    assert found(rows) == planted
    assert workers(rows) == {(None, 1): ROWS + 14 + 3, (None, 7): 5, (None, 8): 4}
    span = next(row.examples for row in rows if row.finding == "worker")
    first = "SELECT min(id) FROM items WHERE id > snowflake_encode('2026-01-01', 0, 0)"
    assert span == [connection.execute(first).fetchone()[0], planted["ahead_of_clock"][1][-1]]

    def seconds(query):
        begin = time.monotonic()
        connection.execute(query)
        return time.monotonic() - begin

    queries = "SELECT count(DISTINCT id) FROM items", "SELECT * FROM snowflake_audit('items', 'id')"
    rounds = [[seconds(query) for query in queries] for _ in range(3)]
    count, whole = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"{ROWS} rows: audit {whole:.1f} s, count(DISTINCT id) {count:.1f} s, ratio {whole / count:.2f}")


def peak(connection, work_mem):
    """By how many megabytes the process of a session grows at most while it audits; and what went to disk."""
    status = Path(f"/proc/{connection.info.backend_pid}/status")

    def megabytes():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def on_disk():
        connection.execute("SELECT pg_stat_force_next_flush()")
        query = "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()"
        return connection.execute(query).fetchone()[0] / 2**20

    # The compiler of expressions would come in, too.
    connection.execute("SET jit = off")
    connection.execute(f"SET work_mem = '{work_mem}'")
    # What every audit takes, however few rows there are.
    audit(connection, "'few', 'id'")
    before, disk = megabytes(), on_disk()
    assert number_of_rows(audit(connection)) > ROWS
    return megabytes() - before, on_disk() - disk


def test_memory(millions, connect):
    """It takes what work_mem allows, and the disk for the rest; the same measurement sees what more takes."""
    server, _ = millions
    connect(server).execute("CREATE TABLE IF NOT EXISTS few AS SELECT 1::bigint AS id")
    memory, disk = peak(connect(server), "4MB")
    assert memory < 32
    assert disk > 150
    more, none = peak(connect(server), "2GB")
    assert more > 400
    assert none == 0
    print(f"{ROWS} rows: {memory:.0f} MB and {disk:.0f} MB on disk; with work_mem for all of it {more:.0f} MB")


def test_cancelled_while_it_judges(millions, connect):
    """Behind the sort: what was found before is kept, and the session does the next one well."""
    server, planted = millions
    connection = connect(server)
    audit(connection, "'items', 'id', since => '2090-01-01'")

    def results():
        return connection.execute("SELECT * FROM snowflake_id_node.audits").fetchall()

    def cancel(diag):
        if diag.message_primary.endswith("judged"):
            connection.cancel()

    def cancelled():
        before = results()
        try:
            audit(connection)
        except psycopg.errors.QueryCanceled:
            return before

    connection.add_notice_handler(cancel)
    # Where the request is slower than nine million rows, it is made again.
    before = eventually(cancelled)
    connection.remove_notice_handler(cancel)
    assert results() == before
    rows = audit(connection)
    assert found(rows) == {finding: planted[finding] for finding in (*ALWAYS, "unknown_worker")}


# How it is stopped, and how far it is.


@pytest.fixture
def gate(items, server, connect):
    """A view that lets nobody pass its 500th row while the other session has the lock; that session."""
    items.execute("INSERT INTO items SELECT n, to_timestamp(n) FROM generate_series(1, 1000) AS n")
    items.execute(
        """
        CREATE FUNCTION pass(id bigint) RETURNS bigint LANGUAGE sql VOLATILE AS
        $$SELECT CASE WHEN id = 500 THEN (SELECT id FROM (SELECT pg_advisory_xact_lock_shared(1)) AS _) ELSE id END$$;
        CREATE VIEW gated AS SELECT pass(id) AS id FROM items OFFSET 0
        """
    )
    other = connect(server, items.info.dbname)
    other.execute("SELECT pg_advisory_lock(1)")
    return other


def as_if_nothing_had_been(connection, said):
    """The session has forgotten an audit that was stopped, and does the next one well."""
    assert connection.execute("SELECT current_user").fetchone() == ("postgres",)
    assert said == []
    assert found(audit(connection)) == {"rows": (1000, None)}


@pytest.mark.parametrize("how", ["pg_cancel_backend", "cancel request"])
def test_cancelled(items, gate, how):
    said = notices(items)
    with Audit(items, "'gated', 'id'") as stopped:
        waits_for_a_lock(gate, items)
        if how == "pg_cancel_backend":
            gate.execute("SELECT pg_cancel_backend(%s)", [items.info.backend_pid])
        else:
            items.cancel()
    assert stopped.error.sqlstate == "57014"
    as_if_nothing_had_been(items, said)
    assert kept(items) == [("items", "id", 1000)]
    gate.execute("SELECT pg_advisory_unlock(1)")
    assert number_of_rows(audit(items, "'gated', 'id'")) == 1000


def test_a_timeout(items, gate):
    said = notices(items)
    # For this call alone: others may take longer.
    with pytest.raises(psycopg.errors.QueryCanceled), items.transaction():
        items.execute("SET LOCAL statement_timeout = '50ms'")
        audit(items, "'gated', 'id'")
    as_if_nothing_had_been(items, said)


def test_an_error_inside(items):
    """Of the table's own, in a subtransaction; the session goes on."""
    items.execute("INSERT INTO items VALUES (1), (2)")
    items.execute("CREATE VIEW broken AS SELECT id, 1 / (2 - id) AS never, id * (1 / (2 - id)) AS worse FROM items")
    said = notices(items)
    with items.transaction():
        for _ in range(3):
            with pytest.raises(psycopg.errors.DivisionByZero), items.transaction():
                audit(items, "'broken', 'worse'")
        assert number_of_rows(audit(items)) == 2
    assert said == []


def progress(how, of):
    return [f"snowflake_audit: {done} {of} {word}" for word in ("read", "judged") for done in how]


def test_progress(items):
    """After each tenth of the rows that there are, but not more often than after each million; first read, then judged."""
    # Nobody else counts the rows.
    items.execute("ALTER TABLE items SET (autovacuum_enabled = off)")
    items.execute("INSERT INTO items SELECT n FROM generate_series(1, 2000000) AS n")
    said = notices(items)
    steps = {
        # Nobody knows.
        "SELECT": progress((1_000_000, 2_000_000), "rows of public.items"),
        "VACUUM ANALYZE items": progress((1_000_000, 2_000_000), "of about 2000000 rows of public.items"),
        "UPDATE pg_class SET reltuples = 15e6 WHERE relname = 'items'": progress([1_500_000], "of about 15000000 rows of public.items"),
        "UPDATE pg_class SET reltuples = 25e6 WHERE relname = 'items'": [],
    }
    for change, expected in steps.items():
        items.execute(change)
        said.clear()
        assert number_of_rows(audit(items)) == 2_000_000
        assert said == expected
    # Those of partitions count together.
    items.execute("CREATE TABLE parts (id bigint) PARTITION BY HASH (id)")
    for number in 0, 1:
        of = f"FOR VALUES WITH (MODULUS 2, REMAINDER {number}) WITH (autovacuum_enabled = off)"
        items.execute(f"CREATE TABLE part{number} PARTITION OF parts {of}")
        items.execute("UPDATE pg_class SET reltuples = 6e6 WHERE relname = %s", [f"part{number}"])
    items.execute("INSERT INTO parts SELECT n FROM generate_series(1, 1200000) AS n")
    said.clear()
    audit(items, "'parts', 'id'")
    assert said == progress([1_200_000], "of about 12000000 rows of public.parts")


# What can be audited.


def test_partitions(items):
    """A duplicate is found across partitions, where no unique index can see it."""
    items.execute(
        """
        CREATE TABLE parts (id bigint, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
        CREATE TABLE north PARTITION OF parts FOR VALUES IN ('north');
        CREATE TABLE south PARTITION OF parts FOR VALUES IN ('south') PARTITION BY LIST (region);
        CREATE TABLE south1 PARTITION OF south FOR VALUES IN ('south');
        INSERT INTO parts SELECT n, 'north' FROM generate_series(1, 100) AS n;
        INSERT INTO parts SELECT n, 'south' FROM generate_series(99, 200) AS n;
        """
    )
    assert found(audit(items, "'parts', 'id'")) == {"rows": (202, None), "duplicate": (2, [99, 100])}
    assert found(audit(items, "'north', 'id'")) == {"rows": (100, None)}
    assert found(audit(items, "'south', 'id'")) == {"rows": (102, None)}


def test_children(items):
    items.execute("CREATE TABLE child (note text) INHERITS (items); INSERT INTO items VALUES (1), (2); INSERT INTO child VALUES (2)")
    assert found(audit(items)) == {"rows": (3, None), "duplicate": (1, [2])}
    assert found(audit(items, "'child', 'id'")) == {"rows": (1, None)}


def test_a_foreign_table(items, server):
    items.execute("INSERT INTO items VALUES (3), (1), (3)")
    try:
        items.execute("CREATE EXTENSION postgres_fdw")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("postgres_fdw is missing")
    items.execute(
        f"""
        CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw
        OPTIONS (host '{server.directory}', port '{server.port}', dbname '{items.info.dbname}');
        CREATE USER MAPPING FOR CURRENT_USER SERVER itself OPTIONS (user 'postgres');
        CREATE FOREIGN TABLE far (id bigint, created timestamptz) SERVER itself OPTIONS (table_name 'items');
        """
    )
    assert found(audit(items, "'far', 'id'")) == {"rows": (3, None), "duplicate": (1, [3])}


def test_views(items):
    items.execute(
        """
        INSERT INTO items VALUES (1), (2);
        CREATE VIEW pairs AS SELECT a.id FROM items AS a, items AS b;
        CREATE MATERIALIZED VIEW made AS SELECT * FROM pairs;
        """
    )
    for name in "pairs", "made":
        assert found(audit(items, f"'{name}', 'id'")) == {"rows": (4, None), "duplicate": (2, [1, 2])}


def test_names(items):
    """Those that must be quoted, of a schema that is not in the search_path; and a temporary table's."""
    items.execute(
        """
        CREATE DOMAIN key AS bigint CHECK (value > 0);
        CREATE SCHEMA "Odd; schema";
        CREATE TABLE "Odd; schema"."Order ""of"" things" ("The Id" key, "id" text, "when" timestamp);
        INSERT INTO "Odd; schema"."Order ""of"" things" VALUES (1, 'x', now()), (1, 'x', now());
        CREATE TEMPORARY TABLE pg_class (id bigint);
        INSERT INTO pg_class VALUES (5), (5), (6);
        """
    )
    name = """'"Odd; schema"."Order ""of"" things"'"""
    assert found(audit(items, f"{name}, 'The Id', 'when'")) == {"rows": (2, None), "duplicate": (1, [1])}
    diag = refusal(items, f"SELECT * FROM snowflake_audit({name}, 'the id')")
    assert diag.sqlstate == "42703"
    assert diag.message_primary == 'column "the id" of relation "Odd; schema"."Order ""of"" things" does not exist'
    assert found(audit(items, "'pg_temp.pg_class', 'id'")) == {"rows": (3, None), "duplicate": (1, [5])}


def test_refused_arguments(items):
    items.execute(
        """
        CREATE TABLE others (id bigint, small integer, wide numeric, name text, gone bigint);
        INSERT INTO others (id) VALUES (1);
        ALTER TABLE others DROP COLUMN gone;
        """
    )
    refused = {
        "42703": ["'others', 'no'", "'others', 'ID'", "'others', 'gone'", "'others', '........pg.dropped.5........'", "'others', 'ctid'",
                  "'others', 'tableoid'", "'others', 'id', 'no'", "'others', 'id', 'xmin'"],
        "42804": ["'others', 'small'", "'others', 'wide'", "'others', 'name'", "'others', 'id', 'id'", "'others', 'id', 'name'"],
        "22004": ["NULL, 'id'", "'others', NULL", "NULL, NULL"],
        "22023": [*(f"'others', 'id', worker_ids => '{text}'" for text in ("", "a", "1,", "5-3", "1024", "-1", "1--2", "1-2-3", "0x1")),
                  *(f"'others', 'id', sample => '{share}'" for share in ("0", "-0.1", "1.1", "NaN", "Infinity"))],
        "42P01": ["'nothing', 'id'", "99::oid::regclass, 'id'"],
    }  # fmt: skip
    for sqlstate, calls in refused.items():
        for arguments in calls:
            assert refusal(items, f"SELECT * FROM snowflake_audit({arguments})").sqlstate == sqlstate, arguments
    assert kept(items) == []
    # Where nothing is asked for, the defaults hold.
    rows = audit(items, "'others', 'id', NULL, NULL, NULL, NULL, NULL")
    assert {row.finding: row.count for row in rows} == {"rows": 1, **dict.fromkeys(ALWAYS[1:], 0), "worker": 1}


# Arguments.


def test_worker_ids(items):
    """Single ones and ranges; those that a number in the registry says nothing about."""
    items.execute("INSERT INTO items SELECT snowflake_encode('2026-01-01', n, 0) FROM generate_series(0, 9) AS n")
    ids = [number for (number,) in items.execute("SELECT id FROM items ORDER BY id")]
    for text, foreign in {"0-9": [], "0-1023": [], " 1 , 3-4,9": [0, 2, 5, 6, 7, 8], "0": range(1, 10)}.items():
        rows = audit(items, "'items', 'id', worker_ids => %s", [text])
        assert [row.examples or [] for row in rows if row.finding == "foreign_worker"] == [[ids[number] for number in foreign]]
    # No registry: nobody knows who is unknown.
    assert "unknown_worker" not in {row.finding for row in rows}
    for number in 3, 9:
        items.execute("SELECT snowflake_id_node.registry_write(%s, NULL, '{}')", [number])
    assert found(audit(items))["unknown_worker"] == (8, [ids[number] for number in (0, 1, 2, 4, 5, 6, 7, 8)])


def test_since(items):
    """Ids of earlier ticks are not read: the index leads to the others."""
    items.execute(
        """
        ALTER TABLE items ADD PRIMARY KEY (id);
        INSERT INTO items SELECT snowflake_encode('2026-01-01'::timestamptz + n * interval '1 s', 1, 0) FROM generate_series(1, 100000) AS n;
        INSERT INTO items VALUES (-1);
        ANALYZE items;
        """
    )

    def reads():
        items.execute("SELECT pg_stat_force_next_flush()")
        query = """
            SELECT seq_scan, i.idx_scan, idx_tup_read
            FROM pg_stat_user_tables AS t JOIN pg_stat_user_indexes AS i USING (relid) WHERE t.relname = 'items'
        """
        return items.execute(query).fetchone()

    before = reads()
    rows = audit(items, "'items', 'id', since => '2026-01-01'::timestamptz + 90001 * interval '1 s'")
    after = reads()
    assert found(rows) == {"rows": (10_000, None)}
    assert [b - a for a, b in zip(before, after, strict=True)] == [0, 1, 10_000]
    # The tick in which the time lies has begun before it.
    rows = audit(items, "'items', 'id', since => '2026-01-01'::timestamptz + 90001 * interval '1 s' + interval '1 us'")
    assert number_of_rows(rows) == 9_999
    assert number_of_rows(audit(items, "'items', 'id', since => '-infinity'")) == 100_000
    assert number_of_rows(audit(items, "'items', 'id', since => 'infinity'")) == 0
    assert found(audit(items)) == {"rows": (100_001, None), "before_epoch": (1, [-1])}
    assert items.execute("SELECT DISTINCT since, sample FROM snowflake_id_node.audits").fetchall() == [(None, 1)]


def belongs(number, share):
    """Whether an id belongs to a sample, as the core has it: multiplied by 2^64 divided by the golden ratio."""
    return (number ^ number >> 29) * 0x9E3779B97F4A7C15 % 2**64 <= share * 2**64


@pytest.mark.parametrize("share", [0.5, 0.125, 0.001])
def test_a_sample(items, share):
    """Which ids it has depends on the ids alone: of a duplicate all rows, or none."""
    ids = range(158_592_365_903_245_354, 158_592_365_903_245_354 + 20_000 * 4096, 4096)
    items.execute("INSERT INTO items SELECT %s + n * 4096 FROM generate_series(0, 19999) AS n, generate_series(1, 3)", [ids[0]])
    taken = [number for number in ids if belongs(number, share)]
    assert len(taken) == pytest.approx(20_000 * share, rel=0.25)
    rows = audit(items, "'items', 'id', sample => %s", [share])
    assert found(rows) == {"rows": (3 * len(taken), None), "duplicate": (2 * len(taken), taken[:10])}
    assert items.execute("SELECT DISTINCT sample FROM snowflake_id_node.audits").fetchall() == [(share,)]


def test_inversions(items):
    """A row that was created before that of the id before it, by more than is tolerated; unknown times do not count."""
    seconds = [0, 10, None, 9, 30, 20, 25, None, 24.999999, 40, 40]
    items.cursor().executemany(
        "INSERT INTO items VALUES (%s, timestamptz '2026-01-01' + %s * interval '1 s')", list(enumerate(seconds, 1))
    )
    expected = {
        # Of an id the least, then the next.
        "'0'": [4, 6, 9],
        "'1 microsecond'": [4, 6],
        "'1 second'": [6],
        "'999999 microseconds'": [4, 6],
        "'10 seconds'": [],
        "'178000000 years'": [],
        "'-5 seconds'": [4, 6, 9],
        "'-178000000 years'": [4, 6, 9],
        "NULL": [4, 6, 9],
    }
    for tolerance, ids in expected.items():
        rows = audit(items, f"'items', 'id', 'created', tolerance => {tolerance}")
        (row,) = (row for row in rows if row.finding == "inversion")
        assert (row.count, row.examples) == (len(ids), ids or None), tolerance
    # One second, where it is not said.
    assert found(audit(items, "'items', 'id', 'created'")) == {"rows": (11, None), "inversion": (1, [6])}


def test_no_id_is_not_read(items):
    items.execute("INSERT INTO items VALUES (NULL), (1), (NULL)")
    assert number_of_rows(audit(items)) == 1
    items.execute("TRUNCATE items")
    assert [(row.finding, row.count, row.examples) for row in audit(items)] == [(finding, 0, None) for finding in ALWAYS]


def test_ahead_of_the_clock(start_server, connect):
    """What may have been made is not ahead: of this moment, and of what snowflake_id.max_ahead allows."""
    connection = connect(start_server(max_ahead="1min"))
    connection.execute("CREATE EXTENSION snowflake_id")
    connection.execute("CREATE TABLE items (id bigint)")
    for _ in range(20):
        connection.execute("INSERT INTO items SELECT * FROM snowflake_batch(10000)")
        assert set(found(audit(connection))) == {"rows"}
    future = "INSERT INTO items VALUES (snowflake_encode(clock_timestamp() + %s::interval, 1, 0)) RETURNING id"
    connection.execute(future, ["50 seconds"])
    late = connection.execute(future, ["1 hour"]).fetchone()[0]
    assert found(audit(connection)) == {"rows": (200_002, None), "ahead_of_clock": (1, [late])}


def test_the_clock_was_set_back(clock_server, made):
    """Whose ids were generated before it."""
    made.execute("CREATE TABLE items (id bigint)")
    made.execute("INSERT INTO items SELECT snowflake_nextval()")
    clock_server.clock.offset(-3600)
    assert found(audit(made))["ahead_of_clock"][0] == 1
    clock_server.clock.offset(0)
    assert found(audit(made)) == {"rows": (1, None)}


def test_a_datacenter(start_server, connect):
    """Both parts of a number are shown; `worker_ids` is about the worker's, the registry about both."""
    connection = connect(start_server(layout="twitter", worker_id=4, datacenter_id=3))
    connection.execute("CREATE EXTENSION snowflake_id")
    connection.execute("CREATE TABLE items (id bigint)")
    connection.execute("INSERT INTO items SELECT * FROM snowflake_batch(10)")
    other = "INSERT INTO items VALUES (snowflake_encode('2026-01-01', 4, 0, 2)) RETURNING id"
    number = connection.execute(other).fetchone()[0]
    rows = audit(connection, "'items', 'id', worker_ids => '4'")
    assert workers(rows) == {(2, 4): 1, (3, 4): 10}
    assert set(found(rows)) == {"rows"}
    # The node's own number is known by its record.
    connection.execute("SELECT snowflake_id_node.registry_write(31, NULL, '{}')")
    assert found(audit(connection))["unknown_worker"] == (1, [number])
    connection.execute("SELECT snowflake_id_node.registry_write(2 * 32 + 4, NULL, '{}')")
    assert set(found(audit(connection))) == {"rows"}


def test_more_numbers_than_it_counts(start_server, connect):
    """Random numbers look like ids of as many nodes; beyond 65,536 they are counted together."""
    connection = connect(start_server(layout="timestamp:32@1s,worker:31"))
    connection.execute("CREATE EXTENSION snowflake_id")
    connection.execute("CREATE TABLE items AS SELECT n::bigint AS id FROM generate_series(0, 65545) AS n")
    rows = [row for row in audit(connection) if row.finding == "worker"]
    assert [row.worker_id for row in rows] == [*range(65536), None]
    assert (rows[-1].count, rows[-1].examples) == (10, None)


# Who may, and who may not.


@pytest.fixture
def auditor(items):
    """The same session as a role that may audit, and may read the table."""
    name = f"auditor_{items.info.dbname}"
    items.execute(
        f"""
        INSERT INTO items VALUES (1), (2), (2);
        CREATE ROLE {name} IN ROLE pg_monitor;
        GRANT EXECUTE ON FUNCTION {AUDIT} TO {name};
        GRANT INSERT, DELETE ON snowflake_id_node.audits TO {name};
        GRANT SELECT ON items TO {name};
        SET ROLE {name};
        """
    )
    yield items
    items.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")


def as_owner(connection, statement):
    """Run a statement as who made the database, between two of another role."""
    role = connection.execute("SELECT current_user").fetchone()[0]
    connection.execute(f"RESET ROLE; {statement}; SET ROLE {role}")


def test_rights(auditor):
    """Those that the reference names suffice, and each is needed."""
    call = "SELECT * FROM snowflake_audit('items', 'id')"
    result = {"rows": (3, None), "duplicate": (1, [2])}
    assert found(audit(auditor)) == result
    assert kept(auditor) == [("items", "id", 3)]
    role = auditor.execute("SELECT current_user").fetchone()[0]
    as_owner(auditor, "DELETE FROM snowflake_id_node.audits")
    needed = {
        f"EXECUTE ON FUNCTION {AUDIT}": "function snowflake_audit",
        "SELECT ON items": "table items",
    }
    for right, of in needed.items():
        as_owner(auditor, f"REVOKE {right} FROM {role}")
        diag = refusal(auditor, call)
        assert (diag.sqlstate, diag.message_primary) == ("42501", f"permission denied for {of}"), right
        as_owner(auditor, f"GRANT {right} TO {role}")
    # Without those to keep the result, it is not kept.
    said = notices(auditor)
    for right in "INSERT", "DELETE", "INSERT, DELETE":
        as_owner(auditor, f"REVOKE {right} ON snowflake_id_node.audits FROM {role}")
        assert found(audit(auditor)) == result
        as_owner(auditor, f"GRANT {right} ON snowflake_id_node.audits TO {role}")
    assert said == ["the result of the audit is not kept"] * 3
    assert kept(auditor) == []


def test_who_may_not(items):
    name = f"nobody_{items.info.dbname}"
    items.execute(f"CREATE ROLE {name}; GRANT SELECT ON items TO {name}; SET ROLE {name}")
    for query, of in {
        "SELECT * FROM snowflake_audit('items', 'id')": "function snowflake_audit",
        "SELECT * FROM snowflake_id_node.audits": "table audits",
    }.items():
        diag = refusal(items, query)
        assert (diag.sqlstate, diag.message_primary) == ("42501", f"permission denied for {of}")
    items.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")


FEW = "ALTER TABLE items ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON items USING (id < 2)"
MISSED = "the audit may have missed rows of relation public.{}"


def warned(connection, arguments):
    """What an audit finds, and the warnings that come with it, with their details."""
    said = []

    def handler(diag):
        said.append((diag.severity, diag.message_primary, diag.message_detail))

    connection.add_notice_handler(handler)
    rows = audit(connection, arguments)
    connection.remove_notice_handler(handler)
    return found(rows), said


def partial(connection):
    """The audits that are kept: table, how many rows, and whether they were all."""
    query = "SELECT relation::text, count, partial FROM snowflake_id_node.audits WHERE finding = 'rows' ORDER BY 1, partial"
    return connection.execute(query).fetchall()


@pytest.mark.every_major("an audit is made of trees of queries, and of a sort of PostgreSQL's")
def test_rows_that_are_hidden(auditor):
    """Who audits sees what he may see, and hears that it may not be all; what is kept of all stays."""
    assert warned(auditor, "'items', 'id'") == ({"rows": (3, None), "duplicate": (1, [2])}, [])
    as_owner(auditor, FEW)
    role = auditor.execute("SELECT current_user").fetchone()[0]
    policies = f'It was read as role "{role}", and row-level security applies to that role.'
    assert warned(auditor, "'items', 'id'") == ({"rows": (1, None)}, [("WARNING", MISSED.format("items"), policies)])
    assert partial(auditor) == [("items", 3, False), ("items", 1, True)]
    # As he has asked for.
    auditor.execute("SET row_security = off")
    diag = refusal(auditor, "SELECT * FROM snowflake_audit('items', 'id')")
    assert (diag.sqlstate, diag.message_primary) == ("42501", 'query would be affected by row-level security policy for table "items"')
    auditor.execute("RESET row_security")
    # The owner, and who may become the owner, see all, also where the owner holds himself to policies.
    owner = f"{role}_owner"
    for force in "NO FORCE", "FORCE":
        as_owner(auditor, f"ALTER TABLE items {force} ROW LEVEL SECURITY; DELETE FROM snowflake_id_node.audits")
        auditor.execute("RESET ROLE")
        assert warned(auditor, "'items', 'id'") == ({"rows": (3, None), "duplicate": (1, [2])}, [])
        assert partial(auditor) == [("items", 3, False)]
        auditor.execute(f"SET ROLE {role}")
    as_owner(auditor, f"CREATE ROLE {owner}; ALTER TABLE items OWNER TO {owner}; GRANT {owner} TO {role}")
    assert found(audit(auditor)) == {"rows": (3, None), "duplicate": (1, [2])}
    if auditor.info.server_version >= 160000:
        as_owner(auditor, f"GRANT {owner} TO {role} WITH SET FALSE")
        assert found(audit(auditor)) == {"rows": (1, None)}
    as_owner(auditor, f"DROP OWNED BY {owner} CASCADE; DROP ROLE {owner}; CREATE TABLE items (id bigint)")


def test_a_view_as_who_audits(auditor):
    """What a view shows depends on who reads it."""
    as_owner(auditor, "CREATE VIEW seen AS SELECT id FROM items WHERE current_user = 'postgres'")
    role = auditor.execute("SELECT current_user").fetchone()[0]
    as_owner(auditor, f"GRANT SELECT ON seen TO {role}")
    detail = f'It is a view, and was read as role "{role}": its owner may see other rows in it.'
    assert warned(auditor, "'seen', 'id'") == ({}, [("WARNING", MISSED.format("seen"), detail)])
    assert partial(auditor) == [("seen", 0, True)]
    auditor.execute("RESET ROLE")
    assert warned(auditor, "'seen', 'id'") == ({"rows": (3, None), "duplicate": (1, [2])}, [])
    assert partial(auditor) == [("seen", 3, False)]


def test_policies_below_a_view(items, owner):
    """Of its owner, too, may rows be hidden."""
    items.execute(f"INSERT INTO items VALUES (1), (2), (2); GRANT SELECT ON items TO {owner}; {FEW}")
    items.execute(f"SET ROLE {owner}; CREATE VIEW own.seen AS SELECT id FROM items; RESET ROLE")
    said = f'It was read as role "{owner}", and row-level security applies to that role.'
    message = "the audit may have missed rows of relation own.seen"
    assert warned(items, "'own.seen', 'id'") == ({"rows": (1, None)}, [("WARNING", message, said)])
    assert partial(items) == [("own.seen", 1, True)]


def test_an_audit_shows_nothing_that_its_caller_may_not_read(auditor):
    """A view that reads with its reader's rights, over a table that is not for him, or not all of it."""
    role = auditor.execute("SELECT current_user").fetchone()[0]
    as_owner(auditor, f"CREATE TABLE secret AS SELECT id FROM items; CREATE VIEW open WITH (security_invoker) AS SELECT * FROM secret; GRANT SELECT ON open TO {role}")
    diag = refusal(auditor, "SELECT * FROM snowflake_audit('open', 'id')")
    assert (diag.sqlstate, diag.message_primary) == ("42501", "permission denied for table secret")
    as_owner(auditor, f"{FEW.replace('items', 'secret')}; GRANT SELECT ON secret TO {role}")
    rows, said = warned(auditor, "'open', 'id'")
    assert rows == {"rows": (1, None)}
    assert [message for _, message, _ in said] == [MISSED.format("open")]
    assert partial(auditor) == [("open", 1, True)]


def test_an_audit_runs_nothing_of_its_callers_as_another(auditor):
    """A table of his session, which a function of the owner's takes for another one."""
    role = auditor.execute("SELECT current_user").fetchone()[0]
    as_owner(
        auditor,
        f"""
        CREATE TABLE ran (by name); GRANT ALL ON ran TO {role};
        CREATE FUNCTION notes(id bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (id); RETURN id; END';
        CREATE VIEW noted AS SELECT notes(id) AS id FROM items; GRANT SELECT ON noted TO {role}
        """,
    )
    auditor.execute(
        """
        CREATE TEMPORARY TABLE log (id bigint);
        CREATE FUNCTION pg_temp.trap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.ran VALUES (current_user); RETURN NEW; END';
        CREATE TRIGGER trap BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION pg_temp.trap();
        """
    )
    assert found(audit(auditor, "'noted', 'id'")) == {"rows": (3, None), "duplicate": (1, [2])}
    assert auditor.execute("SELECT DISTINCT by FROM ran").fetchall() == [(role,)]
    auditor.execute("DROP TABLE log; DROP FUNCTION pg_temp.trap")


def test_a_hostile_search_path(items):
    """Operators, functions and tables of the same names that are found first change nothing."""
    items.execute(
        """
        INSERT INTO items VALUES (1, '2026-01-02'), (2, '2026-01-01'), (2, '2026-01-01'), (NULL, NULL), (-1, NULL);
        CREATE SCHEMA hostile;
        CREATE FUNCTION hostile.no(bigint, bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
        CREATE OPERATOR hostile.>= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.no);
        CREATE OPERATOR hostile.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.no);
        CREATE FUNCTION hostile.no(oid, oid) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
        CREATE OPERATOR hostile.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = hostile.no);
        CREATE FUNCTION hostile.quote_ident(name) RETURNS text LANGUAGE sql AS $$SELECT 'nothing'$$;
        CREATE FUNCTION hostile.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT 'on'$$;
        CREATE TABLE hostile.items (id bigint);
        CREATE TABLE hostile.audits (LIKE snowflake_id_node.audits);
        CREATE TABLE hostile.pg_extension (extname name, extnamespace oid);
        CREATE TEMPORARY TABLE pg_attribute (attrelid oid, attname name);
        CREATE TEMPORARY TABLE audits (LIKE snowflake_id_node.audits);
        """
    )
    query = "SELECT * FROM public.snowflake_audit('public.items', 'id', 'created')"
    expected = items.execute(query).fetchall()
    assert [row[:4] for row in expected] == [
        ("rows", None, None, 4),
        ("duplicate", None, None, 1),
        ("ahead_of_clock", None, None, 0),
        ("before_epoch", None, None, 1),
        ("not_of_layout", None, None, 0),
        ("inversion", None, None, 1),
        ("worker", None, 0, 3),
    ]
    for path in "hostile, pg_temp, pg_catalog, public", "pg_temp, hostile, pg_catalog", "''":
        items.execute("DELETE FROM snowflake_id_node.audits")
        items.execute(f"SET search_path = {path}")
        assert items.execute(query).fetchall() == expected
        items.execute("RESET search_path")
        assert items.execute("SELECT count(*) FROM snowflake_id_node.audits").fetchone() == (len(expected),)


# What is kept of it.


def test_the_last_result_is_kept(items):
    """Of each column of each table, with how it was found."""
    items.execute("ALTER TABLE items ADD other bigint; CREATE TABLE others (id bigint); INSERT INTO items VALUES (1), (1)")
    before = items.execute("SELECT clock_timestamp()").fetchone()[0]
    first = audit(items)
    after = items.execute("SELECT clock_timestamp()").fetchone()[0]
    for arguments in "'items', 'other'", "'others', 'id'":
        audit(items, arguments)
    assert kept(items) == [("items", "id", 2), ("items", "other", 0), ("others", "id", 0)]
    columns = "finding, datacenter_id, worker_id, count, examples"
    one = "FROM snowflake_id_node.audits WHERE relation = 'items'::regclass AND column_name = 'id'"
    assert sorted(items.execute(f"SELECT {columns} {one}").fetchall(), key=str) == sorted(map(tuple, first), key=str)
    since, sample, audited_at, duration = items.execute(f"SELECT DISTINCT since, sample, audited_at, duration {one}").fetchone()
    assert (since, sample) == (None, 1)
    assert before <= audited_at <= audited_at + duration <= after
    items.execute("INSERT INTO items VALUES (3)")
    # A look at a part stands beside that at all, until the next one at a part or at all.
    for sample in 0.5, 0.25:
        audit(items, f"'items', 'id', since => '2026-01-01', sample => {sample}")
        assert sorted(kept(items)) == [("items", "id", 0), ("items", "id", 2), ("items", "other", 0), ("others", "id", 0)]
        parts = items.execute(f"SELECT DISTINCT extract(year FROM since), sample, partial {one} ORDER BY partial").fetchall()
        assert parts == [(None, 1, False), (2026, sample, True)]
    audit(items)
    assert kept(items) == [("items", "id", 3), ("items", "other", 0), ("others", "id", 0)]
    # One that fails changes nothing, nor does one that is rolled back.
    refusal(items, "SELECT * FROM snowflake_audit('items', 'id', sample => 2)")
    with items.transaction(force_rollback=True):
        items.execute("INSERT INTO items VALUES (4)")
        assert number_of_rows(audit(items)) == 4
    assert kept(items)[0] == ("items", "id", 3)
    items.execute("ALTER TABLE items RENAME TO renamed")
    assert {name for name, *_ in kept(items)} == {"renamed", "others"}


def test_two_at_once(items, server, connect):
    """Of one column: they take turns, and the later result stays."""
    items.execute("INSERT INTO items VALUES (1)")
    one, other = connect(server, items.info.dbname), connect(server, items.info.dbname)
    one.execute("BEGIN")
    audit(one)
    items.execute("INSERT INTO items VALUES (2)")
    with Audit(other) as second:
        waits_for_a_lock(items, other)
        one.execute("COMMIT")
    assert number_of_rows(second.rows) == 2
    assert kept(items) == [("items", "id", 2)]


def test_read_only(items):
    """The result is returned, and it is said that it is not kept."""
    items.execute("INSERT INTO items VALUES (1), (1)")
    said = notices(items)
    items.execute("BEGIN READ ONLY")
    assert found(audit(items)) == {"rows": (2, None), "duplicate": (1, [1])}
    items.execute("COMMIT")
    assert said == ["snowflake_audit: the result is not kept: the transaction is read-only"]
    assert kept(items) == []


def test_without_preloading(start_server, connect):
    connection = connect(start_server(postgres={"shared_preload_libraries": None}))
    connection.execute("CREATE EXTENSION snowflake_id; CREATE EXTENSION snowflake_id_node; CREATE TABLE items (id bigint); INSERT INTO items VALUES (1), (1)")
    assert found(audit(connection)) == {"rows": (2, None), "duplicate": (1, [1])}
    assert kept(connection) == [("items", "id", 2)]


def test_another_schema(items):
    items.execute('INSERT INTO items VALUES (1), (1); CREATE SCHEMA "Ids!"; ALTER EXTENSION snowflake_id SET SCHEMA "Ids!"')
    rows = items.execute("""SELECT finding, count FROM "Ids!".snowflake_audit('items', 'id')""").fetchall()
    assert rows[:2] == [("rows", 2), ("duplicate", 1)]
    assert items.execute("""SELECT count FROM snowflake_id_node.audits WHERE finding = 'rows'""").fetchall() == [(2,)]


def test_a_dump_leaves_it_out(items, server, installation):
    """It says what was found in this database."""
    audit(items)
    dump = installation.run(installation.bin("pg_dump"), "-d", server.conninfo(items.info.dbname))
    assert "snowflake_id_node.audits" not in dump


def test_a_standby(start_server, copies, connect):
    server = start_server(postgres=REPLICATION)
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    next_id(connection)
    connection.execute("CREATE TABLE items (id bigint); INSERT INTO items VALUES (1), (1)")
    standby = connect(copies.standby(server))
    said = notices(standby)
    assert found(audit(standby)) == {"rows": (2, None), "duplicate": (1, [1])}
    assert said == ["snowflake_audit: the result is not kept: the transaction is read-only"]
    assert kept(standby) == []


def test_all_tables_are_replicated(start_server, copies, connect):
    """It stands in nobody's way, and what was found elsewhere is not said to have been found here."""
    one = start_server(postgres={"wal_level": "logical", "max_wal_senders": 8})
    two = copies.adopt(one, data="initdb", worker_id=2).start()
    here, there = connect(one), connect(two)
    for connection in here, there:
        connection.execute("CREATE EXTENSION snowflake_id; CREATE TABLE items (id bigint PRIMARY KEY)")
        next_id(connection)
    here.execute("INSERT INTO items VALUES (1); CREATE PUBLICATION everything FOR ALL TABLES")
    audit(here)
    there.execute(f"CREATE SUBSCRIPTION other CONNECTION '{one.conninfo()}' PUBLICATION everything")
    copied = "SELECT count(*) > 1 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel"
    eventually(lambda: there.execute(copied).fetchone() == (True,))
    assert kept(there) == []
    for connection in there, here, here:
        audit(connection)
    here.execute("INSERT INTO items VALUES (2)")
    audit(here)
    here.execute("INSERT INTO items VALUES (3)")
    eventually(lambda: there.execute("SELECT count(*) FROM items").fetchone() == (3,))
    assert kept(here) == [("items", "id", 2)]
    assert kept(there) == [("items", "id", 1)]
    assert subscription_errors(there) == [0]


def test_an_older_snapshot(items, server, connect):
    """One result stays, also of a transaction that does not see the one before it; or it is an error to try again."""
    items.execute("INSERT INTO items VALUES (1)")
    other = connect(server, items.info.dbname)
    for _ in range(2):
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM items")
        audit(items)
        try:
            audit(other)
            other.execute("COMMIT")
        except psycopg.errors.SerializationFailure:
            other.execute("ROLLBACK")
        assert kept(items) == [("items", "id", 1)]


def test_a_domain_over_a_domain(items):
    items.execute("CREATE DOMAIN inner_key AS bigint; CREATE DOMAIN outer_key AS inner_key; CREATE TABLE keys (id outer_key)")
    assert number_of_rows(audit(items, "'keys', 'id'")) == 0


def test_another_encoding(start_server, connect):
    """Names that this encoding writes otherwise than UTF-8."""
    server = start_server()
    server.psql("CREATE EXTENSION snowflake_id")
    server.psql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    connection = connect(server, "latin")
    connection.execute('CREATE EXTENSION snowflake_id; CREATE EXTENSION snowflake_id_node; CREATE TABLE "kn\u00f6pfe" ("schl\u00fcssel" bigint, wann timestamptz)')
    connection.execute('INSERT INTO "kn\u00f6pfe" VALUES (1), (1)')
    result = {"rows": (2, None), "duplicate": (1, [1])}
    assert found(audit(connection, """'"kn\u00f6pfe"', 'schl\u00fcssel', 'wann'""")) == result
    assert connection.execute("SELECT DISTINCT relation::text, column_name FROM snowflake_id_node.audits").fetchall() == [
        ('"kn\u00f6pfe"', "schl\u00fcssel")
    ]
    for arguments in "'schl\u00fc\u00dfel'", "'wann'":
        assert refusal(connection, f"""SELECT * FROM snowflake_audit('"kn\u00f6pfe"', {arguments})""").sqlstate in ("42703", "42804")


def test_an_audit_of_an_audit(items):
    """A view that audits, say: neither disturbs the other, or it is an error that says so."""
    items.execute("INSERT INTO items VALUES (1), (1); CREATE VIEW audits AS SELECT count AS id FROM snowflake_audit('items', 'id') WHERE count > 0")
    rows = audit(items, "'audits', 'id'")
    assert found(rows) == {"rows": (3, None), "duplicate": (1, [2])}


# What would run as whoever audits. A function that tells as whom it runs, in a view of a role without rights.
OWNED = """
    CREATE ROLE {role}; CREATE SCHEMA own AUTHORIZATION {role}; SET ROLE {role};
    CREATE TABLE own.ran (by name);
    CREATE FUNCTION own.tells(id bigint) RETURNS bigint LANGUAGE plpgsql AS
        'BEGIN INSERT INTO own.ran VALUES (current_user); RETURN id; END';
    CREATE TABLE own.items (id bigint);
    INSERT INTO own.items VALUES (1), (1);
    RESET ROLE
"""
VIEW = "CREATE VIEW own.{name} AS SELECT own.tells(id) AS id FROM own.{table}"


@pytest.fixture
def owner(items):
    """A role that owns the schema own, with a table in it."""
    role = f"owner_{items.info.dbname}"
    items.execute(OWNED.format(role=role))
    yield role
    items.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_view_runs_as_its_owner(items, owner):
    items.execute(f"SET ROLE {owner}; {VIEW.format(name='shown', table='items')}; RESET ROLE")
    assert found(audit(items, "'own.shown', 'id'")) == {"rows": (2, None), "duplicate": (1, [1])}
    assert items.execute("SELECT DISTINCT by FROM own.ran").fetchall() == [(owner,)]
    # Whoever audits is again who it was, also after an error.
    items.execute(f"SET ROLE {owner}; CREATE VIEW own.broken AS SELECT 1 / (id - 1) AS id FROM own.items; RESET ROLE")
    assert refusal(items, "SELECT * FROM snowflake_audit('own.broken', 'id')").sqlstate == "22012"
    assert items.execute("SELECT current_user").fetchone() == ("postgres",)


def test_a_view_in_the_place_of_the_table(items, server, connect, owner):
    """Put there while the audit waits for the table: it is the table that is audited, or nothing."""
    other = connect(server, items.info.dbname)
    other.execute(f"SET ROLE {owner}; BEGIN; ALTER TABLE own.items RENAME TO old; {VIEW.format(name='items', table='old')}")
    with Audit(items, "'own.items', 'id'") as run:
        waits_for_a_lock(connect(server, items.info.dbname), items)
        other.execute("COMMIT")
    assert found(run.rows) == {"rows": (2, None), "duplicate": (1, [1])}
    assert items.execute("SELECT count(*) FROM own.ran").fetchone() == (0,)
    assert [name for name, *_ in kept(items)] == ["own.old"]


def test_schemas_that_change_places(items, server, connect, owner):
    """By renaming, again and again while a superuser audits his table in one of them: what is in the other one runs as
    its owner, or not at all."""
    items.execute(
        f"""
        CREATE SCHEMA shop AUTHORIZATION {owner}; CREATE TABLE shop.items AS SELECT 1::bigint AS id FROM generate_series(1, 2);
        CREATE SCHEMA trap AUTHORIZATION {owner}; SET ROLE {owner};
        CREATE VIEW trap.items AS SELECT own.tells(id) AS id FROM own.items UNION ALL SELECT 7; RESET ROLE;
        GRANT CREATE ON DATABASE {items.info.dbname} TO {owner}
        """
    )
    table = items.execute("SELECT 'shop.items'::regclass::oid").fetchone()[0]
    other, stop = connect(server, items.info.dbname), threading.Event()
    other.execute(f"SET ROLE {owner}")

    def swap():
        while not stop.is_set():
            other.execute("ALTER SCHEMA shop RENAME TO away; ALTER SCHEMA trap RENAME TO shop; ALTER SCHEMA away RENAME TO trap")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(500):
            assert found(audit(items, "%s::oid::regclass, 'id'", [table])) == {"rows": (2, None), "duplicate": (1, [1])}
        assert items.execute("SELECT * FROM own.ran").fetchall() == []
        # By its name it may be the one or the other.
        for _ in range(20):
            assert found(audit(items, "'shop.items', 'id'"))["rows"][0] in (2, 3)
    finally:
        stop.set()
        swapping.join(PATIENCE)
    assert items.execute("SELECT DISTINCT by FROM own.ran").fetchall() in ([(owner,)], [])
    items.execute(f"DROP SCHEMA shop, trap CASCADE; REVOKE CREATE ON DATABASE {items.info.dbname} FROM {owner}")


def test_settings_end_with_the_audit(items, owner):
    """Those that a function of the owner's sets, for a session that goes on as somebody else."""
    items.execute(
        f"""
        SET ROLE {owner};
        CREATE FUNCTION own.sets(id bigint) RETURNS bigint LANGUAGE sql AS
            $$SELECT id FROM (SELECT set_config('search_path', 'own', false), set_config('row_security', 'off', false)) AS s$$;
        CREATE VIEW own.setting AS SELECT own.sets(id) AS id FROM own.items;
        RESET ROLE
        """
    )
    settings = "SELECT current_setting('search_path'), current_setting('row_security')"
    before = items.execute(settings).fetchall()
    assert found(audit(items, "'own.setting', 'id'")) == {"rows": (2, None), "duplicate": (1, [1])}
    assert items.execute(settings).fetchall() == before


TRAPS = {
    "a function": "CREATE VIEW own.shown AS SELECT own.tells(id) AS id FROM own.items",
    "a function below another view": "CREATE VIEW own.below AS SELECT own.tells(id) AS id FROM own.items; CREATE VIEW own.shown AS SELECT * FROM own.below",
    "a function as a table": "CREATE VIEW own.shown AS SELECT t AS id FROM own.tells(1) AS t",
    "a constant": "CREATE FUNCTION own.one(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN own.tells($1); END'; CREATE VIEW own.shown AS SELECT id * own.one(1) AS id FROM own.items",
    "a subquery": "CREATE VIEW own.shown AS SELECT id FROM own.items WHERE id IN (SELECT own.tells(1))",
    "an operator": "CREATE OPERATOR own.# (RIGHTARG = bigint, FUNCTION = own.tells); CREATE VIEW own.shown AS SELECT OPERATOR(own.#) id AS id FROM own.items",
    "an aggregate": "CREATE FUNCTION own.adds(bigint, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT own.tells($1)'; CREATE AGGREGATE own.total(bigint) (SFUNC = own.adds, STYPE = bigint, INITCOND = 1); CREATE VIEW own.shown AS SELECT own.total(id) AS id FROM own.items",
    "a domain": "CREATE DOMAIN own.key AS bigint CHECK (own.tells(value) > 0); CREATE VIEW own.shown AS SELECT id::own.key AS id FROM own.items",
    "a domain in a text": "CREATE DOMAIN own.key AS bigint CHECK (own.tells(value) > 0); CREATE VIEW own.shown AS SELECT id::text::own.key::bigint AS id FROM own.items",
    "a policy": "CREATE TABLE own.shown AS SELECT id FROM own.items; ALTER TABLE own.shown ENABLE ROW LEVEL SECURITY; CREATE POLICY trap ON own.shown USING (own.tells(id) > 0)",
}  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS)
def test_an_audit_runs_nothing_of_others(items, owner, trap):
    """What the owner has made runs as the owner, or not at all; planning is running, too."""
    role = f"{owner}_reader"
    items.execute(f"SET ROLE {owner}; GRANT USAGE ON SCHEMA own TO PUBLIC; GRANT ALL ON own.ran TO PUBLIC; {TRAPS[trap]}")
    items.execute(
        f"""
        GRANT SELECT ON ALL TABLES IN SCHEMA own TO PUBLIC; RESET ROLE; CREATE ROLE {role} IN ROLE pg_monitor;
        GRANT EXECUTE ON FUNCTION {AUDIT} TO {role}; GRANT INSERT, DELETE ON snowflake_id_node.audits TO {role}; SET ROLE {role}
        """
    )
    assert items.execute("SELECT FROM own.shown").rowcount > 0
    diag = refusal(items, "SELECT * FROM snowflake_audit('own.shown', 'id')")
    assert (diag.sqlstate, diag.message_primary) == ("42501", f'cannot audit relation own.shown as role "{role}"')
    assert diag.message_detail.endswith(f'of role "{owner}", with the rights of role "{role}".')
    items.execute("RESET ROLE; DELETE FROM own.ran")
    assert number_of_rows(audit(items, "'own.shown', 'id'")) > 0
    assert items.execute("SELECT DISTINCT by FROM own.ran").fetchall() in ([(owner,)], [])
    items.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
