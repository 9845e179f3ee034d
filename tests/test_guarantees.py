"""What docs/GUARANTEES.md and docs/TESTING.md say is tested exists, under that name."""

import re

import pytest
from throwaway import PROJECT


@pytest.mark.parametrize("page", ["docs/GUARANTEES.md", "docs/TESTING.md"])
def test_every_test_that_is_named_exists(page):
    named = set(re.findall(r"`(test_\w+(?:\.py)?)`", (PROJECT / page).read_text()))
    files = list((PROJECT / "tests").glob("**/test_*.py"))
    functions = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    assert named
    assert named - functions - {file.name for file in files} == set()
