"""What both clients' connections have in common: settings of httpx, and what its errors mean."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Mapping
from typing import Final

import httpx

from kvlog.client.messages import Answer, Failure
from kvlog.client.steps import Send

CONNECT_S = 0.9
"""How long a connection may take. What is to be closed within a second may be waiting for one."""

CONNECTIONS_MAX = 32
"""Connections that a client has at a time, apart from its watches. Further calls wait for one of them."""

ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""The largest answer: a page of the history, of a hundred values that JSON makes six times larger, is bounded by
the nodes at a few mebibytes."""

HEADERS: Final = {"User-Agent": "kvlog-client", "Accept-Encoding": "identity"}

LIMITS = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX)

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nodes speak plain HTTP: nobody's certificate is loaded, and nobody's would do."""

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def timeouts(seconds: float) -> httpx.Timeout:
    """The limits of a try; they hold for each wait in it, so that the whole is looked after besides."""
    return httpx.Timeout(seconds, connect=min(CONNECT_S, seconds))


def url(step: Send) -> str:
    """Where a request goes."""
    return f"http://{step.node}{step.request.target}"


def answer(step: Send, response: httpx.Response, body: bytes, sent_at: float) -> Answer:
    """An answer as the rest of the client knows it."""
    headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
    return Answer(step.node, response.status_code, headers, body, sent_at)


def failure(error: Exception) -> Failure:
    """Why there is no answer, in words, and whether the node may have got the request."""
    sent = not isinstance(error, _NOT_SENT)
    if isinstance(error, httpx.PoolTimeout):
        return Failure(f"all {CONNECTIONS_MAX} connections of this client were in use", sent)
    if isinstance(error, httpx.ConnectTimeout):
        return Failure("no connection in time", sent)
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return Failure("no answer in time", sent)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and cause.errno in errno.errorcode:
            return Failure(os.strerror(cause.errno).lower(), sent)
        cause = cause.__cause__ or cause.__context__
    return Failure(str(error) or type(error).__name__, sent)


TOO_LONG = Failure(f"its answer has more than {ANSWER_BYTES_MAX} bytes", sent=True)
TOO_SLOW = Failure("its answer did not end in time", sent=True)
