"""One request as Granian gives it to the event loop (ASGI), and the answer to it, for a handler there."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from kvlog.errors import ClientGone
from kvlog.problems import MEDIA_TYPE, details, details_of_status

Scope = dict[str, Any]
"""The head of a request: ``method``, ``path`` (decoded); as bytes ``raw_path``, ``query_string``, ``headers``."""

Message = dict[str, Any]
Result = TypeVar("Result")
Receive = Callable[[], Awaitable[Message]]

Send = Callable[[Message], Awaitable[None]]
"""Granian acts on a message when it is called with it, on whichever thread; what it returns is to be waited for
until the transport can take another one."""

Headers = Iterable[tuple[str, str]]

PROBLEM = ("Content-Type", MEDIA_TYPE)
BROKEN = "an error inside this node; its log says more"


def query_of(scope: Scope) -> str:
    """The query as text, not decoded yet.

    Raises:
        UnicodeDecodeError: what is not percent-encoded in it is not UTF-8.
    """
    query: bytes = scope["query_string"]
    return query.decode()


def problem_body(kind: str, detail: str, **members: str) -> bytes:
    """The body of an answer that says why there is no other one; ``kind`` is one of problems.KINDS."""
    return json.dumps(details(kind, detail, **members)).encode() + b"\n"


def refuse(send: Send, status: int, detail: str, headers: Headers) -> None:
    """Answer a request that is not whole, and never will be: its connection is of no more use."""
    body = json.dumps(details_of_status(status, detail)).encode() + b"\n"
    respond(send, status, (PROBLEM, ("Connection", "close"), *headers), body)


def start(send: Send, status: int, headers: Headers) -> Awaitable[None]:
    """Begin an answer. Granian sends its head with the first piece of the body, an event stream's at once."""
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return send({"type": "http.response.start", "status": status, "headers": encoded})


def piece(send: Send, data: bytes, *, more: bool) -> Awaitable[None]:
    """The next piece of an answer's body."""
    return send({"type": "http.response.body", "body": data, "more_body": more})


def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A whole answer at once: there is nothing to be waited for."""
    start(send, status, headers)
    piece(send, body, more=False)


Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""A whole answer, ready to be sent: status, headers, body."""

Reply = Callable[[Callable[[], Answer | None]], None]
"""Takes, on any thread, what will make the answer on the event loop; that makes None where the application is to
answer after all."""

Begin = Callable[[Reply], None]
"""Begins what a request asks for, on the event loop, and waits for nothing: ``Reply`` is called once it is done.
What it is given first counts."""

Shortcut = Callable[[Scope, bytes], Answer | Begin | None]
"""Answers some requests on the event loop, at once or later, in place of the application, which would answer the
same; None: this one is the application's. It gets the head of a request, and the whole of its body."""


def give(send: Send, answer: Answer) -> None:
    """Send a whole answer that is encoded already."""
    status, headers, body = answer
    send({"type": "http.response.start", "status": status, "headers": headers})
    send({"type": "http.response.body", "body": body, "more_body": False})


def cut(*scopes: Scope) -> None:
    """Close the connections of requests whose answers break off, so that nobody takes them for whole.

    Granian would end the answers as if that were all of them, and has no call for this. All that the process has
    open is looked through, once for all: with thousands of connections this takes milliseconds, so it is not for
    the event loop.
    """
    clients = {(scope["client"][0], int(scope["client"][1])) for scope in scopes}
    for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - ten times as fast
        if _peer(descriptor) in clients:
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                if (
                    connection.getpeername()[:2] in clients
                ):  # else it has been closed meanwhile, and is another one
                    connection.shutdown(socket.SHUT_RDWR)


def _peer(descriptor: int) -> tuple[str, int] | None:
    """Who is connected, if this is a connection."""
    try:
        # Known to be none: to close a copy of a file's descriptor would give up all locks on the file.
        found = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    except OSError:
        return None
    try:
        peer: tuple[str, int] = found.getpeername()[:2]
    except OSError:
        return None
    finally:
        found.detach()
    return peer


