"""One kept HTTP/1.1 connection to a peer, for what is said hundreds of times a second: pushes.

A general client takes longer to make and read such a message than the two nodes for what it is about.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from kvlog.errors import Unavailable

HEAD_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 64 * 1024

_RECEIVE_BYTES = 64 * 1024


class Answer(NamedTuple):
    """An answer: status, headers (names in lower case), body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Line:
    """A connection that is made when it is needed, and made anew after a failure. One thread at a time uses it."""

    def __init__(self, address: str, *, connect_s: float, answer_s: float) -> None:
        """``address``: ``host:port``, whatever that is; ``answer_s``: how long nothing may come, in seconds."""
        self._address = address
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._socket: socket.socket | None = None
        self._received = b""

    def post(self, path: str, body: bytes, content_type: str) -> Answer:
        """Send one request, and wait for its answer.

        Raises:
            Unavailable: there is none, or none that is understood: what became of the request is not known.
        """
        about = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        kept = self._socket is not None
        try:
            data = f"POST {path} HTTP/1.1\r\nHost: {self._address}\r\n{about}".encode("ascii") + body
            try:
                return self._exchange(data)
            except ConnectionError:
                if not kept:
                    raise
                self.close()  # the peer may have closed it long ago: a push may be sent twice
                return self._exchange(data)
        except (OSError, ValueError) as error:
            self.close()
            raise Unavailable(f"no answer from {self._address}: {error}") from error

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._received = b""

    def _exchange(self, data: bytes) -> Answer:
        if self._socket is None:
            host, _, port = self._address.rpartition(":")
            self._socket = socket.create_connection((host.strip("[]"), int(port)), self._connect_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.settimeout(self._answer_s)
        self._socket.sendall(data)
        head = self._until_end_of_head(self._socket)
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, status = first.partition(" ")
        if version != "HTTP/1.1":
            raise ValueError(f"{first[:60]!r} is no status line of HTTP/1.1")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "-1"))  # an answer without a length is none of a node
        if not 0 <= length <= BODY_BYTES_MAX:
            raise ValueError(f"an answer of {length} bytes")
        while len(self._received) < length:
            self._receive(self._socket)
        body, self._received = self._received[:length], self._received[length:]
        if self._received or headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(status[:3]), headers, body)

    def _until_end_of_head(self, connection: socket.socket) -> bytes:
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if len(self._received) > HEAD_BYTES_MAX:
                raise ValueError("the head of the answer does not end")
            self._receive(connection)
        head, self._received = self._received[:end], self._received[end + 4 :]
        return head

    def _receive(self, connection: socket.socket) -> None:
        data = connection.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the connection was closed")
        self._received += data
