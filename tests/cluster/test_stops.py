"""A stop in order is one: what was issued is recorded exactly, and the lease is given back.

The postmaster sends each SIGTERM twice, here with 0.05 to 1 ms between the two: the second one comes in the
middle of what the first has begun. `make chaos` stops 300 times.
"""

import os
import time
from pathlib import Path

import psycopg
import pytest
from nodes import Lessee, next_id, seconds
from registries import PostgresRegistry
from throwaway import compile_library

STOPS = 300 if os.environ.get("SNOWFLAKE_CHAOS") == "1" else 10
HEARTBEAT = 10
MARK = "SELECT reserved_until FROM snowflake_id_node.high_water_marks"
LEASE = "SELECT record->>'state', (record->>'until')::bigint / 1e6 FROM snowflake_id_node.registry WHERE number = %s"


@pytest.fixture
def slow_kill(installation):
    """The environment of a server that takes its time between the two."""
    library = installation.directory() / "slow_kill.so"
    compile_library(Path(__file__).with_name("slow_kill.c"), library)
    return {"LD_PRELOAD": str(library)}


def recorded(server):
    """The mark that a server which has just ended left behind, read by a server without the extension."""
    installation = server.installation
    command = f"{installation.bin('postgres')} --single -D {server.data} -c shared_preload_libraries= postgres"
    output = installation.run("sh", "-c", f'echo "{MARK}" | {command}')
    (mark,) = [line.split('"')[1] for line in output.splitlines() if "reserved_until = " in line]
    return int(mark)


def test_stops_that_are_interrupted_by_their_own_signal(start_server, start_registry, connect, slow_kill):
    """The record names exactly the last id, the lease ends after five heartbeats, the next start waits for nothing."""
    address = start_registry(PostgresRegistry).address("here")
    server = start_server(
        worker_id=None, registry=address, heartbeat=f"{HEARTBEAT}s", worker_id_range="7-7", reservation="1h",
        postgres={"fsync": "on"}, server_options={"env": slow_kill},
    )  # fmt: skip
    node = Lessee(server, connect)
    node.flows()
    claims = node.claims()
    longest = 0
    with psycopg.connect(address, autocommit=True) as registry:
        for stop in range(STOPS):
            last = next_id(node.connection)
            before = time.time()
            server.stop()
            after = time.time()
            longest = max(longest, after - before)
            # The slot behind it, as an id of the layout.
            behind = last + 1 if last & 4095 < 4095 else last - 4095 + (1 << 22)
            assert recorded(server) == behind, f"stop {stop}"
            state, until = registry.execute(LEASE, [7]).fetchone()
            assert state == "released", f"stop {stop}"
            assert before < until <= after + 5 * HEARTBEAT, f"stop {stop}"
            asked = time.time()
            server.start()
            node.connect()
            number = next_id(node.connection)
            assert number > last
            # Where a window of an hour had been reserved; an id's tick may have begun 1 ms before.
            assert asked - 0.001 <= seconds(number) <= time.time(), f"stop {stop}"
        # It never had to claim its worker id anew.
        assert node.claims() == claims
    print(f"{STOPS} stops, the longest of {longest:.2f} s: each has recorded the last id, and given the lease back")
