"""What an answer means that is not the result: an error to raise, or a reason to ask again elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from kvlog.client.errors import (
    BadAnswer,
    BadRequest,
    Cancelled,
    ClientError,
    ConditionFailed,
    HistoryTrimmed,
    NoSuchLease,
    TooLarge,
    TooManyKeys,
    TooStale,
)
from kvlog.client.messages import Again, Answer, Call, Done, whole_number
from kvlog.client.wire import UNREADABLE

T = TypeVar("T")

TYPE_PREFIX = "kvlog:"
DETAIL_CHARACTERS_MAX = 2000

_SIMPLE: dict[str, type[ClientError]] = {
    "no-such-lease": NoSuchLease,
    "cancelled": Cancelled,
    "too-large": TooLarge,
    "too-many-keys": TooManyKeys,
}


_BEFORE = {"stale-store", "behind"}
"""What a node finds before it begins to carry out a write."""

_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
"""Below 500, and nevertheless no fault of the request."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem's details (RFC 9457): ``type`` without "kvlog:", what happened in words, and the other members."""

    type: str
    detail: str
    members: Mapping[str, Any]

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> Problem:
        """The problem with these members; its type is "" if it is none of kvlog's."""
        kind, detail = members.get("type"), members.get("detail")
        said = detail[:DETAIL_CHARACTERS_MAX] if isinstance(detail, str) else ""
        is_known = isinstance(kind, str) and kind.startswith(TYPE_PREFIX)
        return cls(str(kind).removeprefix(TYPE_PREFIX) if is_known else "", said, members)

    @property
    def refused(self) -> bool:
        """The node says that it has not done, and will not do, what was asked."""
        return self.type == "refused" or self.members.get("outcome") == "refused"

    def number(self, name: str) -> int:
        """A whole number among the members; 0 if there is none of that name."""
        found = self.members.get(name)
        return found if isinstance(found, int) else 0


def judge(call: Call[T], answer: Answer) -> Done[T] | Again:
    """What an answer means for a call.

    Raises:
        ClientError: it is no result, and no other node would answer otherwise.
    """
    try:
        found = call.read(answer)
    except ClientError:
        raise
    except (*UNREADABLE, ValueError) as error:
        raise _bad_answer(call.what, answer, str(error)) from error
    return found if found is not None else found_problem(call.what, answer, answer.status, problem_of(answer))


def found_problem(what: str, answer: Answer, status: int, problem: Problem) -> Again:
    """What a problem means for the call that is called ``what``.

    Raises:
        ClientError: no other node would answer otherwise.
    """
    reason = problem.detail or f"it answers {status} without saying why"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING:
        return Again(
            reason,
            in_doubt=not problem.refused and problem.type not in _BEFORE,
            refused=problem.refused,
            retry_after=whole_number(answer.headers.get("retry-after", "")),
        )
    if problem.type == "too-stale":
        stale = TooStale(f"{what}: {reason}", status=status, node=answer.node)
        return Again(reason, in_doubt=False, error=stale)
    raise _error(what, answer, status, problem, reason)


def problem_of(answer: Answer) -> Problem:
    """The problem that an answer tells of."""
    try:
        return Problem.of(msgspec.json.decode(answer.body, type=dict[str, Any]))
    except UNREADABLE:
        return Problem("", "", {})


def _error(what: str, answer: Answer, status: int, problem: Problem, reason: str) -> ClientError:
    said, node = f"{what}: {reason}", answer.node
    match problem.type:
        case "condition-failed":
            return ConditionFailed(said, revision=problem.number("revision"), status=status, node=node)
        case "history-trimmed":
            return HistoryTrimmed(said, floor=problem.number("floor"), status=status, node=node)
        case "log-trimmed":
            return HistoryTrimmed(said, floor=problem.number("first_index"), status=status, node=node)
        case "":
            return _bad_answer(what, answer, reason)
        case _:
            return _SIMPLE.get(problem.type, BadRequest)(said, status=status, node=node)


def _bad_answer(what: str, answer: Answer, reason: str) -> BadAnswer:
    return BadAnswer(
        f"{what}: what {answer.node} answers ({answer.status}) is not understood: {reason}; it is another "
        "program, or a kvlog of another version: look at its address and version",
        status=answer.status,
        node=answer.node,
    )
