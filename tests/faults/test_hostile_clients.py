"""Clients that mean no good, over raw sockets, at a real cluster: they are refused, and nobody else notices them.

Bodies, keys and values that make no sense are in tests/api/test_hostile_input.py, slow clients of the HTTP server
alone in tests/test_front.py.
"""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.processes import wait_until

from .flood import KINDS, Flood, resident_bytes

ANSWER_S = 10.0
MEBIBYTE = 1024 * 1024
LINGER_NONE = struct.pack("ii", 1, 0)
"""A socket that is closed with this option resets its connection."""


def connect(node: ClusterNode, *, receive_buffer: int = 0) -> socket.socket:
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(ANSWER_S)
    connection.connect(("127.0.0.1", node.port))
    return connection


def worker_of(node: ClusterNode) -> Path:
    """The process that answers for a node, in /proc."""
    assert node.child is not None
    pid = node.child.pid
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return Path("/proc") / worker


def descriptors(node: ClusterNode) -> int:
    return sum(1 for _ in (worker_of(node) / "fd").iterdir())


@contextmanager
def nothing_lost(cluster: Cluster) -> Iterator[None]:
    """Afterwards each node is the same process in the same epoch and up to date, and its log has no traceback."""
    before = [(node.status()["instance"], node.status()["epoch"]) for node in cluster.nodes]
    said = [len(node.log.read_text()) for node in cluster.nodes]
    yield
    cluster.wait_for_agreement(ANSWER_S)
    assert [(node.status()["instance"], node.status()["epoch"]) for node in cluster.nodes] == before
    for node, length in zip(cluster.nodes, said, strict=True):
        assert node.request("GET", "/readyz").status == 200
        assert "Traceback" not in node.log.read_text()[length:]


def everything(connection: socket.socket) -> bytes:
    """All that is said until the connection is closed."""
    said = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            said += piece
    return said


# --- one request within another one ---------------------------------------------------------------------------

HEAD = b"POST /update HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"
REFUSED = {400}
DONE = {200}

