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
from dataclasses import replace
from pathlib import Path

import msgspec

from kvlog.core.applying import apply_entry, fill_entry, open_gap
from kvlog.core.entry import LogEntry
from kvlog.core.evaluate import Search
from kvlog.core.machine import HISTORY_REVISIONS, SHARE_BYTES, Identity, Position, Record, Remembered
from kvlog.errors import GapsInHistory, StoreFailure, invariant
from kvlog.ports import Kept, Page, Versions
from kvlog.store.directories import OLD, distrust, remove, swap_in, sync_directory
from kvlog.store.lmdb_copy import Pace, StoreCopy
from kvlog.store.lmdb_files import (
    POSITION,
    Guarded,
    encoder,
    number_key,
    open_files,
    outcomes,
    records,
    seal,
)
from kvlog.store.lmdb_history import History, check_told
from kvlog.store.lmdb_pages import Range
from kvlog.store.lmdb_transaction import LmdbTransaction
from kvlog.store.recent import Recent

HISTORY_BYTES_MAX = 4 * 1024**3
"""Upper bound of what the past takes in the file: with large values, it is that and not the number of revisions
which bounds what is kept."""

HURRY = 16
"""Revisions that are dropped with each entry, beside as many as it adds, while the past takes more than that."""

_USUAL = Pace()


def _nothing() -> None:
    pass


