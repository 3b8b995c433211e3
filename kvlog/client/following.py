"""What a watch does about what it hears, and about silence: pure bookkeeping, for both clients."""

from __future__ import annotations

from collections import deque

from kvlog.client.errors import ClientError, NoNodes
from kvlog.client.feed import Feed
from kvlog.client.results import Event


class Following:
    """See the module's docstring.

    Args:
        feed: what to watch, and from where on.
        now: the time.
        patience: seconds that it may take to begin.

    Attributes:
        feed: the same.
        revision: everything up to it has been handed out.
        node: the address of the node that it hears, or has heard last.
        error: why it cannot go on.
    """

    def __init__(self, feed: Feed, now: float, patience: float) -> None:
        self.feed = feed
        self.revision = 0
        self.node = ""
        self.error: ClientError | None = None
        self._patience = patience
        self._reason = ""
        self._ready: deque[Event] = deque()
        self._opened_at = 0.0
        self._was_short = False
        self._behind_since: float | None = None
        self._outage_since: float | None = now

    @property
    def beginning(self) -> bool:
        """Whether a node still has to say where it begins."""
        return self.feed.position is None and self.error is None

    def begun(self, patience: float) -> None:
        """It has begun. From here on, all nodes may be out of reach for so many seconds.

        Raises:
            ClientError: it cannot begin.
        """
        if self.error is not None and self.feed.position is None:
            raise self.error
        self._patience, self._outage_since = patience, None
        self.revision = self._ready[0].revision - 1 if self._ready else self.feed.position or 0

    def next(self) -> Event | None:
        """The next event, if it has come."""
        if self._ready:
            event = self._ready.popleft()
            self.revision = event.revision
            return event
        self.revision = max(self.revision, self.feed.position or 0)
        return None

    def opened(self, node: str, now: float) -> None:
        """A node has begun to tell."""
        self.node, self._opened_at, self._behind_since = node, now, None

    def heard(self, piece: bytes, now: float, seen: int) -> str:
        """A piece of what it tells; returns why it ends with that, or "". Sets ``error`` if that is for good.

        ``seen``: the revision that the client knows to have been reached. A node that tells how far it has come
        again and again, and stays behind that, is cut off from the others.
        """
        taken = self.feed.take(piece)
        self._ready.extend(taken.events)
        if taken.heard:
            self._outage_since = None
        self.error = taken.error
        position = self.feed.position or 0
        if position >= seen:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since > self.feed.silence:
            return taken.cut or f"it stays at revision {position}, and revision {seen} is known"
        return taken.cut

    def cut(self, reason: str, now: float) -> float:
        """It tells no more; returns for how many seconds to ask nobody.

        One cut is made good at once. Streams that end as soon as they begin are not asked for without a pause.
        """
        self._reason = f"{self.node}: {reason}"
        if self._outage_since is None:
            self._outage_since = now
        early = self._opened_at + self.feed.pause - now
        pause = early if early > 0 and self._was_short else 0.0
        self._was_short = early > 0
        return pause

    def time_left(self, now: float) -> float:
        """Seconds that are left to find a node that tells more.

        Raises:
            NoNodes: none are.
        """
        left = self._patience
        if self._outage_since is not None:
            left -= now - self._outage_since
        if left <= 0:
            raise NoNodes(
                f"{self.feed.what}: no node has told anything for {self._patience:g} s (the last one was "
                f"{self._reason}); watch(start={self.revision + 1}) goes on where this one stops"
            )
        return left

    def first(self, nodes: tuple[str, ...]) -> int | None:
        """The number of the node to ask first: the one behind that which was heard last."""
        return (nodes.index(self.node) + 1) % len(nodes) if self.node in nodes else None
