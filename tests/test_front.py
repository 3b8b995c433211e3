"""The HTTP front over real sockets: Granian in a child process, a small application, and clients of all kinds."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kvlog.processes import Child, ProcessKeeper, free_ports, wait_until

ANSWER_S = 10.0
PROGRAM = Path(__file__).parent / "front_server.py"
THREADS = 4
WAITING = 3
MEBIBYTE = 1024 * 1024
HELD_MAX = 12 * MEBIBYTE
"""What may be under way to a client that does not read: a few pieces, and what the sockets' buffers take."""


@dataclass(frozen=True)
class Said:
    """An answer. ``whole`` is false if the connection was closed before its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True


class Client:
    """A connection; each answer is read from where the one before has ended."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(ANSWER_S)
        self.socket.connect(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, head: str, *headers: str, body: bytes = b"") -> None:
        """A request; ``head`` is its method and target."""
        lines = [f"{head} HTTP/1.1", "Host: x", *headers]
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def head(self) -> tuple[int, dict[str, str]]:
        """The next answer's status and headers; repeated ones are joined."""
        line = self.file.readline()
        assert line, "closed without an answer"
        headers: dict[str, str] = {}
        while field := self.file.readline().strip():
            name, _, value = field.decode("latin-1").partition(":")
            key = name.lower()
            headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
        return int(line.split()[1]), headers

    def chunk(self) -> bytes | None:
        """The next piece of an answer without a length; empty at its end, None if it breaks off."""
        size = self.file.readline()
        if not size.endswith(b"\r\n"):
            return None
        data = self.file.read(int(size, 16) + 2)
        return data[:-2] if data.endswith(b"\r\n") else None

    def answer(self, *, bodiless: bool = False) -> Said:
        """The next answer, whole."""
        status, headers = self.head()
        if bodiless:
            return Said(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            pieces = []
            while data := self.chunk():
                pieces.append(data)
            return Said(status, headers, b"".join(pieces), data is not None)
        size = int(headers["content-length"])
        body = self.file.read(size)
        return Said(status, headers, body, len(body) == size)

    def wait_until_closed(self) -> None:
        """Whatever is said before."""
        with suppress(ConnectionResetError):
            while self.file.read(65_536):
                pass

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection, and said nothing more."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True


@dataclass
class Server:
    """The program, and what it tells of itself."""

    child: Child
    port: int
    log: Path

    def connect(self, **options: int) -> Client:
        return Client(self.port, **options)

    def get(self, head: str, *headers: str, body: bytes = b"") -> Said:
        with self.connect() as client:
            client.ask(head, *headers, body=body)
            return client.answer()

    def post(self, path: str, body: bytes) -> Said:
        return self.get(f"POST {path}", f"Content-Length: {len(body)}", body=body)

    def environ(self, head: str, *headers: str) -> dict[str, Any]:
        return json.loads(self.get(head, *headers).body)

    @property
    def state(self) -> dict[str, int]:
        return json.loads(self.get("GET /state").body)

    def saw(self, name: str, count: int = 1) -> bool:
        """Wait until this has happened so often."""
        return wait_until(lambda: self.state.get(name, 0) >= count, ANSWER_S)

    def settled(self, name: str) -> int:
        """What the count has come to once it does not grow any more."""
        counts = [-1]

        def still() -> bool:
            counts.append(self.state.get(name, 0))
            return len(counts) > 4 and counts[-1] == counts[-4] > 0

        assert wait_until(still, ANSWER_S, every_s=0.1)
        return counts[-1]


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start_server(keeper: ProcessKeeper) -> Iterator[Start]:
    """Starts servers."""
    with ExitStack() as ending:

        def start(*broken: str, patience_s: float = 20.0) -> Server:
            (port,) = free_ports(1)
            log = keeper.directory / f"front-{uuid.uuid4().hex[:8]}.log"
            argv = [sys.executable, str(PROGRAM), str(port), str(THREADS), str(WAITING), str(patience_s), *broken]
            child = keeper.start(argv, name="front", log=log)
            ending.callback(child.kill)

            def up() -> bool:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                except OSError:
                    return False
                return True

            assert wait_until(up, ANSWER_S, every_s=0.02), child.log_tail()
            return Server(child, port, log)

        yield start


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Server]:
    """One server for all that does not end it; nothing that happens to it is an error in its log."""
    server = start_server()
    yield server
    log = server.log.read_text()
    expected = ("the application breaks", "the answer breaks off", "not bytes", "the handler breaks", "ASGI")
    unexpected = [line for line in log.splitlines() if "Error" in line and not any(x in line for x in expected)]
    assert unexpected == []


