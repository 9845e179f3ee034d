"""How many instructions a call executes: `make bench-instructions`.

Times depend on the machine and on what else it does. Instructions hardly do: they are compared
with the figures in instructions.json, and one that has grown by more than 5 % fails the check.

A real server runs under callgrind, with its keeper. What counts is what the extension's own
function executes, and all that it calls, in a statement that calls it some thousand times, and that
has been run once before: all that happens at a first call is past.

The node's ids run ahead of the clock all the while. Else, as the clock goes on while callgrind
takes its time, it would be up to the machine how many calls find a new tick, and blocks would be
dropped when hardly begun. As it is, a tick is used to its end, 4,096 ids, and the first of a
tick is a row of its own.
"""

import argparse
import contextlib
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools")]

import callgrind
from measure import SETTINGS, Node, program
from report import print_table
from throwaway import Installation, ServerError

FIGURES = ROOT / "bench/instructions.json"
TOLERATED = 5  # per cent
UPDATE = "make bench-instructions options=--update"
BY_LINE = "CARGO_PROFILE_RELEASE_DEBUG=line-tables-only make bench-instructions options=--lines"

CALLS = 4096
BATCH = 1000  # ids in one call
LEAD = 60_000  # ticks, so a minute: several times as long as all of this takes

SERIES = f"generate_series(0, {CALLS - 1}) AS i"
# Of 2026-01-01 and of worker 682, with the sequence i. Ids of today would grow in base62.
ID = "132271570946793472 + i"


class Row(NamedTuple):
    """What is counted."""

    title: str
    statement: str
    calls: int = CALLS  # of the function, in the statement
    ids: int = CALLS
    backend_block: int = 1

    @property
    def function(self):
        """The function's name in the library."""
        return re.match(r"\w+", self.title).group() + "_wrapper"


