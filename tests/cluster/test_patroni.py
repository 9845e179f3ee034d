"""Patroni with etcd: members that share one configuration, and lease their worker ids from the same etcd. See docs/CLUSTER.md."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import time

import numpy
import psycopg
import pytest
from clients import eventually
from registries import Etcd
from throwaway import HOST, PATIENCE, clean_environment, free_port

pytestmark = [
    pytest.mark.once("Patroni takes whichever server there is"),
    pytest.mark.parts("Patroni, etcd"),
    pytest.mark.skipif(not shutil.which("patroni"), reason="there is no patroni"),
]
HEARTBEAT = 2


class Member:
    """A Patroni with its PostgreSQL."""

    def __init__(self, installation, etcd, name):
        self.name, self.port, self._api = name, free_port(), free_port()
        self._installation = installation
        self.directory = installation.directory()
        self.logfile = self.directory / "log"
        config = {
            "scope": "cluster",
            "name": name,
            "restapi": {"listen": f"{HOST}:{self._api}", "connect_address": f"{HOST}:{self._api}"},
            "etcd3": {"host": f"{HOST}:{etcd.port}"},
            # What all members have in common. There is no worker id in it.
            "bootstrap": {
                "dcs": {
                    "ttl": 20,
                    "loop_wait": 1,
                    "retry_timeout": 3,
                    "postgresql": {
                        "use_pg_rewind": False,
                        "parameters": {
                            "shared_preload_libraries": "snowflake_id",
                            "snowflake_id.registry": etcd.address("patroni"),
                            "snowflake_id.heartbeat": f"{HEARTBEAT}s",
                            "dynamic_shared_memory_type": "mmap",
                            "fsync": "off",
                            "timezone": "UTC",
                            "log_line_prefix": "%m [%p] %b %e ",
                        },
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"{HOST}:{self.port}",
                "connect_address": f"{HOST}:{self.port}",
                "data_dir": str(self.directory / "data"),
                "bin_dir": os.path.dirname(installation.bin("postgres")),
                "pgpass": str(self.directory / "pgpass"),
                "pg_hba": ["local all all trust", f"host all all {HOST}/32 trust", f"host replication all {HOST}/32 trust"],
                "authentication": {
                    "superuser": {"username": "postgres", "password": "x"},
                    "replication": {"username": "replicator", "password": "x"},
                },
                "parameters": {"unix_socket_directories": str(self.directory)},
            },
        }
        # YAML is a superset of JSON.
        self._config = self.directory / "patroni.yml"
        self._config.write_text(json.dumps(config))
        installation.hand_over(self._config)
        self._process = None

    def start(self):
        self._process = self._installation.spawn(
            [shutil.which("patroni"), self._config], self.directory, self.logfile, clean_environment({"HOME": str(self.directory)})
        )

    def ask(self, method, path, body=None):
        """The status of Patroni's answer, and the answer."""
        connection = http.client.HTTPConnection(HOST, self._api, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body else None)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def is_(self, role):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", f"/{role}")[0] == 200
        return False

    def postmaster(self):
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((self.directory / "data/postmaster.pid").read_text().splitlines()[0])
        return None

    def kill9(self):
        """The Patroni, and all processes of its PostgreSQL."""
        self._process.kill()
        self._process.wait()
        if postmaster := self.postmaster():
            with contextlib.suppress(ProcessLookupError):
                # They are one session each, with the postmaster at its head.
                os.kill(postmaster, signal.SIGKILL)

    def stop(self):
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill9()
        elif postmaster := self.postmaster():
            with contextlib.suppress(ProcessLookupError):
                os.kill(postmaster, signal.SIGQUIT)

    @property
    def conninfo(self):
        return f"host={HOST} port={self.port}"


class Ids:
    """A client that takes ids from whichever member is the primary, and notes when."""

    def __init__(self, members):
        hosts = ",".join(HOST for _ in members)
        ports = ",".join(str(member.port) for member in members)
        self._source = f"host={hosts} port={ports} user=postgres dbname=postgres target_session_attrs=read-write connect_timeout=2"
        self.ids, self.times, self._connection = [], [], None

    def take(self):
        """Take one; whether it was had."""
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self._source, autocommit=True)
            self.ids += [row[0] for row in self._connection.execute("SELECT snowflake_batch(20)")]
        except psycopg.Error:
            if self._connection is not None:
                self._connection.close()
            time.sleep(0.02)
            return False
        self.times.append(time.monotonic())
        return True

    def until(self, condition, seconds=PATIENCE):
        """Go on taking until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "not in time"
            self.take()
            time.sleep(0.005)

    def gap(self, since):
        """The longest time without ids, in seconds."""
        times = numpy.array([since, *(at for at in self.times if at >= since)])
        return numpy.diff(times).max()

    def close(self):
        if self._connection is not None:
            self._connection.close()


def switched(members):
    """Whether the second member is the primary; if it is not, it is asked for. Patroni refuses as long as it is not ready."""
    if not members[1].is_("primary"):
        with contextlib.suppress(OSError, http.client.HTTPException):
            members[0].ask("POST", "/switchover", {"leader": "one", "candidate": "two"})
    return members[1].is_("primary")


def test_switchover_and_failover(installation):
    """One configuration for all: each primary has a worker id of its own, and no id is made twice."""
    with Etcd(installation) as etcd:
        members = [Member(installation, etcd, name) for name in ("one", "two")]
        ids = Ids(members)
        try:
            members[0].start()
            eventually(lambda: members[0].is_("primary"), "the first member is the primary")
            members[1].start()
            eventually(lambda: members[1].is_("replica"), "the second member follows")
            with psycopg.connect(f"{members[0].conninfo} user=postgres dbname=postgres", autocommit=True) as connection:
                connection.execute("CREATE EXTENSION snowflake_id")
            ids.until(lambda: len(ids.ids) >= 2000)
            since = time.monotonic()
            eventually(lambda: switched(members), "the second member is the primary")
            count = len(ids.ids)
            ids.until(lambda: members[1].is_("primary") and members[0].is_("replica") and len(ids.ids) >= count + 2000)
            print(f"switchover: {ids.gap(since):.1f} s without ids")
            since, count = time.monotonic(), len(ids.ids)
            members[1].kill9()
            ids.until(lambda: members[0].is_("primary") and len(ids.ids) >= count + 2000)
            print(f"failover by kill -9: {ids.gap(since):.1f} s without ids")
            # The old primary comes back, as a standby.
            members[1].start()
            ids.until(lambda: members[1].is_("replica"))
            assert len(set(ids.ids)) == len(ids.ids)
            workers = [number >> 12 & 1023 for number in ids.ids]
            changes = [w for n, w in enumerate(workers) if n == 0 or workers[n - 1] != w]
            print(f"{len(ids.ids)} ids, none twice, by worker ids {changes} in turn")
            assert len(changes) == 3
            assert changes[0] != changes[1] != changes[2]
        finally:
            ids.close()
            for member in reversed(members):
                member.stop()
