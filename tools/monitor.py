"""A node under load, watched by Prometheus: what `make monitor` shows.

    with Installation() as installation, node(installation) as server:
        with SqlExporter(installation, server) as exporter, Prometheus(installation, [exporter]) as prometheus:
            print(prometheus.query("snowflake_ready"))

Programs are Debian's, configurations those of monitoring/. All listens on loopback only, keeps its files in the
installation's directory, and is stopped by its own process id.
"""

import contextlib
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

from throwaway import (
    HOST,
    PATIENCE,
    PROJECT,
    Installation,
    Server,
    ServerError,
    free_port,
    wait_until,
)

# All that an exporter needs; see monitoring/sql_exporter.yml.
ROLE = "CREATE ROLE snowflake_monitor LOGIN IN ROLE pg_monitor"
SETUP = f"CREATE EXTENSION snowflake_id; {ROLE};"

# Some thousand ids per second, in two sessions. It goes on after an error.
LOAD = """
DO $$ BEGIN LOOP
    BEGIN
        PERFORM snowflake_nextval() FROM generate_series(1, 200);
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    COMMIT;
    PERFORM pg_sleep(0.1);
END LOOP; END $$
"""
SESSIONS = 2


class Service:
    """A program that serves HTTP on loopback.

    `change` is what is done to the text of each of its configuration files.
    """

    READY = "/metrics"

    def __init__(self, installation, change=str):
        self.address = f"{HOST}:{free_port()}"
        self.url = f"http://{self.address}"
        self.directory = installation.directory()
        self._installation = installation
        self._change = change
        self._logfile = self.directory / "log"
        self._process = None

    def start(self):
        """Start, and wait until it answers."""
        self._process = self._installation.spawn(self._command(), self.directory, self._logfile, self._env())
        wait_until(self._ready, PATIENCE, lambda: self._error("does not answer"))
        return self

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def get(self, path, **parameters):
        """What it answers to a request."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"{self.url}{path}{query}", timeout=10) as answer:
            return answer.read().decode()

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    def _command(self):
        raise NotImplementedError

    def _env(self):
        return {}

    def _ready(self):
        if self._process.poll() is not None:
            raise self._error("ended")
        try:
            self.get(self.READY)
        except OSError:
            return False
        return True

    def _configuration(self, name, replacements=None):
        """A file of monitoring/ with examples replaced by what is here; where it lies."""
        text = (PROJECT / "monitoring" / name).read_text()
        for example, here in (replacements or {}).items():
            if example not in text:
                raise ServerError(f"{name} does not contain {example}")
            text = text.replace(example, here)
        path = self.directory / name
        path.write_text(self._change(text))
        self._installation.hand_over(path)
        return path

    def _error(self, complaint):
        log = self._logfile.read_text(errors="replace") if self._logfile.exists() else ""
        return ServerError(f"{self._command()[0]} {complaint}; the end of its log:\n{log[-4000:]}")


class Exporter(Service):
    """What gives Prometheus the metrics of a server; JOB is the part of prometheus.yml that reads it."""

    def __init__(self, installation, server, change=str):
        super().__init__(installation, change)
        self._server = server


class SqlExporter(Exporter):
    JOB = "snowflake"

    def _command(self):
        here = f"host={self._server.directory}&port={self._server.port}"
        config = self._configuration("sql_exporter.yml", {"host=/var/run/postgresql": here})
        return ["prometheus-sql-exporter", "-config.file", config, "-web.listen-address", self.address]

    def _env(self):
        return {"LOGLEVEL": "warn"}


class PostgresExporter(Exporter):
    JOB = "snowflake_postgres"

    def _command(self):
        return [
            "prometheus-postgres-exporter",
            f"--extend.query-path={self._configuration('postgres_exporter.yml')}",
            "--disable-default-metrics", "--disable-settings-metrics", "--no-collector.database", "--no-collector.bgwriter",
            f"--web.listen-address={self.address}",
        ]  # fmt: skip

    def _env(self):
        server = self._server
        return {"DATA_SOURCE_NAME": f"user=snowflake_monitor host={server.directory} port={server.port} dbname=postgres"}


# The targets that stand in prometheus.yml, by job.
EXAMPLES = {SqlExporter.JOB: '"db1.example:9237", "db2.example:9237"', PostgresExporter.JOB: '"db3.example:9187"'}


class Prometheus(Service):
    READY = "/-/ready"

    def __init__(self, installation, exporters, change=str):
        super().__init__(installation, change)
        self._exporters = exporters

    def query(self, expression):
        """The samples of an expression: labels and value of each."""
        samples = self._api("query", query=expression)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in samples]

    def alerts(self):
        """The alerts that are pending or firing, as the API gives them."""
        return self._api("alerts")["alerts"]

    def _api(self, path, **parameters):
        return json.loads(self.get(f"/api/v1/{path}", **parameters))["data"]

    def _command(self):
        targets = {
            example: ", ".join(f'"{exporter.address}"' for exporter in self._exporters if exporter.JOB == job)
            for job, example in EXAMPLES.items()
        }
        self._configuration("rules.yml")
        return [
            "prometheus",
            f"--config.file={self._configuration('prometheus.yml', targets)}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self.address}",
            "--log.level=warn",
        ]


@contextlib.contextmanager
def node(installation):
    """A server that generates ids all the time."""
    with Server(installation, {"snowflake_id.worker_id": 1}) as server:
        server.psql(SETUP)
        command = [installation.bin("psql"), "-Xq", "-d", server.conninfo(), "-c", LOAD]
        sessions = []
        try:
            for number in range(SESSIONS):
                sessions.append(installation.spawn(command, server.directory, server.directory / f"load{number}.log"))
            yield server
        finally:
            for session in sessions:
                session.terminate()
                session.wait()


def often(text):
    """A configuration by which is looked every 5 s: nobody wants to wait for the first graph."""
    return text.replace("15s", "5s")


def show():
    with Installation() as installation, node(installation) as server:
        print(f"{installation.version}: {installation.bin('psql')} '{server.conninfo()}'")
        with SqlExporter(installation, server, often) as exporter, Prometheus(installation, [exporter], often) as prometheus:
            print(f"sql_exporter: {exporter.url}/metrics")
            print(f"Prometheus:   {prometheus.url}/graph?g0.expr=instance%3Asnowflake_ids%3Arate5m&g0.tab=0&g0.range_input=15m")
            print(f"alerts:       {prometheus.url}/alerts")
            print("Ctrl-C ends it all.", flush=True)
            threading.Event().wait()


if __name__ == "__main__":
    try:
        show()
    except KeyboardInterrupt:
        print("\nmonitor: all is stopped, and its files are removed")
    except (ServerError, OSError) as error:
        sys.exit(f"\nmonitor: {error}")
