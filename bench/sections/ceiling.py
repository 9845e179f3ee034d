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
ONE_BY_ONE, BY_ARRAYS = "snowflake_nextval()", f"snowflake_batch_array({ARRAY})"


def making(how, ids):
    """The statements that make ids."""
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


class Ceiling:
    name = "ceiling"
    title = "The ceiling"
    backends = (1, 8, 64)
    ids = 5_000_000

    def measure(self, bench):
        variants = {f"{count} {ahead}": (count, ahead) for ahead in (HELD, LIFTED) for count in self.backends}
        with bench.node() as node:
            backends = [node.connect() for _ in range(max(self.backends))]

            def run(name):
                count, ahead = variants[name]
                node.settle()
                node.set_max_ahead(ahead, backends[:count])
                return span(together(backends[:count], making(ONE_BY_ONE, self.ids // count)), self.ids)

            return {"ids": self.ids, "rounds": interleaved(variants, run, bench.rounds(7, 2))}

    def tables(self, data):
        rounds, rows = data["rounds"], []
        for count in self.backends:
            held, lifted = ([row[f"{count} {ahead}"] for row in rounds] for ahead in (HELD, LIFTED))
            alone = [row[f"1 {LIFTED}"] for row in rounds]
            waiting = [a["cpu"] - b["cpu"] / b["ids"] * a["ids"] for a, b in zip(held, alone)]
            rows.append(
                [
                    f"{count} backend{'s' if count > 1 else ''}",
                    Figure([run["ids"] / run["ticks"] for run in held], ".0f"),
                    Figure([100 * run["ids"] / run["ticks"] / CEILING for run in held], ".2f", " %", least=99),
                    Figure([100 * run["overlap"] for run in held], ".0f", " %"),
                    Figure([100 * run["cpu"] / run["seconds"] for run in held], ".0f", " %"),
                    Figure([100 * w / run["seconds"] / count for w, run in zip(waiting, held)], ".1f", " %", below=5),
                    Figure([run["ids"] / run["seconds"] / 1e3 for run in lifted], ".0f"),
                ]
            )
        return [
            Table(
                f"{data['ids']} ids by so many backends together. The rate is by the times in the ids, from the "
                "first of any backend to the last of any; 'together' is the share of that time in which all were at "
                "it. CPU is what the backends used, as a share of one core; that of waiting is what is left of it "
                "without what the same ids cost one backend that does not wait (ceiling lifted), for each backend.",
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

        def rate(run):
            return run["ids"] / run["ticks"]

        for how in self.ways:
            one, three = ([row[f"{count} {how}"] for row in rounds] for count in (1, 3))
            rows.append(
                [
                    how,
                    Figure([rate(run) for run in one], ".0f"),
                    Figure([rate(run) for run in three], ".0f"),
                    Figure([rate(a) / rate(b) for a, b in zip(three, one)], ".2f", least=2.9),
                    Figure([100 * run["cpu"] / run["seconds"] for run in one], ".0f", " %"),
                    Figure([100 * run["cpu"] / run["seconds"] for run in three], ".0f", " %"),
                ]
            )
        return [
            Table(
                "Servers with worker ids 1, 2 and 3 on this machine, ceiling held; one backend on each makes "
                f"{data['ids']} ids. Rates are by the times in the ids, from the first of any node to the last of "
                "any. CPU is what the backends used, as a share of one core.",
                ["how", "ids per ms, 1 node", "ids per ms, 3 nodes", "ratio", "CPU, 1 node", "CPU, 3 nodes"],
                rows,
            )
        ]
