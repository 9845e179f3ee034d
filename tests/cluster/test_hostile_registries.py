"""Servers in a registry's place that are none, or mean harm: a node says so, asks seldom, and its memory does not grow."""

import contextlib
import re
import socketserver
import struct
import threading
import time
from pathlib import Path

import pytest
from clients import eventually
from nodes import Lessee
from registries import HOST, free_port

# What a heartbeat lasts by default: what happens within one is in the status before the next.
HEARTBEAT = 10
SETTINGS = {"heartbeat": f"{HEARTBEAT}s", "lease_duration": "1h"}
CALLS_PER_SECOND = 10
MORE_MEMORY = 32  # MB
MEGABYTE = bytes(1024 * 1024)


class Hostile:
    """A server on a port of this machine that answers every call in one way. It counts calls: requests, or new connections."""

    def __init__(self, serve):
        hostile = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                hostile.calls += 1
                with contextlib.suppress(OSError, struct.error):
                    serve(hostile, self.request)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False

        self.calls = 0
        self._server = Server((HOST, 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def exactly(connection, length):
    found = b""
    while len(found) < length:
        more = connection.recv(length - len(found))
        if not more:
            raise ConnectionError
        found += more
    return found


def endless(connection, piece=MEGABYTE):
    while True:
        connection.sendall(piece)


def slowly(connection, answer):
    """One byte a second."""
    for byte in answer:
        connection.sendall(bytes([byte]))
        time.sleep(1)


def silent(connection):
    while connection.recv(4096):
        pass


# Whoever asks, in whatever words, gets the same


def web(status, body, length=None):
    """A web server's answer."""
    length = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n".encode() + body


def says(answer):
    """Answers the first bytes, and ends the connection, as HTTP/1.0 does."""

    def serve(_, connection):
        connection.recv(4096)
        connection.sendall(answer)

    return serve


HTML = web("200 OK", b"<html><body>It works!</body></html>")


# etcd


def etcd(answer, more=None):
    """Requests that all have the same answer."""

    def serve(server, connection):
        server.calls -= 1
        while head := request_head(connection):
            server.calls += 1
            exactly(connection, int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1]))
            connection.sendall(answer)
            if more:
                more(connection)

    return serve


def request_head(connection):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return None
        head += byte
    return head


def json(body):
    return web("200 OK", body.encode())


def pairs(*pairs):
    """An answer with keys; numbers are texts there."""
    pairs = [f'{{"key":"{key}","mod_revision":"{revision}"}}' for key, revision in pairs]
    return json(f'{{{HEADER},"kvs":[{",".join(pairs)}]}}')


HEADER = '"header":{"cluster_id":"1","member_id":"2","revision":"3","raft_term":"4"}'
ETCD = {
    "an empty object": (etcd(json("{}")), "is none, by its answer: 200 OK, and nothing that etcd would say"),
    "an array": (etcd(json("[]")), "is none, by its answer: 200 OK, and nothing"),
    "a page": (etcd(HTML), "is none, by its answer: 200 OK, and nothing that etcd would say"),
    "another page": (etcd(web("404 Not Found", b"<html>")), "is none, by its answer: 404 Not Found, and nothing that etcd"),
    "another protocol": (says(b"220 mail.example ESMTP\r\n"), "is none, by its answer: "),
    "no end": (etcd(web("200 OK", b"", 10**15), endless), "is none, by its answer: its answer is too long"),
    "no end of a header": (etcd(b"HTTP/1.1 200 OK\r\nx: ", endless), "is none, by its answer: "),
    "a byte a second": (etcd(b"", lambda c: slowly(c, json("{}"))), "cannot be reached: no answer within 3 s"),
    "half an answer": (etcd(web("200 OK", b"{", 100), lambda c: c.close()), "cannot be reached: "),
    "half an answer, and silence": (etcd(web("200 OK", b"{", 100), silent), "cannot be reached: no answer within 3 s"),
    "wrong types": (etcd(json(f'{{{HEADER},"kvs":"none"}}')), "is none, by its answer: .*invalid type"),
    "deep": (etcd(json('{"a":' * 100_000)), "is none, by its answer: .*EOF while parsing"),
    "huge numbers": (
        etcd(pairs(("L2hlcmUvbGVhc2VzLzAwMDAwMDE=", "9" * 99))),
        "is none, by its answer: .*number too large to fit",
    ),
    "many keys": (
        # As many as an answer holds.
        etcd(pairs(*[("", 1)] * 170_000)),
        "is no lease: the key names no number",
    ),
    # As one that is asked by very many at once.
    "never a success": (etcd(json(f"{{{HEADER}}}")), "others took each worker id that was free"),
}

