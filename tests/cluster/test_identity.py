"""Who a node is: the same one after a restart, a move, in another container; another one where it is a copy.

Containers here have one path, one host name, one machine-id, and volumes that are alike down to their inodes,
if it is not said otherwise.
"""

import re
import subprocess
import time
from pathlib import Path

import pytest
from clients import Load, eventually
from containers import ContainedServer, Containers
from nodes import (
    BATCH,
    IDS,
    REPLICATION,
    Lessee,
    becomes_ready,
    caught_up,
    duplicates,
    next_id,
    promote,
    refusal,
    status,
    warnings,
)
from registries import PostgresRegistry
from throwaway import PROJECT, compile_library

pytestmark = pytest.mark.once("hosts, file systems and their ids are the kernel's")

TERMS = {"heartbeat": "300ms", "reservation": "200ms", "lease_duration": "1h"}
WARNS = "WARNING:  snowflake_id: this node's worker id is being used by another node"


@pytest.fixture(params=["tmpfs", "ext4"])
def containers(request, installation):
    with Containers(installation, request.param) as containers:
        yield containers


@pytest.fixture
def ext4(installation):
    with Containers(installation, "ext4") as containers:
        yield containers


@pytest.fixture
def start(installation):
    """A function that starts a server in a container: with a new data directory, or with what is there."""
    servers = []

    def start(container, *, new=False, data="data", env=None, begin=True, postgres=None, **extension):
        settings = {f"snowflake_id.{name}": value for name, value in {"worker_id": 1, **extension}.items()}
        server = ContainedServer(container, {**settings, **(postgres or {})}, env=env, data=data)
        servers.append(server)
        if new:
            container.run("cp", "-a", installation._template, server.data)
        return server.start() if begin else server

    yield start
    for server in servers:
        server.remove()
    assert [line for server in servers for line in server.crashes()] == []


def session_of(server, connect):
    session = connect(server)
    session.execute("CREATE EXTENSION IF NOT EXISTS snowflake_id")
    return session


def inode(server):
    """Of its data directory."""
    return server.container.run("stat", "-c", "%i", server.data)


def base_backup(original, server, *options):
    command = [server.installation.bin("pg_basebackup"), "-D", server.data, "-c", "fast", "--no-sync", *options]
    server.container.run(*command, "-d", original.conninfo())


def archive(original, server):
    """As cp -a and rsync do: owners, modes and times are kept. The original rests meanwhile."""
    original.stop()
    files = original.container.run("tar", "-C", original.data.parent, "-cp", original.data.name)
    server.container.run("tar", "-C", server.data.parent, "-xp", input=files)
    original.start()


COPIES = pytest.mark.parametrize("copy", [base_backup, archive], ids=["base backup", "cp -a"])


def test_the_same_node(containers, start, connect):
    """After a restart and a crash, in another container, with another host name, elsewhere, and moved."""
    container = containers.make()
    server = start(container, new=True)
    session = session_of(server, connect)
    last, name = next_id(session), status(session).node

    def same(server, what):
        nonlocal last
        session = connect(server)
        number = next_id(session)
        row = becomes_ready(session)
        assert (row.node, row.conflict) == (name, None), what
        assert number > last, what
        assert warnings(server) == [], what
        last = number

    server.restart()
    same(server, "a restart")
    server.kill9()
    server.start()
    same(server, "a crash")
    server.stop()
    another = containers.again(container, host="db-1", machine="f" * 32)
    container.end()
    server = start(another)
    same(server, "another container on the volume, with another host name and machine-id")
    server.kill9()
    elsewhere = containers.directory / "elsewhere"
    elsewhere.mkdir()
    third = containers.again(another, volume=elsewhere)
    another.end()
    server = start(third)
    same(server, "mounted elsewhere")
    server.stop()
    third.run("mv", server.data, elsewhere / "moved")
    server = start(third, data="moved")
    same(server, "moved within its file system")


