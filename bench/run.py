"""What ids cost: `make bench`.

Figures for people, not a test: nothing fails if one is bad. What the project demands
of itself is printed beside the figures that it is about.

All figures are medians over rounds. Each round runs every variant once, in an order
that rotates, so that a machine that is busy for a while slows all of them alike.
Times are the client's, from the statement's dispatch to its result, which is one row.
"""

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests/cluster")]
from registries import Etcd, PostgresRegistry, ZooKeeper
from throwaway import PROJECT, Installation, Server, ServerError

CEILING = 4096  # ids per millisecond of the default layout
LIFTED = "1h"  # no run gets as far ahead of the clock as this
BATCH = 1_000_000  # snowflake_id.max_batch
ROWS = 1_000_000

SETTINGS = {
    "snowflake_id.worker_id": 1,
    "snowflake_id.max_ahead": LIFTED,
    # One process per statement, and nothing else at work in the meantime.
    "jit": "off",
    "max_parallel_workers_per_gather": 0,
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "8GB",
    # The rows of generate_series stay in memory: files would be most of the noise.
    "work_mem": "1GB",
}

# The function that Instagram published, on a sequence of its own.
INSTAGRAM = """
CREATE SEQUENCE instagram;
CREATE FUNCTION instagram_id(OUT result bigint) LANGUAGE plpgsql AS $$
DECLARE
    our_epoch bigint := 1314220021721;
    seq_id bigint;
    now_millis bigint;
    shard_id int := 5;
BEGIN
    SELECT nextval('instagram') % 1024 INTO seq_id;
    SELECT FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) INTO now_millis;
    result := (now_millis - our_epoch) << 23;
    result := result | (shard_id << 10);
    result := result | (seq_id);
END $$"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--calls", type=int, default=5_000_000, help="calls in one statement (default: 5000000)")
    options = parser.parse_args()
    # libpq would follow the caller's PGOPTIONS and so on.
    for variable in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[variable]
    with (
        Installation() as installation,
        Server(installation, SETTINGS) as server,
        psycopg.connect(server.conninfo(), autocommit=True) as connection,
    ):
        connection.execute("CREATE EXTENSION snowflake_id")
        preamble(installation, connection, options)
        calls(connection, options)
        ceiling(server, connection, options)
        batches(connection, options)
        decoding(connection, options)
        keeper(installation, connection, options)
        joining(installation, options)
        counting(installation, options)


def preamble(installation, connection, options):
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": unknown")
    [version] = connection.execute("SHOW server_version").fetchone()
    [extension] = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'snowflake_id'").fetchone()
    package = os.environ.get("SNOWFLAKE_PACKAGE", f"target/package/pg{installation.major}")
    print(f"machine  {model.split(': ')[1]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    print(f"server   PostgreSQL {version}, of {installation.pg_config}")
    print(f"package  snowflake_id {extension}, of {package}")
    print(f"figures  medians of {options.rounds} rounds; in brackets the least and the greatest")
    print(
        f"repeat   SNOWFLAKE_PG_CONFIG={installation.pg_config} SNOWFLAKE_PACKAGE={package} \\\n"
        f"         {sys.executable} bench/run.py --rounds {options.rounds} --calls {options.calls}"
    )


# ------------------------------------------------------------------ sections


def calls(connection, options):
    """The cost of single calls."""
    connection.execute(INSTAGRAM)
    for cache in 1, 32, 1000:
        connection.execute(f"CREATE SEQUENCE cache{cache} CACHE {cache}")
    many, few = options.calls, options.calls // 10
    variants = {
        "(empty loop)": ("i", many),
        "now()": ("now()", many),  # what any function costs
        "clock_timestamp()": ("clock_timestamp()", many),  # and one that reads the clock
        "snowflake_nextval()": ("snowflake_nextval()", many),
        "nextval(), CACHE 1": ("nextval('cache1')", many),
        "nextval(), CACHE 32": ("nextval('cache32')", many),
        "nextval(), CACHE 1000": ("nextval('cache1000')", many),
        "gen_random_uuid()": ("gen_random_uuid()", few),
        "uuidv7()": ("uuidv7()", few),
        "Instagram's PL/pgSQL": ("instagram_id()", few),
    }
    if connection.info.server_version < 180000:
        del variants["uuidv7()"]
    section(
        "1. One call, without the ceiling",
        f"SELECT count(f()) FROM generate_series(1, {many}) AS i; slow functions {few} times. The empty loop, "
        f"count(i), is subtracted; it reads a column, so that now() comes out at about nothing or less. "
        f"snowflake_id.max_ahead = {LIFTED}.",
    )
    empty, base = "(empty loop)", "nextval(), CACHE 1"

    def per_call(name):
        expression, n = variants[name]
        settle(connection)
        return seconds(connection, f"SELECT count({expression}) FROM generate_series(1, {n}) AS i") * 1e9 / n

    rounds = [dict(row) for row in interleaved(variants, per_call, options.rounds)]
    rows = []
    for name in variants:
        cost = [row[name] - (row[empty] if name != empty else 0) for row in rounds]
        ratio = [each / (row[base] - row[empty]) for each, row in zip(cost, rounds)]
        required = "< 0.25" if name == "snowflake_nextval()" else ""
        rows.append([name, spread(cost, ".0f"), spread(ratio, ".2f") if name != empty else "", required])
    table(["function", "ns per call", f"ratio to {base}", "required"], rows)


def ceiling(server, connection, options):
    """What the layout allows, and what waiting for it costs."""
    section(
        f"2. The ceiling: {CEILING} ids per millisecond",
        f"{options.calls} ids by one backend, or by eight together, with snowflake_id.max_ahead = 0. The rate is by the "
        "times in the ids, from the first of any backend to the last of any; 'together' is the share of that time in "
        "which all were at it. The rate without the ceiling is by the clock, and counts the statement as a whole. "
        "CPU is what the backends used (utime + stime), also as a share of one core.",
    )
    variants = {(backends, ahead): None for ahead in ("0", LIFTED) for backends in (1, 8)}
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(psycopg.connect(server.conninfo(), autocommit=True)) for _ in range(8)]

        def run(variant):
            count, ahead = variant
            settle(connection)
            set_max_ahead(server, [connection, *backends], ahead)
            return run_together(backends[:count], options.calls // count)

        rounds = [dict(row) for row in interleaved(variants, run, options.rounds)]
        set_max_ahead(server, [connection], LIFTED)
    rows = []
    for count, ahead in variants:
        runs = [row[count, ahead] for row in rounds]
        held = ahead == "0"
        rate = [run["ids"] / (run["ticks"] if held else run["wall"] * 1000) for run in runs]
        rows.append(
            [
                f"{count}, {'ceiling held' if held else 'ceiling lifted'}",
                spread(rate, ".0f"),
                spread([100 * each / CEILING for each in rate], ".1f", " %") if held else "",
                ">= 98 %" if held else "",
                spread([100 * run["overlap"] for run in runs], ".0f", " %") if held else "",
                spread([100 * run["cpu"] / run["wall"] for run in runs], ".0f", " %"),
                spread([1e9 * run["cpu"] / run["ids"] for run in runs], ".0f"),
            ]
        )
    table(["backends", "ids per ms", "of the ceiling", "required", "together", "CPU, of a core", "CPU ns per id"], rows)


def batches(connection, options):
    """Many ids at once."""
    connection.execute("CREATE SEQUENCE batch")
    variants = {
        "snowflake_batch_array": f"SELECT cardinality(snowflake_batch_array({BATCH}))",
        "array_agg(nextval())": f"SELECT cardinality(array_agg(nextval('batch'))) FROM generate_series(1, {BATCH})",
        "snowflake_batch, in FROM": f"SELECT count(*) FROM snowflake_batch({BATCH})",
        "generate_series, in FROM": f"SELECT count(*) FROM generate_series(1::bigint, {BATCH})",
    }
    against = {
        "snowflake_batch_array": "array_agg(nextval())",
        "snowflake_batch, in FROM": "generate_series, in FROM",
    }
    section(f"3. Batches of {BATCH}, without the ceiling", "Times are of the whole statement.")

    def run(name):
        settle(connection)
        return seconds(connection, variants[name])

    rounds = [dict(row) for row in interleaved(variants, run, options.rounds)]
    rows = []
    for name in variants:
        other = against.get(name)
        ratio = spread([row[name] / row[other] for row in rounds], ".2f") if other else ""
        rows.append([name, spread([row[name] * 1000 for row in rounds], ".1f"), ratio, f"to {other}" if other else ""])
    table(["statement", "ms", "ratio", ""], rows)


def decoding(connection, options):
    """Reading ids from a table."""
    connection.execute(f"CREATE UNLOGGED TABLE ids AS SELECT unnest(snowflake_batch_array({ROWS})) AS id")
    connection.execute("VACUUM ANALYZE ids")
    variants = {
        "id": "id",
        "snowflake_timestamp(id)": "snowflake_timestamp(id)",
        "snowflake_worker_id(id)": "snowflake_worker_id(id)",
        "(snowflake_decode(id)).worker_id": "(snowflake_decode(id)).worker_id",
        "snowflake_timestamp(id, 'twitter')": "snowflake_timestamp(id, 'twitter')",
    }
    section(f"4. Decoding a table of {ROWS} ids", "SELECT count(f(id)) FROM ids, in one process.")

    def run(name):
        return seconds(connection, f"SELECT count({variants[name]}) FROM ids")

    rounds = [dict(row) for row in interleaved(variants, run, options.rounds)]
    rows = []
    for name in variants:
        rate = [ROWS / row[name] / 1e6 for row in rounds]
        above = [(row[name] - row["id"]) * 1e9 / ROWS for row in rounds]
        rows.append([name, spread(rate, ".1f"), spread(above, ".0f") if name != "id" else ""])
    table(["expression", "million rows per s", "ns per row above the scan"], rows)


def keeper(installation, connection, options):
    """What the keeper's windows cost those who make ids."""
    section(
        "5. The keeper",
        "The same statements on two servers: one with the defaults, where the keeper reserves windows as ids are made; "
        "and one whose keeper has reserved an hour and is then stopped (SIGSTOP), so that nothing but the calls is left. "
        f"snowflake_id.max_ahead = {LIFTED}: ids use up windows several times as fast as the clock does.",
    )
    with (
        Server(installation, {**SETTINGS, "snowflake_id.reservation": "1h"}) as server,
        psycopg.connect(server.conninfo(), autocommit=True) as without,
    ):
        without.execute("CREATE EXTENSION snowflake_id")
        without.execute("SELECT snowflake_nextval()")
        [pid] = without.execute("SELECT keeper_pid FROM snowflake_status").fetchone()
        os.kill(pid, signal.SIGSTOP)
        n = options.calls
        statements = {
            "snowflake_nextval(), in a loop": f"SELECT count(snowflake_nextval()) FROM generate_series(1, {n}) AS i",
            "snowflake_batch_array, 20 times": f"SELECT sum(cardinality(snowflake_batch_array({BATCH} - i))) "
            "FROM generate_series(1, 20) AS i",
        }
        servers = {"at work": connection, "stopped": without}

        def run(variant):
            name, keeper = variant
            settle(servers[keeper])
            return seconds(servers[keeper], statements[name])

        variants = [(name, keeper) for name in statements for keeper in servers]
        rounds = [dict(row) for row in interleaved(variants, run, options.rounds)]
        os.kill(pid, signal.SIGCONT)
    rows = []
    for name in statements:
        times = {keeper: [row[name, keeper] for row in rounds] for keeper in servers}
        ratio = [a / b for a, b in zip(times["at work"], times["stopped"])]
        milliseconds = [spread([each * 1000 for each in times[keeper]], ".1f") for keeper in servers]
        rows.append([name, *milliseconds, spread(ratio, ".3f"), "<= 1.05"])
    table(["statement", "ms, keeper at work", "ms, keeper stopped", "ratio", "required"], rows)


