"""The port Store on LMDB.

One write transaction per apply holds the data and the position in the log (M1). ``metasync=False`` leaves the
flush of the meta page to the next transaction: after a power cut the last transaction may be gone as a whole,
never half of it, and the log brings it back. So a position counts as durable only after ``sync``: that flushes the
meta page of the last transaction, too. Reads come from the memory map, on any thread, without waiting for the
writer.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgspec

from kvlog.core.entry import LogEntry
from kvlog.core.machine import Identity, Position, Record, Remembered, apply_entry, fill_entry, open_gap
from kvlog.errors import StoreDamaged, StoreFailure, invariant
from kvlog.store.directories import OLD, remove, swap_in, sync_directory
from kvlog.store.lmdb_copy import Pace, StoreCopy
from kvlog.store.lmdb_files import (
    POSITION,
    Files,
    encoder,
    guarded,
    open_files,
    outcomes,
    records,
    seal,
)
from kvlog.store.lmdb_verify import REVISION_BYTES

_USUAL = Pace()


def _nothing() -> None:
    pass


class LmdbStore:
    """See the module's docstring. ``directories.settle_files`` comes before it.

    Raises:
        StoreFailure: the directory holds no store that this version can read, or the disk fails.
        StoreDamaged: from every method: what was read is not what was written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._copies: weakref.WeakSet[StoreCopy] = weakref.WeakSet()
        self._copies_lock = threading.Lock()
        with guarded(directory):
            # Replaced as a whole by install: whoever has begun to read goes on with what it has begun with.
            self._files = open_files(directory, create=True)

    # --- reading ------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """See ports.Store."""
        files = self._files
        with guarded(self._directory), files.environment.begin() as transaction:
            return files.position(transaction)

    def get(self, key: str) -> Record | None:
        """See ports.Store."""
        files = self._files
        with guarded(self._directory), files.environment.begin() as transaction:
            return files.record(transaction, key)

    def request(self, request_id: str) -> Remembered | None:
        """See ports.Store."""
        files = self._files
        with guarded(self._directory), files.environment.begin() as transaction:
            return files.outcome(transaction, request_id.encode())

    def read(self, key: str) -> tuple[Record | None, Position]:
        """See ports.Store."""
        files = self._files
        with guarded(self._directory), files.environment.begin() as transaction:
            return files.record(transaction, key), files.position(transaction)

    def read_request(self, request_id: str) -> tuple[Remembered | None, Position]:
        """See ports.Store."""
        files = self._files
        with guarded(self._directory), files.environment.begin() as transaction:
            return files.outcome(transaction, request_id.encode()), files.position(transaction)

    def items(self) -> list[tuple[str, Record]]:
        """All records, in order of their keys' bytes; for tests and small stores."""
        files = self._files
        with guarded(self._directory), files.environment.begin(db=files.data) as transaction:
            return [
                (key.decode(), records.decode(files.unseal(key, value))) for key, value in transaction.cursor()
            ]

    def requests(self) -> list[tuple[str, Remembered]]:
        """All remembered requests, in order of their revisions; for tests and small stores."""
        files = self._files
        with guarded(self._directory), files.environment.begin(db=files.requests) as transaction:
            found = [
                (key.decode(), outcomes.decode(files.unseal(key, value))) for key, value in transaction.cursor()
            ]
        return sorted(found, key=lambda pair: pair[1].revision)

    def snapshot(self, *, ended: Callable[[], None] = _nothing, pace: Pace = _USUAL) -> StoreCopy:
        """A copy of the store as it is now; ``ended`` is called once the copy does not hold the store any more."""
        copy = StoreCopy(self._files, pace=pace, ended=ended)
        with self._copies_lock:
            self._copies.add(copy)
        return copy

    # --- writing: one thread ------------------------------------------------------------------------------

    def apply(self, entries: tuple[LogEntry, ...], *, fill: bool) -> Position:
        """See ports.Store."""
        step = fill_entry if fill else apply_entry
        files = self._files
        with guarded(self._directory), files.environment.begin(write=True) as transaction:
            position = files.position(transaction)
            view = _Transaction(transaction, files)
            for item in entries:
                position = step(view, position, item)
            _write_position(files, transaction, position)
        return position

    def skip_to(self, index: int) -> Position:
        """See ports.Store."""
        return self._move(lambda before: open_gap(before, index))

    def adopt(self, identity: Identity) -> Position:
        """See ports.Store."""

        def adopted(before: Position) -> Position:
            invariant(before.identity in (None, identity), f"{before.identity} adopts {identity}")
            return msgspec.structs.replace(before, identity=identity)

        return self._move(adopted)

    def rebase(self, identity: Identity, applied_index: int) -> Position:
        """Let the store stand at an index of another log, which is to begin behind it; for operators' tools.

        What it holds, its revision and its hash stay. Its epoch goes: it is a zxid of the other log's ensemble,
        and the new one's may count from the beginning. The node must not run.
        """

        def rebased(before: Position) -> Position:
            invariant(not before.gaps, f"a stale store is made the beginning of a log: {before}")
            invariant(applied_index > before.applied_index, f"{before} rebased to {applied_index}")
            return msgspec.structs.replace(
                before, identity=identity, applied_index=applied_index, epoch=0, leader=None
            )

        return self._move(rebased)

    def _move(self, step: Callable[[Position], Position]) -> Position:
        files = self._files
        with guarded(self._directory), files.environment.begin(write=True) as transaction:
            position = step(files.position(transaction))
            _write_position(files, transaction, position)
        return position

    def sync(self) -> Position:
        """See ports.Store. One thread writes, so that nothing can come between the flush and the reading."""
        with guarded(self._directory):
            self._files.environment.sync(True)
        return self.position()

    def install(self, source: str) -> Position:
        """See ports.Store. ``source`` is a directory beside the store, on the disk as a whole.

        Readers on other threads go on with the files that they have begun with, which are closed when the last
        one is done.

        Raises:
            StoreFailure: it is no store, or one of another log; nothing was changed.
        """
        incoming = Path(source)
        if incoming.parent != self._directory.parent:
            raise StoreFailure(f"the snapshot {source} does not lie beside the store in {self._directory}")
        with guarded(incoming):
            copy = open_files(incoming, create=False)
            with copy.environment.begin() as transaction:
                position = copy.position(transaction)
            copy.environment.close()  # nobody else knows it
        mine = self.position().identity
        if mine not in (None, position.identity):
            raise StoreFailure(f"the snapshot {source} belongs to {position.identity}, this store to {mine}")
        with guarded(self._directory):
            swap_in(self._directory, incoming)
            self._files = open_files(self._directory, create=True)
            remove(self._directory.with_name(OLD))
            sync_directory(self._directory.parent)
        return position

    def close(self) -> None:
        """See ports.Store."""
        with self._copies_lock:
            copies = list(self._copies)
        for copy in copies:
            copy.close("the store is being closed")
        with guarded(self._directory):
            self._files.environment.sync(True)
            self._files.environment.close()


