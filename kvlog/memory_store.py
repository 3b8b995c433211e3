"""The port Store without a disk: for simulation, tests and trying things out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import msgspec

from kvlog.core.entry import LogEntry
from kvlog.core.machine import Identity, Position, Record, Remembered, apply_entry, fill_entry, open_gap
from kvlog.errors import StoreFailure, invariant


@dataclass(frozen=True, slots=True)
class MemoryState:
    """All that a MemoryStore holds. Never changed, only replaced as a whole."""

    records: dict[str, Record] = field(default_factory=dict)
    tombstones: dict[str, int] = field(default_factory=dict)
    requests: dict[str, Remembered] = field(default_factory=dict)
    position: Position = field(default_factory=Position)


class MemoryStore:
    """The port Store in dictionaries. What it holds survives as long as the object does.

    ``snapshots`` are the copies that can be installed, by the name of their source.
    """

    def __init__(self, snapshots: dict[str, MemoryState] | None = None) -> None:
        # Replaced as a whole: readers on other threads see the state before a change, or after it.
        self.state = MemoryState()
        self.durable = self.state  # what a power cut would leave, at least
        self._snapshots = snapshots if snapshots is not None else {}

    def position(self) -> Position:
        """See ports.Store."""
        return self.state.position

    def get(self, key: str) -> Record | None:
        """See ports.Store."""
        return self.state.records.get(key)

    def request(self, request_id: str) -> Remembered | None:
        """See ports.Store."""
        return self.state.requests.get(request_id)

    def read(self, key: str) -> tuple[Record | None, Position]:
        """See ports.Store."""
        state = self.state
        return state.records.get(key), state.position

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
        before = self.state
        transaction = MemoryTransaction(dict(before.records), dict(before.tombstones), dict(before.requests))
        position = before.position
        for item in entries:
            position = (fill_entry if fill else apply_entry)(transaction, position, item)
        self.state = MemoryState(transaction.records, transaction.tombstones, transaction.requests, position)
        return position

    def skip_to(self, index: int) -> Position:
        """See ports.Store."""
        return self._move(open_gap(self.position(), index))

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

    def close(self) -> None:
        """See ports.Store."""


@dataclass(slots=True)
class MemoryTransaction:
    """What applying entries works on; see machine.Transaction."""

    records: dict[str, Record]
    tombstones: dict[str, int]
    requests: dict[str, Remembered] = field(default_factory=dict)

    def get(self, key: str) -> Record | None:
        """See machine.Transaction."""
        return self.records.get(key)

    def request(self, request_id: str) -> Remembered | None:
        """See machine.Transaction."""
        return self.requests.get(request_id)

    def put(self, key: str, record: Record) -> None:
        """See machine.Transaction."""
        self.records[key] = record

    def delete(self, key: str) -> None:
        """See machine.Transaction."""
        del self.records[key]

    def tombstone(self, key: str) -> int:
        """See machine.Transaction."""
        return self.tombstones.get(key, 0)

    def bury(self, key: str, revision: int) -> None:
        """See machine.Transaction."""
        self.tombstones[key] = revision

    def clear_tombstones(self) -> None:
        """See machine.Transaction."""
        self.tombstones.clear()

    def remember(self, request_id: str, outcome: Remembered) -> None:
        """See machine.Transaction."""
        self.requests[request_id] = outcome

    def forget(self, revision: int) -> list[tuple[str, Remembered]]:
        """See machine.Transaction."""
        old = [pair for pair in self.requests.items() if pair[1].revision <= revision]
        for request_id, _ in old:
            del self.requests[request_id]
        return old