def joining(installation, options):
    """What a node waits for when it leases a worker id."""
    section(
        "6. Joining a registry",
        "From the first connection to a number that is claimed, where none of 1,000 is taken and where all but one "
        "are. A node that has not just had the number then waits for one and a half heartbeats (15 s by default). "
        "The registry is on this machine.",
    )
    command = ["cargo", "build", "--quiet", "--release", "-p", "snowflake-registry", "--example", "join"]
    subprocess.run(command, cwd=PROJECT, check=True)
    with contextlib.ExitStack() as stack:
        registries = [stack.enter_context(kind(installation)) for kind in (PostgresRegistry, Etcd, ZooKeeper)]
        addresses = [registry.address("joining") for registry in registries]
        program = [PROJECT / "target/release/examples/join", str(options.rounds), "1000", *addresses]
        done = subprocess.run(program, capture_output=True, text=True, check=True)
    rows = []
    for line in done.stdout.splitlines():
        kind, *times = line.split()
        empty, full = (list(map(float, each.split(","))) for each in times)
        rows.append([kind, spread(empty, ".1f"), spread(full, ".1f")])
    table(["registry", "ms, empty", "ms, full"], rows)


def counting(installation, options):
    """What statistics and samples cost a call."""
    n = options.calls // 10
    section(
        "7. Counting and sampling",
        f"SELECT count(snowflake_nextval()) FROM generate_series(1, {n}) on four servers, "
        f"{20 * options.rounds} times each: with the extension as it is; with one that was compiled without its "
        "counters, and with that again, which shows what the figures are worth; and with snowflake_id.sample_rate = 0.001. "
        "The difference is that to the mean of the two without counters, round by round; its share is of a call "
        "without counters, above the empty loop.",
    )
    plain, empty = f"SELECT count(snowflake_nextval()) FROM generate_series(1, {n})", "(empty loop)"
    uncounted = Installation(installation.pg_config, without_counters(installation))
    with contextlib.ExitStack() as stack:
        stack.enter_context(uncounted)

        def connect(installation, **settings):
            server = stack.enter_context(Server(installation, {**SETTINGS, **settings}))
            connection = stack.enter_context(psycopg.connect(server.conninfo(), autocommit=True))
            connection.execute("CREATE EXTENSION snowflake_id")
            return connection

        base, again = "without counters", "without counters, again"
        connections = {
            base: connect(uncounted),
            again: connect(uncounted),
            "as it is": connect(installation),
            "sample_rate = 0.001": connect(installation, **{"snowflake_id.sample_rate": 0.001}),
        }

        def run(name):
            if name == empty:
                return seconds(connections[base], f"SELECT count(i) FROM generate_series(1, {n}) AS i") * 1e9 / n
            settle(connections[name])
            return seconds(connections[name], plain) * 1e9 / n

        rounds = [dict(row) for row in interleaved([empty, *connections], run, 20 * options.rounds)]
    without = [(row[base] + row[again]) / 2 for row in rounds]
    call = statistics.median(each - row[empty] for each, row in zip(without, rounds))
    rows = []
    for name in connections:
        difference = statistics.median(row[name] - each for each, row in zip(without, rounds))
        required = "< 3 %" if name == "as it is" else ""
        above = spread([row[name] - row[empty] for row in rounds], ".0f")
        rows.append([name, above, f"{difference:+.1f}", f"{100 * difference / call:+.1f} %", required])
    table(["extension", "ns per call", "difference, ns", "share", "required"], rows)


