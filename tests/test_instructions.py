"""What `make bench-instructions` makes of what callgrind writes, and of its figures."""

import pytest
from callgrind import by_line, inclusive, total
from instructions import compare

pytestmark = pytest.mark.once("texts are read, no server is asked")

# Two callers of one function, into which another file's was compiled.
DUMP = """\
# callgrind format
positions: line
events: Ir

fl=execExprInterp.c
fn=ExecInterpExpr
0 700
cob=/usr/lib/snowflake_id.so
cfi=src/functions/generate.rs
cfn=snowflake_nextval_wrapper
calls=10 18
0 2250
cfn=int8inc
calls=10 0
0 90

ob=/usr/lib/snowflake_id.so
fl=src/functions/generate.rs
fn=snowflake_nextval_wrapper
18 130
fi=src/time.rs
35 39
fe=src/functions/generate.rs
22 91
18 13
fi=src/time.rs
35 13
cfn=clock_gettime@@GLIBC_2.17
calls=13 38
35 1990
fe=src/functions/generate.rs

fl=execExprInterp.c
fn=ExecEvalFuncExprFast
0 30
cfn=snowflake_nextval_wrapper
calls=3 18
0 675

totals: 3031
"""


def test_calls_are_added_up():
    assert inclusive(DUMP, "snowflake_nextval_wrapper") == (13, 2925)
    assert inclusive(DUMP, "clock_gettime@@GLIBC_2.17") == (13, 1990)
    assert inclusive(DUMP, "snowflake_base62_wrapper") == (0, 0)
    assert total(DUMP) == 3031


def test_instructions_belong_to_the_line_that_they_come_from():
    assert by_line(DUMP, "snowflake_nextval_wrapper") == {
        ("src/functions/generate.rs", 18): 143,
        ("src/functions/generate.rs", 22): 91,
        ("src/time.rs", 35): 52,
        ("clock_gettime@@GLIBC_2.17", 0): 1990,
    }


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
