"""What a node knows of its registry grows old: tokens, passwords, connections, addresses."""

import contextlib
import itertools
import socket
import time
from pathlib import Path

import psycopg
import pytest
from clients import eventually
from nodes import Lessee
from registries import HOST, Etcd, PostgresRegistry
from throwaway import compile_library

TERMS = {"heartbeat": "200ms", "lease_duration": "1h", "reservation": "200ms"}

_numbers = itertools.count(1)


@pytest.fixture
def start_node(start_server, connect):
    """A function that starts a node, and waits until it has a number."""

    def start(address, env=None):
        server = start_server(worker_id=None, registry=address, server_options={"env": env}, **TERMS)
        node = Lessee(server, connect)
        node.flows()
        return node

    return start


def counts(node):
    """How many heartbeats its registry has answered up to now, and how many it has not, or refused.

    The keeper counts them when it looks, once a second: there are some fifty in that, where each is refused at once.
    """
    (now,) = node.sql("SELECT clock_timestamp()").fetchone()
    looked = "SELECT keeper_looked_at > %s FROM snowflake_status"
    eventually(lambda: node.connection.execute(looked, [now]).fetchone() == (True,), "the keeper looks")
    return node.sql("SELECT lease_renewals, lease_failures FROM pg_stat_snowflake").fetchone()


def renewed(node, before, failures=1):
    """Wait until the lease has been renewed twice since; no more than so many heartbeats have failed. How many did."""
    # Of the first two, one may have been under way.
    eventually(lambda: counts(node)[0] >= before[0] + 3, "the lease is renewed")
    eventually(lambda: node.status().registry_trouble is None)
    failed = counts(node)[1] - before[1]
    assert failed <= failures
    return failed


# What is kept is renewed


@pytest.mark.once("tokens are etcd's")
@pytest.mark.parts("etcd")
@pytest.mark.parametrize("tokens", ["simple", "jwt"])
def test_what_becomes_of_tokens(installation, start_registry, start_node, tokens):
    """Users, roles, passwords, authentication itself: whatever changes, the next heartbeat but one gets through."""
    registry = start_registry(Etcd, password="one", tokens=tokens)
    file = installation.directory() / "password"

    def write(password):
        file.touch(mode=0o600)
        installation.hand_over(file)
        file.write_text(password)

    write("one")
    node = start_node(registry.address("here", password_file=file).replace(":one@", "@"))
    number = node.number()
    failed = {}
    for change in (
        "another user",
        "another role",
        "another password",
        "no authentication",
        "authentication",
        "another start",
        "no leases",
    ):
        before, failures = counts(node), 1
        match change:
            case "another user":
                registry.ask("/v3/auth/user/add", name="other", password="pw")
            case "another role":
                registry.ask("/v3/auth/role/add", name="other")
                registry.ask("/v3/auth/user/grant", user="node", role="other")
            case "another password":
                # Its file is changed first; the old one is good until then.
                write("two")
                registry.change_password("two")
            case "no authentication":
                registry.ask("/v3/auth/disable")
            case "authentication":
                registry.ask("/v3/auth/enable")
            case "another start":
                registry.stop()
                node.state("ready", "cannot be reached")
                registry.start()
                # One was under way, and the first may come before etcd has a leader.
                before, failures = counts(node), 3
            case "no leases":
                leases = registry.ask("/v3/lease/leases")["leases"]
                assert leases
                for lease in leases:
                    registry.ask("/v3/lease/revoke", ID=lease["ID"])
        failed[change] = renewed(node, before, failures)
        assert node.number() == number
    # With the revoked lease went what said that the node is alive; it has said so again.
    assert eventually(lambda: registry.ask("/v3/lease/leases").get("leases"))
    print(f"{tokens} tokens: failed heartbeats after {failed}")


@pytest.mark.parametrize("change", ["connections", "functions"])
def test_what_becomes_of_connections(start_registry, start_node, change):
    """To a PostgreSQL registry: they are ended, or what they knew is no more."""
    registry = start_registry(PostgresRegistry)
    node = start_node(registry.address("here"))
    with psycopg.connect(registry.address("here"), autocommit=True) as admin:
        before = counts(node)
        if change == "connections":
            name = "application_name = 'snowflake_id lease'"
            admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {name}")
        else:
            # In one transaction. All leases go with it, and are written again.
            admin.execute("DROP EXTENSION snowflake_id_node; CREATE EXTENSION snowflake_id_node")
        renewed(node, before)


# Names of several addresses


@contextlib.contextmanager
def dropping(address, port):
    """A port where nothing is answered: connections are not even accepted, as if packets were dropped."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.bind((address, port))
        listener.listen(0)
        # It is full with these; the kernel drops what comes then.
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(family))
            waiting.setblocking(False)
            waiting.connect_ex((address, port))
        probe = stack.enter_context(socket.socket(family))
        probe.settimeout(1)
        with pytest.raises(TimeoutError):
            probe.connect((address, port))
        yield


@pytest.mark.parametrize("dead", ["127.0.0.2", "::1"])
def test_an_address_drops_packets(installation, registry, start_node, dead):
    """Of a name's addresses the first is dead: the other one is found, at the start and later."""
    if dead == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    library = installation.directory() / "addresses.so"
    compile_library(Path(__file__).with_name("addresses.c"), library)
    name = f"addresses{next(_numbers)}"
    address = registry.address(name).replace(f"{HOST}:", "registry.example:")
    with dropping(dead, registry.port):
        begun = time.monotonic()
        node = start_node(address, {"LD_PRELOAD": str(library), "ADDRESSES": f"{dead} {HOST}"})
        took = time.monotonic() - begun
        # Within the time of a call: none has failed.
        assert counts(node)[1] == 0
        renewed(node, counts(node), failures=0)
        # Whatever was known of it is known no more.
        registry.stop()
        node.state("ready", "cannot be reached")
        registry.start()
        renewed(node, counts(node), failures=3)
    print(f"{registry.SCHEME}: a lease {took:.1f} s after the server's start, {dead} being dead")