class LmdbStore:
    """See the module's docstring. ``directories.settle_files`` comes before it.

    ``history``: of how many revisions the changes are kept (M10), if they take no more than ``history_bytes``.

    Raises:
        StoreFailure: the directory holds no store that this version can read, or the disk fails.
        StoreDamaged: from every method: what was read is not what was written.
    """

    def __init__(
        self, directory: Path, *, history: int = HISTORY_REVISIONS, history_bytes: int = HISTORY_BYTES_MAX
    ) -> None:
        self._directory = directory
        self._guarded = Guarded(directory)
        self._history = history
        self._history_bytes = history_bytes
        self._copies: weakref.WeakSet[StoreCopy] = weakref.WeakSet()
        self._copies_lock = threading.Lock()
        with self._guarded:
            # Replaced as a whole by install: whoever has begun to read goes on with what it has begun with.
            self._files = open_files(directory, create=True)
        self._recent = self._nothing_recent()

    def _nothing_recent(self) -> Recent:
        files = self._files
        with self._guarded, files.environment.begin() as transaction:
            return Recent(files.position(transaction))

    # --- reading ------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """See ports.Store."""
        if (known := self._recent.position()) is not None:
            return known
        files = self._files
        with self._guarded, files.environment.begin() as transaction:
            return files.standing(transaction)

    def get(self, key: str) -> Record | None:
        """See ports.Store."""
        return self.read(key)[0]

    def request(self, request_id: str) -> Remembered | None:
        """See ports.Store."""
        files = self._files
        with self._guarded, files.environment.begin() as transaction:
            return files.outcome(transaction, request_id.encode())

    def attached(self, lease: int, limit: int) -> tuple[str, ...]:
        """See evaluate.View. In no order that means anything."""
        files = self._files
        if not 0 < lease < 1 << 64:
            return ()
        found: list[str] = []
        with self._guarded, files.environment.begin() as transaction:
            of_lease = number_key(lease)
            with transaction.cursor(files.attached) as cursor:
                more = cursor.set_range(of_lease)
                while more and len(found) < limit and cursor.key().startswith(of_lease):
                    found.append(files.unseal(*cursor.item()).decode())
                    more = cursor.next()
        return tuple(found)

    def changed_since(self, prefix: str, revision: int, search: Search) -> bool:
        """See evaluate.View."""
        files = self._files
        with self._guarded, files.environment.begin() as transaction:
            return History(files, transaction).changed_since(files.standing(transaction), prefix, revision, search)

    def read(self, key: str, *, at: int | None = None) -> tuple[Record | None, Position]:
        """See ports.Store."""
        recent = self._recent
        if at is None and (found := recent.read(key)) is not None:
            return found
        files = self._files
        with self._guarded, files.environment.begin() as transaction:
            position = files.standing(transaction)
            if at is not None:
                check_told(position, at)
                return History(files, transaction).record_at(key, at), position
            record = files.record(transaction, key)
        recent.keep(key, record, position)
        return record, position

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
        files = self._files
        with self._guarded, files.environment.begin() as transaction:
            position = files.standing(transaction)
            if at is not None:
                check_told(position, at)
            keys = Range(files, transaction, prefix, start)
            found = keys.page(position, limit=limit, bytes_max=bytes_max, at=at)
            return replace(found, count=Range(files, transaction, prefix).count(at)) if count else found

    def count(self, prefix: str, *, at: int | None = None) -> tuple[int, Position]:
        """See ports.Store."""
        files = self._files
        with self._guarded, files.environment.begin() as transaction:
            position = files.standing(transaction)
            if at is not None:
                check_told(position, at)
            return Range(files, transaction, prefix).count(at), position

    def kept(self, after: int, *, limit: int, bytes_max: int) -> Kept:
        """See ports.Store."""
        files = self._files
        with self._guarded, files.environment.begin() as transaction:
            position = files.standing(transaction)
            check_told(position, after)
            return History(files, transaction).kept(position, after, limit, bytes_max)

    def versions(self, key: str, *, before: int | None = None, limit: int) -> Versions:
        """See ports.Store."""
        files = self._files
        with self._guarded, files.environment.begin() as transaction:
            position = files.standing(transaction)
            if position.gaps:
                raise GapsInHistory(position.missed_entries)
            return History(files, transaction).versions(position, key, before, limit)

    def read_request(self, request_id: str) -> tuple[Remembered | None, Position]:
        """See ports.Store."""
        files = self._files
        with self._guarded, files.environment.begin() as transaction:
            return files.outcome(transaction, request_id.encode()), files.standing(transaction)

    def items(self) -> list[tuple[str, Record]]:
        """All records, in order of their keys' bytes; for tests and small stores."""
        files = self._files
        with self._guarded, files.environment.begin(db=files.data) as transaction:
            return [
                (key.decode(), records.decode(files.unseal(key, value)[SHARE_BYTES:]))
                for key, value in transaction.cursor()
            ]

    def requests(self) -> list[tuple[str, Remembered]]:
        """All remembered requests, in order of their revisions; for tests and small stores."""
        files = self._files
        with self._guarded, files.environment.begin(db=files.requests) as transaction:
            found = [
                (key.decode(), outcomes.decode(files.unseal(key, value)[SHARE_BYTES:]))
                for key, value in transaction.cursor()
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

        def applied(transaction: LmdbTransaction, position: Position) -> Position:
            for item in entries:
                if fill:
                    position = fill_entry(transaction, position, item)
                else:
                    history = self._revisions_to_keep(transaction, position)
                    position = apply_entry(transaction, position, item, history=history)
            return position

        return self._change(applied)

    def _revisions_to_keep(self, transaction: LmdbTransaction, position: Position) -> int:
        if transaction.kept_bytes() <= self._history_bytes:
            return self._history
        return max(0, min(self._history, position.revision - position.history - HURRY))

    def skip_to(self, index: int) -> Position:
        """See ports.Store."""
        return self._change(lambda transaction, position: open_gap(transaction, position, index))

    def adopt(self, identity: Identity) -> Position:
        """See ports.Store."""

        def adopted(_: LmdbTransaction, before: Position) -> Position:
            invariant(before.identity in (None, identity), f"{before.identity} adopts {identity}")
            return msgspec.structs.replace(before, identity=identity)

        return self._change(adopted)

    def rebase(self, identity: Identity, applied_index: int) -> Position:
        """Let the store stand at an index of another log, which is to begin behind it; for operators' tools.

        What it holds, its history, its revision and its hash stay. Its epoch goes: it is a zxid of the other log's
        ensemble, and the new one's may count from the beginning. The node must not run.
        """

        def rebased(_: LmdbTransaction, before: Position) -> Position:
            invariant(not before.gaps, f"a stale store is made the beginning of a log: {before}")
            invariant(applied_index > before.applied_index, f"{before} rebased to {applied_index}")
            return msgspec.structs.replace(
                before, identity=identity, applied_index=applied_index, epoch=0, leader=None
            )

        return self._change(rebased)

    def _change(self, step: Callable[[LmdbTransaction, Position], Position]) -> Position:
        files = self._files
        with self._guarded, files.environment.begin(write=True, db=files.meta) as transaction:
            number = transaction.id()  # of the state that it makes
            seen, position = files.seen.latest
            if seen != number - 1:
                position = files.position(transaction)
            work = LmdbTransaction(files, transaction)
            position = step(work, position)
            work.flush()
            transaction.put(POSITION, seal(POSITION, encoder.encode(position)))
            self._recent.change(work.changed.keys())
        files.seen.latest = (number, position)
        self._recent.changed(position, work.changed)
        return position

    def sync(self) -> Position:
        """See ports.Store. One thread writes, so that nothing can come between the flush and the reading."""
        with self._guarded:
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
        with Guarded(incoming):
            copy = open_files(incoming, create=False)
            with copy.environment.begin() as transaction:
                position = copy.position(transaction)
            copy.environment.close()  # nobody else knows it
        mine = self.position().identity
        if mine not in (None, position.identity):
            raise StoreFailure(f"the snapshot {source} belongs to {position.identity}, this store to {mine}")
        with self._guarded:
            swap_in(self._directory, incoming)
            self._files = open_files(self._directory, create=True)
            self._recent = self._nothing_recent()  # who has begun to read keeps what goes with the old files
            remove(self._directory.with_name(OLD))
            sync_directory(self._directory.parent)
        return position

    def distrust(self, reason: str) -> None:
        """See ports.Store."""
        distrust(self._directory, reason)

    def close(self) -> None:
        """See ports.Store."""
        with self._copies_lock:
            copies = list(self._copies)
        for copy in copies:
            copy.close("the store is being closed")
        with self._guarded:
            self._files.environment.sync(True)
            self._files.environment.close()
