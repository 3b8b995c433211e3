"""The port Store without a disk: for simulation, tests and trying things out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from kvlog.core.applying import apply_entry, fill_entry, open_gap
from kvlog.core.entry import SYSTEM, LogEntry, Request
from kvlog.core.evaluate import CHANGED_SINCE_MAX, Search
from kvlog.core.machine import (
    HISTORY_REVISIONS,
    Changes,
    Identity,
    Position,
    Record,
    Remembered,
    digest_of,
    digest_of_request,
)
from kvlog.errors import GapsInHistory, HistoryTrimmed, StoreFailure, invariant
from kvlog.ports import Kept, Page, Version, Versions, bytes_of


@dataclass(frozen=True, slots=True)
class MemoryState:
    """All that a MemoryStore holds. Never changed, only replaced as a whole; ``kept`` is in order."""

    records: dict[str, Record] = field(default_factory=dict)
    tombstones: dict[str, int] = field(default_factory=dict)
    requests: dict[str, Remembered] = field(default_factory=dict)
    attached: frozenset[tuple[int, str]] = frozenset()
    kept: dict[int, Changes] = field(default_factory=dict)
    position: Position = field(default_factory=Position)

    def as_of(self, key: str, revision: int) -> Record | None:
        """The record of a key as it was at a revision."""
        for at, kept in self.kept.items():
            for change in kept.changes if at > revision else ():
                if change.key == key:
                    return change.before
        return self.records.get(key)


class MemoryStore:
    """The port Store in dictionaries. What it holds survives as long as the object does.

    ``snapshots`` are the copies that can be installed, by the name of their source.
    """

    def __init__(
        self, snapshots: dict[str, MemoryState] | None = None, *, history: int = HISTORY_REVISIONS
    ) -> None:
        # Replaced as a whole: readers on other threads see the state before a change, or after it.
        self.state = MemoryState()
        self.durable = self.state  # what a power cut would leave, at least
        self.distrusted = ""
        self._snapshots = snapshots if snapshots is not None else {}
        self._history = history

    def position(self) -> Position:
        """See ports.Store."""
        return self.state.position

    def get(self, key: str) -> Record | None:
        """See ports.Store."""
        return self.state.records.get(key)

    def request(self, request_id: str) -> Remembered | None:
        """See ports.Store."""
        return self.state.requests.get(request_id)

    def attached(self, lease: int, limit: int) -> tuple[str, ...]:
        """See evaluate.View."""
        return tuple(sorted(key for at, key in self.state.attached if at == lease))[:limit]

    def changed_since(self, prefix: str, revision: int, search: Search) -> bool:
        """See evaluate.View."""
        state = self.state
        if state.position.gaps or not 0 <= state.position.revision - revision <= CHANGED_SINCE_MAX:
            return revision < state.position.revision
        if revision < state.position.history or search.left < 0:
            return True
        since = (kept for at, kept in state.kept.items() if at > revision)
        return any(_begins(change.key, prefix) for kept in since for change in kept.changes)

    def read(self, key: str, *, at: int | None = None) -> tuple[Record | None, Position]:
        """See ports.Store."""
        state = self.state
        if at is None:
            return state.records.get(key), state.position
        _check_told(state.position, at)
        return state.as_of(key, at), state.position

    def page(
        self,
        prefix: str,
        *,
        start: str = "",
        limit: int,
        bytes_max: int,
        at: int | None = None,
        count: bool = False,
    ) -> Page:
        """See ports.Store."""
        state = self.state
        found: list[tuple[str, Record]] = []
        keys = self._keys(state, prefix, at)
        there = (key for key in keys if at is None or state.as_of(key, at) is not None)
        counted = sum(1 for _ in there) if count else None
        for key in keys:
            record = state.records.get(key) if at is None else state.as_of(key, at)
            if record is None or key.encode() < start.encode():
                continue
            if len(found) == limit or bytes_max <= 0:
                return Page(tuple(found), key, state.position, counted)
            found.append((key, record))
            bytes_max -= len(key.encode()) + len(record.value)
        return Page(tuple(found), None, state.position, counted)

    def count(self, prefix: str, *, at: int | None = None) -> tuple[int, Position]:
        """See ports.Store."""
        state = self.state
        keys = self._keys(state, prefix, at)
        return sum(1 for key in keys if at is None or state.as_of(key, at) is not None), state.position

    @staticmethod
    def _keys(state: MemoryState, prefix: str, at: int | None) -> list[str]:
        keys = set(state.records)
        if at is not None:
            _check_told(state.position, at)
            keys |= {change.key for kept in state.kept.values() for change in kept.changes}
        return sorted((key for key in keys if _begins(key, prefix)), key=str.encode)

    def kept(self, after: int, *, limit: int, bytes_max: int) -> Kept:
        """See ports.Store."""
        state = self.state
        _check_told(state.position, after)
        found: list[tuple[int, Changes]] = []
        for revision, changes in state.kept.items():
            if revision > after:
                if len(found) == limit or bytes_max <= 0:
                    return Kept(tuple(found), found[-1][0] if found else after, state.position)
                found.append((revision, changes))
                bytes_max -= bytes_of(changes)
        return Kept(tuple(found), max(after, state.position.revision), state.position)

    def versions(self, key: str, *, before: int | None = None, limit: int) -> Versions:
        """See ports.Store."""
        state = self.state
        if state.position.gaps:
            raise GapsInHistory(state.position.missed_entries)
        found: list[Version] = []
        for revision, kept in reversed(state.kept.items()):
            for change in kept.changes:
                if change.key == key and (before is None or revision < before):
                    if len(found) == limit:
                        return Versions(tuple(found), revision, state.position)
                    found.append(Version(revision, kept.index, kept.time_ms, change.after))
        return Versions(tuple(found), None, state.position)

    def read_request(self, request_id: str) -> tuple[Remembered | None, Position]:
        """See ports.Store."""
        state = self.state
        return state.requests.get(request_id), state.position

    def items(self) -> list[tuple[str, Record]]:
        """All records, in order of their keys."""
        return sorted(self.state.records.items())

    def requests(self) -> list[tuple[str, Remembered]]:
        """All remembered requests, in order of their revisions."""
        return sorted(self.state.requests.items(), key=lambda pair: pair[1].revision)

    def apply(self, entries: tuple[LogEntry, ...], *, fill: bool) -> Position:
        """See ports.Store."""

        def applied(transaction: MemoryTransaction, position: Position) -> Position:
            for item in entries:
                position = (
                    fill_entry(transaction, position, item)
                    if fill
                    else apply_entry(transaction, position, item, history=self._history)
                )
            return position

        return self._change(applied)

    def skip_to(self, index: int) -> Position:
        """See ports.Store."""
        return self._change(lambda transaction, position: open_gap(transaction, position, index))

    def _change(self, step: Callable[[MemoryTransaction, Position], Position]) -> Position:
        before = self.state
        transaction = MemoryTransaction(
            dict(before.records),
            dict(before.tombstones),
            dict(before.requests),
            set(before.attached),
            dict(before.kept),
        )
        position = step(transaction, before.position)
        self.state = MemoryState(
            transaction.records,
            transaction.tombstones,
            transaction.requests,
            frozenset(transaction.attached_keys),
            transaction.changes,
            position,
        )
        return position

    def adopt(self, identity: Identity) -> Position:
        """See ports.Store."""
        position = self.position()
        invariant(position.identity in (None, identity), "a store changes its identity")
        return self._move(msgspec.structs.replace(position, identity=identity))

    def sync(self) -> Position:
        """See ports.Store."""
        self.durable = self.state
        return self.state.position

    def lose_power(self) -> None:
        """Fall back to what is certain to survive a power cut."""
        self.state = self.durable

    def install(self, source: str) -> Position:
        """See ports.Store."""
        if source not in self._snapshots:
            raise StoreFailure(f"there is no snapshot {source}")
        self.state = self.durable = self._snapshots[source]
        return self.state.position

    def _move(self, position: Position) -> Position:
        self.state = dataclasses.replace(self.state, position=position)
        return position

    def distrust(self, reason: str) -> None:
        """See ports.Store."""
        self.distrusted = reason

    def close(self) -> None:
        """See ports.Store."""


@dataclass(slots=True)
class MemoryTransaction:
    """What applying entries works on; see machine.Transaction."""

    records: dict[str, Record]
    tombstones: dict[str, int]
    requests: dict[str, Remembered] = field(default_factory=dict)
    attached_keys: set[tuple[int, str]] = field(default_factory=set)
    changes: dict[int, Changes] = field(default_factory=dict)
    added: int = 0

    def get(self, key: str) -> Record | None:
        """See machine.Transaction."""
        return self.records.get(key)

    def request(self, request_id: str) -> Remembered | None:
        """See machine.Transaction."""
        return self.requests.get(request_id)

    def look_up(self, requests: tuple[Request, ...]) -> None:
        """See machine.Transaction."""

    def put(self, key: str, record: Record) -> None:
        """See machine.Transaction."""
        if key in self.records:
            self.added -= digest_of(key, self.records[key])
        self.added += digest_of(key, record)
        self.records[key] = record

    def delete(self, key: str) -> None:
        """See machine.Transaction."""
        self.added -= digest_of(key, self.records.pop(key))

    def tombstone(self, key: str) -> int:
        """See machine.Transaction."""
        return self.tombstones.get(key, 0)

    def bury(self, key: str, revision: int) -> None:
        """See machine.Transaction."""
        self.tombstones[key] = revision

    def attach(self, lease: int, key: str) -> None:
        """See machine.Transaction."""
        self.attached_keys.add((lease, key))

    def detach(self, lease: int, key: str) -> None:
        """See machine.Transaction."""
        self.attached_keys.remove((lease, key))

    def unbury(self, key: str) -> None:
        """See machine.Transaction."""
        del self.tombstones[key]

    def keep(self, revision: int, changes: Changes) -> None:
        """See machine.Transaction."""
        self.changes[revision] = changes

    def drop(self, revision: int, limit: int) -> tuple[int, list[tuple[int, str]]]:
        """See machine.Transaction."""
        deletions: list[tuple[int, str]] = []
        dropped = latest = 0
        for at in [at for at in self.changes if at <= revision]:
            if dropped >= limit:
                return latest, deletions
            kept = self.changes.pop(at).changes
            deletions += [(at, change.key) for change in kept if change.after is None]
            dropped, latest = dropped + len(kept), at
        return revision, deletions

    def clear_kept(self) -> None:
        """See machine.Transaction."""
        self.changes.clear()

    def clear_tombstones(self) -> None:
        """See machine.Transaction."""
        self.tombstones.clear()

    def remember(self, request_id: str, outcome: Remembered) -> None:
        """See machine.Transaction."""
        self.requests[request_id] = outcome
        self.added += digest_of_request(request_id, outcome)

    def forget(self, revision: int) -> None:
        """See machine.Transaction."""
        for request_id in [name for name, outcome in self.requests.items() if outcome.revision <= revision]:
            self.added -= digest_of_request(request_id, self.requests.pop(request_id))

    def added_to_digest(self) -> int:
        """See machine.Transaction."""
        added, self.added = self.added, 0
        return added


def _begins(key: str, prefix: str) -> bool:
    """Whether a key is asked for by a prefix; kvlog's own ones only by one that begins as they do."""
    return key.startswith(prefix) and (prefix.startswith(SYSTEM) or not key.startswith(SYSTEM))


def _check_told(position: Position, revision: int) -> None:
    if position.gaps:
        raise GapsInHistory(position.missed_entries)
    if revision < position.history:
        raise HistoryTrimmed(revision, position.history)
