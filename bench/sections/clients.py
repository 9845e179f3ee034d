"""What a call takes that a client makes."""

from candidates import (
    CLOCK_CAS,
    EMPTY,
    INSTAGRAM,
    NEXTVAL,
    NEXTVAL_32,
    NEXTVAL_1000,
    SELECT_1,
    SNOWFLAKE,
    UUID,
    UUID7,
)
from measure import HELD, interleaved, percentiles, pgbench, together
from report import Figure, Table

# The empty function shows what PostgreSQL itself does to look one up and to call it.
CANDIDATES = (SELECT_1, EMPTY, CLOCK_CAS, SNOWFLAKE, NEXTVAL, NEXTVAL_32, NEXTVAL_1000, UUID, UUID7, INSTAGRAM)


class Clients:
    name = "clients"
    title = "Clients"
    clients = (1, 8, 64)
    # What is required is decided by some hundredths: between these, in many rounds.
    judged, judged_clients = (SELECT_1, EMPTY, CLOCK_CAS, SNOWFLAKE, NEXTVAL), 8
    # Short: what a neighbour does to one run it does to the next one, too.
    seconds = 1

    def measure(self, bench):
        calls = {each.name: each.call for each in bench.known(CANDIDATES)}
        every = [f"{clients} {name}" for clients in self.clients for name in calls]
        judged = [f"{self.judged_clients} {each.name}" for each in self.judged]
        # As a server has it that must not lose what it has committed.
        durable = {"fsync": "on", "synchronous_commit": "on", "max_connections": 100}
        with bench.node(snowflake_id__max_ahead=HELD, **durable) as node:

            def run(name):
                clients, _, call = name.partition(" ")
                return pgbench(node, f"SELECT {calls[call]}", int(clients), self.seconds)

            return {
                "rounds": interleaved(every, run, bench.rounds(8, 1)),
                "judged": interleaved(judged, run, bench.rounds(60, 2)),
            }

    def tables(self, data):
        tables = [self._table(data["rounds"], clients) for clients in self.clients]
        return [*tables, self._table(data["judged"], self.judged_clients, judged=True)]

    def _table(self, rounds, clients, judged=False):
        def figure(name, what, form):
            return Figure([row[f"{clients} {name}"][what] for row in rounds], form)

        def against(name, other, least):
            required = least if judged and name == SNOWFLAKE.name else None
            values = [row[f"{clients} {name}"]["tps"] / row[f"{clients} {other}"]["tps"] for row in rounds]
            return Figure(values, ".3f", least=required)

        rows = [
            [
                f"SELECT {name}",
                figure(name, "tps", ".0f"),
                against(name, SELECT_1.name, 0.98),
                against(name, NEXTVAL.name, 1.5),
                *(figure(name, percentile, ".0f") for percentile in ("p50", "p99", "p99.9")),
            ]
            for name in (key.removeprefix(f"{clients} ") for key in rounds[0] if key.startswith(f"{clients} "))
        ]
        return Table(
            f"{clients} client{'s' if clients > 1 else ''}{', in many rounds' if judged else ''}: pgbench -M prepared "
            f"-T {self.seconds}, {len(rounds)} rounds, on the same machine; fsync and synchronous_commit are on. us are "
            "from a result of a client to its next.",
            ["statement", "per s", "ratio to SELECT 1", f"ratio to {NEXTVAL.name}", "p50, us", "p99, us", "p99.9, us"],
            rows,
        )


class Pace:
    name = "pace"
    title = "A million ids per second"
    backends = 8
    # A little more than a million together: they do not begin at the same moment.
    per_second = 128_000
    burst = 128
    seconds = 3
    candidates = (EMPTY, SNOWFLAKE)

    def measure(self, bench):
        with bench.node(snowflake_id__max_ahead=HELD) as node:
            backends = [node.connect() for _ in range(self.backends)]

            functions = {each.name: each.call for each in self.candidates}

            def run(name):
                sql = (
                    f"SELECT begin_ns, end_ns, latencies FROM pace('{functions[name]}', "
                    f"{self.per_second * self.seconds}, {self.per_second}, {self.burst})"
                )
                begins, ends, latencies = zip(*together(backends, sql).rows)
                taken = [each for some in latencies for each in some]
                # All processes of a machine have one monotonic clock.
                return {"per_second": len(taken) * 1e9 / (max(ends) - min(begins)), **percentiles(taken)}

            return {"rounds": interleaved(functions, run, bench.rounds(5, 2))}

    def tables(self, data):
        rounds, rows = data["rounds"], []
        for name in rounds[0]:
            runs = [row[name] for row in rounds]
            required = {"p99": 2000} if name == SNOWFLAKE.name else {}
            rows.append(
                [
                    name,
                    Figure([run["per_second"] / 1e6 for run in runs], ".3f", least=1 if required else None),
                    *(
                        Figure([run[each] / 1e3 for run in runs], ".2f", below=required.get(each))
                        for each in ("p50", "p99", "p99.9", "max")
                    ),
                ]
            )
        return [
            Table(
                f"{self.backends} backends call at {self.per_second} per second each, {self.burst} in a row every "
                f"{1e3 * self.burst / self.per_second:.0f} ms, for {self.seconds} s, ceiling held. Each call is "
                "timed inside its backend; the empty function shows what the clock's own cost and other processes "
                "on the same cores make of that.",
                ["function", "million calls per s", "p50, us", "p99, us", "p99.9, us", "longest, us"],
                rows,
            )
        ]