@COPIES
def test_a_copy_in_another_container(containers, start, connect, copy):
    """It is another node, though all is the same but for when it was made; on_copy = refuse refuses."""
    settings = {"on_copy": "refuse", "postgres": REPLICATION}
    original = start(containers.make(), new=True, **settings)
    session = session_of(original, connect)
    next_id(session)
    name = status(session).node
    server = start(containers.make(), begin=False, **settings)
    copy(original, server)
    server.start()
    other = connect(server)
    diag = refusal(other)
    assert (diag.sqlstate, diag.message_primary) == ("55000", "this data directory may be a copy of another node's")
    row = status(other)
    assert (row.state, row.conflict) == ("copy", name)
    assert row.node != name
    assert (server.data, inode(server)) == (original.data, inode(original))
    session = connect(original)
    assert next_id(session) and (row := status(session)).node == name and row.conflict is None


@COPIES
def test_a_copy_leases_a_worker_id_of_its_own(containers, start, start_registry, connect, copy):
    """Before its first id; both generate ids at once, and none twice."""
    address = start_registry(PostgresRegistry).address("here")
    settings = {"worker_id": None, "registry": address, "postgres": REPLICATION, **TERMS}
    original = Lessee(start(containers.make(), new=True, **settings), connect)
    original.flows()
    number, name = original.number(), original.status().node
    server = start(containers.make(), begin=False, **settings)
    copy(original.server, server)
    original.connect()
    original.flows()
    with Load(original.server, IDS, BATCH) as load:
        load.wait_for(1000)
        server.start()
        copied = Lessee(server, connect)
        copied.flows()
        assert copied.status().node != name
        with Load(server, IDS, BATCH) as other:
            other.wait_for(5000)
            load.wait_for(5000)
            received = [load.stop(), other.stop()]
    assert not any(load.errors)
    twice = duplicates(*received)
    print(f"{len(received[0])} ids of an original, {len(received[1])} of its copy, which leased: {twice} duplicates")
    assert twice == 0
    assert {id >> 12 & 1023 for id in received[0]} == {number}
    assert number not in {id >> 12 & 1023 for id in received[1]}
    # By its own word, not by the original's.
    assert f"Worker id {number} has been claimed" not in server.log


def test_a_promoted_standby_leases_a_worker_id_of_its_own(containers, start, start_registry, connect):
    """It never takes its primary's lease by the nonce that was copied along: that one runs, and goes on."""
    address = start_registry(PostgresRegistry).address("here")
    settings = {"worker_id": None, "registry": address, "postgres": REPLICATION, **TERMS}
    primary = Lessee(start(containers.make(), new=True, **settings), connect)
    primary.flows()
    number, name = primary.number(), primary.status().node
    server = start(containers.make(), begin=False, **settings)
    base_backup(primary.server, server, "-R")
    server.start()
    with Load(primary.server, IDS, BATCH) as load:
        load.wait_for(1000)
        caught_up(primary.server, server)
        promote(server)
        standby = Lessee(server, connect)
        standby.flows()
        row = standby.state("ready")
        assert (row.timeline, row.conflict) == (2, None)
        assert row.node != name
        with Load(server, IDS, BATCH) as other:
            other.wait_for(5000)
            load.wait_for(5000)
            received = [load.stop(), other.stop()]
    assert not any(load.errors)
    twice = duplicates(*received)
    print(f"{len(received[0])} ids of a primary, {len(received[1])} of its promoted standby: {twice} duplicates")
    assert twice == 0
    assert {id >> 12 & 1023 for id in received[0]} == {number}
    assert number not in {id >> 12 & 1023 for id in received[1]}
    assert WARNS not in primary.server.log


@pytest.fixture(scope="session")
def no_birth(installation):
    """The environment of a server whose file system does not say when a file was made."""
    library = installation.directory() / "no_birth.so"
    compile_library(Path(__file__).with_name("no_birth.c"), library)
    return {"LD_PRELOAD": str(library)}


