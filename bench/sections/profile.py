"""What a transaction makes a backend execute: unlike its time, that hardly depends on what else the machine does."""

import callgrind
from candidates import EMPTY, NEXTVAL, SELECT_1, SNOWFLAKE, UUID
from measure import HELD
from report import Figure, Table
from throwaway import ServerError

# The functions that PostgreSQL calls for them.
SYMBOLS = {EMPTY: "floor_empty", SNOWFLAKE: "snowflake_nextval_wrapper", NEXTVAL: "nextval_oid", UUID: "gen_random_uuid"}


class Transactions:
    name = "transactions"
    title = "What a transaction executes"
    times = 1000

    def measure(self, bench):
        callgrind.require()
        with (
            bench.node(under=callgrind.COMMAND, snowflake_id__max_ahead=HELD) as node,
            callgrind.Backend(node.server) as backend,
        ):

            def dump_of(call):
                def work():
                    for _ in range(self.times):
                        # As pgbench -M prepared does.
                        backend.connection.execute(f"SELECT {call}", prepare=True)

                return backend.count(work)

            # What it takes to have the counts written down.
            nothing = callgrind.total(backend.count(lambda: None))
            dumps = {each.name: dump_of(each.call) for each in (SELECT_1, *SYMBOLS)}
        found = {name: {"all": (callgrind.total(dump) - nothing) / self.times} for name, dump in dumps.items()}
        for each, symbol in SYMBOLS.items():
            calls, cost = callgrind.inclusive(dumps[each.name], symbol)
            if calls != self.times:
                raise ServerError(f"{symbol}: {calls} calls were counted instead of {self.times}")
            found[each.name]["own"] = cost / self.times
        return {"rounds": found}

    def tables(self, data):
        found = data["rounds"]
        base = found[SELECT_1.name]["all"]

        def share(instructions):
            return Figure([100 * instructions / base], ".1f", " %")

        rows = [[f"SELECT {SELECT_1.name}", Figure([base], ",.0f"), "", "", ""]]
        for name, counts in found.items():
            if name != SELECT_1.name:
                every, own = Figure([counts["all"]], ",.0f"), Figure([counts["own"]], ",.0f")
                rows.append([f"SELECT {name}", every, share(counts["all"] - base), own, share(counts["own"])])
        text = (
            "Instructions of a backend for a prepared statement that is bound, executed and replied to, without those "
            f"of the kernel: the mean of {self.times}."
        )
        headers = ["statement", "instructions", "more than SELECT 1", "in the function", "of those of SELECT 1"]
        return [Table(text, headers, rows)]
