"""Copies of the store for other nodes and for backups: how many at a time, and when there is none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from kvlog.core.machine import Position
from kvlog.errors import Unavailable
from kvlog.failpoints import hit
from kvlog.ports import Clock, Store
from kvlog.snapshot import encode, header_of

COPIES_MAX = 2
"""Copies of the store at a time: each reads all of it, and keeps what is overwritten meanwhile on the disk."""

STREAMS_MAX = 8
"""Snapshots that are being sent at a time. One that nobody reads loses its copy soon, but holds its thread for as
long as the client keeps the connection."""


class StoreCopy(Protocol):
    """The bytes of a copy of the store at ``position``; see lmdb_copy."""

    position: Position
    size: int

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None:
        """End the copy."""


class CopyStore(Protocol):
    """Begins a copy of the store as it is now; calls ``ended`` when the store is not held any more."""

    def __call__(self, *, ended: Callable[[], None]) -> StoreCopy:
        """Raises StoreFailure."""


@dataclass(frozen=True, slots=True)
class NoSnapshot:
    """This node's store is not fit to be copied: where it stands, and why it is not."""

    reason: str
    applied_index: int


class SnapshotStream:
    """A snapshot in pieces, to be sent; whoever has it closes it."""

    def __init__(self, pieces: Iterator[bytes], copy: StoreCopy, closed: Callable[[], None]) -> None:
        self._pieces = pieces
        self._copy = copy
        self._closed: Callable[[], None] | None = closed

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        """End it, wherever it is."""
        closed, self._closed = self._closed, None
        if closed is not None:
            self._copy.close()
            closed()

    def __del__(self) -> None:
        self.close()


class Copies:
    """See the module's docstring."""

    def __init__(self, *, node_id: str, store: Store, clock: Clock, copy_store: CopyStore) -> None:
        self._node_id = node_id
        self._store = store
        self._clock = clock
        self._copy_store = copy_store
        self._copies = threading.BoundedSemaphore(COPIES_MAX)
        self._streams = threading.BoundedSemaphore(STREAMS_MAX)

    def snapshot(self, min_index: int) -> SnapshotStream | NoSnapshot:
        """A copy of this node's whole store, applied up to ``min_index`` or further.

        Raises:
            Unavailable: as many as may be are being sent already.
            StoreFailure: the store cannot be read.
        """
        if not self._streams.acquire(blocking=False):
            raise Unavailable(f"{STREAMS_MAX} snapshots are being sent by this node already")
        stream: SnapshotStream | NoSnapshot | None = None
        try:
            stream = self._snapshot(min_index)
        finally:
            if not isinstance(stream, SnapshotStream):
                self._streams.release()
        return stream

    def _snapshot(self, min_index: int) -> SnapshotStream | NoSnapshot:
        reason = _unfit(self._store.position(), min_index)
        if reason is not None:
            return reason
        if not self._copies.acquire(blocking=False):
            raise Unavailable(f"{COPIES_MAX} copies of this node's store are being made already")
        try:
            copy = self._copy_store(ended=self._copies.release)
        except BaseException:
            self._copies.release()
            raise
        # What the store lacked before, it may have lacked again when the copy began.
        reason = _unfit(copy.position, min_index)
        if reason is not None:
            copy.close()
            return reason
        header = header_of(
            copy.position,
            size=copy.size,
            created_ms=self._clock.wall_ms(),
            node_id=self._node_id,
        )
        return SnapshotStream(_one_by_one(encode(header, copy)), copy, self._streams.release)


def _one_by_one(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The parts of a snapshot, with a failpoint between each two."""
    for number, part in enumerate(parts):
        if number:
            hit("mid_snapshot")
        yield part


def _unfit(position: Position, min_index: int) -> NoSnapshot | None:
    """Why a store at this position is no snapshot for others, if so."""
    if position.gaps:
        reason = f"this node's store is stale: it has missed {position.missed_entries} entries"
    elif position.identity is None:
        reason = "this node's store belongs to no log yet"
    elif position.applied_index < min_index:
        reason = f"this node's store stands at index {position.applied_index}, {min_index} was asked for"
    else:
        return None
    return NoSnapshot(reason, position.applied_index)
