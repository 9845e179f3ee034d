"""What monitoring/ supplies, with the programs that it is for: each alert fires, and resolves.

Prometheus reads the very files, in quick motion: see quick(). monitoring/rules_test.yml tests the bounds.
"""

import contextlib
import datetime
import itertools
import json
import math
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest
from clients import Load, eventually
from monitor import SETUP, PostgresExporter, Prometheus, SqlExporter
from nodes import IDS, REPLICATION, Lessee, configure, next_id, refusal, status
from psycopg.rows import dict_row
from registries import Etcd, Proxy
from throwaway import PATIENCE, PROJECT, clean_environment

pytestmark = [
    pytest.mark.once("exporters and Prometheus read views that are the same everywhere; statistics have tests of their own"),
    pytest.mark.parts("Prometheus"),
]

MONITORING = PROJECT / "monitoring"
# 800 ids per second is all that it can hold; whoever takes them has 10 ms to come back for more.
NARROW = "timestamp:41@10ms,worker:10,sequence:3"
# A machine without a time daemon is told so, whatever the test is about.
OF_THE_MACHINE = "SnowflakeClockError"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
ALERTS = set(re.findall(r"alert: (\w+)", (MONITORING / "rules.yml").read_text()))
# The names in pg_stat_snowflake and snowflake_status, and what they are multiplied by. A metric is of
# the one row of the two, and has the labels worker_id and datacenter_id only.
PLAIN = {
    "snowflake_ids_generated_total": "ids",
    "snowflake_calls_total": "calls",
    "snowflake_batches_total": "batches",
    "snowflake_blocks_claimed_total": "blocks",
    "snowflake_ids_dropped_total": "dropped",
    "snowflake_ticks_exhausted_total": "ticks_exhausted",
    "snowflake_clock_backward_total": "clock_backward",
    "snowflake_clock_backward_max_seconds": ("clock_backward_max", 0.001),
    "snowflake_clock_forward_total": "clock_forward",
    "snowflake_windows_reserved_total": "windows",
    "snowflake_window_commit_seconds_total": ("window_time", 0.001),
    "snowflake_window_remaining_seconds": "window_left",
    "snowflake_lease_renewals_total": "lease_renewals",
    "snowflake_lease_failures_total": "lease_failures",
    "snowflake_lease_remaining_seconds": "lease_left",
    "snowflake_worker_id_changes_total": "worker_id_changes",
    "snowflake_ids_per_second": "ids_per_second",
    "snowflake_ceiling_ids_per_second": "ceiling",
    "snowflake_ceiling_used_ratio": "ceiling_used",
    "snowflake_ahead_seconds": "ahead",
    "snowflake_layout_remaining_seconds": ("years_left", 31_557_600),
    "snowflake_samples_total": "samples",
    "snowflake_samples_dropped_total": "samples_dropped",
    "snowflake_stats_reset_timestamp_seconds": "stats_reset",
    "snowflake_wait_seconds_count": "waits",
    "snowflake_wait_seconds_sum": ("wait_time", 0.001),
    "snowflake_clock_error_seconds": "clock_error",
}
# The same views in another schema, which a role finds before the extension's.
STAND_INS = """
    CREATE SCHEMA standins;
    CREATE TABLE standins.pg_stat_snowflake AS SELECT * FROM pg_stat_snowflake;
    CREATE TABLE standins.snowflake_status AS SELECT * FROM snowflake_status;
    GRANT USAGE ON SCHEMA standins TO snowflake_monitor;
    GRANT SELECT ON ALL TABLES IN SCHEMA standins TO snowflake_monitor;
    ALTER ROLE snowflake_monitor SET search_path = standins, public;
"""
# A value for each type of a column, of a number.
VALUES = {
    "bigint": "{}",
    "integer": "{}",
    "text": "'no {}'",
    "boolean": "true",
    "double precision": "{} + 0.25",
    "interval": "{} * interval '1 s' + interval '0.5 s'",
    "timestamp with time zone": "to_timestamp({})",
    "ARRAY": "array(SELECT {} + k FROM generate_series(1, 32) AS k)",
}


