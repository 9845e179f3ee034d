"""What the cluster tests share."""

import contextlib
import os
from pathlib import Path

import pytest
from clients import eventually
from nodes import Copies, next_id, status
from registries import KINDS, Certificates, Proxy
from throwaway import compile_library


@pytest.fixture
def copies(installation):
    """Servers that begin as copies of others; removed after the test."""
    with Copies(installation) as copies:
        yield copies


@pytest.fixture
def migrating(server, connection):
    """A connection to a database with both extensions, on a node that generates ids."""
    connection.execute("CREATE EXTENSION snowflake_id_migrate")
    eventually(lambda: status(connection).state == "ready")
    connection.execute("SELECT snowflake_nextval()")
    return connection


@pytest.fixture
def made(clock_server, connect):
    """A connection to a server under a movable clock, which has just generated an id."""
    connection = connect(clock_server)
    connection.execute("CREATE EXTENSION snowflake_id")
    next_id(connection)
    return connection


@pytest.fixture
def kernel_clock(installation):
    """The environment of a server whose kernel says how wrong the clock is, and how to set it: in seconds, None for silence."""
    directory = installation.directory()
    library, file = directory / "kernel_clock.so", directory / "error"
    compile_library(Path(__file__).with_name("kernel_clock.c"), library)

    def wrong_by(seconds):
        new = file.with_suffix(".new")
        new.write_text("-1" if seconds is None else str(round(seconds * 1_000_000)))
        os.replace(new, file)

    wrong_by(0.001)
    return {"LD_PRELOAD": str(library), "CLOCK_ERROR": str(file)}, wrong_by


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.SCHEME)
def _registry(request, installation):
    with request.param(installation) as registry:
        yield registry


@pytest.fixture
def registry(_registry):
    """A registry, of each kind in turn. Tests share it; names of their own keep them apart."""
    yield _registry
    _registry.resume()
    _registry.start()


@pytest.fixture
def proxy(registry):
    """The network before that registry."""
    with Proxy(registry.port) as proxy:
        yield proxy


@pytest.fixture
def start_registry(installation):
    """A function that starts a registry of the test's own: start_registry(Etcd, password="secret")."""
    with contextlib.ExitStack() as registries:
        yield lambda kind, **options: registries.enter_context(kind(installation, **options))


@pytest.fixture(scope="session")
def certificates(installation):
    """What a registry and its nodes need for TLS."""
    return Certificates(installation)
