"""What generating ids costs inside one statement: one at a time, by many at once, many at once."""

from candidates import (
    CLOCK,
    CLOCK_CAS,
    EMPTY,
    FLOORS,
    IDS,
    INSTAGRAM,
    NEXTVAL,
    NEXTVAL_1000,
    SNOWFLAKE,
    SNOWFLAKE_64,
    SNOWFLAKE_AFTER,
    UUID,
    UUID7,
)
from measure import EMPTY_LOOP, interleaved, loop, together
from report import Figure, Table, above, ratio


class Calls:
    name = "calls"
    title = "One call"
    candidates = (*FLOORS, *IDS, SNOWFLAKE_AFTER, UUID, UUID7, INSTAGRAM)

    def measure(self, bench):
        calls = 200_000
        with bench.node() as node:
            known = {each.name: each for each in bench.known(self.candidates)}

            def run(name):
                """In ns, of one turn of the loop."""
                if name == EMPTY_LOOP:
                    return node.seconds(loop("i", calls)) * 1e9 / calls
                each = known[name]
                node.set_block(each.block)
                return node.seconds(loop(each.call, calls)) * 1e9 / calls

            return {
                "calls": calls,
                "rounds": interleaved([EMPTY_LOOP, *known], run, bench.rounds(50, 15)),
            }

    def tables(self, data):
        rounds, rows = data["rounds"], []
        for name in rounds[0]:
            ours = name == SNOWFLAKE.name
            if name == EMPTY_LOOP:
                rows.append([name, Figure([row[name] for row in rounds], ".0f"), "", "", ""])
                continue
            over_floor = [row[name] - row[CLOCK_CAS.name] for row in rounds]
            rows.append(
                [
                    name,
                    Figure(above(rounds, name, EMPTY_LOOP), ".1f"),
                    Figure(ratio(rounds, name, NEXTVAL.name, EMPTY_LOOP), ".3f", most=0.18 if ours else None),
                    Figure(ratio(rounds, name, NEXTVAL_1000.name, EMPTY_LOOP), ".3f", most=0.65 if ours else None),
                    Figure(over_floor, ".1f", most=10 if ours else None) if "snowflake" in name else "",
                ]
            )
        return [
            Table(
                f"One backend, ceiling lifted: SELECT count(f()) FROM (SELECT generate_series(1, {data['calls']}) AS "
                "i) AS s. The empty loop has i in the place of f(), and is subtracted.",
                [
                    "function",
                    "ns per call",
                    "ratio to nextval(), CACHE 1",
                    "ratio to nextval(), CACHE 1000",
                    "ns above clock and compare-and-swap",
                ],
                rows,
            )
        ]


# Calls of each backend. What is slow when it is contended has fewer, so that all take about as long.
USUAL, FEWER = 1_500_000, {NEXTVAL.name: 300_000, UUID.name: 200_000}


class Eight:
    name = "eight"
    title = "Eight backends at once"
    candidates = (*FLOORS, *IDS, UUID)
    backends = 8

    def measure(self, bench):
        with bench.node() as node:
            backends = [node.connect() for _ in range(self.backends)]
            known = {each.name: each for each in self.candidates}

            def run(name):
                """In ns of all backends together, of one turn of the loop."""
                n = FEWER.get(name, USUAL)
                node.set_block(1 if name == EMPTY_LOOP else known[name].block, backends)
                expression = "i" if name == EMPTY_LOOP else known[name].call
                return together(backends, loop(expression, n)).seconds * 1e9 / (n * self.backends)

            return {"rounds": interleaved([EMPTY_LOOP, *known], run, bench.rounds(25, 2))}

    def tables(self, data):
        rounds, rows = data["rounds"], []
        for name in rounds[0]:
            rate = [1e3 / row[name] for row in rounds]
            if name == EMPTY_LOOP:
                rows.append([name, Figure(rate, ".1f"), "", "", "", "", ""])
                continue
            one, block = name == SNOWFLAKE.name, name == SNOWFLAKE_64.name
            # Nothing is left of an empty function to be compared.
            over = "" if name == EMPTY.name else ratio(rounds, CLOCK.name, name, EMPTY_LOOP)
            rows.append(
                [
                    name,
                    Figure(rate, ".1f"),
                    Figure(ratio(rounds, NEXTVAL.name, name), ".2f", least=3 if one else None),
                    Figure(ratio(rounds, NEXTVAL_1000.name, name), ".2f", least=1 if one else None),
                    Figure(ratio(rounds, CLOCK.name, name), ".2f", least=0.9 if block else None),
                    Figure(above(rounds, name, EMPTY_LOOP), ".1f"),
                    over and Figure(over, ".2f", least=0.9 if block else None),
                ]
            )
        return [
            Table(
                f"{self.backends} backends run the statement of the section above at once, ceiling lifted, from a "
                f"barrier to the last one's end: {USUAL} calls each, {NEXTVAL.name} {FEWER[NEXTVAL.name]} and "
                f"{UUID.name} {FEWER[UUID.name]}. Rates are of all together, the loop included. The cost above "
                "the empty loop is time by the clock divided by the calls of all, so that it falls with cores.",
                [
                    "function",
                    "million calls per s",
                    "rate to nextval(), CACHE 1",
                    "rate to nextval(), CACHE 1000",
                    "rate to C function: reads the clock",
                    "ns above the empty loop",
                    "the same, rate to C function: reads the clock",
                ],
                rows,
            )
        ]