# PostgreSQL


def message(kind, body=b""):
    return kind + struct.pack(">i", len(body) + 4) + body


def columns(*kinds):
    """What a row is made of: names and the types' numbers."""
    fields = [name.encode() + b"\0" + struct.pack(">ihihih", 0, 0, oid, -1, -1, 1) for name, oid in kinds]
    return message(b"T", struct.pack(">h", len(fields)) + b"".join(fields))


def row(*values):
    return message(b"D", struct.pack(">h", len(values)) + b"".join(struct.pack(">i", len(v)) + v for v in values))


def postgres(*answers, greeting=b"", more=None):
    """Lets everybody in, and answers each statement with one of these, the last one for ever."""

    def serve(server, connection):
        exactly(connection, struct.unpack(">i", exactly(connection, 4))[0] - 4)
        connection.sendall(greeting + message(b"R", bytes(4)) + message(b"Z", b"I"))
        left = list(answers)
        while True:
            kind, length = exactly(connection, 1), struct.unpack(">i", exactly(connection, 4))[0]
            exactly(connection, length - 4)
            if kind == b"S":
                server.calls += 1
                last = len(left) == 1
                connection.sendall(left[0] if last else left.pop(0))
                if last and more:
                    more(connection)

    return serve


BOUND = message(b"1") + message(b"2")
DONE = message(b"C", b"SELECT 1\0") + message(b"Z", b"I")
BIGINT, TEXT, BOOLEAN, NO_SUCH_TYPE = 20, 25, 16, 99_999
# Whether the extension is there: a row of nothing.
FOUND = BOUND + columns() + row() + DONE
LEASES = BOUND + columns(("number", BIGINT), ("revision", BIGINT), ("record", TEXT), ("alive", BOOLEAN))
LEASE = row(struct.pack(">q", 1), struct.pack(">q", 1), b"", b"\1")
RECORD = (
    '{"format":1,"node":"","host":"","nonce":"","state":"held","floor":0,"until":4000000000000000,'
    '"layout":"timestamp:41,worker:10,sequence:12","epoch":1735689600000000,"updated_at":0}'
)
LEASED = b"".join(row(struct.pack(">q", n), struct.pack(">q", 1), RECORD.encode(), b"\1") for n in range(20_000))
POSTGRES = {
    "a page": (says(HTML), "is none, by its answer: it does not speak as PostgreSQL does"),
    "another protocol": (says(b"220 mail.example ESMTP\r\n"), "is none, by its answer: it does not speak as PostgreSQL"),
    "no end": (lambda _, c: endless(c), "is none, by its answer: it does not speak as PostgreSQL does"),
    "a huge message": (says(b"R\x7f\xff\xff\xff"), "is none, by its answer: it does not speak as PostgreSQL does"),
    "a byte a second": (lambda _, c: slowly(c, message(b"R", bytes(4)) * 9), "cannot be reached: no answer within 3 s"),
    "half an answer": (says(message(b"R", bytes(4))[:6]), "cannot be reached: "),
    "half an answer, and silence": (lambda _, c: (c.sendall(b"R\0\0"), silent(c)), "cannot be reached: no answer within 3 s"),
    "no extension": (postgres(BOUND + columns() + DONE), "refuses: it is no registry: CREATE EXTENSION snowflake_id_node"),
    "no end of notices": (
        postgres(FOUND, greeting=message(b"S", b"a\0b\0"), more=lambda c: endless(c, message(b"N", b"Mx\0\0") * 1000)),
        "is none, by its answer: ",
    ),
    "no end of settings": (
        postgres(FOUND, more=lambda c: [c.sendall(message(b"S", b"%d\0x\0" % n)) for n in range(10**9)]),
        "is none, by its answer: its answer is too long|no answer within 3 s",
    ),
    "no end of rows": (
        postgres(FOUND, LEASES, more=lambda c: endless(c, LEASE * 1000)),
        "is none, by its answer: its answer is too long",
    ),
    "a huge row": (
        postgres(FOUND, LEASES, more=lambda c: (c.sendall(b"D\x7f\xff\xff\xff"), endless(c))),
        "is none, by its answer: its answer is too long",
    ),
    # Nearly as many as an answer holds.
    "many leases": (postgres(FOUND, LEASES + LEASED + DONE), "all worker ids from 0 to 1023 are taken, 1024 of them by"),
    "empty rows": (
        postgres(FOUND, BOUND + columns(), more=lambda c: endless(c, row() * 1000)),
        "is none, by its answer: invalid column",
    ),
    "wrong types": (
        postgres(FOUND, BOUND + columns(("number", TEXT)) + row(b"x") + DONE),
        "is none, by its answer: cannot convert",
    ),
    # Which the client asks for, and what that answer is made of, and so on.
    "unknown types": (
        postgres(BOUND + columns(("number", NO_SUCH_TYPE)) + row(b"x") + DONE),
        "is none, by its answer: its answers ask for one call after the other",
    ),
    "huge numbers": (
        postgres(FOUND, LEASES + row(b"\xff" * 8, b"\x7f" * 8, b"{}", b"\1") + DONE),
        "number 18446744073709551615 in .* is no lease: missing field",
    ),
    "never a success": (postgres(FOUND, LEASES + DONE), "others took each worker id that was free"),
}

