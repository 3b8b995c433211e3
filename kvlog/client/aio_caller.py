"""Carries out calls for asyncio; opens the streams of watches. The twin of caller."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

import httpx

from kvlog.client import network
from kvlog.client.attempts import Pause
from kvlog.client.errors import Closed
from kvlog.client.messages import Answer, Call, Failure
from kvlog.client.shared import Shared, clock
from kvlog.client.steps import Send, Steps, steps

T = TypeVar("T")


class AsyncCloseable(Protocol):
    """What a client that is closed closes as well."""

    async def aclose(self) -> None:
        """End it; any task may ask for that."""


class AsyncCaller:
    """A client's connections, and the one way in which anything is asked through them."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.closing = asyncio.Event()
        self._open: weakref.WeakSet[AsyncCloseable] = weakref.WeakSet()
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=network.NO_TLS, trust_env=False, limits=network.LIMITS),
            headers=network.HEADERS,
            trust_env=False,
        )

    async def do(self, call: Call[T], *, timeout: float | None = None, node: str | None = None) -> T:
        """See Caller.do."""
        limit = self.shared.timeout if timeout is None else timeout
        return await self.drive(steps(call, self.shared, clock, limit, node=node))

    async def drive(self, run: Steps[T], stream: AsyncStream | None = None) -> T:
        """See Caller.drive."""
        try:
            step = next(run)
            while True:
                self._check_open(stream)
                if isinstance(step, Pause):
                    await wait((self if stream is None else stream).closing, step.seconds)
                    self._check_open(stream)
                    step = next(run)
                else:
                    step = run.send(await (self._send(step) if stream is None else stream.open(step)))
        except StopIteration as end:
            result: T = end.value
            return result

    def adopt(self, child: AsyncCloseable) -> None:
        """Close this, too, when the client is closed."""
        self._open.add(child)

    async def aclose(self) -> None:
        """Ask nothing any more."""
        self.closing.set()
        for child in list(self._open):
            await child.aclose()
        await self._http.aclose()

    def _check_open(self, stream: AsyncStream | None) -> None:
        if self.closing.is_set() or (stream is not None and stream.closing.is_set()):
            raise Closed("the client, or the watch, has been closed; what was asked last may have happened")

    async def _send(self, step: Send) -> Answer | Failure:
        sent_at = clock()
        request = step.request
        try:
            async with self._http.stream(
                request.method,
                network.url(step),
                headers=dict(request.headers),
                content=request.body or None,
                timeout=network.timeouts(step.seconds),
            ) as response:
                return await _whole(step, response, sent_at)
        except httpx.HTTPError as error:
            return network.failure(error)


class AsyncStream:
    """An answer without an end, on a connection of its own. One task reads it; any task may end it."""

    def __init__(self, silence: float) -> None:
        self.closing = asyncio.Event()
        self._silence = silence
        self._socket: socket.socket | None = None
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                verify=network.NO_TLS, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
            ),
            headers=network.HEADERS,
            trust_env=False,
        )

    @property
    def is_open(self) -> bool:
        """Whether there is an answer to read."""
        return self._response is not None

    async def open(self, step: Send) -> Answer | Failure:
        """Ask for it; an answer that is an error comes back as a whole."""
        sent_at = clock()
        request = self._http.build_request(
            step.request.method,
            network.url(step),
            headers=dict(step.request.headers),
            timeout=network.timeouts(step.seconds),
            extensions={"trace": self._trace},
        )
        try:
            response = await self._http.send(request, stream=True)
            if response.status_code != HTTPStatus.OK:
                async with aclosing(response):
                    return await _whole(step, response, sent_at)
        except httpx.HTTPError as error:
            await self.release()
            return network.failure(error)
        request.extensions["timeout"]["read"] = self._silence  # its body may pause for longer than its head
        self._response, self._pieces = response, response.aiter_raw()
        return network.answer(step, response, b"", sent_at)

    async def read(self) -> bytes | Failure:
        """What comes next, or why nothing does; after that it is not open."""
        reason = Failure("the node has ended the stream", sent=True)
        try:
            if self._pieces is not None:
                return await anext(self._pieces)
        except StopAsyncIteration:
            pass  # the reason is there
        except httpx.TimeoutException:
            reason = Failure(f"the node has been silent for {self._silence:g} s", sent=True)
        except httpx.HTTPError as error:
            reason = network.failure(error)
        await self.release()
        return reason

    def interrupt(self) -> None:
        """Whoever reads need not wait any longer."""
        if self._socket is not None:
            with suppress(OSError):  # its other end has just closed it
                self._socket.shutdown(socket.SHUT_RDWR)

    async def release(self) -> None:
        """Give the connection back; for the task that reads."""
        self._socket = None
        response, self._response, self._pieces = self._response, None, None
        if response is not None:
            await response.aclose()

    async def aclose(self) -> None:
        """Give everything back; for the task that reads."""
        await self.release()
        await self._http.aclose()

    async def _trace(self, name: str, info: dict[str, Any]) -> None:
        if name != "connection.connect_tcp.complete":
            return
        self._socket = info["return_value"].get_extra_info("socket")
        if self.closing.is_set():
            self.interrupt()


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, and for so long at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _whole(step: Send, response: httpx.Response, sent_at: float) -> Answer | Failure:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > network.ANSWER_BYTES_MAX:
            return network.TOO_LONG
        if clock() > sent_at + step.seconds:
            return network.TOO_SLOW
    return network.answer(step, response, bytes(body), sent_at)
