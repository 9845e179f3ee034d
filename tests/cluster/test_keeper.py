"""The keeper in trouble: each cause stops ids with an error that names it, and ids come back when it is mended.

Ids are made by an ordinary role, in a database that is not the keeper's. It reads the
status as well, which must say the same as the error. Its calls have a statement_timeout
that is far above what the keeper's trouble may cost: one that waits for ever would show
as 57014.
"""

import concurrent.futures
import contextlib
import datetime
import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy
import psycopg
import pytest
from clients import eventually, suspend
from psycopg.rows import namedtuple_row
from throwaway import PATIENCE, Server, ServerError, compile_library

DEADLINE = PATIENCE
NEXT = "SELECT snowflake_nextval()"
# Every way to make ids.
MAKING = [NEXT, "SELECT snowflake_batch(3)", "SELECT snowflake_batch_array(3)"]
MARKS = "snowflake_id_node.high_water_marks"
NO_EXTENSION = 'extension snowflake_id_node cannot be created in database "postgres"'
SCHEMA_TAKEN = 'schema snowflake_id_node in database "postgres" is not the extension\'s'
CREATED = 'LOG:  snowflake_id: created extension snowflake_id_node in database "{}"'
NO_DATABASE = 'the keeper of snowflake ids cannot connect to database "{}"'
CANNOT_RESERVE = "the keeper cannot reserve snowflake ids"
LAYOUT_CHANGED = "the layout of this node's snowflake ids has changed"
MENDED = "Ids flow again by themselves when the cause is mended."
NOT_YET = "snowflake ids are not available yet"
# What a session meets whose server ends.
DISCONNECTED = {None, "57P01", "57P02"}
# A statement that calls over and over.
TRY_ON = """
    DO $$ BEGIN
        LOOP
            BEGIN
                PERFORM snowflake_nextval();
            EXCEPTION WHEN lock_not_available THEN
            END;
        END LOOP;
    END $$
"""
KEEPER_WAITS = "SELECT wait_event_type FROM pg_stat_activity WHERE backend_type = 'snowflake_id keeper'"