# ZooKeeper


def frame(body):
    return struct.pack(">i", len(body)) + body


def hello(timeout=4000):
    return frame(struct.pack(">iiqi", 0, timeout, 1, 16) + bytes(16) + b"\0")


NO_NODE, NODE_EXISTS = -101, -110
CREATE, GET_CHILDREN, MULTI_READ = 1, 8, 22


def zookeeper(answer, greeting=None):
    """Everything that is to be made is there already; other calls have their answer by their operation and number."""

    def serve(server, connection):
        exactly(connection, struct.unpack(">i", exactly(connection, 4))[0])
        connection.sendall(greeting or hello())
        while True:
            call = exactly(connection, struct.unpack(">i", exactly(connection, 4))[0])
            server.calls += 1
            xid, operation = struct.unpack(">ii", call[:8])
            if operation == CREATE:
                connection.sendall(frame(struct.pack(">iqi", xid, 0, NODE_EXISTS)))
            else:
                answer(connection, operation, struct.pack(">iqi", xid, 0, 0))

    return serve


def names(count, name=b"0000001"):
    return struct.pack(">i", count) + (struct.pack(">i", len(name)) + name) * count


def children(body):
    """That is what the children are."""
    return lambda connection, operation, head: connection.sendall(frame(head + body))


def many_leases(connection, operation, head):
    """As many numbers as an answer holds, and for each a lease."""
    if operation == GET_CHILDREN:
        return connection.sendall(frame(head + names(400_000)))
    entry = struct.pack(">ibi", 4, 0, 0) + struct.pack(">i", 9000) + bytes(9000) + bytes(68)
    return connection.sendall(frame(head + entry * 200 + struct.pack(">ibi", -1, 1, -1)))


