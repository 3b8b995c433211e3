"""The kept connection to a peer, against servers that answer as they should, and in every other way."""

from __future__ import annotations

import queue
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import Leader
from kvlog.core.machine import Position
from kvlog.core.values import Member, PushBody
from kvlog.errors import Unavailable
from kvlog.line import BODY_BYTES_MAX, HEAD_BYTES_MAX, Line
from kvlog.peers import HttpPeers
from kvlog.processes import free_ports

WAIT_S = 20.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Serve = Callable[[socket.socket], None]
"""What is done with one connection; it is closed afterwards."""


class Peer:
    """A server that treats its connections in order as told, one ``Serve`` for each, and takes no others."""

    def __init__(self, *serves: Serve, address: str = "127.0.0.1") -> None:
        self.requests: list[bytes] = []
        self.accepted = 0
        self._serves = serves
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listening = socket.socket(family)
        self._listening.bind((address, 0))
        self._listening.listen()
        self._listening.settimeout(WAIT_S)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def port(self) -> int:
        port: int = self._listening.getsockname()[1]
        return port

    def _run(self) -> None:
        with suppress(OSError):  # nobody has come, and the test is over
            for serve in self._serves:
                connection, _ = self._listening.accept()
                self.accepted += 1
                with connection, suppress(ConnectionError):  # the line has given this one up
                    connection.settimeout(WAIT_S)
                    serve(connection)

    def close(self) -> None:
        """No other connection is waited for."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    # --- what it does ---

    def take(self, connection: socket.socket) -> bool:
        """Read one request; False if there is none, and never will be."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + length_of(data):
            piece = connection.recv(65_536)
            if not piece:
                return False
            data += piece
        self.requests.append(data)
        return True


def length_of(request: bytes) -> int:
    found = re.search(rb"\r\nContent-Length: (\d+)\r\n", request)
    assert found is not None
    return int(found.group(1))