class Node:
    """A server as an administrator and as an application see it."""

    def __init__(self, server, connect, keepers="postgres"):
        self.server, self._connect, self.keepers = server, connect, keepers
        self.last = 0
        self.sql("CREATE ROLE app LOGIN", "CREATE DATABASE app")
        self.connect()

    def connect(self):
        """Connect anew: the administrator, and the application in its own and in the keeper's database."""
        self.admin = self.superuser()
        self.app = self.ordinary("app")

    def ordinary(self, dbname):
        options = {"user": "app", "options": f"-c statement_timeout={PATIENCE}s", "row_factory": namedtuple_row}
        return self._connect(self.server, dbname, **options)

    def superuser(self, dbname="postgres"):
        return self._connect(self.server, dbname)

    def disconnect(self):
        self.admin.close()
        self.app.close()

    def sql(self, *statements, dbname="postgres"):
        """Run statements as a superuser in a session of their own; the last one's rows."""
        with psycopg.connect(self.server.conninfo(dbname), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else None

    def install(self, *databases):
        for dbname in databases:
            self.sql("CREATE EXTENSION snowflake_id", dbname=dbname)
        return self

    def id(self):
        """The next id, which is greater than the last."""
        number = self.app.execute(NEXT).fetchone()[0]
        assert number > self.last
        self.last = number
        return number

    def refused(self, query=NEXT):
        """The error that a call meets."""
        with pytest.raises(psycopg.Error) as caught:
            self.app.execute(query)
        return caught.value.diag

    def stops(self):
        """Make ids until there are no more; the error."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            try:
                self.id()
            except psycopg.Error as error:
                return error.diag
        raise AssertionError("ids still flow")

    def stops_with(self, sqlstate):
        """Make ids until there are no more, with this SQLSTATE at last; the error."""
        return eventually(lambda: (diag := self.stops()).sqlstate == sqlstate and diag, f"an error {sqlstate}")

    def flows(self, *states):
        """Wait until ids flow again, over errors with these SQLSTATEs; the first."""

        def once():
            try:
                return self.id()
            except psycopg.Error as error:
                if error.sqlstate not in states:
                    raise
                return None

        return eventually(once, "ids flow again")

    def status(self, connection=None):
        rows = (connection or self.app).execute("SELECT * FROM snowflake_status").fetchall()
        assert len(rows) == 1
        return rows[0]

    def says(self, state, diag):
        """The status names the state, and says the same as the error."""
        status = self.status()
        assert status.state == state
        assert status.reason == f"{diag.message_primary[0].upper()}{diag.message_primary[1:]}. {diag.message_detail}"
        assert status.hint == diag.message_hint
        return status

    def windows(self, n=3):
        """Make ids, without an error, until the keeper has published this many further windows."""
        seen = {self.status().reserved_until}

        def more():
            self.id()
            seen.add(self.status().reserved_until)
            return len(seen) > n

        eventually(more, "further windows")

    def row(self):
        """This node's row in the keeper's table, as a dictionary."""
        ((row,),) = self.sql(f"SELECT to_jsonb(m) FROM {MARKS} AS m WHERE node <> 'other'", dbname=self.keepers)
        return row

    def other(self, worker_id, ahead):
        """A row of another node; its mark, so far ahead of the clock, and the clock."""
        columns = "datacenter_id, layout, epoch, timeline, boot_id, booted_at, host, data_directory, updated_at, drained"
        (row,) = self.sql(
            f"""
            INSERT INTO {MARKS} (node, worker_id, reserved_until, {columns})
            SELECT 'other', {worker_id}, snowflake_encode(clock_timestamp() + '{ahead}', {worker_id}, 0), {columns}
            FROM {MARKS}
            RETURNING reserved_until, clock_timestamp()
            """
        )
        return row

    def keeper(self):
        """The keeper's process id; None while there is no keeper."""
        row = self.admin.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'snowflake_id keeper'").fetchone()
        return row and row[0]

    def restart(self, mode="fast"):
        self.stop(mode)
        self.server.start()
        self.connect()

    def stop(self, mode="fast"):
        """Stop the server, which must not take long; our sessions would hold up a smart one."""
        if mode == "smart":
            self.disconnect()
        self.server.stop(mode)

    @contextlib.contextmanager
    def load(self, sessions=4, ends_with=frozenset()):
        """Sessions that make ids all the while; then: none twice, and no error but these."""
        stop = threading.Event()
        received, errors = [[] for _ in range(sessions)], []

        def run(ids):
            try:
                with psycopg.connect(self.server.conninfo("app"), user="app", autocommit=True) as connection:
                    # A row at a time: what the client has received when the server goes counts.
                    while not stop.is_set():
                        for row in connection.cursor().stream(f"{NEXT} FROM generate_series(1, 1000)"):
                            ids.append(row[0])
            except psycopg.Error as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=[ids]) for ids in received]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: errors or all(received), "every session has ids")
            yield received
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert [error for error in errors if error.sqlstate not in ends_with] == []
        for ids in received:
            assert (numpy.diff(ids) > 0).all()
        everything = numpy.concatenate(received)
        assert len(numpy.unique(everything)) == len(everything)
        self.last = max(self.last, int(everything.max()))


@pytest.fixture
def node(start_server, connect):
    """A function that starts a server and installs the extension where the keeper and the application are."""

    def start(keepers="postgres", databases=("postgres", "app"), **settings):
        return Node(start_server(**settings), connect, keepers).install(*databases)

    return start


class Quiet:
    """A server in which nothing but the keeper writes WAL, and a session that looks how much."""

    def __init__(self, server):
        self.server = server
        server.psql("CREATE EXTENSION snowflake_id")
        self._connection = psycopg.connect(server.conninfo(), autocommit=True)
        self._rest = None

    def look(self):
        """The server's clock in seconds, and the WAL so far in bytes."""
        query = "SELECT extract(epoch FROM clock_timestamp())::float, pg_current_wal_insert_lsn() - '0/0'"
        now, written = self._connection.execute(query).fetchone()
        return now, int(written)

    def rest(self):
        """The look after which nobody asks for anything; it is taken once."""
        if self._rest is None:
            self._connection.execute(NEXT)
            idle = "SELECT reserved_until < clock_timestamp() FROM snowflake_status"
            eventually(lambda: self._connection.execute(idle).fetchone() == (True,), "the last window has passed")
            # The first look at a catalog may tidy it up.
            eventually(lambda: self.look()[1] == self.look()[1], "nothing is written")
            self._rest = self.look()
        return self._rest

    def close(self):
        self._connection.close()


@pytest.fixture(scope="module")
def quiet(installation):
    settings = {
        "snowflake_id.worker_id": 1,
        "autovacuum": "off",
        "checkpoint_timeout": "1h",
        "wal_level": "minimal",
        "max_wal_senders": 0,
    }
    with Server(installation, settings) as server:
        quiet = Quiet(server)
        yield quiet
        quiet.close()
    assert server.crashes() == []