@pytest.mark.parametrize("machine", ["", None, "uninitialized\n"], ids=["empty", "missing", "uninitialized"])
def test_a_machine_id_that_says_nothing(ext4, start, connect, no_birth, machine):
    """Where the file system does not say when a file was made: the host's name counts then, and not this one."""
    settings = {"on_copy": "refuse", "env": no_birth, "postgres": REPLICATION}
    container = ext4.make(machine=machine)
    original = start(container, new=True, **settings)
    session = session_of(original, connect)
    next_id(session)
    name = status(session).node
    copy = start(ext4.make(machine=machine, host="db-1"), begin=False, **settings)
    base_backup(original, copy)
    copy.start()
    assert refusal(connect(copy)).message_primary == "this data directory may be a copy of another node's"
    assert status(connect(copy)).node != name
    original.stop()
    again = ext4.again(container, machine="0" * 32)
    container.end()
    original = start(again, **settings)
    # With one that is valid, it is another machine.
    assert refusal(connect(original)).message_primary == "this data directory may be a copy of another node's"
    assert status(connect(original)).node != name


def test_a_valid_machine_id(ext4, start, connect, no_birth):
    """There, it is what tells machines apart: another host name changes nothing."""
    settings = {"on_copy": "refuse", "env": no_birth}
    container = ext4.make()
    server = start(container, new=True, **settings)
    session = session_of(server, connect)
    last, name = next_id(session), status(session).node
    server.stop()
    again = ext4.again(container, host="db-1")
    container.end()
    session = connect(start(again, **settings))
    assert next_id(session) > last
    assert (status(session).node, status(session).conflict) == (name, None)


def test_a_clone_of_a_running_volume(ext4, start, start_registry, connect):
    """Block by block: it cannot be told apart. By the registry, it is noticed with a heartbeat, and one of the two yields."""
    address = start_registry(PostgresRegistry).address("here")
    settings = {"worker_id": None, "registry": address, **TERMS, "heartbeat": "1s"}
    container = ext4.make()
    original = Lessee(start(container, new=True, **settings), connect)
    original.flows()
    name, number = original.status().node, original.number()
    image = ext4.directory / "clone"
    container.run("fsfreeze", "-f", container.volume, root=True)
    try:
        subprocess.run(["cp", "--sparse=always", container.image, image], check=True)
    finally:
        container.run("fsfreeze", "-u", container.volume, root=True)
    renamed = ext4.directory / "renamed"
    subprocess.run(["cp", "--sparse=always", image, renamed], check=True)
    other, third = ext4.make(image=image), ext4.make(image=renamed)
    for each in other, third:
        # It would name the original's process, which runs here and not there.
        each.run("rm", each.volume / "data/postmaster.pid")
    begun = time.monotonic()
    clone = Lessee(start(other, **settings), connect)
    # Its keeper says so with its first look.
    assert eventually(lambda: clone.status().node) == name
    eventually(lambda: WARNS in original.server.log + clone.server.log, "one of the two notices")
    took = time.monotonic() - begun
    eventually(lambda: None not in (numbers := {original.number(), clone.number()}) and len(numbers) == 2)
    with Load(original.server, IDS) as load, Load(clone.server, IDS) as others:
        load.wait_for(1000)
        others.wait_for(1000)
        received = [load.stop(), others.stop()]
    assert duplicates(*received) == 0
    assert [len({id >> 12 & 1023 for id in ids}) for ids in received] == [1, 1]
    # What the docs say makes it another node.
    (command,) = re.findall(r'cd "\$PGDATA" && (.*)', (PROJECT / "docs/OPERATIONS.md").read_text())
    third.run("sh", "-c", f"cd {third.volume}/data && {command}")
    others = {original.number(), clone.number(), number}
    another = Lessee(start(third, **settings), connect)
    another.flows()
    assert another.status().node != name
    assert another.number() not in others
    print(f"a clone of worker id {number} was noticed {took:.1f} s after its start, heartbeat 1 s")
