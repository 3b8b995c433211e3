"""The hot path changes no byte of any answer: a node with it and one without, asked the very same.

Each is alone in a cluster of its own, and both have the same history: so revisions, indices and leases are equal.
"""

from __future__ import annotations

import asyncio
import json
import queue
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.api.hot import HotPath
from kvlog.cluster import Cluster, ClusterNode
from kvlog.config import parse
from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.commands import update
from kvlog.core.entry import VALUE_BYTES_MAX, Leader
from kvlog.core.values import Ack, Committed, Member, PushAnswer, PushBody, Reach
from kvlog.ensemble import LocalEnsemble
from kvlog.front import Answer, Begin
from kvlog.memory import MemorySession
from kvlog.peers import HttpPeers
from kvlog.ports import Post
from kvlog.processes import ProcessKeeper, free_ports, wait_until
from kvlog.service.service import make_service
from kvlog.service.writes import Write
from tests.memory_node import MemoryNode, NoPeers

ANSWER_S = 20.0
LEASE_S = 3_600
JSON = "Content-Type: application/json"
TEXTS = ("text", "one-more", "a+b", "a/b/", "ключ", "%", "?", "..")


def request(head: str | bytes, *headers: str | bytes, body: bytes | None = None, close: bool = True) -> bytes:
    """The bytes of a request; ``head`` is its method and target."""
    lines = [_raw(head) + b" HTTP/1.1", b"Host: x", *map(_raw, headers)]
    if close:
        lines.append(b"Connection: close")
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def _raw(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def chunked(head: str, *headers: str, body: bytes) -> bytes:
    """A request whose body comes in two pieces."""
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:3], body[3:]) if piece)
    return request(head, *headers, "Transfer-Encoding: chunked") + pieces + b"0\r\n\r\n"


def sent(node: ClusterNode, raw: bytes) -> bytes:
    """All that the node says until it closes the connection."""
    with closing(socket.create_connection(("127.0.0.1", node.port), timeout=ANSWER_S)) as connection:
        connection.sendall(raw)
        with connection.makefile("rb") as file:
            return file.read()


class Pair:
    """Two nodes that differ in the hot path alone."""

    def __init__(self, hot: ClusterNode, plain: ClusterNode) -> None:
        self.hot = hot
        self.plain = plain
        self._instances = {node.port: str(node.status()["instance"]).encode() for node in (hot, plain)}

    def same(self, raw: bytes, status: int | None = None) -> bytes:
        """What both answer, which is the same: all of it but what has to differ."""
        hot, plain = (self.known(node, sent(node, raw)) for node in (self.hot, self.plain))
        assert hot.startswith(b"HTTP/1.1 "), raw
        assert hot == plain, raw
        assert status is None or int(hot.split()[1]) == status, hot
        if not raw.startswith((b"GET", b"HEAD", b"OPTIONS")):
            self._settle()
        return hot

    def body(self, raw: bytes, status: int = 200) -> Any:
        """The JSON that both answer."""
        return json.loads(self.same(raw, status).partition(b"\r\n\r\n")[2])

    def known(self, node: ClusterNode, answer: bytes) -> bytes:
        """An answer without what differs from node to node, and from moment to moment."""
        known = re.sub(rb"(?m)^(date|kvlog-staleness-ms): [^\r]+", rb"\1: -", answer)
        # Flask gives the methods in the order of a set of words, which each process has its own of.
        known = re.sub(rb"(?m)^allow: [^\r]+", lambda found: b" ".join(sorted(re.split(rb",? ", found[0]))), known)
        return known.replace(b"%d" % node.port, b"PORT").replace(self._instances[node.port], b"INSTANCE")

    def _settle(self) -> None:
        """What has been written with ack=log is applied as well."""
        for node in (self.hot, self.plain):
            sent(node, request("GET /v1/kv/settle?linearizable=true"))


@pytest.fixture(scope="module")
def pair(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Pair]:
    """Both nodes; they are as well at the end as at the beginning."""
    clusters = [
        Cluster(keeper, ensemble.hosts, ports=free_ports(1), root=root, flags=("--hot-path", switch))
        for root, switch in (("/hot", "1"), ("/no-hot", "0"))
    ]
    for cluster in clusters:
        cluster.start()
    nodes = [cluster.nodes[0] for cluster in clusters]
    yield Pair(*nodes)
    for node in nodes:
        assert node.request("GET", "/readyz").status == 200
        assert "Traceback" not in node.log.read_text(), node.log.read_text()
        assert node.terminate() == 0


@pytest.fixture(scope="module")
def kept(pair: Pair) -> Pair:
    """Keys of all kinds, on both."""
    lease = pair.body(request("POST /v1/leases", JSON, body=b'{"ttl":%d}' % LEASE_S), 201)["lease"]
    for name in TEXTS:
        pair.same(request(f"PUT /v1/kv/kept/{percent(name)}", body=name.encode()), 201)
    pair.same(request("PUT /v1/kv/kept/one-more", body=b"again"), 200)
    pair.same(request("PUT /v1/kv/kept/empty", body=b""), 201)
    pair.same(request("PUT /v1/kv/kept/binary", body=bytes(range(256))), 201)
    pair.same(request("PUT /v1/kv/kept/large", body=b"x" * VALUE_BYTES_MAX), 201)
    pair.same(request("PUT /v1/kv/kept/typed", 'Content-Type: text/plain;charset="utf-8"', body=b"t"), 201)
    pair.same(request("PUT /v1/kv/kept/json", JSON, body=b"{}"), 201)
    pair.same(request(f"PUT /v1/kv/kept/leased?lease={lease}", body=b"l"), 201)
    pair.same(request("PUT /v1/kv/kept/ttl?ttl=3600.5", body=b"l"), 201)
    return pair