Start = Callable[..., tuple[Peer, Line]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a peer, and a line to it; ``says`` is what it answers on each connection, request by request."""
    with ExitStack() as stack:

        def started(*says: list[bytes], answer_s: float = WAIT_S, address: str = "127.0.0.1") -> tuple[Peer, Line]:
            def serve_with(answers: list[bytes]) -> Serve:
                def serve(connection: socket.socket) -> None:
                    for answer in answers:
                        if not peer.take(connection):
                            return
                        connection.sendall(answer)

                return serve

            peer = Peer(*(serve_with(answers) for answers in says), address=address)
            stack.callback(peer.close)
            host = f"[{address}]" if ":" in address else address
            line = Line(f"{host}:{peer.port}", connect_s=WAIT_S, answer_s=answer_s)
            stack.enter_context(closing(line))
            return peer, line

        yield started


@contextmanager
def closing_peers(peers: HttpPeers) -> Iterator[None]:
    try:
        yield
    finally:
        peers.stop()


def post(line: Line, body: bytes = b"body") -> tuple[int, bytes]:
    answer = line.post("/propagate", body, "application/msgpack")
    return answer.status, answer.body


# --- what goes well -------------------------------------------------------------------------------------------


def test_a_request_is_sent_whole_and_its_answer_read(start: Start):
    """Status, headers with names in lower case, and body."""
    peer, line = start([b"HTTP/1.1 409 Conflict\r\nKvlog-Instance:  i1 \r\nCONTENT-LENGTH: 5\r\n\r\nhello"])

    answer = line.post("/propagate", b"\x00body", "application/msgpack")

    assert answer == (409, {"kvlog-instance": "i1", "content-length": "5"}, b"hello")
    assert peer.requests == [
        b"POST /propagate HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/msgpack\r\n"
        b"Content-Length: 5\r\n\r\n\x00body" % peer.port
    ]


def test_one_connection_serves_all_requests(start: Start):
    """In their order."""
    peer, line = start([OK, b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", OK])

    assert [post(line) for _ in range(3)] == [(200, b"ok"), (204, b""), (200, b"ok")]
    assert (peer.accepted, len(peer.requests)) == (1, 3)


def test_an_answer_may_come_in_pieces():
    """Cut anywhere, also within the end of its head."""

    def serve(connection: socket.socket) -> None:
        assert slow.take(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(OK)):
            connection.sendall(OK[at : at + 1])

    slow = Peer(serve)
    with closing(slow), closing(Line(f"127.0.0.1:{slow.port}", connect_s=WAIT_S, answer_s=WAIT_S)) as line:
        assert post(line) == (200, b"ok")


def test_a_large_body_goes_both_ways(start: Start):
    """Up to the most that an answer may have."""
    large = b"x" * BODY_BYTES_MAX
    peer, line = start([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(large) + large])

    assert post(line, b"y" * 1_000_000) == (200, large)
    assert peer.requests[0].endswith(b"y" * 1_000_000)


def test_an_address_of_ipv6_is_one(start: Start):
    """It stands in brackets."""
    try:
        peer, line = start([OK], address="::1")
    except OSError as error:
        pytest.skip(f"there is no IPv6 here: {error}")

    assert post(line) == (200, b"ok")
    assert b"\r\nHost: [::1]:%d\r\n" % peer.port in peer.requests[0]


# --- connections that end -------------------------------------------------------------------------------------


def test_what_goes_over_a_connection_that_the_peer_has_closed_is_sent_again(start: Start):
    """Once, over a new one."""
    peer, line = start([OK], [OK])
    post(line)

    assert post(line, b"second") == (200, b"ok")
    assert [request[-6:] for request in peer.requests][1:] == [b"second"]
    assert peer.accepted == 2


def test_a_request_is_not_sent_a_third_time(start: Start):
    """If the new connection is closed as well, nobody answers."""
    peer, line = start([OK], [b""], [OK])
    post(line)

    with pytest.raises(Unavailable, match="the connection was closed"):
        post(line)
    assert peer.accepted == 2
    assert post(line) == (200, b"ok"), "the next request begins anew"


def test_a_request_over_a_new_connection_is_sent_once(start: Start):
    """The peer may have taken it before it closed."""
    peer, line = start([b""], [OK])

    with pytest.raises(Unavailable, match=r"no answer from 127.0.0.1:\d+: the connection was closed"):
        post(line)
    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    "part", [b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nha"]
)
def test_an_answer_that_breaks_off_is_none(start: Start, part: bytes):
    """Nor is what has come of it the beginning of the next one."""
    _, line = start([part], [OK])

    with pytest.raises(Unavailable, match="the connection was closed"):
        post(line)
    assert post(line) == (200, b"ok")


def test_a_peer_that_answers_nothing_is_waited_for_for_a_time():
    """Then the connection is closed: an answer that comes later is nobody's."""
    closed = threading.Event()

    def serve(connection: socket.socket) -> None:
        assert silent.take(connection)
        assert connection.recv(1) == b"", "the connection was not closed"
        closed.set()

    silent = Peer(serve)
    with closing(silent), closing(Line(f"127.0.0.1:{silent.port}", connect_s=WAIT_S, answer_s=0.1)) as line:
        with pytest.raises(Unavailable, match="timed out"):
            post(line)
        assert closed.wait(WAIT_S)
        assert (silent.accepted, len(silent.requests)) == (1, 1), "what became of the request is not known"


def test_a_peer_that_does_not_listen_is_not_there():
    """And may be there later."""
    (port,) = free_ports(1)
    with closing(Line(f"127.0.0.1:{port}", connect_s=WAIT_S, answer_s=WAIT_S)) as line:
        for _ in range(2):
            with pytest.raises(Unavailable, match=f"no answer from 127.0.0.1:{port}: .*refused"):
                post(line)


@pytest.mark.parametrize(
    "address", ["garbage", "", ":", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "ключ:80", "a b:80"]
)
def test_what_is_no_address_has_nobody(address: str):
    """A znode among the members may say anything."""
    with closing(Line(address, connect_s=WAIT_S, answer_s=WAIT_S)) as line, pytest.raises(Unavailable):
        post(line)


def test_a_push_to_what_is_no_address_has_failed(tmp_path: Path):
    """It ends nobody, and is tried again like any other."""
    events: queue.SimpleQueue[ev.Event] = queue.SimpleQueue()
    member = Member("n2", "i2", "garbage", "catchup")
    body = PushBody("c1", Leader("n1", "n1:80"), 5, 0, 0, ())
    peers = HttpPeers(events.put, incoming=tmp_path / "incoming", verify=lambda _: Position())
    with closing_peers(peers):
        for _ in range(2):
            peers.push(do.Push(member, body))
            assert events.get(timeout=WAIT_S) == ev.PushFailed("n2")


def test_a_connection_that_the_peer_wants_to_close_is_not_used_again(start: Start):
    """It says so in its answer."""
    peer, line = start([OK.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n"), OK], [OK])

    assert [post(line), post(line)] == [(200, b"ok")] * 2
    assert peer.accepted == 2


def test_a_line_that_was_closed_is_opened_by_the_next_request(start: Start):
    """To close it twice does no harm."""
    peer, line = start([OK, OK], [OK])
    post(line)

    line.close()
    line.close()

    assert post(line) == (200, b"ok")
    assert peer.accepted == 2


# --- what is no answer ----------------------------------------------------------------------------------------

LONG = b"HTTP/1.1 200 OK\r\nX: "


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (LONG + b"x" * (HEAD_BYTES_MAX + 65_536), "the head of the answer does not end"),
        (b"HTTP/1.1 200 OK\r\n\r\nok", "an answer of -1 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n", "an answer of -2 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n", "invalid literal"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1),
            f"an answer of {BODY_BYTES_MAX + 1} bytes",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "an answer of -1 bytes"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "'SSH-2.0-OpenSSH_9.6' is no status line of HTTP/1.1"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "is no status line of HTTP/1.1"),
        (b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n", "invalid literal"),
        (b"\r\n\r\n", "'' is no status line of HTTP/1.1"),
    ],
)
def test_what_is_no_answer_of_a_node_is_none(start: Start, said: bytes, reason: str):
    """The connection is given up with whatever else it brings, and the request is not sent again."""
    peer, line = start([said, OK], [OK])

    with pytest.raises(Unavailable, match=re.escape(reason)):
        post(line)
    assert len(peer.requests) == 1
    assert post(line) == (200, b"ok")
    assert peer.accepted == 2


def test_what_comes_behind_an_answer_is_not_taken_for_the_next_one(start: Start):
    """The answer counts; the connection is used no more."""
    peer, line = start([OK + OK.replace(b"ok", b"no")], [OK])

    assert [post(line), post(line)] == [(200, b"ok")] * 2
    assert peer.accepted == 2
