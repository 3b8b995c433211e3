"""The log played anew, without kvlog's own way of applying it: what each key held at each revision."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from kvlog.core.entry import SYSTEM, LogEntry, Put, Request


@dataclass(frozen=True, slots=True)
class Placed:
    """A request at its place in the log."""

    revision: int
    index: int
    request: Request


class Replay:
    """A log, and the states that it gives. What was there before it began counts as not there.

    Attributes:
        first_revision, last_revision: of the requests in it.
        placed: the requests, by revision.
        by_id: those with an id, cancellations included.
        puts: where each key was given each value.
    """

    def __init__(self, log: Sequence[LogEntry]) -> None:
        self.first_revision = log[0].entry.first_revision if log else 1
        self.last_revision = self.first_revision - 1
        self.placed: dict[int, Placed] = {}
        self.by_id: dict[str, list[Placed]] = defaultdict(list)
        self.puts: dict[tuple[str, str], list[Placed]] = defaultdict(list)
        self._values: dict[str, list[tuple[int, str | None]]] = defaultdict(list)
        self._through: dict[int, int] = {}
        for item in log:
            for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
                self._place(Placed(revision, item.index, request))
            self.last_revision = max(self.last_revision, item.entry.last_revision)
            self._through[item.index] = self.last_revision

    def _place(self, placed: Placed) -> None:
        self.placed[placed.revision] = placed
        if placed.request.id:
            self.by_id[placed.request.id].append(placed)
        for effect in placed.request.effects:
            value = effect.value if isinstance(effect, Put) else None
            if value is not None:
                self.puts[effect.key, value].append(placed)
            self._values[effect.key].append((placed.revision, value))

    def value(self, key: str, revision: int) -> str | None:
        """What a key held at a revision."""
        values = self._values.get(key, [])
        place = bisect_right(values, revision, key=lambda change: change[0])
        return values[place - 1][1] if place else None

    def revision_at(self, index: int) -> int | None:
        """The revision behind the entry at an index; None if that is not in the log."""
        return self._through.get(index)

    def changes(self, prefix: str, after: int, through: int) -> list[tuple[int, str, str | None]]:
        """What a watcher of a prefix is to be told of the revisions in (after, through], in order.

        Of several effects of one request on a key only the last one is seen, and a deletion of nothing is none.
        """
        found = []
        for revision in range(max(after + 1, self.first_revision), min(through, self.last_revision) + 1):
            effects = self.placed[revision].request.effects if revision in self.placed else ()
            for key in dict.fromkeys(effect.key for effect in effects):
                value = self.value(key, revision)
                if key.startswith(SYSTEM) or not key.startswith(prefix):  # kvlog's own keys are nobody's business
                    continue
                if value is not None or self.value(key, revision - 1) is not None:
                    found.append((revision, key, value))
        return found
