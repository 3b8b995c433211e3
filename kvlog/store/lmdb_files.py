"""What is on the disk below LmdbStore: the tables of its file, and the bytes that they hold.

Every value is sealed: four bytes of CRC-32 over the key and the body stand behind the body, and every read checks
them. The checksum finds what disks, memory and other programs do by accident; the key is part of it so that a
value which has got under another key is found as well.

In front of the bodies of records and of requests stands their share in the digest, so that changing one costs no
second hash of what was there before.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from zlib import crc32

import lmdb
import msgspec

from kvlog.core.machine import SHARE_BYTES, Position, Record, Remembered
from kvlog.errors import StoreDamaged, StoreFailure
from kvlog.store.directories import DATA_FILE, full_disk, sync_directory

MAP_BYTES = 64 * 1024**3
"""Upper bound of the store's size. It is address space, not disk or memory: the file grows as it is filled."""

READERS_MAX = 1_024
"""Threads that may read at a time; the server has some half as many."""

SPARE_READERS = 16
"""Read transactions that are kept for the next reader, so that LMDB need not look for a place for each."""

FORMAT = 4

TABLES = ("data", "tombstones", "meta", "requests", "revisions", "changes", "attached")

POSITION = b"position"
FORMAT_KEY = b"format"

SEAL_BYTES = 4

SEALED = 0x2144DF1C
"""The CRC-32 of anything that is followed by its own CRC-32, the lowest byte first."""

NUMBER_BYTES = 8
"""A revision or a lease within a key: in the order of the bytes, the lowest is first."""

HASH_BYTES = 16

NAMED_BYTES_MAX = 64
"""Up to here a key stands within another key as it is; of a longer one it is its BLAKE2b-128."""

HASHED = b"\xff"
"""What stands before such a hash: no key begins so, because it is no UTF-8."""

NOT_DAMAGE = (
    lmdb.MapFullError,
    lmdb.MapResizedError,
    lmdb.DbsFullError,
    lmdb.ReadersFullError,
    lmdb.TlsFullError,
    lmdb.TxnFullError,
)
"""LMDB's own errors (negative codes) that say nothing about what is on the disk."""

positions = msgspec.msgpack.Decoder(Position)
records = msgspec.msgpack.Decoder(Record)
outcomes = msgspec.msgpack.Decoder(Remembered)
encoder = msgspec.msgpack.Encoder()


@dataclass(slots=True)
class Seen:
    """The number that LMDB has given to a state of the store, and the position in it; replaced as a pair."""

    latest: tuple[int, Position] = (-1, Position())


@dataclass(frozen=True, slots=True)
class Files:
    """An open environment and its tables.

    ``requests`` maps the id of a remembered request to its outcome, ``revisions`` the revision of that outcome
    to the id. ``changes`` has a row for each key that was changed at a kept revision, under the revision and the
    key (``numbered_key``); ``attached`` the keys of each lease, under the lease and the key.

    Nothing closes an environment that others may still read: each of its transactions holds a reference to it,
    and the last one that goes closes it.
    """

    directory: Path
    environment: lmdb.Environment
    data: lmdb._Database
    tombstones: lmdb._Database
    meta: lmdb._Database
    requests: lmdb._Database
    revisions: lmdb._Database
    changes: lmdb._Database
    attached: lmdb._Database
    seen: Seen

    def standing(self, transaction: lmdb.Transaction[bytes]) -> Position:
        """Where the store stands in the state that a transaction sees which only reads.

        LMDB numbers its states, and such a transaction has the number of the one that it sees: the position that
        was read from a state with this number is the one that is in there.
        """
        number = transaction.id()
        seen, position = self.seen.latest
        if seen != number:
            position = self.position(transaction)
            self.seen.latest = (number, position)
        return position

    def position(self, transaction: lmdb.Transaction[bytes]) -> Position:
        """Where the store stands in the state that the transaction sees."""
        data = transaction.get(POSITION, db=self.meta)
        if data is None:
            raise StoreDamaged(self.directory, "it says nothing of its position")
        return positions.decode(self.unseal(POSITION, data))

    def record(self, transaction: lmdb.Transaction[bytes], key: str) -> Record | None:
        """The record of a key, or None."""
        if not key:
            return None  # LMDB knows no empty keys
        name = key.encode()
        data = transaction.get(name, db=self.data)
        return None if data is None else records.decode(self.unseal(name, data)[SHARE_BYTES:])

    def tombstone(self, transaction: lmdb.Transaction[bytes], key: str) -> int:
        """The revision of a key's last deletion, 0 if there is no tombstone of it."""
        name = key.encode()
        data = transaction.get(name, db=self.tombstones) if name else None
        return 0 if data is None else int(self.unseal(name, data))

    def outcome(self, transaction: lmdb.Transaction[bytes], request_id: bytes) -> Remembered | None:
        """What became of a request, if it is remembered."""
        data = transaction.get(request_id, db=self.requests)
        return None if data is None else outcomes.decode(self.unseal(request_id, data)[SHARE_BYTES:])

    def unseal(self, key: bytes, data: bytes) -> bytes:
        """A stored value without its seal.

        Raises:
            StoreDamaged: it is not what was written under this key.
        """
        if crc32(key + data) != SEALED:
            raise self.altered(key)
        return data[:-SEAL_BYTES]

    def altered(self, key: bytes) -> StoreDamaged:
        """That a value does not match its seal."""
        return StoreDamaged(self.directory, f"what is kept under {key[:60]!r} is not what was written")


