"""A request to the WSGI application (PEP 3333): its environment, its body, its answer, on a thread of the pool."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from werkzeug.exceptions import ClientDisconnected, RequestTimeout

from kvlog.errors import ClientGone, TooBusy
from kvlog.front.exchange import (
    BROKEN,
    PROBLEM,
    Headers,
    Incoming,
    Message,
    Scope,
    Send,
    awaited,
    cut,
    piece,
    problem_body,
    refuse,
    respond,
    start,
)

Environ = dict[str, Any]
Application = Callable[[Environ, Any], Iterable[bytes]]

BUFFER_BYTES = 64 * 1024
"""What is read ahead of a body that comes while it is read."""

PIECE_S = 30.0
"""How long a thread waits for the next piece of a body."""

TURN_S = 0.5
"""How long a thread waits until it may wait for the next piece of a body, because others do."""

BROKEN_OFF = "the body breaks off before its end, or is not made as a body has to be (RFC 9112, 6 and 7)"

_ALWAYS: Environ = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SCRIPT_NAME": "",
    "SERVER_SOFTWARE": "kvlog",
    "wsgi.version": (1, 0),
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    # The input ends where the body does, whether it has a length or not.
    "wsgi.input_terminated": True,
}

_NO_BODY = frozenset((*range(100, 200), HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))
_ONE_VALUE = frozenset(("CONTENT_TYPE", "CONTENT_LENGTH"))


def environ_of(scope: Scope) -> Environ:
    """The environment of a request, all but its input.

    PATH_INFO is decoded; in REQUEST_URI and RAW_URI the path is as it was sent: there ``%2F`` differs from ``/``.
    """
    raw_path: bytes = scope["raw_path"]
    path = raw_path if b"%" not in raw_path else unquote_to_bytes(raw_path)
    query = scope["query_string"].decode("latin-1")
    uri = raw_path.decode("latin-1")
    if query:
        uri = f"{uri}?{query}"
    server, client = scope["server"], scope["client"]
    version = scope["http_version"]
    environ = {
        **_ALWAYS,
        "REQUEST_METHOD": scope["method"],
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": uri,
        "RAW_URI": uri,
        "SERVER_PROTOCOL": "HTTP/1.0" if version == "1" else f"HTTP/{version}",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.errors": sys.stderr,
    }
    for name, value in scope["headers"]:
        key = _key(name)
        if key is None:
            continue
        text = value.decode("latin-1")
        if key not in environ:
            environ[key] = text
        elif key not in _ONE_VALUE:
            environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + text
    if "HTTP_TRANSFER_ENCODING" in environ:
        environ.pop("CONTENT_LENGTH", None)
    return environ


@lru_cache(maxsize=256)
def _key(name: bytes) -> str | None:
    """A header's name in the environment; none if it could be mistaken for another one's."""
    if b"_" in name:
        return None
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in _ONE_VALUE else f"HTTP_{key}"


class Call:
    """One request that is carried out on a thread.

    ``done`` is what the event loop waits for.
    """

    def __init__(self, scope: Scope, incoming: Incoming, send: Send, done: asyncio.Future[None]) -> None:
        self.done = done
        self.loop = done.get_loop()
        self.incoming = incoming
        self.send = send
        self.body: bytes | None = None
        self.told = False  # that it is to be answered, or to be given to the application
        self.scope = scope
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._begun = False
        self._ended = False
        self._unheard_bytes = 0

    def run(self, app: Application, headers: Headers, slow: threading.Semaphore) -> None:
        """Have the application answer; if it does not, there is an answer with ``headers`` nevertheless.

        ``slow``: those who may wait for a body at a time.
        """
        environ = environ_of(self.scope)
        environ["wsgi.input"] = self._input(environ, slow)
        try:
            self._answer(app(environ, self._start_response))
        except ClientGone:
            pass  # there is nobody to answer
        except ClientDisconnected:  # or it is there, and what it has sent is no body
            if not self._begun:
                refuse(self.send, HTTPStatus.BAD_REQUEST, BROKEN_OFF, headers)
            elif not self._ended:
                cut(self.scope)
        except Exception:  # noqa: BLE001 - whatever an application raises: it is told, and the others go on
            traceback.print_exc(file=sys.stderr)
            self._fail(headers)

    def close(self) -> None:
        """It is over; on the event loop."""
        self.incoming.close()
        self.send = _nowhere
        if not self.done.done():
            self.done.set_result(None)

    def _input(self, environ: Environ, slow: threading.Semaphore) -> io.BufferedIOBase:
        if self.body is not None:
            return io.BytesIO(self.body)
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            return io.BufferedReader(_Body(self.incoming, self.loop, slow), BUFFER_BYTES)
        return io.BytesIO()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if self._status:
            if exc_info is None:
                raise RuntimeError("the application has started its response twice")
            if self._begun:
                raise exc_info[1].with_traceback(exc_info[2])
        self._status = int(status[:3])
        self._headers = headers
        return self._write

    def _answer(self, result: Iterable[bytes]) -> None:
        try:
            if isinstance(result, list | tuple) and not self._begun:
                self._whole(b"".join(result))
            else:
                self._pieces(iter(result))
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _pieces(self, pieces: Iterator[bytes]) -> None:
        """Send what the application gives, and take the next piece when the transport can take one."""
        if not self._begun:
            first = next(filter(None, pieces), b"")
            if not first or len(first) == self._length() or not self._has_body():
                self._whole(first)
                return
            self._write(first)
        for data in filter(None, pieces):
            self._write(data)
        self._end(b"")

    def _whole(self, body: bytes) -> None:
        _check_bytes(body)
        self._begin()
        self._end(body if self._has_body() else b"")

    def _write(self, data: bytes) -> None:
        """Send a piece of the body, and wait until the transport can take another one."""
        _check_bytes(data)
        if not self._begun:
            self._begin()
            self.loop.call_soon_threadsafe(self.incoming.watch, _nothing)
        if self.incoming.gone:
            raise ClientGone
        accepted = piece(self.send, data, more=True)
        self._unheard_bytes += len(data)
        # What is like a future is to be waited for: the transport is full. Without a pause now and then for the
        # event loop, it would hear too late that the client has left.
        if hasattr(accepted, "add_done_callback") or self._unheard_bytes >= BUFFER_BYTES:
            self._unheard_bytes = 0
            asyncio.run_coroutine_threadsafe(awaited(accepted), self.loop).result()

    def _begin(self) -> None:
        if not self._status:
            raise RuntimeError("the application has not started its response")
        start(self.send, self._status, self._headers)
        self._begun = True

    def _end(self, data: bytes) -> None:
        piece(self.send, data, more=False)
        self._ended = True

    def _has_body(self) -> bool:
        return self.scope["method"] != "HEAD" and self._status not in _NO_BODY

    def _length(self) -> int | None:
        """The length of the body as the application has declared it."""
        for name, value in self._headers:
            if name.lower() == "content-length":
                return int(value)
        return None

    def _fail(self, headers: Headers) -> None:
        """Answer as well as can be after an error of the application."""
        if not self._begun:
            body = problem_body("internal-error", BROKEN)
            respond(self.send, HTTPStatus.INTERNAL_SERVER_ERROR, (PROBLEM, *headers), body)
        elif not self._ended:
            cut(self.scope)


def _check_bytes(data: object) -> None:
    """Granian would send nothing in place of anything else."""
    if not isinstance(data, bytes):
        raise TypeError(f"the application gave {type(data).__name__} as a piece of its answer, not bytes")


class _Body(io.RawIOBase):
    """A request's body as it comes, for a thread that reads it. One piece of it is held at a time."""

    def __init__(self, incoming: Incoming, loop: asyncio.AbstractEventLoop, slow: threading.Semaphore) -> None:
        self._incoming = incoming
        self._loop = loop
        self._slow = slow
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        """See io.IOBase."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See io.RawIOBase.

        Raises:
            ClientDisconnected: the client has left before the body was whole.
            RequestTimeout: nothing more of it came for PIECE_S.
            TooBusy: too many others wait for theirs.
        """
        if not self._piece:
            self._piece = memoryview(self._next())
        size = min(len(buffer), len(self._piece))
        buffer[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size

    def _next(self) -> bytes:
        if not self._slow.acquire(timeout=TURN_S):
            raise TooBusy("too many clients of this node are slow to send what they have to say")
        try:
            return self._waited()
        finally:
            self._slow.release()

    def _waited(self) -> bytes:
        coming = asyncio.run_coroutine_threadsafe(self._incoming.piece(), self._loop)
        try:
            return coming.result(PIECE_S)
        except ClientGone:
            raise ClientDisconnected from None
        except TimeoutError:
            coming.cancel()
            raise RequestTimeout(f"nothing more of the body came for {PIECE_S:g} s") from None


def _nothing() -> None:
    pass


async def _nowhere(_: Message) -> None:
    pass