def test_what_full_load_costs(quiet):
    """Less than 2 KB of WAL a second while several sessions make all the ids they can."""
    seconds = 10
    begin, before = quiet.look()

    def session():
        """How many ids a session makes until the time is over."""
        query = "SELECT count(snowflake_nextval()), extract(epoch FROM clock_timestamp())::float FROM generate_series(1, 100000)"
        made = 0
        with psycopg.connect(quiet.server.conninfo(), autocommit=True) as connection:
            while True:
                number, now = connection.execute(query).fetchone()
                made += number
                if now >= begin + seconds:
                    return made

    with concurrent.futures.ThreadPoolExecutor() as pool:
        sessions = [pool.submit(session) for _ in range(4)]
    made = sum(session.result() for session in sessions)
    end, after = quiet.look()
    rate = (after - before) / (end - begin)
    print(f"{made} ids in {end - begin:.1f} s: {rate:.0f} bytes of WAL a second")
    assert 0 < rate < 2000
    # For test_what_idleness_costs, which can wait elsewhere than here.
    quiet.rest()


# What can be wrong with the keeper's database


def warned(node, dbname):
    """What CREATE EXTENSION warns of, in a database that has it already or not."""
    notices = []
    with psycopg.connect(node.server.conninfo(dbname), autocommit=True) as connection:
        connection.execute("DROP EXTENSION IF EXISTS snowflake_id")
        connection.add_notice_handler(lambda diag: notices.append((diag.severity, diag.message_primary, diag.message_hint)))
        connection.execute("CREATE EXTENSION snowflake_id")
    return notices


def test_the_keepers_database_lacks_the_extension(node):
    """The keeper creates it, and again when it is dropped while ids flow, over a stop and a crash: no error for anyone."""
    node = node(databases=())
    created = CREATED.format("postgres")
    # Ids are made where CREATE EXTENSION was said, and nowhere else.
    assert warned(node, "app") == []
    node.id()
    assert node.status().state == "ready"
    assert node.server.log.count(created) == 1
    assert node.sql("SELECT extname FROM pg_extension ORDER BY 1") == [("plpgsql",), ("snowflake_id_node",)]
    assert node.sql("SELECT extname FROM pg_extension ORDER BY 1", dbname="app") == [("plpgsql",), ("snowflake_id",)]

    for times, end in enumerate((None, node.server.stop, node.server.kill9), start=2):
        node.windows(1)
        with node.load(ends_with=DISCONNECTED):
            node.sql("DROP EXTENSION snowflake_id_node")
            if end:
                end()
        if end:
            node.server.start()
            node.connect()
        node.windows(2)
        assert node.row()["reserved_until"] > node.last
        assert node.server.log.count(created) >= times
    # The functions move to another schema in the keeper's database, or go.
    node.sql("CREATE SCHEMA elsewhere", "CREATE EXTENSION snowflake_id", "ALTER EXTENSION snowflake_id SET SCHEMA elsewhere")
    node.windows(2)
    node.sql("DROP EXTENSION snowflake_id")
    node.windows(2)
    node.restart()
    node.id()


def test_the_extension_cannot_be_created(node):
    """Its schema is somebody else's, or its files are gone: refused with the reason; and once that is mended, ids flow."""
    node = node(databases=["app"])
    control = Path(node.sql("SELECT setting FROM pg_config WHERE name = 'SHAREDIR'")[0][0], "extension/snowflake_id_node.control")
    away = control.with_suffix(".away")
    detail = (
        "The keeper creates the extension, and its script the schema: in one that somebody has made before, objects of "
        "his could be run with the rights of a superuser."
    )
    hint = (
        'See what the schema holds; then connect to database "postgres" and run: '
        "ALTER SCHEMA snowflake_id_node RENAME TO snowflake_id_node_old;"
    )
    taken = "schema_taken", SCHEMA_TAKEN, detail, hint
    detail = 'The keeper keeps this node\'s record in tables of the extension. Extension "snowflake_id_node" is not available.'
    hint = (
        'The keeper tries again. To try it by hand, connect to database "postgres" and run: '
        "CREATE EXTENSION snowflake_id_node;"
    )
    missing = "no_extension", NO_EXTENSION, detail, hint

    def take():
        with psycopg.connect(node.server.conninfo()) as connection:
            connection.execute("DROP EXTENSION snowflake_id_node")
            connection.execute("CREATE SCHEMA snowflake_id_node")
            # As one who means harm would have it.
            connection.execute(f"CREATE TABLE {MARKS} (node text)")

    def lose():
        control.rename(away)
        node.sql("DROP EXTENSION snowflake_id_node")

    def rename():
        node.sql("ALTER SCHEMA snowflake_id_node RENAME TO snowflake_id_node_old")

    def bring_back():
        away.rename(control)

    def same(expected):
        state, message, detail, hint = expected
        for query in MAKING:
            diag = node.refused(query)
            assert (diag.sqlstate, diag.message_primary) == ("55000", message)
            assert (diag.message_detail, diag.message_hint) == (detail, hint)
        status = node.says(state, diag)
        assert status.database == "postgres"
        return status

    try:
        for harm, mend, expected in (take, rename, taken), (lose, bring_back, missing):
            # While ids flow: what is reserved is used up.
            node.windows(1)
            harm()
            assert node.stops_with("55000").message_primary == expected[1]
            same(expected)
            # It holds up no stop, and a restart mends nothing.
            for mode in "smart", "fast":
                node.restart(mode)
                # The number that ids are made with: there are none.
                assert same(expected).worker_id is None
            node.sql("CREATE DATABASE other")
            warning = f"snowflake ids cannot be made yet: {expected[1]}"
            assert warned(node, "other") == [("WARNING", warning, expected[3])]
            # What is mended lets the very next call pass.
            mend()
            node.id()
            assert node.status().state == "ready"
            assert node.status().reason is None
            assert warned(node, "other") == []
            node.sql("DROP DATABASE other")
            node.windows(1)
    finally:
        if away.exists():
            away.rename(control)
    assert node.sql("SELECT * FROM snowflake_id_node_old.high_water_marks") == []


