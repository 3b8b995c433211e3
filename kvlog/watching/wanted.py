"""What watchers want to know of, and who wants to know of a key."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from kvlog.core.entry import SYSTEM
from kvlog.core.machine import Changes


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a watcher wants to know of: the keys that begin with ``text``, or (``exact``) the key ``text`` alone.

    kvlog's own keys are never among them.
    """

    text: str
    exact: bool = False

    def places(self, changes: Changes) -> tuple[int, ...]:
        """Which of the changes at a revision are wanted."""
        return tuple(place for place, change in enumerate(changes.changes) if self._has(change.key))

    def _has(self, key: str) -> bool:
        if key.startswith(SYSTEM):
            return False
        return key == self.text if self.exact else key.startswith(self.text)


class Matcher:
    """All that was wanted at a moment, ordered so that a key's watchers are found without asking each of them.

    What it costs to look a key up grows with the number of lengths that prefixes have, not with that of watchers.
    """

    def __init__(self, wanted: set[Wanted], as_of: int) -> None:
        self.as_of = as_of
        self.empty = not wanted
        self._keys = {each.text: each for each in wanted if each.exact}
        self._prefixes = {each.text: each for each in wanted if not each.exact}
        self._lengths = sorted({len(text) for text in self._prefixes})

    def places(self, changes: Changes) -> dict[Wanted, tuple[int, ...]]:
        """Who wants which of the changes at a revision; who wants none is not in it."""
        found: dict[Wanted, list[int]] = {}
        for place, change in enumerate(changes.changes):
            for wanted in self._of(change.key):
                found.setdefault(wanted, []).append(place)
        return {wanted: tuple(places) for wanted, places in found.items()}

    def _of(self, key: str) -> list[Wanted]:
        if key.startswith(SYSTEM):
            return []
        found = [self._keys[key]] if key in self._keys else []
        for length in self._lengths:
            if length > len(key):
                break
            if (wanted := self._prefixes.get(key[:length])) is not None:
                found.append(wanted)
        return found


class Interests:
    """All that is wanted now; any thread may call.

    Each addition of something new has a number: what was added under it is in every matcher with ``as_of`` at or
    above it, until it is removed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: Counter[Wanted] = Counter()
        self._numbers: dict[Wanted, int] = {}
        self._latest = 0
        self._matcher: Matcher | None = None

    def add(self, wanted: Wanted) -> int:
        """One watcher more wants this; returns the number under which it was added."""
        with self._lock:
            self._watchers[wanted] += 1
            if self._watchers[wanted] == 1:
                self._latest += 1
                self._numbers[wanted] = self._latest
                self._matcher = None
            return self._numbers[wanted]

    def remove(self, wanted: Wanted) -> None:
        """One watcher less wants this."""
        with self._lock:
            self._watchers[wanted] -= 1
            if not self._watchers[wanted]:
                del self._watchers[wanted], self._numbers[wanted]
                self._matcher = None

    def matcher(self) -> Matcher:
        """All that is wanted now."""
        with self._lock:
            if self._matcher is None:
                self._matcher = Matcher(set(self._watchers), self._latest)
            return self._matcher
