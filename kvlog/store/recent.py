"""Records that were read or written lately, in memory: what is read again and again costs no transaction of LMDB.

LMDB's own reads are quick, but each lets other threads of this process run meanwhile, and has to wait until it may
go on (the interpreter's lock): several times the work of the read itself, measured on a busy node.

Invariants (tests cite the numbers):

H1  What is held for a key is its record in the latest committed state, and in the one that is just being
    committed: whatever that changes is dropped before.
H2  A record goes with a position only if no other one was committed while both were looked at.
H3  What is held is bounded (RECORDS_MAX, BYTES_MAX).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from kvlog.core.machine import Position, Record

RECORDS_MAX = 100_000
BYTES_MAX = 64 * 1024 * 1024

RECORD_BYTES = 400
"""What a record takes beside its key and value, roughly."""

_UNKNOWN = object()


class Recent:
    """See the module's docstring. Any thread reads; one thread changes, which calls ``change`` and ``changed``."""

    def __init__(self, position: Position, *, records_max: int = RECORDS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._position: Position | None = position
        self._records: dict[str, Record | None] = {}
        self._bytes = 0
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._lock = threading.Lock()

    def read(self, key: str) -> tuple[Record | None, Position] | None:
        """A key's record and the position of the state that it is of; None if it has to be looked up."""
        position = self._position
        record = self._records.get(key, _UNKNOWN)
        if record is _UNKNOWN or position is None or self._position is not position:  # H2
            return None
        return record, position  # type: ignore[return-value]

    def position(self) -> Position | None:
        """That of the latest state; None while it changes."""
        return self._position

    def keep(self, key: str, record: Record | None, position: Position) -> None:
        """Hold what was looked up in the state at ``position``, if that is still the latest one."""
        with self._lock:
            known = self._position
            if known is not None and known.applied_index == position.applied_index and known == position:
                self._hold(key, record)

    def change(self, keys: Iterable[str]) -> None:
        """A change of these keys is about to be committed (H1)."""
        with self._lock:
            self._position = None
            for key in keys:
                record = self._records.pop(key, _UNKNOWN)
                if record is not _UNKNOWN:
                    self._bytes -= _bytes_of(key, record)  # type: ignore[arg-type]

    def changed(self, position: Position, records: dict[str, Record | None]) -> None:
        """The change is committed: the state is the one at ``position``, and these records are in it."""
        with self._lock:
            for key, record in records.items():
                self._hold(key, record)
            self._position = position

    def _hold(self, key: str, record: Record | None) -> None:
        before = self._records.pop(key, _UNKNOWN)
        if before is not _UNKNOWN:
            self._bytes -= _bytes_of(key, before)  # type: ignore[arg-type]
        self._records[key] = record
        self._bytes += _bytes_of(key, record)
        while len(self._records) > self._records_max or self._bytes > self._bytes_max:  # H3
            oldest = next(iter(self._records))
            self._bytes -= _bytes_of(oldest, self._records.pop(oldest))


def _bytes_of(key: str, record: Record | None) -> int:
    return RECORD_BYTES + len(key) + (len(record.value) if record is not None else 0)