def test_the_keepers_database_comes_and_goes(node):
    """There is none of that name; it is dropped, renamed and comes back: ids follow without a restart."""
    node = node("ids", ["app"], database="ids")
    diag = node.stops_with("55000")
    assert diag.message_primary == NO_DATABASE.format("ids")
    assert diag.message_detail == (
        "The keeper keeps this node's record there (snowflake_id.database). The server's log says why it could not connect."
    )
    assert diag.message_hint.startswith("If it does not exist: CREATE DATABASE ids; Or name another database: ")
    assert 'FATAL:  database "ids" does not exist' in node.server.log
    assert node.says("no_database", diag).database == "ids"
    node.restart("smart")
    # It needs no more than that.
    node.sql("CREATE DATABASE ids")
    node.flows("55000")
    assert node.status().state == "ready"
    assert node.server.log.count(CREATED.format("ids")) == 1

    node.windows(1)
    node.sql("DROP DATABASE ids WITH (FORCE)")
    diag = node.stops_with("55000")
    assert diag.message_primary == NO_DATABASE.format("ids")
    node.says("no_database", diag)
    node.restart("fast")
    assert node.stops_with("55000").message_primary == NO_DATABASE.format("ids")
    node.sql("CREATE DATABASE ids")
    node.flows("55000")
    assert node.server.log.count(CREATED.format("ids")) == 2

    # PostgreSQL renames only what nobody is connected to.
    def rename(name, to):
        def once():
            node.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'snowflake_id keeper'")
            try:
                node.sql(f"ALTER DATABASE {name} RENAME TO {to}")
            except psycopg.errors.ObjectInUse:
                return False
            return True

        eventually(once, "renamed")

    before = node.row()["reserved_until"]
    rename("ids", "away")
    diag = node.stops_with("55000")
    assert diag.message_primary == NO_DATABASE.format("ids")
    node.says("no_database", diag)
    rename("away", "ids")
    node.flows("55000", "55P03")
    eventually(lambda: node.row()["reserved_until"] > before, "the row that was there goes on")


# What can be wrong with the keeper's table


@pytest.mark.parametrize("statement", ["DELETE FROM", "TRUNCATE"])
def test_the_table_is_emptied(node, statement):
    """By a superuser, while ids flow: no error, no duplicate, and the row comes back."""
    node = node(reservation="200ms")
    node.windows(1)
    with node.load(2):
        for _ in range(3):
            node.sql(f"{statement} {MARKS}")
            node.windows(2)
            assert node.row()["reserved_until"] > node.last
    # A crash with the row that came back, and one without.
    for _ in range(2):
        node.id()
        node.server.kill9()
        node.server.start()
        node.connect()
        node.id()
        node.sql(f"{statement} {MARKS}")


@pytest.fixture
def full_disk(installation):
    """The environment of a server whose disk is full while a file exists, and that file."""
    directory = installation.directory()
    library, flag = directory / "full_disk.so", directory / "full"
    compile_library(Path(__file__).with_name("full_disk.c"), library)
    return {"LD_PRELOAD": str(library), "FULL_DISK": str(flag)}, flag


