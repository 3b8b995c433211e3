"""Everything in kvlog that reads bytes which somebody else has written, each as a function of bytes.

For the property tests (test_parsers.py) and for the fuzzer (fuzz.py). A target takes any bytes: they are read, or
refused by the error that its callers expect; anything else is a bug.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from kvlog import failpoints
from kvlog.api import admin, course, explain, history, hot, internal, keys, leases, status, txn, watch
from kvlog.api.batch import chunks, numbered_array, numbered_lines
from kvlog.api.bodies import Fields, json_object
from kvlog.api.conditions import conditions, tags
from kvlog.api.ids import any_request_id, request_id
from kvlog.api.incoming import key_in, known_type
from kvlog.api.items import check_content_type
from kvlog.api.operations import condition_of, operation_of
from kvlog.api.parameters import parameters
from kvlog.api.reading import read_options
from kvlog.client import reads, writes
from kvlog.client.errors import BadAnswer, ClientError
from kvlog.client.feed import Feed
from kvlog.client.judging import judge
from kvlog.client.messages import Answer, Call
from kvlog.client.sse import SseParser
from kvlog.config import parse
from kvlog.core.applying import apply_entry
from kvlog.core.commands import update
from kvlog.core.entry import UNREADABLE, Delete, Leader, Put, Request, decode_entry
from kvlog.core.machine import Position
from kvlog.core.values import Ack, Committed, PushAnswer, PushBody, Refused
from kvlog.errors import BadEntry, BadSnapshot, InvalidInput, SettingsError, Unavailable
from kvlog.front.front import body_length
from kvlog.front.wsgi import environ_of
from kvlog.line import Line
from kvlog.memory_store import MemoryTransaction
from kvlog.peers import Forward, ForwardAnswer
from kvlog.snapshot import Decoder, encode, header_of
from kvlog.zookeeper.layout import (
    CandidateData,
    ClusterData,
    MemberData,
    ReplicaData,
    last_entry,
    log_bytes_before,
    log_data,
    parse_candidate,
    segments_in,
    skips_in,
)
from tests.chain import Chain

INDEX = 7
HEADERS_MAX = 100


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        name: in words with hyphens.
        run: reads the bytes.
        refusals: what it may raise.
        seeds: inputs that make sense.
        dictionary: what inputs of this kind consist of.
    """

    name: str
    run: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    dictionary: tuple[bytes, ...] = ()

    def __call__(self, data: bytes) -> object:
        """What it reads; None if it refuses.

        Raises:
            Exception: anything else is a bug.
        """
        try:
            return self.run(data)
        except self.refusals:
            return None


# --- the log --------------------------------------------------------------------------------------------------


def with_checksum(body: bytes) -> bytes:
    """What ZooKeeper would hold if somebody had written this body as an entry."""
    return body + b"\n" + hashlib.blake2b(body, digest_size=16).hexdigest().encode()


def entry(data: bytes) -> object:
    """As it is, and as a body whose checksum is right; what is an entry can be applied to the state before it."""
    for whole in (with_checksum(data), data):
        try:
            item = decode_entry(INDEX, whole)
        except BadEntry:
            continue
        first = item.entry.first_revision
        ids = [request.id for request in item.entry.requests if request.id]
        if first and len(set(ids)) == len(ids):
            before = Position(applied_index=INDEX - 1, revision=first - 1, hash=item.entry.prev_hash or "0" * 32)
            apply_entry(MemoryTransaction({}, {}), before, item)
        return item
    raise BadEntry(INDEX, "neither with a checksum nor without")


def entries() -> tuple[bytes, ...]:
    """The bodies of entries of all kinds."""
    chain = Chain()
    chain.barrier()
    chain.put("key", "value")
    chain.put("ключ", b"\x00\xff")
    chain.delete("key")
    chain.write(("a", "1"), ("b", "2"), ("a", None))
    chain.request(
        Request("id-1", "f" * 32, effects=(Put("k", "v", 1, 1, "", "text/plain", 9), Delete("l"))),
        Request("id-2", cancels=True),
        Request("id-3", failed="condition"),
    )
    chain.skip()
    return tuple(item.data.rpartition(b"\n")[0] for item in chain.entries)


