"""Nodes that are copied from each other or share a registry, and what tests ask of them."""

import contextlib
import os
import re
import signal
from pathlib import Path

import psycopg
import pytest
from clients import eventually, suspend
from psycopg.rows import namedtuple_row
from throwaway import PATIENCE, FakeClock, Server

REPLICATION = {"wal_level": "replica", "max_wal_senders": 8, "hot_standby": "on"}
SCHEMA = """
    CREATE EXTENSION snowflake_id;
    CREATE TABLE items (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), note text);
"""
IDS = "SELECT snowflake_nextval() FROM generate_series(1, 500)"
ROWS = "INSERT INTO items (note) SELECT 'x' FROM generate_series(1, 100) RETURNING id"
REINITIALIZING = "all server processes terminated; reinitializing"
BATCH = "SELECT snowflake_batch(100)"
# Ids of the default layout count milliseconds from 2025 on, the clock from 1970 on.
EPOCH_2025 = 1_735_689_600_000


def milliseconds(number):
    """When an id of the default layout says that it was made; in Unix time."""
    return (number >> 22) + EPOCH_2025


def seconds(number):
    """The same in seconds, as time.time() counts."""
    return milliseconds(number) / 1000


def configure(server, connection, **settings):
    """Change settings of the extension. From now on they are in force, in every process; see Server.reload()."""
    server.configure({f"snowflake_id.{name}": value for name, value in settings.items()})
    server.reload()
    for name, value in settings.items():
        assert connection.execute(f"SHOW snowflake_id.{name}").fetchone() == (value,)


def archiving(directory):
    """Settings by which WAL is archived there. A file that is there under its name is there in whole."""
    return {"archive_mode": "on", "archive_command": f"cp %p {directory}/copying && mv {directory}/copying {directory}/%f"}


def processes(server, title):
    """The children of the postmaster whose title matches."""
    found = []
    for pid in server.children():
        try:
            if re.search(title, Path(f"/proc/{pid}/cmdline").read_text()):
                found.append(pid)
        except OSError:
            pass
    return found


def next_id(connection):
    return connection.execute("SELECT snowflake_nextval()").fetchone()[0]


def status(connection):
    """The one row of snowflake_status."""
    (row,) = connection.cursor(row_factory=namedtuple_row).execute("SELECT * FROM snowflake_status").fetchall()
    return row


def becomes_ready(connection):
    """Wait until the status says that ids flow: the first id may come a moment before the keeper says so. The status."""
    return eventually(lambda: (row := status(connection)).state == "ready" and row, "the status is ready")


def subscription_errors(connection):
    """How often each subscription has failed, to copy or to apply. Which columns count that, differs: 19 has one more."""
    counts = connection.execute("SELECT * FROM pg_stat_subscription_stats")
    columns = [i for i, column in enumerate(counts.description) if column.name.endswith("_error_count")]
    assert len(columns) >= 2
    return [sum(row[i] for i in columns) for row in counts.fetchall()]


def kept(connection):
    """Wait until there are the tables that the keeper creates in its database, which a session needs that asks for no id."""
    tables = "SELECT to_regclass('snowflake_id_node.samples')"
    eventually(lambda: connection.execute(tables).fetchone() != (None,), "the keeper has created its extension")


def kill_session(server, pid):
    """Kill a session with SIGKILL, and wait until the server has ended all others for it: one that comes before is one of them."""
    begun = server.log.count(REINITIALIZING)
    (found,) = [one for one in processes(server, "postgres: postgres") if one == pid]
    os.kill(found, signal.SIGKILL)
    eventually(lambda: server.log.count(REINITIALIZING) > begun, "the server begins anew")


def refusal(connection, query="SELECT snowflake_nextval()"):
    """What the error of a call says."""
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(query)
    return caught.value.diag


@contextlib.contextmanager
def frozen(server):
    """All the server's processes stand still, as when a virtual machine is paused."""
    stopped = [server.pid, *sorted(server.suspend())]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        # The clients' backends first; the keeper, which is older, can only follow.
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)


def warnings(server):
    """What its keeper has warned of."""
    return [line for line in server.log.splitlines() if "snowflake_id keeper" in line and "WARNING:  " in line]


def duplicates(*received):
    """How many ids were received more than once."""
    ids = [number for part in received for number in part]
    return len(ids) - len(set(ids))