def percent(text: str) -> str:
    """Every byte percent-encoded."""
    return "".join(f"%{byte:02x}" for byte in text.encode())


# --- reads ----------------------------------------------------------------------------------------------------

TARGETS: list[tuple[str | bytes, int]] = [
    *((f"kept/{name}", 200) for name in ("text", "one-more", "empty", "binary", "large", "typed", "json")),
    *((f"kept/{name}", 200) for name in ("leased", "ttl", "a+b", "a/b/", "..")),
    *((f"kept/{percent(name)}", 200) for name in TEXTS),
    ("kept%2Ftext", 200),
    ("kept%2ftex%74", 200),
    ("%6Bept/text", 200),
    ("kept/ключ".encode(), 200),
    ("kept/absent", 404),
    ("kept/text/", 404),
    ("kept//text", 404),
    ("/kept/text", 404),
    ("kept/a%2Bb", 200),
    ("kept/a%20b", 404),
    ("kept/a%0Ab", 404),
    ("", 400),
    ("%", 400),
    ("kept/%f", 400),
    ("kept/%zz", 400),
    ("kept/%ff", 400),
    (b"kept/\xff", 400),
    ("%00", 400),
    ("%00lease/1", 400),
    ("kept/%00", 404),
    ("k" * 511, 404),
    ("k" * 512, 400),
    ("kept/text?", 200),
    ("kept/text?at=1", 404),
    ("kept/text?at=99999&timeout_ms=20", 503),
    ("kept/text?at=x", 400),
    ("kept/text?linearizable=true", 200),
    ("kept/absent?linearizable=true", 404),
    ("kept/text?linearizable=false", 200),
    ("kept/text?linearizable=yes", 400),
    ("kept/text?linearizable=true&at=1", 400),
    ("kept/text?linearizable=true&linearizable=true", 400),
    ("kept/text?min_revision=0", 200),
    ("kept/text?min_revision=2", 200),
    ("kept/text?min_revision=2&linearizable=true&max_lag=1000&max_stale_ms=60000&timeout_ms=5000", 200),
    ("kept/text?min_revision=99999&timeout_ms=20", 503),
    ("kept/text?min_revision=99999&timeout_ms=20&linearizable=true", 503),
    ("kept/text?min_revision=-1", 400),
    ("kept/text?min_revision=", 400),
    ("kept/text?min_revision=9223372036854775808", 400),
    ("kept/text?max_stale_ms=60000", 200),
    ("kept/text?max_lag=1000", 200),
    ("kept/text?max_lag=0", 200),
    ("kept/text?timeout_ms=0", 400),
    ("kept/text?timeout_ms=1", 200),
    ("kept/text?max%5Flag=7", 200),
    ("kept/text?ack=log", 400),
    ("kept/text?x", 400),
    ("kept/text?&", 200),
    ("kept/text?%ff=1", 400),
    (b"kept/text?\xff", 400),
    ("kept/text?" + "&".join(f"x{number}=1" for number in range(20)), 400),
    ("kept/text?min_revision=" + "0" * 200, 400),
]


@pytest.mark.parametrize(("target", "status"), TARGETS, ids=range(len(TARGETS)))
def test_reads_are_answered_the_same(kept: Pair, target: str | bytes, status: int):
    """Keys, and parameters, that make sense or none."""
    kept.same(request(b"GET /v1/kv/" + _raw(target)), status)
    kept.same(request(b"HEAD /v1/kv/" + _raw(target)), status)


HEADERS: list[tuple[tuple[str | bytes, ...], int]] = [
    (("Accept: */*",), 200),
    (("Accept: application/json",), 200),
    (("Accept: text/plain;q=0.5, application/json;q=0.4",), 200),
    (("If-None-Match: *",), 304),
    (('If-None-Match: "1"',), 200),
    (("If-None-Match: 1",), 400),
    (("If-Match: *",), 200),
    (('If-Match: "99999"',), 412),
    (("If-Match: nonsense",), 400),
    (("Range: bytes=0-1",), 200),
    (("If-Modified-Since: Sun, 22 Nov 2026 22:22:22 GMT",), 200),
    (("X-Many: 1", "X-Many: 2"), 200),
    (("If_None_Match: *",), 200),
    ((b"X-Word: \xff",), 200),
    (("Content-Length: 0",), 200),
    (("Content-Encoding: gzip",), 200),
    (("Cookie: a=b",), 200),
    (("Idempotency-Key: not even one",), 200),
    (("Upgrade: websocket", "Connection: upgrade"), 405),
    (("Upgrade: h2c", "Connection: upgrade"), 200),
]


@pytest.mark.parametrize(("headers", "status"), HEADERS, ids=range(len(HEADERS)))
def test_headers_make_the_same_of_a_read(kept: Pair, headers: tuple[str | bytes, ...], status: int):
    """Conditions, preferences, and what means nothing."""
    kept.same(request("GET /v1/kv/kept/typed", *headers), status)


