"""What the arithmetic costs without a server: `make bench-core`, as a section."""

import re
import subprocess

from report import Figure, Table
from throwaway import PROJECT, ServerError

THREADS = ("1", "2", "4", "8", "16")
NANOSECONDS = {"ns": 1, "µs": 1e3, "ms": 1e6}
# What the benchmarks of crates/core/benches are about.
CLAIMS = {
    "fixed_clock": "claim of {} slots, no clock read",
    "system_clock": "claim of {} slots, std's clock",
    "one_id_by_blocks_of": "one id, by blocks of {}",
}
SINGLE = {
    "decode": "id to its parts",
    "encode": "parts to an id",
    "fill": "{} claimed slots to ids",
    "to_base62": "id to base62",
    "from_base62": "base62 to id",
    "to_base32": "id to base32",
    "from_base32": "base32 to id",
}


class Core:
    name = "core"
    title = "The core alone"

    def measure(self, bench):
        command = ["cargo", "bench", "--quiet", "-p", "snowflake-core", "--bench", "core", "--"]
        # A trial takes those that need no threads.
        command += ["--skip", "claims"] if bench.quick else []
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
        found = medians(done.stdout)
        if missing := SINGLE.keys() - {key.split()[1] for key in found}:
            raise ServerError(f"divan has not told of {', '.join(sorted(missing))}:\n{done.stdout}")
        return {"rounds": found}

    def tables(self, data):
        found = data["rounds"]
        claims, single = [], []
        for name, what in CLAIMS.items():
            for slots in ("1", "16", "64"):
                times = [found.get(f"claims {name} {slots} t={threads}") for threads in THREADS]
                if None not in times:
                    rates = [f"{1e3 * int(threads) / ns:.0f}" for threads, ns in zip(THREADS, times)]
                    cells = [f"{ns:.1f} ({rate})" for ns, rate in zip(times, rates)]
                    claims.append([what.format(slots), *cells])
        for key, ns in found.items():
            _, name, *arguments = key.split()
            if name in SINGLE:
                single.append([SINGLE[name].format(*arguments), Figure([ns], ".1f")])
        tables = [Table("ns, one thread.", ["what", "ns"], single)]
        if claims:
            text = (
                "Threads that claim from one allocator as fast as they can: ns of one thread's call, waiting for a "
                "core included; in parentheses the million calls per second of all threads together."
            )
            tables.insert(0, Table(text, ["what", "1 thread", *(f"{n} threads" for n in THREADS[1:])], claims))
        return tables


def medians(output):
    """The medians, in ns, that divan prints, by the names on the way from its tree's root, with blanks between."""
    found, path = {}, []
    for line in output.splitlines():
        match = re.match(r"([ │├╰]*)[├╰]─ (\S+)", line)
        if not match:
            continue
        path = [*path[: len(match.group(1)) // 3], match.group(2)]
        median = re.match(r"\s*([\d.]+) (ns|µs|ms)", line.split("│ ")[-4] if line.count("│") >= 5 else "")
        if median:
            found[" ".join(path)] = float(median.group(1)) * NANOSECONDS[median.group(2)]
    return found
