"""What applying entries works on, in one write transaction of LMDB.

What is written is gathered, and goes to LMDB many at a time, in the order of its keys: that takes a fraction of
the time of as many single puts. The loops that every change goes through write out ``share_of``, ``seal`` and
``unseal``, for the same reason: a call takes as long as what is done in it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Generic, TypeVar
from zlib import crc32

import lmdb
import msgspec

from kvlog.core.entry import Request
from kvlog.core.machine import SHARE_BYTES, Changes, Record, Remembered
from kvlog.errors import StoreDamaged
from kvlog.store.lmdb_files import (
    NUMBER_BYTES,
    SEAL_BYTES,
    SEALED,
    Files,
    embedded,
    encoder,
    number_key,
    numbered_key,
    outcomes,
    records,
    seal,
)
from kvlog.store.lmdb_history import deletes, outlines

T = TypeVar("T")


class LmdbTransaction:
    """See machine.Transaction. Not everything is in the tables before ``flush``."""

    def __init__(self, files: Files, transaction: lmdb.Transaction[bytes]) -> None:
        self._files = files
        self._transaction = transaction
        self.changed: dict[str, Record | None] = {}
        self._records = SharedTable(files, transaction, files.data, records)
        self._requests = SharedTable(files, transaction, files.requests, outcomes)
        self._by_revision: list[tuple[bytes, bytes]] = []
        self._kept: list[tuple[int, Changes]] = []

    def flush(self) -> None:
        """Give LMDB all that was gathered; ``added_to_digest`` comes before."""
        self._records.flush()
        self._flush_requests()
        self._flush_kept()

    def look_up(self, requests: tuple[Request, ...]) -> None:
        """See machine.Transaction."""
        if len(requests) == 1 and len(requests[0].effects) <= 1:
            return  # ``get`` is as fast
        self._records.look_up({effect.key.encode() for request in requests for effect in request.effects})
        self._requests.look_up({request.id.encode() for request in requests if request.id})

    def added_to_digest(self) -> int:
        """See machine.Transaction."""
        return self._records.added_to_digest() + self._requests.added_to_digest()

    # --- records ------------------------------------------------------------------------------------------

    def get(self, key: str) -> Record | None:
        """See machine.Transaction."""
        return self._records.get(key.encode())

    def put(self, key: str, record: Record) -> None:
        """See machine.Transaction."""
        self._records.write(key.encode(), record)
        self.changed[key] = record

    def delete(self, key: str) -> None:
        """See machine.Transaction."""
        self._records.write(key.encode(), None)
        self.changed[key] = None

    # --- leases -------------------------------------------------------------------------------------------

    def attach(self, lease: int, key: str) -> None:
        """See machine.Transaction."""
        name = key.encode()
        self._put(self._files.attached, numbered_key(lease, name), name)

    def detach(self, lease: int, key: str) -> None:
        """See machine.Transaction."""
        self._transaction.delete(numbered_key(lease, key.encode()), db=self._files.attached)

    # --- the past -----------------------------------------------------------------------------------------

    def tombstone(self, key: str) -> int:
        """See machine.Transaction."""
        return self._files.tombstone(self._transaction, key)

    def bury(self, key: str, revision: int) -> None:
        """See machine.Transaction."""
        self._put(self._files.tombstones, key.encode(), str(revision).encode())

    def unbury(self, key: str) -> None:
        """See machine.Transaction."""
        self._transaction.delete(key.encode(), db=self._files.tombstones)

    def clear_tombstones(self) -> None:
        """See machine.Transaction."""
        self._transaction.drop(self._files.tombstones, delete=False)

    def keep(self, revision: int, changes: Changes) -> None:
        """See machine.Transaction."""
        self._kept.append((revision, changes))

    def _flush_kept(self) -> None:
        if not self._kept:
            return
        encode = encoder.encode
        rows = []
        for revision, kept in self._kept:
            index, time_ms, number = kept.index, kept.time_ms, number_key(revision)
            for place, change in enumerate(kept.changes):
                key = change.key
                name = number + embedded(key.encode())
                body = encode((change.after, key, place, index, time_ms, change.before, change.deleted))  # a Row
                rows.append((name, body + crc32(name + body).to_bytes(SEAL_BYTES, "little")))  # sealed
        rows.sort()
        with self._transaction.cursor(self._files.changes) as cursor:
            # Revisions only grow: pages that are filled from one end take half the room.
            given, appended = cursor.putmulti(rows, append=True)
        if given != appended:
            first = self._kept[0][0]
            raise StoreDamaged(self._files.directory, f"something is kept of revision {first} or later")
        self._kept.clear()

    def drop(self, revision: int, limit: int) -> tuple[int, list[tuple[int, str]]]:
        """See machine.Transaction."""
        if self._kept and self._kept[0][0] <= revision:
            self._flush_kept()
        deletions: list[tuple[int, str]] = []
        dropped, latest, last = 0, number_key(0), number_key(revision)
        with self._transaction.cursor(self._files.changes) as oldest:
            oldest.first()
            while True:
                name, data = oldest.item()
                at = name[:NUMBER_BYTES]
                if not name or at > last:  # without a name, nothing is left
                    return revision, deletions
                if dropped >= limit and at != latest:
                    return int.from_bytes(latest, "big"), deletions
                if crc32(name + data) != SEALED:
                    raise self._files.altered(name)
                if deletes(data):
                    key = outlines.decode(self._files.unseal(name, data)).key
                    deletions.append((int.from_bytes(at, "big"), key))
                oldest.delete()
                dropped, latest = dropped + 1, at

    def kept_bytes(self) -> int:
        """What all that is kept takes in the file."""
        stat = self._transaction.stat(self._files.changes)
        return int(stat["psize"] * (stat["leaf_pages"] + stat["branch_pages"] + stat["overflow_pages"]))

    def clear_kept(self) -> None:
        """See machine.Transaction."""
        self._kept.clear()
        self._transaction.drop(self._files.changes, delete=False)

    # --- remembered requests ------------------------------------------------------------------------------

    def request(self, request_id: str) -> Remembered | None:
        """See machine.Transaction."""
        return self._requests.get(request_id.encode())

    def remember(self, request_id: str, outcome: Remembered) -> None:
        """See machine.Transaction."""
        name = request_id.encode()
        self._requests.write(name, outcome)
        self._by_revision.append((number_key(outcome.revision), name))

    def _flush_requests(self) -> None:
        self._requests.flush()
        if self._by_revision:
            with self._transaction.cursor(self._files.revisions) as cursor:
                cursor.putmulti(self._by_revision)
            self._by_revision.clear()

    def forget(self, revision: int) -> None:
        """See machine.Transaction."""
        if self._by_revision and int.from_bytes(self._by_revision[0][0], "big") <= revision:
            self._flush_requests()
        listed, last = [], number_key(revision)
        with self._transaction.cursor(self._files.revisions) as oldest:
            oldest.first()
            while (item := oldest.item())[0] and item[0] <= last:
                listed.append(item)
                oldest.delete()
        self._requests.look_up({name for _, name in listed})
        for at, name in listed:
            outcome = self._requests.get(name)
            if outcome is None or number_key(outcome.revision) != at:
                raise StoreDamaged(self._files.directory, f"request {name!r} is not where it is listed")
            self._requests.write(name, None)

    def _put(self, table: lmdb._Database, key: bytes, body: bytes) -> None:
        self._transaction.put(key, seal(key, body), db=table)


class SharedTable(Generic[T]):
    """A table whose values have a share in the digest, and what a transaction has read and written of it."""

    def __init__(
        self,
        files: Files,
        transaction: lmdb.Transaction[bytes],
        table: lmdb._Database,
        decoder: msgspec.msgpack.Decoder[T],
    ) -> None:
        self._files = files
        self._transaction = transaction
        self._table = table
        self._decoder: msgspec.msgpack.Decoder[T] = decoder
        self._held: dict[bytes, T | None] = {}  # as it is now
        self._shares: dict[bytes, bytes] = {}  # of what is there, as the digest has them
        self._changed: dict[bytes, T | None] = {}  # what the digest does not have yet
        self._written: dict[bytes, bytes | None] = {}  # what the table does not have yet, None to delete

    def look_up(self, names: set[bytes]) -> None:
        """Read the values of many names at once."""
        held, shares = self._held, self._shares
        names.difference_update(held)
        if len(names) <= 1:
            return
        decode = self._decoder.decode
        held.update(dict.fromkeys(names))
        with self._transaction.cursor(self._table) as cursor:
            for name, data in cursor.getmulti(names):
                if crc32(name + data) != SEALED:
                    raise self._files.altered(name)
                shares[name] = data[:SHARE_BYTES]
                held[name] = decode(data[SHARE_BYTES:-SEAL_BYTES])

    def get(self, name: bytes) -> T | None:
        """The value of a name, or None."""
        try:
            return self._held[name]
        except KeyError:
            data = self._transaction.get(name, db=self._table) if name else None
        value = None
        if data is not None:
            whole = self._files.unseal(name, data)
            self._shares[name] = whole[:SHARE_BYTES]
            value = self._decoder.decode(whole[SHARE_BYTES:])
        self._held[name] = value
        return value

    def write(self, name: bytes, value: T | None) -> None:
        """Set the value of a name; None removes it."""
        if name not in self._held:
            self.get(name)  # its share leaves the digest
        self._held[name] = self._changed[name] = value

    def added_to_digest(self) -> int:
        """What was changed since the last call adds to the digest."""
        added = 0
        shares, written, encode, number = self._shares, self._written, encoder.encode, int.from_bytes
        for name, value in self._changed.items():
            before = shares.get(name)
            if before:
                added -= number(before, "big")
            if value is None:
                written[name], shares[name] = None, b""
                continue
            body = encode(value)
            share = shares[name] = blake2b(body + name, digest_size=SHARE_BYTES).digest()  # share_of
            added += number(share, "big")
            whole = share + body
            written[name] = whole + crc32(name + whole).to_bytes(SEAL_BYTES, "little")  # sealed
        self._changed.clear()
        return added

    def flush(self) -> None:
        """Write what was changed."""
        if not self._written:
            return
        written = sorted(self._written.items())
        with self._transaction.cursor(self._table) as cursor:
            cursor.putmulti([(name, sealed) for name, sealed in written if sealed is not None])
        for name, sealed in written:
            if sealed is None:
                self._transaction.delete(name, db=self._table)
        self._written.clear()