def test_the_disk_is_full(node, full_disk):
    """55P03 with the server's own words in the detail; ids again as soon as there is space."""
    env, full = full_disk
    node = node(server_options={"env": env})
    for mode in None, "fast":
        # The keeper updates one row, and has no need of a new page while the old
        # versions can go. A transaction that may still want to see them holds them.
        reader = node.superuser()
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute(f"SELECT FROM {MARKS}")
        node.id()
        full.touch()
        with pytest.raises(psycopg.errors.DiskFull):
            while True:
                node.admin.execute(f"UPDATE {MARKS} SET updated_at = updated_at")
        diag = node.stops()
        assert (diag.sqlstate, diag.message_primary) == ("55P03", CANNOT_RESERVE)
        assert re.fullmatch(
            "Its last attempt to write this node's record failed: "
            r'could not extend file "base/[^"]+".*: No space left on device.*',
            diag.message_detail,
        )
        assert diag.message_hint == MENDED
        node.says("cannot_reserve", diag)
        for query in MAKING:
            assert node.refused(query).sqlstate == "55P03"
        if mode:
            # The exact end cannot be recorded either; the stop does not wait for what cannot be.
            node.restart(mode)
        full.unlink()
        node.id()
        assert node.status().state == "ready"
        node.windows(2)
        reader.close()


def test_the_table_is_locked(node):
    """55P03 that speaks of the lock, within bounds; no stop waits for the lock; ids again after ROLLBACK."""
    node = node(postgres={"max_prepared_transactions": 1}, reservation="200ms")
    home = node.ordinary("postgres")
    other = node.superuser()
    for lock in f"LOCK TABLE {MARKS} IN ACCESS EXCLUSIVE MODE", f"SELECT FROM {MARKS} FOR UPDATE":
        node.windows(1)
        other.execute("BEGIN")
        other.execute(lock)
        diag = eventually(lambda: (diag := node.stops()).message_primary == CANNOT_RESERVE and diag, "the keeper gives up")
        assert diag.sqlstate == "55P03"
        assert diag.message_detail == (
            "Its last attempt to write this node's record failed: canceling statement due to lock timeout"
        )
        assert diag.message_hint == MENDED
        node.says("cannot_reserve", diag)
        # The status needs no table.
        assert node.status(home).state == "cannot_reserve"
        other.execute("ROLLBACK")
        node.flows("55P03")
    # A prepared transaction holds its lock over a stop, and over a restart.
    other.execute("BEGIN")
    other.execute(f"LOCK TABLE {MARKS} IN ACCESS EXCLUSIVE MODE")
    other.execute("PREPARE TRANSACTION 'lock'")
    other.close()
    home.close()
    for mode in "fast", "smart":
        # With each call it tries again.
        with contextlib.closing(node.ordinary("app")) as caller:
            caller.pgconn.send_query(TRY_ON.encode())
            eventually(lambda: node.admin.execute(KEEPER_WAITS).fetchone() == ("Lock",), "the keeper waits for the lock")
            caller.cancel_safe()
        node.restart(mode)
    node.sql("ROLLBACK PREPARED 'lock'")
    node.flows("55P03")
    assert node.status().state == "ready"


# What can happen to the keeper's process


def test_the_keeper_is_killed(node):
    """SIGKILL: PostgreSQL restarts all, and ids go on above. pg_terminate_backend: nobody notices."""
    node = node(postgres={"restart_after_crash": "on"})
    for _ in range(2):
        with node.load(ends_with=DISCONNECTED):
            keeper = node.keeper()
            assert keeper == node.status().keeper_pid
            os.kill(keeper, signal.SIGKILL)

            def crashed():
                try:
                    node.admin.execute("SELECT 1")
                except psycopg.OperationalError:
                    return True
                return False

            eventually(crashed, "sessions end")
        node.server.wait_ready()
        node.connect()
        node.id()
        assert node.keeper() != keeper

    with node.load():
        for _ in range(2):
            keeper = node.keeper()
            node.admin.execute("SELECT pg_terminate_backend(%s)", [keeper])
            # The first window that the next keeper has published.
            eventually(lambda old=keeper: node.id() and node.keeper() not in (None, old), "a new keeper")
            node.windows(1)
    assert node.status().state == "ready"


