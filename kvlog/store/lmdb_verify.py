"""Whether a store that nobody writes to is whole: everything in it is read and recomputed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import lmdb
import msgspec
from lmdb import verify as lmdb_structure

from kvlog.core.machine import DIGEST_MODULUS, SHARE_BYTES, Position, share_of
from kvlog.errors import StoreDamaged
from kvlog.store.directories import why_distrusted
from kvlog.store.lmdb_files import (
    NUMBER_BYTES,
    SEAL_BYTES,
    SEALED,
    Files,
    Guarded,
    number_key,
    numbered_key,
    open_files,
    outcomes,
    records,
)
from kvlog.store.lmdb_history import NOTHING, Row, outlines, rows
from kvlog.store.lmdb_pages import BEHIND_SYSTEM

PROGRESS_EVERY = 20_000
"""Rows between two calls of ``progress``."""

Progress = Callable[[int, int], None]
"""Told how many of how many rows have been checked."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a whole store holds: keys, without kvlog's own; requests; ``kept``, the revisions with changes kept."""

    position: Position
    keys: int
    requests: int
    kept: int


def verify(directory: Path, *, progress: Progress | None = None) -> Found:
    """Check the store in a directory. Nobody may have it open for writing.

    First LMDB's pages, without LMDB: a page that is both free and in use would be overwritten some day. Then every
    checksum, the tables against each other, and the digest against that of the position.

    A damaged file can still end the process inside LMDB: ``quarantine.inspect`` keeps that away.

    Raises:
        StoreDamaged: it is not what was written, or what was written is not what the log gives.
        StoreFailure: it cannot be read, or has another format.
    """
    if reason := why_distrusted(directory):
        raise StoreDamaged(directory, reason)
    with Guarded(directory):
        _check_pages(directory)
        files = open_files(directory, create=False)
        try:
            with files.environment.begin() as transaction:
                return verify_contents(files, transaction, progress)
        finally:
            files.environment.close()


def verify_contents(files: Files, transaction: lmdb.Transaction[bytes], progress: Progress | None = None) -> Found:
    """Check what a transaction sees, without LMDB's pages; see ``verify``."""
    return _Verification(files, transaction, progress).run()


def _check_pages(directory: Path) -> None:
    try:
        problems: list[str] = lmdb_structure.verify(str(directory))  # type: ignore[no-untyped-call]
    except lmdb_structure.VerifyError as error:
        raise StoreDamaged(directory, str(error)) from error
    # A page that is neither in use nor free is lost room, and no damage to what is kept.
    serious = [problem for problem in problems if " a leak " not in problem]
    if serious:
        raise StoreDamaged(directory, f"{serious[0]}; {len(serious)} such findings")


