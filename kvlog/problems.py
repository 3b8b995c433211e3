"""What is answered over HTTP instead of a result: problem details (RFC 9457). All kinds of them are in this table.

``type`` tells programs which problem it is, ``title`` says the same to people, ``detail`` says what happened this
time, what it means, and what to do; some types have further members.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple

from kvlog.errors import (
    Behind,
    GapsInHistory,
    HistoryTrimmed,
    InvalidInput,
    KvlogError,
    SlowReader,
    TooBusy,
    TooManyKeys,
    TooStale,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"

TYPE = "kvlog:"
"""How the types begin. A URI needs not lead anywhere (RFC 9457, 3.1.1)."""

RETRY_AFTER = ("Retry-After", "1")
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
    "slow-reader": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "This client does not keep up", ("resume",)),
    "behind": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "This node has not come that far in time"),
    "refused": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "It did not happen, and will not", ("outcome",)),
    "unavailable": Kind(HTTPStatus.SERVICE_UNAVAILABLE, "Something that this needs does not answer"),
    "unknown": Kind(HTTPStatus.GATEWAY_TIMEOUT, "It is not known whether it happened", ("outcome", "request")),
}
"""The types of problems, without what they begin with."""

PASSING = frozenset(("behind", "refused", "unavailable"))
"""What mostly passes by itself: try again after RETRY_AFTER."""

OF_STATUS = {
    HTTPStatus.BAD_REQUEST: "bad-request",
    HTTPStatus.NOT_FOUND: "no-such-route",
    HTTPStatus.METHOD_NOT_ALLOWED: "method-not-allowed",
    HTTPStatus.CONFLICT: "conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too-large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported-media-type",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal-error",
}
"""The type, where only the status is known."""

OF_ERROR: dict[type[KvlogError], tuple[str, str]] = {
    GapsInHistory: ("stale-store", ""),
    Behind: ("behind", "; try again, ask another node, or give it more time with timeout_ms="),
    TooStale: ("too-stale", "; ask another node, or allow more"),
    TooManyKeys: ("too-many-keys", ""),
    SlowReader: ("slow-reader", ""),
    TooBusy: ("refused", "; try again, or ask another node"),
    Unavailable: ("unavailable", "; try again, or ask another node"),
}
"""The type, and what to do where the error does not say it."""

ANSWERED: tuple[type[KvlogError], ...] = (InvalidInput, HistoryTrimmed, *OF_ERROR)
"""The errors that are answers to a request."""


def details(kind: str, detail: str, **members: Any) -> dict[str, Any]:
    """The body that tells of a problem of the type ``kind``: ``detail`` is the sentence for people."""
    status, title, _ = KINDS[kind]
    return {"type": TYPE + kind, "title": title, "status": status.value, "detail": detail, **members}


def details_of(error: KvlogError) -> tuple[str, dict[str, Any]]:
    """The kind of problem that one of ANSWERED is, and the body that tells of it."""
    if isinstance(error, InvalidInput):
        kind = error.problem or OF_STATUS.get(HTTPStatus(error.status), "bad-request")
        return kind, details(kind, str(error))
    if isinstance(error, HistoryTrimmed):
        return "history-trimmed", details("history-trimmed", f"{error}; ask for a later one", floor=error.floor)
    kind, advice = next(OF_ERROR[each] for each in type(error).__mro__ if each in OF_ERROR)
    outcome = {"outcome": "refused"} if kind == "refused" else {}
    return kind, details(kind, f"{error}{advice}", **outcome)


def details_of_status(status: int, detail: str) -> dict[str, Any]:
    """The body that tells of a problem of which only the HTTP status says what it is."""
    known = HTTPStatus(status)
    if known in OF_STATUS:
        return details(OF_STATUS[known], detail)
    return {"type": "about:blank", "title": known.phrase, "status": known.value, "detail": detail}
