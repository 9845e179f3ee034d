"""A sharded cluster on throwaway servers: what `make cluster` shows.

    with Installation() as installation, Cluster(installation, shards=3) as cluster:
        print(cluster.routers[0].psql("SELECT count(*) FROM orders", DATABASE))

Shards and routers are PostgreSQL servers with postgres_fdw, and nodes whose worker ids are leased from a registry,
which is a PostgreSQL server, too. Their SQL is that of examples/cluster/. All listens on loopback only, and is gone when
the tour is over; `--keep` leaves it running until Ctrl-C. As in tools/demo.py, every statement is sent as it is printed.

    make cluster                                    # the tour
    make cluster options=--keep
    make cluster options='--regions 600'            # two regions that write to each other, for so many seconds
    make cluster options='--rows 2000000'           # so many rows by 64 clients while the cluster changes
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time

from demo import Tour, heading, say, say_as_is
from throwaway import (
    HOST,
    PATIENCE,
    PROJECT,
    Installation,
    Server,
    ServerError,
    clean_environment,
    free_port,
    program,
    wait_until,
)

EXAMPLES = PROJECT / "examples/cluster"
DATABASE = "app"
MODULUS = 12
# What a subscriber logs when a row comes whose key it has already; the second is that of PostgreSQL 18.
CONFLICT = "ERROR: .*(duplicate key value violates unique constraint|conflict detected on relation .*: conflict=insert_exists)"
# Of the registry; so a node has its worker id one and a half seconds after its start.
HEARTBEAT = "1s"
# What a cluster needs beyond a server of its own. Clocks may be apart by so much that ids never wait for each other.
SETTINGS = {
    "listen_addresses": HOST,
    "wal_level": "logical",
    "hot_standby": "on",
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "max_worker_processes": 24,
    "max_logical_replication_workers": 12,
    "max_connections": 200,
    "snowflake_id.heartbeat": HEARTBEAT,
    "snowflake_id.max_ahead": "100ms",
}


class Cluster:
    """A registry, shards and routers; with `standby`, each shard has a synchronous standby.

    Its nodes are servers of tools/throwaway.py: `registry`, `shards`, `routers`, `standbys`.
    """

    def __init__(self, installation, shards=3, routers=1, standby=False, **settings):
        self.installation = installation
        self.settings = {**SETTINGS, **settings}
        self.shards, self.routers, self.standbys = [], [], []
        self._numbers = shards, routers, standby
        self._partitions = {}  # number: shard
        self._all = []

    def __enter__(self):
        shards, routers, standby = self._numbers
        try:
            self.registry = self._server({"shared_preload_libraries": None, "listen_addresses": HOST, "max_connections": 100})
            self.registry.psql("CREATE DATABASE ids")
            self.registry.psql("CREATE EXTENSION snowflake_id_node", "ids")
            self.shards = [self.node() for _ in range(shards)]
            self.routers = [self.node() for _ in range(routers)]
            if standby:
                self.standbys = [self.standby(shard) for shard in self.shards]
            for node in self.shards + self.routers:
                self.await_ids(node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for server in self._all:
            server.remove()

    @property
    def servers(self):
        """All of them, in the order of their start; also those that have been stopped since."""
        return self._all

    @property
    def address(self):
        """What snowflake_id.registry is set to."""
        return f"postgres://postgres@{HOST}:{self.registry.port}/ids"

    def node(self, **settings):
        """A new node, with a database for the application. It has a worker id some moments later: await_ids()."""
        server = self._server({**self.settings, "snowflake_id.registry": self.address, **settings})
        server.psql(f"CREATE DATABASE {DATABASE}")
        return server

    def await_ids(self, node):
        """Wait until a node generates ids."""
        node.psql("CREATE EXTENSION IF NOT EXISTS snowflake_id", DATABASE)
        ready = "SELECT state = 'ready' FROM snowflake_status"
        wait_until(lambda: node.psql(ready, DATABASE) == "t", PATIENCE, lambda: ServerError("a node has no worker id"))

    def standby(self, primary):
        """A synchronous standby. It is promoted by promote()."""
        port = free_port()
        standby = self._backed_up(primary, port, "-R")
        # By this name it connects, and pg_basebackup, whose connections may outlive it, has not.
        standby.configure({"cluster_name": "standby"})
        standby.start()
        primary.configure({"synchronous_standby_names": "standby"})
        primary.reload()
        state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(lambda: primary.psql(state) == "1", PATIENCE, lambda: ServerError("the standby does not replicate"))
        return standby

    def back_up(self, shard):
        """A base backup: the server that restore() starts where the shard was."""
        return self._backed_up(shard, shard.port)

    def restore(self, number, backup):
        """A shard that has died comes back as it was when it was backed up."""
        backup.start()
        self._replace(number, backup)
        self.await_ids(backup)

    def fail_over(self, number):
        """Kill a shard, all processes at once, and promote its standby, which takes its place."""
        standby = self.standbys[number]
        self.shards[number].kill9()
        promoted = standby.psql(f"SELECT pg_promote(true, {PATIENCE})")
        if promoted != "t":
            raise ServerError("the standby was not promoted")
        self._replace(number, standby)
        self.standbys[number] = None

    def _backed_up(self, server, port, *options):
        """A server that listens at a port, with a base backup of another one; it is not started."""
        settings = {name: value for name, value in server.settings.items() if name != "unix_socket_directories"}
        copy = Server(self.installation, {**settings, "port": port}, data="none", port=port)
        self._all.append(copy)
        source = f"host={HOST} port={server.port} user=postgres"
        command = [self.installation.bin("pg_basebackup"), "-D", copy.data, "-c", "fast", "--no-sync", *options]
        self.installation.run(*command, "-d", source)
        return copy

    def _replace(self, number, server):
        for partition, shard in self._partitions.items():
            if shard is self.shards[number]:
                self._partitions[partition] = server
        self.shards[number] = server

    # What examples/cluster/ does

    def run(self, node, name, **variables):
        """Run one of the examples on a node."""
        options = ["-v", "ON_ERROR_STOP=1", "-f", str(EXAMPLES / name)]
        for variable, value in variables.items():
            options += ["-v", f"{variable}={value}"]
        command = [self.installation.bin("psql"), "-XqAt", "-d", conninfo(node), *options]
        done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
        if done.returncode:
            raise ServerError(f"{name}: {done.stderr.strip()}")
        return done.stdout

    def create_tables(self, again=False):
        """The tables of examples/cluster on shards and routers; these know the shards already, if it is done again."""
        names = [self.name_of(n) for n in range(len(self.shards))]
        for n, shard in enumerate(self.shards):
            mine = range(n, MODULUS, len(self.shards))
            self.run(shard, "shard.sql", modulus=MODULUS, mine=",".join(map(str, mine)))
            self._partitions.update(dict.fromkeys(mine, shard))
        for router in self.routers:
            for n, name in enumerate([] if again else names):
                self.introduce(router, name, self.shards[n], self.standbys[n] if self.standbys else None)
            self.run(router, "router.sql", modulus=MODULUS, shards=",".join(names))

    @staticmethod
    def name_of(number):
        """What routers call a shard."""
        return f"shard{number + 1}"

    def introduce(self, router, name, server, standby=None, dbname=DATABASE):
        """A router learns of a server."""
        both = [server, standby] if standby else [server]
        hosts, ports = ",".join(HOST for _ in both), ",".join(str(each.port) for each in both)
        self.run(router, "router_server.sql", server=name, host=hosts, port=ports, dbname=dbname, user="postgres")

    def add_shard(self):
        """A new shard without partitions, which all routers know."""
        shard = self.node()
        self.await_ids(shard)
        self.run(shard, "shard.sql", modulus=MODULUS, mine="")
        self.shards.append(shard)
        for router in self.routers:
            self.introduce(router, self.name_of(len(self.shards) - 1), shard)
        return shard

    def partitions_of(self, shard):
        """The numbers of a shard's partitions."""
        return sorted(number for number, place in self._partitions.items() if place is shard)

    def move(self, number, target):
        """Move a partition to another shard."""
        places = {"from": conninfo(self._partitions[number]), "to": conninfo(target)}
        self.run(target, "move_partition.sql", modulus=MODULUS, number=number, **places)
        name = self.name_of(self.shards.index(target))
        for router in self.routers:
            if router.running():
                router.psql(f"SET client_min_messages = warning; CALL set_partition({MODULUS}, {number}, '{name}')", DATABASE)
        self._partitions[number] = target
        self.run(target, "move_end.sql", number=number, **places)

    def merge(self):
        """All rows of all shards in a database of its own: the server."""
        one = self.node()
        self.await_ids(one)
        self.run(one, "merge.sql")
        tables = ["-t", "orders*", "-t", "order_log*"]
        for shard in self.shards:
            dump = [self.installation.bin("pg_dump"), "-d", conninfo(shard), "--data-only", "--load-via-partition-root", *tables]
            load = [self.installation.bin("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-1", "-d", conninfo(one)]
            with subprocess.Popen(dump, stdout=subprocess.PIPE, env=clean_environment()) as source:
                loaded = subprocess.run(
                    load, stdin=source.stdout, capture_output=True, text=True, env=clean_environment(), check=False
                )
            if loaded.returncode or source.returncode:
                raise ServerError(f"merge: {loaded.stderr.strip()}")
        self.run(one, "merge_keys.sql")
        return one

    def _server(self, settings):
        port = free_port()
        server = Server(self.installation, {**settings, "port": port}, data="initdb", port=port)
        self._all.append(server)
        return server.start()


def conninfo(server, dbname=DATABASE):
    """By TCP, as another machine would."""
    return f"host={HOST} port={server.port} user=postgres dbname={dbname}"


class Program:
    """A program of Debian's in front of the routers, with a directory of its own; it serves at `port`."""

    def __init__(self, installation):
        self.port = free_port()
        self._installation = installation
        self._directory = installation.directory()
        self.logfile = self._directory / "log"

    def __enter__(self):
        config = self._directory / "config"
        config.write_text(self._config())
        self._installation.hand_over(config)
        self._process = self._installation.spawn(self._command(config), self._directory, self.logfile)
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def conninfo(self, dbname=DATABASE):
        return f"host={HOST} port={self.port} user=postgres dbname={dbname}"


class Balancer(Program):
    """HAProxy: each connection goes to the next router that answers; one that dies is left out half a second later."""

    def __init__(self, installation, routers):
        super().__init__(installation)
        self._routers = routers

    def _command(self, config):
        return [program("haproxy"), "-db", "-f", config]

    def _config(self):
        servers = "".join(f"    server router{n} {HOST}:{router.port} check\n" for n, router in enumerate(self._routers, 1))
        return f"""\
global
    maxconn 1000
defaults
    mode tcp
    balance leastconn
    retries 2
    option redispatch
    timeout connect 2s
    timeout client 1h
    timeout server 1h
listen routers
    bind {HOST}:{self.port}
    option pgsql-check user postgres
    default-server inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
{servers}"""


class Pooler(Program):
    """PgBouncer in transaction mode, in front of a server at a port."""

    def __init__(self, installation, port, size=16):
        super().__init__(installation)
        self._target, self._size = port, size

    def _command(self, config):
        return [program("pgbouncer"), config]

    def _config(self):
        return f"""\
[databases]
* = host={HOST} port={self._target} user=postgres
[pgbouncer]
listen_addr = {HOST}
listen_port = {self.port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 500
default_pool_size = {self._size}
server_login_retry = 0.2
server_connect_timeout = 5
ignore_startup_parameters = extra_float_digits,options
log_connections = 0
log_disconnections = 0
"""


# ---------------------------------------------------------------- the tour

FILL = 500
DUPLICATES = """
SELECT count(*) AS rows, count(DISTINCT id) AS keys FROM ({}) AS all_tickets;"""
AMBIGUOUS = """
SELECT count(*) AS replies, count(*) FILTER (WHERE tickets > 1) AS with_several_tickets
FROM (SELECT r.id, r.note, count(t.id) AS tickets
      FROM ({}) AS r JOIN ({}) AS t ON t.id = r.ticket_id GROUP BY r.id, r.note) AS matched;"""


class ClusterTour(Tour):
    """A tour over several servers; see tools/demo.py."""

    def __init__(self, cluster):
        super().__init__()
        self.cluster = cluster

    def at(self, server, name, dbname=DATABASE):
        """From here on, statements go to this server."""
        print(f"  -- on {name}")
        self._command = [self.cluster.installation.bin("psql"), "-X", "-v", "ON_ERROR_STOP=1", "-d", conninfo(server, dbname)]


def tour(keep):
    started = time.monotonic()
    with Installation() as installation:
        if lacking := installation.lacks("postgres_fdw"):
            raise ServerError(f"this server has no {', '.join(lacking)}")
        with Cluster(installation) as cluster:
            cluster.standbys = [cluster.standby(cluster.shards[0]), None, None]
            show(ClusterTour(cluster))
            heading(f"That was the tour: {time.monotonic() - started:.0f} s.")
            if keep:
                for name, server in named(cluster):
                    print(f"  {name:<9} {installation.bin('psql')} '{conninfo(server)}'")
                print("\nCtrl-C ends it.")
                with contextlib.suppress(KeyboardInterrupt):
                    while True:
                        time.sleep(3600)


def named(cluster):
    """The nodes that run, with their names."""
    yield "registry", cluster.registry
    for n, shard in enumerate(cluster.shards):
        yield cluster.name_of(n), shard
    for n, router in enumerate(cluster.routers, 1):
        yield f"router{n}", router


def everywhere(cluster, table):
    """A query of a table of all shards at once, by the router's foreign tables."""
    return " UNION ALL ".join(f"SELECT * FROM {cluster.name_of(n)}_{table}" for n in range(len(cluster.shards)))


def independent_shards(cluster, script):
    """Shards that each have tickets and replies of their own, with some rows; the router sees all of them."""
    router = cluster.routers[0]
    for n, shard in enumerate(cluster.shards):
        name = cluster.name_of(n)
        shard.psql("DROP TABLE IF EXISTS replies, tickets", DATABASE)
        cluster.run(shard, script)
        cluster.run(shard, "fill.sql", shard=n + 1, rows=FILL)
        for table in "tickets", "replies":
            router.psql(
                f"SET client_min_messages = warning; DROP FOREIGN TABLE IF EXISTS {name}_{table};"
                f"IMPORT FOREIGN SCHEMA public LIMIT TO ({table}) FROM SERVER {name} INTO public;"
                f"ALTER FOREIGN TABLE {table} RENAME TO {name}_{table}",
                DATABASE,
            )


def replicate(cluster, source, target, name="tickets"):
    """Logical replication of the tickets from one shard to another; when the first row has arrived or failed, the server's word."""
    source.psql(f"CREATE PUBLICATION {name} FOR TABLE tickets", DATABASE)
    target.psql(
        f"CREATE SUBSCRIPTION {name} CONNECTION '{conninfo(source)}' PUBLICATION {name} WITH (copy_data = false)", DATABASE
    )
    logged = len(target.log)
    target.psql("INSERT INTO tickets (customer) VALUES ('of the second shard')", DATABASE)
    source.psql("INSERT INTO tickets (customer) VALUES ('of the first shard')", DATABASE)
    arrived = "SELECT count(*) FROM tickets WHERE customer = 'of the first shard'"
    wait_until(
        lambda: target.psql(arrived, DATABASE) == "1" or re.search(CONFLICT, target.log[logged:]),
        PATIENCE,
        lambda: ServerError("nothing replicated"),
    )


def stop_replication(source, target, name="tickets"):
    target.psql(f"ALTER SUBSCRIPTION {name} DISABLE; DROP SUBSCRIPTION {name}", DATABASE)
    source.psql(f"DROP PUBLICATION {name}", DATABASE)


def show(tour):
    cluster = tour.cluster
    router, (first, second, _) = cluster.routers[0], cluster.shards
    for n, shard in enumerate(cluster.shards):
        cluster.introduce(router, cluster.name_of(n), shard, cluster.standbys[n])

    tour.step(
        "Four nodes, and a registry that has given each a worker id",
        """Three shards and a router, each a PostgreSQL server. Nobody has chosen a number for them: the same line of
        configuration, snowflake_id.registry, stands on all four.""",
    )
    tour.at(cluster.registry, "the registry", "ids")
    tour.sql("SELECT number AS worker_id, state, host, valid_until FROM snowflake_id_node.leases ORDER BY number;")

    tour.step(
        "Without: bigserial",
        f"""examples/cluster/bigserial.sql on each shard, and {FILL} tickets with a reply each (fill.sql). Each shard counts
        by itself. All three together:""",
    )
    independent_shards(cluster, "bigserial.sql")
    tour.at(router, "the router")
    tour.sql(DUPLICATES.format(everywhere(cluster, "tickets")))
    say("A reply says which ticket it belongs to. It means three of them:")
    tour.sql(AMBIGUOUS.format(everywhere(cluster, "replies"), everywhere(cluster, "tickets")))
    say(
        """The tickets of shard 1 are to be on shard 2 as well, by logical replication. Each gets another ticket. It stops
        at this first row:"""
    )
    replicate(cluster, first, second)
    lines = second.log.splitlines()
    failure = next(n for n, line in enumerate(lines) if re.search(CONFLICT, line))
    say_as_is("\n".join(re.sub(r"^.*?(ERROR|DETAIL|CONTEXT):", r"\1:", line) for line in lines[failure : failure + 3]))
    stop_replication(first, second)

    tour.step("The same with snowflake_nextval()", "examples/cluster/snowflake.sql; the same load.")
    independent_shards(cluster, "snowflake.sql")
    tour.sql(DUPLICATES.format(everywhere(cluster, "tickets")))
    tour.sql(AMBIGUOUS.format(everywhere(cluster, "replies"), everywhere(cluster, "tickets")))
    replicate(cluster, first, second)
    tour.at(second, "shard 2")
    tour.sql("SELECT id, customer, snowflake_worker_id(id) FROM tickets WHERE customer = 'of the first shard';")
    stop_replication(first, second)

    tour.step(
        "A sharded table",
        f"""examples/cluster/shard.sql and router.sql: the router has {MODULUS} partitions by the hash of the id, which
        are foreign tables on the three shards. The id is made where the row comes in, on the router, before it is known
        where it goes.""",
    )
    cluster.create_tables(again=True)
    tour.at(router, "the router")
    tour.sql("INSERT INTO orders (customer, amount) SELECT 'customer ' || n, n % 100 FROM generate_series(1, 10000) AS n;")
    tour.sql("SELECT count(*), count(DISTINCT id) FROM orders;")
    say("A row's shard, time and node, from its key:")
    tour.sql("SELECT * FROM whereabouts ORDER BY id DESC LIMIT 3;")
    say(
        """Each shard writes a log of its orders, with ids of its own: snowflake_nextval_after(order_id). Another
        node's clock may be ahead; a log's id is greater than its order's all the same."""
    )
    tour.sql("""
SELECT count(*), bool_and(id > order_id) AS in_order,
       array_agg(DISTINCT snowflake_worker_id(order_id)) AS router, array_agg(DISTINCT snowflake_worker_id(id)) AS shards
FROM order_log;""")

    tour.step(
        "Search by time, over all shards",
        """A key's time is in the key, so each shard answers by its primary key. The bound is computed once, on the
        router, and sent along.""",
    )
    search = "SELECT count(*) FROM orders WHERE id >= (SELECT snowflake_lower_bound(now() - interval '1 minute'))"
    tour.sql(f"{search};")
    tour.sql(f"EXPLAIN (VERBOSE, COSTS OFF) {search};", lines=9)

    tour.step(
        "A shard joins",
        """It leases a worker id, and gets a partition from each of the others (move_partition.sql): copied, kept up to
        date, switched. No row gets another key.""",
    )
    before = digest(router)
    fourth = cluster.add_shard()
    for number in 0, 4, 8:
        cluster.move(number, fourth)
    tour.at(router, "the router")
    tour.sql("SELECT shard, count(*) FROM whereabouts GROUP BY shard ORDER BY shard;")
    same(before, digest(router))

    tour.step(
        "A shard is killed, and its standby promoted",
        """kill -9 for all processes of shard 1, and pg_promote(). The router's server names both hosts. The
        standby is a node of its own, with another worker id.""",
    )
    cluster.fail_over(0)
    cluster.await_ids(cluster.shards[0])
    tour.sql("INSERT INTO orders (customer, amount) SELECT 'after the failover', 1 FROM generate_series(1, 1000);")
    tour.sql("""
SELECT array_agg(DISTINCT snowflake_worker_id(l.id)) AS shards, count(*), bool_and(l.id > o.id) AS in_order
FROM orders AS o JOIN order_log AS l ON l.order_id = o.id WHERE customer = 'after the failover';""")

    tour.step(
        "One shard becomes two",
        "Half of the partitions of shard 2 go to a new one, as before.",
    )
    before = digest(router)
    fifth = cluster.add_shard()
    partitions = cluster.partitions_of(second)
    for number in partitions[: (len(partitions) + 1) // 2]:
        cluster.move(number, fifth)
    tour.sql("SELECT shard, count(*) FROM whereabouts GROUP BY shard ORDER BY shard;")
    same(before, digest(router))

    tour.step(
        "All shards become one database",
        """pg_dump of each shard, into one table with a primary key over all rows, and a foreign key from the log to the
        orders (merge.sql, merge_keys.sql).""",
    )
    one = cluster.merge()
    tour.at(one, "the one database")
    tour.sql("SELECT conrelid::regclass AS relation, pg_get_constraintdef(oid) AS constraint, convalidated FROM pg_constraint WHERE conrelid IN ('orders'::regclass, 'order_log'::regclass) AND contype IN ('p', 'f') ORDER BY 1, 2;")
    same(before, digest(one))
    say("You can always merge, always split, and never renumber.")


def digest(server):
    """Rows and keys of both tables: how many, and a sum that changes if any key does."""
    return server.psql(
        "SELECT (SELECT count(*) || ' orders, ' || md5(string_agg(id::text, ',' ORDER BY id)) FROM orders)"
        " || '; ' || (SELECT count(*) || ' log entries, ' || md5(string_agg(order_id || ':' || id, ',' ORDER BY order_id, id)) FROM order_log)",
        DATABASE,
    )


def same(before, after):
    """Say that nothing has changed, if that is so."""
    if before != after:
        raise ServerError(f"rows or keys have changed:\n{before}\n{after}")
    say_as_is(f"before and after: {after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the cluster running until Ctrl-C")
    parser.add_argument("--regions", type=int, metavar="SECONDS", help="two regions that write to each other, the link cut five times")
    parser.add_argument("--rows", type=int, metavar="N", help="so many rows by 64 clients, while the cluster changes")
    options = parser.parse_args()
    if options.regions or options.rows:
        # The tests of it, for longer.
        name = "two_regions" if options.regions else "storm"
        environment = {"SNOWFLAKE_CLUSTER_SECONDS": str(options.regions or ""), "SNOWFLAKE_CLUSTER_ROWS": str(options.rows or "")}
        command = [PROJECT / "target/venv/bin/python", "-m", "pytest", "tests/cluster/test_sharding.py", "-s", "-v", "-k", name]
        # What takes so long is meant to.
        command += ["-o", "faulthandler_timeout=0"]
        sys.exit(subprocess.run(command, cwd=PROJECT, env={**os.environ, **environment}, check=False).returncode)
    tour(options.keep)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\ncluster: interrupted; the servers are stopped and their files are removed")
    except (ServerError, OSError) as error:
        sys.exit(f"\ncluster: {error}")