def test_the_keeper_stands_still(node):
    """SIGSTOP: what is reserved is used up, then calls end within bounds and can be cancelled; after SIGCONT ids flow."""
    node = node()
    node.windows(1)
    keeper = node.keeper()
    reserved_until = node.status().reserved_until
    suspend(keeper)
    try:
        diag = node.stops()
        assert (diag.sqlstate, diag.message_primary) == ("55P03", NOT_YET)
        # It was stopped at its rest, or while it wrote.
        assert re.match(rf"The keeper(, process {keeper}, has made no window in time\.| has been writing )", diag.message_detail)
        assert diag.message_hint.startswith("Try again. ")
        # Every id there was, and none beyond.
        (made_at,) = node.app.execute("SELECT snowflake_timestamp(%s::bigint)", [node.last]).fetchone()
        assert made_at < node.status().reserved_until
        assert node.status().reserved_until >= reserved_until
        node.says("keeper_stuck", diag)
        assert node.status().keeper_pid == keeper
        node.app.execute("SET statement_timeout = '500ms'")
        for query in MAKING:
            diag = node.refused(query)
            assert (diag.sqlstate, diag.message_primary) == ("57014", "canceling statement due to statement timeout")
        node.app.execute(f"SET statement_timeout = '{PATIENCE}s'")
    finally:
        os.kill(keeper, signal.SIGCONT)
    node.id()
    assert node.status().state == "ready"
    node.windows(1)


# Stopping the server


def test_nobody_waits_for_an_idle_keeper(node):
    """DROP DATABASE has every process let go of the files, also a keeper that has nothing to do."""
    node = node()
    node.id()
    eventually(lambda: node.app.execute("SELECT clock > reserved_until FROM snowflake_status").fetchone()[0], "an idle node")
    node.sql(f"SET statement_timeout = '{PATIENCE}s'", "CREATE DATABASE other", "DROP DATABASE other")


def test_stops_under_load(node):
    """fast ends while sessions make ids, and a smart one that waits for a client, who gets ids to the end."""
    node = node(reservation="200ms")
    for _ in range(3):
        with node.load(ends_with=DISCONNECTED):
            node.windows(2)
            node.stop("fast")
        node.server.start()
        node.connect()
        # At once: the stop has recorded the exact end.
        node.id()
    node.admin.close()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stopping = pool.submit(node.server.stop, "smart")
        eventually(lambda: not ready(node.server), "a smart stop has begun")
        node.windows(5)
        assert not stopping.done()
        node.app.close()
        stopping.result(timeout=PATIENCE)
    node.server.start()
    node.connect()
    node.id()


def ready(server):
    """Whether a server that is about to end still accepts connections."""
    try:
        return server.ready()
    except ServerError:
        return False


def test_stops_while_the_clock_is_wrong(clock_server, connect):
    """With the clock in the future and in the past: the server stops, starts, says why there are no ids, and recovers."""
    node = Node(clock_server, connect).install("postgres", "app")
    cases = [
        (864_000, "clock_jumped", r"the clock jumped forward by (10|9\.99\d*) d"),
        (-3600, "clock_behind", r"the clock is (1 h|60 min|59\.\d+ min) behind this node's record of snowflake ids"),
    ]
    for offset, state, message in cases:
        node.windows(1)
        clock_server.clock.offset(offset)
        diag = node.stops()
        assert diag.sqlstate == "58000"
        assert eventually(lambda state=state: node.status().state == state, f"state {state}")
        for mode in "fast", "smart":
            node.restart(mode)
            diag = node.stops()
            assert (diag.sqlstate, bool(re.fullmatch(message, diag.message_primary))) == ("58000", True)
            assert diag.message_detail.startswith("The clock reads 20")
            status = node.status()
            assert (status.state, status.hint) == (state, diag.message_hint)
        clock_server.clock.offset(0)
        node.flows("58000")
        assert node.status().state == "ready"


# Other numbers, other layouts


def test_a_rotation_begins_above_the_marks_of_its_number(node):
    """A row of whatever node for the new worker id: its mark is waited for, without an error for anyone."""
    node = node(reservation="4s")
    node.id()
    mark, clock = node.other(7, ahead="2 s")
    with node.load():
        node.server.configure({"snowflake_id.worker_id": 7})
        node.server.reload()
        number = eventually(lambda: (number := node.id()) >> 12 & 1023 == 7 and number, "the new worker id")
    assert number >= mark
    ((made_at,),) = node.sql(f"SELECT snowflake_timestamp({number})")
    assert made_at >= clock + datetime.timedelta(seconds=1.999)
    # The node's own row says so from now on; the other is left alone, and named.
    row = node.row()
    assert row["worker_id"] == 7
    assert row["reserved_until"] > mark
    assert node.sql(f"SELECT reserved_until FROM {MARKS} WHERE node = 'other'") == [(mark,)]
    assert node.status().conflict == "other"


