"""What is answered instead of a result: problem details (RFC 9457). Every error of every route is in this table.

``type`` tells programs which problem it is, ``title`` says the same to people, ``detail`` says what happened this
time, what it means, and what to do; some types have further members.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple

from kvlog.api.answers import View
from kvlog.errors import (
    Behind,
    GapsInHistory,
    HistoryTrimmed,
    InvalidInput,
    KvlogError,
    TooManyKeys,
    TooStale,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"

TYPE = "kvlog:"
"""How the types begin. A URI needs not lead anywhere (RFC 9457, 3.1.1)."""

RETRY_AFTER = {"Retry-After": "1"}
"""Seconds: what passes by itself has mostly passed by then."""


class Kind(NamedTuple):
    """A type of problem: its HTTP status and title, and the members that it adds."""

    status: HTTPStatus
    title: str
    members: tuple[str, ...] = ()


KINDS = {
    "bad-request": Kind(HTTPStatus.BAD_REQUEST, "The request makes no sense"),
    "not-found": Kind(HTTPStatus.NOT_FOUND, "There is no such key", ("revision",)),
    "no-such-route": Kind(HTTPStatus.NOT_FOUND, "There is no such path"),
    "no-such-request": Kind(HTTPStatus.NOT_FOUND, "This node does not know the request", ("id", "revision")),
    "no-such-lease": Kind(HTTPStatus.NOT_FOUND, "There is no such lease"),
    "method-not-allowed": Kind(HTTPStatus.METHOD_NOT_ALLOWED, "The path has other methods"),
    "conflict": Kind(HTTPStatus.CONFLICT, "The state of the node or of the cluster does not allow it"),
    "cancelled": Kind(HTTPStatus.CONFLICT, "The write was cancelled", ("outcome",)),
    "not-leader": Kind(HTTPStatus.CONFLICT, "Another node leads", ("leader",)),
    "history-trimmed": Kind(HTTPStatus.GONE, "That part of the past is not kept any more", ("floor",)),
    "log-trimmed": Kind(HTTPStatus.GONE, "That part of the log is not there any more", ("first_index",)),
    "condition-failed": Kind(HTTPStatus.PRECONDITION_FAILED, "The condition does not hold", ("revision",)),
    "too-stale": Kind(HTTPStatus.PRECONDITION_FAILED, "This node may be older than the request allows"),
    "too-large": Kind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too large"),
    "unsupported-media-type": Kind(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be of another type"),
    "id-reused": Kind(
        HTTPStatus.UNPROCESSABLE_ENTITY, "The Idempotency-Key belongs to another write", ("outcome",)
    ),
    "too-many-keys": Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "Too many keys at once"),
    "internal-error": Kind(HTTPStatus.INTERNAL_SERVER_ERROR, "An error inside this node"),
    "stale-store": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "This node's store has missed entries"),
    "behind": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "This node has not come that far in time"),
    "refused": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "It did not happen, and will not", ("outcome",)),
    "unavailable": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "Something that this needs does not answer"),
    "unknown": Kind(HTTPStatus.GATEWAY_TIMEOUT, "It is not known whether it happened", ("outcome", "request")),
}
"""The types of problems, without what they begin with."""

_PASSING = ("behind", "refused", "unavailable")
"""What mostly passes by itself."""

_OF_STATUS = {
    HTTPStatus.BAD_REQUEST: "bad-request",
    HTTPStatus.NOT_FOUND: "no-such-route",
    HTTPStatus.METHOD_NOT_ALLOWED: "method-not-allowed",
    HTTPStatus.CONFLICT: "conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too-large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported-media-type",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal-error",
}
"""The type, where only the status is known."""

_OF_ERROR: dict[type[KvlogError], tuple[str, str]] = {
    GapsInHistory: ("stale-store", ""),
    Behind: ("behind", "; try again, ask another node, or give it more time with timeout_ms="),
    TooStale: ("too-stale", "; ask another node, or allow more"),
    TooManyKeys: ("too-many-keys", ""),
    Unavailable: ("unavailable", "; try again, or ask another node"),
}
"""The type, and what to do where the error does not say it."""

ANSWERED = (InvalidInput, HistoryTrimmed, *_OF_ERROR)
"""The errors that are answers to a request."""


def problem(kind: str, detail: str, headers: dict[str, str] | None = None, **members: Any) -> View:
    """The answer that tells of a problem of the type ``kind``."""
    status, title, _ = KINDS[kind]
    body = {"type": TYPE + kind, "title": title, "status": status.value, "detail": detail, **members}
    passing = RETRY_AFTER if kind in _PASSING else {}
    return View(body, status, passing | (headers or {}), MEDIA_TYPE)


def of_status(status: int, detail: str, headers: dict[str, str] | None = None) -> View:
    """The answer to a request that was refused below the routes, where the HTTP status says why."""
    try:
        known = HTTPStatus(status)
    except ValueError:
        known = HTTPStatus.INTERNAL_SERVER_ERROR
    if known in _OF_STATUS:
        return problem(_OF_STATUS[known], detail, headers)
    body = {"type": "about:blank", "title": known.phrase, "status": known.value, "detail": detail}
    return View(body, known, headers or {}, MEDIA_TYPE)


def of_error(error: KvlogError) -> View:
    """The answer that one of ANSWERED stands for."""
    if isinstance(error, InvalidInput):
        return problem(error.problem, str(error)) if error.problem else of_status(error.status, str(error))
    if isinstance(error, HistoryTrimmed):
        return problem("history-trimmed", f"{error}; ask for a later one", floor=error.floor)
    kind, advice = next(_OF_ERROR[each] for each in type(error).__mro__ if each in _OF_ERROR)
    return problem(kind, f"{error}{advice}")
