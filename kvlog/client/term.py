"""How long a lease is known to live, by the client's own clock and without a doubt: pure arithmetic."""

from __future__ import annotations

KEEP_ALIVE_SHARE = 3
"""A lease is kept alive every third of its time: two keep-alives may be lost."""


class Term:
    """A lease's time.

    The nodes let it end no earlier than ``ttl`` after the grant, or after the last keep-alive that they have
    answered. When they did that is not known here, but it was after the request had been sent: so that is where
    the client's own count begins, and it never holds for alive what may have ended.

    Args:
        ttl: the lease's time in seconds.
        sent_at: the client's clock before the first try of the grant was sent.
    """

    def __init__(self, ttl: float, sent_at: float) -> None:
        self.ttl = ttl
        self._sent_at = sent_at
        self._due = sent_at + ttl / KEEP_ALIVE_SHARE
        self._over = False

    def extend(self, sent_at: float) -> None:
        """A keep-alive that was sent then has been answered."""
        self._sent_at = max(self._sent_at, sent_at)
        self._due = self._sent_at + self.ttl / KEEP_ALIVE_SHARE

    def postpone(self, now: float) -> None:
        """A keep-alive has failed: the next one is due a bit later."""
        self._due = now + self.ttl / (4 * KEEP_ALIVE_SHARE)

    def end(self) -> None:
        """It is known to have ended."""
        self._over = True

    def left(self, now: float) -> float:
        """Seconds for which it certainly lives on; 0 if it may have ended."""
        return 0.0 if self._over else max(0.0, self._sent_at + self.ttl - now)

    def due(self, now: float) -> float:
        """Seconds until it is to be kept alive; 0 if it is time."""
        return max(0.0, min(self._due - now, self.left(now)))