NEXTVAL = f"SELECT count(snowflake_nextval()) FROM {SERIES}"
# All that is left of a tick is claimed, and dropped after the first id.
REST_OF_TICK = "count((SELECT snowflake_batch(4096 + 0 * i) LIMIT 1))"
ROWS = [
    Row("snowflake_nextval()", NEXTVAL),
    Row("snowflake_nextval_after(id)", f"SELECT count(snowflake_nextval_after({ID})) FROM {SERIES}"),
    Row("snowflake_nextval(), first of a tick", f"SELECT count(snowflake_nextval()), {REST_OF_TICK} FROM {SERIES}"),
    Row("snowflake_nextval(), backend_block = 64", NEXTVAL, backend_block=64),
    Row(
        f"snowflake_batch_array({BATCH}), per id",
        f"SELECT count(snowflake_batch_array({BATCH})) FROM generate_series(1, 64)",
        calls=64,
        ids=64 * BATCH,
    ),
    Row(
        f"snowflake_batch({BATCH}), per id",
        f"SELECT count(*) FROM generate_series(1, 64) AS i, LATERAL snowflake_batch({BATCH} + 0 * i)",
        # It is asked once more, to say that there are no more.
        calls=64 * (BATCH + 1),
        ids=64 * BATCH,
    ),
    Row("snowflake_timestamp(id)", f"SELECT count(snowflake_timestamp({ID})) FROM {SERIES}"),
    Row("snowflake_decode(id)", f"SELECT count(snowflake_decode({ID})) FROM {SERIES}"),
    Row("snowflake_worker_id(id)", f"SELECT count(snowflake_worker_id({ID})) FROM {SERIES}"),
    Row("snowflake_encode(ts, 682, i)", f"SELECT count(snowflake_encode('2026-01-01 00:00+00', 682, i)) FROM {SERIES}"),
    Row("snowflake_base62(id)", f"SELECT count(snowflake_base62({ID})) FROM {SERIES}"),
    Row("snowflake_from_base62(text)", f"SELECT count(snowflake_from_base62(snowflake_base62({ID}))) FROM {SERIES}"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write what is counted into bench/instructions.json")
    parser.add_argument("--lines", action="store_true", help=f"tell from which lines they come: {BY_LINE}")
    options = parser.parse_args()
    callgrind.require()
    with Installation() as installation:
        if options.lines:
            print_lines(installation)
            return
        versions = versions_of(installation)
        now = count(installation)
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {"versions": versions, "instructions": {}}
    for name, version in versions.items():
        other = figures["versions"].get(name)
        note = "" if version == other else f"  (the figures: {other}. Some of a change may come from that)"
        print(f"{name:<10}  {version}{note}")
    print()
    rows, cheaper, complaints = compare(figures["instructions"], now)
    print_table(["instructions per call", "figure", "now", "change"], rows)
    if options.update:
        FIGURES.write_text(json.dumps({"versions": versions, "instructions": now}, indent=2) + "\n")
        print(f"\n{FIGURES.relative_to(ROOT)} has these figures now.")
        return
    for line in cheaper:
        print(f"\n{line}")
    if complaints:
        sys.exit("\n" + "\n".join(complaints))


# ------------------------------------------------------------------ counting


@contextlib.contextmanager
def counter(installation):
    """A function that counts a row: how much its statement executes. The node's ids run ahead all the while."""
    settings = {**SETTINGS, "snowflake_id.reservation": "1h"}
    with (
        Node(installation, settings, under=callgrind.COMMAND) as node,
        callgrind.Backend(node.server) as backend,
    ):
        node.connection.execute(f"SELECT {REST_OF_TICK} FROM generate_series(1, {LEAD}) AS i")

        def count_row(row):
            backend.connection.execute(f"SET snowflake_id.backend_block = {row.backend_block}")
            return backend.count(lambda: backend.connection.execute(row.statement))

        yield count_row
        lead = node.one("SELECT snowflake_timestamp(snowflake_nextval()) - clock_timestamp()")
        if lead.total_seconds() <= 0:
            raise ServerError("the clock has caught up with the ids: LEAD is too short for this machine")


def count(installation):
    """Instructions per call, for each row."""
    now = {}
    with counter(installation) as count_row:
        for row in ROWS:
            calls, cost = callgrind.inclusive(count_row(row), row.function)
            if calls != row.calls:
                raise ServerError(f"{row.statement}: {calls} calls were counted instead of {row.calls}")
            now[row.title] = round(cost / row.ids, 1)
    return now


def print_lines(installation):
    """From which lines the instructions of the hottest calls come."""
    with counter(installation) as count_row:
        found = {row.title: callgrind.by_line(count_row(row), row.function) for row in ROWS if row.statement == NEXTVAL}
    for title, lines in found.items():
        if not any(line for _, line in lines):
            sys.exit(f"bench: the library has no line numbers: {BY_LINE}")
        rows = []
        for (file, line), cost in sorted(lines.items()):
            path = ROOT / file
            source = path.read_text().splitlines()[line - 1].strip() if line and path.is_file() else ""
            # The standard library's sources lie where rustc was built, other crates' below CARGO_HOME.
            short = re.sub(rf"^{re.escape(str(ROOT))}/|.*/(?=library/)|.*/registry/src/[^/]+/", "", file)
            rows.append([f"{short}:{line}" if line else short, f"{cost / CALLS:.2f}", source])
        print(f"\n{title}: {sum(lines.values()) / CALLS:.1f}\n")
        print_table(["line, or function called", "instructions", "source"], rows)


def versions_of(installation):
    """What the figures depend on."""
    library = next(installation.root.rglob("snowflake_id.so")).read_bytes()
    return {
        # The compiler leaves its name in what it compiles.
        "rustc": re.search(rb"rustc version ([^\0]+)", library).group(1).decode(),
        "server": installation.version,
        "libc": " ".join(platform.libc_ver()),
        "valgrind": subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip(),
        "machine": platform.machine(),
    }


# ----------------------------------------------------------------- comparing


def compare(figures, now):
    """The rows of the table; what has become cheaper; what is wrong. The last two are sentences."""
    rows, cheaper, complaints = [], [], []
    for title, instructions in now.items():
        figure = figures.get(title)
        if figure is None:
            rows.append([title, "", instructions, ""])
            continue
        change = 100 * (instructions - figure) / figure
        rows.append([title, figure, instructions, f"{change:+.1f} %"])
        if change > TOLERATED:
            complaints.append(f"{title} has grown by {change:.1f} %: {instructions} instructions instead of {figure}")
        elif change < -TOLERATED:
            cheaper.append(f"{title} has shrunk by {-change:.1f} %: lower its figure ({UPDATE})")
    if figures.keys() != now.keys():
        complaints.append(f"{FIGURES.name} does not have exactly these rows: {UPDATE}")
    return rows, cheaper, complaints


if __name__ == "__main__":
    program(main)
