"""A TCP proxy in front of one node that leaves everything as it is, except the snapshots that the node sends."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

Change = Callable[[bytes], bytes]
"""Makes another answer of a whole one, head included; the connection ends behind it."""

CHUNK_BYTES = 65536
ANSWER_S = 20.0

_INSTANCE = re.compile(rb"(?i)(kvlog-instance: *)([0-9a-f]+)")


class Interceptor:
    """Forwards what comes to ``port`` to the node at ``to_port``.

    Attributes:
        changes: what becomes of the next snapshots, one after the other; later ones are left as they are.
        taken: what the changes were given.
    """

    def __init__(self, port: int, to_port: int) -> None:
        self.changes: list[Change] = []
        self.taken: list[bytes] = []
        self.address = f"127.0.0.1:{port}"
        self._to = ("127.0.0.1", to_port)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End it, and every connection."""
        for end in (self._listener, *list(self._open)):
            with suppress(OSError):  # it has just been closed by its other end
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):  # it is being closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            node = socket.create_connection(self._to)
        except OSError:
            client.close()  # nobody listens there
            return
        self._open |= {client, node}
        threading.Thread(target=self._pass, args=(node, client), daemon=True).start()
        try:
            while request := client.recv(CHUNK_BYTES):
                if request.startswith(b"GET /v1/snapshot") and self.changes:
                    self._intercept(request, client)
                    return
                node.sendall(request)
        except OSError:
            pass  # either end has gone, and so does the other
        finally:
            self._end(client, node)

    def _pass(self, node: socket.socket, client: socket.socket) -> None:
        try:
            while answer := node.recv(CHUNK_BYTES):
                client.sendall(answer)
        except OSError:
            pass  # either end has gone, and so does the other
        finally:
            self._end(client, node)

    def _intercept(self, request: bytes, client: socket.socket) -> None:
        answer = ask(self._to[1], request)
        self.taken.append(answer)
        client.sendall(self.changes.pop(0)(answer))

    def _end(self, *ends: socket.socket) -> None:
        for end in ends:
            self._open.discard(end)
            with suppress(OSError):  # it is closed already
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def ask(port: int, request: bytes) -> bytes:
    """A node's whole answer to a request, as it comes over the wire."""
    answer = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as node:
        node.sendall(
            re.sub(rb"(?i)connection: [^\r]*\r\n", b"", request).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        )
        while data := node.recv(CHUNK_BYTES):
            answer += data
    return bytes(answer)


def cut(at: int) -> Change:
    """The answer ends before its byte ``at``; counted from its end if that is negative."""
    return lambda answer: answer[:at]


def flip(at: int) -> Change:
    """One bit of one byte is another one."""
    return lambda answer: answer[:at] + bytes([answer[at] ^ 1]) + answer[at:][1:]


def replace_by(port: int) -> Change:
    """What the node at another port sends, under the name of this one."""

    def change(answer: bytes) -> bytes:
        other = ask(port, b"GET /v1/snapshot HTTP/1.1\r\nHost: other\r\n\r\n")
        name = _INSTANCE.search(answer)
        assert name is not None
        return _INSTANCE.sub(rb"\g<1>" + name[2], other)

    return change
