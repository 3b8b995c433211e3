"""GET /v1/snapshot and the fetching of it, over real sockets: whole copies, clients that leave, peers that lie."""

from __future__ import annotations

import http.client
import json
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import msgspec
import pytest

from kvlog import peers as peers_module
from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.machine import Identity, Position
from kvlog.core.values import Member
from kvlog.errors import BadSnapshot
from kvlog.peers import HttpPeers
from kvlog.processes import Child, ProcessKeeper, free_ports, wait_until
from kvlog.snapshot import Decoder, Header, encode, header_of, read
from kvlog.store.lmdb_store import LmdbStore
from kvlog.store.quarantine import inspect
from tests.chain import Chain

ANSWER_S = 20.0
WINDOW_S = 3.0
PROGRAM = Path(__file__).parents[1] / "snapshot_server.py"
IDENTITY = Identity("c1", 7, 1_000)


@dataclass
class Server:
    """A node's HTTP side."""

    child: Child
    port: int
    member: Member
    position: Position

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)

    def get(self, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        with closing(self.connect()) as connection:
            connection.request(method, target)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def refused(self, target: str) -> tuple[int, dict]:
        status, _, body = self.get(target)
        return status, json.loads(body)

    def stall(self) -> socket.socket:
        """Ask for a snapshot, and read only the beginning of the answer."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        client.settimeout(ANSWER_S)
        client.connect(("127.0.0.1", self.port))
        client.sendall(b"GET /v1/snapshot HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        return client

    @property
    def pipes(self) -> int:
        """How many pipes the worker has open: each copy of the store goes through one."""
        tasks = Path(f"/proc/{self.child.pid}/task")
        workers = " ".join((task / "children").read_text() for task in tasks.iterdir()).split()
        count = 0
        for worker in workers:
            for descriptor in Path(f"/proc/{worker}/fd").iterdir():
                try:
                    count += str(descriptor.readlink()).startswith("pipe:")
                except FileNotFoundError:
                    continue  # it has just been closed
        return count


@pytest.fixture(scope="module")
def serve(keeper: ProcessKeeper) -> Iterator[Callable[..., Server]]:
    """Starts servers, each on a store that ``fill`` has filled."""
    with ExitStack() as ending:

        def start(fill: Callable[[LmdbStore], object]) -> Server:
            directory = keeper.directory / f"snapshots-{uuid.uuid4().hex[:8]}"
            with closing(LmdbStore(directory / "store")) as store:
                fill(store)
                position = store.position()
            (port,) = free_ports(1)
            instance = uuid.uuid4().hex[:16]
            argv = [sys.executable, str(PROGRAM), str(port), str(directory / "store"), instance, str(WINDOW_S)]
            child = keeper.start(argv, name="snapshot server", log=directory / "log")
            ending.callback(child.kill)
            server = Server(child, port, Member("n1", instance, f"127.0.0.1:{port}", "catchup"), position)

            def up() -> bool:
                with closing(server.connect()) as connection:
                    try:
                        connection.request("GET", "/healthz")
                        return connection.getresponse().status == 200
                    except OSError:
                        return False

            assert wait_until(up, ANSWER_S), child.log_tail()
            return server

        yield start


def fill_largely(store: LmdbStore) -> None:
    """About 40 MB: far more than the pipes and the sockets between server and client hold."""
    store.adopt(IDENTITY)
    chain = Chain()
    chain.barrier()
    noise = random.Random(7).randbytes(125_000).hex()
    for number in range(160):
        chain.put(f"key{number}", noise)
    store.apply(tuple(chain.entries), fill=False)


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server]) -> Server:
    """A server with a large store, at index 160."""
    return serve(fill_largely)


@dataclass
class Fetcher:
    """A node that fetches."""

    data_dir: Path
    events: list[ev.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ended = threading.Event()
        self.peers = HttpPeers(self.post, incoming=self.data_dir / "store.incoming", verify=self.verify)

    def verify(self, directory: Path) -> Position:
        return inspect(directory).position

    def post(self, event: ev.Event) -> None:
        self.events.append(event)
        if not isinstance(event, ev.SnapshotProgress):
            self.ended.set()

    def fetch(self, member: Member, min_index: int = 0) -> ev.Event:
        """What comes of it; the only event but for those of progress."""
        self.peers.fetch_snapshot(do.FetchSnapshot(member, min_index))
        assert self.ended.wait(ANSWER_S)
        assert all(isinstance(event, ev.SnapshotProgress) for event in self.events[:-1])
        return self.events[-1]


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[Fetcher]:
    made = Fetcher(tmp_path)
    yield made
    made.peers.stop()


# --- what a node sends ----------------------------------------------------------------------------------------


def test_a_snapshot_is_the_whole_store(server: Server, tmp_path: Path):
    """Its header says what it holds, and the copy holds just that."""
    status, headers, body = server.get("/v1/snapshot?min_index=160")
    (tmp_path / "copy").mkdir()
    with (tmp_path / "copy" / "data.mdb").open("wb") as file:
        header = read([body], file)

    data = (tmp_path / "copy" / "data.mdb").read_bytes()
    assert status == 200
    assert headers["content-type"] == "application/vnd.kvlog.snapshot"
    assert headers["kvlog-instance"] == server.member.instance
    assert header.describes(server.position)
    assert (header.bytes, header.node_id) == (len(data), f"127.0.0.1:{server.port}")
    assert abs(header.created_ms - time.time() * 1000) < 60_000
    assert inspect(tmp_path / "copy").position == server.position


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("min_index=-1", "whole number from 0"),
        ("min_index=", "whole number from 0"),
        ("min_index=1e3", "whole number from 0"),
        ("min_index=%D9%A3", "whole number from 0"),
        ("min_index=" + "9" * 5_000, "whole number from 0"),
        ("min_index=1&min_index=1", "given twice"),
        ("index=1", "unknown parameter 'index'"),
    ],
    ids=range(7),
)
def test_a_bad_query_is_refused(server: Server, query: str, reason: str):
    """400, and why."""
    status, body = server.refused(f"/v1/snapshot?{query}")

    assert status == 400
    assert reason in body["detail"]


def stand_stale(store: LmdbStore) -> None:
    store.adopt(IDENTITY)
    store.skip_to(9)


STANDS: dict[str, tuple[Callable[[LmdbStore], object], str, int]] = {
    "stale": (stand_stale, "stale: it has missed 10 entries", 9),
    "of no log": (lambda store: store, "belongs to no log yet", -1),
    "empty": (lambda store: store.adopt(IDENTITY), "stands at index -1, 0 was asked for", -1),
}


@pytest.mark.parametrize("stand", STANDS)
def test_a_store_that_is_not_fit_is_not_sent(serve: Callable[..., Server], fetcher: Fetcher, stand: str):
    """409, why, and where it stands; that is what the fetching node learns."""
    fill, reason, index = STANDS[stand]
    server = serve(fill)
    status, body = server.refused("/v1/snapshot")

    assert (status, body["applied_index"]) == (409, index)
    assert reason in body["detail"]
    failed = fetcher.fetch(server.member)
    assert isinstance(failed, ev.SnapshotFailed)
    assert (failed.node_id, failed.applied_index) == ("n1", index)
    assert reason in failed.reason
    assert list(fetcher.data_dir.iterdir()) == []


def test_a_store_behind_the_asked_index_is_not_sent(server: Server):
    """409, and where it stands."""
    status, body = server.refused("/v1/snapshot?min_index=161")

    assert (status, body["applied_index"]) == (409, 160)
    assert "stands at index 160, 161 was asked for" in body["detail"]


def test_no_more_than_two_copies_are_made_at_a_time(server: Server):
    """The third is told to come again; reads are served as ever; clients that leave make room at once."""
    before = server.pipes
    clients = [server.stall(), server.stall()]
    status, headers, body = server.get("/v1/snapshot")

    assert (status, headers["retry-after"]) == (503, "1")
    assert "2 copies of this node's store are being made already" in json.loads(body)["detail"]
    begun = time.monotonic()
    for number in range(50):
        assert server.get(f"/read?key=key{number}")[0] == 200
    assert time.monotonic() - begun < ANSWER_S / 2
    for client in clients:
        client.close()
    assert wait_until(lambda: server.pipes == before, WINDOW_S * 0.8), server.pipes
    assert server.get("/v1/snapshot")[0] == 200
    assert wait_until(lambda: server.pipes == before, ANSWER_S), server.pipes


def test_a_client_that_does_not_read_loses_its_copy(server: Server):
    """Though it stays connected: the store is let go, others are served, and what it has got is no snapshot."""
    before = server.pipes
    clients = [server.stall(), server.stall()]
    try:
        assert server.pipes > before
        assert wait_until(lambda: server.pipes == before, ANSWER_S), server.pipes
        assert server.get("/v1/snapshot")[0] == 200
        decoder = Decoder(lambda _: None)
        with clients[0].makefile("rb") as rest:
            answer = rest.read()
    finally:
        for client in clients:
            client.close()
    for piece in dechunked(answer):
        decoder.feed(piece)
    assert decoder.received_bytes < decoder.header.bytes
    with pytest.raises(BadSnapshot, match="cut off after"):
        decoder.finish()


def dechunked(answer: bytes) -> Iterator[bytes]:
    """The pieces of a chunked answer whose first 12 bytes are gone; all that are whole."""
    file = BytesIO(answer.partition(b"\r\n\r\n")[2])
    while (size := int(file.readline() or b"0", 16)) > 0:
        yield file.read(size)
        file.readline()


def test_asking_for_the_headers_alone_copies_nothing(server: Server):
    """HEAD, many times: nothing is left behind that would keep others away."""
    before = server.pipes
    for _ in range(20):
        status, headers, body = server.get("/v1/snapshot", "HEAD")
        assert (status, headers["content-type"], body) == (200, "application/vnd.kvlog.snapshot", b"")
        assert wait_until(lambda: server.pipes == before, WINDOW_S * 0.8)
    assert server.get("/v1/snapshot")[0] == 200


def test_clients_that_leave_in_the_middle_leave_nothing_behind(server: Server):
    """A hundred of them, one after the other, at any place."""
    before = server.pipes
    chance = random.Random(3)
    for _ in range(100):
        with closing(server.connect()) as connection:
            connection.request("GET", "/v1/snapshot")
            response = connection.getresponse()
            assert response.status in (200, 503)
            if response.status == 200:
                response.read(chance.randrange(1, 2_000_000))
    assert wait_until(lambda: server.pipes == before, ANSWER_S), server.pipes
    assert server.get("/v1/snapshot")[0] == 200


# --- what a node fetches --------------------------------------------------------------------------------------


def test_a_fetched_snapshot_can_be_installed(server: Server, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch):
    """Progress on the way, then the verified copy; the node stands where the other one does."""
    monkeypatch.setattr(peers_module, "PROGRESS_S", 0.0)
    (fetcher.data_dir / "store.incoming").mkdir()
    (fetcher.data_dir / "store.incoming" / "left").write_text("by an earlier one")
    fetched = fetcher.fetch(server.member, min_index=160)

    assert ev.SnapshotFetched(str(fetcher.data_dir / "store.incoming"), server.position) == fetched
    progress = [event for event in fetcher.events if isinstance(event, ev.SnapshotProgress)]
    assert [event.received for event in progress] == sorted(event.received for event in progress)
    assert len(progress) > 10
    assert progress[-1].received <= progress[-1].total
    assert len({event.total for event in progress}) == 1
    with closing(LmdbStore(fetcher.data_dir / "store")) as store:
        assert server.position == store.install(fetched.source)
        assert len(store.items()) == 160


def test_a_killed_peer_sends_no_snapshot(serve: Callable[..., Server], fetcher: Fetcher):
    """What has come of it is deleted."""
    server = serve(fill_largely)

    def kill(event: ev.Event) -> None:
        if isinstance(event, ev.SnapshotProgress):
            server.child.kill()
        fetcher.events.append(event)
        if not isinstance(event, ev.SnapshotProgress):
            fetcher.ended.set()

    fetcher.peers._post = kill
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers_module, "PROGRESS_S", 0.0)
        failed = fetcher.fetch(server.member)

    assert isinstance(failed, ev.SnapshotFailed)
    assert "is of no use" in failed.reason
    assert list(fetcher.data_dir.iterdir()) == []
    fetcher.ended.clear()
    fetcher.events.clear()
    assert isinstance(fetcher.fetch(server.member), ev.SnapshotFailed)


class Liar(BaseHTTPRequestHandler):
    """A peer that answers what it has been told to."""

    protocol_version = "HTTP/1.1"
    status = 200
    headers_said: dict[str, str] = {}  # noqa: RUF012 - set for each test
    pieces: list[bytes | float] = []  # noqa: RUF012 - a number: wait for so long
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        for name, value in ({"Content-Type": "application/vnd.kvlog.snapshot"} | self.headers_said).items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for piece in self.pieces:
                if isinstance(piece, float):
                    time.sleep(piece)
                else:
                    self.wfile.write(piece)
        except OSError:
            pass  # the other end has had enough
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def liar() -> Iterator[type[Liar]]:
    """A peer, at ``liar.member``."""

    class Mine(Liar):
        asked: list[str] = []  # noqa: RUF012

    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        Mine.member = Member("n2", "0123456789abcdef", f"127.0.0.1:{server.server_address[1]}", "catchup")
        Mine.headers_said = {"Kvlog-Instance": "0123456789abcdef"}
        yield Mine
        server.shutdown()
        thread.join(ANSWER_S)


@pytest.fixture(scope="module")
def sound(keeper: ProcessKeeper) -> tuple[Header, bytes]:
    """A small store's snapshot: its header, and its payload."""
    directory = keeper.directory / f"sound-{uuid.uuid4().hex[:8]}"
    chain = Chain()
    for number in range(50):
        chain.put(f"key{number}", "v" * 500)
    with closing(LmdbStore(directory)) as store:
        store.adopt(IDENTITY)
        store.apply(tuple(chain.entries), fill=False)
        copy = store.snapshot()
        payload = b"".join(copy)
    return header_of(copy.position, size=len(payload), created_ms=1, node_id="n2"), payload


def changed(header: Header, payload: bytes, **changes: object) -> list[bytes | float]:
    return list(encode(msgspec.structs.replace(header, **changes), [payload]))


def test_a_sound_snapshot_of_a_peer_is_taken(liar: type[Liar], fetcher: Fetcher, sound: tuple[Header, bytes]):
    """The liar can tell the truth: what the others are refused for is what they differ in."""
    liar.pieces = changed(*sound)

    assert isinstance(fetcher.fetch(liar.member, min_index=49), ev.SnapshotFetched)
    assert liar.asked == ["/v1/snapshot?min_index=49"]


def lies(header: Header, payload: bytes) -> dict[str, list[bytes | float]]:
    """What a peer may send instead of a sound snapshot."""
    whole = changed(header, payload)
    zeros = payload[:9_000] + bytes(len(payload) - 9_000)
    return {
        "nothing": [],
        "cut off": whole[:-1],
        "cut off in a frame": [whole[0], b"\0\0\1\0abc"],
        "a wrong checksum": [*whole[:-1], b"0" * 64 + b"\n"],
        "more behind it": [*whole, b"x"],
        "no snapshot": [b"<html>\n"],
        "a later format": [b"kvlog snapshot 2\n"],
        "more than announced": changed(header, payload, bytes=10_000),
        "no room for it": changed(header, payload, bytes=1 << 60),
        "an earlier index": changed(header, payload, index=48),
        "another index": changed(header, payload, index=50),
        "another digest": changed(header, payload, digest="0" * 32),
        "another log": changed(header, payload, cluster_id="c2"),
        "a damaged store": changed(header, zeros),
        "half a store": changed(header, payload[: len(payload) // 2]),
        "silence": [whole[0], 3.0],
        "a trickle": [whole[0], b"\0\0\1\0", *([b"k", 0.05] * 40)],
    }


LIES = {
    "nothing": "cut off after 0 bytes",
    "cut off": "cut off after",
    "cut off in a frame": "cut off after",
    "a wrong checksum": "its checksum is that of something else",
    "more behind it": "behind the end",
    "no snapshot": "no snapshot of kvlog",
    "a later format": "format '2'",
    "more than announced": "more than the 10000 bytes",
    "no room for it": "has room for",
    "an earlier index": "index 48, 49 was asked for",
    "another index": "announces index 50 and holds",
    "another digest": "announces index 49 and holds",
    "another log": "announces index 49 and holds",
    "a damaged store": "is damaged",
    "half a store": "is damaged",
    "silence": "timed out",
    "a trickle": "bytes of it came in",
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_sound_snapshot_is_refused(
    liar: type[Liar], fetcher: Fetcher, sound: tuple[Header, bytes], lie: str, monkeypatch: pytest.MonkeyPatch
):
    """Within a bounded time; nothing of it stays on the disk."""
    monkeypatch.setattr(peers_module, "SNAPSHOT_READ_S", 0.5)
    monkeypatch.setattr(peers_module, "SNAPSHOT_WINDOW_S", 0.7)
    liar.pieces = lies(*sound)[lie]
    failed = fetcher.fetch(liar.member, min_index=49)

    assert isinstance(failed, ev.SnapshotFailed), failed
    assert LIES[lie] in failed.reason
    assert list(fetcher.data_dir.iterdir()) == []


def test_another_process_at_the_address_is_refused(
    liar: type[Liar], fetcher: Fetcher, sound: tuple[Header, bytes]
):
    """Whatever it sends: the one that was asked for is gone."""
    liar.pieces = changed(*sound)
    liar.headers_said = {"Kvlog-Instance": "another"}
    failed = fetcher.fetch(liar.member)

    assert isinstance(failed, ev.SnapshotFailed)
    assert "is another process now" in failed.reason


@pytest.mark.parametrize(
    ("status", "body", "reason", "index"),
    [
        (409, b'{"detail":"I am stale","applied_index":12}', "I am stale", 12),
        (409, b'{"applied_index":"many"}', "status 409", None),
        (503, b'{"detail":"come again","applied_index":12}', "come again", None),
        (404, b"not found", "status 404", None),
        (302, b"[1]", "status 302", None),
        (500, b"\xff" * 200_000, "status 500", None),
    ],
    ids=range(6),
)
def test_a_refusal_is_passed_on(
    liar: type[Liar], fetcher: Fetcher, status: int, body: bytes, reason: str, index: int | None
):
    """With the reason, and where the other one stands if it says so."""
    liar.status, liar.pieces = status, [body]
    liar.headers_said |= {"Location": "http://127.0.0.1:1/"}
    failed = fetcher.fetch(liar.member)

    assert isinstance(failed, ev.SnapshotFailed)
    assert (failed.node_id, failed.applied_index) == ("n2", index)
    assert reason in failed.reason


def test_a_node_that_stops_ends_what_it_fetches(liar: type[Liar], fetcher: Fetcher, sound: tuple[Header, bytes]):
    """At once, even while it waits for the next byte."""
    liar.pieces = [changed(*sound)[0], 8.0]
    fetcher.peers.fetch_snapshot(do.FetchSnapshot(liar.member, 0))
    assert wait_until((fetcher.data_dir / "store.incoming" / "data.mdb").exists, ANSWER_S)
    fetcher.peers.fetch_snapshot(do.FetchSnapshot(liar.member, 0))
    assert fetcher.ended.wait(ANSWER_S)
    assert fetcher.events == [ev.SnapshotFailed("n2", "another snapshot is being fetched")]
    fetcher.ended.clear()
    fetcher.peers.stop()

    assert fetcher.ended.wait(2.0)
    assert isinstance(fetcher.events[-1], ev.SnapshotFailed)
    assert list(fetcher.data_dir.iterdir()) == []
