"""Reads that have to wait until this node has applied enough.

Invariants (tests cite the numbers):

Q1  A linearizable read goes on only once everything is applied that a quorum has confirmed to be in the log after
    the read was submitted. All reads that are submitted before a confirmation is asked for share it; one that was
    asked for earlier is never used.
Q2  Nothing that needs all entries is confirmed while entries are missing.
Q3  What waits is answered exactly once, at the latest at its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvlog.core.cursor import Cursor
from kvlog.core.effects import Reply
from kvlog.core.events import ReadSubmitted
from kvlog.core.values import Reached, Refused

WAITING_MAX = 1_024
"""Reads that may wait; more than that are refused."""


@dataclass(slots=True)
class _Waiting:
    read: ReadSubmitted
    submitted_at: float
    min_index: int


class Reads:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._unconfirmed: list[_Waiting] = []  # until a quorum has told the tail (Q1)
        self._waiting: list[_Waiting] = []  # until enough is applied

    def submit(self, read: ReadSubmitted, cursor: Cursor, now: float) -> list[Reply]:
        """A read has come."""
        if cursor.position.gaps:
            missed = cursor.position.missed_entries
            return [Reply(read.token, Refused(f"this node's store is stale: it has missed {missed} entries"))]
        if len(self._unconfirmed) + len(self._waiting) >= WAITING_MAX:
            return [Reply(read.token, Refused(f"{WAITING_MAX} reads are waiting already; try again shortly"))]
        waiting = self._unconfirmed if read.linearizable else self._waiting
        waiting.append(_Waiting(read, now, read.min_index))
        return []

    @property
    def unconfirmed(self) -> int:
        """Reads for which a confirmation has to be asked for."""
        return len(self._unconfirmed)

    def tail_confirmed(self, tail_index: int, asked_at: float) -> None:
        """A quorum has told the tail (Q1)."""
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        for each in unconfirmed:
            if asked_at >= each.submitted_at:
                each.min_index = max(each.min_index, tail_index)
                self._waiting.append(each)
            else:
                self._unconfirmed.append(each)

    def ready(self, cursor: Cursor) -> list[Reply]:
        """Answer the reads whose wait is over."""
        position = cursor.position
        if position.gaps:  # Q2
            gone, self._unconfirmed, self._waiting = [*self._unconfirmed, *self._waiting], [], []
            reason = f"this node's store is stale: it has missed {position.missed_entries} entries"
            return [Reply(each.read.token, Refused(reason)) for each in gone]
        if not self._waiting:
            return []
        replies: list[Reply] = []
        still: list[_Waiting] = []
        for each in self._waiting:
            if each.min_index <= position.applied_index and each.read.min_revision <= position.revision:
                replies.append(Reply(each.read.token, Reached(position.applied_index)))
            else:
                still.append(each)
        self._waiting = still
        return replies

    def expire(self, now: float, cursor: Cursor, *, connected: bool, halted: str) -> list[Reply]:
        """Refuse the reads whose time is over."""
        replies = []
        for waiting, confirmed in ((self._unconfirmed, False), (self._waiting, True)):
            for each in [each for each in waiting if each.read.deadline <= now]:
                waiting.remove(each)
                why = _why_late(each, cursor, confirmed=confirmed, connected=connected, halted=halted)
                replies.append(Reply(each.read.token, Refused(why)))
        return replies


def _why_late(each: _Waiting, cursor: Cursor, *, confirmed: bool, connected: bool, halted: str) -> str:
    position = cursor.position
    here = f"this node stands at revision {position.revision}, index {position.applied_index}"
    if halted:
        return f"{here}, where it has halted: {halted}"
    if not confirmed:
        why = "ZooKeeper's quorum has not answered" if connected else "there is no connection to ZooKeeper"
        return f"{why}, so it cannot be told whether this node is up to date"
    if each.read.min_revision > position.revision:
        return f"{here}, and revision {each.read.min_revision} has not come"
    return f"{here}, and index {each.min_index} is not applied yet"
