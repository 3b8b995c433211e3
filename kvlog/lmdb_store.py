"""The port Store on LMDB: nothing outside this module imports lmdb.

One write transaction per apply holds the data and the position in the log (M1). ``metasync=False`` leaves the
flush of the meta page to the next transaction: after a power cut the last transaction may be gone as a whole,
never half of it, and the log brings it back. Reads come from the memory map, on any thread, without waiting for
the writer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import msgspec

from kvlog.core.entry import LogEntry
from kvlog.core.machine import Identity, Position, Record, apply_entry, fill_entry, open_gap
from kvlog.errors import StoreFailure, invariant

MAP_BYTES = 64 * 1024**3
"""Upper bound of the store's size. It is address space, not disk or memory: the file grows as it is filled."""

READERS_MAX = 512
"""Threads that may read at a time; the server has far fewer."""

FORMAT = 1

_POSITION = b"position"
_FORMAT = b"format"
_positions = msgspec.msgpack.Decoder(Position)
_records = msgspec.msgpack.Decoder(Record)
_encoder = msgspec.msgpack.Encoder()


class LmdbStore:
    """See the module's docstring.

    Raises:
        StoreFailure: the directory holds no store that this version can read, or the disk fails.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with self._guarded():
            directory.mkdir(parents=True, exist_ok=True)
            self._environment = lmdb.open(
                str(directory), map_size=MAP_BYTES, max_dbs=3, max_readers=READERS_MAX, metasync=False
            )
            self._data = self._environment.open_db(b"data")
            self._tombstones = self._environment.open_db(b"tombstones")
            self._meta = self._environment.open_db(b"meta")
            with self._environment.begin(write=True, db=self._meta) as transaction:
                found = transaction.get(_FORMAT)
                if found is None:
                    transaction.put(_FORMAT, str(FORMAT).encode())
                    transaction.put(_POSITION, _encoder.encode(Position()))
                elif found != str(FORMAT).encode():
                    raise StoreFailure(
                        f"the store in {directory} has format {found.decode()}, this kvlog knows {FORMAT}; "
                        "run the version that wrote it, or move it away to start from the log"
                    )

    # --- reading ------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """See ports.Store."""
        with self._guarded(), self._environment.begin() as transaction:
            return self._read_position(transaction)

    def get(self, key: str) -> Record | None:
        """See ports.Store."""
        with self._guarded(), self._environment.begin() as transaction:
            return _read_record(transaction, self._data, key)

    def read(self, key: str) -> tuple[Record | None, Position]:
        """See ports.Store."""
        with self._guarded(), self._environment.begin() as transaction:
            return _read_record(transaction, self._data, key), self._read_position(transaction)

    def items(self) -> list[tuple[str, Record]]:
        """All records, in order of their keys' bytes; for tests and small stores."""
        with self._guarded(), self._environment.begin(db=self._data) as transaction:
            return [(bytes(key).decode(), _records.decode(value)) for key, value in transaction.cursor()]

    def _read_position(self, transaction: lmdb.Transaction) -> Position:
        data = transaction.get(_POSITION, db=self._meta)
        if data is None:
            raise StoreFailure(f"the store in {self._directory} says nothing of its position: it is damaged")
        return _positions.decode(data)

    # --- writing: one thread ------------------------------------------------------------------------------

    def apply(self, entries: tuple[LogEntry, ...], *, fill: bool) -> Position:
        """See ports.Store."""
        step = fill_entry if fill else apply_entry
        with self._guarded(), self._environment.begin(write=True) as transaction:
            position = self._read_position(transaction)
            view = _Transaction(transaction, self._data, self._tombstones)
            for item in entries:
                position = step(view, position, item)
            transaction.put(_POSITION, _encoder.encode(position), db=self._meta)
        return position

    def skip_to(self, index: int) -> Position:
        """See ports.Store."""
        with self._guarded(), self._environment.begin(write=True) as transaction:
            position = open_gap(self._read_position(transaction), index)
            transaction.put(_POSITION, _encoder.encode(position), db=self._meta)
        return position

    def adopt(self, identity: Identity) -> Position:
        """See ports.Store."""
        with self._guarded(), self._environment.begin(write=True) as transaction:
            before = self._read_position(transaction)
            invariant(before.identity in (None, identity), f"{before.identity} adopts {identity}")
            position = msgspec.structs.replace(before, identity=identity)
            transaction.put(_POSITION, _encoder.encode(position), db=self._meta)
        return position

    def close(self) -> None:
        """See ports.Store."""
        with self._guarded():
            self._environment.sync(True)
            self._environment.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn every failure of LMDB or of the disk into StoreFailure.

        After one, nothing may be concluded about what is on the disk: the process ends, and opening the store
        again finds the last transaction that is there as a whole.
        """
        try:
            yield
        except lmdb.MapFullError as error:
            raise StoreFailure(
                f"the store in {self._directory} has reached its limit of {MAP_BYTES >> 30} GiB"
            ) from error
        except (lmdb.Error, OSError) as error:
            raise StoreFailure(f"the store in {self._directory} failed: {error}") from error
        except msgspec.MsgspecError as error:
            raise StoreFailure(f"the store in {self._directory} is damaged: {error}") from error


class _Transaction:
    """What applying entries works on (machine.Transaction)."""

    def __init__(
        self,
        transaction: lmdb.Transaction,
        data: lmdb._Database,
        tombstones: lmdb._Database,
    ) -> None:
        self._transaction = transaction
        self._data = data
        self._tombstones = tombstones

    def get(self, key: str) -> Record | None:
        return _read_record(self._transaction, self._data, key)

    def put(self, key: str, record: Record) -> None:
        self._transaction.put(key.encode(), _encoder.encode(record), db=self._data)

    def delete(self, key: str) -> None:
        self._transaction.delete(key.encode(), db=self._data)

    def tombstone(self, key: str) -> int:
        data = self._transaction.get(key.encode(), db=self._tombstones)
        return int(data) if data is not None else 0

    def bury(self, key: str, revision: int) -> None:
        self._transaction.put(key.encode(), str(revision).encode(), db=self._tombstones)

    def clear_tombstones(self) -> None:
        self._transaction.drop(self._tombstones, delete=False)


def _read_record(
    transaction: lmdb.Transaction,
    database: lmdb._Database,
    key: str,
) -> Record | None:
    data = transaction.get(key.encode(), db=database)
    return None if data is None else _records.decode(data)