BATCHES = {
    "snowflake_batch_array(n)": "SELECT cardinality(snowflake_batch_array({n}))",
    "array_agg(nextval()), CACHE 1": "SELECT cardinality(array_agg(nextval('cache1'))) FROM generate_series(1, {n})",
    "snowflake_batch(n) in FROM": "SELECT count(*) FROM snowflake_batch({n})",
    "generate_series(1::bigint, n) in FROM": "SELECT count(*) FROM generate_series(1::bigint, {n})",
}


class Batches:
    name = "batches"
    title = "Batches"
    ids = 1_000_000  # snowflake_id.max_batch

    def measure(self, bench):
        with bench.node() as node:

            def run(name):
                return node.seconds(BATCHES[name].format(n=self.ids))

            return {"ids": self.ids, "rounds": interleaved(BATCHES, run, bench.rounds(20, 5))}

    def tables(self, data):
        array, aggregate, batch, series = BATCHES
        rounds = data["rounds"]

        def milliseconds(name, below=None):
            return Figure([1e3 * row[name] for row in rounds], ".1f", below=below)

        rows = [
            [array, milliseconds(array, below=10), Figure(ratio(rounds, array, aggregate), ".3f")],
            [aggregate, milliseconds(aggregate), ""],
            [batch, milliseconds(batch), Figure(ratio(rounds, batch, series), ".2f", most=1.2)],
            [series, milliseconds(series), ""],
        ]
        return [
            Table(
                f"n = {data['ids']}, one backend, ceiling lifted; SELECT cardinality(…) of the arrays, "
                "SELECT count(*) FROM the sets. Each ratio is to the line below.",
                ["statement", "ms", "ratio"],
                rows,
            )
        ]


BULK_BATCH = 100_000
# What a backend runs, and how many ids that generates.
BULK = {
    f"snowflake_batch_array({BULK_BATCH})": (loop(f"snowflake_batch_array({BULK_BATCH})", 250), 250 * BULK_BATCH),
    "snowflake_nextval()": (loop("snowflake_nextval()", 500_000), 500_000),
    NEXTVAL.name: (loop(NEXTVAL.call, 200_000), 200_000),
    NEXTVAL_1000.name: (loop(NEXTVAL_1000.call, 500_000), 500_000),
}


class Bulk:
    name = "bulk"
    title = "Bulk generation by eight backends"
    backends = 8

    def measure(self, bench):
        with bench.node() as node:
            backends = [node.connect() for _ in range(self.backends)]

            def run(name):
                """In million ids per second."""
                # Nobody waits for the clock in between: ids are some minutes ahead at the end.
                sql, ids = BULK[name]
                return ids * self.backends / together(backends, sql).seconds / 1e6

            return {"rounds": interleaved(BULK, run, bench.rounds(7, 3))}

    def tables(self, data):
        rounds = data["rounds"]
        rows = [
            [
                name,
                Figure([row[name] for row in rounds], ".1f"),
                Figure([row[name] / row[NEXTVAL.name] for row in rounds], ".1f"),
            ]
            for name in BULK
        ]
        text = (
            f"{self.backends} backends generate ids as fast as they can, ceiling lifted; from a barrier to the last's end."
        )
        return [Table(text, ["how", "million ids per s", f"ratio to {NEXTVAL.name}"], rows)]
