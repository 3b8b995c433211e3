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
"""Reads that may wait; more than that are refused. Each holds a thread of the server, so that the server's own
bound is reached first."""


@dataclass(slots=True)
class _Waiting:
    read: ReadSubmitted
    submitted_at: float
    min_index: int
    confirmed: bool


class Reads:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def submit(self, read: ReadSubmitted, cursor: Cursor, now: float) -> list[Reply]:
        """A read has come."""
        if cursor.position.gaps:
            missed = cursor.position.missed_entries
            return [Reply(read.token, Refused(f"this node's store is stale: it has missed {missed} entries"))]
        if len(self._waiting) >= WAITING_MAX:
            return [Reply(read.token, Refused(f"{WAITING_MAX} reads are waiting already; try again shortly"))]
        self._waiting.append(_Waiting(read, now, read.min_index, not read.linearizable))
        return []

    @property
    def needs_tail(self) -> bool:
        """A confirmation has to be asked for."""
        return any(not waiting.confirmed for waiting in self._waiting)

    def tail_confirmed(self, tail_index: int, asked_at: float) -> None:
        """A quorum has told the tail (Q1)."""
        for waiting in self._waiting:
            if not waiting.confirmed and asked_at >= waiting.submitted_at:
                waiting.confirmed = True
                waiting.min_index = max(waiting.min_index, tail_index)

    def ready(self, cursor: Cursor) -> list[Reply]:
        """Answer the reads whose wait is over."""
        if not self._waiting:
            return []
        position = cursor.position
        if position.gaps:  # Q2
            waiting, self._waiting = self._waiting, []
            reason = f"this node's store is stale: it has missed {position.missed_entries} entries"
            return [Reply(each.read.token, Refused(reason)) for each in waiting]
        replies: list[Reply] = []
        still: list[_Waiting] = []
        for each in self._waiting:
            reached = each.min_index <= position.applied_index and each.read.min_revision <= position.revision
            if each.confirmed and reached:
                replies.append(Reply(each.read.token, Reached(position.applied_index)))
            else:
                still.append(each)
        self._waiting = still
        return replies

    def expire(self, now: float, cursor: Cursor, *, connected: bool, halted: str) -> list[Reply]:
        """Refuse the reads whose time is over."""
        late = [each for each in self._waiting if each.read.deadline <= now]
        if not late:
            return []
        self._waiting = [each for each in self._waiting if each.read.deadline > now]
        return [Reply(each.read.token, Refused(_why_late(each, cursor, connected, halted))) for each in late]


def _why_late(each: _Waiting, cursor: Cursor, connected: bool, halted: str) -> str:
    position = cursor.position
    here = f"this node stands at revision {position.revision}, index {position.applied_index}"
    if halted:
        return f"{here}, where it has halted: {halted}"
    if not each.confirmed:
        why = "ZooKeeper's quorum has not answered" if connected else "there is no connection to ZooKeeper"
        return f"{why}, so it cannot be told whether this node is up to date"
    if each.read.min_revision > position.revision:
        return f"{here}, and revision {each.read.min_revision} has not come"
    return f"{here}, and index {each.min_index} is not applied yet"