class _Transaction:
    """What applying entries works on (machine.Transaction)."""

    def __init__(self, transaction: lmdb.Transaction[bytes], files: Files) -> None:
        self._transaction = transaction
        self._files = files

    def get(self, key: str) -> Record | None:
        return self._files.record(self._transaction, key)

    def request(self, request_id: str) -> Remembered | None:
        return self._files.outcome(self._transaction, request_id.encode())

    def put(self, key: str, record: Record) -> None:
        self._put(self._files.data, key.encode(), encoder.encode(record))

    def delete(self, key: str) -> None:
        self._transaction.delete(key.encode(), db=self._files.data)

    def tombstone(self, key: str) -> int:
        name = key.encode()
        data = self._transaction.get(name, db=self._files.tombstones)
        return 0 if data is None else int(bytes(self._files.unseal(name, data)))

    def bury(self, key: str, revision: int) -> None:
        self._put(self._files.tombstones, key.encode(), str(revision).encode())

    def clear_tombstones(self) -> None:
        self._transaction.drop(self._files.tombstones, delete=False)

    def remember(self, request_id: str, outcome: Remembered) -> None:
        name = request_id.encode()
        self._put(self._files.requests, name, encoder.encode(outcome))
        self._transaction.put(_revision_key(outcome.revision), name, db=self._files.revisions)

    def forget(self, revision: int) -> list[tuple[str, Remembered]]:
        forgotten = []
        with self._transaction.cursor(db=self._files.revisions) as oldest:
            while oldest.first():
                at, name = oldest.item()
                if int.from_bytes(at, "big") > revision:
                    break
                outcome = self._files.outcome(self._transaction, name)
                if outcome is None or _revision_key(outcome.revision) != at:
                    raise StoreDamaged(self._files.directory, f"request {name!r} is not where it is listed")
                oldest.delete()
                self._transaction.delete(name, db=self._files.requests)
                forgotten.append((name.decode(), outcome))
        return forgotten

    def _put(self, table: lmdb._Database, key: bytes, body: bytes) -> None:
        self._transaction.put(key, seal(key, body), db=table)


def _write_position(files: Files, transaction: lmdb.Transaction[bytes], position: Position) -> None:
    transaction.put(POSITION, seal(POSITION, encoder.encode(position)), db=files.meta)


def _revision_key(revision: int) -> bytes:
    """A revision as a key: in the order of the bytes, the oldest is first."""
    return revision.to_bytes(REVISION_BYTES, "big")
