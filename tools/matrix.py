"""Tests on each supported PostgreSQL, and a table of what became of them.

    matrix.py short    the whole suite on the first server, on the others what is marked `every_major`
    matrix.py whole    the whole suite on the first server, on the others all that is not marked `once`

The first server is the one that `make` builds for; see tools/setup for where the others are from. A
major that cannot be had here is a line of the table with its reason.
"""

import collections
import re
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MARKS = {"short": "every_major", "whole": "not once"}
RESULTS = PROJECT / "target/matrix"


class Result:
    """What became of the tests on one server."""

    def __init__(self, version, marks, status, seconds, report):
        self.version, self.marks, self.status, self.seconds = version, marks, status, seconds
        self.passed, self.failed, self.reasons = 0, [], collections.Counter()
        cases = xml.etree.ElementTree.parse(report).iter("testcase") if report.exists() else ()
        for case in cases:
            skipped = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                self.failed.append(f"{case.get('classname')}::{case.get('name')}")
            elif skipped is not None:
                self.reasons[skipped.get("message")] += 1
            else:
                self.passed += 1
        # One that did not come so far as to test (it was not built, say) has failed all the same.
        if status and not self.failed:
            self.failed.append("the build, or the run of the tests itself: see above")

    def line(self):
        skipped = sum(self.reasons.values())
        minutes = f"{self.seconds // 60:.0f}:{self.seconds % 60:02.0f}"
        return f"{self.version:<26} {self.marks:<12} {self.passed:>6} {len(self.failed):>6} {skipped:>7}   {minutes:>6}"


def setup(*arguments):
    """What tools/setup prints, by lines."""
    return subprocess.run(
        [PROJECT / "tools/setup", *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()


def test(pg_config, marks):
    """Build for one server, and test on it; the output is everybody's."""
    version = subprocess.run([pg_config, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    version = re.match(r"PostgreSQL \S+", version).group()
    report = RESULTS / f"{version.split()[1]}.xml"
    report.unlink(missing_ok=True)
    begin = time.monotonic()
    command = ["make", "--no-print-directory", "test-server", f"PG_CONFIG={pg_config}", f"marks={marks}"]
    done = subprocess.run([*command, f"report={report}"], cwd=PROJECT, check=False)
    return Result(version, marks or "all", done.returncode, time.monotonic() - begin, report)


def main(what):
    """Test everything; whether nothing has failed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    first, *others = setup("servers")
    results = [test(first, ""), *(test(server, MARKS[what]) for server in others)]
    print(f"\n=== {'server':<22} {'tests':<12} passed failed skipped  minutes, with the build")
    for result in results:
        print(result.line())
    for missing in setup("missing"):
        major, reason = missing.split(" ", 1)
        print(f"PostgreSQL {major:<15} not tested: {reason}")
    for result in results:
        for reason, count in sorted(result.reasons.items()):
            print(f"skipped on {result.version}: {count} × {reason}")
        for name in result.failed:
            print(f"failed on {result.version}: {name}")
    passed, failed, skipped = (
        sum(result.passed for result in results),
        sum(len(result.failed) for result in results),
        sum(sum(result.reasons.values()) for result in results),
    )
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return failed == 0


if __name__ == "__main__":
    if sys.argv[1:] not in (["short"], ["whole"]):
        sys.exit(__doc__)
    sys.exit(0 if main(sys.argv[1]) else 1)
