"""An HTTP server on the loopback that answers as a test tells it to: for what no healthy node would ever do."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

WAIT_S = 20.0


@dataclass(frozen=True)
class Asked:
    """A request that has come. Names of headers are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass(frozen=True)
class Reply:
    """An answer. ``stream``: pieces that are sent one by one, until they end or the client goes."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: Iterable[bytes] | None = None
    cut_after: int | None = None


HANG = Reply(status=0)
"""No answer, on a connection that stays open until the node is closed."""

CUT = Reply(status=-1)
"""The connection ends before an answer."""

Script = Callable[[Asked], Reply]


def problem(status: int, name: str, **members: Any) -> Reply:
    """A problem's details."""
    body = {"type": f"kvlog:{name}", "title": name, "status": status, "detail": f"it is {name}", **members}
    return Reply(status, body, {"Content-Type": "application/problem+json"})


def committed(revision: int, **members: Any) -> Reply:
    """A write's answer."""
    body = {"outcome": "committed", "revision": revision, "index": revision, "leader": "n1", "replicas": {}}
    return Reply(200, body | members, {"Kvlog-Revision": str(revision)})


def item(value: bytes, revision: int, **headers: str) -> Reply:
    """A key's answer."""
    known = {"ETag": f'"{revision}"', "Kvlog-Create-Revision": "1", "Kvlog-Version": "2"}
    return Reply(200, value, {**known, "Kvlog-Revision": str(revision), **headers})


class ScriptedNode:
    """See the module's docstring.

    Attributes:
        asked: what has come, in order.
        script: makes the answers; may be replaced at any time.
    """

    def __init__(self, script: Script | list[Reply], port: int = 0) -> None:
        self.asked: list[Asked] = []
        self.script: Script = script if callable(script) else _one_after_the_other(script)
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                node._connections.add(self.connection)

            def handle_any(self) -> None:
                node._answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - the names are http.server's

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def handle(self) -> None:
                with suppress(OSError):  # the client has gone
                    super().handle()

            def finish(self) -> None:
                with suppress(OSError):  # the same
                    super().finish()
                node._connections.discard(self.connection)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.address = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def wait_for(self, count: int) -> list[Asked]:
        """All requests, once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, WAIT_S), self.asked
            return list(self.asked)

    def close(self) -> None:
        """End it, as by kill -9: every connection breaks."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            with suppress(OSError):  # it has just ended
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        at = time.monotonic()
        parts = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        body = handler.rfile.read(int(headers.get("content-length", 0)))
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        asked = Asked(handler.command, unquote(parts.path), query, headers, body, at)
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
        reply = self.script(asked)
        if reply is HANG:
            self.closing.wait(WAIT_S)
        if reply is HANG or reply is CUT:
            handler.close_connection = True
            return
        self._send(handler, reply)

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", "Kvlog-Node": "n1", **reply.headers}.items():
            handler.send_header(name, value)
        if reply.stream is not None:
            handler.send_header("Connection", "close")
            handler.end_headers()
            for piece in reply.stream:
                handler.wfile.write(piece)
                handler.wfile.flush()
            handler.close_connection = True
            return
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body if reply.cut_after is None else body[: reply.cut_after])
        if reply.cut_after is not None:
            handler.close_connection = True


def _one_after_the_other(replies: list[Reply]) -> Script:
    left = list(replies)
    lock = threading.Lock()

    def script(_: Asked) -> Reply:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return script
