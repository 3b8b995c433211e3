"""What applying entries works on, in one write transaction of LMDB."""

from __future__ import annotations

import lmdb

from kvlog.core.machine import Changes, Record, Remembered
from kvlog.errors import StoreDamaged
from kvlog.store.lmdb_files import NUMBER_BYTES, Files, encoder, hashed_key, number_key, seal
from kvlog.store.lmdb_history import outlines


class LmdbTransaction:
    """See machine.Transaction."""

    def __init__(self, files: Files, transaction: lmdb.Transaction[bytes]) -> None:
        self._files = files
        self._transaction = transaction
        self.changed: dict[str, Record | None] = {}

    def get(self, key: str) -> Record | None:
        """See machine.Transaction."""
        return self._files.record(self._transaction, key)

    def put(self, key: str, record: Record) -> None:
        """See machine.Transaction."""
        self._put(self._files.data, key.encode(), encoder.encode(record))
        self.changed[key] = record

    def delete(self, key: str) -> None:
        """See machine.Transaction."""
        self._transaction.delete(key.encode(), db=self._files.data)
        self.changed[key] = None

    # --- leases -------------------------------------------------------------------------------------------

    def attach(self, lease: int, key: str) -> None:
        """See machine.Transaction."""
        name = key.encode()
        self._put(self._files.attached, hashed_key(lease, name), name)

    def detach(self, lease: int, key: str) -> None:
        """See machine.Transaction."""
        self._transaction.delete(hashed_key(lease, key.encode()), db=self._files.attached)

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
        index, time_ms = changes.index, changes.time_ms
        rows = []
        for place, change in enumerate(changes.changes):
            name = hashed_key(revision, change.key.encode())
            row = (change.key, place, index, time_ms, change.after, change.before, change.deleted)  # a Row
            rows.append((name, seal(name, encoder.encode(row))))
        rows.sort()
        for name, sealed in rows:
            # Revisions only grow: pages that are filled from one end take half the room.
            if not self._transaction.put(name, sealed, db=self._files.changes, append=True):
                raise StoreDamaged(self._files.directory, f"something is kept of revision {revision} or later")

    def drop(self, revision: int, limit: int) -> tuple[int, list[tuple[int, str]]]:
        """See machine.Transaction."""
        deletions: list[tuple[int, str]] = []
        dropped = latest = 0
        with self._transaction.cursor(self._files.changes) as oldest:
            while oldest.first():
                name, data = oldest.item()
                at = int.from_bytes(name[:NUMBER_BYTES], "big")
                if at > revision:
                    break
                if at != latest and dropped >= limit:
                    return latest, deletions
                row = outlines.decode(self._files.unseal(name, data))
                if row.deletes:
                    deletions.append((at, row.key))
                oldest.delete()
                dropped, latest = dropped + 1, at
        return revision, deletions

    def kept_bytes(self) -> int:
        """What all that is kept takes in the file."""
        stat = self._transaction.stat(self._files.changes)
        return int(stat["psize"] * (stat["leaf_pages"] + stat["branch_pages"] + stat["overflow_pages"]))

    def clear_kept(self) -> None:
        """See machine.Transaction."""
        self._transaction.drop(self._files.changes, delete=False)

    # --- remembered requests ------------------------------------------------------------------------------

    def request(self, request_id: str) -> Remembered | None:
        """See machine.Transaction."""
        return self._files.outcome(self._transaction, request_id.encode())

    def remember(self, request_id: str, outcome: Remembered) -> None:
        """See machine.Transaction."""
        name = request_id.encode()
        self._put(self._files.requests, name, encoder.encode(outcome))
        self._transaction.put(number_key(outcome.revision), name, db=self._files.revisions)

    def forget(self, revision: int) -> list[tuple[str, Remembered]]:
        """See machine.Transaction."""
        forgotten = []
        with self._transaction.cursor(db=self._files.revisions) as oldest:
            while oldest.first():
                at, name = oldest.item()
                if int.from_bytes(at, "big") > revision:
                    break
                outcome = self._files.outcome(self._transaction, name)
                if outcome is None or number_key(outcome.revision) != at:
                    raise StoreDamaged(self._files.directory, f"request {name!r} is not where it is listed")
                oldest.delete()
                self._transaction.delete(name, db=self._files.requests)
                forgotten.append((name.decode(), outcome))
        return forgotten

    def _put(self, table: lmdb._Database, key: bytes, body: bytes) -> None:
        self._transaction.put(key, seal(key, body), db=table)
