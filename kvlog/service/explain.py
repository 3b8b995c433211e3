"""Why a read here is as it is: what this node knows of a key, what it has not applied, and how the rest has come.

For people. What it says of entries that are not applied here is read from ZooKeeper on request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kvlog.core.entry import LogEntry, Put, decode_entry
from kvlog.core.machine import Record
from kvlog.core.status import Status
from kvlog.core.values import Arrival
from kvlog.errors import BadEntry, Unavailable
from kvlog.ports import Clock, EntryReader, Store
from kvlog.runtime import Runtime
from kvlog.service.reads import PAGE_BYTES_MAX, Read, Reads

FETCH_ENTRIES = 32
"""Entries that are read from ZooKeeper at a time."""

ENTRIES_MAX = 500
"""Entries that are shown at a time."""

LOOKED_AT_MAX = 2_000
"""Entries that are looked at for one explanation."""


@dataclass(frozen=True, slots=True)
class NotApplied:
    """A committed change of a key that this node has not applied.

    ``value`` is None for a deletion; ``written_ms`` is the wall clock of the leader that wrote it.
    """

    index: int
    revision: int
    value: bytes | None
    request_id: str
    written_ms: int


@dataclass(frozen=True, slots=True)
class Unseen:
    """The entries that this node has not applied, and what they do to a key.

    ``ranges``: their indices, both ends included. ``looked_at``: how many of them have been read. ``why_not_all``:
    why not all of them, empty if all were.
    """

    ranges: tuple[tuple[int, int], ...]
    changes: tuple[NotApplied, ...]
    looked_at: int
    why_not_all: str


@dataclass(frozen=True, slots=True)
class LastChange:
    """The last change of a key that is applied here; ``arrival`` is None if it is not remembered how it came."""

    revision: int
    arrival: Arrival | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that this node can say of a key at the wall clock ``now_ms``."""

    key: str
    record: Record | None
    read: Read
    status: Status
    last_change: LastChange | None
    unseen: Unseen
    now_ms: int


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry of the log as it is shown: decoded, or why it cannot be; and how it has come here, if known."""

    index: int
    item: LogEntry | None
    reason: str
    arrival: Arrival | None


class Explanations:
    """See the module's docstring; the methods are called on the server's threads, and wait there."""

    def __init__(self, reads: Reads, *, runtime: Runtime, store: Store, log: EntryReader, clock: Clock) -> None:
        self._reads = reads
        self._runtime = runtime
        self._store = store
        self._log = log
        self._clock = clock

    def explain(self, key: str) -> Explanation:
        """What this node knows of a key, and what it does not.

        Raises:
            Unavailable: the node does not decide at the moment.
        """
        record, read = self._reads.key(key)
        status = self._runtime.status()
        return Explanation(
            key=key,
            record=record,
            read=read,
            status=status,
            last_change=self._last_change(key, record, read),
            unseen=self._unseen(key, status, read),
            now_ms=self._clock.wall_ms(),
        )

    def entries(self, first: int, limit: int) -> list[Shown]:
        """The entries of the log from an index on, fewer where they are large.

        Raises:
            Unavailable: ZooKeeper does not answer.
        """
        found: list[Shown] = []
        room = PAGE_BYTES_MAX
        for index, data in self._fetched(first, first + limit - 1):
            if room <= 0:
                break
            room -= len(data)
            arrival = self._arrival(index)
            try:
                found.append(Shown(index, decode_entry(index, data), "", arrival))
            except BadEntry as error:
                found.append(Shown(index, None, error.reason, arrival))
        return found

    def _arrival(self, index: int) -> Arrival | None:
        return self._runtime.inspect(lambda node, _: node.arrivals.of_index(index))

    def _last_change(self, key: str, record: Record | None, read: Read) -> LastChange | None:
        revision = record.revision if record is not None else 0
        if record is None and not read.missed_entries:  # it may have been deleted
            versions = self._store.versions(key, limit=1).versions
            revision = versions[0].revision if versions else 0
        if not revision:
            return None
        arrival = self._runtime.inspect(lambda node, _: node.arrivals.of_revision(revision))
        return LastChange(revision, arrival)

    def _unseen(self, key: str, status: Status, read: Read) -> Unseen:
        ranges = [(gap.first, gap.last) for gap in status.position.gaps]
        if read.tail_index > read.applied_index:
            ranges.append((read.applied_index + 1, read.tail_index))
        changes: list[NotApplied] = []
        looked_at, room, total = 0, PAGE_BYTES_MAX, sum(last - first + 1 for first, last in ranges)
        reason = ""
        try:
            for index, data in self._of_ranges(ranges):
                looked_at += 1
                found = list(_changes_of(key, decode_entry(index, data)))
                changes += found
                room -= sum(len(change.value or b"") for change in found)
                if room <= 0 and looked_at < total:
                    reason = f"the changes in the first {looked_at} are long enough"
                    break
        except Unavailable as error:
            reason = str(error)
        except BadEntry as error:
            reason = str(error)
        if not reason and looked_at < total:
            reason = (
                f"only the first {LOOKED_AT_MAX} were looked at"
                if looked_at >= LOOKED_AT_MAX
                else "some of them are not in the log any more: they have been trimmed"
            )
        return Unseen(tuple(ranges), tuple(changes), looked_at, reason)

    def _of_ranges(self, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        room = LOOKED_AT_MAX
        for first, last in ranges:
            last_one = min(last, first + room - 1)
            room -= max(0, last_one - first + 1)
            yield from self._fetched(first, last_one)

    def _fetched(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """The entries between two indices, both included; none where they are not in the log."""
        while first <= last:
            count = min(FETCH_ENTRIES, last - first + 1)
            entries = self._log.fetch(first, count)
            yield from enumerate(entries, start=first)
            if len(entries) < count:
                return
            first += count


def _changes_of(key: str, item: LogEntry) -> Iterator[NotApplied]:
    for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
        for effect in request.effects:
            if effect.key == key:
                value = effect.data if isinstance(effect, Put) else None
                yield NotApplied(item.index, revision, value, request.id, item.entry.time_ms)