def quick(text):
    """A configuration in quick motion: 30 s are one, and all is looked at each second.

    What is changed is durations only, whatever the rules are: ranges, offsets, `for`, intervals.
    """

    def shorter(match):
        seconds = int(match[2]) * {"s": 1, "m": 60, "h": 3600}[match[3]]
        return f"{match[1]}{seconds * 1000 // 30}ms"

    text = re.sub(r"(interval: )\w+", r"\g<1>1s", text)
    return re.sub(r"(\[|\bfor: |\boffset )(\d+)([smh])\b", shorter, text)


class Watched:
    """Servers that Prometheus watches, each by an exporter."""

    def __init__(self, prometheus, exporters):
        self.prometheus = prometheus
        self.exporters = exporters

    def query(self, expression):
        return self.prometheus.query(expression)

    def sees(self, expression):
        """Wait until an expression has a sample; them all."""
        return eventually(lambda: self.query(expression), expression)

    def fires(self, *names, exporter=0):
        """Wait until these alerts of a server are firing, all at once; by name, with what they say."""
        return eventually(lambda: (alerts := self.firing(exporter)).keys() >= set(names) and alerts, f"firing: {names}")

    def resolves(self, *names, exporter=0):
        """Wait until these alerts of a server are firing no more; without names, until none is."""
        watched = set(names) or ALERTS - {OF_THE_MACHINE}
        eventually(lambda: not self.firing(exporter).keys() & watched, f"resolved: {names or 'all'}")

    def firing(self, exporter=0):
        """The alerts of a server that are firing, by name."""
        instance = self.exporters[exporter].address
        alerts = [alert for alert in self.prometheus.alerts() if alert["state"] == "firing"]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["labels"].get("instance") == instance}


@pytest.fixture
def watch(installation):
    """A function that has servers watched, whose metrics have been seen; all ends with the test."""
    with contextlib.ExitStack() as stack:

        def watch(*servers, by=(SqlExporter,)):
            exporters = [stack.enter_context(kind(installation, server, quick)) for kind in by for server in servers]
            watched = Watched(stack.enter_context(Prometheus(installation, exporters, quick)), exporters)
            eventually(lambda: len(watched.query("snowflake_ready")) == len(exporters), "all are seen")
            return watched

        yield watch


def series(watched, job):
    """All metrics of the extension by an exporter: values by name and labels."""
    found = {}
    for labels, value in watched.query(f'{{__name__=~"snowflake_.*", job="{job}"}}'):
        del labels["job"], labels["instance"], labels["cluster"]
        found[labels.pop("__name__"), frozenset(labels.items())] = value
    return found


def of_both(watched, least=frozenset()):
    """The metrics by both exporters, when both have the same ones, and these at least."""
    found = []

    def same():
        found[:] = [series(watched, exporter.JOB) for exporter in watched.exporters]
        return found[0].keys() == found[1].keys() and {name for name, _ in found[0]} >= least

    with contextlib.suppress(AssertionError):
        eventually(same)
    # Says what only one of them has, or what is missing.
    assert found[0].keys() == found[1].keys()
    assert least - {name for name, _ in found[0]} == set()
    return found


def number(value):
    """A column's value in base units."""
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    return value


def test_the_queries_are_the_same():
    """But for that of the buckets, where the one exporter wants rows and the other an array."""
    _, _, queries = (MONITORING / "sql_exporter.yml").read_text().partition("\nqueries:\n")
    others = (MONITORING / "postgres_exporter.yml").read_text()
    ours = dict(re.findall(r"^  (\w+): \|\n((?: {4}.*\n)+)", queries, re.MULTILINE))
    assert len(ours) == others.count("query: |") + 1
    assert [name for name, query in ours.items() if f"\n{name}:\n" not in others or query not in others] == ["snowflake_wait_seconds"]


def test_rules_and_configurations():
    for command in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules_test.yml"],
    ):
        done = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test():
    """With a real server, below. (Its bound is tested in rules_test.yml.)"""
    assert set(re.findall(r"alertname: (\w+)", (MONITORING / "rules_test.yml").read_text())) == ALERTS
    assert set(re.findall(r'"(Snowflake\w+)"', Path(__file__).read_text())) == ALERTS


