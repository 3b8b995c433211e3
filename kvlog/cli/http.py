"""Asking nodes over HTTP, bounded in time and size: the first of several that works, or one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ReadTimeoutError

from kvlog.client.wire import UNREADABLE
from kvlog.errors import CommandFailed, Unavailable

CONNECT_S = 3.0
ANSWER_S = 10.0
BODY_BYTES_MAX = 4 * 1024 * 1024


class MemberSeen(msgspec.Struct, frozen=True):
    """A member, as another node sees it."""

    node: str
    address: str


class LastEntry(msgspec.Struct, frozen=True):
    """How the last entry came to a node: ``append``, ``push``, ``watch``, ``poll`` or ``replay``."""

    path: str


class NodeStatus(msgspec.Struct, frozen=True):
    """What the commands need of GET /v1/status.

    ``halted_at``: the entry at which the node has halted. ``replicas``: whom the cluster counts on, up or not.
    ``staleness_ms``: the time since the node last had everything that was in the log; None if it never had.
    ``last_entry``: how the last entry came to it; None if it does not know, or does not say it.
    """

    node: str
    address: str
    role: str
    revision: int
    applied_index: int
    tail_index: int
    stale: bool
    missed_entries: int
    ready: bool
    reason: str
    members: tuple[MemberSeen, ...]
    leader: MemberSeen | None = None
    halted_at: int | None = None
    staleness_ms: int | None = None
    last_entry: LastEntry | None = None
    replicas: tuple[MemberSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A node's answer: its URL, the HTTP status, and the JSON body."""

    url: str
    status: int
    body: dict[str, Any]

    @property
    def reason(self) -> str:
        """What the node says is wrong."""
        return str(self.body.get("detail") or self.body.get("reason") or f"HTTP status {self.status}")


class Nodes:
    """The nodes that may be asked, in this order."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)
        self._pool = urllib3.PoolManager(num_pools=16, maxsize=16, retries=False)

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_s: float = ANSWER_S,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer of the first node that gives one which is not its own trouble (5xx).

        Only for what may be asked twice, by itself or by an Idempotency-Key among the ``headers``: a node whose
        answer is lost may have done it.

        Raises:
            Unavailable: no node gave such an answer; says of each what it did.
        """
        reasons = []
        for url in self.urls:
            try:
                answer = self.ask_one(url, method, path, body, timeout_s=timeout_s, headers=headers)
            except Unavailable as error:
                reasons.append(str(error))
                continue
            if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return answer
            reasons.append(f"{url} answers {answer.status}: {answer.reason}")
        raise Unavailable("; ".join(reasons) + "; name a node that works with --node http://HOST:PORT")

    def ask_one(
        self,
        url: str,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_s: float = ANSWER_S,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One node's answer.

        Raises:
            Unavailable: it cannot be reached, does not answer in time, or is no node of kvlog.
        """
        kind = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = self._pool.request(
                method,
                f"{url}{path}",
                body=None if body is None else msgspec.json.encode(body),
                headers={**kind, **(headers or {})},
                timeout=urllib3.Timeout(connect=CONNECT_S, read=timeout_s),
                redirect=False,
                preload_content=False,
            )
            with response:
                data = response.read(BODY_BYTES_MAX + 1)
        except HTTPError as error:
            raise Unavailable(f"{url} does not answer: {why(error)}") from error
        if len(data) > BODY_BYTES_MAX:
            raise Unavailable(f"{url}{path} answers with more than {BODY_BYTES_MAX} bytes: it is no node of kvlog")
        try:
            return Answer(url, response.status, msgspec.json.decode(data, type=dict[str, Any]))
        except UNREADABLE as error:
            raise Unavailable(
                f"{url}{path} answers {response.status}, but not in JSON: it is no node of kvlog"
            ) from error

    def status(self) -> NodeStatus:
        """GET /v1/status of the first node that works."""
        return _decode(self.ask("GET", "/v1/status"))

    def status_of(self, url: str) -> tuple[NodeStatus, dict[str, Any]]:
        """GET /v1/status of one node: what the commands need of it, and all of it."""
        answer = self.ask_one(url, "GET", "/v1/status")
        return _decode(answer), answer.body

    def stream(self, url: str, path: str, *, pause_s: float) -> urllib3.BaseHTTPResponse:
        """An answer whose body is still to be read; at most ``pause_s`` may pass without any of it.

        Raises:
            Unavailable: it cannot be reached, or does not answer in time.
        """
        try:
            return self._pool.request(
                "GET",
                f"{url}{path}",
                timeout=urllib3.Timeout(connect=CONNECT_S, read=pause_s),
                redirect=False,
                preload_content=False,
            )
        except HTTPError as error:
            raise Unavailable(f"{url} does not answer: {why(error)}") from error


def why(error: HTTPError) -> str:
    """What went wrong, without the names of Python objects."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return "nothing has come in time" if isinstance(error, ConnectTimeoutError | ReadTimeoutError) else str(error)


def done(answer: Answer, what: str) -> dict[str, Any]:
    """The body of an answer that says that it was done.

    Raises:
        CommandFailed: it says anything else.
    """
    if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return answer.body
    raise CommandFailed(f"{answer.url} does not {what} ({answer.status}): {answer.reason}")


def segment(text: str) -> str:
    """A text as one part of a URL's path."""
    return quote(text, safe="")


def _decode(answer: Answer) -> NodeStatus:
    if answer.status != HTTPStatus.OK:
        raise Unavailable(f"{answer.url} answers {answer.status}: {answer.reason}")
    try:
        return msgspec.convert(answer.body, NodeStatus)
    except msgspec.ValidationError as error:
        raise Unavailable(
            f"{answer.url}/v1/status is not what this version knows ({error}): it is another program, or another "
            "version of kvlog; use the command line of the version that runs there"
        ) from error
