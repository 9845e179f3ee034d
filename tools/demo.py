"""A short tour of the extension on a throwaway server: what `make demo` shows.

Every statement below is sent to psql as it is printed, and what psql answers is
printed as it comes. Nothing is prepared or made up, and nothing is left behind.
"""

import subprocess
import sys
import textwrap

from throwaway import Installation, Server, ServerError, clean_environment

CONNECTIONS = 4

# The table's keys are the whole point, so it has no sequence and no created_at.
TABLE = """
CREATE TABLE orders (
    id       bigint PRIMARY KEY DEFAULT snowflake_nextval(),
    customer text NOT NULL,
    amount   numeric(8,2) NOT NULL
);"""

INSERT = """
INSERT INTO orders (customer, amount)
SELECT 'connection {}', 1 + i % 100 FROM generate_series(1, 25000) AS i;"""


class Tour:
    """Prints numbered steps, and runs their statements on one server."""

    def __init__(self):
        self._steps = 0
        self._command = []

    def visit(self, installation, server):
        self._command = [installation.bin("psql"), "-X", "-v", "ON_ERROR_STOP=1", "-d", server.conninfo()]

    def step(self, title, explanation):
        self._steps += 1
        heading(f"{self._steps}. {title}")
        say(explanation)

    def sql(self, sql, fails=False, lines=None):
        """Print a statement and what psql says to it; `fails`: an error is what we want to see; `lines`: that is enough."""
        show_sql(sql)
        done = subprocess.run(self._command, input=sql, **PIPES, check=False)
        if bool(done.returncode) != fails:
            raise ServerError(f"psql did not {'fail' if fails else 'succeed'}:\n{done.stdout}")
        answer = done.stdout.splitlines()
        say_as_is("\n".join(answer if lines is None else [*answer[:lines], "..."] if len(answer) > lines else answer))

    def sql_at_once(self, statements):
        """Run each in a connection of its own; all are open before the first begins."""
        for statement in statements:
            show_sql(statement)
        clients = [subprocess.Popen(self._command, stdin=subprocess.PIPE, **PIPES) for _ in statements]
        for client in clients:
            client.stdin.write("\\echo connected\n")
            client.stdin.flush()
        greetings = [client.stdout.readline() for client in clients]
        for client, statement in zip(clients, statements):
            client.stdin.write(statement)
            client.stdin.close()
        answers = [client.stdout.read() for client in clients]
        if greetings != ["connected\n"] * len(clients) or any(client.wait() for client in clients):
            raise ServerError("psql: " + "".join(greetings + answers))
        say_as_is("".join(answers))


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": clean_environment()}


def heading(text):
    print(f"\n\033[1m{text}\033[0m\n" if sys.stdout.isatty() else f"\n{text}\n")


def say(text):
    print(textwrap.fill(" ".join(text.split()), 88) + "\n", flush=True)


def say_as_is(text):
    print(textwrap.indent(text.strip("\n"), "  ") + "\n", flush=True)


def show_sql(sql):
    """With a prompt before the first line; the others line up with it."""
    print("  =# " + textwrap.indent(sql.strip("\n"), "     ").lstrip() + "\n")


def tour():
    tour = Tour()
    tour.step(
        "A PostgreSQL server to play with",
        """It lives in a temporary directory, takes connections through a socket in that
        directory only (no network port), and is gone when the tour is over. The machine's
        own server, if there is one, is not touched.""",
    )
    with Installation() as installation, Server(installation, {"snowflake_id.worker_id": 1}) as server:
        tour.visit(installation, server)
        say_as_is(
            f"{installation.version}\n"
            f"data and socket: {server.directory}\n"
            "shared_preload_libraries = 'snowflake_id'\n"
            "snowflake_id.worker_id = 1        # this node's alone"
        )
        show(tour, server)
    farewell(installation.pg_config)


