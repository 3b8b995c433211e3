"""One call from its beginning to its end, as steps that somebody else takes: send this there, pause so long.

Both clients drive the same generator; the one waits in its thread, the other awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar

from kvlog.client.attempts import Attempts, GiveUp, Pause
from kvlog.client.errors import BadAnswer, ClientError, ConditionFailed, NoNodes, Refused, Unknown
from kvlog.client.judging import judge
from kvlog.client.messages import Again, Answer, Call, Done, Failure, Request
from kvlog.client.shared import Shared

T = TypeVar("T")

Steps = Generator["Send | Pause", "Answer | Failure | None", T]
"""Yields what is to be done next, takes what came of it (None after a pause), returns the call's result."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request to the node at this address, and wait for its answer for at most ``seconds``."""

    node: str
    request: Request
    seconds: float


def steps(
    call: Call[T],
    shared: Shared,
    clock: Callable[[], float],
    timeout: float,
    *,
    node: str | None = None,
    first: int | None = None,
) -> Steps[T]:
    """Ask one node after the other until there is a result.

    Args:
        call: what to ask.
        shared: what the client knows; it learns from the answers.
        clock: the client's clock, in seconds.
        timeout: seconds until there must be a result.
        node: ask only this one.
        first: the number of the node to begin with, if it is to be another one than that which answered last.

    Raises:
        ClientError: there is none.
    """
    nodes = shared.nodes if node is None else (node,)
    first = shared.first if first is None else first
    attempts = Attempts(len(nodes), first=first, now=clock(), timeout=timeout, chance=shared.chance)
    said: dict[str, Again | Failure] = {}
    while True:
        step = attempts.next(clock())
        if isinstance(step, Pause):
            yield step
            continue
        if isinstance(step, GiveUp):
            _give_up(call, step, said, timeout)
        address = nodes[step.node]
        reply = yield Send(address, call.build(step.seconds), step.seconds)
        if isinstance(reply, Answer):
            shared.saw(reply.revision)
            found = _judged(call, reply, attempts, shared)
            if isinstance(found, Done):
                if node is None:
                    shared.prefer(address)
                shared.saw(found.revision)
                return found.value
            said[address] = found
            attempts.failed(
                clock(),
                in_doubt=found.in_doubt and bool(call.request_id),
                retry_after=found.retry_after,
                last_word=found.error is not None,
            )
        elif isinstance(reply, Failure):
            said[address] = reply
            attempts.failed(clock(), in_doubt=reply.sent and bool(call.request_id))


def _judged(call: Call[T], answer: Answer, attempts: Attempts, shared: Shared) -> Done[T] | Again:
    try:
        return judge(call, answer)
    except BadAnswer as error:
        if call.request_id and (attempts.in_doubt or answer.status < HTTPStatus.BAD_REQUEST):
            raise _unknown(call, str(error)) from error
        raise
    except ClientError as error:
        # A condition that did not hold is in the log, under the write's id: it is the answer to all tries.
        shared.saw(error.revision if isinstance(error, ConditionFailed) else 0)
        shared.prefer(answer.node)
        raise


def _give_up(call: Call[Any], given_up: GiveUp, said: dict[str, Again | Failure], timeout: float) -> NoReturn:
    reasons = "; ".join(f"{address}: {one.reason}" for address, one in said.items()) or "the time was too short"
    if given_up.in_doubt:
        raise _unknown(call, f"{call.what}: no answer within {timeout:g} s ({reasons})")
    answers = [one for one in said.values() if isinstance(one, Again)]
    for answer in answers:
        if answer.error is not None:
            raise answer.error
    if call.request_id and any(answer.refused for answer in answers):
        raise Refused(f"{call.what}: it did not happen within {timeout:g} s ({reasons}); it is safe to try again")
    raise NoNodes(f"{call.what}: no node could do it within {timeout:g} s ({reasons})")


def _unknown(call: Call[Any], reason: str) -> Unknown:
    find_out = call.if_unknown or f"client.settle({call.request_id!r}) finds out, and sees to it that it stays so"
    return Unknown(f"{reason}; it is not known whether it has happened: {find_out}", request_id=call.request_id)