class Lessee:
    """A server that leases its worker id, with a session in it."""

    def __init__(self, server, connect):
        self.server = server
        self._connect = connect
        self.connect()
        self.sql("CREATE EXTENSION IF NOT EXISTS snowflake_id")

    def connect(self):
        """Connect anew, as after a restart."""
        self.connection = self._connect(self.server)

    def sql(self, query):
        return self.connection.execute(query)

    def status(self):
        return status(self.connection)

    def number(self):
        """The worker id that it has; None while it has none."""
        return self.status().worker_id

    def restart(self, stop=None):
        """End in some way, in peace if it is not said how, and start again."""
        (stop or self.server.stop)()
        self.server.start()
        self.connect()

    def configure(self, **settings):
        """Change settings of the extension, None for those that are not to be set."""
        self.server.configure({f"snowflake_id.{name}": value for name, value in settings.items()})
        self.server.reload()

    def renew(self, **settings):
        """Change the terms of its lease, and wait until it has it by them."""
        lease = "SELECT lease FROM snowflake_id_node.high_water_marks"
        before = self.sql(lease).fetchall()
        self.configure(**settings)
        eventually(lambda: self.flows() and self.sql(lease).fetchall() != before, "the lease is on record")

    def state(self, state, trouble=""):
        """Wait until the status says this, and with the registry a trouble that matches; the status."""

        def reached():
            row = self.status()
            return row.state == state and re.search(trouble, row.registry_trouble or "") and row

        return eventually(reached, f"{state} {trouble}")

    def flows(self):
        """The first id, as soon as there is a lease."""

        def once():
            try:
                return next_id(self.connection)
            except psycopg.errors.LockNotAvailable:
                return None

        return eventually(once, "ids flow")

    def refused(self, state, detail=""):
        """The error of a call in this state, which the status words likewise; wait until its detail matches.

        What is said of a registry may be another thing at the next heartbeat, when one was late.
        """

        def once():
            diag = refusal(self.connection)
            row = self.status()
            assert row.state == state
            assert row.reason.startswith(diag.message_primary[0].upper() + diag.message_primary[1:] + ".")
            return re.search(detail, diag.message_detail or "", re.IGNORECASE) and diag

        return eventually(once, f"an error of which is said: {detail}")

    def claims(self):
        """The worker ids that it has claimed, one after the other, as its log says."""
        return [int(number) for number in re.findall(r"Worker id (\d+) has been claimed", self.server.log)]


class Copies:
    """Servers that begin as copies of others, by pg_basebackup."""

    def __init__(self, installation):
        self._installation = installation
        self._servers = []

    def make(self, original, *options, name="copy", start=True, postgres=None, **more):
        """A server with the original's data and configuration; `more` goes to adopt().

        A standby connects to its primary as `name`; pg_basebackup does not. Its connections, which may outlive it, have
        ended when this returns.
        """
        server = self.adopt(original, postgres={"cluster_name": name, **(postgres or {})}, **more)
        self._installation.run(
            self._installation.bin("pg_basebackup"), "-D", server.data, "-c", "fast", "--no-sync", *options,
            "-d", original.conninfo(),
        )  # fmt: skip
        backed_up(original)
        return server.start() if start else server

    def standby(self, primary, **more):
        """A streaming standby that has replayed all there is now."""
        standby = self.make(primary, "-R", name="standby", **more)
        caught_up(primary, standby)
        return standby

    def adopt(self, original, clock=None, postgres=None, data="none", **extension):
        """A server with the original's configuration, and no data yet."""
        settings = {name: value for name, value in original.settings.items() if name != "unix_socket_directories"}
        settings.update(postgres or {})
        settings.update({f"snowflake_id.{name}": value for name, value in extension.items()})
        self._servers.append(Server(self._installation, settings, clock=clock, data=data))
        return self._servers[-1]

    def clock(self):
        """A clock for one of them."""
        return FakeClock(self._installation.directory() / "clock")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self._servers:
            server.remove()
        assert [line for server in self._servers for line in server.crashes()] == []


def backed_up(server):
    """Wait until pg_basebackup's connections have ended: PostgreSQL notices a moment after it has."""
    sessions = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg_basebackup'"
    eventually(lambda: server.psql(sessions) == "0", "the base backup's sessions have ended")


def caught_up(primary, standby):
    """Wait until the standby has replayed what the primary has written."""
    lsn = primary.psql("SELECT pg_current_wal_flush_lsn()")
    eventually(lambda: standby.psql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") == "t")


def clock_of(connection):
    """The server's clock, in milliseconds of Unix time."""
    return connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float").fetchone()[0]


def cut(primary):
    """Cut the primary off from its standby: what it has still to send does not leave it. Its walsender's id."""
    walsender = "SELECT pid FROM pg_stat_replication WHERE application_name = 'standby'"
    pid = int(eventually(lambda: primary.psql(walsender), "the standby is connected"))
    suspend(pid)
    return pid


def promote(standby):
    """Promote, with the standby's clock before that; in milliseconds."""
    with psycopg.connect(standby.conninfo(), autocommit=True) as connection:
        before = clock_of(connection)
        assert connection.execute("SELECT pg_promote(true, %s)", [PATIENCE]).fetchone() == (True,)
        return before