def seal(key: bytes, body: bytes) -> bytes:
    """A value as it is stored under ``key``."""
    return body + crc32(key + body).to_bytes(SEAL_BYTES, "little")


def number_key(number: int) -> bytes:
    """A revision or a lease as a key, or as the beginning of one."""
    return number.to_bytes(NUMBER_BYTES, "big")


def numbered_key(number: int, name: bytes) -> bytes:
    """The key of what belongs to a revision or lease and to a key of the store."""
    return number.to_bytes(NUMBER_BYTES, "big") + embedded(name)


def embedded(name: bytes) -> bytes:
    """A key of the store as it stands within another key."""
    return name if len(name) <= NAMED_BYTES_MAX else HASHED + blake2b(name, digest_size=HASH_BYTES).digest()


def open_files(directory: Path, *, create: bool) -> Files:
    """Open the environment in a directory; without ``create`` only for reading, and it leaves no trace there.

    Reading alone takes no part in LMDB's locking: nobody may write meanwhile.

    Raises:
        StoreFailure: it has another format.
    """
    new = create and not (directory / DATA_FILE).exists()
    if create:
        directory.mkdir(parents=True, exist_ok=True)
    environment = lmdb.open(
        str(directory),
        map_size=MAP_BYTES,
        max_dbs=len(TABLES),
        max_readers=READERS_MAX,
        max_spare_txns=SPARE_READERS,
        metasync=False,
        readonly=not create,
        create=create,
        lock=create,
    )
    tables = {name: environment.open_db(name.encode(), create=create) for name in TABLES}
    files = Files(directory, environment, seen=Seen(), **tables)
    with environment.begin(write=create, db=files.meta) as transaction:
        found = transaction.get(FORMAT_KEY)
        if found is None and create:
            transaction.put(FORMAT_KEY, str(FORMAT).encode())
            transaction.put(POSITION, seal(POSITION, encoder.encode(Position())))
        elif found is None:
            raise StoreDamaged(directory, "it says nothing of its format")
        elif found != str(FORMAT).encode():
            raise StoreFailure(
                f"the store in {directory} has format {found.decode(errors='replace')}, this kvlog knows "
                f"{FORMAT}; run the version that wrote it, or move it away to start from the log"
            )
    if new:  # LMDB flushes what is in its file; that there is such a file has to survive a power cut, too
        sync_directory(directory)
        sync_directory(directory.parent)
    return files


class Guarded:
    """Turns every failure of LMDB or of the disk into StoreFailure; any number of threads may be in it.

    After one, nothing may be concluded about what is on the disk: the process ends, and opening the store
    again finds the last transaction that is there as a whole.
    """

    __slots__ = ("_directory",)

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        directory = self._directory
        if isinstance(error, lmdb.MapFullError):
            raise StoreFailure(
                f"the store in {directory} has reached its limit of {MAP_BYTES >> 30} GiB"
            ) from error
        if isinstance(error, lmdb.Error | OSError):
            if isinstance(error, lmdb.Error) and error.code < 0 and not isinstance(error, NOT_DAMAGE):
                raise StoreDamaged(directory, str(error)) from error
            raise StoreFailure(f"the store in {directory} failed: {error}{full_disk(directory)}") from error
        if isinstance(error, msgspec.MsgspecError):
            raise StoreDamaged(directory, str(error)) from error
