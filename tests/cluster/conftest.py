"""What the cluster tests share."""

import pytest
from nodes import Copies


@pytest.fixture
def copies(installation):
    """Servers that begin as copies of others; removed after the test."""
    with Copies(installation) as copies:
        yield copies
