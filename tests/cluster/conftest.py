"""What the cluster tests share."""

import pytest
from nodes import Copies, next_id


@pytest.fixture
def copies(installation):
    """Servers that begin as copies of others; removed after the test."""
    with Copies(installation) as copies:
        yield copies


@pytest.fixture
def made(clock_server, connect):
    """A connection to a server under a movable clock, which has just made an id."""
    connection = connect(clock_server)
    connection.execute("CREATE EXTENSION snowflake_id")
    next_id(connection)
    return connection
