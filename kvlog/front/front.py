"""What Granian calls: handlers on the event loop for some paths, and for the rest WSGI on a pool of threads."""

from __future__ import annotations

import asyncio
import queue
import resource
import sys
import threading
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.server import Server
from granian.server.common import AbstractServer

from kvlog.errors import ClientGone, InvariantViolation, SettingsError, StoreFailure
from kvlog.front.exchange import (
    BROKEN,
    PROBLEM,
    Answer,
    AsyncHandler,
    Begin,
    Exchange,
    Headers,
    Incoming,
    Receive,
    Scope,
    Send,
    Shortcut,
    cut,
    give,
    problem_body,
    refuse,
    respond,
)
from kvlog.front.wsgi import BROKEN_OFF, Application, Call
from kvlog.guard import Guard
from kvlog.problems import RETRY_AFTER

THREADS = 576
"""Requests that the application works on at a time. Of them, writes.WRITES_MAX may be writes, reads.WAITING_MAX
reads that wait, and SLOW_MAX may wait for their bodies, so that a hundred are always free for what does not: local
reads, pushes, probes."""

SLOW_MAX = 64
"""Threads that may wait for the next piece of a body at a time: slow clients hold no more of them."""

WAITING_MAX = 1_024
"""Requests that may wait for a thread. One more is refused: its client had better try another node."""

CONNECTIONS_MAX = 4_096
"""Connections at a time, idle ones included: what is beyond them waits unanswered, a push or a forwarded write
like any other. So it is far more than there are threads."""

OTHER_DESCRIPTORS = 1_024
"""What a node needs besides its clients' connections: those to its peers and to ZooKeeper, files, pipes."""

DESCRIPTORS_MIN = 256
"""With fewer, a node could not do with half of them what it has to do besides serving clients."""

BODY_BYTES_BEFORE = 64 * 1024
"""A body of up to this length is read before a thread is taken, so that a slow client holds none."""

HEAD_S = 30.0
"""How long a head may take to come, from the end of the request before: an idle connection is closed then, too."""

BODY_S = 30.0
"""How long a body of up to BODY_BYTES_BEFORE may take to come."""

LENGTH_DIGITS_MAX = 20

HEAD_BYTES_MAX = 64 * 1024
"""A head of this length is read, and none of twice this length. It is also what the server reads ahead, and keeps
of an answer, on one connection."""


