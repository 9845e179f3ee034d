"""What stands behind the calls, and what it costs: the keeper, the registry, the counters."""

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import time

from measure import EMPTY_LOOP, SETTINGS, Node, interleaved, loop
from registries import Etcd, PostgresRegistry, ZooKeeper
from report import Figure, Table, above
from throwaway import PROJECT, Installation

WORK, STOPPED = "at work", "stopped"
STATEMENTS = {
    "snowflake_nextval(), 5,000,000 times": loop("snowflake_nextval()", 5_000_000),
    "snowflake_batch_array(1000000), 20 times": loop("snowflake_batch_array(1000000)", 20),
}


class Keeper:
    name = "keeper"
    title = "The keeper"

    def measure(self, bench):
        with bench.node() as work, bench.node(snowflake_id__reservation="1h") as stopped:
            nodes = {WORK: work, STOPPED: stopped}
            stopped.one("SELECT snowflake_nextval()")  # has the hour reserved
            pid = stopped.one("SELECT keeper_pid FROM snowflake_status")
            os.kill(pid, signal.SIGSTOP)
            try:
                variants = {f"{keeper} {name}": (keeper, name) for name in STATEMENTS for keeper in nodes}

                def run(variant):
                    keeper, name = variants[variant]
                    return nodes[keeper].seconds(STATEMENTS[name])

                return {"rounds": interleaved(variants, run, bench.rounds(25, 1))}
            finally:
                os.kill(pid, signal.SIGCONT)

    def tables(self, data):
        rounds, rows = data["rounds"], []
        for name in STATEMENTS:
            work, stopped = ([row[f"{keeper} {name}"] for row in rounds] for keeper in (WORK, STOPPED))
            rows.append(
                [
                    name,
                    Figure([1e3 * each for each in work], ".1f"),
                    Figure([1e3 * each for each in stopped], ".1f"),
                    Figure([a / b for a, b in zip(work, stopped)], ".3f", most=1.05),
                ]
            )
        return [
            Table(
                "The same statements on two servers: one with the defaults, where the keeper reserves windows as ids "
                "are made; and one whose keeper has reserved an hour and is then stopped (SIGSTOP), so that nothing "
                "but the calls is left. Ceiling lifted: ids use up windows several times as fast as the clock does.",
                ["statement", "ms, keeper at work", "ms, keeper stopped", "ratio"],
                rows,
            )
        ]


class Seldom:
    name = "seldom"
    title = "Calls that come seldom"
    every = 1.5  # seconds
    second, idle = 60, 93
    ours, theirs = "snowflake_nextval()", "bigserial"
    lsn = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8"

    def measure(self, bench):
        # As on a server that is meant to keep what it has: a commit waits for the disk.
        with bench.node(fsync="on", wal_level="minimal", max_wal_senders=0) as node:
            node.connection.execute("CREATE TABLE ours (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), note text)")
            node.connection.execute("CREATE TABLE theirs (id bigserial PRIMARY KEY, note text)")
            rounds = []
            beat = time.monotonic()
            for n in range(bench.rounds(100, 5) + 3):
                row = {}
                for name, table in (self.ours, "ours"), (self.theirs, "theirs"):
                    beat += self.every / 2
                    time.sleep(max(0, beat - time.monotonic()))
                    row[name] = node.seconds(f"INSERT INTO {table} (note) VALUES ('x')")
                # The first ones say that there will be more.
                if n >= 3:
                    rounds.append(row)
            seconds = 10 if bench.quick else self.second
            windows = "SELECT windows::float8 FROM pg_stat_snowflake"
            before, beat = node.one(windows), time.monotonic()
            for _ in range(seconds):
                beat += 1
                time.sleep(max(0, beat - time.monotonic()))
                node.one("SELECT snowflake_nextval()")
            commits = (node.one(windows) - before) / seconds
            time.sleep(60)
            before = node.one(self.lsn)
            # Nobody disturbs it.
            time.sleep(5 if bench.quick else self.idle)
            return {"rounds": rounds, "commits": commits, "wal": node.one(self.lsn) - before}

    def tables(self, data):
        rounds = data["rounds"]
        ours, theirs = ([1e3 * row[name] for row in rounds] for name in (self.ours, self.theirs))
        return [
            Table(
                "INSERT of one row: every 1.5 s one into a table whose key has this default, and 0.75 s later one into "
                "the other, by one session. fsync is on. The ratio is taken round by round.",
                ["key", "ms", "ratio to bigserial"],
                [
                    [self.ours, Figure(ours, ".2f"), Figure([a / b for a, b in zip(ours, theirs)], ".2f", most=1.1)],
                    [self.theirs, Figure(theirs, ".2f"), Figure([1.0], ".2f")],
                ],
            ),
            Table(
                "Windows and WAL: a window is a commit of the keeper. Then nobody calls; WAL is that of 93 s, from 60 s "
                "after the last call on (wal_level = minimal, so that nothing else writes any).",
                ["calls", "commits per second", "bytes of WAL"],
                [
                    ["one a second, for 60 s", Figure([data["commits"]], ".2f", most=1), ""],
                    ["none", "", Figure([data["wal"]], ",.0f", most=0)],
                ],
            ),
        ]


