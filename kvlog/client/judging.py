"""What an answer means that is not the result: an error to raise, or a reason to ask again elsewhere."""

from __future__ import annotations

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

T = TypeVar("T")

TYPE_PREFIX = "kvlog:"
DETAIL_CHARACTERS_MAX = 2000

_SIMPLE: dict[str, type[ClientError]] = {
    "no-such-lease": NoSuchLease,
    "cancelled": Cancelled,
    "too-large": TooLarge,
    "too-many-keys": TooManyKeys,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem's details (RFC 9457): ``type`` without "kvlog:", what happened in words, and the other members."""

    type: str
    detail: str
    members: dict[str, Any]

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
    except (msgspec.MsgspecError, ValueError) as error:
        raise _bad_answer(call, answer, str(error)) from error
    if found is not None:
        return found
    problem = problem_of(answer)
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        refused = problem.type == "refused" or problem.members.get("outcome") == "refused"
        return Again(
            problem.detail,
            in_doubt=not refused,
            refused=refused,
            retry_after=whole_number(answer.headers.get("retry-after", "")),
        )
    if problem.type != "too-stale":
        raise _error(call, answer, problem)
    stale = TooStale(f"{call.what}: {problem.detail}", status=answer.status, node=answer.node)
    return Again(problem.detail, in_doubt=False, error=stale)


def _error(call: Call[Any], answer: Answer, problem: Problem) -> ClientError:
    reason = f"{call.what}: {problem.detail}"
    status, node = answer.status, answer.node
    match problem.type:
        case "condition-failed":
            return ConditionFailed(reason, revision=problem.number("revision"), status=status, node=node)
        case "history-trimmed":
            return HistoryTrimmed(reason, floor=problem.number("floor"), status=status, node=node)
        case "":
            return _bad_answer(call, answer, problem.detail)
        case _:
            return _SIMPLE.get(problem.type, BadRequest)(reason, status=status, node=node)


def problem_of(answer: Answer) -> Problem:
    """The problem that an answer tells of; without a type if it tells of none."""
    try:
        members = msgspec.json.decode(answer.body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        members = {}
    kind, detail = members.get("type"), members.get("detail")
    if not isinstance(kind, str) or not kind.startswith(TYPE_PREFIX):
        return Problem("", f"it answers {answer.status} without saying why", members)
    said = detail if isinstance(detail, str) else str(members.get("title", kind))
    return Problem(kind.removeprefix(TYPE_PREFIX), said[:DETAIL_CHARACTERS_MAX], members)


def _bad_answer(call: Call[Any], answer: Answer, reason: str) -> BadAnswer:
    return BadAnswer(
        f"{call.what}: what {answer.node} answers ({answer.status}) is not understood: {reason}; it is another "
        "program, or a kvlog of another version: look at its address and version",
        status=answer.status,
        node=answer.node,
    )
