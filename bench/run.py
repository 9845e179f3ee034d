"""What ids cost: `make bench`.

Figures for people, not a test: nothing fails if one is bad. What the project demands
of itself is printed beside the figures that it is about.

All figures are medians over rounds. Each round runs every variant once, in an order
of its own, so that a machine that is busy for a while slows all of them alike.
Differences and ratios are taken round by round. Results go to bench/results.json, where
those of other sections and servers stay, and from there into docs/BENCHMARKS.md.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests/cluster")]

import report
from measure import Bench, load, program, store
from sections import SECTIONS
from throwaway import Installation

PAGE, PICTURE = ROOT / "docs/BENCHMARKS.md", ROOT / "docs/benchmarks.svg"
RESULTS = ROOT / "bench/results.json"
# A trial's figures are worth nothing, and stay out of the docs.
TRIAL = ROOT / "target/bench/quick"


def main():
    options = parse()
    path = TRIAL / "results.json" if options.quick else RESULTS
    if not options.render:
        measure(options, path)
    elif not path.exists():
        sys.exit(f"bench: {path} is missing: nothing has been measured")
    page, picture = (TRIAL / PAGE.name, TRIAL / PICTURE.name) if options.quick else (PAGE, PICTURE)
    report.render(load(path), SECTIONS, PAGE, page, picture)
    print(f"\nwritten: {page}, {picture}")


def parse():
    names = [section.name for section in SECTIONS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME,…", help=f"some sections: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=0, help="how often everything is measured (default: it depends)")
    trial = TRIAL.relative_to(ROOT)
    parser.add_argument("--quick", action="store_true", help=f"a trial of few rounds; writes to {trial}")
    parser.add_argument("--render", action="store_true", help="write tables and picture again, without measuring")
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else names
    if unknown := set(options.only) - set(names):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    return options


def measure(options, path):
    with Installation() as installation:
        bench = Bench(installation, options.quick, options.rounds)
        about = preamble(installation)
        print(f"machine  {about['machine']}, load {os.getloadavg()[0]:.1f} at the start")
        print(f"repeat   {about['command']}")
        print("figures  medians of rounds; in brackets the quartiles")
        for section in SECTIONS:
            if section.name not in options.only:
                continue
            begin = time.monotonic()
            data = section.measure(bench)
            about = preamble(installation)
            # Read again: another server's may have come in the meantime.
            results = load(path)
            results.setdefault(str(installation.major), {})[section.name] = {"preamble": about, "data": data}
            store(path, results)
            report.print_section(section, about, data)
            print(f"\n({time.monotonic() - begin:.0f} s)", flush=True)


def preamble(installation):
    """Under which circumstances is measured. Kept with every section's data."""
    processor = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    processor = {key.strip(): value.strip() for key, value in (line.split(":", 1) for line in processor)}
    virtual = ", virtual" if "hypervisor" in processor.get("flags", "") else ""
    [control] = installation.root.rglob("extension/snowflake_id.control")
    version = next(line for line in control.read_text().splitlines() if line.startswith("default_version"))
    clock = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    return {
        "machine": f"{processor.get('model name', 'unknown processor')}, {os.cpu_count()} cores{virtual}",
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "clock source": clock.read_text().strip() if clock.exists() else "unknown",
        "server": installation.version.removeprefix("PostgreSQL "),
        "extension": version.split("=")[1].strip().strip("'"),
        "rustc": output("rustc", "--version"),
        "cc": output("cc", "--version").splitlines()[0],
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": command(installation),
    }


def commit():
    """The commit, and whether what was measured may differ from it. What is generated here does not count."""
    try:
        short = output("git", "rev-parse", "--short", "HEAD")
        written = [f":(exclude,top){path.relative_to(ROOT)}" for path in (PAGE, PICTURE, RESULTS)]
        changed = output("git", "status", "--porcelain", "--", ".", *written)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{short} with changes" if changed else short


def command(installation):
    """How to repeat this."""
    package = os.environ.get("SNOWFLAKE_PACKAGE", f"target/package/pg{installation.major}")
    words = [f"SNOWFLAKE_PG_CONFIG={installation.pg_config}", f"SNOWFLAKE_PACKAGE={package}"]
    words += ["target/venv/bin/python", "bench/run.py", *map(shlex.quote, sys.argv[1:])]
    return " ".join(words).replace(f"{ROOT}/", "")


def output(*words):
    return subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    program(main)