class Joining:
    name = "joining"
    title = "Joining a registry"

    def measure(self, bench):
        rounds = bench.rounds(5, 2)
        command = ["cargo", "build", "--quiet", "--release", "-p", "snowflake-registry", "--example", "join"]
        subprocess.run(command, cwd=PROJECT, check=True)
        with contextlib.ExitStack() as stack:
            kinds = PostgresRegistry, Etcd, ZooKeeper
            registries = [stack.enter_context(kind(bench.installation)) for kind in kinds]
            addresses = [registry.address("joining") for registry in registries]
            program = [PROJECT / "target/release/examples/join", str(rounds), "1000", *addresses]
            done = subprocess.run(program, capture_output=True, text=True, check=True)
        registries = {}
        for line in done.stdout.splitlines():
            kind, *times = line.split()
            registries[kind] = dict(zip(("empty", "full"), ([float(ms) for ms in each.split(",")] for each in times)))
        return {"rounds": registries}

    def tables(self, data):
        rows = [[kind, Figure(ms["empty"], ".1f"), Figure(ms["full"], ".1f")] for kind, ms in data["rounds"].items()]
        return [
            Table(
                "From the first connection to a number that is claimed, where none of 1,000 is taken and where all "
                "but one are. A node that has not just had the number then waits for one and a half heartbeats (15 s "
                "by default). The registry is on this machine.",
                ["registry", "ms, empty", "ms, full"],
                rows,
            )
        ]


class Counting:
    name = "counting"
    title = "Counting and sampling"
    calls = 500_000
    base, again = "without counters", "without counters, again"

    def measure(self, bench):
        installation = bench.installation
        with contextlib.ExitStack() as stack:
            uncounted = stack.enter_context(Installation(installation.pg_config, without_counters(installation)))

            def node(installation, **settings):
                return stack.enter_context(Node(installation, {**SETTINGS, **settings}))

            nodes = {
                self.base: node(uncounted),
                self.again: node(uncounted),
                "as it is": node(installation),
                "sample_rate = 0.001": node(installation, **{"snowflake_id.sample_rate": 0.001}),
            }

            def run(name):
                """In ns, of one turn of the loop."""
                if name == EMPTY_LOOP:
                    return nodes[self.base].seconds(loop("i", self.calls)) * 1e9 / self.calls
                return nodes[name].seconds(loop("snowflake_nextval()", self.calls)) * 1e9 / self.calls

            return {"rounds": interleaved([EMPTY_LOOP, *nodes], run, bench.rounds(100, 10))}

    def tables(self, data):
        rounds, rows = data["rounds"], []
        without = [(row[self.base] + row[self.again]) / 2 for row in rounds]
        call = statistics.median(each - row[EMPTY_LOOP] for each, row in zip(without, rounds))
        for name in rounds[0]:
            if name == EMPTY_LOOP:
                continue
            more = [row[name] - each for each, row in zip(without, rounds)]
            counted = name == "as it is"
            rows.append(
                [
                    name,
                    Figure(above(rounds, name, EMPTY_LOOP), ".1f"),
                    Figure(more, "+.1f"),
                    Figure([100 * each / call for each in more], "+.1f", " %", below=3 if counted else None),
                ]
            )
        return [
            Table(
                f"{loop('snowflake_nextval()', self.calls)} on four servers: with the extension as it is; with one "
                "that was compiled without its counters, and with that again, which shows what the figures are "
                "worth; and with snowflake_id.sample_rate = 0.001. The difference is that to the mean of the two "
                "without counters, round by round; its share is of a call without counters, above the empty loop.",
                ["extension", "ns per call", "difference, ns", "share"],
                rows,
            )
        ]


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
