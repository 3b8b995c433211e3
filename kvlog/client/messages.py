"""What goes to a node and comes back, and what a call is: a request, and how its answers are read. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kvlog.client.errors import ClientError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; ``target`` is path and query, percent-encoded as it goes over the wire."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer as a whole.

    Attributes:
        node: the address of the node that was asked.
        status: the HTTP status.
        headers: names in lower case.
        body: its bytes.
        sent_at: the client's clock before the request was sent.
    """

    node: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_at: float = 0.0

    @property
    def revision(self) -> int:
        """That of the state from which it was answered; 0 if it does not say."""
        return whole_number(self.headers.get("kvlog-revision", ""))


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer. ``sent``: the node may have got the request."""

    reason: str
    sent: bool


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The call's result; ``revision`` is one that the cluster has reached, 0 if it tells of none."""

    value: T
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """An answer that does not end the call: another node, or the same one later, may know better.

    Attributes:
        reason: what it says.
        in_doubt: a write may have happened nevertheless.
        refused: the node has understood what was asked, and has not done it.
        retry_after: seconds for which the node wants to be left alone.
        error: what the answer comes to if no node knows better.
    """

    reason: str
    in_doubt: bool
    refused: bool = False
    retry_after: float = 0.0
    error: ClientError | None = None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """What is asked of any node until one of them answers.

    Attributes:
        what: it in words, for error messages.
        build: the request for a try that may take so many seconds.
        read: what an answer means; None if it is an error like any other call's.
        request_id: a write's id, under which it may be sent as often as need be; "" for what changes nothing.
        if_unknown: what to do about a write of which it is not known whether it happened.
    """

    what: str
    build: Callable[[float], Request]
    read: Callable[[Answer], Done[T] | Again | None]
    request_id: str = ""
    if_unknown: str = ""


def node_time_ms(seconds: float) -> int:
    """The time limit to give to a node, in a try that takes so many seconds: it answers a bit later than that."""
    return max(1, round(1000 * (seconds - min(0.5, seconds / 4))))


def whole_number(text: str) -> int:
    """A header's number; 0 if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0  # noqa: PLR2004 - 64 bits