def test_both_exporters(start_registry, start_server, connect, watch):
    """The same names and labels in Prometheus; names as Prometheus wants them; a role with pg_monitor only."""
    server = start_server(worker_id=None, registry=start_registry(Etcd).address("both"), heartbeat="200ms")
    server.psql(SETUP)
    connection = connect(server)
    lessee = Lessee(server, connect)
    lessee.flows()
    connection.execute("CREATE TABLE orders (id bigint); INSERT INTO orders SELECT snowflake_batch(700)")
    connection.execute("SELECT * FROM snowflake_audit('orders', 'id')")
    watched = watch(server, by=(SqlExporter, PostgresExporter))
    watched.sees("snowflake_audit_findings")
    for found in of_both(watched, PLAIN.keys()):
        labels = dict(next(labels for name, labels in found if name == "snowflake_ready"))
        assert labels == {"worker_id": str(lessee.number())}
        by_finding = {dict(labels)["finding"]: value for (name, labels), value in found.items() if name == "snowflake_audit_findings"}
        assert by_finding["rows"] == 700
        buckets = {dict(labels)["le"] for name, labels in found if name == "snowflake_wait_seconds_bucket"}
        assert buckets == {f"{2**k / 1_000_000}" for k in range(1, 33)} | {"+Inf"}
    # The types: a counter's name, and no other, ends in _total, and so on.
    lines = [line for line in watched.exporters[1].get("/metrics").splitlines(True) if re.match(r"(# \w+ )?snowflake_", line)]
    done = subprocess.run(["promtool", "check", "metrics"], input="".join(lines), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_each_metric_is_of_its_column(start_server, connect, watch):
    """Every column has a value of its own here."""
    server = start_server(reservation="2s", lease_duration="90min")
    server.psql(SETUP)
    connection = connect(server)
    connection.execute(STAND_INS)
    columns = connection.execute(
        "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'standins'"
    ).fetchall()
    for k, (table, column, kind) in enumerate(columns, 1):
        connection.execute(f"UPDATE standins.{table} SET {column} = {VALUES[kind].format(k * 1000)}")
    rows = connection.cursor(row_factory=dict_row).execute("SELECT * FROM standins.pg_stat_snowflake, standins.snowflake_status")
    row = {name: number(value) for name, value in rows.fetchone().items()}
    node = {"worker_id": str(row["worker_id"]), "datacenter_id": str(row["datacenter_id"])}

    expected = {}

    def expect(name, value, **labels):
        expected[name, frozenset({**node, **labels}.items())] = value

    for name, column in PLAIN.items():
        column, unit = (column, 1) if isinstance(column, str) else column
        expect(name, row[column] * unit)
    expect("snowflake_ready", 0)
    expect("snowflake_state_info", 1, state=row["state"])
    expect("snowflake_registry_up", 0)
    expect("snowflake_worker_id_conflict", 1)
    expect("snowflake_clock_synchronized", 1)
    expect("snowflake_window_commit_running_seconds", row["clock"] - row["keeper_writing_since"])
    expect("snowflake_reservation_seconds", 2)
    expect("snowflake_lease_duration_seconds", 5400)
    for reason in "clock", "window", "lease", "setup", "time":
        expect("snowflake_refusals_total", row[f"refused_{reason}"], reason=reason)
    expect("snowflake_refusals_total", row["cancelled"], reason="cancelled")
    for k in range(32):
        expect("snowflake_wait_seconds_bucket", sum(row["wait_histogram"][: k + 1]), le=f"{2 ** (k + 1) / 1_000_000}")
    expect("snowflake_wait_seconds_bucket", row["waits"], le="+Inf")

    watched = watch(server, by=(SqlExporter, PostgresExporter))
    for found in of_both(watched):
        assert found == pytest.approx(expected)


def test_the_clock(clock_server, connect, watch):
    """An hour back: calls find it behind, and get errors; the node is not ready."""
    clock_server.psql(SETUP)
    connection = connect(clock_server)
    next_id(connection)
    watched = watch(clock_server)
    clock_server.clock.offset(-3600)
    assert refusal(connection).sqlstate == "58000"
    alerts = watched.fires("SnowflakeClockBackward", "SnowflakeRefusals", "SnowflakeNotReady")
    assert alerts["SnowflakeRefusals"]["labels"]["reason"] == "clock"
    assert "is clock_behind;" in alerts["SnowflakeNotReady"]["annotations"]["description"]
    clock_server.clock.offset(0)
    next_id(connection)
    watched.resolves()


def test_the_kernels_clock(start_server, watch, kernel_clock):
    env, wrong_by = kernel_clock
    server = start_server(server_options={"env": env})
    server.psql(SETUP)
    watched = watch(server)
    watched.sees("snowflake_clock_error_seconds == 0.001")
    wrong_by(2.501)
    alert = watched.fires(OF_THE_MACHINE)[OF_THE_MACHINE]
    assert "may be wrong by 2.501s;" in alert["annotations"]["description"]
    # Where the kernel may not be asked there is nothing to be judged.
    wrong_by(None)
    watched.resolves(OF_THE_MACHINE)
    eventually(lambda: not watched.query("snowflake_clock_error_seconds or snowflake_clock_synchronized"), "no metric")
    wrong_by(2.501)
    watched.fires(OF_THE_MACHINE)
    wrong_by(2.5)
    watched.resolves(OF_THE_MACHINE)


def test_a_registry_that_is_cut_off(start_registry, start_server, connect, watch):
    registry = start_registry(Etcd)
    with Proxy(registry.port) as proxy:
        address = registry.address("cut", proxy.port)
        server = start_server(worker_id=None, registry=address, heartbeat="200ms", lease_duration="16s")
        server.psql(SETUP)
        node = Lessee(server, connect)
        node.flows()
        watched = watch(server)
        watched.sees("snowflake_lease_remaining_seconds > 12")
        proxy.cut()
        # First the one: the lease lasts.
        watched.fires("SnowflakeRegistryDown")
        watched.fires("SnowflakeRegistryDown", "SnowflakeLeaseNearlyOver")
        proxy.heal()
        node.flows()
        watched.resolves()


def test_all_that_the_layout_can_hold(start_server, watch):
    """A node under full load; then with none, for a while."""
    server = start_server(layout=NARROW)
    server.psql(SETUP)
    watched = watch(server)
    with Load(server, *[IDS] * 4):
        watched.fires("SnowflakeNearCeiling", "SnowflakeTicksExhausted")
        # Long enough for a rate that can be halved.
        watched.sees("avg_over_time(instance:snowflake_ids:rate5m[60s] offset 10s) > 400")
    watched.resolves("SnowflakeNearCeiling", "SnowflakeTicksExhausted")
    watched.fires("SnowflakeRateHalved")
    with Load(server, *[IDS] * 4):
        watched.resolves("SnowflakeRateHalved")


def test_a_record_that_cannot_be_written(start_server, watch):
    """Windows end and are not renewed, while ids are wanted all the time."""
    server = start_server()
    server.psql(SETUP)
    watched = watch(server)
    with Load(server, "SELECT snowflake_nextval() FROM pg_sleep(0.001)") as load:
        load.wait_for(1)
        with psycopg.connect(server.conninfo()) as other:
            other.execute("LOCK TABLE snowflake_id_node.high_water_marks")
            alerts = watched.fires("SnowflakeWindowNearlyOver", "SnowflakeRefusals", "SnowflakeNotReady")
            assert alerts["SnowflakeRefusals"]["labels"]["reason"] == "window"
        load.wait_for(1)
        watched.resolves()


def test_what_an_audit_has_found(start_server, connect, watch):
    server = start_server()
    server.psql(SETUP)
    connection = connect(server)
    connection.execute("CREATE TABLE orders (id bigint); INSERT INTO orders SELECT snowflake_batch(2)")
    connection.execute("INSERT INTO orders SELECT * FROM orders")
    watched = watch(server)
    connection.execute("SELECT * FROM snowflake_audit('orders', 'id')")
    alert = watched.fires("SnowflakeDuplicates")["SnowflakeDuplicates"]
    assert alert["labels"]["relation"] == "public.orders"
    connection.execute("DELETE FROM orders a USING orders b WHERE a.id = b.id AND a.ctid > b.ctid")
    connection.execute("SELECT * FROM snowflake_audit('orders', 'id')")
    watched.resolves()


def test_a_worker_id_that_another_has(start_server, connect, watch):
    """By a record that comes with restored data, say."""
    server = start_server()
    server.psql(SETUP)
    connection = connect(server)
    next_id(connection)
    connection.execute("CREATE TEMP TABLE other AS SELECT * FROM snowflake_id_node.high_water_marks")
    connection.execute("UPDATE other SET node = '1-2'; INSERT INTO snowflake_id_node.high_water_marks SELECT * FROM other")
    watched = watch(server)
    server.restart()
    connection = connect(server)
    eventually(lambda: flows(connection), "ids flow")
    watched.fires("SnowflakeWorkerIdConflict")
    configure(server, connection, worker_id="2")
    eventually(lambda: flows(connection) and status(connection).conflict is None, "another number")
    watched.resolves()


def test_two_nodes_with_one_worker_id(start_server, connect, watch):
    """Which do not know of each other; of a cluster, and for longer than a moment."""
    servers = start_server(), start_server(worker_id=2)
    for server in servers:
        server.psql(SETUP)
    watched = watch(*servers)
    watched.sees("count(cluster:snowflake_worker_id_nodes:count == 1) == 2")
    configure(servers[1], connect(servers[1]), worker_id="1")

    def fires():
        return [alert for alert in watched.prometheus.alerts() if alert["labels"]["alertname"] == "SnowflakeWorkerIdTwice"]

    (alert,) = eventually(lambda: (found := fires()) and found[0]["state"] == "firing" and found, "it fires")
    assert alert["labels"] == {"alertname": "SnowflakeWorkerIdTwice", "severity": "critical", "cluster": "main", "worker_id": "1"}
    named = re.search(r"the same ids: (.*)\.$", alert["annotations"]["description"])[1]
    assert sorted(named.split()) == sorted(exporter.address for exporter in watched.exporters)
    # As the runbook has it for who has no Prometheus, and mended as it says.
    found = shared_worker_ids(*servers)
    assert found == "".join(f"1|-|{server.directory}\n" for server in sorted(servers, key=lambda server: str(server.directory)))
    configure(servers[1], connect(servers[1]), worker_id="2")
    eventually(lambda: shared_worker_ids(*servers) == "", "the keeper has looked")
    eventually(lambda: not fires(), "it resolves")


def shared_worker_ids(*servers):
    """What the loop of docs/OPERATIONS.md prints of servers."""
    runbook = (PROJECT / "docs/OPERATIONS.md").read_text().split("### SnowflakeWorkerIdTwice\n")[1]
    loop = re.search(r"^```sh\n(for .*?)^```$", runbook, re.MULTILINE | re.DOTALL)[1]
    loop = loop.replace("db1.example db2.example db3.example", " ".join(str(server.directory) for server in servers))
    assert "db1" not in loop
    path = f"{Path(servers[0].installation.bin('psql')).parent}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-eu", "-c", loop], env={**clean_environment(), "PATH": path}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def flows(connection):
    """Whether an id is generated, after a start."""
    try:
        return next_id(connection)
    except psycopg.errors.LockNotAvailable:
        return None


