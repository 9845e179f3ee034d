"""Two nodes to which all happens at random, for 20 s: one seed is one list of faults. No promise may break.

Any setting is reloaded, several at once; worker ids are set, leased, and both in turn; nodes are drained and
resumed; processes are killed, servers stopped and killed, clocks set, and the network to the registry is cut.
Judged are all ids that clients received, every version of every record, and what the status says.

`make chaos` runs 100 histories; SNOWFLAKE_SEED repeats the faults of one (not how processes take turns).
"""

import collections
import contextlib
import json
import os
import random
import re
import signal
import threading
import time
from dataclasses import dataclass, field

import psycopg
import pytest
from clients import eventually
from nodes import processes, status
from registries import PostgresRegistry, Proxy
from throwaway import PATIENCE, FakeClock, Server, ServerError

CHAOS = os.environ.get("SNOWFLAKE_CHAOS") == "1"
SEED = os.environ.get("SNOWFLAKE_SEED")
HISTORIES = 1 if SEED else 100 if CHAOS else 3
SECONDS = 20

QUERIES = [
    "SELECT snowflake_nextval() FROM generate_series(1, 50)",
    "SELECT * FROM snowflake_batch(100)",
]
# What a client may be told: no ids now, and why; the server goes, or is not there; the clock is behind.
TOLERATED = {None, "55P03", "55000", "58000", "57P01", "57P02", "57P03"}
# As many pairs of a failed call and a status that knows of nothing are no coincidence any more.
BLIND = 20
SLOT = "SELECT pg_create_logical_replication_slot('records', 'test_decoding')"
RECORDS = "SELECT data FROM pg_logical_slot_get_changes('records', NULL, NULL)"
MARKS = "snowflake_id_node.high_water_marks"


def slot_of(number):
    """Where an id of the default layout stands in the order of its node, whatever the worker id is."""
    return (number >> 22) << 12 | number & 4095


def worker_of(number):
    return number >> 12 & 1023


@dataclass
class Call:
    """A statement: when it began and ended, and the ids that arrived."""

    begun: float
    ended: float = 0
    ids: list = field(default_factory=list)


@dataclass
class Drained:
    """A time in which the node was drained, as whoever did it was told."""

    since: float
    until: float = float("inf")


