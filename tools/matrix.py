"""Tests on each supported PostgreSQL, and a table of what became of them.

    matrix.py short    the whole suite on the first server, on the others what is marked `every_major`
    matrix.py whole    the whole suite on the first server, on the others all that is not marked `once`; and
                       on one of them what is marked `parts`, with the newest of what stands beside servers

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
# Its Debian has PL/Proxy for it.
BESIDE_PARTS = 17
PARTS = PROJECT / "target/parts"
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


def newest_parts():
    """The newest etcd, PgBouncer and so on by name and version; or why they cannot be used here."""
    setup("parts")
    missing = PARTS.with_suffix(".missing")
    if missing.exists():
        return None, missing.read_text().strip()
    # They run as the servers' user.
    closed = [str(path) for path in PARTS.parents if not path.stat().st_mode & 0o001]
    if closed:
        return None, f"{closed[0]} is closed to the servers' user"
    return [
        subprocess.run([PARTS / "bin" / name, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0]
        for name in ("etcd", "pgbouncer", "patroni", "prometheus")
    ], None


def test(pg_config, marks, parts=""):
    """Build for one server, and test on it; the output is everybody's."""
    version = subprocess.run([pg_config, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    version = re.match(r"PostgreSQL \S+", version).group()
    report = RESULTS / f"{version.split()[1]}{parts and '-parts'}.xml"
    report.unlink(missing_ok=True)
    begin = time.monotonic()
    command = ["make", "--no-print-directory", "test-server", f"PG_CONFIG={pg_config}", f"marks={marks}", f"parts={parts}"]
    done = subprocess.run([*command, f"report={report}"], cwd=PROJECT, check=False)
    return Result(version, marks or "all", done.returncode, time.monotonic() - begin, report)


def main(what):
    """Test everything; whether nothing has failed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    first, *others = setup("servers")
    results = [test(first, ""), *(test(server, MARKS[what]) for server in others)]
    parts, why_not = newest_parts() if what == "whole" else (None, None)
    if parts:
        beside = next((server for server in others if f"/{BESIDE_PARTS}/" in server), first)
        results.append(test(beside, "parts", "newest"))
    print(f"\n=== {'server':<22} {'tests':<12} passed failed skipped  minutes, with the build")
    for result in results:
        print(result.line())
    for missing in setup("missing"):
        major, reason = missing.split(" ", 1)
        print(f"PostgreSQL {major:<15} not tested: {reason}")
    if parts:
        print(f"parts: {', '.join(parts)}")
    if why_not:
        print(f"the newest parts {'':<9} not tested: {why_not}")
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
