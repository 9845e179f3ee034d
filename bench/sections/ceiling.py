"""The ceiling that the layout sets: what of it is reached, and what waiting for it costs."""

import contextlib

from measure import CEILING, HELD, LIFTED, interleaved, loop, together
from report import Figure, Table

# What a backend makes, and from when to when by the times in its ids, in ms. One round trip: whoever
# has used up both cores would wait for it.
SPAN = """
SELECT extract(epoch FROM snowflake_timestamp(snowflake_nextval())) * 1000;
{loop};
SELECT extract(epoch FROM snowflake_timestamp(snowflake_lastval())) * 1000"""
ARRAY = 10_000
WAKING = "waking"
ONE_BY_ONE, BY_ARRAYS = "snowflake_nextval()", f"snowflake_batch_array({ARRAY})"


def making(how, ids):
    """The statements that generate ids."""
    if how == BY_ARRAYS:
        return SPAN.format(loop=loop(BY_ARRAYS, ids // ARRAY))
    return SPAN.format(loop=loop(ONE_BY_ONE, ids))


def span(done, ids):
    """What backends that ran together made, by the times in the ids."""
    first, _, last = zip(*([int(value) for value in row] for row in done.rows))
    ticks = max(last) - min(first) + 1
    return {
        "ids": ids,
        "ticks": ticks,
        "overlap": max(0, min(last) - max(first) + 1) / ticks,
        "seconds": done.seconds,
        "cpu": done.cpu,
    }


def rate(run):
    """In ids per ms."""
    return run["ids"] / run["ticks"]


def cpu_share(run):
    """In % of one core."""
    return 100 * run["cpu"] / run["seconds"]


class Ceiling:
    name = "ceiling"
    title = "The ceiling"
    backends = (1, 8, 64)
    ids = 5_000_000
    wakes = 1_000

    def measure(self, bench):
        variants = {f"{count} {how}": (count, how) for how in (HELD, LIFTED, WAKING) for count in self.backends}
        waking = f"SELECT begin_ns FROM pace('floor_empty()', {self.wakes}, 1000, 1)"
        exhausted = "SELECT ticks_exhausted FROM pg_stat_snowflake"
        with bench.node() as node:
            backends = [node.connect() for _ in range(max(self.backends))]

            def run(name):
                count, how = variants[name]
                if how == WAKING:
                    return together(backends[:count], waking).cpu / (count * self.wakes)
                node.settle()
                node.set_max_ahead(how, backends[:count])
                waits = node.one(exhausted)
                made = span(together(backends[:count], making(ONE_BY_ONE, self.ids // count)), self.ids)
                return {**made, "waits": node.one(exhausted) - waits}

            return {"ids": self.ids, "rounds": interleaved(variants, run, bench.rounds(7, 2))}

    def tables(self, data):
        rounds, rows = data["rounds"], []
        for count in self.backends:
            held, lifted = ([row[f"{count} {ahead}"] for row in rounds] for ahead in (HELD, LIFTED))
            waiting = [run["waits"] * row[f"{count} {WAKING}"] for run, row in zip(held, rounds)]
            rows.append(
                [
                    f"{count} backend{'s' if count > 1 else ''}",
                    Figure([rate(run) for run in held], ".0f"),
                    Figure([100 * rate(run) / CEILING for run in held], ".2f", " %", least=99),
                    Figure([100 * run["overlap"] for run in held], ".0f", " %"),
                    Figure([cpu_share(run) for run in held], ".0f", " %"),
                    Figure([100 * each / run["seconds"] / count for each, run in zip(waiting, held)], ".1f", " %", below=5),
                    Figure([run["ids"] / run["seconds"] / 1e3 for run in lifted], ".0f"),
                ]
            )
        return [
            Table(
                f"{data['ids']} ids by so many backends together. The rate is by the times in the ids, from the "
                "first of any backend to the last of any; 'together' is the share of that time in which all were at "
                "it. CPU is what the backends used, as a share of one core. That of waiting is the waits that were "
                "counted (ticks_exhausted), times what a wait cost as many backends that do nothing but wake up once "
                "in a millisecond; for each backend. What is left is generating ids, and taking the cursor from each other.",
                [
                    "backends",
                    "ids per ms",
                    "of the ceiling",
                    "together",
                    "CPU, all backends",
                    "CPU of waiting, each backend",
                    "ids per ms, ceiling lifted",
                ],
                rows,
            )
        ]


class Blocks:
    name = "blocks"
    title = "What blocks drop"
    backends = 64
    blocks = (1, 16, 64, 512)
    ids = 3_000_000
    # A load that leaves most of a tick free: an id in a millisecond, by each.
    seconds = 2

    def measure(self, bench):
        with bench.node(snowflake_id__max_ahead=HELD) as node:
            backends = [node.connect() for _ in range(self.backends)]
            paced = f"SELECT begin_ns FROM pace('snowflake_nextval()', {1000 * self.seconds}, 1000, 1)"

            def run(block):
                node.set_block(block, backends)
                # What a larger block before has left is dropped by this call.
                together(backends, "SELECT snowflake_nextval()")
                node.one("SELECT pg_stat_snowflake_reset()")
                full = span(together(backends, making(ONE_BY_ONE, self.ids // self.backends)), self.ids)
                counted = "SELECT dropped::float8 / ids FROM pg_stat_snowflake"
                full["dropped"] = node.one(counted)
                node.one("SELECT pg_stat_snowflake_reset()")
                together(backends, paced)
                return {"full": full, "dropped": node.one(counted)}

            return {"rounds": interleaved(self.blocks, run, bench.rounds(5, 1))}

    def tables(self, data):
        rows = []
        for block in data["rounds"][0]:
            runs = [row[block] for row in data["rounds"]]
            full = [run["full"] for run in runs]
            rows.append(
                [
                    str(block),
                    Figure([100 * rate(run) / CEILING for run in full], ".2f", " %"),
                    Figure([run["dropped"] for run in full], ".4f"),
                    Figure([run["dropped"] for run in runs], ".1f"),
                ]
            )
        return [
            Table(
                f"{self.backends} backends, ceiling held: what is dropped for each id that is generated, where they generate ids "
                f"as fast as they can ({self.ids} together), and where each makes one in a millisecond ({self.seconds} s).",
                ["backend_block", "of the ceiling", "dropped per id, at the ceiling", "dropped per id, one per ms"],
                rows,
            )
        ]


class Nodes:
    name = "nodes"
    title = "Three nodes"
    ways = (ONE_BY_ONE, BY_ARRAYS)
    ids = 8_000_000

    def measure(self, bench):
        with contextlib.ExitStack() as stack:
            nodes = [
                stack.enter_context(bench.node(snowflake_id__worker_id=n, snowflake_id__max_ahead=HELD))
                for n in (1, 2, 3)
            ]
            variants = {f"{count} {how}": (count, how) for how in self.ways for count in (1, 3)}

            def run(name):
                count, how = variants[name]
                connections = [node.connection for node in nodes[:count]]
                return span(together(connections, making(how, self.ids)), count * self.ids)

            return {"ids": self.ids, "rounds": interleaved(variants, run, bench.rounds(5, 2))}

    def tables(self, data):
        rounds, rows = data["rounds"], []

        for how in self.ways:
            one, three = ([row[f"{count} {how}"] for row in rounds] for count in (1, 3))
            rows.append(
                [
                    how,
                    Figure([rate(run) for run in one], ".0f"),
                    Figure([rate(run) for run in three], ".0f"),
                    Figure([rate(run) / CEILING for run in three], ".2f", least=2.9),
                    Figure([cpu_share(run) for run in one], ".0f", " %"),
                    Figure([cpu_share(run) for run in three], ".0f", " %"),
                ]
            )
        return [
            Table(
                "Servers with worker ids 1, 2 and 3 on this machine, ceiling held; one backend on each makes "
                f"{data['ids']} ids. Rates are by the times in the ids, from the first of any node to the last of "
                "any. CPU is what the backends used, as a share of one core.",
                ["how", "ids per ms, 1 node", "ids per ms, 3 nodes", "ratio to 1 node's ceiling", "CPU, 1 node", "CPU, 3 nodes"],
                rows,
            )
        ]
