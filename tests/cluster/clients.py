"""Clients that record every id they receive, committed or not, while the server is crashed under them."""

import collections
import concurrent.futures
import os
import random
import re
import signal
import subprocess
import threading
import time

import numpy
import psycopg
from throwaway import PATIENCE, clean_environment, state_of

# COPY, because psql prints its rows as they come. Of a SELECT it would print nothing
# if the connection broke before the last row.
STATEMENTS = [
    *["SELECT snowflake_nextval();"] * 40,
    *["COPY (SELECT snowflake_nextval() FROM generate_series(1, 1000)) TO STDOUT;"] * 5,
    *["COPY (SELECT * FROM snowflake_batch(5000)) TO STDOUT;"] * 3,
]

# The clocks of two processes are compared, and an id's tick begins up to 1 ms before the id is generated.
TICK = 0.001

Run = collections.namedtuple("Run", "round client ids")


def eventually(condition, what="what was waited for", seconds=PATIENCE):
    """Wait until a condition holds, and return what made it hold."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return value


def suspend(pid):
    """Stop a process with SIGSTOP, and wait until all its threads have."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: state_of(pid) in "TZX")


class Clients:
    """Several clients that take ids from a server until the `with` block ends.

        with Clients(server) as clients:
            clients.wait_for(100_000)
            ...
        ids = clients.distinct()

    A client is psql, run again and again: eight of them take more ids than two
    processors can make, where Python's threads would take a tenth. A run ends with
    its statements, or with the first error, which is counted in `errors` by its
    SQLSTATE. Every other run is a transaction that is not committed; every other
    client claims ids in blocks. `round` is what the runs that begin now are filed
    under: the number of crashes so far, say.
    """

    def __init__(self, server, number=8):
        self.round = 0
        self.errors = collections.Counter()
        self._server = server
        self._runs = []
        self._ended = threading.Event()
        self._number = number

    def __enter__(self):
        pool = concurrent.futures.ThreadPoolExecutor(self._number)
        self._loops = [pool.submit(self._loop, n) for n in range(self._number)]
        pool.shutdown(wait=False)
        return self

    def __exit__(self, *_):
        self._ended.set()
        for loop in self._loops:
            loop.result()

    @property
    def received(self):
        """The number of ids received in runs that have ended."""
        return sum(run.ids.size for run in list(self._runs))

    @property
    def received_now(self):
        """Those of runs that began in the present round."""
        return sum(run.ids.size for run in list(self._runs) if run.round == self.round)

    def wait_for(self, more):
        """Wait until this many further ids have been received."""
        enough = self.received + more
        eventually(lambda: self.received >= enough or any(loop.done() for loop in self._loops))

    def distinct(self):
        """All ids, sorted, if none was received twice; else the assertion says who received which."""
        for run in self._runs:
            assert (numpy.diff(run.ids) > 0).all(), f"client {run.client}: ids of one session do not increase"
        ids = numpy.concatenate([run.ids for run in self._runs])
        distinct, times = numpy.unique(ids, return_counts=True)
        twice = distinct[times > 1]
        places = [
            f"{number} (worker id {number >> 12 & 1023}) by "
            + " and ".join(f"client {run.client} in round {run.round}" for run in self._runs if number in run.ids)
            for number in twice[:5]
        ]
        assert not twice.size, f"{twice.size} of {ids.size} ids were received twice, such as {'; '.join(places)}"
        return distinct

    def _loop(self, client):
        chance = random.Random(client)
        command = [self._server.installation.bin("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]
        command += ["-d", self._server.conninfo()]
        while not self._ended.is_set():
            script = chance.sample(STATEMENTS, len(STATEMENTS))
            script.insert(0, f"SET snowflake_id.backend_block = {1 if client % 2 else 64};")
            if chance.random() < 0.5:
                script.insert(0, "BEGIN;")
            current = self.round
            psql = subprocess.run(
                command,
                input="\n".join(script).encode(),
                env=clean_environment(),
                capture_output=True,
                check=False,
                timeout=PATIENCE,
            )
            # What has arrived counts, whatever became of the statement.
            self._runs.append(Run(current, client, numpy.fromstring(psql.stdout, "int64", sep="\n")))
            if psql.returncode:
                message = psql.stderr.decode()
                state = re.search(r"(?:ERROR|FATAL|WARNING):  (\w{5}): ", message)
                # psql's exit status says so if the connection broke or was not made.
                assert state or psql.returncode == 2, message
                self.errors[state[1] if state else "no connection"] += 1
                self._ended.wait(0.02)


class Load:
    """Sessions that ask for ids until they are stopped or lose the server.

    Each id that arrived is kept, also if its transaction was rolled back afterwards or
    was lost: every other one is rolled back. An error is kept and the query tried again.
    """

    def __init__(self, server, *queries):
        self._server = server
        self._stop = threading.Event()
        self._received = [[] for _ in queries]
        self.errors = [[] for _ in queries]
        self.lost = []
        self._threads = [
            threading.Thread(target=self._session, args=parts)
            for parts in zip(queries, self._received, self.errors, strict=True)
        ]

    def _session(self, query, ids, errors):
        connection = None
        turn = 0
        try:
            connection = psycopg.connect(self._server.conninfo())
            while not self._stop.is_set():
                turn += 1
                try:
                    # Row by row: an id counts as received even if the statement then fails.
                    for row in connection.cursor().stream(query):
                        ids.append(row[0])
                    if turn % 2:
                        connection.commit()
                    else:
                        connection.rollback()
                except psycopg.Error as error:
                    if connection.broken or connection.closed:
                        raise
                    errors.append(error)
                    connection.rollback()
                    time.sleep(0.01)
        except psycopg.Error as error:
            self.lost.append(error)
        finally:
            if connection:
                connection.close()

    def ids(self):
        """All ids received so far."""
        return [number for part in self._received for number in list(part)]

    def count(self):
        return sum(map(len, self._received))

    def wait_for(self, number):
        """Wait until so many further ids have been received by each session."""
        goals = [len(part) + number for part in self._received]
        eventually(lambda: all(len(part) >= goal for part, goal in zip(self._received, goals, strict=True)))

    def stop(self):
        """End the sessions; all ids that they received."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a session does not end"
        return self.ids()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