def test_a_rotation_that_must_wait(node):
    """The old number is used until the new one can be: no error for anyone, and the log says why, once."""
    node = node(reservation="200ms")
    node.id()
    node.other(7, ahead="1 h")
    waits = "snowflake_id: the new worker id must wait: the clock is"
    with node.load():
        node.server.configure({"snowflake_id.worker_id": 7})
        node.server.reload()
        eventually(lambda: waits in node.server.log, "the keeper to say why")
        node.windows(3)
        assert node.id() >> 12 & 1023 == 1
        assert node.status().state == "ready"
        node.sql(f"DELETE FROM {MARKS} WHERE node = 'other'")
        eventually(lambda: node.id() >> 12 & 1023 == 7, "the new worker id")
    assert node.server.log.count(waits) == 1


@pytest.mark.parametrize(
    ("settings", "in_force"),
    [
        (
            {"layout": "twitter", "epoch": "2025-01-01 00:00:00+00", "datacenter_id": 0},
            '"timestamp:41,datacenter:5,worker:5,sequence:12" with epoch 2025-01-01 00:00:00+00',
        ),
        (
            {"layout": "timestamp:42,worker:9,sequence:12"},
            '"timestamp:42,worker:9,sequence:12" with epoch 2025-01-01 00:00:00+00',
        ),
        (
            {"epoch": "2024-01-01 00:00:00+00"},
            '"timestamp:41,worker:10,sequence:12" with epoch 2024-01-01 00:00:00+00',
        ),
    ],
    ids=["preset", "widths", "epoch"],
)
def test_the_layout_changes(node, settings, in_force):
    """Another layout, or another epoch, than the recorded one: refused; with the old one ids go on."""
    node = node()
    node.windows(1)
    before = node.row()
    node.server.configure({f"snowflake_id.{name}": value for name, value in settings.items()})
    node.restart()
    for query in MAKING:
        diag = node.refused(query)
        assert (diag.sqlstate, diag.message_primary) == ("55000", LAYOUT_CHANGED)
        assert diag.message_detail == (
            'The ids that this node has made are of layout "timestamp:41,worker:10,sequence:12" with epoch '
            f"2025-01-01 00:00:00+00; the layout in force is {in_force}. It would read the old ones wrongly."
        )
        assert diag.message_hint == "Set snowflake_id.layout and snowflake_id.epoch back and restart the server."
    node.says("layout_changed", diag)
    node.restart("smart")
    assert node.refused().message_primary == LAYOUT_CHANGED
    # The record is left as the stop of the old one wrote it.
    row = node.row()
    assert (row["layout"], row["epoch"]) == (before["layout"], before["epoch"])
    assert row["reserved_until"] > node.last
    node.server.configure({f"snowflake_id.{name}": None for name in settings})
    node.restart()
    node.id()
    assert node.status().state == "ready"


# Those who mean harm, and those who mean well


