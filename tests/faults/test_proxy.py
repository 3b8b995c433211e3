"""The proxies that harm connections, with plain sockets at both ends: each does what it says, and no more."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from kvlog.line import Line
from kvlog.processes import free_ports, wait_until
from tests.faults.proxy import Network, Proxy
from tests.faults.rules import BLACKHOLE, STALLED, Door, Pushes, Rules, Way
from tests.faults.wire import Talk, Turns, ZooKeeperTalk, request_bytes

SOON_S = 5.0
NOTHING_S = 0.15


class Server:
    """Answers each piece that it gets with what ``answer`` makes of it, and keeps all that it got."""

    def __init__(self, port: int, answer: Callable[[bytes], bytes] = bytes.upper) -> None:
        self.port = port
        self.got: list[bytes] = []
        self.ended = 0
        self._answer = answer
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # it is being closed
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:  # reset, or being closed
            while data := client.recv(65536):
                self.got.append(data)
                client.sendall(self._answer(data))
        self.ended += 1

    def close(self) -> None:
        for end in (self._listener, *self._open):
            with suppress(OSError):  # it has ended by itself
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def make_server() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(*arguments: object, **named: object) -> Server:
        made.append(Server(*arguments, **named))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def ports() -> list[int]:
    return free_ports(2)


@pytest.fixture
def server(make_server: Callable[..., Server], ports: list[int]) -> Server:
    return make_server(ports[0])


@pytest.fixture
def proxy(network: Network, server: Server, ports: list[int]) -> Proxy:
    return network.proxy(port=ports[1], to_port=ports[0])


@pytest.fixture
def dial(ports: list[int]) -> Iterator[Callable[[], socket.socket]]:
    """Connects to the proxy."""
    made: list[socket.socket] = []

    def dial() -> socket.socket:
        made.append(socket.create_connection(("127.0.0.1", ports[1]), timeout=SOON_S))
        return made[-1]

    yield dial
    for end in made:
        end.close()


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return client.recv(65536)


def hears_nothing(client: socket.socket, for_s: float = NOTHING_S) -> bool:
    client.settimeout(for_s)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(SOON_S)
    return False


def is_reset(client: socket.socket) -> bool:
    try:
        return bool(client.recv(65536)) and is_reset(client)
    except ConnectionResetError:
        return True


def test_what_is_said_comes_whole_and_in_order_both_ways(make_server, network, ports):
    """64 MiB there and back, in pieces of all sizes; the ends of both directions come as well."""
    make_server(ports[0], lambda data: data)
    proxy = network.proxy(port=ports[1], to_port=ports[0])
    content = bytes(range(256)) * 4096 * 64
    with socket.create_connection(("127.0.0.1", ports[1]), timeout=SOON_S) as client:

        def send() -> None:
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        began = time.monotonic()
        sender.start()
        back = bytearray()
        while data := client.recv(1 << 20):
            back += data
        sender.join(SOON_S)
    took = time.monotonic() - began

    assert back == content
    assert proxy.counts["bytes"] == 2 * len(content)
    assert took < 5, f"{len(content) / took / 2**20:.0f} MiB/s"
    assert wait_until(lambda: not proxy.clients, SOON_S)


def test_a_port_is_closed_as_long_as_its_server_is_gone(network, make_server, ports, dial):
    """Who asks first is reset; who comes then is refused, as by the server itself, until that is back."""
    network.proxy(port=ports[1], to_port=ports[0])
    with suppress(ConnectionResetError):
        assert dial().recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        dial()

    make_server(ports[0])

    def answers() -> bool:
        try:
            return ask(dial(), b"again") == b"AGAIN"
        except ConnectionRefusedError:
            return False

    assert wait_until(answers, SOON_S)


def test_a_door_may_refuse_reset_or_be_silent(proxy: Proxy, server: Server, dial):
    """Connections that there are stay; what came to a silent one is served later, if it is there still."""
    old = dial()
    assert ask(old, b"a") == b"A"

    proxy.set(Rules(door=Door.REFUSED))
    with pytest.raises(ConnectionRefusedError):
        dial()
    assert ask(old, b"b") == b"B"

    proxy.set(Rules(door=Door.RESET))
    with pytest.raises(ConnectionResetError):
        ask(dial(), b"c")
    assert ask(old, b"d") == b"D"

    proxy.set(Rules(door=Door.SILENT))
    patient, impatient = dial(), dial()
    for client in (patient, impatient):
        client.sendall(b"e")
    impatient.close()
    assert hears_nothing(patient)
    assert server.got == [b"a", b"b", b"d"]
    proxy.heal()
    assert patient.recv(1) == b"E"
    assert ask(dial(), b"f") == b"F"
    assert server.got == [b"a", b"b", b"d", b"e", b"f"]


def test_a_reset_is_heard_on_both_sides(proxy: Proxy, server: Server, dial):
    """And only by the connections that there are."""
    client = dial()
    assert ask(client, b"a") == b"A"

    proxy.reset()

    assert is_reset(client)
    assert wait_until(lambda: server.ended == 1, SOON_S)
    assert ask(dial(), b"b") == b"B"


@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_a_connection_is_cut_after_so_many_bytes(proxy: Proxy, server: Server, dial, way: str):
    """The first n come, nothing behind them does, and both ends are reset; each connection has n of its own."""
    old = dial()
    assert ask(old, b"before") == b"BEFORE"
    proxy.set(Rules(**{way: Way(cut_after=3)}))

    for client in (old, dial()):
        client.sendall(b"abcdef")
        heard = b""
        with suppress(ConnectionResetError):
            while data := client.recv(65536):
                heard += data
        if way == "to_client":
            assert heard == b"ABC"
        comes = b"abcdef" if way == "to_client" else b"abc"
        assert wait_until(lambda comes=comes: server.got[-1] == comes, SOON_S)
    assert proxy.counts["cut"] == 2


def test_the_answer_to_every_third_question_is_lost(proxy: Proxy, server: Server, dial):
    """The question comes, its answer does not: the connection is reset in its place."""
    proxy.set(Rules(lose_answer=3))
    client, heard, lost = dial(), [], 0
    for number in range(9):
        try:
            heard.append(ask(client, f"q{number}".encode()))
        except ConnectionResetError:
            lost += 1
            client = dial()

    assert lost == proxy.counts["answers lost"] == 3
    assert heard == [b"Q0", b"Q1", b"Q3", b"Q4", b"Q6", b"Q7"]
    assert server.got == [f"q{number}".encode() for number in range(9)]


@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_a_delay_is_a_delay_and_no_lower_rate(proxy: Proxy, dial, way: str):
    """Three questions that were asked one after the other are answered 0.4 s later, each of them."""
    proxy.set(Rules(**{way: Way(delay_s=0.4)}))
    client, began = dial(), time.monotonic()
    heard, at = b"", []
    for number in range(3):
        client.sendall(b"%d" % number)
        time.sleep(0.03)
    while len(heard) < 3:
        heard += client.recv(3)
        at.append(time.monotonic() - began)

    assert heard == b"012"
    assert at[0] > 0.39
    assert at[-1] < 0.75


def test_what_was_stalled_comes_afterwards_also_from_a_client_that_has_left(proxy: Proxy, server: Server, dial):
    """One way, then both; nothing is lost, and the order stays."""
    client, leaving = dial(), dial()
    assert ask(client, b"a") == b"A"
    assert ask(leaving, b"b") == b"B"

    proxy.set(Rules(to_client=STALLED))
    client.sendall(b"c")
    assert wait_until(lambda: server.got[-1] == b"c", SOON_S)
    assert hears_nothing(client)

    proxy.set(BLACKHOLE)
    client.sendall(b"d")
    leaving.sendall(b"late")
    leaving.close()
    assert hears_nothing(client)
    assert server.got == [b"a", b"b", b"c"]

    proxy.heal()
    assert wait_until(lambda: set(server.got[3:]) == {b"d", b"late"}, SOON_S)
    assert client.recv(1) + client.recv(1) == b"CD"
    assert wait_until(lambda: server.ended == 1, SOON_S)


def test_what_is_kept_back_is_bounded(network: Network, make_server: Callable[..., Server], ports, dial):
    """A sender that is not read has to wait before it has sent much; later all of it comes, in its order."""
    reads = threading.Event()
    server = make_server(ports[0], lambda _: b"" if reads.wait(SOON_S) else b"too late")
    proxy = network.proxy(port=ports[1], to_port=ports[0])
    proxy.set(Rules(to_server=STALLED))
    client, sent, piece = dial(), 0, bytes(range(256)) * 256
    client.settimeout(0.3)
    with suppress(TimeoutError):
        while sent < 64 << 20:
            sent += client.send(piece[sent % len(piece) :])
    assert 1 << 20 <= sent < 16 << 20

    proxy.heal()
    client.settimeout(SOON_S)
    threading.Timer(0.3, reads.set).start()  # until then, the server takes no more than its first piece
    while sent < 64 << 20:
        sent += client.send(piece[sent % len(piece) :])
    client.shutdown(socket.SHUT_WR)
    assert wait_until(lambda: server.ended == 1, SOON_S)
    assert b"".join(server.got) == piece * (sent // len(piece)) + piece[: sent % len(piece)]


def test_a_limited_rate_is_kept(proxy: Proxy, dial):
    """20,000 bytes at 40,000 a second take half a second."""
    proxy.set(Rules(to_client=Way(bytes_per_s=40_000)))
    client, began, heard = dial(), time.monotonic(), 0
    client.sendall(bytes(20_000))
    while heard < 20_000:
        heard += len(client.recv(65536))

    assert 0.4 < time.monotonic() - began < 1.5


def test_a_half_open_connection_is_told_only_afterwards(proxy: Proxy, server: Server, dial):
    """The server has lost it, the client hears nothing; others can connect."""
    client = dial()
    assert ask(client, b"a") == b"A"

    proxy.abandon()

    assert wait_until(lambda: server.ended == 1, SOON_S)
    client.sendall(b"b")
    assert hears_nothing(client)
    assert ask(dial(), b"c") == b"C"
    proxy.heal()
    assert is_reset(client)
    assert server.got == [b"a", b"c"]


def test_rules_may_be_for_some_clients_only(proxy: Proxy, dial):
    """By the ports of their connections; new ones as well."""
    one, other = dial(), dial()
    assert ask(one, b"a") + ask(other, b"b") == b"AB"
    port = one.getsockname()[1]
    assert proxy.clients == [port, other.getsockname()[1]]

    proxy.set(BLACKHOLE, of=lambda client: client == port)

    one.sendall(b"c")
    assert hears_nothing(one)
    assert ask(other, b"d") == b"D"
    assert ask(dial(), b"e") == b"E"


# --- what is understood of what is said -----------------------------------------------------------------------


def frame(*fields: int, body: bytes = b"") -> bytes:
    content = b"".join(struct.pack(">i", field) for field in fields) + body
    return struct.pack(">i", len(content)) + content


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 3, 7, 10_000])
def test_frames_of_zookeeper_are_found_in_pieces_of_any_size(size: int):
    """What counts are writes, by their numbers; all bytes go on, up to the answer that is lost."""
    requests = b"".join(
        [
            frame(0, 14, 0, body=bytes(33)),  # the greeting
            frame(1, 4, body=b"/read"),
            frame(2, 14, body=b"a multi" * 50),
            frame(-2, 11),
            frame(3, 1, body=b"a create"),
        ]
    )
    replies = [
        frame(2, 0, 0, body=bytes(25)),  # the greeting
        frame(1, 0, 0, 0, body=b"read"),
        frame(2, 0, 0, 0, body=b"done" * 50),
        frame(-2, 0, 0, 0),
    ]
    talk, found, passed = ZooKeeperTalk(), [], b""
    for piece in pieces(requests, size):
        data, numbers = talk.asked(piece)
        passed += data
        found += numbers
    assert found == [2, 3]
    assert passed == requests

    heard, lost = b"", False
    for piece in pieces(b"".join(replies), size):
        data, lost = talk.answered(piece, {2})
        heard += data
        if lost:
            break
    assert lost
    assert heard == b"".join(replies[:2])


def test_turns_count_what_begins_so():
    """Only requests with that beginning, and each once, however many pieces it has."""
    talk: Talk = Turns(b"POST /forward")
    assert talk.asked(b"POST /forward 1")[1] == [1]
    assert talk.asked(b"POST /forward, still the first")[1] == []
    assert talk.answered(b"answer", set()) == (b"answer", False)
    assert talk.asked(b"GET /healthz")[1] == []
    assert talk.answered(b"answer", {1}) == (b"answer", False)
    assert talk.asked(b"POST /forward 2")[1] == [3]
    assert talk.answered(b"answer", {3}) == (b"", True)


def test_the_length_of_a_request_is_found_once_its_head_is_there():
    """0 until then; None for what has none, or is too long."""
    push = b"POST /propagate HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
    assert [request_bytes(push[:at]) for at in (10, 40)] == [0, 0]
    assert request_bytes(push) == request_bytes(push + b"next") == len(push)
    assert request_bytes(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n") is None
    assert request_bytes(b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n") is None
    assert request_bytes(bytes(20_000)) is None


class Replica(Server):
    """Answers pushes of which each has its number in its body."""

    def __init__(self, port: int) -> None:
        super().__init__(port, lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    @property
    def numbers(self) -> list[int]:
        return [int(data.rpartition(b"\r\n\r\n")[2]) for data in self.got]


@pytest.fixture
def replica(ports: list[int]) -> Iterator[Replica]:
    replica = Replica(ports[0])
    yield replica
    replica.close()


@pytest.fixture
def line(network: Network, replica: Replica, ports: list[int]) -> Iterator[tuple[Proxy, Line]]:
    proxy = network.proxy(port=ports[1], to_port=ports[0])
    line = Line(proxy.address, connect_s=SOON_S, answer_s=SOON_S)
    yield proxy, line
    line.close()


def push(line: Line, number: int) -> int:
    return line.post("/propagate", b"%d" % number, "text/plain").status


def test_every_second_push_comes_twice(line: tuple[Proxy, Line], replica: Replica):
    """Over another connection: the client's answers are those to its own."""
    proxy, pushes = line
    proxy.set(Rules(pushes=Pushes(double=2)))

    assert [push(pushes, number) for number in range(4)] == [200] * 4
    assert wait_until(lambda: sorted(replica.numbers) == [0, 1, 1, 2, 3, 3], SOON_S), replica.numbers
    assert proxy.counts["doubled"] == 2


