"""A real node, over real HTTP, is sent what nobody should send: it refuses, in JSON, and nothing else happens."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.entry import Leader
from kvlog.core.values import PushBody
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports, wait_until

from .wire import ANSWER_S, exchange, get, post, read_answer, refused

GROWTH_BYTES_MAX = 64 * 1024 * 1024
GOOD_BODY = b'{"key":"before","value":"x"}'


def published(status: dict[str, Any]) -> bool:
    """Whether the node has told the others that all it has is on its disk."""
    return [mark["durable_index"] for mark in status["replicas"]] == [status["applied_index"]]


@pytest.fixture(scope="module")
def node(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[ClusterNode]:
    """A cluster of one node, without --demo, that holds one key. Afterwards it is as it was before."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(1), root="/hostile")
    (node,) = cluster.nodes
    node.start(flags=("--demo", "0"))
    assert node.update("before", "1").status == 200
    # What it holds durably is published a little later.
    assert wait_until(lambda: published(node.status()), 10)
    before = node.status()
    yield node
    after = node.status()
    changed = {name for name in before if before[name] != after[name]} - {"staleness_ms"}
    assert changed == set()
    assert node.request("GET", "/readyz").status == 200
    assert node.read("before").body == {"key": "before", "value": "1"}
    assert node.update("before", "2").status == 200
    cluster.stop()


# --- reads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"/read", "the parameter key is missing"),
        (b"/read?", "the parameter key is missing"),
        (b"/read?key=", "the key is empty"),
        (b"/read?key=" + b"k" * 512, "the key has 512 bytes"),
        (b"/read?key=a&key=b", "given twice"),
        (b"/read?key=%ff%fe", "not UTF-8"),
        (b"/read?key=%ed%a0%80", "not UTF-8"),
        (b"/read?key=a&verbose=1", "unknown parameter 'verbose'"),
        (b"/read?" + b"&".join(b"k%d=1" % number for number in range(40)), "cannot be read"),
    ],
    ids=range(9),
)
def test_a_bad_read_is_refused(node: ClusterNode, target: bytes, reason: str):
    """400, and why."""
    assert refused(get(node, target), 400, reason)


def test_a_key_in_raw_bytes_is_read_as_utf8_or_refused(node: ClusterNode):
    """``curl 'http://.../read?key=ключ'`` sends the bytes as they are: never the value of another key."""
    said = get(node, "/read?key=ключ".encode())

    assert said.status == 400 or said.body["key"] == "ключ", said


# --- updates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON"),
        (b"hello", "the body is not JSON"),
        (b'\xef\xbb\xbf{"key":"before","value":"x"}', "BOM"),
        (b'{"key":"before","value":"\xff"}', "not UTF-8"),
        (b'{"key":"before","value":7}', "must be a string, not a number"),
        (b'{"key":"before","value":null}', "must be a string, not null"),
        (b'{"key":"before","value":["x"]}', "must be a string, not a list"),
        (b'{"key":"before","value":true}', "must be a string, not true or false"),
        (b'{"key":"before","value":NaN}', "NaN is not JSON"),
        (b'{"key":"before","value":Infinity}', "Infinity is not JSON"),
        (b'{"key":"before","key":"before","value":"x"}', "given twice"),
        (b'{"key":"before","value":"x","more":1}', "unknown field"),
        (rb'{"key":"before","value":"\ud800"}', "half of a surrogate pair"),
        (b'{"key":"","value":"x"}', "the key is empty"),
        (b'{"key":"' + b"k" * 512 + b'","value":"x"}', "the key has 512 bytes"),
        (b'{"key":"before","value":1' + b"0" * 5_000 + b"}", "the body is not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"key":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
    ids=range(18),
)
def test_a_bad_update_is_refused(node: ClusterNode, body: bytes, reason: str):
    """400, and why."""
    assert refused(post(node, b"/update", body), 400, reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [("v" * 262_145, "the value has 262145 bytes"), ("\x01" * 90_000, "once encoded as JSON")],
    ids=["as it is", "escaped"],
)
def test_a_value_that_is_too_large_is_refused(node: ClusterNode, value: str, reason: str):
    """413, and how much it may be."""
    body = json.dumps({"key": "before", "value": value}).encode()

    assert refused(post(node, b"/update", body), 413, reason)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (b"ack=none", "must be log or replicas"),
        (b"ack=log&ack=log", "given twice"),
        (b"timeout_ms=0", "must be a whole number from 1 to 60000"),
        (b"timeout_ms=60001", "must be a whole number from 1 to 60000"),
        (b"timeout_ms=" + b"9" * 5_000, "must be a whole number from 1 to 60000"),
        (b"timeout_ms=soon", "must be a whole number from 1 to 60000"),
        (b"wait=1", "unknown parameter 'wait'"),
    ],
    ids=range(7),
)
def test_bad_options_are_refused(node: ClusterNode, query: bytes, reason: str):
    """400, before anything is written."""
    assert refused(post(node, b"/update?" + query, GOOD_BODY), 400, reason)


# --- too much -------------------------------------------------------------------------------------------------


def resident_bytes(node: ClusterNode) -> int:
    """What all of the node's processes have in memory."""
    assert node.child is not None
    total = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            group = int((process / "stat").read_text().rpartition(")")[2].split()[2])
            if group == node.child.pid:
                status = (process / "status").read_text()
                total += int(status.split("VmRSS:")[1].split()[0]) * 1024
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue  # it has just ended, or has no memory of its own
    assert total > 0
    return total


def test_a_gigabyte_that_is_only_announced_is_refused_at_once(node: ClusterNode):
    """413 before the body comes; nothing is kept ready for it."""
    before = resident_bytes(node)
    head = b"POST /update HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n"

    assert refused(exchange(node, head), 413, "the body has more than 2097152 bytes")
    assert resident_bytes(node) - before < GROWTH_BYTES_MAX


