"""Whether a store that nobody writes to is whole: everything in it is read and recomputed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import lmdb
from lmdb import verify as lmdb_structure

from kvlog.core.machine import DIGEST_MODULUS, Position
from kvlog.errors import StoreDamaged
from kvlog.store.lmdb_files import SEAL_BYTES, Files, guarded, open_files, outcomes

PROGRESS_EVERY = 20_000
"""Rows between two calls of ``progress``."""

REVISION_BYTES = 8

FIXSTR_MAX = 31
STR8_MAX = 0xFF

Progress = Callable[[int, int], None]
"""Told how many of how many rows have been checked."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a whole store holds."""

    position: Position
    keys: int
    requests: int


def verify(directory: Path, *, progress: Progress | None = None) -> Found:
    """Check the store in a directory. Nobody may have it open for writing.

    First LMDB's pages, without LMDB: a page that is both free and in use would be overwritten some day. Then every
    checksum, the tables against each other, and the digest against that of the position.

    A damaged file can still end the process inside LMDB: ``quarantine.inspect`` keeps that away.

    Raises:
        StoreDamaged: it is not what was written.
        StoreFailure: it cannot be read, or has another format.
    """
    with guarded(directory):
        _check_pages(directory)
        files = open_files(directory, create=False)
        try:
            with files.environment.begin() as transaction:
                return _Verification(files, transaction, progress).run()
        finally:
            files.environment.close()


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
        tables = (files.data, files.tombstones, files.requests)
        self._total = sum(transaction.stat(table)["entries"] for table in tables)
        self._done = 0

    def run(self) -> Found:
        position = self._files.position(self._transaction)
        digest = sum(_share(b"\x92", key, body) for key, body in self._rows(self._files.data, "key"))
        keys = self._done
        tombstones = sum(1 for _ in self._rows(self._files.tombstones, "tombstone"))
        if tombstones and not position.gaps:
            raise self._damaged(f"it has {tombstones} tombstones, and has missed nothing")
        digest += self._check_requests()
        if f"{digest % DIGEST_MODULUS:032x}" != position.digest:
            raise self._damaged(
                f"its contents have the digest {digest % DIGEST_MODULUS:032x}, its position says {position.digest}"
            )
        return Found(position, keys, self._done - keys - tombstones)

    def _check_requests(self) -> int:
        """The requests' share in the digest; the table by revision has to hold the same ones."""
        digest = count = 0
        for request_id, body in self._rows(self._files.requests, "request"):
            revision = outcomes.decode(body).revision.to_bytes(REVISION_BYTES, "big")
            if self._transaction.get(revision, db=self._files.revisions) != request_id:
                raise self._damaged(f"request {request_id!r} is not listed at its revision")
            digest += _share(b"\x93\xa7request", request_id, body)
            count += 1
        if count != self._transaction.stat(self._files.revisions)["entries"]:
            raise self._damaged("the table of requests by revision lists other ones than there are")
        return digest

    def _rows(self, table: lmdb._Database, what: str) -> Iterator[tuple[bytes, bytes]]:
        """Keys and bodies of a table, each checked."""
        expected = self._transaction.stat(table)["entries"]
        count = 0
        crc32 = zlib.crc32
        for key, value in self._transaction.cursor(db=table):
            body = value[SEAL_BYTES:]
            if crc32(body, crc32(key)) != int.from_bytes(value[:SEAL_BYTES], "big"):
                raise self._damaged(f"{what} {key[:60]!r} is not what was written")
            try:
                key.decode()
            except UnicodeDecodeError:
                raise self._damaged(f"{what} {key[:60]!r} is not UTF-8") from None
            count += 1
            self._done += 1
            if self._progress is not None and self._done % PROGRESS_EVERY == 0:
                self._progress(self._done, self._total)
            if count > expected:
                break  # pages that lead back to each other have no end
            yield key, body
        if count != expected:
            raise self._damaged(f"it holds another number of {what}s than the {expected} that it says")

    def _damaged(self, reason: str) -> StoreDamaged:
        return StoreDamaged(self._files.directory, reason)


def _share(prefix: bytes, key: bytes, body: bytes) -> int:
    """machine.digest_of and digest_of_request, from the bytes as they are stored.

    ``prefix`` is what MessagePack puts before the key: an array of that many, and what comes first in it.
    """
    size = len(key)
    if size <= FIXSTR_MAX:
        head = bytes((0xA0 | size,))
    elif size <= STR8_MAX:
        head = b"\xd9" + size.to_bytes(1, "big")
    else:
        head = b"\xda" + size.to_bytes(2, "big")
    return int.from_bytes(blake2b(prefix + head + key + body, digest_size=16).digest(), "big")
