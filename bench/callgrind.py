"""Instructions that a backend executes, as callgrind counts them.

Callgrind sees what a process does itself. What the kernel does for it is not counted, and reading
the clock, which is a function of the process elsewhere, is a system call under it: some dozen
instructions more in earnest.
"""

import collections
import re
import shutil
import sys

import psycopg

MARK = "pg_backend_pid"  # PostgreSQL's function that makes callgrind write down what it has counted
# What a server runs under. Relative names are below the directory in which it is started, its own. Names and
# positions stand in full: the format is at https://valgrind.org/docs/manual/cl-format.html.
COMMAND = (
    "valgrind",
    "--tool=callgrind",
    "--callgrind-out-file=callgrind.%p",
    f"--dump-before={MARK}",
    "--compress-strings=no",
    "--compress-pos=no",
)


def require():
    """Without valgrind there is nothing to count with."""
    if not shutil.which("valgrind"):
        sys.exit("bench: valgrind is missing: run 'tools/setup bench'")


class Backend:
    """A session of a server that runs under COMMAND."""

    def __init__(self, server):
        self._directory = server.directory
        self._dumps = 0
        self.connection = psycopg.connect(server.conninfo(), autocommit=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def count(self, work):
        """What callgrind writes of the backend while `work` is done, which is done twice: the first
        time does what is done but once, such as looking a function up.
        """
        work()
        self._dump()
        work()
        return self._dump()

    def _dump(self):
        self._dumps += 1
        [pid] = self.connection.execute(f"SELECT {MARK}()").fetchone()
        return (self._directory / f"callgrind.{pid}.{self._dumps}").read_text()


def total(dump):
    """All instructions of a dump."""
    return int(re.search(r"^totals: (\d+)$", dump, re.MULTILINE)[1])


def inclusive(dump, function):
    """How often a function was called, and the instructions of these calls, with all that they called."""
    calls = cost = 0
    for record in records(dump):
        if record.callee == function:
            calls += record.calls
            cost += record.cost
    return calls, cost


def by_line(dump, function):
    """A function's instructions by the file and the number of the line that they were compiled from, and those of
    its callees by the callee's name and 0. The library must have line numbers, or all lines are 0.
    """
    lines = collections.Counter()
    for record in records(dump):
        if record.function == function:
            lines[(record.callee, 0) if record.callee else (record.file, record.line)] += record.cost
    return lines


# Instructions of a line; or, if it has a callee, of its calls from there.
Record = collections.namedtuple("Record", "function file line callee calls cost")


def records(dump):
    """What a dump says."""
    function = file = callee = None
    calls = 0
    for text in dump.splitlines():
        key, is_name, value = text.partition("=")
        if is_name:
            if key == "fn":
                function = value
            # Of a function that was compiled into another one there is the file alone.
            elif key in ("fl", "fi", "fe"):
                file = value
            elif key == "cfn":
                callee = value
            elif key == "calls":
                calls = int(value.split()[0])
        elif position := re.fullmatch(r"(\d+) (\d+)", text):
            yield Record(function, file, int(position[1]), callee, calls, int(position[2]))
            callee, calls = None, 0
