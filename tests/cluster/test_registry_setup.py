"""docs/OPERATIONS.md: etcd and ZooKeeper are set up, looked into and tidied up as it says, with their own tools."""

import json
import os
import re
import subprocess

import pytest
from clients import eventually
from documents import blocks, page, section
from nodes import next_id, status
from registries import Etcd, ZooKeeper
from throwaway import HOST, clean_environment

OPERATIONS = page("docs/OPERATIONS.md")


class Etcdctl:
    """The shell, with etcdctl for an etcd."""

    def __init__(self, registry):
        self._env = clean_environment({"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": f"http://{HOST}:{registry.port}"})

    def __call__(self, script):
        # Its export is for an etcd with TLS, on another host.
        script = re.sub(r"^export .*\n", "", script, flags=re.MULTILINE)
        return subprocess.run(["sh", "-eu", "-c", script], env=self._env, capture_output=True, text=True, check=True).stdout


class Zkcli:
    """zkCli.sh without its script: what Debian's library has in it."""

    def __init__(self, registry):
        jars = [f"/usr/share/java/{name}.jar" for name in ("zookeeper", "slf4j-nop", "slf4j-api", "commons-cli", "netty-all")]
        jars = ":".join(jar for jar in jars if os.path.exists(jar))
        self._command = ["java", "-cp", jars, "org.apache.zookeeper.ZooKeeperMain", "-server", f"{HOST}:{registry.port}"]

    def __call__(self, script):
        done = subprocess.run(self._command, input=script, env=clean_environment(), capture_output=True, text=True, check=True)
        assert "KeeperErrorCode" not in done.stderr + done.stdout, done.stderr + done.stdout
        return done.stdout


def node_of(kind, registry, installation, start_server):
    """A node with the address that the page gives, but for the hosts, the files and TLS."""
    (address,) = [text.strip() for text in blocks(section(OPERATIONS, f"### {kind}"), "text") if "://" in text]
    password = installation.directory() / "password"
    password.write_text("secret\n")
    installation.hand_over(password)
    password.chmod(0o600)
    address = address.replace("registry1.example,registry2.example", f"{HOST}:{registry.port}")
    address = address.replace("/etc/snowflake_id/password", str(password)).replace("&cacert=/etc/snowflake_id/ca.pem", "")
    server = start_server(worker_id=None, registry=address, heartbeat="200ms")
    server.psql("CREATE EXTENSION snowflake_id")
    return server


def said(pattern):
    """What the page says of a record in one of its sentences."""
    (found,) = re.findall(pattern, " ".join(OPERATIONS.split()))
    return found


@pytest.mark.once("what a node does with etcd or ZooKeeper has nothing to do with its server's version")
@pytest.mark.parts("etcd")
def test_etcd(installation, start_registry, start_server, connect):
    etcd = start_registry(Etcd)
    sh = Etcdctl(etcd)
    for script in blocks(section(OPERATIONS, "### etcd"), "sh"):
        sh(script)
    connection = connect(node_of("etcd", etcd, installation, start_server))
    worker_id = eventually(lambda: status(connection).state == "ready" and next_id(connection) >> 12 & 1023, "a lease")
    shown = sh(said(r"In etcd, `(etcdctl [^`]*)` shows"))
    key, record = shown.splitlines()
    assert key == f"/snowflake/leases/{worker_id:07}"
    assert json.loads(record)["node"] == status(connection).node
    # And nobody else may look.
    with pytest.raises(subprocess.CalledProcessError):
        sh("etcdctl get --prefix /snowflake/")
    # What is deleted by hand, a node that runs writes again.
    assert sh(said(r"In etcd `(etcdctl [^`]* del [^`]*)`").replace("0000558", f"{worker_id:07}")) == "1\n"
    eventually(lambda: sh(f"etcdctl --user snowflake_node:secret get --keys-only {key}").strip() == key, "its lease again")


@pytest.mark.once("what a node does with etcd or ZooKeeper has nothing to do with its server's version")
def test_zookeeper(installation, start_registry, start_server, connect):
    zookeeper = start_registry(ZooKeeper)
    zkcli = Zkcli(zookeeper)
    (script,) = [text for text in blocks(section(OPERATIONS, "### ZooKeeper"), "text") if "://" not in text]
    zkcli(script)
    connection = connect(node_of("ZooKeeper", zookeeper, installation, start_server))
    worker_id = eventually(lambda: status(connection).state == "ready" and next_id(connection) >> 12 & 1023, "a lease")
    auth = script.splitlines()[0]
    ls, get = said(r"in ZooKeeper `(ls [^`]*)` and `(get [^`]*)` after")
    assert f"[{worker_id:07}]" in zkcli(f"{auth}\n{ls}\n")
    shown = zkcli(f"{auth}\n{get.replace('0000052', f'{worker_id:07}')}\n")
    (record,) = re.findall(r"^\{.*\}$", shown, re.MULTILINE)
    assert json.loads(record)["node"] == status(connection).node
    delete = said(r"in ZooKeeper `(delete [^`]*)`").replace("0000558", f"{worker_id:07}")
    zkcli(f"{auth}\n{delete}\n")
    eventually(lambda: f"[{worker_id:07}]" in zkcli(f"{auth}\n{ls}\n"), "its lease again")