def test_an_ordinary_role(node):
    """It reads the status and makes ids; the rest is not its business, and it cannot disturb the keeper."""
    node = node()
    node.id()
    home = node.ordinary("postgres")
    assert node.status(home).state == "ready"
    for statement in (
        f"SELECT FROM {MARKS}",
        f"INSERT INTO {MARKS} (node) VALUES ('mine')",
        f"UPDATE {MARKS} SET reserved_until = 0",
        f"DELETE FROM {MARKS}",
        f"TRUNCATE {MARKS}",
        f"DO $$ BEGIN LOCK TABLE {MARKS} IN ACCESS SHARE MODE; END $$",
        f"DROP TABLE {MARKS}",
        f"ALTER TABLE {MARKS} DISABLE TRIGGER ALL",
        f"CREATE TRIGGER mine BEFORE UPDATE ON {MARKS} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        f"CREATE RULE mine AS ON UPDATE TO {MARKS} DO INSTEAD NOTHING",
        "DROP EXTENSION snowflake_id",
        "DROP EXTENSION snowflake_id_node",
        "CREATE TABLE snowflake_id_node.mine ()",
        "SELECT snowflake_accept_clock()",
        f"SELECT pg_cancel_backend({node.keeper()})",
        f"SELECT pg_terminate_backend({node.keeper()})",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            home.execute(statement)
    for setting in ("database", "reservation", "max_clock_jump", "max_clock_error", "promotion_guard", "on_copy"):
        with pytest.raises(psycopg.errors.CantChangeRuntimeParam):
            home.execute(f"SET snowflake_id.{setting} TO DEFAULT")
    node.windows(1)


def test_the_keeper_has_settings_of_its_own(node):
    """What is set for its role and its database does not matter: no other objects, no lazy commit, no lost update."""
    # What is not flushed by the commit itself is not flushed at all within this test.
    node = node(reservation="2s", postgres={"wal_writer_delay": "10s"})
    node.id()
    node.sql(
        "CREATE SCHEMA evil",
        f"CREATE TABLE evil.high_water_marks (LIKE {MARKS})",
        f"INSERT INTO evil.high_water_marks SELECT * FROM {MARKS}",
    )
    before = node.row()
    node.sql(f"UPDATE evil.high_water_marks SET reserved_until = {before['reserved_until']}")
    kinds = ["text", "name", "oid", "bigint", "integer", "timestamptz"]
    # Whatever it may call without naming the schema: functions and operators that tell on it.
    for function, result, body in (
        ("now()", "timestamptz", "pg_catalog.now()"),
        ("clock_timestamp()", "timestamptz", "pg_catalog.now()"),
        ("snowflake_timestamp(bigint)", "timestamptz", "pg_catalog.now()"),
        ("quote_ident(name)", "text", "'evil'"),
        ("quote_ident(text)", "text", "'evil'"),
        ("sha256(bytea)", "bytea", "''"),
        ("encode(bytea, text)", "text", "''"),
        ('"left"(text, integer)', "text", "''"),
        ("pg_extension_config_dump(regclass, text)", "void", ""),
        *((f"equal({kind}, {kind})", "boolean", "true") for kind in kinds),
    ):
        node.sql(
            f"CREATE FUNCTION evil.{function} RETURNS {result} LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE LOG 'it fell for evil'; RETURN {body}; END $$"
        )
    for kind in kinds:
        node.sql(f"CREATE OPERATOR evil.= (FUNCTION = evil.equal, LEFTARG = {kind}, RIGHTARG = {kind})")
    settings = {
        "search_path": "evil, pg_catalog, public",
        "synchronous_commit": "off",
        "default_transaction_read_only": "on",
        "default_transaction_isolation": "serializable",
        "default_transaction_deferrable": "on",
        # Would let its own updates pass for replicated ones.
        "session_replication_role": "replica",
        "statement_timeout": "'1ms'",
        "lock_timeout": "'1ms'",
        "idle_in_transaction_session_timeout": "'1ms'",
        "datestyle": "'German, DMY'",
        "timezone": "'Asia/Kathmandu'",
        "intervalstyle": "sql_standard",
        "standard_conforming_strings": "off",
        "row_security": "off",
    }
    if node.admin.info.server_version >= 170000:
        settings["transaction_timeout"] = "'1ms'"
    admin = node.superuser()
    try:
        for name, value in settings.items():
            admin.execute(f"ALTER ROLE postgres SET {name} TO {value}")
            admin.execute(f"ALTER DATABASE postgres SET {name} TO {value}")
        keeper = node.keeper()
        node.admin.execute("SELECT pg_terminate_backend(%s)", [keeper])
        eventually(lambda: node.id() and node.keeper() not in (None, keeper), "a keeper with these settings")
        node.windows(2)
        # Nor what it runs to create its extension.
        admin.execute("DROP EXTENSION snowflake_id_node")
        node.windows(2)
        assert node.server.log.count(CREATED.format("postgres")) == 2
        assert node.status().state == "ready"
        assert "it fell for evil" not in node.server.log
        # A crash tells whether the last window's record was flushed: what follows begins above it.
        reserved_until = node.status().reserved_until
        node.server.kill9()
    finally:
        admin.close()
    # The settings would be in our way as well.
    node.server.start()
    options = " ".join(f"-c {name}=0" for name in settings if name.endswith("timeout")) + " -c search_path=public"
    with psycopg.connect(node.server.conninfo(), options=options, autocommit=True) as admin:
        node.app = node.ordinary("app")
        assert node.app.execute("SELECT snowflake_timestamp(%s::bigint)", [node.id()]).fetchone() >= (reserved_until,)
        ((after,),) = admin.execute(f"SELECT to_jsonb(m) FROM {MARKS} AS m").fetchall()
        assert after["reserved_until"] > node.last > before["reserved_until"]
        assert admin.execute("SELECT reserved_until FROM evil.high_water_marks").fetchall() == [(before["reserved_until"],)]
    assert "it fell for evil" not in node.server.log


def test_what_idleness_costs(quiet):
    """Not a byte of WAL in 30 seconds without a call. Most of them have passed since test_what_full_load_costs."""
    begin, before = quiet.rest()
    # Nobody disturbs the server, not even by looking at its clock.
    time.sleep(max(0, begin + 30.1 - time.time()))
    end, after = quiet.look()
    assert end - begin > 30
    assert after == before
    print(f"{after - before} bytes of WAL in {end - begin:.0f} idle seconds")