def show(tour, server):
    tour.step("The extension", "One statement in each database that generates ids. The node needs no other.")
    tour.sql("CREATE EXTENSION snowflake_id;")

    tour.step(
        "A table with snowflake keys",
        """The key is an ordinary bigint with a default. There is no sequence to keep apart from
        those of other nodes, and no created_at column: the key knows when it was made.""",
    )
    tour.sql(TABLE)

    tour.step(
        f"{CONNECTIONS} connections insert at the same time",
        """Each inserts 25,000 rows. All connections of a node share one generator in shared
        memory, without a lock and without asking anyone on the network.""",
    )
    tour.sql_at_once([INSERT.format(n) for n in range(1, CONNECTIONS + 1)])
    say("No key was made twice:")
    tour.sql("SELECT count(*), count(DISTINCT id) FROM orders;")

    tour.step(
        "What is in a key",
        """The time it was made, the node that made it, and a counter within the millisecond.
        Keys sort by time. (datacenter_id is empty because the default layout has no such field.)""",
    )
    tour.sql("SELECT id, d.* FROM orders, snowflake_decode(id) AS d ORDER BY id LIMIT 5;")
    say("So the keys alone tell that the connections did insert at the same time:")
    tour.sql("""
SELECT customer, count(*),
       snowflake_timestamp(min(id)) AS first_key, snowflake_timestamp(max(id)) AS last_key
FROM orders GROUP BY customer ORDER BY customer;""")

    tour.step(
        "Keys before rows",
        """A program that wants to know its keys before it inserts, say to link orders and their
        items, takes a batch: as an array or as rows, always increasing.""",
    )
    tour.sql("SELECT snowflake_batch_array(3);")
    tour.sql("SELECT snowflake_batch(3);")

    tour.step(
        "Keys as text",
        """For URLs and people: base 62 is short, base 32 can be read aloud and sorts like the keys.
        Both are read back exactly.""",
    )
    tour.sql("""
SELECT id, snowflake_base62(id), snowflake_base32(id),
       snowflake_from_base62(snowflake_base62(id)) = id AS same
FROM orders ORDER BY id DESC LIMIT 3;""")

    tour.step(
        "Search by time, on the primary key",
        """First some older rows: snowflake_encode makes keys for history that is moved into
        the table, here one order per 30 seconds of the last 30 days. Their worker id is one
        that no node has.""",
    )
    tour.sql("""
INSERT INTO orders (id, customer, amount)
SELECT snowflake_encode(ts, 1023, 0), 'history', 9.99
FROM generate_series(now() - interval '30 days', now(), interval '30 seconds') AS ts;""")
    tour.sql("ANALYZE orders;")
    say("The orders of five minutes, from a quarter of an hour ago. The key's own index finds them (Index Cond):")
    where = "snowflake_between(id, now() - interval '15 minutes', now() - interval '10 minutes')"
    tour.sql(f"""
SELECT count(*), snowflake_timestamp(min(id)) AS first, snowflake_timestamp(max(id)) AS last
FROM orders
WHERE {where};""")
    tour.sql(f"""
EXPLAIN (COSTS OFF)
SELECT * FROM orders
WHERE {where};""")

    tour.step(
        "A crash",
        """A key that was seen is never made again, not even if its transaction was lost, the server
        killed and the clock set back. What may be used is recorded before, about a second of it at
        once. So after a crash, keys go on above the record, as soon as the clock has passed it:""",
    )
    tour.sql("BEGIN;\nINSERT INTO orders (customer, amount) VALUES ('lost in the crash', 1) RETURNING id;")
    server.kill9()
    say("(kill -9 for all processes of the server, and a start)")
    server.start()
    tour.sql("INSERT INTO orders (customer, amount) VALUES ('after the crash', 1) RETURNING id;")
    tour.sql("SELECT state, worker_id, issued_until, reserved_until FROM snowflake_status;")

    tour.step(
        "When something is wrong",
        """It is said what, and what is allowed instead. A worker id that does not fit into
        a key, for example, is refused when it is set, not when keys have gone wrong:""",
    )
    tour.sql("ALTER SYSTEM SET snowflake_id.worker_id = 5000;", fails=True)


def farewell(pg_config):
    heading("The throwaway server is gone. To go on with your own:")
    print(f"""\
  make PG_CONFIG={pg_config}
  sudo make install PG_CONFIG={pg_config}

In psql, as a superuser, in your database:

  CREATE EXTENSION snowflake_id;

It warns that the library is not preloaded, with the statement that adds it to what your server
preloads already, each name by itself:

  ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements, snowflake_id;

Run the one of the warning, and restart the server (for example: sudo systemctl restart postgresql):

  ALTER SYSTEM SET snowflake_id.worker_id = 1;      -- 0 to 1023, another one on every node
  SELECT pg_reload_conf();

And use it:

  CREATE TABLE orders (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), customer text);
""")


if __name__ == "__main__":
    try:
        tour()
    except KeyboardInterrupt:
        sys.exit("\ndemo: interrupted; the server is stopped and its files are removed")
    except (ServerError, OSError) as error:
        sys.exit(f"\ndemo: {error}")