def without_counters(installation):
    """Build the extension with counters that do not count; where it is."""
    source, package = PROJECT / "target/uncounted", PROJECT / "target/package/uncounted"
    for tree in source / "src", source / "crates", package:
        shutil.rmtree(tree, ignore_errors=True)
    source.mkdir(parents=True, exist_ok=True)
    for name in "Cargo.toml", "Cargo.lock", "snowflake_id.control":
        shutil.copy(PROJECT / name, source)
    for name in "src", "crates":
        shutil.copytree(PROJECT / name, source / name)
    statistics_rs = source / "src/statistics.rs"
    counts = "counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);"
    text = statistics_rs.read_text()
    assert text.count(counts) == 1, "src/statistics.rs counts in another way now"
    statistics_rs.write_text(text.replace(counts, "let _ = (counter, by);"))
    command = ["cargo", "pgrx", "package", "--pg-config", installation.pg_config, "--no-default-features"]
    command += ["--features", f"pg{installation.major}", "--out-dir", package]
    environment = {
        **os.environ,
        "PGRX_PG_CONFIG_PATH": installation.pg_config,
        # Not the project's own: there, this library would stand in the place of the true one.
        "CARGO_TARGET_DIR": str(PROJECT / "target/uncounted/target"),
    }
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)
    return package


