"""Clients of a sharded cluster that write down what they were told, and what becomes of the rows."""

import io
import itertools
import threading
import time

import numpy
import psycopg
from clients import eventually
from cluster import DATABASE, conninfo
from throwaway import PATIENCE

LINES = 50  # rows of a statement
# A row's number: client, statement, line. The tables have it as the customer.
CLIENT, TURN = 10**9, 100
INSERT = f"""
    INSERT INTO orders (customer, amount) SELECT %s + line, line FROM generate_series(1, {LINES}) AS line RETURNING id
"""


class Writer(threading.Thread):
    """One client. A statement is tried once: one that ended with an error may have left rows, as no two shards commit together."""

    def __init__(self, number, source, stop):
        super().__init__(daemon=True)
        self.known, self.unknown, self.times, self.errors = {}, set(), [], []
        self._number, self._source, self._stop_now = number, source, stop

    def run(self):
        connection = None
        for turn in itertools.count(1):
            if self._stop_now.is_set():
                break
            first = self._number * CLIENT + turn * TURN
            try:
                if connection is None or connection.closed:
                    # PgBouncer 1.18 knows no prepared statements between transactions.
                    connection = psycopg.connect(self._source, autocommit=True, prepare_threshold=None, connect_timeout=10)
                ids = [row[0] for row in connection.execute(INSERT, [first]).fetchall()]
            except psycopg.Error as error:
                self.unknown.add(first)
                self.errors.append((time.monotonic(), error))
                if connection is not None:
                    connection.close()
                time.sleep(0.05)
                continue
            self.known[first] = ids
            self.times.append(time.monotonic())
        if connection is not None:
            connection.close()


class Storm:
    """Many clients, until the `with` block ends."""

    def __init__(self, source, clients):
        self._stop = threading.Event()
        self.writers = [Writer(number, source, self._stop) for number in range(1, clients + 1)]
        self.began = time.monotonic()
        self.events = []

    def rows(self):
        """How many rows clients know to be there."""
        return LINES * sum(len(writer.times) for writer in self.writers)

    def wait_for(self, rows, seconds=PATIENCE):
        """Wait until so many more are there."""
        goal = self.rows() + rows
        eventually(lambda: self.rows() >= goal, f"{rows} more rows: {[str(e) for _, e in self.errors()[-3:]]}", seconds)

    def errors(self):
        return sorted((error for writer in self.writers for error in list(writer.errors)), key=lambda error: error[0])

    def event(self, what):
        """Note that something happens now."""
        self.events.append((time.monotonic(), what))

    def __enter__(self):
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for writer in self.writers:
            writer.join(PATIENCE)
            assert not writer.is_alive(), "a client does not end"
        self.ended = time.monotonic()

    def report(self):
        """The curve of throughput and, for each event, the longest time in which no client got a row."""
        times = numpy.sort(numpy.concatenate([numpy.array(writer.times) for writer in self.writers]))
        edges = numpy.linspace(self.began, self.ended, 25)
        rates = numpy.histogram(times, edges)[0] * LINES / (edges[1] - edges[0])
        print(f"{self.rows()} rows by {len(self.writers)} clients in {self.ended - self.began:.0f} s")
        print("rows per second: " + " ".join(f"{rate:.0f}" for rate in rates))
        ends = [at for at, _ in self.events[1:]] + [self.ended]
        for (at, what), end in zip(self.events, ends, strict=True):
            within = times[(times >= at) & (times <= end)]
            gap = numpy.diff(numpy.concatenate([[at], within, [end]])).max()
            failed = sum(at <= when < end for when, _ in self.errors())
            print(f"{at - self.began:6.1f} s: {what}: at most {gap:.2f} s without a row for anybody, {failed} statements failed")

    def judge(self, shards):
        """Each id that a client got is there once, in its row; a statement that failed has left each of its rows once at most."""
        ids, rows = stored(shards)
        assert numpy.unique(ids).size == ids.size, "an id is there twice"
        assert numpy.unique(rows).size == rows.size, "a row is there twice"
        known_ids = numpy.array([i for w in self.writers for got in w.known.values() for i in got])
        known_rows = numpy.array(
            [first + line for w in self.writers for first in w.known for line in range(1, LINES + 1)]
        )
        assert numpy.unique(known_ids).size == known_ids.size, "an id was given twice"
        order = numpy.argsort(ids)
        ids, rows = ids[order], rows[order]
        # A statement's ids come in the order of its lines.
        at = numpy.searchsorted(ids, known_ids).clip(max=ids.size - 1)
        missing = known_ids[ids[at] != known_ids]
        assert not missing.size, f"{missing.size} ids are lost, such as {missing[:5]}"
        assert (rows[at] == known_rows).all(), "an id is in another row"
        others = numpy.ones(ids.size, bool)
        others[at] = False
        unknown = numpy.array(sorted(first for w in self.writers for first in w.unknown) or [0])
        assert numpy.isin(rows[others] - rows[others] % TURN, unknown).all(), "there are rows that nobody wrote"
        print(f"{known_ids.size} ids known, each there once; {others.sum()} rows of {len(unknown)} statements that failed")


def stored(shards):
    """Ids and row numbers of all shards."""
    text = io.BytesIO()
    for shard in shards:
        with (
            psycopg.connect(conninfo(shard, DATABASE)) as connection,
            connection.cursor() as cursor,
            cursor.copy("COPY (SELECT id, customer FROM orders) TO STDOUT (DELIMITER ' ')") as copy,
        ):
            for part in copy:
                text.write(part)
    table = numpy.fromstring(text.getvalue(), "int64", sep=" ").reshape(-1, 2)
    return table[:, 0], table[:, 1]
