"""Ranges of keys, in the order of their bytes: as they are, and as they were.

What was there at an earlier revision is found among the records and the tombstones: a key that had a record then
has one still, or has been deleted since, and that deletion is kept (M5).
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge

import lmdb

from kvlog.core.entry import KEY_BYTES_MAX, SYSTEM
from kvlog.core.machine import SHARE_BYTES, Position, Record
from kvlog.ports import Page
from kvlog.store.lmdb_files import Files, records
from kvlog.store.lmdb_history import History

BEHIND_SYSTEM = bytes([ord(SYSTEM) + 1])
"""Where the keys begin that are not kvlog's own."""


class Range:
    """The keys that begin with ``prefix``, from ``start`` on, in the state that a transaction sees.

    kvlog's own keys are among them only if the prefix begins as they do.
    """

    def __init__(self, files: Files, transaction: lmdb.Transaction[bytes], prefix: str, start: str = "") -> None:
        self._files = files
        self._transaction = transaction
        self._prefix = prefix.encode()
        self._first = max(self._prefix, start.encode())
        if not prefix.startswith(SYSTEM):
            self._first = max(self._first, BEHIND_SYSTEM)

    def page(self, position: Position, *, limit: int, bytes_max: int, at: int | None) -> Page:
        """See ports.Store."""
        found: list[tuple[str, Record]] = []
        for key, record in self._now() if at is None else self._then(at):
            if len(found) == limit or bytes_max <= 0:
                return Page(tuple(found), key, position)
            found.append((key, record))
            bytes_max -= len(key.encode()) + len(record.value)
        return Page(tuple(found), None, position)

    def count(self, at: int | None) -> int:
        """How many keys there are, or were at a revision."""
        if at is not None:
            return sum(1 for _ in self._then(at))
        if not self._prefix:
            return int(self._transaction.stat(self._files.data)["entries"]) - self._count_own()
        return sum(1 for _ in self._names())

    def _now(self) -> Iterator[tuple[str, Record]]:
        for name, data in self._scan(self._files.data):
            yield name.decode(), records.decode(self._files.unseal(name, data)[SHARE_BYTES:])

    def _then(self, at: int) -> Iterator[tuple[str, Record]]:
        history = History(self._files, self._transaction)
        present = ((name, True, data) for name, data in self._scan(self._files.data))
        deleted = ((name, False, data) for name, data in self._scan(self._files.tombstones))
        for name, there, data in merge(present, deleted):
            body = self._files.unseal(name, data)
            record = records.decode(body[SHARE_BYTES:]) if there else None
            if record is None or record.revision > at:
                changed = record.revision if record is not None else int(body)
                record = history.before(name.decode(), changed, at)
            if record is not None:
                yield name.decode(), record

    def _scan(self, table: lmdb._Database) -> Iterator[tuple[bytes, bytes]]:
        with self._transaction.cursor(table) as cursor:
            if seek(cursor, self._first):
                for name, data in cursor.iternext():
                    if not name.startswith(self._prefix):
                        return
                    yield name, data

    def _names(self) -> Iterator[bytes]:
        with self._transaction.cursor(self._files.data) as cursor:
            if seek(cursor, self._first):
                for name in cursor.iternext(values=False):
                    if not name.startswith(self._prefix):
                        return
                    yield name

    def _count_own(self) -> int:
        with self._transaction.cursor(self._files.data) as cursor:
            if not cursor.first():
                return 0
            count = 0
            for name in cursor.iternext(values=False):
                if name >= BEHIND_SYSTEM:
                    break
                count += 1
            return count


def seek(cursor: lmdb.Cursor[bytes], name: bytes) -> bool:
    """Go to the first key that is not below ``name``, which may be longer than any key; False if there is none."""
    shortened = name[:KEY_BYTES_MAX]
    if not cursor.set_range(shortened):
        return False
    # Only this key is below the name and not below its beginning: any other one differs from it within that.
    return cursor.next() if len(name) > KEY_BYTES_MAX and cursor.key() == shortened else True
