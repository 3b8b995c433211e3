"""A replica's answers to pushes: each says where the replica stands once it has applied what it was sent."""

from __future__ import annotations

from dataclasses import dataclass

from kvlog.core.cursor import Cursor
from kvlog.core.effects import Reply
from kvlog.core.values import PushAnswer

WAITING_MAX = 64
"""Answers that may wait; a leader has one push in flight, so more are leftovers of former leaders."""

WAIT_S = 1.0
"""How long an answer waits for the entries to be applied before it says where the replica stands without them."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    token: int
    index: int
    deadline: float


class Pushes:
    """The answers that wait for the store."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def answer_when_applied(self, token: int, index: int, now: float, cursor: Cursor) -> list[Reply]:
        """Answer once everything up to ``index`` is applied, at once if it is."""
        if cursor.position.applied_index >= index or len(self._waiting) >= WAITING_MAX:
            return [_answer(token, cursor)]
        self._waiting.append(_Waiting(token, index, now + WAIT_S))
        return []

    def applied(self, cursor: Cursor) -> list[Reply]:
        """Answer what has been waiting for the entries that are applied now."""
        if not self._waiting:
            return []
        done = [push for push in self._waiting if push.index <= cursor.position.applied_index]
        self._waiting = [push for push in self._waiting if push.index > cursor.position.applied_index]
        return [_answer(push.token, cursor) for push in done]

    def expire(self, now: float, cursor: Cursor) -> list[Reply]:
        """Answer what has waited for too long."""
        late = [push for push in self._waiting if push.deadline <= now]
        self._waiting = [push for push in self._waiting if push.deadline > now]
        return [_answer(push.token, cursor) for push in late]


def _answer(token: int, cursor: Cursor) -> Reply:
    return Reply(token, PushAnswer(applied_index=cursor.position.applied_index, epoch=cursor.epoch))
