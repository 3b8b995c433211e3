"""Waiting a moment for more, where many go together at the cost of one.

Clients that wait for their answers come in groups: those who were answered together ask again at about the same
time. Whoever takes the first of them at once leaves the others to the next group, and after a few turns all groups
are small, each at the full price (the same is known of disks: PostgreSQL's commit_delay). So when a turn is
over, those who went in it are waited for, beside those who have come meanwhile; but not longer than WAIT_MAX_S,
nor than the turn took. A lone client never waits.
"""

from __future__ import annotations

WAIT_MAX_S = 0.02


class Gathering:
    """See the module's docstring; times are monotonic seconds."""

    def __init__(self) -> None:
        self.wake_at: float | None = None
        """When those that wait are to go at the latest; None if none wait."""
        self._expected = 1
        self._gone = 1
        self._went_at = 0.0
        self._limit_s = 0.0

    def complete(self, waiting: int, now: float) -> bool:
        """Whether so many are to go now."""
        if not waiting:
            self.wake_at = None
            return False
        if waiting >= self._expected:
            return True
        if self.wake_at is None:
            self.wake_at = now + self._limit_s
        return now >= self.wake_at

    def gone(self, count: int, now: float) -> None:
        """So many have gone together."""
        self._gone, self._went_at, self.wake_at = count, now, None

    def done(self, waiting: int, now: float) -> None:
        """The turn is over: what has become of those that went is known, and so many wait already."""
        self._expected = self._gone + waiting
        self._limit_s = min(WAIT_MAX_S, max(0.0, now - self._went_at))