def test_a_layout_that_ends(start_server, watch):
    """2^41 ms are some 69.7 years; of this epoch's, more than one and less than two are left."""
    epoch = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=2**41) + datetime.timedelta(days=700)
    server = start_server(layout="timestamp:41,worker:10,sequence:12", epoch=epoch.isoformat(timespec="seconds"))
    server.psql(SETUP)
    watched = watch(server)
    alert = watched.fires("SnowflakeLayoutEnding")["SnowflakeLayoutEnding"]
    assert "no more time for ids in 699d 23h" in alert["annotations"]["description"]
    server.configure({"snowflake_id.epoch": None})
    server.restart()
    watched.resolves()


def test_no_metrics(start_server, watch):
    """An exporter that is gone; a server that is, whose exporters answer."""
    server = start_server()
    server.psql(SETUP)
    watched = watch(server, by=(SqlExporter, PostgresExporter))
    for exporter in watched.exporters:
        exporter.stop()
    for k, exporter in enumerate(watched.exporters):
        watched.fires("SnowflakeMetricsMissing", exporter=k)
        exporter.start()
        watched.resolves(exporter=k)
    server.stop()
    for k, _ in enumerate(watched.exporters):
        watched.fires("SnowflakeMetricsMissing", exporter=k)
    server.start()
    for k, _ in enumerate(watched.exporters):
        watched.resolves(exporter=k)