def test_an_old_push_comes_again(line: tuple[Proxy, Line], replica: Replica):
    """Behind newer ones."""
    proxy, pushes = line
    proxy.set(Rules(pushes=Pushes(replay=3)))

    assert [push(pushes, number) for number in range(3)] == [200] * 3
    assert wait_until(lambda: replica.numbers == [0, 1, 2, 0], SOON_S), replica.numbers


def test_a_push_is_overtaken_by_the_next_one(line: tuple[Proxy, Line], replica: Replica):
    """Its sender has no answer, not at the second try either; it comes behind the next one, or when it is over."""
    proxy, pushes = line
    proxy.set(Rules(pushes=Pushes(overtake=2)))

    assert push(pushes, 0) == 200
    with pytest.raises(Exception, match="no answer"):
        push(pushes, 1)
    assert push(pushes, 2) == 200
    assert wait_until(lambda: replica.numbers == [0, 2, 1], SOON_S), replica.numbers
    with pytest.raises(Exception, match="no answer"):
        push(pushes, 3)
    proxy.heal()
    assert wait_until(lambda: replica.numbers == [0, 2, 1, 3], SOON_S), replica.numbers


def test_a_push_is_held_up(line: tuple[Proxy, Line], replica: Replica):
    """And its answer with it."""
    proxy, pushes = line
    proxy.set(Rules(pushes=Pushes(delay_s=0.2)))
    began = time.monotonic()

    assert push(pushes, 1) == 200
    assert time.monotonic() - began > 0.19
