"""Carries out calls in the caller's own thread; opens the streams of watches."""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing, suppress
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


class Closeable(Protocol):
    """What a client that is closed closes as well."""

    def close(self) -> None:
        """End it; any thread may ask for that."""


class Caller:
    """A client's connections, and the one way in which anything is asked through them. Any thread may use it."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.closing = threading.Event()
        self._open: weakref.WeakSet[Closeable] = weakref.WeakSet()
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(verify=network.NO_TLS, trust_env=False, limits=network.LIMITS),
            headers=network.HEADERS,
            trust_env=False,
        )

    def do(self, call: Call[T], *, timeout: float | None = None, node: str | None = None) -> T:
        """Carry out a call; by default, within the client's time and at any node.

        Raises:
            ClientError: there is no result.
        """
        limit = self.shared.timeout if timeout is None else timeout
        return self.drive(steps(call, self.shared, clock, limit, node=node))

    def drive(self, run: Steps[T], stream: Stream | None = None) -> T:
        """Take a call's steps one by one; what it sends opens the stream, if there is one."""
        try:
            step = next(run)
            while True:
                self._check_open(stream)
                if isinstance(step, Pause):
                    (self if stream is None else stream).closing.wait(step.seconds)
                    self._check_open(stream)
                    step = next(run)
                else:
                    step = run.send(self._send(step) if stream is None else stream.open(step))
        except StopIteration as end:
            result: T = end.value
            return result

    def adopt(self, child: Closeable) -> None:
        """Close this, too, when the client is closed."""
        self._open.add(child)

    def close(self) -> None:
        """Ask nothing any more."""
        self.closing.set()
        for child in list(self._open):
            child.close()
        self._http.close()

    def _check_open(self, stream: Stream | None) -> None:
        if self.closing.is_set() or (stream is not None and stream.closing.is_set()):
            raise Closed("the client, or the watch, has been closed; what was asked last may have happened")

    def _send(self, step: Send) -> Answer | Failure:
        sent_at = clock()
        request = step.request
        try:
            with self._http.stream(
                request.method,
                network.url(step),
                headers=dict(request.headers),
                content=request.body or None,
                timeout=network.timeouts(step.seconds),
            ) as response:
                return _whole(step, response, sent_at)
        except httpx.HTTPError as error:
            return network.failure(error)


class Stream:
    """An answer without an end, on a connection of its own. One thread reads it; any thread may end it."""

    def __init__(self, silence: float) -> None:
        self.closing = threading.Event()
        self._silence = silence
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(
                verify=network.NO_TLS, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
            ),
            headers=network.HEADERS,
            trust_env=False,
        )

    @property
    def is_open(self) -> bool:
        """Whether there is an answer to read."""
        return self._response is not None

    def open(self, step: Send) -> Answer | Failure:
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
            response = self._http.send(request, stream=True)
            if response.status_code != HTTPStatus.OK:
                with closing(response):
                    return _whole(step, response, sent_at)
        except httpx.HTTPError as error:
            self.release()
            return network.failure(error)
        request.extensions["timeout"]["read"] = self._silence  # its body may pause for longer than its head
        self._response, self._pieces = response, response.iter_raw()
        return network.answer(step, response, b"", sent_at)

    def read(self) -> bytes | Failure:
        """What comes next, or why nothing does; after that it is not open."""
        try:
            return next(self._pieces)
        except StopIteration:
            reason = Failure("the node has ended the stream", sent=True)
        except httpx.TimeoutException:
            reason = Failure(f"the node has been silent for {self._silence:g} s", sent=True)
        except httpx.HTTPError as error:
            reason = network.failure(error)
        self.release()
        return reason

    def interrupt(self) -> None:
        """Whoever reads need not wait any longer."""
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):  # its other end has just closed it
                    self._socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Give the connection back; for the thread that reads."""
        with self._lock:
            self._socket = None
        response, self._response, self._pieces = self._response, None, iter(())
        if response is not None:
            response.close()

    def close(self) -> None:
        """Give everything back; for the thread that reads."""
        self.release()
        self._http.close()

    def _trace(self, name: str, info: dict[str, Any]) -> None:
        if name != "connection.connect_tcp.complete":
            return
        with self._lock:
            self._socket = info["return_value"].get_extra_info("socket")
        if self.closing.is_set():
            self.interrupt()


def _whole(step: Send, response: httpx.Response, sent_at: float) -> Answer | Failure:
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > network.ANSWER_BYTES_MAX:
            return network.TOO_LONG
        if clock() > sent_at + step.seconds:
            return network.TOO_SLOW
    return network.answer(step, response, bytes(body), sent_at)
