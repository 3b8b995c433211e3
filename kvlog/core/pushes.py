"""The replica's side of pushes: take what is the next, answer once it is applied."""

from __future__ import annotations

from dataclasses import dataclass

from kvlog.core.cursor import Cursor
from kvlog.core.effects import Reply
from kvlog.core.entry import LogEntry
from kvlog.core.values import PushAnswer, PushBody
from kvlog.errors import BadEntry

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

    @staticmethod
    def take(body: PushBody, cursor: Cursor) -> tuple[list[LogEntry], int, str]:
        """Let the cursor have what was pushed.

        Returns the entries that were the next ones, the index whose applying the answer waits for, and what is
        wrong with the push, if anything: it is only a hint, what counts is what ZooKeeper holds.
        """
        cursor.saw(body.tail_index)
        taken: list[LogEntry] = []
        complaint = ""
        for index, data in enumerate(body.entries, start=body.first_index):
            if cursor.full:
                break
            try:
                item = cursor.offer(index, data)
            except BadEntry as error:
                complaint = f"ignored a push from {body.leader.node_id}: {error}"
                break
            if item is not None:
                taken.append(item)
        return taken, min(cursor.next_index - 1, body.first_index + len(body.entries) - 1), complaint

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