# ----------------------------------------------------------------- measuring


def interleaved(variants, run, rounds):
    """For each round, what `run` returned for each variant."""
    names = list(variants)
    for n in range(rounds):
        start = n % len(names)
        yield [(name, run(name)) for name in names[start:] + names[:start]]


def seconds(connection, sql):
    begin = time.perf_counter()
    connection.execute(sql)
    return time.perf_counter() - begin


def run_together(backends, ids):
    """Let all make ids at once; what came of it, as one."""
    # generate_series in the select list streams. In FROM it would first fill a store
    # with rows, in which time no ids are made.
    sql = f"""SELECT count(id), extract(epoch FROM snowflake_timestamp(min(id))) * 1000,
                     extract(epoch FROM snowflake_timestamp(max(id))) * 1000
              FROM (SELECT snowflake_nextval() AS id, generate_series(1, {ids})) AS s"""
    results = [None] * len(backends)
    barrier = threading.Barrier(len(backends) + 1)

    def work(n):
        barrier.wait()
        results[n] = backends[n].execute(sql).fetchone()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(backends))]
    for thread in threads:
        thread.start()
    cpu = sum(map(cpu_seconds, backends))
    barrier.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begin
    counts, first, last = zip(*results)
    ticks = int(max(last) - min(first)) + 1
    return {
        "ids": sum(counts),
        "ticks": ticks,
        "overlap": max(0, int(min(last) - max(first)) + 1) / ticks,
        "wall": wall,
        "cpu": sum(map(cpu_seconds, backends)) - cpu,
    }


