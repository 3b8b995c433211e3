"""Writes that wait for somebody to lead them: here, elsewhere, or not at all."""

from __future__ import annotations

from kvlog.core.effects import Reply
from kvlog.core.entry import Leader
from kvlog.core.events import WriteSubmitted
from kvlog.core.role import Role
from kvlog.core.values import Redirect, Refused

PARKED_MAX = 1_024
"""Writes that may wait for a leader; more than that are refused."""


class Parking:
    """Every write passes through here; with a leader in place it is sent on within the same step."""

    def __init__(self, me: Leader) -> None:
        self._me = me
        self._writes: list[WriteSubmitted] = []

    @property
    def empty(self) -> bool:
        """No write waits."""
        return not self._writes

    def park(self, write: WriteSubmitted) -> list[Reply]:
        """Take a new write."""
        if len(self._writes) >= PARKED_MAX:
            return [Reply(write.token, Refused(f"{PARKED_MAX} writes are waiting for a leader already"))]
        self._writes.append(write)
        return []

    def take_back(self, writes: list[WriteSubmitted]) -> None:
        """Take writes that were sent on to this node's writer, which does not lead any more."""
        self._writes += writes

    def route(
        self, role: Role, leader: tuple[Leader, int] | None, *, accepting: bool, halted: str
    ) -> tuple[list[Reply], list[WriteSubmitted]]:
        """Send each write where it can be done, if that is known.

        Returns the answers, and the writes that this node is to append: those only if it is ``accepting``.
        """
        parked, self._writes = self._writes, []
        replies: list[Reply] = []
        here: list[WriteSubmitted] = []
        for write in parked:
            if accepting:
                here.append(write)
            elif role is Role.HALTED:
                replies.append(Reply(write.token, Refused(f"this node has halted: {halted}")))
            elif role is Role.ELECTED:
                self._writes.append(write)
            elif write.forwarded:
                replies.append(Reply(write.token, Refused("this node does not lead", retry=True)))
            elif leader is None or leader[0] == self._me or write.not_epoch >= leader[1]:
                self._writes.append(write)
            else:
                replies.append(Reply(write.token, Redirect(*leader)))
        return replies, here

    def expire(self, now: float, reason: str) -> list[Reply]:
        """Refuse the writes whose time is over."""
        late = [write for write in self._writes if write.deadline <= now]
        if late:
            self._writes = [write for write in self._writes if write.deadline > now]
        return [Reply(write.token, Refused(reason)) for write in late]
