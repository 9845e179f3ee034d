"""Servers and connections for the tests; see tools/throwaway.py for what they are."""

import itertools
import os

import psycopg
import pytest
from throwaway import FakeClock, Installation, Server, forget_libpq_variables

forget_libpq_variables()

_numbers = itertools.count(1)


def pytest_report_header():
    return f"server: {os.environ.get('SNOWFLAKE_PG_CONFIG', 'the default one')}"


def pytest_runtest_setup(item):
    """Which tests have to do with the server's version stands beside each test, and so does the reason."""
    for mark in "once", "every_major", "parts":
        for marker in item.iter_markers(mark):
            if len(marker.args) != 1:
                pytest.fail(f"the mark {mark} takes one argument, the reason", pytrace=False)


def pytest_terminal_summary(terminalreporter):
    """What tests have counted: ids, faults, duplicates. Else only a failed test would show it."""
    figures = [(report, line) for report in terminalreporter.getreports("passed") for line in report.capstdout.splitlines()]
    if figures:
        terminalreporter.section("figures")
    for report, line in figures:
        terminalreporter.line(f"{report.location[2]}: {line}")


@pytest.fixture(scope="session")
def installation():
    """A private copy of the server under test, with the extension."""
    with Installation() as installation:
        yield installation


def _settings(postgres, extension):
    """Settings by their short names: worker_id=2 for snowflake_id.worker_id."""
    prefixed = {f"snowflake_id.{name}": value for name, value in {"worker_id": 1, **extension}.items()}
    return {**prefixed, **(postgres or {})}


@pytest.fixture(scope="session")
def server(installation):
    """A server with worker id 1 for all tests that leave its settings alone."""
    with Server(installation, _settings(None, {})) as server:
        # In the keeper's database; the tests use others.
        server.psql("CREATE EXTENSION snowflake_id")
        yield server
    assert server.crashes() == []


@pytest.fixture
def start_server(installation):
    """A function that starts a server of the test's own.

    start_server(worker_id=None, layout="discord", postgres={"max_connections": 200})

    Keywords are settings of the extension (None: not set); `postgres` holds the
    server's own; `server_options` are the other arguments of throwaway.Server.
    """
    servers = []

    def start(*, postgres=None, server_options=None, **extension):
        if lacking := installation.lacks((postgres or {}).get("shared_preload_libraries") or ""):
            pytest.skip(f"this server has no {', '.join(lacking)}")
        server = Server(installation, _settings(postgres, extension), **(server_options or {}))
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.remove()
    assert [line for server in servers for line in server.crashes()] == []


@pytest.fixture
def clock_server(installation, start_server):
    """A server of the test's own whose wall clock is set with `clock_server.clock`."""
    clock = FakeClock(installation.root / f"clock{next(_numbers)}")
    return start_server(server_options={"clock": clock})


@pytest.fixture
def connect():
    """A function that connects to a server, in autocommit mode; closed after the test."""
    connections = []

    def connect(server, dbname="postgres", **options):
        options = {"autocommit": True, **options}
        connections.append(psycopg.connect(server.conninfo(dbname), **options))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture
def database(server, connect):
    """The name of a fresh database of the shared server, with the extension."""
    name = f"test{next(_numbers)}"
    with psycopg.connect(server.conninfo(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        connect(server, name).execute("CREATE EXTENSION snowflake_id")
        yield name
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def connection(server, database, connect):
    """A connection to the fresh database."""
    return connect(server, database)