@pytest.mark.parametrize("target", [b"/update", b"/propagate"])
def test_a_hundred_megabytes_in_chunks_are_not_gathered(node: ClusterNode, target: bytes):
    """413, or the connection is closed, while the body still comes; it is not kept in memory."""
    before = resident_bytes(node)
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    grown = 0
    with closing(socket.create_connection(("127.0.0.1", node.port), timeout=ANSWER_S)) as connection:
        connection.sendall(b"POST " + target + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(100):
                connection.sendall(chunk)
                grown = max(grown, resident_bytes(node) - before)
            connection.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was all there
        try:
            said = read_answer(connection)
        except (ConnectionResetError, IndexError):
            said = None  # the answer was lost with the connection: it came while the body was being sent

    assert grown < GROWTH_BYTES_MAX
    assert said is None or refused(said, 413, "the body has more than 2097152 bytes")


def test_a_small_body_in_chunks_is_as_good_as_any(node: ClusterNode):
    """Its errors are those of a body with a length: it is read."""
    head = b"POST /update HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"

    assert refused(exchange(node, head + b"2\r\n[]\r\n0\r\n\r\n"), 400, "must be a JSON object, not a list")


# --- wrong ways -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        (b"POST", b"/read?key=before", {"GET", "HEAD", "OPTIONS"}),
        (b"DELETE", b"/read?key=before", {"GET", "HEAD", "OPTIONS"}),
        (b"GET", b"/update", {"POST", "OPTIONS"}),
        (b"PUT", b"/update", {"POST", "OPTIONS"}),
        (b"GET", b"/propagate", {"POST", "OPTIONS"}),
        (b"POST", b"/v1/status", {"GET", "HEAD", "OPTIONS"}),
        (b"GET", b"/v1/admin/catchup", {"POST", "OPTIONS"}),
        (b"BREW", b"/readyz", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_refused(node: ClusterNode, method: bytes, path: bytes, allowed: set[str]):
    """405, and which ones there are."""
    said = get(node, path, method)

    assert refused(said, 405, "method")
    assert allowed == set(said.headers["allow"].split(", "))


@pytest.mark.parametrize(
    "path", [b"/", b"/nothing", b"/read/", b"/v1", b"/v1/status/", b"/../etc/passwd", b"/%00", b"/static/app.js"]
)
def test_an_unknown_path_is_not_found(node: ClusterNode, path: bytes):
    """404, in JSON like everything else."""
    assert refused(get(node, path), 404, "there is no such path", "no-such-route")


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_kill_is_for_demonstrations_only(node: ClusterNode, method: bytes):
    """Without --demo there is no such path."""
    assert refused(get(node, b"/kill", method), 404, "there is no such path")


# --- between nodes --------------------------------------------------------------------------------------------


def push(cluster_id: str, **changes: Any) -> bytes:
    """A leader's push, with everything else plausible."""
    fields: dict[str, Any] = {
        "cluster_id": cluster_id,
        "leader": Leader("n9", "127.0.0.1:1"),
        "epoch": 1,
        "tail_index": 0,
        "first_index": 1,
        "entries": (),
    }
    return msgspec.msgpack.encode(PushBody(**(fields | changes)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"hello",
        b"[]",
        GOOD_BODY,
        b"\x91" * 100_000,
        push("c")[:-1],
        push("c") + b"\x00",
        msgspec.msgpack.encode({"cluster_id": "c", "entries": "many"}),
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
    ids=range(12),
)
def test_garbage_is_no_push(node: ClusterNode, body: bytes):
    """400: clients do not speak this."""
    assert refused(post(node, b"/propagate", body), 400, "this is not a push of a leader")


def test_a_push_of_another_cluster_is_refused(node: ClusterNode):
    """409: two clusters were mixed up."""
    assert refused(post(node, b"/propagate", push("another")), 409, "another cluster")


def test_a_push_of_an_earlier_epoch_changes_nothing(node: ClusterNode):
    """It is told where this node stands; what it brings is not looked at."""
    status = node.status()
    body = push(status["cluster_id"], tail_index=10**9, first_index=10**9, entries=(b"garbage",))
    with closing(socket.create_connection(("127.0.0.1", node.port), timeout=ANSWER_S)) as connection:
        head = b"POST /propagate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        answer = connection.makefile("rb").read().partition(b"\r\n\r\n")[2]

    assert msgspec.msgpack.decode(answer) == {
        "applied_index": status["applied_index"],
        "epoch": status["epoch"],
    }


# --- below HTTP -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [b"\r\n\r\n", b"hello\r\n\r\n", b"GET /read?key=a HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00" + b"\x00" * 100],
    ids=["nothing", "no HTTP", "another version", "TLS"],
)
def test_what_is_no_http_is_not_answered_for_long(node: ClusterNode, request_bytes: bytes):
    """The connection is closed, or refused with 400 and closed."""
    with closing(socket.create_connection(("127.0.0.1", node.port), timeout=ANSWER_S)) as connection:
        connection.sendall(request_bytes)
        with suppress(OSError):  # it may be closed already
            connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.makefile("rb").read()
        except ConnectionResetError:
            answer = b""

    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))


def test_a_client_that_leaves_in_the_middle_does_no_harm(node: ClusterNode):
    """Half a request, and the connection is gone: others are served."""
    for _ in range(200):
        with closing(socket.create_connection(("127.0.0.1", node.port), timeout=ANSWER_S)) as connection:
            connection.sendall(b'POST /update HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"key":"before",')

    assert node.request("GET", "/readyz").status == 200