def allow_connections() -> int:
    """Raise the limit of this process's descriptors as far as may be; returns for how many connections it is good.

    A connection for which there is no descriptor could not even be refused.

    Raises:
        SettingsError: it may not be raised far enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + OTHER_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed < DESCRIPTORS_MIN:
        raise SettingsError(
            f"this process may have {allowed} open files and connections, and a node needs {DESCRIPTORS_MIN}, "
            f"better {wanted}: raise the limit (ulimit -Hn {wanted}), and start it again"
        )
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return min(CONNECTIONS_MAX, max(allowed // 2, allowed - OTHER_DESCRIPTORS))


def make_server(
    address: str, port: int, *, kill_s: int | None = None, head_s: float = HEAD_S
) -> AbstractServer[Any]:
    """The HTTP server; its target is a Front."""
    return Server(
        "kvlog",
        address=address,
        port=port,
        interface=Interfaces.ASGINL,
        loop=Loops.uvloop,
        workers=1,
        backpressure=allow_connections(),
        http1_settings=HTTP1Settings(header_read_timeout=round(head_s * 1000), max_buffer_size=HEAD_BYTES_MAX),
        # A connection of HTTP/2 may have many requests under way: their number would be bounded by nothing.
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        workers_kill_timeout=kill_s,
    )


ENDING_S = 1.0
"""How long the clients of streams have to read their ends when the node stops."""

STOPPING = "this node is stopping; ask another one"


class _AtOnce:
    """To be awaited where there is nothing to wait for."""

    def __await__(self) -> Generator[None]:
        return
        yield


_AT_ONCE = _AtOnce()


class Front:
    """What Granian calls with each request."""

    def __init__(
        self,
        app: Application,
        guard: Guard,
        *,
        handlers: Mapping[str, AsyncHandler] | None = None,
        shortcut: Shortcut | None = None,
        headers: Headers = (),
        threads: int = THREADS,
        waiting_max: int = WAITING_MAX,
        slow_max: int = SLOW_MAX,
        body_s: float = BODY_S,
    ) -> None:
        """``headers`` are those of the answers that neither the application nor a handler gives."""
        self._app = app
        self._guard = guard
        self._handlers = dict(handlers or {})
        self._shortcut = shortcut
        self._headers = tuple(headers)
        self._threads_max = threads
        self._most = threads + waiting_max
        self._body_s = body_s
        self._slow = threading.BoundedSemaphore(slow_max)
        self._queue: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._told: deque[Callable[[], None]] = deque()  # by other threads, to be called on the event loop
        self._waking = False
        # What follows is known to the event loop alone.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way = 0
        self._threads = 0
        self._stopping = False
        self._coming: dict[Incoming, float] = {}  # bodies that come, and until when, the first one first
        self._patience: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], tuple[Scope, Exchange]] = {}
        self._to_cut: list[Scope] = []
        self._cutting = asyncio.Lock()
        self._last_cut: asyncio.Task[None] | None = None  # what nobody holds may go before it is done

    def stop(self) -> None:
        """End the handlers that are under way, and start no other one; from any thread.

        The application goes on.
        """
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._stop)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """One request."""
        try:
            return self._take(scope, receive, send)
        except Exception as error:
            self._guard.ended_by(error)
            raise

    def _take(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.set_exception_handler(self._unexpected)
        handler = self._handlers.get(scope["path"])
        if handler is not None:
            return self._guarded(self._handle(handler, scope, Incoming(receive), send))
        if scope["method"] not in {"GET", "HEAD"}:
            size = body_length(scope)
            call = Call(scope, Incoming(receive), send, self._loop.create_future())
            if size is not None and size <= BODY_BYTES_BEFORE:
                return self._after_body(call, size)
            return self._submit(call)
        found = self._shortcut(scope, b"") if self._shortcut is not None else None
        if isinstance(found, tuple):
            give(send, found)
            return _AT_ONCE
        call = Call(scope, Incoming(receive), send, self._loop.create_future())
        return self._submit(call) if found is None else self._begin(found, call)

    # --- handlers on the event loop -----------------------------------------------------------------------

    async def _handle(self, handler: AsyncHandler, scope: Scope, incoming: Incoming, send: Send) -> None:
        """Run a handler until it has answered, its client leaves, or the node stops."""
        if self._stopping:
            self._refuse(send, STOPPING)
            return
        proto = Exchange(incoming, send)
        task = asyncio.create_task(handler(scope, proto))
        self._tasks[task] = scope, proto
        incoming.watch(task.cancel)
        try:
            await asyncio.wait((task,))
        finally:
            del self._tasks[task]
            incoming.close()
        await self._end(task, scope, proto, send)

    async def _end(self, task: asyncio.Task[None], scope: Scope, proto: Exchange, send: Send) -> None:
        """Bring an answer to its end, whatever its handler has made of it."""
        if task.cancelled() and not proto.answered:
            self._refuse(send, STOPPING)
            return
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreFailure | InvariantViolation):
            self._guard.ended_by(error)
        elif error is not None and not isinstance(error, ClientGone):
            traceback.print_exception(error, file=sys.stderr)
        if not proto.answered:
            headers = (PROBLEM, *self._headers)
            respond(send, HTTPStatus.INTERNAL_SERVER_ERROR, headers, problem_body("internal-error", BROKEN))
        elif proto.stream is not None:
            if error is not None:
                await self._cut(scope)
            proto.stream.end()

    async def _cut(self, scope: Scope) -> None:
        """Close a connection; those that are to be closed at the same time go together."""
        self._to_cut.append(scope)
        async with self._cutting:
            scopes, self._to_cut = self._to_cut, []
            if scopes:
                await asyncio.to_thread(cut, *scopes)

    def _stop(self) -> None:
        self._stopping = True
        streams = [scope for scope, proto in self._tasks.values() if proto.stream is not None]
        for task in tuple(self._tasks):
            task.cancel()
        if streams:
            asyncio.get_running_loop().call_later(ENDING_S, self._cut_off, streams)

    def _cut_off(self, streams: list[Scope]) -> None:
        """Close the connections of streams whose clients do not read the end: the server would wait for them."""
        self._last_cut = asyncio.create_task(asyncio.to_thread(cut, *streams))

    # --- the shortcut -------------------------------------------------------------------------------------

    def _begin(self, begin: Begin, call: Call) -> asyncio.Future[None]:
        """Begin what is answered later; what is begun is bounded by whoever carries it out."""
        begin(lambda make: self._tell(lambda: self._give(make, call)))
        return call.done

    def _give(self, make: Callable[[], Answer | None], call: Call) -> None:
        """Answer, or leave it to the application after all; once, however often that is told."""
        if call.told:
            return
        call.told = True
        answer = make()
        if answer is None:
            self._submit(call)
        else:
            give(call.send, answer)
            call.close()

    # --- the pool of threads ------------------------------------------------------------------------------

    async def _after_body(self, call: Call, size: int) -> None:
        """Take the shortcut, or a thread, once the body is there."""
        try:
            call.body = body = await self._whole(call, size)
            if body is None:
                return
            found = self._shortcut(call.scope, body) if self._shortcut is not None else None
            if isinstance(found, tuple):
                give(call.send, found)
            else:
                await (self._submit(call) if found is None else self._begin(found, call))
        except Exception as error:  # Granian would keep it to itself
            self._guard.ended_by(error)
            raise

    async def _whole(self, call: Call, size: int) -> bytes | None:
        """A small body, for which there is patience; None if it does not come, which its client has been told."""
        if not size:
            return b""
        loop, incoming = asyncio.get_running_loop(), call.incoming
        self._coming[incoming] = loop.time() + self._body_s
        if self._patience is None:
            self._patience = loop.call_later(self._body_s, self._lose_patience)
        try:
            return await incoming.whole(size)
        except ClientGone:  # or has sent what is no body: if it is there, it is told
            refuse(call.send, HTTPStatus.BAD_REQUEST, BROKEN_OFF, self._headers)
        except TimeoutError:
            what = f"the body has {size} bytes, and they did not come within {self._body_s:g} s"
            refuse(call.send, HTTPStatus.REQUEST_TIMEOUT, what, self._headers)
        finally:
            del self._coming[incoming]
        return None

    def _lose_patience(self) -> None:
        """Give up the bodies whose time is over. One timer does for all: mostly, they have come long before."""
        loop = asyncio.get_running_loop()
        self._patience = None
        for incoming, until in list(self._coming.items()):
            if until > loop.time():
                self._patience = loop.call_at(until, self._lose_patience)
                return
            incoming.give_up()

    def _submit(self, call: Call) -> asyncio.Future[None]:
        """Have a thread take the call as soon as one is free."""
        if self._under_way >= self._most:
            self._refuse(call.send, "this node has more to do than it can; try again, or ask another node")
            call.close()
            return call.done
        self._under_way += 1
        self._queue.put(call)
        if self._threads < min(self._under_way, self._threads_max):
            self._threads += 1
            threading.Thread(target=self._work, name=f"kvlog-http-{self._threads}", daemon=True).start()
        return call.done

    def _refuse(self, send: Send, reason: str) -> None:
        headers = (PROBLEM, RETRY_AFTER, *self._headers)
        respond(send, HTTPStatus.SERVICE_UNAVAILABLE, headers, problem_body("refused", reason, outcome="refused"))

    def _work(self) -> None:
        """A thread: one call after the other."""
        while True:
            call = self._queue.get()
            try:
                call.run(self._app, self._headers, self._slow)
            except BaseException:  # the guard hears of it
                call.loop.call_soon_threadsafe(self._thread_ended)
                raise
            finally:
                self._tell(partial(self._finished, call))

    def _thread_ended(self) -> None:
        self._threads -= 1

    def _finished(self, call: Call) -> None:
        self._under_way -= 1
        call.close()

    # --- from other threads -------------------------------------------------------------------------------

    def _tell(self, what: Callable[[], None]) -> None:
        """Have the event loop do something; one wake-up does for all that has gathered."""
        self._told.append(what)
        if not self._waking and self._loop is not None:
            self._waking = True
            self._loop.call_soon_threadsafe(self._listen)

    def _listen(self) -> None:
        self._waking = False
        while self._told:
            self._told.popleft()()

    # --- what nobody expects ------------------------------------------------------------------------------

    async def _guarded(self, work: Awaitable[None]) -> None:
        """Granian keeps the exception of a request to itself."""
        try:
            await work
        except Exception as error:
            self._guard.ended_by(error)
            raise

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback or a task of the event loop has ended by an exception."""
        error = context.get("exception")
        if isinstance(error, BaseException):
            self._guard.ended_by(error)
        else:
            loop.default_exception_handler(context)


def body_length(scope: Scope) -> int | None:
    """The length of a body, where it is told before the body comes; 0 where there is none."""
    length = 0
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length" and value.isdigit():
            if len(value) > LENGTH_DIGITS_MAX:  # the server lets none through; whoever reads the body refuses it
                return None
            length = int(value)
    return length