def test_other_methods_on_a_key_are_answered_the_same(kept: Pair):
    """And a body that a read has no use for, HTTP/1.0, no Host, one that is none."""
    for method, status in (("OPTIONS", 204), ("POST", 405), ("PATCH", 405), ("TRACE", 405), ("PROPFIND", 405)):
        kept.same(request(f"{method} /v1/kv/kept/text", body=b""), status)
    kept.same(request("GET /v1/kv/kept/text", body=b"abc"), 200)
    kept.same(chunked("GET /v1/kv/kept/text", body=b"abcdef"), 200)
    kept.same(b"GET /v1/kv/kept/text HTTP/1.1\r\nHost: <no host>\r\nConnection: close\r\n\r\n")
    kept.same(b"GET /v1/kv/kept/text HTTP/1.1\r\nConnection: close\r\n\r\n")
    kept.same(b"GET http://elsewhere/v1/kv/kept/text HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert sent(kept.hot, b"GET /v1/kv/kept/text HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 ")


def test_paths_that_look_like_a_key_are_answered_the_same(kept: Pair):
    """Another path may lead to the same route, or to none."""
    for target in (
        "/v1/kv", "/v1/kv?limit=1", "/v1%2Fkv/kept/text", "/v1/%6Bv/kept/text", "//v1/kv/kept/text",
        "/v1//kv/kept/text", "/V1/kv/kept/text", "/v1/kv/kept/text#x", "/read?key=kept/text", "/%75pdate",
    ):  # fmt: skip
        kept.same(request(f"GET {target}"))


def test_requests_on_one_connection_are_answered_in_order_and_the_same(kept: Pair):
    """Sent before any answer is read: answers at once, later, and of a thread."""
    targets = ["kept/text", "kept/text?linearizable=true", "kept/absent", "kept/large", "kept/a%2Bb", "kept/%zz"]
    raw = b"".join(request(f"GET /v1/kv/{target}", close=False) for target in targets * 3)

    answer = kept.same(raw + request("PUT /v1/kv/kept/after", body=b"x"))

    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 4 * 3
    assert b"HTTP/1.1 201 Created\r\n" in answer


# --- writes of one key ----------------------------------------------------------------------------------------


def test_puts_are_answered_the_same(pair: Pair, key: str):
    """New, again, under conditions, with a type, a time to live, a lease that is not there."""
    put = f"PUT /v1/kv/{key}"
    pair.same(request(put, "If-Match: *", body=b"1"), 412)
    pair.same(request(put, 'If-Match: "7"', body=b"1"), 412)
    created = pair.body(request(put, "If-None-Match: *", body=b"1"), 201)
    pair.same(request(put, "If-None-Match: *", body=b"2"), 412)
    changed = pair.body(request(put, body=b"2"), 200)
    pair.same(request(put, f'If-Match: "{created["revision"]}"', body=b"3"), 412)
    pair.same(request(put, f'If-Match: "1", "{changed["revision"]}"', "Content-Type: a/b", body=b"3"), 200)
    pair.same(request(put, "If-Match: 7", body=b"4"), 400)
    pair.same(request(put, "If-None-Match:", body=b"4"), 400)
    pair.same(request(put + "?ttl=3600", body=b""), 200)
    pair.same(request(put + "?lease=99999", body=b"4"), 404)
    for target, status in (
        ("?ack=log", 200), ("?ack=replicas&timeout_ms=60000", 200), ("?ack=some", 400), ("?ack=log&ack=log", 400),
        ("?timeout_ms=0", 400), ("?timeout_ms=60001", 400), ("?ttl=0", 400), ("?ttl=3600&lease=1", 400),
        ("?x=1", 400), ("?%ff", 400), ("%ff", 400), ("%zz", 400), ("%00", 200 + 1), ("/" + "k" * 512, 400),
    ):  # fmt: skip
        pair.same(request(put + target, body=b"5"), status)
    pair.same(request("PUT /v1/kv/", body=b"5"), 400)
    pair.same(request("PUT /v1/kv/%00x", body=b"5"), 400)
    pair.same(request(f"GET /v1/kv/{key}"), 200)


def test_bodies_of_puts_are_taken_the_same(pair: Pair, key: str):
    """Empty, none, in chunks, encoded, too long by one byte, said to be what it cannot be."""
    put = f"PUT /v1/kv/{key}"
    pair.same(request(put, body=b""), 201)
    pair.same(request(put), 200)
    pair.same(chunked(put, body=b"in pieces"), 200)
    pair.same(chunked(put, body=b""), 200)
    pair.same(request(put, body=bytes(range(256)) * 256), 200)
    pair.same(request(put, body=b"x" * (64 * 1024 + 1)), 200)
    pair.same(request(put, body=b"x" * VALUE_BYTES_MAX), 200)
    pair.same(request(put, body=b"x" * (VALUE_BYTES_MAX + 1)), 413)
    for header, status in (
        ("Content-Encoding: gzip", 415), ("Content-Encoding: identity", 200), ("Content-Encoding:", 200),
        ("Content-Type:", 200), ("Content-Type: nonsense", 400), ("Content-Type: a/" + "b" * 300, 400),
        ('Content-Type: text/plain; a="b c"', 200), ("Content-Range: bytes 0-1/2", 400),
        ("Accept: text/html", 200), ("Content-Language: la", 200), ("Expect: 100-continue", 100),
        ("Content_Encoding: gzip", 200),
    ):  # fmt: skip
        pair.same(request(put, header, body=b"ab"), status)
    pair.same(request(put, "Content-Type: a/b", "Content-Type: c/d", body=b"ab"), 200)
    pair.same(request(put, 'If-Match: "99999"', "If-Match: *", body=b"ab"), 400)
    pair.same(request(put, b"Content-Type: a/\xff", body=b"ab"), 400)
    pair.same(request(f"GET /v1/kv/{key}"), 200)


def test_ids_of_writes_mean_the_same(pair: Pair, key: str):
    """New, repeated, of another write, in quotes, bad, given twice."""
    put, name = f"PUT /v1/kv/{key}", f"Idempotency-Key: {key}"
    first = pair.body(request(put, name, body=b"1"), 201)
    replayed = pair.same(request(put, f'Idempotency-Key: "{key}"', body=b"1"), 201)
    assert b"idempotent-replayed: true" in replayed.lower()
    assert json.loads(replayed.partition(b"\r\n\r\n")[2])["revision"] == first["revision"]
    pair.same(request(put, name, body=b"2"), 422)
    pair.same(request(f"DELETE /v1/kv/{key}", name), 422)
    pair.same(request("POST /update", name, JSON, body=b'{"key":"k","value":"1"}'), 422)
    for bad in ("", "a b", "..", "~own", "x" * 129, '"'):
        pair.same(request(put, f"Idempotency-Key: {bad}", body=b"3"), 400)
    pair.same(request(put, b"Idempotency-Key: \xff", body=b"3"), 400)
    pair.same(request(put, name, name, body=b"3"), 400)
    failed = f"Idempotency-Key: {key}-failed"
    for _ in range(2):
        pair.same(request(put, failed, 'If-Match: "99999"', body=b"4"), 412)
    pair.same(request(f"DELETE /v1/requests/{key}-cancelled"), 200)
    pair.same(request(put, f"Idempotency-Key: {key}-cancelled", body=b"5"), 409)
    pair.same(request(f"GET /v1/kv/{key}"), 200)


def test_deletes_are_answered_the_same(pair: Pair, key: str):
    """Of what is there and what is not, with conditions, and with a body, which has no meaning."""
    delete = f"DELETE /v1/kv/{key}"
    pair.same(request(delete), 200)
    pair.same(request(delete, "If-Match: *"), 412)
    pair.same(request(f"PUT /v1/kv/{key}", body=b"1"), 201)
    pair.same(request(delete, body=b"x"), 400)
    pair.same(chunked(delete, body=b"xyz!"), 400)
    pair.same(request(delete, 'If-Match: "99999"'), 412)
    pair.same(request(delete + "?ttl=3"), 400)
    pair.same(request(delete + "?ack=log", body=b""), 200)
    pair.same(chunked(delete, body=b""), 200)
    pair.same(request(delete + "%zz"), 400)
    pair.same(request(f"GET /v1/kv/{key}"), 404)


# --- the other writes -----------------------------------------------------------------------------------------

UPDATES: list[tuple[bytes, int]] = [
    (b'{"key":"u","value":"1"}', 200),
    (b' {"value":"","key":"u/\xc3\xa9\\u00e9"} ', 200),
    (b'{"key":"\xd0\xba","value":"\\ud83d\\ude00"}', 200),
    (b'{"key":"u","value":"\\ud83d"}', 400),
    (b'{"key":"\\ud83d","value":""}', 400),
    (b'{"key":"u","value":"1","value":"2"}', 400),
    (b'{"key":"u","value":"1","more":1}', 400),
    (b'{"key":"u","value":1}', 400),
    (b'{"key":"u","value":NaN}', 400),
    (b'{"key":"u"}', 400),
    (b'{"key":"","value":"1"}', 400),
    (b'{"key":"\\u0000","value":"1"}', 400),
    (b'{"key":"%s","value":"1"}' % (b"k" * 512), 400),
    (b'{"key":"u","value":"1"', 400),
    (b'{"key":"u","value":"\xff"}', 400),
    (b"1" * 5_000, 400),
    (b"[" * 50_000, 400),
    (b"[]", 400),
    (b"", 400),
    (b'{"key":"u","value":"%s"}' % (b"x" * (VALUE_BYTES_MAX + 1)), 413),
]


@pytest.mark.parametrize(("body", "status"), UPDATES, ids=range(len(UPDATES)))
def test_updates_are_answered_the_same(pair: Pair, body: bytes, status: int):
    """JSON that is one, and JSON that is none; with and without a type."""
    pair.same(request("POST /update", JSON, body=body), status)
    pair.same(request("POST /update", body=body), status)


def test_what_else_an_update_brings_means_the_same(pair: Pair):
    """Parameters, headers, chunks, other methods."""
    body = b'{"key":"u","value":"1"}'
    for target, status in (
        ("?ack=log", 200),
        ("?ack=x", 400),
        ("?key=u", 400),
        ("?timeout_ms=7000", 200),
        ("/", 404),
    ):
        pair.same(request(f"POST /update{target}", body=body), status)
    for header, status in (("Content-Encoding: br", 415), ("Content-Type: text/html", 200), ("If-Match: 7", 200)):
        pair.same(request("POST /update", header, body=body), status)
    pair.same(chunked("POST /update", body=body), 200)
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD"):
        pair.same(request(f"{method} /update"))


def txn(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def put(key: str, value: str = "v", **more: Any) -> dict[str, Any]:
    return {"op": "put", "key": key, "value": value, **more}


THERE = {"key": "t", "target": "version", "op": ">", "value": 0}
DELETE = {"op": "delete", "key": "t"}
GET = {"op": "get", "key": "t"}
TXNS: list[tuple[bytes, int]] = [
    (txn(then=[put("t")]), 200),
    (txn(compare=[THERE], then=[put("t", "2"), put("u", "3")], **{"else": [DELETE]}), 200),
    (txn(compare=[THERE], then=[DELETE]), 200),
    (txn(compare=[THERE], then=[put("t")], **{"else": [put("t", "else"), DELETE | {"key": "u"}]}), 200),
    (txn(compare=[THERE | {"op": "<"}], then=[put("t")]), 200),
    (txn(then=[GET, put("t", "again"), GET]), 200),
    (txn(then=[], **{"else": [GET]}), 200),
    (txn(then=[]), 200),
    (txn(then=[put(f"many/{number}", "x" * number) for number in range(100)]), 200),
    (txn(then=[put("t", "AAE=", encoding="base64", content_type="a/b", ttl=3600)]), 200),
    (txn(then=[put("t", lease=99999)]), 404),
    (txn(then=[put("t"), put("t")]), 400),
    (txn(then=[put("")]), 400),
    (txn(then=[put("t", "\ud800")]), 400),
    (txn(then=[{"op": "move", "key": "t"}]), 400),
    (txn(then=[put("t", ttl=1e400)]), 400),
    (txn(then=7), 400),
    (txn(compare=[{"key": "t"}], then=[]), 400),
    (txn(then=[put(f"k{number}") for number in range(1_001)]), 400),
    (txn(then=[put(f"k{number}", "x" * 2_000) for number in range(700)]), 413),
    (txn(), 400),
    (b'{"then":[],"then":[]}', 400),
    (b"\xff", 400),
]


@pytest.mark.parametrize(("body", "status"), TXNS, ids=range(len(TXNS)))
def test_transactions_are_answered_the_same(pair: Pair, body: bytes, status: int):
    """Writes, conditions that hold and that do not, reads, and what makes no sense."""
    pair.same(request("POST /v1/txn", JSON, body=body), status)


def test_what_else_a_transaction_brings_means_the_same(pair: Pair, key: str):
    """Its type, which it has to name; parameters, headers, its id."""
    body = txn(then=[put(key)])
    pair.same(request("POST /v1/txn", body=body), 415)
    pair.same(request("POST /v1/txn", "Content-Type: text/plain", body=body), 415)
    pair.same(request("POST /v1/txn", "Content-Type: Application/JSON ; charset=utf-8", body=body), 200)
    pair.same(request("POST /v1/txn?ack=log", JSON, body=body), 200)
    pair.same(request("POST /v1/txn?ack=", JSON, body=body), 400)
    pair.same(chunked("POST /v1/txn", JSON, body=body), 200)
    for sent_body in (body, body, txn(then=[put(key, "other")])):
        pair.same(request("POST /v1/txn", JSON, f"Idempotency-Key: {key}", body=sent_body))
    pair.same(request("GET /v1/txn"), 405)


# --- pushes ---------------------------------------------------------------------------------------------------


def test_pushes_are_answered_the_same(pair: Pair):
    """Garbage, that of another cluster, with what no node sends along."""
    push = PushBody("another", Leader("n9", "127.0.0.1:9"), 0, 0, 1, ())
    body = msgspec.msgpack.encode(push)
    pair.same(request("POST /propagate", body=body), 409)
    pair.same(request("POST /propagate", "Content-Encoding: identity", body=body), 409)
    pair.same(request("POST /propagate", "X-Many: 1", "X-Many: 2", body=body), 409)
    pair.same(request("POST /propagate?x=1", body=body), 400)
    pair.same(request("POST /propagate?", body=body), 409)
    pair.same(chunked("POST /propagate", body=body), 409)
    for bad in (b"", b"\xc1", body[:-1], body + b"x", b"\x91" * 5_000, b"{}"):
        pair.same(request("POST /propagate", body=bad), 400)
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        pair.same(request(f"{method} /propagate", body=b""))
    heads, bodies = [], []
    for node in (pair.hot, pair.plain):
        own = msgspec.msgpack.encode(replace(push, cluster_id=node.status()["cluster_id"]))
        head, _, body = pair.known(node, sent(node, request("POST /propagate", body=own))).partition(b"\r\n\r\n")
        heads.append(head)
        bodies.append(msgspec.msgpack.decode(body, type=PushAnswer))
    assert heads[0] == heads[1]
    assert heads[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert all(answer.epoch > push.epoch for answer in bodies)  # each cluster counts its own


# --- whatever is drawn ----------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    ["d/a", "d/b", "d/%62", "d%2Fa", "%D0%BA", "d/a+b", "d//", "", "%", "%ff", "%00", "k" * 512]
)
QUERIES = st.lists(
    st.sampled_from(
        [
            "linearizable=true", "linearizable=false", "min_revision=1", "min_revision=99999&timeout_ms=20",
            "max_lag=1000", "max_stale_ms=60000", "at=1", "ack=log", "ack=replicas", "ack=",
            "ttl=3600", "lease=99999", "x=1", "%6Cinearizable=true", "%ff", "=",
        ]
    ),
    max_size=2,
).map(lambda parts: "?" + "&".join(parts))  # fmt: skip
FIELDS = st.lists(
    st.sampled_from(
        [
            "If-Match: *", 'If-Match: "99999"', "If-None-Match: *", "If-None-Match: 1", "Accept: application/json",
            "Content-Type: text/plain", JSON, "Content-Type: ?", "Content-Encoding: gzip",
            "Content-Encoding: identity", "Idempotency-Key: one", "Idempotency-Key: two", "Idempotency-Key: ?",
            "Content-Range: bytes 0-1/2", "X-Word: é", "Upgrade: websocket", "Range: bytes=0-0",
            "Content_Type: text/html", "Transfer-Encoding: chunked",
        ]
    ),
    max_size=3,
)  # fmt: skip
BODIES = st.sampled_from(
    [body for body, _ in (*UPDATES, *TXNS) if len(body) < 5_000] + [b"", b"x", b"\0\xff", b"x" * 70_000]
)
METHODS = st.sampled_from(["GET", "HEAD", "PUT", "PUT", "DELETE", "POST"])


@settings(max_examples=60, deadline=None)
@given(
    METHODS,
    KEYS.map("/v1/kv/".__add__) | st.sampled_from(["/update", "/v1/txn", "/propagate"]),
    st.just("") | QUERIES,
    FIELDS,
    st.none() | BODIES,
)
def test_whatever_is_asked_is_answered_the_same(
    pair: Pair, method: str, path: str, query: str, fields: list[str], body: bytes | None
):
    """Any of these methods, paths, parameters, headers and bodies together."""
    if "Transfer-Encoding: chunked" in fields:
        fields = [field for field in fields if field != "Transfer-Encoding: chunked"]
        pair.same(chunked(f"{method} {path}{query}", *fields, body=body or b""))
    else:
        pair.same(request(f"{method} {path}{query}", *fields, body=body))


HOSTILE_METHODS = st.sampled_from(["PUT", "POST", "GET", "DELETE", "put", "P@T", "BREW", ""])
HOSTILE_TARGETS = st.sampled_from(
    [
        "/update", "/v1/txn", "/v1/kv/h", "/v1/kv/%00", "/v1/kv/%ed%a0%80", "/v1/kv/e%CC%81", "/v1/kv/%C3%A9",
        "/v1/kv/..",
        "/v1/kv/a\tb", "/v1/kv/h?ttl=1e400", "/v1/kv/h?lease=-1", "/propagate", "*", "http://", "//",
        "/v1/kv/" + "h" * 9_000,
    ]
)  # fmt: skip
HOSTILE_FIELDS = st.lists(
    st.sampled_from(
        [
            "Content-Length: 3\r\nContent-Length: 5", "Content-Length: -1", "Content-Length: 0x3",
            "Content-Length: 3, 3",
            "X-Folded: b\r\n c", "X-Nul: \0", "X\0Name: b", "no colon", "X Space: b", ": no name", "X-Lone: a\rb",
            "Host: y", "Expect: nonsense", "Connection: keep-alive, close", "X-Long: " + "a" * 30_000,
            "If-Match: " + '"1",' * 600, "If-None-Match: \t,\t,", "Idempotency-Key: ~own", "Idempotency-Key: ..",
            "Content-Type: application/json; charset=\"", "Content-Type: " + "a/" * 200,
            "Content-Encoding: \x80", JSON, JSON,
        ]
    ),
    max_size=2,
)  # fmt: skip
CODINGS = st.sampled_from(
    [
        "chunked", "ChUnKeD", "gzip, chunked", "chunked\r\nTransfer-Encoding: chunked", "chunked, identity",
        "identity",
        "xchunked", "chunked\r\nContent-Length: 9", "\tchunked ", "chunked;q=1",
    ]
)  # fmt: skip
CHUNKS = st.sampled_from(
    [
        b"0\r\n\r\n", b"1;a=b\r\nx\r\n0;c\r\n\r\n", b"-1\r\nx\r\n0\r\n\r\n", b"1\nx\n0\n\n",
        b"0x1\r\nx\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nx\r\n0\r\n\r\n", b"2\r\nxyz\r\n0\r\n\r\n",
        b"1\r\nx\r\n0\r\nContent-Length: 9\r\n\r\n",
        b"17\r\n{\"key\":\"h\",\"value\":\"h\"}\r\n0\r\n\r\n", b"\r\n", b"nothing like it\r\n",
    ]
)  # fmt: skip
BOMBS = st.sampled_from(
    [
        b"[" * 60_000, b'{"then":' * 8_000, b'{"key":"h","value":%s}' % (b"9" * 500), b'{"key":"h","value":1e400}',
        b'\xef\xbb\xbf{"key":"h","value":"h"}', b'{"key":"h","value":"\\ud800"}', b'{"key":"\\udc00","value":"h"}',
        b'{"key":"h","value":"\xed\xa0\x80"}', b'{"key":"h","value":NaN}', b'{"key":"h","key":"h","value":"h"}',
        b'{"key":"\\u0000h","value":"h"}', b'{"key":"h\\u0000","value":"\\u0000"}', "{}".encode("utf-16"),
        b"\0" * 100,
        b'{"then":[{"op":"put","key":"h","value":"h","ttl":-0.0}]}',
        b'{"then":[{"op":"put","key":"h","value":"h","lease":7.0}]}',
    ]
)  # fmt: skip
HOSTILE_BODIES = BOMBS.map(lambda body: (f"Content-Length: {len(body)}", body)) | st.tuples(
    CODINGS.map("Transfer-Encoding: ".__add__), CHUNKS
)


@settings(max_examples=120, deadline=None)
@given(HOSTILE_METHODS, HOSTILE_TARGETS, HOSTILE_FIELDS, HOSTILE_BODIES)
def test_whatever_is_hostile_is_answered_the_same(
    pair: Pair, method: str, target: str, fields: list[str], framed: tuple[str, bytes]
):
    """Heads that no client sends, lengths and chunks that contradict themselves, bombs of JSON: by both alike."""
    length, body = framed
    head = "\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *fields, length))
    pair.same(head.encode("latin-1") + b"\r\n\r\n" + body)


# --- who answers ----------------------------------------------------------------------------------------------


def threads_of(node: ClusterNode) -> int:
    """How many threads the process has that answers for the node."""
    assert node.child is not None
    pid = node.child.pid
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return len(list(Path(f"/proc/{worker}/task").iterdir()))


def test_what_waits_holds_no_thread_with_the_hot_path_and_one_each_without(pair: Pair):
    """So the switch does something; who waits in vain is refused without a thread, too."""
    waiting = 40
    before = {node: threads_of(node) for node in (pair.hot, pair.plain)}
    with ExitStack() as connections:
        for node in before:
            for _ in range(waiting):
                connection = socket.create_connection(("127.0.0.1", node.port), timeout=ANSWER_S)
                connections.enter_context(closing(connection))
                connection.sendall(request("GET /v1/kv/absent?min_revision=99999&timeout_ms=5000"))
        pair.same(request("GET /v1/kv/absent?min_revision=99999&timeout_ms=300"), 503)

        assert wait_until(lambda: threads_of(pair.plain) >= before[pair.plain] + waiting / 2, ANSWER_S)
        assert threads_of(pair.hot) <= before[pair.hot] + waiting / 4


def test_a_read_that_waits_in_vain_waits_once(pair: Pair):
    """The time that it was given, with the hot path as without."""
    for node in (pair.hot, pair.plain):
        began = time.monotonic()
        answer = sent(node, request("GET /v1/kv/absent?min_revision=99999&timeout_ms=2000"))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert 2 <= time.monotonic() - began < 2 * 2


Found = Answer | Begin | None


class Reachable(NoPeers):
    """A node that can be reached at its address may lead."""

    def probe(self, effect: do.Probe) -> None:
        self._post(ev.Probed(effect.address, Reach.ANSWERS, "a1"))


class InProcess:
    """The hot path of a node in this process, without a server."""

    def __init__(self, directory: Path, peers: type[Reachable] = Reachable) -> None:
        self.node = MemoryNode(
            watchdog_s=60, say=lambda _: None, fail=lambda _, reason: self.failed.append(reason)
        )
        self.failed: list[str] = []
        runtime = self.node.runtime
        self.node.peers = peers(runtime.post)
        self.peers = HttpPeers(runtime.post, incoming=directory, verify=lambda _: self.node.store.position())
        self.service = make_service(
            parse(["--port", "9", "--zk", "127.0.0.1:1", "--data-dir", str(directory)], {}),
            instance="a1",
            runtime=runtime,
            store=self.node.store,
            peers=self.peers,
            log=self.node.session,
            clock=self.node.clock,
            kill=lambda: None,
            copy_store=lambda: None,
        )

    def found(self, raw: bytes) -> Found:
        """What the hot path makes of a request."""
        return self.asked(HotPath(self.service), raw)

    @staticmethod
    def asked(hot: HotPath, raw: bytes) -> Found:
        head, _, body = raw.partition(b"\r\n\r\n")
        (method, target, _), *fields = (line.split(b" ", 2) for line in head.split(b"\r\n"))
        path, _, query = target.partition(b"?")
        scope = {
            "method": method.decode(),
            "raw_path": path,
            "query_string": query,
            "headers": [(name.removesuffix(b":").lower(), b" ".join(value)) for name, *value in fields],
        }
        return hot(scope, body)

    def made(self, raw: bytes) -> Callable[[], Answer | None]:
        """What makes the answer to a request that is answered later, once it can."""
        begin = self.found(raw)
        assert callable(begin), begin
        replies: queue.SimpleQueue[Callable[[], Answer | None]] = queue.SimpleQueue()

        async def begun() -> Callable[[], Answer | None]:
            begin(replies.put)
            return await asyncio.to_thread(replies.get, timeout=ANSWER_S)

        return asyncio.run(begun())

    def stop(self) -> None:
        self.node.stop()
        self.peers.stop()
        assert self.failed == []


@pytest.fixture
def in_process(tmp_path: Path) -> Iterator[InProcess]:
    """A node that leads, and has one key."""
    made = InProcess(tmp_path)
    made.node.start()
    assert isinstance(made.service.writes.write(Write(update("k", "v"), "", Ack.LOG, ANSWER_S)).outcome, Committed)
    made.service.reads.wait_for_index(1, ANSWER_S)
    yield made
    made.stop()


AT_ONCE = [
    "/v1/kv/k",
    "/v1/kv/%6b",
    "/v1/kv/k?min_revision=1",
    "/v1/kv/k?max_lag=9",
    "/v1/kv/k?max_stale_ms=60000",
]
LATER = [
    (request("GET /v1/kv/k?linearizable=true"), 200),
    (request("GET /v1/kv/k?min_revision=99&timeout_ms=20"), 503),
    (request("PUT /v1/kv/k", "If-Match: *", "Content-Type: a/b", "Idempotency-Key: x", body=b"1"), 200),
    (request("PUT /v1/kv/new?ttl=3600&timeout_ms=9000", body=b""), 201),
    (request("PUT /v1/kv/k", 'If-Match: "99"', body=b"1"), 412),
    (request("PUT /v1/kv/k?lease=99", body=b"1"), 404),
    (request("DELETE /v1/kv/k?ack=log"), 200),
    (request("POST /update", body=UPDATES[0][0]), 200),
    (request("POST /v1/txn", JSON, body=TXNS[1][0]), 200),
]
NOT_HOT = [
    request("GET /v1/kv/k", "Accept: */*"),
    request("GET /v1/kv/absent"),
    request("GET /v1/kv/k?at=1"),
    request("GET /v1/status"),
    request("PUT /v1/kv/%00", body=b"1"),
    request("PUT /v1/kv/k", "Content-Encoding: gzip", body=b"1"),
    request("POST /update", "X: 1", "X: 2", body=UPDATES[0][0]),
    request("POST /update", body=b"{"),
    request("POST /v1/txn", JSON, body=txn(then=[GET])),
    request("POST /propagate", body=b""),
    request("POST /v1/kv/k", body=b""),
]


def test_the_hot_path_answers_what_it_is_there_for(in_process: InProcess):
    """Otherwise all that is said above would be true of a hot path that nobody takes."""
    for target in AT_ONCE:
        answer = in_process.found(request(f"GET {target}"))
        assert isinstance(answer, tuple), target
        assert (answer[0], answer[2]) == (200, b"v")
    for raw, status in LATER:
        answer = in_process.made(raw)()
        assert answer is not None, raw
        assert answer[0] == status, answer
    push = PushBody("another", Leader("n9", "127.0.0.1:9"), 0, 0, 1, ())
    assert in_process.made(request("POST /propagate", body=msgspec.msgpack.encode(push)))() is None
    for raw in NOT_HOT:
        assert in_process.found(raw) is None, raw


class Silent(Reachable):
    """A replica is pushed to, and has not answered yet."""

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        self.pushes: queue.SimpleQueue[do.Push] = queue.SimpleQueue()

    def push(self, effect: do.Push) -> None:
        self.pushes.put(effect)


@pytest.mark.parametrize(("ack", "replicas"), [("log", {}), ("replicas", {"n2": "applied"})])
def test_a_write_waits_for_the_replicas_as_it_was_asked_to(tmp_path: Path, ack: str, replicas: dict[str, str]):
    """P3: with ack=log it is answered as soon as it is in the log, else once who keeps up has applied it."""
    made = InProcess(tmp_path, Silent)
    node = made.node
    other = MemorySession(
        node.session._ensemble, Member("n2", "a2", "127.0.0.1:8", "catchup"), lambda _: None, node.clock
    )
    other.connect()
    other.join(do.Join("catchup"))
    node.start()
    pushes = node.peers.pushes
    answer = PushAnswer(0, pushes.get(timeout=ANSWER_S).body.epoch)  # to the greeting: it keeps up
    node.runtime.post(ev.PushAnswered("n2", answer))
    replies: queue.SimpleQueue[Callable[[], Answer | None]] = queue.SimpleQueue()

    async def begun() -> Answer | None:
        begin = made.found(request(f"PUT /v1/kv/k?ack={ack}", body=b"1"))
        assert callable(begin)
        begin(replies.put)
        push = await asyncio.to_thread(pushes.get, timeout=ANSWER_S)
        assert push.body.first_index == 1
        assert replies.empty() == (ack == "replicas")
        node.runtime.post(ev.PushAnswered("n2", replace(answer, applied_index=1)))
        return (await asyncio.to_thread(replies.get, timeout=ANSWER_S))()

    _, _, body = asyncio.run(begun()) or (0, [], b"{}")
    made.stop()

    assert json.loads(body)["replicas"] == replicas


def test_a_node_that_was_stale_as_it_started_is_not_called_stale_for_ever(in_process: InProcess):
    """Until it is healed, nothing of it is hot; then answers say what is true then."""
    runtime = in_process.service.runtime
    in_process.node.stop()  # nothing but what follows changes its state
    healthy = runtime.freshness
    runtime.freshness = healthy._replace(missed_entries=3)
    hot = HotPath(in_process.service)
    assert in_process.asked(hot, request("GET /v1/kv/k")) is None
    assert in_process.asked(hot, request("PUT /v1/kv/k", body=b"1")) is None

    runtime.freshness = healthy
    answer = in_process.asked(hot, request("GET /v1/kv/k"))

    assert isinstance(answer, tuple)
    headers = dict(answer[1])
    assert headers[b"Kvlog-Stale"] == b"false"
    assert b"Kvlog-Missed-Entries" not in headers


def test_a_node_that_halts_before_it_answers_says_so(in_process: InProcess):
    """As Flask would: what a header says of the node is true as it is sent."""
    make = in_process.made(request("PUT /v1/kv/k", body=b"1"))
    in_process.node.stop()
    runtime = in_process.service.runtime
    runtime.freshness = runtime.freshness._replace(halted_at=7)

    answer = make()

    assert answer is not None
    assert (b"Kvlog-Halted", b"7") in answer[1]