class Node:
    """A server under load, what its clients received, and what was done to it."""

    def __init__(self, server, clock, proxy, place, first):
        self.server, self.clock, self.proxy, self._place = server, clock, proxy, place
        # Worker ids that are set by hand: nobody else's, and none that is leased.
        self._numbers = range(first, first + 8)
        self.calls, self.errors, self.drained, self.wrong = [], collections.Counter(), [], []
        self.done = collections.Counter()
        self.offset = 0
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._session, args=[query]) for query in QUERIES]
        self._threads.append(threading.Thread(target=self._watch))

    def connect(self, **options):
        return psycopg.connect(self.server.conninfo(), autocommit=True, connect_timeout=10, **options)

    # What clients see

    def begin(self):
        for thread in self._threads:
            thread.start()

    def end(self):
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a session does not end"

    def _while_connected(self, work):
        """Calls work(connection) until the end, with a new connection whenever one is lost."""
        while not self._ended.is_set():
            try:
                with contextlib.closing(self.connect()) as connection:
                    while not self._ended.is_set() and not connection.broken:
                        work(connection)
            except psycopg.Error:
                self._ended.wait(0.05)

    def _session(self, query):
        def work(connection):
            call = Call(time.monotonic())
            try:
                # Row by row: an id counts also where the statement then fails.
                for row in connection.cursor().stream(query):
                    call.ids.append(row[0])
            except psycopg.Error as error:
                self.errors[error.sqlstate] += 1
            call.ended = time.monotonic()
            if call.ids:
                self.calls.append(call)
            self._ended.wait(0.01)

        self._while_connected(work)

    def _watch(self):
        """Whether the status knows of what calls meet, and whether what was received lies below the record."""
        blind = 0

        def work(connection):
            nonlocal blind
            try:
                (number,) = connection.execute("SELECT snowflake_nextval()").fetchone()
            except psycopg.Error as error:
                if connection.broken:
                    raise
                blind = blind + 1 if (row := status(connection)).state == "ready" else 0
                if blind == BLIND:
                    self.wrong.append(f"the status is {row.state} while calls fail with {error}")
            else:
                blind = 0
                marks = connection.execute(f"SELECT reserved_until FROM {MARKS}").fetchall()
                if not any(slot_of(number) < slot_of(mark) for (mark,) in marks):
                    self.wrong.append(f"id {number} is not below the record: {marks}")
            self._ended.wait(0.02)

        self._while_connected(work)

    # What happens to it

    def reload(self, chance):
        """Some settings at once."""
        settings = {}
        for name in chance.sample(list(SETTINGS), chance.choice([1, 1, 2, 3, 6])):
            settings[name] = chance.choice(SETTINGS[name])
        if chance.random() < 0.5:
            settings |= self.source(chance)
        self.configure(settings)

    def source(self, chance):
        """Where the worker id comes from: set, leased; sometimes neither, or both."""
        settings = {"worker_id": chance.choice(self._numbers), "registry": None}
        if self.proxy:
            leased = {"worker_id": None, "registry": self._place, "worker_id_range": chance.choice(["0-99", "0-49", "40-99"])}
            settings = chance.choice([settings, leased, leased])
            if chance.random() < 0.1:
                settings = {"worker_id": chance.choice(self._numbers), "registry": self._place}
        if chance.random() < 0.05:
            settings = {"worker_id": None, "registry": None}
        return settings

    def configure(self, settings):
        self.server.configure({f"snowflake_id.{name}": value for name, value in settings.items()})
        if self.server.running():
            self.server.reload()

    def order(self, function):
        """Ask for something, and say whether it was done; None where nobody knows."""
        try:
            with contextlib.closing(self.connect()) as admin:
                admin.execute(f"SELECT snowflake_{function}()")
                return True
        except psycopg.Error as error:
            return False if error.sqlstate in ("55000", "55P03", "58000") else None

    def drain(self, _chance):
        if self.order("drain") and not (self.drained and self.drained[-1].until == float("inf")):
            self.drained.append(Drained(time.monotonic()))

    def resume(self, _chance):
        # From when it is asked: what becomes of it, the answer may not say.
        if self.drained:
            self.drained[-1].until = min(self.drained[-1].until, time.monotonic())
        self.order("resume")

    def release(self, _chance):
        self.order("release_worker_id")

    def accept(self, _chance):
        self.order("accept_clock")

    def step(self, chance):
        """The clock is set, by less than a crash would have anybody wait."""
        self.offset = max(-2, min(2, self.offset + chance.choice([-0.7, -0.2, -0.003, 0.05, 0.3, 0.8])))
        self.clock.offset(self.offset)

    def signal(self, title, *signals, between=0.0):
        """Send signals to one of its processes."""
        for pid in processes(self.server, title)[:1]:
            for number in signals:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                time.sleep(between)

    def terminate_keeper(self, _chance):
        self.signal("keeper", signal.SIGTERM)

    def cancel_keeper(self, chance):
        self.signal("keeper", *[signal.SIGINT] * chance.choice([1, 5]), between=0.01)

    def freeze_keeper(self, chance):
        self.signal("keeper", signal.SIGSTOP, signal.SIGCONT, between=chance.uniform(0.1, 1.5))

    def kill_keeper(self, _chance):
        self.signal("keeper", signal.SIGKILL)

    def kill_session(self, _chance):
        self.signal(r"^postgres: postgres ", signal.SIGKILL)

    def kill(self, chance):
        self.server.kill9()
        self.start(chance)

    def stop(self, chance):
        self.server.stop(chance.choice(["fast", "fast", "immediate"]))
        self.start(chance)

    def start(self, chance):
        if chance.random() < 0.5:
            self.step(chance)
        if chance.random() < 0.3:
            self.reload(chance)
        self.server.start()

    def cut(self, chance):
        if self.proxy:
            chance.choice([self.proxy.cut, self.proxy.refuse])()

    def heal(self, _chance):
        if self.proxy:
            self.proxy.heal()

    def calm(self):
        """All that was done is undone: ids must flow."""
        self.heal(None)
        # Never back: it would have to be waited for.
        self.clock.offset(max(self.offset, 2))
        self.server.wait_ready()
        leased = {"worker_id": None, "registry": self._place, "worker_id_range": "0-99"}
        by_hand = {"worker_id": self._numbers[0], "registry": None}
        self.configure({name: values[0] for name, values in SETTINGS.items()} | (leased if self.proxy else by_hand))
        self.resume(None)

        def flows():
            if self.drained and self.order("resume") is None:
                return False
            with contextlib.suppress(psycopg.Error), contextlib.closing(self.connect()) as connection:
                (number,) = connection.execute("SELECT snowflake_nextval()").fetchone()
                return status(connection).state == "ready" and number
            return False

        eventually(flows, "ids flow when all faults have ended")

    # What is judged

    def judge(self):
        """Order, drains and records: all ids, what is wrong, and how many versions the record had."""
        wrong = self.wrong[:]
        begins = sorted(self.calls, key=lambda call: call.begun)
        ends = iter(sorted(self.calls, key=lambda call: call.ended))
        ended, last = next(ends, None), -1
        for call in begins:
            while ended and ended.ended < call.begun:
                last = max(last, ended.ids[-1])
                ended = next(ends, None)
            if call.ids != sorted(set(call.ids)):
                wrong.append(f"the ids of one statement do not increase: {call.ids[:3]}…")
            if call.ids[0] <= last:
                wrong.append(f"id {call.ids[0]} came after {last}, which had been received before it was asked for")
        for drained in self.drained:
            for call in begins:
                if drained.since < call.begun and call.ended < drained.until:
                    wrong.append(f"id {call.ids[0]} was generated while the node was drained")
        # Of each worker id: the greatest mark that was ever committed for it.
        with contextlib.closing(self.connect()) as connection:
            changes = [data for (data,) in connection.execute(RECORDS)]
        marks = collections.defaultdict(int)
        for change in changes:
            if f"table {MARKS}: " in change and (mark := re.search(r"reserved_until\[bigint\]:(\d+)", new(change))):
                worker_id = re.search(r"worker_id\[integer\]:(\d+)", new(change).replace("datacenter_id", ""))
                if worker_id:
                    marks[int(worker_id[1])] = max(marks[int(worker_id[1])], int(mark[1]))
        ids = [number for call in self.calls for number in call.ids]
        for number in ids:
            if number >= marks[worker_of(number)]:
                wrong.append(f"id {number} is below no record of its worker id {worker_of(number)}")
                break
        assert len(marks) > 0
        return ids, wrong, sum(f"table {MARKS}: " in change for change in changes)


