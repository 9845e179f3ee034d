"""What `make lint` finds in a page that does not render as it is meant; and that no page here has any of it."""

import pytest
from pages import PROJECT, anchors, complaints, leads_of, pages

pytestmark = pytest.mark.once("pages are read, no server is asked")

TABLE = "| a | b |\n|---|---|\n"
MISTAKES = {
    "a table without an empty line before it, in a list": ("* Text:\n  | a | b | |---|---|\n  | 1 | 2 |\n", 2),
    "a table that was filled as a paragraph": ("| a | b | |---|---| | 1 |\n2 |\n", 1),
    "a row with another number of cells": (f"{TABLE}| 1 | 2 |\n| 1 | `x | y` |\n", 4),
    "a row that lacks one": (f"{TABLE}| 1 |\n", 3),
    "a list behind text, of a number other than 1": ("Text\n2. second\n", 2),
    "a heading without a space": ("#heading\n", 1),
    "a heading within a paragraph that is indented": ("* Text\n\n      # heading\n", 3),
    "code without an end": ("Text `code\nand more.\n", 1),
    "a block of code without an end": ("```sql\nSELECT 1;\n", 1),
    "an emphasis without an end": ("Text **strong.\n", 1),
    "a link that is not one": ("See [this](no page.md).\n", 1),
    "HTML": ("<details>\n\nText\n\n</details>\n", 1),
    "a dead link": ("See [this](nowhere.md).\n", 1),
    "a dead anchor": ("# One\n\nSee [two](#two).\n", 3),
    "an anchor of another page": ("See [this](REFERENCE.md#nothing-of-the-kind).\n", 1),
    "an image that is not there": ("![picture](nowhere.png)\n", 1),
}
FAULTLESS = f"""# One `two`, three: 4

1. A list
   * in a list

   {TABLE.replace(chr(10), chr(10) + "   ")}| `x \\| y` | [z](#at-night) |

<!-- a comment -->

2 * 3 = 6, a | b, [0, 1] (half \\` of it), [a page](REFERENCE.md#errors), https://example.org
"""


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    text, line = MISTAKES[name]
    found = list(complaints(text, leads_of(PROJECT / "docs/OPERATIONS.md")))
    assert [number for number, _ in found[:1]] == [line]


def test_what_is_none():
    assert list(complaints(FAULTLESS, leads_of(PROJECT / "docs/OPERATIONS.md"))) == []


def test_anchors():
    """As GitHub makes them, also of headings that are there twice."""
    assert anchors("# A `b_c`, d: e\n\n## Same\n\n## Same\n\n### [x](y) & z\n") == {"a-b_c-d-e", "same", "same-1", "x--z"}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_page(page):
    assert list(complaints(page.read_text(), leads_of(page))) == []