class _Verification:
    """One run over all tables, in one transaction."""

    def __init__(self, files: Files, transaction: lmdb.Transaction[bytes], progress: Progress | None) -> None:
        self._files = files
        self._transaction = transaction
        self._progress = progress
        self._position = files.position(transaction)
        tables = (files.data, files.tombstones, files.requests, files.changes)
        self._total = sum(map(self._entries, tables))
        self._done = 0
        self._own_keys = 0
        self._led_to = 0  # rows of the past that something leads to

    def run(self) -> Found:
        position = self._position
        digest = self._check_records() + self._check_requests()
        if f"{digest % DIGEST_MODULUS:032x}" != position.digest:
            raise self._damaged(
                f"its contents have the digest {digest % DIGEST_MODULUS:032x}, its position says {position.digest}"
            )
        self._check_tombstones()
        kept = self._check_past()
        keys = self._entries(self._files.data) - self._own_keys
        return Found(position, keys, self._entries(self._files.requests), kept)

    def _check_records(self) -> int:
        """The records' share in the digest; each must be listed under its lease (M9) and its put kept (M10)."""
        digest = leased = 0
        kept_since = self._kept_since()
        for name, whole in self._rows(self._files.data, "key"):
            self._check_text(name, "key")
            body, share = self._shared("key", name, whole)
            digest += share
            self._own_keys += name < BEHIND_SYSTEM
            record = records.decode(body)
            if record.revision > kept_since:
                self._check_change(name, record.revision, body)
            if record.lease:
                leased += 1
                at = numbered_key(record.lease, name)
                listed = self._transaction.get(at, db=self._files.attached)
                if listed is None or self._files.unseal(at, listed) != name:
                    raise self._damaged(f"key {name[:60]!r} is not listed under its lease {record.lease}")
        if leased != self._entries(self._files.attached):
            raise self._damaged("its leases list other keys than are attached to them")
        return digest

    def _check_requests(self) -> int:
        """The requests' share in the digest; the table by revision has to hold the same ones."""
        digest = count = 0
        for request_id, whole in self._rows(self._files.requests, "request"):
            self._check_text(request_id, "request")
            body, share = self._shared("request", request_id, whole)
            revision = number_key(outcomes.decode(body).revision)
            if self._transaction.get(revision, db=self._files.revisions) != request_id:
                raise self._damaged(f"request {request_id!r} is not listed at its revision")
            digest += share
            count += 1
        if count != self._entries(self._files.revisions):
            raise self._damaged("the table of requests by revision lists other ones than there are")
        return digest

    def _check_tombstones(self) -> None:
        """Without gaps, each is of a deletion that is kept, and of a key that is gone (M5)."""
        for name, body in self._rows(self._files.tombstones, "tombstone"):
            self._check_text(name, "tombstone")
            revision = int(body)
            if self._position.gaps:
                continue
            if revision <= self._position.history:
                raise self._damaged(f"it has a tombstone of {name[:60]!r}, whose deletion is not kept")
            if self._transaction.get(name, db=self._files.data) is not None:
                raise self._damaged(f"it has a tombstone of {name[:60]!r}, and that key")
            self._check_change(name, revision, NOTHING)

    def _check_past(self) -> int:
        """How many revisions are kept; what is kept of a key has to lead from its present to the oldest of it."""
        kept = latest = 0
        history, revision = self._position.history, self._position.revision
        for name, body in self._rows(self._files.changes, "change"):
            row, at = rows.decode(body), int.from_bytes(name[:NUMBER_BYTES], "big")
            if numbered_key(at, row.key.encode()) != name or not _is_change(row, at):
                raise self._damaged(f"what is kept of revision {at} is no change of {row.key[:60]!r}")
            if not history < at <= revision:
                raise self._damaged(f"something is kept of revision {at}, but it tells of {history} to {revision}")
            before = row.before.revision if row.before is not None else row.deleted
            if before > history:
                encoded = NOTHING if row.before is None else msgspec.msgpack.encode(row.before)
                self._check_change(row.key.encode(), before, encoded)
            kept += at != latest
            latest = at
        if self._entries(self._files.changes) != self._led_to:
            raise self._damaged("it keeps changes of the past that nothing leads to")
        return kept

    def _check_change(self, name: bytes, revision: int, after: bytes) -> None:
        """What happened to a key at a revision has to be kept, and to have left this."""
        at = numbered_key(revision, name)
        data = self._transaction.get(at, db=self._files.changes)
        if data is None:
            raise self._damaged(f"what happened to {name[:60]!r} at revision {revision} is not kept")
        if bytes(outlines.decode(self._files.unseal(at, data)).after) != after:
            raise self._damaged(f"what is kept of {name[:60]!r} at revision {revision} is something else")
        self._led_to += 1

    def _kept_since(self) -> int:
        """Whatever was put after this revision has left a change."""
        return self._position.revision if self._position.gaps else self._position.history

    def _rows(self, table: lmdb._Database, what: str) -> Iterator[tuple[bytes, bytes]]:
        """Keys and bodies of a table, each checked."""
        expected = self._entries(table)
        count = 0
        for key, value in self._transaction.cursor(db=table):
            if crc32(key + value) != SEALED:
                raise self._damaged(f"{what} {key[:60]!r} is not what was written")
            count += 1
            self._done += 1
            if self._progress is not None and self._done % PROGRESS_EVERY == 0:
                self._progress(self._done, self._total)
            if count > expected:
                break  # pages that lead back to each other have no end
            yield key, value[:-SEAL_BYTES]
        if count != expected:
            raise self._damaged(f"it holds another number of {what}s than the {expected} that it says")

    def _shared(self, what: str, name: bytes, whole: bytes) -> tuple[bytes, int]:
        """The body of a record or request, and its share in the digest; what is kept of that must be right."""
        body = whole[SHARE_BYTES:]
        share = share_of(name, body)
        if whole[:SHARE_BYTES] != share:
            raise self._damaged(f"{what} {name[:60]!r} has another share in the digest than it says")
        return body, int.from_bytes(share, "big")

    def _check_text(self, name: bytes, what: str) -> None:
        try:
            name.decode()
        except UnicodeDecodeError:
            raise self._damaged(f"{what} {name[:60]!r} is not UTF-8") from None

    def _entries(self, table: lmdb._Database) -> int:
        return int(self._transaction.stat(table)["entries"])

    def _damaged(self, reason: str) -> StoreDamaged:
        return StoreDamaged(self._files.directory, reason)


def _is_change(row: Row, revision: int) -> bool:
    """Whether a row can be what happened at its revision."""
    if row.before is None:
        return row.after is not None and row.after.revision == revision and 0 <= row.deleted < revision
    before = row.before.revision < revision and row.deleted == 0
    return before and (row.after is None or row.after.revision == revision)
