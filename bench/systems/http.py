"""Requests on kept connections: what a program would do that has no client library for a system."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from kvlog.errors import Unavailable

ANSWER_S = 60.0
"""Seconds until an answer has to be there: a bulk write may be under way."""

IDLE_S = 1.0
"""Seconds after which a connection is not trusted any more: the server may have closed it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent; the address comes apart from it."""

    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Kept:
    connection: http.client.HTTPConnection
    used: float


class Http:
    """One kept connection per address; for one thread."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def ask(self, address: str, request: Request) -> tuple[int, bytes]:
        """The status and body of the answer.

        Raises:
            Unavailable: there was none. Whether the request was carried out is not known.
        """
        kept = self._kept.get(address)
        if kept is None or time.monotonic() - kept.used > IDLE_S:
            self.forget(address)
            kept = self._kept[address] = _Kept(http.client.HTTPConnection(address, timeout=ANSWER_S), 0.0)
        try:
            kept.connection.request(request.method, request.path, request.body, request.headers)
            with kept.connection.getresponse() as response:
                said = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self.forget(address)
            raise Unavailable(f"{request.method} {request.path} was not answered: {error!r}") from error
        kept.used = time.monotonic()
        return said

    def json(self, address: str, request: Request, *, expected: int = 200) -> Any:
        """The body of an answer in JSON.

        Raises:
            Unavailable: the answer is not that.
        """
        status, body = self.ask(address, request)
        if status != expected:
            raise Unavailable(f"{request.method} {request.path} was answered {status}: {body[:500]!r}")
        try:
            return json.loads(body)
        except ValueError as error:
            raise Unavailable(
                f"{request.method} {request.path} was not answered in JSON: {body[:500]!r}"
            ) from error

    def forget(self, address: str) -> None:
        """Close the connection to an address, if there is one."""
        kept = self._kept.pop(address, None)
        if kept is not None:
            kept.connection.close()

    def close(self) -> None:
        """Close all connections."""
        for address in list(self._kept):
            self.forget(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def posted(path: str, body: Any) -> Request:
    """A POST of something in JSON."""
    return Request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