# --- the environment ------------------------------------------------------------------------------------------


def test_a_path_is_decoded_and_known_as_it_was_sent(server: Server):
    """PEP 3333 has it in latin-1; ``%2F`` can be told from ``/``."""
    environ = server.environ("GET /a%2Fb/%C3%A9%FF?x=%2F&y=%C3%A9")

    assert environ["PATH_INFO"] == "/a/b/Ã©ÿ"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == "/a%2Fb/%C3%A9%FF?x=%2F&y=%C3%A9"
    assert environ["QUERY_STRING"] == "x=%2F&y=%C3%A9"


def test_a_query_in_raw_utf8_reaches_the_application_byte_for_byte(server: Server):
    """As ``curl http://.../?key=ключ`` sends it."""
    with server.connect() as client:
        client.send("GET /?key=ключ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        environ = json.loads(client.answer().body)

    assert environ["QUERY_STRING"].encode("latin-1").decode() == "key=ключ"


def test_headers_are_named_and_joined_as_in_cgi(server: Server):
    """Repeated ones by commas, cookies by semicolons; values in latin-1, none is dropped."""
    environ = server.environ(
        "POST /", "X-Many: 1", "X-Many: 2", "Cookie: a=1", "Cookie: b=2", "X-Word: \xe9\xff", "Content-Type: a/b",
        "Content-Length: 0",
    )  # fmt: skip

    assert environ["HTTP_X_MANY"] == "1,2"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_X_WORD"] == "\xe9\xff"
    assert environ["CONTENT_TYPE"] == "a/b"
    assert environ["CONTENT_LENGTH"] == "0"
    assert "HTTP_CONTENT_TYPE" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ


def test_a_header_cannot_pass_for_another_one(server: Server):
    """``X_Key`` would have the name of ``X-Key``."""
    environ = server.environ("GET /", "X_Key: false", "X-Key: true")

    assert environ["HTTP_X_KEY"] == "true"


def test_who_speaks_to_whom_is_told(server: Server):
    """Addresses, protocol, scheme."""
    environ = server.environ("OPTIONS /")

    assert environ["REQUEST_METHOD"] == "OPTIONS"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", str(server.port))
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.input_terminated"] is True


def test_http_1_0_is_served_and_its_connection_closed(server: Server):
    """Unless it asks to keep it."""
    with server.connect() as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")

        assert json.loads(client.answer().body)["SERVER_PROTOCOL"] == "HTTP/1.0"
        assert client.closed


# --- bodies ---------------------------------------------------------------------------------------------------


def chunked(*pieces: bytes) -> bytes:
    """A body in chunks, with its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
def test_a_body_with_a_length_arrives(server: Server, size: int):
    """Those that are read before there is a thread, and those that are read on it."""
    body = os.urandom(size)

    assert server.post("/echo", body).body == body


def test_a_body_in_chunks_arrives(server: Server):
    """Its end is where the last chunk is."""
    pieces = [os.urandom(size) for size in (1, 70_000, 5, 300_000)]

    said = server.get("POST /echo", "Transfer-Encoding: chunked", body=chunked(*pieces))

    assert said.body == b"".join(pieces)


def test_a_get_may_have_a_body(server: Server):
    """It is there for who reads it; without one there is nothing to read."""
    assert server.get("GET /echo", "Content-Length: 3", body=b"abc").body == b"abc"
    assert server.get("GET /echo").body == b""


def test_a_body_that_is_not_read_does_not_become_the_next_request(server: Server):
    """Whatever is in it."""
    smuggled = b"GET /breaks HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect() as client:
        client.ask("POST /unread", f"Content-Length: {len(smuggled)}", body=smuggled)
        assert client.answer().body == b"unread"
        client.ask("GET /echo")

        assert client.answer().status == 200


def test_slow_clients_with_small_bodies_hold_no_threads(server: Server):
    """More than there are threads send half of their bodies; others are served; then they are, too."""
    with ExitStack() as slow:
        clients = [slow.enter_context(server.connect()) for _ in range(THREADS + 1)]
        begun = server.state.get("echo begun", 0)
        for client in clients:
            client.ask("POST /echo", "Content-Length: 10", body=b"12345")
        assert server.get("GET /unread").body == b"unread"
        assert server.state.get("echo begun", 0) == begun

        for client in clients:
            client.send(b"67890")

        assert [client.answer().body for client in clients] == [b"1234567890"] * len(clients)


def test_a_body_is_read_as_it_comes(server: Server):
    """Each line is answered before the next one is sent."""
    with server.connect() as client:
        client.ask("POST /lines", "Transfer-Encoding: chunked")
        heads = []
        for line in (b"one\n", b"three\n", b"fourteen\n"):
            client.send(b"%x\r\n%b\r\n" % (len(line), line))
            if not heads:
                heads.append(client.head())
            assert client.chunk() == b"%d\n" % len(line)
        client.send(b"0\r\n\r\n")

        assert client.chunk() == b""


@pytest.mark.parametrize("header", ["Transfer-Encoding: chunked", "Content-Length: 1073741824"])
def test_a_body_beyond_the_limit_is_refused_while_it_comes(server: Server, header: str):
    """With the connection closed; no more of it is held than was read."""
    before = server.state["resident"]
    piece = b"x" * (MEBIBYTE + 1)
    with server.connect() as client:
        client.ask("POST /limited", header)
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if "chunked" in header else piece)

        said = client.answer()

        assert (said.status, said.body) == (413, b"too large")
        assert said.headers["connection"] == "close"
        assert client.closed
    assert server.state["resident"] - before < 16 * MEBIBYTE


def test_a_body_that_nobody_reads_is_not_taken_from_the_network(server: Server, tmp_path: Path):
    """The application is busy: what the client can send meanwhile is what the buffers on the way take."""
    with server.connect() as client:
        client.ask(f"POST /hold?{tmp_path / 'go'}", "Content-Length: 1073741824")
        client.socket.settimeout(0.5)
        sent = 0
        with suppress(TimeoutError):
            while sent < 64 * MEBIBYTE:
                sent += client.socket.send(b"x" * MEBIBYTE)
        client.socket.settimeout(ANSWER_S)
        (tmp_path / "go").touch()

        assert sent < HELD_MAX
        assert client.answer().body == b"held"


def test_a_client_that_leaves_within_its_body_ends_the_call_quietly(server: Server):
    """Small or large: its thread is free again, and it is no error (see the fixture)."""
    for _ in range(THREADS + 1):
        for length in (100, 1_000_000):
            with server.connect() as client:
                client.ask("POST /echo", f"Content-Length: {length}", body=b"x" * 50)

    assert server.post("/echo", b"abc").body == b"abc"
    assert wait_until(lambda: server.post("/echo", b"x" * 70_000).status == 200, ANSWER_S)


@pytest.fixture(scope="module")
def impatient(start_server: Start) -> Server:
    """A server that gives clients little time."""
    return start_server(patience_s=0.3)


@pytest.mark.parametrize("header", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_a_body_that_does_not_go_on_is_given_up(impatient: Server, header: str):
    """A client that sends nothing more holds neither its thread nor its connection for ever."""
    with ExitStack() as stalled:
        clients = [stalled.enter_context(impatient.connect()) for _ in range(THREADS)]
        for client in clients:
            client.ask("POST /echo", header, body=b"1\r\nx\r\n" if "chunked" in header else b"x")

        assert impatient.post("/echo", b"abc").body == b"abc"
        for client in clients:
            assert client.answer().status == 500  # the application has no other one for it
            assert client.closed


@pytest.mark.parametrize("drip", [False, True], ids=["stalled", "dripping"])
def test_a_small_body_that_does_not_come_in_its_time_is_given_up(impatient: Server, drip: bool):
    """408, and the connection is closed: what comes later is no request, and the application hears of nothing."""
    begun = impatient.state.get("echo begun", 0)
    with ExitStack() as slow:
        clients = [slow.enter_context(impatient.connect()) for _ in range(10)]
        for client in clients:
            client.ask("POST /echo", "Content-Length: 1000", body=b"x")
        while drip and not select.select([client.socket for client in clients], [], [], 0.02)[0]:
            for client in clients:
                client.send(b"x")

        for client in clients:
            said = client.answer()
            assert (said.status, said.headers["connection"], said.headers["x-node"]) == (408, "close", "n1")
            assert json.loads(said.body)["detail"] == "the body has 1000 bytes, and they did not come within 0.3 s"
            assert drip or client.closed  # what is sent into a connection that is closed resets it
    assert impatient.state.get("echo begun", 0) == begun


@pytest.mark.parametrize("head", [b"", b"GET /echo HTTP/1.1\r\nHo"], ids=["nothing", "half"])
def test_a_head_that_does_not_come_in_its_time_is_given_up(impatient: Server, head: bytes):
    """The connection is closed, however steadily bytes come; so is one on which nothing is asked any more."""
    with impatient.connect() as stalled, impatient.connect() as dripping, impatient.connect() as idle:
        idle.ask("GET /unread")
        assert idle.answer().body == b"unread"
        stalled.send(head)
        dripping.send(b"GET /echo HTTP/1.1\r\nX-Long: ")
        while not select.select([dripping.socket], [], [], 0.02)[0]:
            dripping.send(b"x")

        assert stalled.closed
        assert idle.closed


def test_slow_clients_with_large_bodies_hold_some_of_the_threads_only(server: Server):
    """As many stall as there may be requests: half of the threads soon have the others to serve."""
    with ExitStack() as slow:
        for number in range(THREADS + WAITING):
            client = slow.enter_context(server.connect())
            chunked = number % 2
            client.ask("POST /lines", "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000")
        assert server.saw("lines busy", THREADS + WAITING - THREADS // 2)

        for _ in range(2 * THREADS):
            assert server.get("GET /unread").body == b"unread"
            assert server.post("/echo", b"abc").body == b"abc"


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Content-Length: 10", b"12345"),
        ("Content-Length: 100000", b"12345"),
        ("Transfer-Encoding: chunked", b"5\r\n12345\r\n"),
        ("Transfer-Encoding: chunked", b"-5\r\n12345\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\n123456\r\n0\r\n\r\n"),
    ],
)
def test_a_body_that_breaks_off_is_told_to_who_still_listens(server: Server, header: str, body: bytes):
    """400, not 500: nothing is wrong with the server. Then the connection is closed."""
    with server.connect() as client:
        client.ask("POST /echo", header, body=body)
        client.socket.shutdown(socket.SHUT_WR)

        said = client.answer()

        assert (said.status, said.headers["x-node"]) == (400, "n1")
        assert "breaks off before its end" in json.loads(said.body)["detail"]
        assert client.closed


def test_an_answer_to_a_body_that_breaks_off_later_is_not_taken_for_whole(server: Server):
    """A client that reads the answer while it sends the body finds the connection closed within it."""
    with server.connect() as client:
        client.ask("POST /lines", "Transfer-Encoding: chunked", body=b"4\r\none\n\r\nno chunk\r\n")

        assert not client.answer().whole


def test_a_head_may_have_so_many_bytes(server: Server):
    """431 or 414 beyond, and the connection is closed: nobody gathers headers without end."""
    assert server.get("GET /environ?" + "x" * 50_000).status == 200
    assert server.get("GET /environ", "X-Long: " + "x" * 50_000).status == 200
    for head, *headers in (
        ("GET /environ?" + "x" * 70_000,),
        ("GET /environ", "X-Long: " + "x" * 140_000),
        ("GET /environ", *(f"X-{number}: x" for number in range(1_000))),
    ):
        with server.connect() as client:
            client.ask(head, *headers)
            assert client.answer().status in {431, 414}
            assert client.closed


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(server: Server):
    """Expect: 100-continue (RFC 9110, 10.1.1), for small and large bodies."""
    for body in (b"x" * 10, b"x" * 100_000):
        with server.connect() as client:
            client.ask("POST /echo", f"Content-Length: {len(body)}", "Expect: 100-continue")
            assert client.head()[0] == 100
            client.send(body)

            assert client.answer().body == body


def test_a_client_is_not_asked_for_a_body_that_nobody_wants(server: Server):
    """The final answer comes at once, instead of 100."""
    with server.connect() as client:
        client.ask("POST /unread", "Content-Length: 1000000", "Expect: 100-continue")

        assert client.answer().body == b"unread"


# --- answers --------------------------------------------------------------------------------------------------


def test_a_whole_answer_has_its_length(server: Server):
    """It is sent at once, not in chunks."""
    said = server.post("/echo", b"abc")

    assert said.headers["content-length"] == "3"
    assert "transfer-encoding" not in said.headers


def test_head_is_answered_as_get_without_the_body(server: Server):
    """The next answer on the connection is the next request's."""
    with server.connect() as client:
        client.ask("HEAD /unread")
        head = client.answer(bodiless=True)
        client.ask("HEAD /stream")
        assert "content-length" not in client.answer(bodiless=True).headers
        client.ask("GET /unread")
        get = client.answer()

    assert (head.status, head.headers["content-length"]) == (200, "6")
    assert get.body == b"unread"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_has_no_length_and_no_chunks(server: Server, status: int):
    """The connection goes on (RFC 9110, 8.6)."""
    with server.connect() as client:
        client.ask(f"GET /{status}")
        said = client.answer(bodiless=True)
        client.ask("GET /unread")

        assert (said.status, said.headers["etag"]) == (status, '"7"')
        assert not {"content-length", "transfer-encoding"} & set(said.headers)
        assert client.answer().body == b"unread"


def test_requests_may_be_sent_before_the_answers_are_read(server: Server):
    """They are answered in their order."""
    with server.connect() as client:
        for number in range(20):
            client.ask("POST /echo", "Content-Length: 2", body=b"%02d" % number)

        assert [client.answer().body for _ in range(20)] == [b"%02d" % number for number in range(20)]


def test_the_old_way_of_writing_works(server: Server):
    """PEP 3333 has start_response return a function."""
    said = server.get("GET /written")

    assert (said.body, said.whole) == (b"one two three", True)


def test_an_application_may_start_another_response_instead(server: Server):
    """As long as nothing has been sent."""
    said = server.get("GET /changes-its-mind")

    assert (said.status, said.body) == (418, b"short and stout")


def test_a_large_answer_is_taken_as_fast_as_it_is_read(server: Server):
    """A client that does not read holds up the application; when it reads on, everything comes."""
    before = server.state
    with server.connect(receive_buffer=16_384) as client:
        client.ask("GET /stream")
        assert client.head()[0] == 200

        assert (server.settled("stream taken") - before.get("stream taken", 0)) * MEBIBYTE <= HELD_MAX
        assert server.state["resident"] - before["resident"] < 2 * HELD_MAX
        total = 0
        while data := client.chunk():
            total += len(data)

        assert (data, total) == (b"", 64 * MEBIBYTE)
    assert server.saw("stream closed", before.get("stream closed", 0) + 1)


@pytest.mark.parametrize("path", ["endless", "ticks"])
def test_an_answer_is_closed_when_its_client_leaves(server: Server, path: str):
    """Whether the transport was full, or the next piece is still to come."""
    with server.connect(receive_buffer=16_384) as client:
        client.ask(f"GET /{path}")
        assert client.head()[0] == 200
        assert client.chunk()

    assert server.saw(f"{path} closed")


def test_a_client_that_leaves_before_its_answer_does_no_harm(server: Server, tmp_path: Path):
    """The call goes on to its end."""
    before = server.state
    with server.connect() as client:
        client.ask(f"GET /hold?{tmp_path / 'go'}")
        assert server.saw("held", before.get("held", 0) + 1)
    (tmp_path / "go").touch()

    assert server.saw("held to the end", before.get("held to the end", 0) + 1)
    assert server.get("GET /unread").body == b"unread"


# --- errors ---------------------------------------------------------------------------------------------------


def test_an_error_of_the_application_is_answered_and_told(server: Server):
    """500 for the client, the traceback for the log; the next one is served."""
    with server.connect() as client:
        client.ask("GET /breaks")
        said = client.answer()
        client.ask("GET /unread")

        assert (said.status, said.headers["content-type"]) == (500, "application/problem+json")
        assert json.loads(said.body)["type"] == "kvlog:internal-error"
        assert client.answer().status == 200
    assert "ZeroDivisionError: the application breaks" in server.log.read_text()


@pytest.mark.parametrize("path", ["breaks-later", "raises-later"])
def test_an_answer_that_breaks_off_is_not_taken_for_whole(server: Server, path: str):
    """The connection is closed within it, be it the application's or a handler's."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S)
    with closing(connection):
        connection.request("GET", f"/{path}")
        with pytest.raises((http.client.HTTPException, ConnectionResetError)):
            connection.getresponse().read()

    assert wait_until(lambda: "breaks off" in server.log.read_text(), ANSWER_S)
    assert path == "raises-later" or server.saw("breaks closed")


def test_answers_that_break_off_at_the_same_time_are_all_cut(server: Server):
    """And none of the others, though all connections are looked through in one go."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in range(100)]
        others = [stack.enter_context(Client(server.port)) for _ in range(100)]
        for client in clients:
            client.ask("GET /raises-later")
        for client in clients:
            client.wait_until_closed()
        for other in others:
            other.ask("GET /echo")
            assert other.answer().status == 200


def test_a_header_that_cannot_be_sent_is_an_error_of_the_application(server: Server):
    """Nobody gets a line of his own into the head of an answer."""
    said = server.get("GET /bad-header")

    assert said.status == 500
    assert "x-worse" not in said.headers


def test_an_error_after_the_answer_is_told_and_changes_nothing(server: Server):
    """The answer was whole, and so is the connection."""
    with server.connect() as client:
        client.ask("GET /breaks-closing")
        assert client.answer().body == b"whole"
        client.ask("GET /unread")

        assert client.answer().body == b"unread"
    assert "the application breaks after its answer" in server.log.read_text()


def test_only_bytes_are_an_answer(server: Server):
    """Text is an error of the application: Granian would send nothing in its place."""
    assert server.get("GET /no-bytes").status == 500


def test_an_application_that_leaves_its_thread_leaves_no_client_waiting(start_server: Start):
    """SystemExit ends one thread, as it always does; another one takes its place."""
    server = start_server()

    for _ in range(2 * THREADS):
        assert server.get("GET /leaves").status == 500
    assert server.get("GET /unread").status == 200


def test_a_bug_in_the_front_ends_the_process(start_server: Start):
    """On a thread, and on the event loop: no client waits for ever, and the exit code says what it is."""
    for broken, path in (("environ", "/unread"), ("", "/leaves-a-callback")):
        server = start_server(broken)
        with server.connect() as client:
            client.ask(f"GET {path}")
            client.wait_until_closed()

        server.child.wait(ANSWER_S)
        assert "exit 70: a bug in kvlog: ZeroDivisionError" in server.log.read_text()


# --- bounds ---------------------------------------------------------------------------------------------------


def test_more_requests_than_threads_wait_and_more_than_that_are_refused(start_server: Start):
    """Each that was let in is answered; who is refused is told to come again, and by whom."""
    server = start_server()
    beyond = 2
    with ExitStack() as kept:
        clients = [kept.enter_context(server.connect()) for _ in range(THREADS + WAITING + beyond)]
        for client in clients:
            client.ask("GET /hold")
        by_socket = {client.socket: client for client in clients}
        answered: set[socket.socket] = set()

        def refused() -> bool:
            answered.update(select.select(by_socket.keys() - answered, [], [], 0.05)[0])
            return len(answered) >= beyond

        assert wait_until(refused, ANSWER_S)
        assert server.saw("held", THREADS)
        for said in (by_socket[each].answer() for each in answered):
            assert (said.status, said.headers["retry-after"], said.headers["x-node"]) == (503, "1", "n1")
            assert "try again" in json.loads(said.body)["detail"]
        server.get("GET /release")

        rest = [by_socket[each].answer() for each in by_socket.keys() - answered]
        assert [said.body for said in rest] == [b"held"] * (THREADS + WAITING)
    assert server.state["threads"] == THREADS
    assert server.get("GET /unread").status == 200


# --- on the event loop ----------------------------------------------------------------------------------------


def test_a_handler_is_given_the_query_and_answers(server: Server):
    """Whatever the threads do."""
    assert server.get("GET /query?key=%20a&b").body == b"key=%20a&b"


def test_watchers_hold_no_threads(start_server: Start):
    """Many more than there are threads: all have their first event, requests are served, the next one comes."""
    server = start_server()
    with ExitStack() as watching:
        clients = [watching.enter_context(server.connect()) for _ in range(25 * THREADS)]
        for client in clients:
            client.ask("GET /watch")
        for client in clients:
            status, headers = client.head()
            assert (status, headers["content-type"]) == (200, "text/event-stream")
            assert client.chunk() == b"data: begun\n\n"
        assert server.state["watching"] == len(clients)
        assert server.post("/echo", b"abc").body == b"abc"
        assert server.state["threads"] <= THREADS
        server.get("GET /release")

        assert {client.chunk() for client in clients} == {b"data: released\n\n"}
    assert wait_until(lambda: server.state["watching"] == 0, ANSWER_S)
    assert server.state["cancelled"] == len(clients)


def test_a_stream_of_a_handler_is_sent_as_fast_as_it_is_read(server: Server):
    """A client that does not read holds up the handler."""
    before = server.state
    with server.connect(receive_buffer=16_384) as client:
        client.ask("GET /flood")
        assert client.head()[0] == 200

        assert server.settled("flood sent") * MEBIBYTE <= HELD_MAX
        assert server.state["resident"] - before["resident"] < 2 * HELD_MAX
        total = 0
        while data := client.chunk():
            total += len(data)

        assert (data, total) == (b"", 64 * MEBIBYTE)


@pytest.mark.parametrize("path", ["raises", "says-nothing"])
def test_a_handler_that_breaks_leaves_no_client_waiting(server: Server, path: str):
    """500, and the story is in the log."""
    assert server.get(f"GET /{path}").status == 500
    assert path != "raises" or "ZeroDivisionError: the handler breaks" in server.log.read_text()


def test_a_handler_whose_store_fails_ends_the_node(start_server: Start):
    """As a request on a thread does; with the exit code of that."""
    server = start_server()

    with server.connect() as client:
        client.ask("GET /loses-its-store")
        client.wait_until_closed()

    server.child.wait(ANSWER_S)
    assert server.log.read_text().splitlines()[-1] == "exit 5: no space"


def test_handlers_end_when_the_node_stops_and_the_application_goes_on(start_server: Start):
    """A watcher's answer ends with what the handler says last; who asks then is told to go elsewhere."""
    server = start_server()
    with server.connect() as client:
        client.ask("GET /watch")
        client.head()
        assert client.chunk() == b"data: begun\n\n"

        server.get("GET /stop")

        assert (client.chunk(), client.chunk()) == (b"data: bye\n\n", b"")
    said = server.get("GET /watch")
    assert (said.status, said.headers["retry-after"]) == (503, "1")
    assert server.get("GET /unread").status == 200


# --- the shortcut ---------------------------------------------------------------------------------------------

BODIES = [b"", b"abc", b"x" * 65_536]


@pytest.mark.parametrize("path", ["/short", "/short/later"])
def test_a_shortcut_answers_in_place_of_the_application(server: Server, path: str):
    """At once, or later from another thread: with its own headers, and it has the body whole, however it comes."""
    before = server.state.get("requests")
    assert server.get(f"GET {path}").headers["x-shortcut"] == "yes"
    for body in BODIES:
        said = server.post(path, body)
        assert (said.status, said.headers["x-shortcut"], said.body) == (200, "yes", body)
    with server.connect() as client:
        client.ask(f"POST {path}", "Content-Length: 6", body=b"abc")
        assert server.state.get("requests") == before  # it has come, and is not whole
        client.send(b"def")

        assert client.answer().body == b"abcdef"
    assert server.state.get("requests") == before


@pytest.mark.parametrize("path", ["/short/none", "/short/none-later"])
def test_what_a_shortcut_leaves_is_the_applications(server: Server, path: str):
    """It has the body as if nobody had looked at it, whether it is left at once or after all."""
    before = Counter(server.state)
    assert json.loads(server.get(f"GET {path}").body)["PATH_INFO"] == path
    for body in BODIES:
        said = server.post(path, body)
        assert "x-shortcut" not in said.headers
        assert json.loads(said.body)["body"].encode() == body
    assert server.state["requests"] == before["requests"] + 1 + len(BODIES)
    assert server.state.get("made", 0) - before["made"] == (4 if path.endswith("later") else 0)


@pytest.mark.parametrize("header", ["Transfer-Encoding: chunked", "Content-Length: 65537"])
def test_a_body_of_unknown_length_or_a_large_one_is_not_for_the_shortcut(server: Server, header: str):
    """It comes while the application reads it."""
    body = chunked(b"abc") if "chunked" in header else b"x" * 65_537
    said = server.get("POST /short", header, body=body)

    assert "x-shortcut" not in said.headers
    assert json.loads(said.body)["REQUEST_METHOD"] == "POST"


def test_a_request_without_a_body_needs_not_say_so(server: Server):
    """Many clients send a DELETE without a Content-Length: it is as good as one with 0."""
    assert server.get("DELETE /short").headers["x-shortcut"] == "yes"


def test_answers_that_come_later_hold_no_threads_and_keep_their_order(start_server: Start):
    """Far more than there are threads wait; on one connection each answer goes to its own request."""
    server = start_server()
    with ExitStack() as waiting:
        clients = [waiting.enter_context(server.connect()) for _ in range(5 * (THREADS + WAITING))]
        for client in clients:
            client.ask("POST /short/held", "Content-Length: 1", body=b"a")
            client.ask("POST /short", "Content-Length: 1", body=b"b")
        assert server.saw("begun", len(clients))
        assert server.post("/echo", b"abc").body == b"abc"
        assert server.state["threads"] <= 1
        server.get("GET /release")

        assert {(client.answer().body, client.answer().body) for client in clients} == {(b"a", b"b")}


def test_a_client_that_leaves_before_its_later_answer_does_no_harm(start_server: Start):
    """The answer is made and goes nowhere; the next ones come."""
    server = start_server()
    for number, head in enumerate(("GET /short/held", "POST /short/held"), start=1):
        with server.connect() as client:
            client.ask(head)
            assert server.saw("begun", number)  # who leaves before that is not heard at all
    server.get("GET /release")

    assert server.saw("made", 2)
    assert server.get("GET /short/later").status == 200
    assert server.post("/short/none-later", b"abc").status == 200
    assert "Error" not in server.log.read_text()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/short/breaks", "/short/breaks-beginning", "/short/breaks-later"])
def test_a_shortcut_that_breaks_ends_the_process(start_server: Start, method: str, path: str):
    """Whenever it does: no client waits for ever, and the exit code says what it is."""
    server = start_server()
    with server.connect() as client:
        client.ask(f"{method} {path}", "Content-Length: 0")
        client.wait_until_closed()

    server.child.wait(ANSWER_S)
    assert "exit 70: a bug in kvlog: ZeroDivisionError" in server.log.read_text()


# --- the end --------------------------------------------------------------------------------------------------


def test_what_is_under_way_is_answered_when_the_server_stops(start_server: Start, tmp_path: Path):
    """SIGTERM closes the door; who is inside is served, idle connections are closed, finalizers run."""
    server = start_server()
    with server.connect() as idle, server.connect() as client:
        idle.ask("GET /unread")
        idle.answer()
        client.ask(f"GET /hold?{tmp_path / 'go'}")
        assert server.saw("held")

        os.kill(server.child.pid, signal.SIGTERM)
        assert idle.closed
        (tmp_path / "go").touch()

        assert client.answer().body == b"held"
    assert server.child.wait(ANSWER_S) == 0
    assert "finalized" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()
