"""What is kept of the past, in the table ``changes``: one row for each key that was changed at a kept revision.

A row leads to the one before it of the same key: what was there before says at which revision that was put, and
if there was nothing, the row says when the key had been deleted. So the past of a key is found by a walk that
begins at its record, or at its tombstone, and reads no row of any other key.
"""

from __future__ import annotations

from collections.abc import Iterator

import lmdb
import msgspec

from kvlog.core.entry import SYSTEM
from kvlog.core.evaluate import CHANGED_SINCE_MAX, Search
from kvlog.core.machine import Change, Changes, Position, Record
from kvlog.errors import GapsInHistory, HistoryTrimmed, StoreDamaged
from kvlog.ports import Kept, Version, Versions, bytes_of
from kvlog.store.lmdb_files import NUMBER_BYTES, Files, number_key, numbered_key

ROW_BYTES = 2 * 1024
"""What a row counts for in a search beside its own bytes: the time that it takes."""


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One key's change (machine.Change); ``place`` is its place among those of its revision."""

    after: Record | None
    key: str
    place: int
    index: int
    time_ms: int
    before: Record | None
    deleted: int


class RowOutline(msgspec.Struct, frozen=True, array_like=True):
    """What a row begins with, the record as it is encoded."""

    after: msgspec.Raw
    key: str


NOTHING = msgspec.msgpack.encode(None)


def deletes(row: bytes) -> bool:
    """Whether the key of an encoded row was gone afterwards: its first field stands behind one byte."""
    return row[1] == NOTHING[0]


rows = msgspec.msgpack.Decoder(Row)
outlines = msgspec.msgpack.Decoder(RowOutline)


def check_told(position: Position, revision: int) -> None:
    """Refuse to tell the state at a revision that cannot be told (M10).

    Raises:
        GapsInHistory: entries are missing.
        HistoryTrimmed: the revision is below the lowest one that can be told.
    """
    if position.gaps:
        raise GapsInHistory(position.missed_entries)
    if revision < position.history:
        raise HistoryTrimmed(revision, position.history)


class History:
    """What is kept of the past in the state that a transaction sees."""

    def __init__(self, files: Files, transaction: lmdb.Transaction[bytes]) -> None:
        self._files = files
        self._transaction = transaction

    def record_at(self, key: str, revision: int) -> Record | None:
        """The record of a key as it was at a revision that can be told."""
        record = self._files.record(self._transaction, key)
        if record is not None and record.revision <= revision:
            return record
        latest = record.revision if record is not None else self._files.tombstone(self._transaction, key)
        return self.before(key, latest, revision)

    def before(self, key: str, changed: int, revision: int) -> Record | None:
        """The record of a key as it was at a revision, where the key's change at ``changed`` is its last one."""
        while changed > revision:
            row = self._row(key, changed)
            if row.before is not None and row.before.revision <= revision:
                return row.before
            changed = _changed_before(row)
        return None

    def versions(self, position: Position, key: str, before: int | None, limit: int) -> Versions:
        """See ports.Store."""
        found: list[Version] = []
        changed = self._last_change(position, key, before)
        while changed > position.history:
            row = self._row(key, changed)
            if before is None or changed < before:
                if len(found) == limit:
                    return Versions(tuple(found), changed, position)
                found.append(Version(changed, row.index, row.time_ms, row.after))
            changed = _changed_before(row)
        return Versions(tuple(found), None, position)

    def kept(self, position: Position, after: int, limit: int, bytes_max: int) -> Kept:
        """See ports.Store."""
        found: list[tuple[int, Changes]] = []
        for revision, changes in self._since(after) if after < position.revision else ():
            if len(found) == limit or bytes_max <= 0:
                return Kept(tuple(found), found[-1][0] if found else after, position)
            found.append((revision, changes))
            bytes_max -= bytes_of(changes)
        return Kept(tuple(found), max(after, position.revision), position)

    def changed_since(self, position: Position, prefix: str, revision: int, search: Search) -> bool:
        """See evaluate.View."""
        if position.gaps or not 0 <= position.revision - revision <= CHANGED_SINCE_MAX:
            return revision < position.revision
        if revision < position.history:
            return True
        if search.left < 0:
            return True
        own = prefix.startswith(SYSTEM)
        with self._transaction.cursor(self._files.changes) as cursor:
            more = cursor.set_range(number_key(revision + 1))
            while more:
                name, data = cursor.item()
                key = outlines.decode(self._files.unseal(name, data)).key
                if key.startswith(prefix) and (own or not key.startswith(SYSTEM)):
                    return True
                search.left -= len(data) + ROW_BYTES
                if search.left < 0:
                    return True
                more = cursor.next()
        return False

    def _last_change(self, position: Position, key: str, before: int | None) -> int:
        """The key's last change, or a later one than ``before`` asks for."""
        if before is not None and 0 < before <= position.revision and self._found(key, before - 1) is not None:
            return before - 1  # a page goes on where the one before it has ended
        record = self._files.record(self._transaction, key)
        return record.revision if record is not None else self._files.tombstone(self._transaction, key)

    def _since(self, revision: int) -> Iterator[tuple[int, Changes]]:
        """What is kept of the revisions after one, in order."""
        gathered: list[Row] = []
        latest = 0
        with self._transaction.cursor(self._files.changes) as cursor:
            more = cursor.set_range(number_key(revision + 1))
            while more:
                name, data = cursor.item()
                at = int.from_bytes(name[:NUMBER_BYTES], "big")
                if gathered and at != latest:
                    yield latest, _changes(gathered)
                    gathered = []
                latest = at
                gathered.append(rows.decode(self._files.unseal(name, data)))
                more = cursor.next()
        if gathered:
            yield latest, _changes(gathered)

    def _row(self, key: str, revision: int) -> Row:
        row = self._found(key, revision)
        if row is None or _changed_before(row) >= revision:
            raise StoreDamaged(self._files.directory, f"what happened to {key[:60]!r} at {revision} is not kept")
        return row

    def _found(self, key: str, revision: int) -> Row | None:
        name = numbered_key(revision, key.encode())
        data = self._transaction.get(name, db=self._files.changes)
        return None if data is None else rows.decode(self._files.unseal(name, data))


def _changed_before(row: Row) -> int:
    """At which revision the key had been changed before; 0 if nothing was kept of that then."""
    return row.before.revision if row.before is not None else row.deleted


def _changes(gathered: list[Row]) -> Changes:
    ordered = sorted(gathered, key=lambda row: row.place)
    changes = tuple(Change(row.key, row.before, row.after, row.deleted) for row in ordered)
    return Changes(gathered[0].index, gathered[0].time_ms, changes)
