"""Many connections on one thread, byte by byte: what is measured is the system, not the threads of its clients."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from bench.systems.http import Request
from kvlog.errors import Unavailable

ANSWER_S = 30.0
"""Seconds within which something has to be answered on one of the connections."""

RECEIVE_BYTES = 1 << 16
HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

Taken = Callable[[int, int, bytes], None]
"""Is given each answer: the number of its request, from 0, its status and its body."""


def encoded(address: str, request: Request) -> bytes:
    """A request as it is sent."""
    body = request.body or b""
    headers = {"Host": address, **request.headers}
    if request.body is not None:
        headers["Content-Length"] = str(len(body))
    lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def connected(address: str) -> socket.socket:
    """A connection that sends at once what it is given."""
    host, port = address.rsplit(":", 1)
    peer = socket.create_connection((host, int(port)), timeout=ANSWER_S)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def answer_in(received: bytes) -> tuple[int, bytes] | None:
    """Status and body of an answer, if all of it is there.

    Raises:
        Unavailable: it does not say how long it is.
    """
    head, separator, body = received.partition(HEAD_END)
    if not separator:
        return None
    lines, status = head.lower().split(b"\r\n"), int(head[9:12])
    if b"transfer-encoding: chunked" in lines:
        return (status, dechunked(body)) if body.endswith(LAST_CHUNK) else None
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), None)
    if length is None:
        raise Unavailable(f"an answer does not say how long it is: {head[:500]!r}")
    return (status, body) if len(body) >= length else None


def dechunked(left: bytes) -> bytes:
    """A body that comes in chunks, as far as it has come in whole ones."""
    body = bytearray()
    at = 0
    while (end := left.find(b"\r\n", at)) >= 0:
        size = int(left[at:end], 16)
        if len(left) < end + 2 + size + 2:
            break
        body += left[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    return bytes(body)


@dataclass(slots=True)
class Loop:
    """What came of a closed loop: seconds in all, and of each request, as they were answered."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests/s."""
        return len(self.latencies) / self.seconds


@dataclass(slots=True)
class _Busy:
    peer: socket.socket
    number: int = -1
    sent_at: float = 0.0
    received: bytes = b""


def closed_loop(address: str, requests: Iterable[bytes], connections: int, taken: Taken) -> Loop:
    """Send requests on so many connections, one at a time on each, and the next one once it is answered.

    Raises:
        Unavailable: a connection is closed, or nothing is answered for ANSWER_S.
    """
    left, loop = iter(enumerate(requests)), Loop()
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(connections):
            busy = _Busy(stack.enter_context(closing(connected(address))))
            selector.register(busy.peer, selectors.EVENT_READ, busy)
        begun = time.perf_counter()
        for key in list(selector.get_map().values()):
            if not _send(key.data, left):
                selector.unregister(key.fileobj)
        while selector.get_map():
            ready = selector.select(ANSWER_S)
            if not ready:
                raise Unavailable(f"nothing was answered within {ANSWER_S:g} s")
            for key, _ in ready:
                if not _receive(key.data, loop, taken):
                    continue
                if not _send(key.data, left):
                    selector.unregister(key.fileobj)
        loop.seconds = time.perf_counter() - begun
    return loop


def _send(busy: _Busy, left: Iterator[tuple[int, bytes]]) -> bool:
    """Send the next request, if there is one."""
    number, request = next(left, (-1, b""))
    if not request:
        return False
    busy.number, busy.sent_at, busy.received = number, time.perf_counter(), b""
    busy.peer.sendall(request)
    return True


def _receive(busy: _Busy, loop: Loop, taken: Taken) -> bool:
    """Take in what has come; whether that is the whole answer."""
    data = busy.peer.recv(RECEIVE_BYTES)
    if not data:
        raise Unavailable("a node has closed a connection before it had answered")
    busy.received += data
    answer = answer_in(busy.received)
    if answer is None:
        return False
    loop.latencies.append(time.perf_counter() - busy.sent_at)
    taken(busy.number, *answer)
    return True
