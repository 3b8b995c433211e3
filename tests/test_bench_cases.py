"""What the cases that are no plain load believe: each loss that they look for is found. Nothing is timed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bench.case import Scale, Unverified
from bench.cases import CASES
from bench.cases.growth import Growth, Place
from bench.cases.takeover import Clients, Takeover
from bench.cases.watches import Round, Watcher
from bench.dialects import DIALECTS
from bench.inputs import PREFIX
from bench.systems.http import Request
from bench.systems.loaded import HttpSystem
from bench.wire import answer_in, closed_loop, dechunked, encoded
from kvlog.errors import Unavailable

VALUES = [f"{number:012}rest" for number in range(3)]


# --- the wire -------------------------------------------------------------------------------------------------


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize(
    ("received", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, b"ok")),
        (b"HTTP/1.1 201 Created\r\ncontent-length:0\r\n\r\n", (201, b"")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", None),
        (b"HTTP/1.1 200 OK\r\nContent-Le", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ab", b"c", b""), (200, b"abc")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ab"), None),
    ],
)
def test_an_answer_is_taken_once_all_of_it_is_there(received: bytes, answer: tuple[int, bytes] | None):
    """With a length, or in chunks."""
    assert answer_in(received) == answer


def test_an_answer_that_does_not_say_how_long_it_is_is_refused():
    """It would be waited for without end, or be cut."""
    with pytest.raises(Unavailable, match="how long"):
        answer_in(b"HTTP/1.1 200 OK\r\n\r\nwhat")


def test_of_chunks_only_whole_ones_are_taken():
    """A stream may be looked at while it comes."""
    whole = chunked(b"first\n", b"second")

    assert dechunked(whole) == b"first\nsecond"
    assert [dechunked(whole[:length]) for length in (5, 12, len(whole) - 1)] == [b"", b"first\n", b"first\n"]


class Dictionary(ThreadingHTTPServer):
    """Puts and gets as kvlog does them, with one revision for each put."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.values: dict[str, str] = {}
        self.revision = 0
        self.lock = threading.Lock()
        self.refuses = False


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Dictionary

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_PUT(self) -> None:
        value = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.server.lock:
            self.server.revision += 1
            self.server.values[self.path.split("/")[-1].split("?")[0]] = value
        self.answer(503 if self.server.refuses else 200, json.dumps({"outcome": "committed"}))

    def do_GET(self) -> None:
        value = self.server.values.get(self.path.split("/")[-1])
        self.answer(404 if value is None else 200, value or "")

    def answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())


@pytest.fixture
def server() -> Iterator[Dictionary]:
    server = Dictionary()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class FakeSystem(HttpSystem):
    """One server that stands for all nodes; what they hold can be made to differ."""

    name = "fake"
    dialect = "kvlog"
    kinds = frozenset()

    def __init__(self, server: Dictionary) -> None:
        super().__init__()
        self.server = server
        self.counted_too_much = 0
        self.lost: dict[int, str] = {}

    def start(self) -> None: ...
    def stop(self) -> None:
        self.http.close()

    def version(self) -> str:
        return "1"

    @property
    def addresses(self) -> tuple[str, ...]:
        return (f"127.0.0.1:{self.server.server_port}",) * 3

    def find_leader(self) -> str:
        return self.addresses[0]

    def pids(self) -> dict[str, tuple[int, ...]]:
        return {"node": ()}

    def put_request(self, key: str, value: str) -> Request:
        return Request("PUT", f"/v1/kv/{key}?ack=log", value.encode())

    def put(self, key: str, value: str) -> None:
        self.server.values[key] = value

    def put_many(self, items: Mapping[str, str]) -> None:
        self.server.values.update(items)

    def get(self, key: str, *, node: int = 0) -> str | None:
        return None if self.lost.get(node) == key else self.server.values.get(key)

    def revision(self) -> int:
        return self.server.revision + self.counted_too_much

    def contents(self, node: int) -> dict[str, str]:
        return {key: value for key, value in self.server.values.items() if self.lost.get(node) != key}

    def agree(self) -> None: ...


@pytest.fixture
def system(server: Dictionary) -> Iterator[FakeSystem]:
    system = FakeSystem(server)
    yield system
    system.stop()


def test_a_closed_loop_answers_every_request_once(system: FakeSystem):
    """Whatever the number of connections; the answers are told apart by the numbers of their requests."""
    keys = [f"{PREFIX}{number}" for number in range(50)]
    address, taken = system.addresses[0], []

    loop = closed_loop(
        address,
        [encoded(address, system.put_request(key, key)) for key in keys],
        8,
        lambda number, status, _: taken.append((number, status)),
    )

    assert sorted(taken) == [(number, 200) for number in range(50)]
    assert len(loop.latencies) == 50
    assert system.server.values == {key: key for key in keys}


# --- watches --------------------------------------------------------------------------------------------------