def new(change):
    """The new row of what test_decoding says of a change."""
    return change.rpartition("new-tuple:")[2]


SETTINGS = {
    # The first of each is as calm as can be.
    "reservation": ["1s", "100ms", "200ms", "3s"],
    "max_ahead": ["0", "500ms", "2s"],
    "promotion_guard": ["1s", "0", "2s"],
    "max_clock_jump": ["1d", "0", "10s"],
    "max_clock_error": ["0", "1h"],
    "max_wait": ["5s", "0", "100ms"],
    "sample_rate": ["0", "1", "0.01"],
    "sample_retention": ["1d", "0"],
    "max_batch": ["1000000", "1000"],
    "heartbeat": ["300ms", "100ms", "1s"],
    "lease_duration": ["1h", "3s", "10s"],
    "datacenter_id": [None, "0"],
}

# How often each happens, relative to each other.
FAULTS = {
    "reload": 30,
    "drain": 6,
    "resume": 8,
    "release": 4,
    "accept": 2,
    "step": 6,
    "terminate_keeper": 3,
    "cancel_keeper": 3,
    "freeze_keeper": 3,
    "kill_keeper": 2,
    "kill_session": 2,
    "kill": 3,
    "stop": 5,
    "cut": 4,
    "heal": 6,
}


@pytest.fixture(scope="session")
def leases(installation):
    """A registry for all histories, each under a name of its own."""
    with PostgresRegistry(installation) as registry:
        yield registry