def grafana(text, **chosen):
    """A query of the dashboard as Grafana sends it: variables by what is chosen, else by their allValue."""
    variables = {variable["name"]: variable.get("allValue") for variable in DASHBOARD["templating"]["list"]}
    escaped = {name: re.sub(r"[\\^$*+?.()|\[\]{}]", r"\\\\\g<0>", value) for name, value in chosen.items()}
    return re.sub(r"\$(\w+)", lambda match: {**variables, **escaped}[match[1]], text)


def test_the_dashboard(start_registry, start_server, connect, watch):
    """Each query has samples of each node, of no other than is chosen; each metric is looked at by something."""
    address = start_registry(Etcd).address("shown")
    server = start_server(worker_id=None, registry=address, heartbeat="200ms", layout=NARROW)
    server.psql(SETUP)
    Lessee(server, connect).flows()
    # An alert that fires.
    server.psql("CREATE TABLE orders (id bigint); INSERT INTO orders VALUES (1), (1)")
    server.psql("SELECT FROM snowflake_audit('orders', 'id')")
    watched = watch(server, by=(SqlExporter, PostgresExporter))
    nodes = {exporter.address for exporter in watched.exporters}
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]

    with Load(server, *[IDS] * 4):
        for query in queries:
            of_cluster = re.search(r"cluster:|by \(cluster\)", query)

            def answer(label="cluster" if of_cluster else "instance", query=query, **chosen):
                """What an answer is about, of samples that are numbers."""
                samples = watched.query(quick(grafana(query, **chosen)))
                return {labels[label] for labels, value in samples if not math.isnan(value)}

            eventually(lambda answer=answer, all_of_them={"main"} if of_cluster else nodes: answer() == all_of_them, query)
            chosen = {"main"} if of_cluster else {min(nodes)}
            # Each evaluation is of another moment.
            eventually(lambda answer=answer, chosen=chosen: answer(cluster="main", node=min(nodes)) == chosen, query)
            assert answer(cluster="other") == set()

    def exported():
        return {labels["__name__"] for labels, _ in watched.query('{__name__=~"snowflake_.+"}')}

    looked_at = set(re.findall(r"\w+", (MONITORING / "rules.yml").read_text() + " ".join(queries)))
    eventually(lambda: exported() > PLAIN.keys(), "all metrics")
    assert exported() - looked_at == set()
    # A server that is down is not shown as what was read of it last, but as one that is not read.
    server.stop()
    by_title = {panel["title"]: grafana(panel["targets"][0]["expr"]) for panel in DASHBOARD["panels"] if "targets" in panel}
    eventually(lambda: not watched.query(by_title["Ids are generated"]) and not watched.query(by_title["Nodes"]), "nothing is known")
    eventually(lambda: [value for _, value in watched.query(by_title["Metrics are read"])] == [1, 1], "missing metrics")