def cpu_seconds(connection):
    """The CPU time that a backend has used so far."""
    # Behind the name, in parentheses, which may hold anything.
    fields = Path(f"/proc/{connection.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def settle(connection):
    """Wait until the clock has caught up with the node's ids."""
    lead = "SELECT extract(epoch FROM snowflake_timestamp(snowflake_nextval()) - clock_timestamp())::float8"
    while (ahead := connection.execute(lead).fetchone()[0]) > 0:
        time.sleep(ahead)


def set_max_ahead(server, connections, value):
    server.configure({"snowflake_id.max_ahead": value})
    server.reload()
    for connection in connections:
        while connection.execute("SHOW snowflake_id.max_ahead").fetchone() != (value,):
            time.sleep(0.01)


# ------------------------------------------------------------------ printing


def section(title, explanation):
    print(f"\n{title}\n\n{textwrap.fill(explanation, 100)}\n", flush=True)


def spread(values, form, unit=""):
    low, middle, high = (format(each, form) for each in (min(values), statistics.median(values), max(values)))
    return f"{middle}{unit} [{low} {high}]"


def table(headers, rows):
    widths = [max(map(len, column)) for column in zip(headers, *rows)]
    for row in [headers, ["-" * width for width in widths], *rows]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
    except (ServerError, psycopg.Error) as error:
        sys.exit(f"bench: {error}")
