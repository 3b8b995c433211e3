"""How the latest entries have come to this node, for people: nothing is decided by it."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import replace

from kvlog.core.entry import LogEntry
from kvlog.core.values import Arrival, Path

KEPT_MAX = 4_096
"""Entries whose arrival is remembered."""


class Arrivals:
    """The arrivals of the latest entries, in the order of their indices."""

    def __init__(self) -> None:
        self._kept: deque[Arrival] = deque(maxlen=KEPT_MAX)
        self._applied = 0  # how many of them, from the left, are applied

    def came(self, item: LogEntry, path: Path, wall_ms: int) -> None:
        """The next entry has come."""
        entry = item.entry
        if len(self._kept) == KEPT_MAX:
            self._applied = max(0, self._applied - 1)
        self._kept.append(
            Arrival(item.index, entry.first_revision, entry.last_revision, path, entry.time_ms, wall_ms)
        )

    def applied(self, index: int, wall_ms: int) -> None:
        """The store holds everything up to ``index``."""
        while self._applied < len(self._kept) and self._kept[self._applied].index <= index:
            self._kept[self._applied] = replace(self._kept[self._applied], applied_ms=wall_ms)
            self._applied += 1

    @property
    def last(self) -> Arrival | None:
        """That of the latest entry."""
        return self._kept[-1] if self._kept else None

    def of_revision(self, revision: int) -> Arrival | None:
        """That of the entry which holds the request at a revision, if it is remembered."""
        at = bisect_left(self._kept, revision, key=lambda arrival: arrival.last_revision)
        found = self._kept[at] if at < len(self._kept) else None
        return found if found is not None and found.first_revision <= revision else None

    def of_index(self, index: int) -> Arrival | None:
        """That of the entry at ``index``, if it is remembered."""
        at = bisect_left(self._kept, index, key=lambda arrival: arrival.index)
        return self._kept[at] if at < len(self._kept) and self._kept[at].index == index else None