def test_a_standby(start_server, copies, connect, watch, kernel_clock):
    """It generates no ids, refuses them, has what its primary's audits found: no reason for any alert."""
    env, _ = kernel_clock
    server = start_server(postgres=REPLICATION, server_options={"env": env})
    server.psql(SETUP)
    server.psql("CREATE TABLE orders (id bigint); INSERT INTO orders VALUES (1), (1)")
    server.psql("SELECT FROM snowflake_audit('orders', 'id')")
    standby = copies.standby(server)
    watched = watch(standby, by=(SqlExporter, PostgresExporter))
    watched.sees('snowflake_state_info{state="standby"} == 1')
    of_both(watched)
    connection = connect(standby)

    def refuses_for_long():
        assert refusal(connection).sqlstate == "25006"
        # Twice as long as any alert's `for`. (Where the machine was too slow for an exporter, an alert says so until the next
        # answer; one that is of the standby stays.)
        return watched.query("count_over_time(snowflake_ready[10s]) >= 9") and not watched.prometheus.alerts()

    eventually(refuses_for_long)


def test_a_node_to_look_at():
    """What `make monitor` starts: ids are seen, and nothing is left when it ends."""
    command = [sys.executable, PROJECT / "tools/monitor.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as shown:
        try:
            said = "".join(itertools.takewhile(lambda line: "Ctrl-C" not in line, shown.stdout))
            prometheus = re.search(r"Prometheus: +(http://[^/]+)/", said)[1]
            seen = f"{prometheus}/api/v1/query?query=snowflake_ids_generated_total%3E0"
            eventually(lambda: json.load(urllib.request.urlopen(seen))["data"]["result"], "ids are seen")
        finally:
            # As Ctrl-C, which is ignored by what a shell has started in the background.
            shown.terminate()
        assert shown.wait(PATIENCE) == 0
    assert not Path(re.search(r"host=(\S+)", said)[1]).parent.exists()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(seen)