class Incoming:
    """What the client sends after the head of its request, and whether it is still there.

    For the event loop only; ``gone`` may be read on any thread. One piece of the body is held at most.
    """

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._receive = receive
        self._asked: asyncio.Future[Message] | None = None
        self._waited: Any = None  # what Granian gives: it looks like a future, and is none
        self._given_up = False
        self._piece = b""
        self._ended = False
        self._on_gone: Callable[[], object] | None = None

    async def whole(self, size: int) -> bytes:
        """A body of ``size`` bytes, of which nothing has been asked for yet.

        Raises:
            ClientGone: it does not come.
            TimeoutError: it was given up meanwhile.
        """
        pieces: list[bytes] = []
        while size > 0:
            if self._given_up:
                raise TimeoutError
            self._waited = self._receive()
            try:
                message = await self._waited
            except asyncio.CancelledError:
                if self._given_up:
                    raise TimeoutError from None
                raise
            data: bytes = message.get("body", b"")
            size -= len(data)
            pieces.append(data)
            if size > 0 and not message.get("more_body"):
                self.gone = True
                raise ClientGone
        self._ended = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def give_up(self) -> None:
        """Wait no longer for the whole body. What has come of it is dropped."""
        self._given_up = True
        if self._waited is not None:
            self._waited.cancel()

    async def piece(self) -> bytes:
        """The next piece of the body; empty at its end.

        Raises:
            ClientGone: it will never be whole.
        """
        while not self._piece:
            if self.gone:
                raise ClientGone
            if self._ended:
                return b""
            # What has been asked for comes, whether it is waited for any longer or not. It may be there already,
            # and its callback still to be called: waiting for that without taking it in would never end.
            asked = self._ask()
            await asyncio.shield(asked)
            self._told(asked)
        data, self._piece = self._piece, b""
        return data

    def watch(self, on_gone: Callable[[], object]) -> None:
        """Find out when the client leaves, and call ``on_gone`` then.

        It is told only to who waits for more of the request: not while a piece of the body is held that nobody
        takes.
        """
        self._on_gone = on_gone
        if self.gone:
            on_gone()
        elif not self._piece:
            self._ask()

    def close(self) -> None:
        """Nothing more is asked for: Granian closes a connection once nobody can ask for the rest of the body.

        Nor does anybody wait any more for what has been asked for: that would keep it open for as long.
        """
        self._receive = _closed
        self._on_gone = None
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.cancel()

    def _ask(self) -> asyncio.Future[Message]:
        if self._asked is None:
            # A task, although Granian gives something like a future: that one has room for one callback only.
            self._asked = asyncio.create_task(awaited(self._receive()))
            self._asked.add_done_callback(self._told)
        return self._asked

    def _told(self, asked: asyncio.Future[Message]) -> None:
        """Take in what has come, once."""
        if asked is not self._asked:
            return
        self._asked = None
        message = asked.result()
        if message["type"] == "http.disconnect":
            self.gone = True
            if self._on_gone is not None:
                self._on_gone()
            return
        self._piece = message["body"]
        self._ended = not message["more_body"]
        if self._on_gone is not None and not self._piece:
            self._ask()


async def awaited(result: Awaitable[Result]) -> Result:
    """As a coroutine, what can only be awaited."""
    return await result


async def _closed() -> Message:
    return {"type": "http.disconnect"}


class Exchange:
    """How a handler on the event loop answers one request; what it knows as ``proto``."""

    def __init__(self, incoming: Incoming, send: Send) -> None:
        self.answered = False
        self.stream: Stream | None = None
        self._incoming = incoming
        self._send = send

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        """Give the whole answer, which is small."""
        self.answered = True
        respond(self._send, status, headers, body)

    def response_stream(self, status: int, headers: Headers) -> Stream:
        """Begin an answer that is given piece by piece; it ends with the handler.

        Its head is sent with the first piece, that of an event stream (text/event-stream) at once.
        """
        self.answered = True
        start(self._send, status, headers)
        self.stream = Stream(self._incoming, self._send)
        return self.stream


class Stream:
    """The body of an answer that is given piece by piece."""

    def __init__(self, incoming: Incoming, send: Send) -> None:
        self._incoming = incoming
        self._send = send

    async def send_bytes(self, data: bytes) -> None:
        """The next piece; waits until the transport can take another one: a slow client holds up its handler.

        Raises:
            ClientGone: nobody is there any more to read it.
        """
        if self._incoming.gone:
            raise ClientGone
        await piece(self._send, data, more=True)

    def end(self) -> None:
        """There is nothing more to come."""
        piece(self._send, b"", more=False)


AsyncHandler = Callable[[Scope, Exchange], Coroutine[Any, Any, None]]
"""Answers a request on the event loop. It is cancelled when its client leaves, and when the node stops."""