def start(installation, stack, name, first, place=None, proxy=None):
    """A node of a history. `first` is the first of the worker ids that are its own.

    Its sessions claim no blocks: what one holds back would come after greater ids of others.
    """
    settings = {"worker_id": None if place else first, "registry": place, "heartbeat": "300ms"}
    settings = {f"snowflake_id.{name}": value for name, value in settings.items()}
    clock = FakeClock(installation.directory() / f"clock{name}")
    postgres = {"restart_after_crash": "on", "wal_level": "logical"}
    server = Server(installation, {**settings, **postgres}, clock=clock)
    stack.callback(server.remove)
    server.start()
    # Before there is one, what its first version says would be lost.
    server.psql(SLOT)
    server.psql("CREATE EXTENSION snowflake_id")
    return Node(server, clock, proxy, place, first)


@pytest.mark.parametrize("history", range(HISTORIES))
def test_a_history(installation, leases, history):
    """Nothing that is promised breaks; in the end ids flow."""
    seed = int(SEED) if SEED else random.randrange(10**8) * 3 + history % 3
    if installation.lacks("test_decoding"):
        pytest.skip("this server has no test_decoding")
    chance = random.Random(seed)
    # Two of three lease, from a registry of their own, each node behind a network of its own.
    leased = seed % 3 > 0
    with contextlib.ExitStack() as stack:
        nodes = []
        for number in range(2):
            proxy = stack.enter_context(Proxy(leases.port)) if leased else None
            place = leases.address(f"chaos{seed}", port=proxy.port) if leased else None
            nodes.append(start(installation, stack, number, 100 + 10 * number, place, proxy))
        faults = collections.Counter()
        for node in nodes:
            node.begin()
            stack.callback(node.end)
        end = time.monotonic() + SECONDS
        story = []
        while time.monotonic() < end:
            time.sleep(chance.choice([0, 0.1, 0.3, 1]))
            node = chance.choice(nodes)
            (fault,) = chance.choices(list(FAULTS), list(FAULTS.values()))
            story.append((round(time.monotonic() - end + SECONDS, 1), node.server.directory.name, fault))
            if not fault.startswith(("kill", "stop")):
                # One of these may have killed the server a moment ago.
                with contextlib.suppress(ServerError):
                    node.server.wait_ready()
            getattr(node, fault)(chance)
            faults[fault] += 1
        for node in nodes:
            node.calm()
        # So that there are ids of a calm node as well.
        for node in nodes:
            enough = len(node.calls) + 20
            eventually(lambda node=node, enough=enough: len(node.calls) > enough, "sessions have ids again")
            node.end()
        judged = [node.judge() for node in nodes]
        crashes = [line for node in nodes for line in node.server.crashes()]
        errors = sum((node.errors for node in nodes), collections.Counter())
    everything = [number for ids, _, _ in judged for number in ids]
    twice = len(everything) - len(set(everything))
    wrong = [sentence for _, wrong, _ in judged for sentence in wrong]
    records = sum(records for _, _, records in judged)
    print(
        f"seed {seed}: {len(everything)} ids of 2 nodes, {'leased and set' if leased else 'set'}, {records} records, "
        f"{sum(faults.values())} faults: {twice} duplicates, {len(wrong)} violations"
    )
    assert (twice, wrong, crashes) == (0, [], []), f"seed {seed}: {json.dumps(story)}"
    assert set(errors) <= TOLERATED, errors