def znodes(data: bytes) -> object:
    """The data of each kind of znode, and names of znodes."""
    text = data.decode("latin-1")
    names = text.split("/")
    parse_candidate(text)
    segments_in(names)
    for skip in skips_in(names):
        assert skip >= 0
    last_entry(1, names)
    found: list[object] = []
    readers: list[Callable[[bytes], object]] = [log_data, partial(log_bytes_before, 1)]
    kinds: tuple[type[msgspec.Struct], ...] = (ClusterData, MemberData, ReplicaData, CandidateData)
    readers += [partial(msgspec.json.decode, type=kind) for kind in kinds]
    for read in readers:
        try:
            found.append(read(data))
        except UNREADABLE:
            continue
    return found


# --- requests of clients --------------------------------------------------------------------------------------


def scope_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """A request as Granian would give it: the target in the first line, headers up to an empty one, the body."""
    head, _, body = data.partition(b"\n\n")
    target, *lines = head.split(b"\n")
    path, _, query = target.partition(b"?")
    headers = [
        (name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)
    ]
    scope = {
        "method": "PUT",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": headers[:HEADERS_MAX],
        "server": ("127.0.0.1", 5000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "http_version": "1.1",
    }
    return scope, body


def requests(data: bytes) -> object:
    """A request to each of the routes that the hot path knows, and to watch; as an environment for Flask."""
    scope, body = scope_of(data)
    environ_of(scope)
    body_length(scope)
    found: list[object] = []
    for plan in (
        lambda: keys.put_of(hot._Plain(scope, body)),
        lambda: keys.delete_of(hot._Plain(scope, b"")),
        lambda: course.planned_update(hot._Plain(scope, body)),
        lambda: txn.wanted_txn(hot._Plain(scope, body)),
        lambda: watch.read_wish(scope),
        lambda: key_in(scope["raw_path"]),
    ):
        try:
            found.append(plan())
        except (InvalidInput, UnicodeDecodeError):  # whoever calls them takes it for bad input, too
            continue
    return found


def headers(data: bytes) -> object:
    """A header's value, whichever one it is."""
    text = data.decode("latin-1")
    found: list[object] = []
    for read in (
        lambda: conditions("k", tags("If-Match", text), tags("If-None-Match", text)),
        lambda: request_id(text),
        lambda: any_request_id(text),
        lambda: check_content_type(text),
        lambda: known_type(text, "application/json"),
    ):
        try:
            found.append(read())
        except InvalidInput:
            continue
    return found


KNOWN = (
    (*keys.GET,),
    keys.PUT,
    keys.LIST,
    course.READ_KEY,
    leases.KEEP_ALIVE,
    leases.LIST,
    history.HISTORY,
    history.DIFF,
    status.SNAPSHOT,
    explain.LOG,
    watch.PARAMETERS,
)


def queries(data: bytes) -> object:
    """A query, for each of the routes."""
    text = data.decode()
    found: list[object] = []
    for known in KNOWN:
        try:
            given = parameters(text, known)
            found.append(read_options(given) if known == keys.GET else given)
        except InvalidInput:
            continue
    return found


def bodies(data: bytes) -> object:
    """A body in JSON, for each of the routes that take one."""
    found: list[object] = []
    for read in (
        course.update_of,
        txn.txn_of,
        admin.skip_of,
        history.rollback_of,
        numbered_array,
        lambda body: Fields(json_object(body), ("ttl",)).ttl_ms(),
        lambda body: operation_of(json_object(body), ""),
        lambda body: condition_of(json_object(body), ""),
        lambda body: list(chunks(numbered_lines((body[:9], body[9:])))),
    ):
        try:
            found.append(read(data))
        except InvalidInput:
            continue
    return found


def command_line(data: bytes) -> object:
    """The settings of a node from its environment, or what is armed; the first line says which variable it is."""
    name, _, text = data.decode().partition("\n")
    if name == "FAILPOINT":
        return failpoints.parse(text)
    return parse([], {"KVLOG_ZK": "127.0.0.1:2181", "KVLOG_PORT": "5000"} | {f"KVLOG_{name}": text})


# --- between nodes --------------------------------------------------------------------------------------------


def forwarded(data: bytes) -> object:
    """What a node is sent as a push, and as a write that is handed on."""
    try:
        return internal.push_of(data)
    except InvalidInput:
        return internal.forward_of(data)


def answered(data: bytes) -> object:
    """What a node is answered to a push, and to a write that it has handed on."""
    try:
        return msgspec.msgpack.decode(data, type=PushAnswer)
    except UNREADABLE:
        return msgspec.msgpack.decode(data, type=ForwardAnswer).outcome()


def line(data: bytes) -> object:
    """All that a node ever hears on a connection for pushes."""
    ours, theirs = socket.socketpair()
    with closing(theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.setblocking(False)
        theirs.send(data)
        theirs.shutdown(socket.SHUT_WR)
        found = Line("127.0.0.1:1", connect_s=0.1, answer_s=5.0)
        found._socket = ours
        try:
            return found.post("/propagate", b"", "a/b")
        finally:
            found.close()


def snapshot(data: bytes) -> object:
    """A copy of a store, in two pieces."""
    written = bytearray()
    decoder = Decoder(written.extend)
    decoder.feed(data[: len(data) // 2])
    decoder.feed(data[len(data) // 2 :])
    found = decoder.finish()
    assert len(written) == decoder.received_bytes
    return found


def a_snapshot() -> bytes:
    """A small one."""
    position = Chain(window=9).position
    return b"".join(encode(header_of(position, size=11, created_ms=5, node_id="n1"), (b"hello ", b"world")))


PUSH = msgspec.msgpack.encode(PushBody("c1", Leader("n1", "a:1"), 1, 2, 3, (b"one", b"two")))
FORWARD = msgspec.msgpack.encode(Forward("c1", "id-1", Ack.LOG, 1_000, update("key", "value")))


# --- answers to clients ---------------------------------------------------------------------------------------

CALLS: Mapping[int, Call[Any]] = dict(
    enumerate(
        (
            reads.get("k", reads.ReadOptions()),
            reads.listing(reads.Listing("p")),
            reads.count(reads.Listing("p")),
            reads.history("k", None, 1),
            reads.diff(1, None, "", "", 1),
            reads.log(0),
            reads.explain("k"),
            reads.status(),
            reads.poll("k", 1, 1.0),
            writes.put(
                "k", b"v", ttl=None, lease=None, if_revision=None, ack="log", request_id="a", content_type=None
            ),
            writes.delete("k", if_revision=None, ack="log", request_id="a"),
            writes.txn({}, ack="log", request_id="a"),
            Feed("p", None, start=1, seen=0, heartbeat=10.0).call(),
        )
    )
)
STATUSES = (200, 200, 201, 304, 400, 404, 408, 409, 410, 412, 413, 500, 503, 504, 999)


def client(data: bytes) -> object:
    """An answer to each kind of call: the first byte is the status, then come headers, an empty line, the body."""
    head, _, body = data[1:].partition(b"\n\n")
    found = (piece.decode("latin-1").partition(":") for piece in head.split(b"\n"))
    answer = Answer("n1:1", STATUSES[(data or b"\0")[0] % len(STATUSES)], {a: b for a, _, b in found}, body)
    said: list[object] = []
    for call in CALLS.values():
        try:
            said.append(judge(call, answer))
        except ClientError as error:
            said.append(str(error))
    return said


def stream(data: bytes) -> object:
    """A stream of events in two pieces, and what a watch makes of it."""
    SseParser().feed(data)
    feed = Feed("", None, start=1, seen=0, heartbeat=10.0)
    return [feed.take(data[: len(data) // 2]), feed.take(data[len(data) // 2 :]), feed.pause]


# --- all of them ----------------------------------------------------------------------------------------------


def _json(*values: object) -> tuple[bytes, ...]:
    return tuple(json.dumps(value).encode() for value in values)


JSON_WORDS = (
    b'"',
    b"[",
    b"{",
    b"}",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"\\ud800",
    b"\xff",
    b"\xef\xbb\xbf",
    b"7.0",
)
TTL_TXN = {
    "compare": [{"key": "a", "target": "version", "op": ">", "value": 0}],
    "then": [{"op": "get", "key": "a"}],
}
PUTS = [{"op": "put", "key": "a", "value": "AAE=", "encoding": "base64", "ttl": 5}, {"op": "delete", "key": "b"}]
EVENT = {"revision": 3, "index": 1, "changes": [{"op": "put", "key": "k", "value": "v", "revision": 3}]}
WROTE = {"outcome": "committed", "revision": 3, "results": [{"op": "put", "key": "k"}]}


def targets() -> Iterable[Target]:
    """All of them."""
    yield Target(
        "entry", entry, (BadEntry,), entries(), (*JSON_WORDS, b'"op":"put"', b'"encoding":"base64"', b'"skip":{')
    )
    yield Target(
        "znodes",
        znodes,
        (),
        (
            *_json({"cluster_id": "c", "format": 1, "segment": 1000}, {"first_index": 7, "first_bytes": 9}),
            *_json({"log_bytes": 7}, {"address": "a:1", "durable_index": 7, "holding": "whole"}),
            *_json(
                {"address": "a:1", "instance": "7", "mode": "", "started_ms": 1}, {"address": "a", "node_id": "n"}
            ),
            b"127.0.0.1:5000_0123abcd_0000000007",
            b"skip-0000000007/0000000001/entry-0000000003",
        ),
        JSON_WORDS,
    )
    yield Target(
        "requests",
        requests,
        (),
        (
            b'/v1/kv/a%2Fb?ttl=5&ack=log\nIf-Match: "7",W/"8"\nIdempotency-Key: x\nContent-Type: a/b\n\nvalue',
            b'/update?timeout_ms=7\nContent-Length: 23\n\n{"key":"a","value":"b"}',
            b'/v1/txn\nContent-Type: application/json\nCookie: a=b\nCookie: c=d\n\n{"then":[]}',
            b"/v1/watch?prefix=a&from=3\nLast-Event-ID: 7\nTransfer-Encoding: chunked\n\n",
        ),
        (b"%ff", b"%", b"%2F", b"\n\n", b": ", b"_", b"Content-Length: 99999999999999999999", b"\xff"),
    )
    yield Target(
        "headers",
        headers,
        (),
        (b"*", b'"7", W/"8-json" ,,"x"', b"order-17", b'"order-17"', b"~n1-2", b'text/plain; charset="utf-8"'),
        (b'"', b"W/", b",", b"-json", b"\\", b";", b"=", b"\t"),
    )
    yield Target(
        "queries",
        queries,
        (UnicodeDecodeError,),
        (
            b"key=a%20b&at=3&max_lag=0&timeout_ms=20",
            b"prefix=a&from=b&limit=7&keys_only=true&count=true",
            b"linearizable=true&min_revision=7&max_stale_ms=5",
            b"ttl=1.5e1&lease=7&ack=log",
            b"from=1&wait=1.5&heartbeat=5&to=7&before=9&min_index=3",
        ),
        (b"&", b"=", b"%ff", b"%ed%a0%80", b"%00", b"+", b"1e999", b"9" * 20, b"\xd9\xa3"),
    )
    yield Target(
        "bodies",
        bodies,
        (),
        (
            *_json({"key": "a", "value": "b"}, TTL_TXN, {"then": PUTS, "else": []}, PUTS, {"ttl": 1.5}),
            *_json({"index": 7, "reason": "damaged"}, {"key": "a", "revision": 3, "dry_run": True}),
            *_json({"key": "a", "target": "value", "op": "=", "value": "AA==", "encoding": "base64"}),
            b"\n".join(_json(*PUTS)) + b"\n",
        ),
        (*JSON_WORDS, b'"key":', b'"value":', b'"op":"put"', b'"ttl":', b'"encoding":"base64"', b"\n"),
    )
    yield Target(
        "command-line",
        command_line,
        (SettingsError, UnicodeDecodeError),
        (
            b"FAILPOINT\nafter_append:kill@3,before_apply:sleep:500",
            b"PORT\n5001",
            b"ZK\na:1,[::1]:2",
            b"ROOT\n/a/b",
        ),
        (
            b"SESSION_TIMEOUT\n",
            b"RETAIN\n",
            b"HISTORY\n",
            b"ADVERTISE\n",
            b"HOST\n",
            b"DEMO\n",
            b"nan",
            b"inf",
            b"1e9",
            b"@",
        ),
    )
    yield Target(
        "forwarded", forwarded, (InvalidInput,), (PUSH, FORWARD), (b"\xdf\xff\xff\xff\xff", b"\x91", b"\xa1\xff")
    )
    yield Target(
        "answered",
        answered,
        UNREADABLE,
        (
            msgspec.msgpack.encode(PushAnswer(7, 3)),
            msgspec.msgpack.encode(ForwardAnswer.of(Committed(3, 7, {"n2": "applied"}))),
            msgspec.msgpack.encode(ForwardAnswer.of(Refused("no", retry=True))),
        ),
        (b"\xdf\xff\xff\xff\xff", b"\x91", b"\xa1\xff"),
    )
    yield Target(
        "line",
        line,
        (Unavailable,),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKvlog-Instance: a1\r\n\r\nhello",),
        (b"Content-Length: ", b"Connection: close", b"\r\n\r\n", b"Transfer-Encoding: chunked", b"-1", b"1_0"),
    )
    yield Target(
        "snapshot", snapshot, (BadSnapshot,), (a_snapshot(),), (b"\x00\x00\x00\x00", b"\n", b"\xff\xff\xff\xff")
    )
    yield Target(
        "client",
        client,
        (),
        (
            b'\0etag:"7"\ncontent-type:text/plain\nkvlog-revision:9\n\nvalue',
            b"\0\n\n" + _json(WROTE)[0],
            b"\0\n\n"
            + _json({"revision": 3, "items": [{"key": "k", "create_revision": 1, "revision": 2, "version": 1}]})[
                0
            ],
            b"\0\n\n" + _json({"revision": 3, "events": [EVENT], "next": 4})[0],
            b"\5retry-after:1\n\n" + _json({"type": "kvlog:not-found", "detail": "no", "status": 404})[0],
        ),
        (*JSON_WORDS, b'"encoding":"base64"', b'"type":"kvlog:refused"'),
    )
    yield Target(
        "stream",
        stream,
        (BadAnswer,),
        (
            b"retry: 1000\n\nid: 3\nevent: change\ndata: " + _json(EVENT)[0] + b"\n\n",
            b"id: 9\nevent: progress\ndata: {}\n\n",
            b'event: error\ndata: {"type":"kvlog:slow-reader","status":503,"detail":"slow"}\n\n',
        ),
        (b"\r", b"\n\n", b"data:", b"event: change\n", b"id: ", b"retry: 9", b"\xef\xbb\xbf", *JSON_WORDS),
    )


TARGETS = {target.name: target for target in targets()}
