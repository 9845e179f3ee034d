"""What `make bench-instructions` makes of what callgrind writes, and of its figures."""

import pytest
from instructions import compare, inclusive

pytestmark = pytest.mark.once

# Two callers of one function, whose name stands at the first call only.
DUMP = """\
# callgrind format
positions: line
events: Ir

fn=(1) ExecInterpExpr
0 700
cfn=(2) snowflake_nextval_wrapper
calls=10 0 
0 2250
cfn=(3) int8inc
calls=10 0 
0 90

fn=(2)
0 260
cfn=(4) clock_gettime@@GLIBC_2.17
calls=10 38 
0 1990

fn=(5) ExecEvalFuncExprFast
0 30
cob=(3) /usr/lib/snowflake_id.so
cfn=(2)
calls=3 0 
* 675
"""


def test_calls_are_added_up():
    assert inclusive(DUMP, "snowflake_nextval_wrapper") == (13, 2925)
    assert inclusive(DUMP, "clock_gettime@@GLIBC_2.17") == (10, 1990)
    assert inclusive(DUMP, "snowflake_base62_wrapper") == (0, 0)


def test_what_grows_by_more_than_five_per_cent_fails():
    figures = {"a": 200.0, "b": 200.0, "c": 200.0, "d": 200.0}
    rows, cheaper, complaints = compare(figures, {"a": 210.0, "b": 210.2, "c": 190.0, "d": 189.8})
    assert [row[-1] for row in rows] == ["+5.0 %", "+5.1 %", "-5.0 %", "-5.1 %"]
    assert cheaper == ["d has shrunk by 5.1 %: lower its figure (make bench-instructions options=--update)"]
    assert complaints == ["b has grown by 5.1 %: 210.2 instructions instead of 200.0"]


@pytest.mark.parametrize("now", [{"a": 200.0, "b": 1.0}, {}], ids=["no figure", "not counted"])
def test_each_row_has_a_figure(now):
    _, _, [complaint] = compare({"a": 200.0}, now)
    assert complaint.startswith("instructions.json does not have exactly these rows")