ZOOKEEPER = {
    "a page": (says(HTML), "is none, by its answer: it does not speak as ZooKeeper does"),
    "another protocol": (says(b"220 mail.example ESMTP\r\n"), "is none, by its answer: it does not speak as ZooKeeper"),
    "no end": (lambda _, c: endless(c), "is none, by its answer: "),
    "a huge message": (says(b"\x7f\xff\xff\xff"), "is none, by its answer: it does not speak as ZooKeeper does"),
    "no end of a message": (
        lambda _, c: (c.sendall(struct.pack(">i", 5_000_000)), endless(c)),
        "is none, by its answer: it does not speak as ZooKeeper does",
    ),
    "a byte a second": (lambda _, c: slowly(c, hello()), "cannot be reached: no answer within 3 s"),
    "half an answer": (says(hello()[:20]), "cannot be reached: it accepts connections and does not answer"),
    "half an answer, and silence": (lambda _, c: (c.sendall(hello()[:20]), silent(c)), "cannot be reached: no answer"),
    "a session of nothing": (zookeeper(children(b""), greeting=hello(0)), "cannot be reached: session expired"),
    "a session of a millisecond": (zookeeper(children(names(0)), greeting=hello(1)), "others took each worker id"),
    "names that are none": (zookeeper(children(names(1, b"none"))), "is no lease: the key names no number"),
    "wrong types": (zookeeper(children(names(1, b"\xff\xff"))), "is none, by its answer: a name in its answer is not UTF-8"),
    "huge numbers": (zookeeper(children(struct.pack(">ii", 2**31 - 1, 2**31 - 1))), "is none, by its answer: .* cut off"),
    "an answer to something else": (
        zookeeper(lambda c, operation, head: c.sendall(frame(b"\1" + head[1:]))),
        "is none, by its answer: its answer is to something else",
    ),
    "many leases": (zookeeper(many_leases), "is none, by its answer: its answer is too long"),
    "never a success": (zookeeper(children(names(0))), "others took each worker id that was free"),
}

KINDS = {"etcd": ("etcd://{}/here", ETCD), "postgres": ("postgres://node@{}/here", POSTGRES), "zookeeper": ("zookeeper://{}/here", ZOOKEEPER)}


def memory(pid):
    """The most that a process has had in memory, in kilobytes."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


@pytest.mark.once("what is hostile is the registry; its client is the same everywhere")
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_registries(start_server, connect, kind):
    """At most ten calls a second, at most 32 MB more memory in the keeper, the reason in the status within a heartbeat."""
    pattern, cases = KINDS[kind]
    node = Lessee(start_server(worker_id=None, registry=pattern.format(f"{HOST}:{free_port()}"), **SETTINGS), connect)
    node.state("no_lease", "Connection refused")
    keeper = node.sql("SELECT keeper_pid FROM snowflake_status").fetchone()[0]
    before = memory(keeper)
    calls, most, wrong = {}, {}, {}
    for case, (serve, trouble) in cases.items():
        with Hostile(serve) as server:
            begun = time.monotonic()
            address = f"{HOST}:{server.port}"
            node.configure(registry=pattern.format(address))
            # Of this server, not of the one before it.
            eventually(lambda address=address: address in node.sql("SHOW snowflake_id.registry").fetchone()[0])
            while not re.search(trouble, said := node.status().registry_trouble or ""):
                if time.monotonic() - begun > HEARTBEAT:
                    wrong[case] = said
                    break
                time.sleep(0.1)
            # It does not begin to ask more often.
            time.sleep(max(0, begun + 3 - time.monotonic()))
            calls[case] = server.calls / (time.monotonic() - begun)
        most[case] = (memory(keeper) - before) // 1024
    assert wrong == {}
    assert max(calls.values()) <= CALLS_PER_SECOND, calls
    assert max(most.values()) <= MORE_MEMORY, most
    assert node.sql("SELECT keeper_pid FROM snowflake_status").fetchone()[0] == keeper
    print(f"{kind}: {max(calls.values()):.1f} calls a second, {max(most.values())} MB more memory, {len(cases)} servers")