def kvlog_stream(values: list[str], revisions: list[int] | None = None) -> bytes:
    """What a watcher of kvlog is sent, in pieces that do not end where events do."""
    events = b'id: 1\nevent: progress\ndata: {"revision":1}\n\n'
    for revision, value in zip(revisions or range(2, 2 + len(values)), values, strict=True):
        data = {"revision": revision, "changes": [{"op": "put", "key": "k", "value": value}]}
        events += f"id: {revision}\nevent: change\ndata: {json.dumps(data)}\n\n".encode()
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(events[:60], events[60:])


def etcd_stream(values: list[str]) -> bytes:
    """The same of etcd."""

    def coded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    lines: list[dict[str, Any]] = [{"result": {"created": True}}]
    for revision, value in enumerate(values, start=2):
        event = {"kv": {"key": coded("k"), "value": coded(value), "mod_revision": str(revision)}}
        lines.append({"result": {"events": [event]}})
    parts = [json.dumps(line).encode() + b"\n" for line in lines]
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*parts)


@pytest.mark.parametrize(("dialect", "stream"), [("kvlog", kvlog_stream(VALUES)), ("etcd", etcd_stream(VALUES))])
def test_a_watchs_stream_is_read_as_changes(dialect: str, stream: bytes):
    """In order; and the mark by which a delivery is noticed stands in it once for each value."""
    spoken = DIALECTS[dialect]

    assert list(spoken.changes(stream)) == [(2, VALUES[0]), (3, VALUES[1]), (4, VALUES[2])]
    assert [stream.count(spoken.mark(value[:12])) for value in VALUES] == [1, 1, 1]


@pytest.mark.parametrize(
    "stream",
    [
        kvlog_stream(VALUES[:2]),
        kvlog_stream([*VALUES, VALUES[2]]),
        kvlog_stream([VALUES[1], VALUES[0], VALUES[2]]),
        kvlog_stream(VALUES, [2, 4, 3]),
        kvlog_stream(VALUES, [2, 2, 3]),
    ],
    ids=["one is lost", "one comes twice", "out of order", "revisions out of order", "one revision twice"],
)
def test_a_watcher_that_was_told_something_else_is_found(system: FakeSystem, stream: bytes):
    """One among others."""
    watching = Round(system, "w/", VALUES)
    good, bad = (Watcher(None, [received]) for received in (kvlog_stream(VALUES), stream))  # type: ignore[arg-type]
    watching.watchers = [good]
    watching.check()

    watching.watchers = [good, bad]
    with pytest.raises(Unverified, match="watcher 1"):
        watching.check()


# --- takeover -------------------------------------------------------------------------------------------------


def test_an_acknowledged_write_that_a_node_has_not_is_found(system: FakeSystem):
    """On whichever node; all of those that were acknowledged are looked for."""
    case = Takeover(1, Scale(1, 1))
    case.clients = Clients(system)

    case.clients.gap(lambda: None)
    assert len(case.clients.acknowledged) > 10
    case.verify(system)

    system.lost[2] = max(case.clients.acknowledged)
    with pytest.raises(Unverified, match="node 2 has lost 1 acknowledged"):
        case.verify(system)


# --- growth ---------------------------------------------------------------------------------------------------


@pytest.fixture
def place(system: FakeSystem) -> Place:
    case = Growth(1, Scale(1, 1))
    case.generate()
    found = Place(system, case)
    found.write(20, 4)
    return found


def test_updates_that_are_counted_wrongly_are_found(place: Place, system: FakeSystem):
    """A retry that was carried out twice, say."""
    place.check()

    system.counted_too_much = 1
    with pytest.raises(Unverified, match="20 updates were acknowledged, and 21 are counted"):
        place.check()


def test_an_update_that_a_node_has_not_is_found(place: Place, system: FakeSystem):
    """By the value that was written last."""
    system.lost[1] = f"{PREFIX}{7:08}"

    with pytest.raises(Unverified, match="node 1"):
        place.check()


def test_a_read_of_another_value_is_found(place: Place, system: FakeSystem):
    """While it is timed."""
    place.read(10)
    system.put_many(dict.fromkeys(system.server.values, "other"))

    with pytest.raises(Unverified, match="was read as"):
        place.read(10)


def test_a_write_that_is_refused_has_no_figure(place: Place, system: FakeSystem):
    """It ends the case."""
    system.server.refuses = True

    with pytest.raises(Unavailable, match="a write was answered 503"):
        place.write(1, 1)


@pytest.mark.parametrize("name", ["watches", "takeover", "catchup", "growth", "footprint"])
def test_what_cannot_be_asked_is_left_out(name: str, server: Dictionary):
    """A system whose nodes cannot be stopped one by one, or that is spoken to in another way."""
    other = FakeSystem(server)
    other.dialect = "other"  # type: ignore[misc]

    assert not CASES[name].fits(other)
