"""An installation whose package changes."""

import pytest
from throwaway import Installation, Server, free_port
from versions import PRESENT, Package


@pytest.fixture(scope="session")
def package_of_the_session():
    with Installation() as installation:
        yield Package(installation)


@pytest.fixture
def package(package_of_the_session):
    """An installation of these tests' own, with the present version's package."""
    package_of_the_session.install(PRESENT)
    return package_of_the_session


@pytest.fixture
def start(package):
    """A function that starts a server of the test's own in the package's installation, or in another."""
    servers = []

    def start(installation=package.installation, data="copy", **settings):
        servers.append(Server(installation, {"snowflake_id.worker_id": 1, **settings}, data=data, port=free_port()))
        return servers[-1].start() if data != "none" else servers[-1]

    yield start
    for server in servers:
        server.remove()
    assert [line for server in servers for line in server.crashes()] == []