FRAMED: dict[str, tuple[bytes, set[int]]] = {
    "two lengths": (HEAD + b"Content-Length: 0\r\nContent-Length: 7\r\n\r\n", REFUSED),
    "a list of lengths": (HEAD + b"Content-Length: 0, 0\r\n\r\n", REFUSED),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n", REFUSED),
    "a length with a sign": (HEAD + b"Content-Length: +0\r\n\r\n", REFUSED),
    "a length in hex": (HEAD + b"Content-Length: 0x0\r\n\r\n", REFUSED),
    "an endless length": (HEAD + b"Content-Length: 99999999999999999999\r\n\r\n", REFUSED),
    "no length": (HEAD + b"Content-Length: \r\n\r\n", REFUSED),
    "a length beside chunks": (HEAD + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n" + LAST, REFUSED),
    "chunks beside a length": (HEAD + CHUNKED + b"Content-Length: 500\r\n\r\n" + LAST, REFUSED),
    "a coding that is none": (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + LAST, REFUSED),
    "chunks that are not last": (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + LAST, REFUSED),
    "a coding before chunks": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + LAST, REFUSED),
    "chunks in chunks": (HEAD + CHUNKED + CHUNKED + b"\r\n" + LAST, REFUSED),
    "chunks, then none": (HEAD + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + LAST, REFUSED),
    "a space before the colon": (HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + LAST, REFUSED),
    "a vertical tab": (HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + LAST, REFUSED),
    "a folded header": (HEAD + b"X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n", REFUSED),
    "a folded coding": (HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + LAST, REFUSED),
    "NUL in a value": (HEAD + b"X-A: b\x00c\r\nContent-Length: 0\r\n\r\n", REFUSED),
    "NUL in a name": (HEAD + b"X\x00A: b\r\nContent-Length: 0\r\n\r\n", REFUSED),
    "a lone CR": (HEAD + b"X-A: b\rContent-Length: 9\r\nContent-Length: 0\r\n\r\n", REFUSED),
    "no colon": (HEAD + b"X-A\r\nContent-Length: 0\r\n\r\n", REFUSED),
    "a space at the beginning": (b"POST /update HTTP/1.1\r\n Host: x\r\nContent-Length: 0\r\n\r\n", REFUSED),
    "chunks in HTTP/1.0": (b"POST /update HTTP/1.0\r\n" + CHUNKED + b"\r\n" + LAST, REFUSED),
    "a negative chunk": (HEAD + CHUNKED + b"\r\n-1\r\nx\r\n" + LAST, REFUSED),
    "a chunk with 0x": (HEAD + CHUNKED + b"\r\n0x1\r\nx\r\n" + LAST, REFUSED),
    "an endless chunk": (HEAD + CHUNKED + b"\r\nfffffffffffffffff\r\nx\r\n" + LAST, REFUSED),
    "a chunk that is longer": (HEAD + CHUNKED + b"\r\n1\r\nxyz\r\n" + LAST, REFUSED),
    "chunks with LF": (HEAD + CHUNKED + b"\r\n1\nx\n0\n\n", REFUSED),
    "LF in an extension": (HEAD + CHUNKED + b"\r\n1;a\nb\r\nx\r\n" + LAST, REFUSED),
    "a long extension": (HEAD + CHUNKED + b"\r\n1;" + b"a" * 50_000 + b"\r\nx\r\n" + LAST, REFUSED),
    "many trailers": (HEAD + CHUNKED + b"\r\n1\r\nx\r\n0\r\n" + b"X: y\r\n" * 2_000 + b"\r\n", REFUSED),
    "HTTP/0.9": (b"GET /healthz\r\n", REFUSED),
    "HTTP/9.9": (b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n", REFUSED),
    "a bad method": (b"G@T /healthz HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "a space in the path": (b"GET /healthz x HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "NUL in the path": (b"GET /health\x00z HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "a header of 128 KiB": (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 131_072 + b"\r\n\r\n", {431}),
    "a thousand headers": (b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 1_000 + b"\r\n", {431}),
    "a path of 70,000 bytes": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {414, 431}),
}
"""What may be understood in two ways, or in none, up to where the next request would begin; what is answered."""


def smuggled(key: str) -> bytes:
    """A request that would be seen if it were ever taken for one."""
    return b"PUT /v1/kv/%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1" % key.encode()


def test_what_can_be_understood_in_two_ways_is_refused_and_its_connection_closed(
    standing: Cluster, leader: ClusterNode, key: str
):
    """No request hides in another one: there is one answer, an error, and what comes behind is never looked at."""
    with nothing_lost(standing):
        for name, (raw, expected) in FRAMED.items():
            with closing(connect(leader)) as connection:
                with suppress(ConnectionError):
                    connection.sendall(raw + smuggled(key))
                try:
                    said = everything(connection)
                except TimeoutError:
                    pytest.fail(f"{name}: the connection stays open")
            statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+) ", said)]
            assert len(statuses) == 1, (name, said)
            assert set(statuses) <= expected, (name, said)
        assert leader.request("GET", f"/v1/kv/{key}").status == 404


def test_what_is_unusual_and_clear_is_understood(leader: ClusterNode, key: str):
    """Chunk extensions, trailers, lengths that are the same, lines that end with LF; the next request is one."""
    body = json.dumps({"key": key, "value": "v"}).encode()
    chunk = b"%x;a=b;c\r\n%b\r\n" % (len(body), body)
    for raw in (
        HEAD + CHUNKED + b"\r\n" + chunk + b"0;x\r\nX-Trailer: y\r\nContent-Length: 7\r\n\r\n",
        HEAD + b"Transfer-Encoding: cHuNkEd\r\n\r\n" + chunk + LAST,
        HEAD + b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(body), len(body)) + body,
        (HEAD + b"Content-Length: %d\r\n\r\n" % len(body)).replace(b"\r\n", b"\n") + body,
        b"\r\n" + HEAD + b"Content-Length: 0%d\r\n\r\n" % len(body) + body,
    ):
        with closing(connect(leader)) as connection:
            connection.sendall(raw + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            said = everything(connection)
        assert said.count(b"HTTP/1.1 200 OK\r\n") == 2, (raw, said)


# --- those who take their time --------------------------------------------------------------------------------


def as_ever(node: ClusterNode, key: str) -> None:
    """Reads on the hot path and on threads, and writes, in little time."""
    for number in range(10):
        began = time.monotonic()
        assert node.request("PUT", f"/v1/kv/{key}", body=b"%d" % number).status in {200, 201}
        assert node.request("GET", f"/v1/kv/{key}", headers={"Accept": "application/json"}).body["value"] == str(
            number
        )
        assert node.read(key).body["value"] == str(number)
        assert node.status()["ready"]
        assert time.monotonic() - began < ANSWER_S / 2


def test_slow_clients_of_all_kinds_keep_nobody_waiting(standing: Cluster, leader: ClusterNode, key: str):
    """More than there are threads: half a head, half a small body, half a large one, chunks that do not come."""
    beginnings = (
        b"PUT /v1/kv/slow HTTP/1.1\r\nHo",
        b"PUT /v1/kv/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
        b"PUT /v1/kv/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf",
        b"POST /v1/txn HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + CHUNKED + b"\r\n4\r\nhalf\r\n",
        b"POST /propagate HTTP/1.1\r\nHost: x\r\n" + CHUNKED + b"\r\n",
    )
    before = descriptors(leader)
    with nothing_lost(standing), ExitStack() as slow:
        clients = [slow.enter_context(closing(connect(leader))) for _ in range(160 * len(beginnings))]
        for number, client in enumerate(clients):
            client.sendall(beginnings[number % len(beginnings)])
        as_ever(leader, key)
        refused = [client for number, client in enumerate(clients) if number % len(beginnings) >= 2]
        assert wait_until(lambda: len(ready(refused)) >= len(refused) - 64, ANSWER_S, every_s=0.1)
        assert all(client.recv(65_536).startswith(b"HTTP/1.1 503 ") for client in ready(refused))
        as_ever(leader, key)
    assert leader.request("GET", "/v1/kv/slow").status == 404
    assert wait_until(lambda: descriptors(leader) <= before + 20, ANSWER_S)


def ready(clients: list[socket.socket]) -> list[socket.socket]:
    """Those that have been answered."""
    polled = select.poll()
    for client in clients:
        polled.register(client, select.POLLIN)
    found = {descriptor for descriptor, _ in polled.poll(0)}
    return [client for client in clients if client.fileno() in found]


def test_two_thousand_idle_connections_keep_nobody_out(standing: Cluster, follower: ClusterNode, key: str):
    """Half of them have asked something before; each costs some kilobytes, and no thread."""
    before = resident_bytes(follower)
    with nothing_lost(standing), ExitStack() as idle:
        for number in range(2_000):
            client = idle.enter_context(closing(connect(follower)))
            if number % 2:
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(4_096).startswith(b"HTTP/1.1 200 ")
        as_ever(follower, key)
        assert resident_bytes(follower) - before < 100 * MEBIBYTE


def test_clients_that_never_read_cost_what_is_in_buffers(standing: Cluster, follower: ClusterNode, key: str):
    """A hundred ask for 25 MB each, in requests one behind the other, and read nothing; others are served."""
    assert follower.request("PUT", f"/v1/kv/{key}", body=b"x" * 250_000).status == 201
    before = resident_bytes(follower)
    asked = f"GET /v1/kv/{key} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 100
    with nothing_lost(standing), ExitStack() as deaf:
        for _ in range(100):
            client = deaf.enter_context(closing(connect(follower, receive_buffer=4_096)))
            client.sendall(asked)
        as_ever(follower, f"{key}/other")
        assert resident_bytes(follower) - before < 150 * MEBIBYTE


# --- those who leave ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["reset", "half-closed"])
def test_a_client_that_leaves_before_its_answer_has_written_once_or_not_at_all(
    standing: Cluster, nodes: list[ClusterNode], key: str, leave: str
):
    """Its write is settled afterwards, at any node: so often the key was written; the rest can never happen."""
    count = 60
    with nothing_lost(standing):
        for number in range(count):
            node = nodes[number % len(nodes)]
            lines = (
                f"PUT /v1/kv/{key} HTTP/1.1",
                "Host: x",
                f"Idempotency-Key: {key}-{number}",
                "Content-Length: 2",
            )
            raw = "\r\n".join((*lines, "", "v1")).encode()
            connection = connect(node)
            connection.sendall(raw[: len(raw) - number % 3])
            if leave == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            else:
                connection.shutdown(socket.SHUT_WR)
                everything(connection)
            connection.close()
        settled = [nodes[number % 2].settle(f"{key}-{number}") for number in range(count)]
        assert {answer.status for answer in settled} == {200}
        happened = [answer.body["revision"] for answer in settled if answer.body["outcome"] == "committed"]
        assert len(set(happened)) == len(happened) <= count - count // 3 * 2  # the others have never been whole
        found = nodes[0].request("GET", f"/v1/kv/{key}", headers={"Accept": "application/json"})
        assert (found.body["version"] if found.status == 200 else 0) == len(happened)


# --- keys that look alike -------------------------------------------------------------------------------------


def test_keys_are_compared_byte_by_byte(leader: ClusterNode, key: str):
    """Composed and decomposed letters, cases, slashes, dots: all of them are different keys."""
    alike = [
        "é",
        "e\u0301",
        "E\u0301",
        "ﬁ",
        "fi",
        "a/b",
        "a//b",
        "a/b/",
        "a/./b",
        "a/../b",
        "a%2Fb",
        "a\0b",
        "a\nb",
        "a b",
        "a+b",
    ]
    for number, text in enumerate(alike):
        encoded = "".join(f"%{byte:02X}" for byte in f"{key}{text}".encode())
        assert leader.request("PUT", f"/v1/kv/{encoded}", body=b"%d" % number).status == 201, text
    found = leader.request("GET", f"/v1/kv?prefix={key}").body["items"]

    assert {each["key"].removeprefix(key): each["value"] for each in found} == {
        text: str(number) for number, text in enumerate(alike)
    }


# --- a flood --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_of_one_client_leaves_the_session_and_the_others_alive(
    standing: Cluster, leader: ClusterNode, key: str, kind: str
):
    """Sixty-four connections at full speed for two seconds: reads and writes of the others come out meanwhile."""
    assert leader.request("PUT", f"/v1/kv/{key}", body=b"v").status == 201
    before = resident_bytes(leader)
    slowest, reads = 0.0, 0
    with nothing_lost(standing):
        with Flood(leader.port, kind, connections=64) as flood:
            until = time.monotonic() + 2.0
            while time.monotonic() < until:
                began = time.monotonic()
                assert leader.request("GET", f"/v1/kv/{key}", headers={"Accept": "application/json"}).status == 200
                slowest, reads = max(slowest, time.monotonic() - began), reads + 1
            assert leader.update(f"{key}/other", "v").status == 200
        assert flood.answered > 0
        assert (reads > 2, slowest < ANSWER_S / 2) == (True, True), (reads, slowest)
        assert resident_bytes(leader) - before < 300 * MEBIBYTE
    assert threading.active_count() < 100
