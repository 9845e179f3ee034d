"""How is measured: variants that take turns, backends that start together, and what a node needs for that."""

import contextlib
import json
import random
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import candidates
import numpy
import psycopg
from throwaway import (
    Installation,
    Server,
    ServerError,
    compile_library,
    forget_libpq_variables,
)

CEILING = 4096  # ids per millisecond of the default layout
LIFTED = "1h"  # no run gets as far ahead of the clock as this
HELD = "0"

SETTINGS = {
    "shared_preload_libraries": "snowflake_id",
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


def program(main):
    """Run a program of this folder."""
    forget_libpq_variables()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
    except (ServerError, psycopg.Error) as error:
        sys.exit(f"bench: {error}")


@dataclass
class Bench:
    """What sections are given: a server's programs, and how much time to take."""

    installation: Installation
    quick: bool = False
    rounds_wanted: int = 0

    def rounds(self, usual, quick):
        """How often a section measures everything."""
        return self.rounds_wanted or (quick if self.quick else usual)

    def known(self, wanted):
        """Those of the candidates that this server has."""
        return [each for each in wanted if each.since <= self.installation.major]

    @contextlib.contextmanager
    def node(self, under=(), **settings):
        """A server with the extension and what it is compared with. Settings: __ stands for a dot."""
        library = self.installation.root / "floor.so"
        if not library.exists():
            compile_library(Path(__file__).with_name("floor.c"), library, [self.installation.headers])
        preload = {"shared_preload_libraries": f"snowflake_id, {library}"}
        settings = {name.replace("__", "."): value for name, value in settings.items()}
        with Node(self.installation, {**SETTINGS, **preload, **settings}, under) as node:
            node.connection.execute(candidates.CREATE.replace("'floor'", f"'{library}'"))
            yield node


class Node:
    """A server with the extension, and a connection to it. `under`: see throwaway.Server."""

    def __init__(self, installation, settings, under=()):
        self.server = Server(installation, settings, under=under)
        self._close = contextlib.ExitStack()

    def __enter__(self):
        # Under another program it takes its time.
        self._close.enter_context(self.server.start(wait=300))
        self.connection = self.connect()
        self.connection.execute("CREATE EXTENSION snowflake_id")
        return self

    def __exit__(self, *_):
        self._close.close()

    def connect(self):
        """A further connection, which ends with the node."""
        connection = psycopg.connect(self.server.conninfo(), autocommit=True, prepare_threshold=None)
        return self._close.enter_context(connection)

    def one(self, sql):
        """The only value of a statement."""
        [value] = self.connection.execute(sql).fetchone()
        return value

    def seconds(self, sql):
        """How long a statement takes, from its dispatch to its result, which is one row or none."""
        begin = time.perf_counter()
        self.connection.execute(sql)
        return time.perf_counter() - begin

    def settle(self):
        """Wait until the clock has caught up with the node's ids."""
        lead = "SELECT extract(epoch FROM snowflake_timestamp(snowflake_nextval()) - clock_timestamp())::float8"
        while (ahead := self.one(lead)) > 0:
            time.sleep(ahead)

    def set_max_ahead(self, value, others=()):
        """Let the node's ids run ahead by so much. `others` are connections that shall know it, too."""
        if self.server.settings["snowflake_id.max_ahead"] != value:
            self.server.configure({"snowflake_id.max_ahead": value})
            self.server.reload()
        for connection in self.connection, *others:
            while connection.execute("SHOW snowflake_id.max_ahead").fetchone() != (value,):
                time.sleep(0.01)

    def set_block(self, block, others=()):
        """Set snowflake_id.backend_block for the connection, and others."""
        for connection in self.connection, *others:
            connection.execute(f"SET snowflake_id.backend_block = {block}")


def loop(expression, n):
    """A statement that computes an expression n times.

    generate_series stands in the select list, where it streams. In FROM it would first fill
    a store with rows, which is dearer than most of what is measured here.
    """
    return f"SELECT count({expression}) FROM (SELECT generate_series(1, {n}) AS i) AS s"


EMPTY_LOOP = "(empty loop)"


def interleaved(variants, run, rounds):
    """For each round, what `run` returned for each variant, by its name.

    Each round has an order of its own, so that none always comes behind the same other one.
    """
    names = list(variants)
    result = []
    for n in range(rounds):
        taken = {name: run(name) for name in random.Random(n).sample(names, len(names))}
        # As JSON has names: so that results are the same before they are stored and after.
        result.append({str(name): taken[name] for name in names})
    return result


@dataclass
class Together:
    """What came of statements that ran at the same time."""

    rows: list
    seconds: float  # from the first one's start to the last one's end
    cpu: float  # seconds of CPU time that all used


def together(connections, sql):
    """Start a statement, or some with ; between them, on all connections at once, and wait for the last."""
    barrier = threading.Barrier(len(connections))

    def work(connection):
        barrier.wait()
        begin = time.perf_counter()
        results = connection.execute(sql)
        row = results.fetchone()
        while results.nextset():
            row += results.fetchone()
        return begin, time.perf_counter(), row

    cpu = sum(map(cpu_seconds, connections))
    with ThreadPoolExecutor(len(connections)) as threads:
        begins, ends, rows = zip(*threads.map(work, connections))
    return Together(list(rows), max(ends) - min(begins), sum(map(cpu_seconds, connections)) - cpu)


def cpu_seconds(connection):
    """The CPU time that a backend has used so far."""
    # The scheduler's own account, in ns: that of /proc/PID/stat is in steps of 10 ms.
    return int(Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text().split()[0]) / 1e9


def percentiles(values):
    """Those that are asked for, and the greatest: values that occurred, none between."""
    p50, p99, p999 = numpy.percentile(values, [50, 99, 99.9], method="inverted_cdf").tolist()
    return {"p50": p50, "p99": p99, "p99.9": p999, "max": int(numpy.max(values))}


def pgbench(node, sql, clients, seconds):
    """Run a statement by so many clients; transactions per second, and us from a client's result to its next."""
    installation = node.server.installation
    directory = installation.directory()
    script = directory / "script.sql"
    script.write_text(f"{sql};\n")
    script.chmod(0o644)
    command = [installation.bin("pgbench"), "-h", node.server.directory, "-p", node.server.port, "-U", "postgres"]
    command += ["-n", "-M", "prepared", "-f", script, "-c", clients, "-j", min(clients, 2), "-T", seconds]
    output = installation.run(*command, "-l", f"--log-prefix={directory}/log", "postgres")
    said = dict(line.split(" = ", 1) for line in output.splitlines() if " = " in line)
    # The log, a file for each thread, has a line for each transaction: its client, its number, us, script, and
    # when it ended: s, us. What it says that a transaction took is 0 where the result was there when pgbench
    # looked for the first time. From end to end is exact: each begins where the client's last one ended.
    taken = []
    for log in directory.glob("log.*"):
        lines = numpy.loadtxt(log, dtype=numpy.int64, usecols=(0, 4, 5), ndmin=2)
        for client in numpy.unique(lines[:, 0]):
            ends = lines[lines[:, 0] == client]
            taken.append(numpy.diff(ends[:, 1] * 1_000_000 + ends[:, 2]))
    shutil.rmtree(directory)
    if "number of failed transactions: 0 " not in output:
        raise psycopg.Error(f"pgbench: {output}")
    return {"tps": float(said["tps"].split()[0]), **percentiles(numpy.concatenate(taken))}


def wal_of(node, sql):
    """The bytes of WAL that a statement writes."""
    [plan] = node.one(f"EXPLAIN (ANALYZE, WAL, TIMING OFF, FORMAT JSON) {sql}")
    return plan["Plan"]["WAL Bytes"]


def load(path):
    """Results of earlier runs, if there are any."""
    return json.loads(path.read_text()) if path.exists() else {}


def store(path, results):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
