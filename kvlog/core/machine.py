"""The state machine: what a replica's state is, and what has to hold of it.

How commands become effects is in ``evaluate``, how effects become state in ``applying``.

Invariants of the state, held by every transaction (tests cite the numbers):

M1  ``Position.applied_index`` and the data change together: the data is the replay of the log up to there,
    but for the entries in ``gaps``.
M2  ``applied_index`` and ``revision`` never decrease, nor does ``epoch`` within one log.
M3  A record's ``revision`` is that of the last put of its key among the applied entries.
M4  ``digest`` is a function of the records and the remembered requests alone: replicas with the same ones have
    the same digest, in whichever order they applied the entries.
M5  A tombstone tells the revision of a key's last deletion. While there are gaps, every deletion leaves one, so
    that a missed older put cannot come back; without gaps, those are there whose deletion is among the kept
    changes, of keys that have not come back since.
M6  Filling a gap touches a key only where the key's revision is lower than the missed entry's.
M7  Remembered are the requests with an id at the last ``Identity.window`` revisions, those in ``gaps`` apart.
M8  ``log_bytes`` is the size of all entries up to ``applied_index``, those in ``gaps`` apart.
M9  A key is listed under a lease if and only if its record is attached to that lease.
M10 Without gaps, all changes at revisions above ``Position.history`` are kept, each under its revision, and with
    them the state at any of these revisions can be told. While there are gaps, none is kept.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import msgspec

from kvlog.core.entry import NO_HASH, SYSTEM, Delete, Effect, Leader, Put, Request

DIGEST_MODULUS = 1 << 128

REQUEST_WINDOW = 100_000
"""For how many revisions the requests with an id are remembered, if whoever made the log did not say. A count and
not a time: replicas, however late, remember the same."""

HISTORY_REVISIONS = 100_000
"""Of how many revisions the changes are kept, if the settings do not say (M10)."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the store holds for a key: its value, and the revisions that made it so."""

    value: bytes
    create: int
    revision: int
    version: int
    content_type: str = ""
    lease: int = 0


class Gap(msgspec.Struct, frozen=True, array_like=True):
    """Entries ``first`` to ``last``, both included, that a stale store has missed.

    ``prev_hash`` is the hash of the entry before ``first``: what the first missed one must be chained to;
    ``revision`` and ``epoch`` are those after it. ``last_hash`` is that of the entry ``last``: what the first one
    behind the gap is chained to; empty until there is one.
    """

    first: int
    last: int
    prev_hash: str
    last_hash: str = ""
    revision: int = 0
    epoch: int = 0


class Remembered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of a request with an id: committed at ``revision``, or cancelled there for good.

    ``failed``: it was found at ``revision`` that it could not be carried out, and why. ``created``: it has made a
    key that was not there. ``changes``: how many keys it has written or deleted.
    """

    revision: int
    index: int
    fingerprint: str
    cancelled: bool
    failed: str = ""
    created: bool = False
    changes: int = 0


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What happened to one key at a revision: its record before and after, None where there was none.

    ``deleted``: if there was none before, the kept revision at which the key had been deleted; else 0. So
    every kept change of a key leads to the one before it.
    """

    key: str
    before: Record | None
    after: Record | None
    deleted: int = 0


class Changes(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What happened at one revision, in the entry at ``index``; ``time_ms`` is the wall clock of its leader."""

    index: int
    time_ms: int
    changes: tuple[Change, ...]


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Which log a store belongs to: the cluster's random id, and the czxid of the log's znode.

    ``window`` goes with it because it is fixed for the cluster: for how many revisions requests are remembered.
    """

    cluster_id: str
    log_czxid: int
    window: int = REQUEST_WINDOW


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a store stands in the log. Written in the same transaction as the data (M1).

    Attributes:
        applied_index: index of the last applied entry; -1 before the first.
        revision: revision of the last applied request; 0 before the first.
        hash: hash of the entry at ``applied_index``; empty when that entry itself was missed.
        epoch: epoch of the last applied entry; 0 if that was of another log (see LmdbStore.rebase).
        leader: who leads that epoch; None if the barrier that told it was missed.
        digest: sum of the hashes of all records, modulo 2**128, as 32 hex digits (M4).
        gaps: missed entries, ascending; empty unless the store is stale.
        identity: the log that this store belongs to; None until it has first seen one.
        log_bytes: size of all entries ever applied, as they are in ZooKeeper (M8).
        skipped: indices of the entries that an operator had skipped, ascending.
        history: the lowest revision whose state can still be told (M10).
    """

    applied_index: int = -1
    revision: int = 0
    hash: str = NO_HASH
    epoch: int = 0
    leader: Leader | None = None
    digest: str = NO_HASH
    gaps: tuple[Gap, ...] = ()
    identity: Identity | None = None
    log_bytes: int = 0
    skipped: tuple[int, ...] = ()
    history: int = 0

    @property
    def window(self) -> int:
        """For how many revisions requests are remembered."""
        return self.identity.window if self.identity is not None else REQUEST_WINDOW

    @property
    def missed_entries(self) -> int:
        """How many entries the store has missed."""
        return sum(gap.last - gap.first + 1 for gap in self.gaps)


class Transaction(Protocol):
    """What applying an entry does its work on; all of it takes effect together, or none."""

    def get(self, key: str) -> Record | None:
        """The record of a key, or None."""

    def look_up(self, requests: tuple[Request, ...]) -> None:
        """All that these requests touch will be asked for, and may be looked up at once."""

    def put(self, key: str, record: Record) -> None:
        """Set the record of a key."""

    def delete(self, key: str) -> None:
        """Remove the record of a key that has one."""

    def attach(self, lease: int, key: str) -> None:
        """List a key under a lease (M9)."""

    def detach(self, lease: int, key: str) -> None:
        """Take a key off a lease's list."""

    def tombstone(self, key: str) -> int:
        """The revision of a key's last deletion, 0 if there is no tombstone of it (M5)."""

    def bury(self, key: str, revision: int) -> None:
        """Leave a tombstone, or change the one that is there."""

    def unbury(self, key: str) -> None:
        """Remove the tombstone of a key that has one."""

    def clear_tombstones(self) -> None:
        """Remove all tombstones."""

    def keep(self, revision: int, changes: Changes) -> None:
        """Keep what happened at a revision (M10)."""

    def drop(self, revision: int, limit: int) -> tuple[int, list[tuple[int, str]]]:
        """Drop what is kept of the revisions up to this one, the oldest first, until ``limit`` changes are gone.

        Returns the revision up to which nothing is kept then, and the deletions that were dropped.
        """

    def clear_kept(self) -> None:
        """Drop all that is kept."""

    def request(self, request_id: str) -> Remembered | None:
        """What became of a request, if it is remembered."""

    def remember(self, request_id: str, outcome: Remembered) -> None:
        """Note what became of a request that is not remembered yet."""

    def forget(self, revision: int) -> None:
        """Forget the requests at revisions up to this one."""

    def added_to_digest(self) -> int:
        """What all that was changed since the last call adds to the digest (M4)."""


def record_after(effect: Effect, revision: int) -> Record | None:
    """The record of the effect's key once the effect is applied."""
    if isinstance(effect, Delete):
        return None
    return Record(effect.data, effect.create, revision, effect.version, effect.content_type, effect.lease)


def outcome_of(request: Request, revision: int, index: int) -> Remembered:
    """What becomes of a request that is committed at ``revision``."""
    created, changes = False, 0
    for effect in request.effects:
        if not effect.key.startswith(SYSTEM):
            changes += 1
            created = created or (isinstance(effect, Put) and effect.create == revision)
    return Remembered(
        revision, index, request.fingerprint, request.cancels, request.failed, created=created, changes=changes
    )


SHARE_BYTES = 16

DIGEST_FORMAT = 1
"""How digests are made: another number if ``share_of``, Record or Remembered become something else. Then the same
data has another digest, and the two must not be compared."""


def share_of(name: bytes, body: bytes) -> bytes:
    """The share in the digest of what is called ``name``: a Record or Remembered, encoded as MessagePack.

    The digest is a sum, so that it is kept up to date at a cost that does not depend on the store's size
    (Bellare and Micciancio's incremental hashing, 1997, with addition). It finds accidental divergence; it is
    not meant to withstand somebody who searches for collisions.

    The body tells where it ends and which of the two it is, so that no two of them have the same bytes.
    """
    return hashlib.blake2b(body + name, digest_size=SHARE_BYTES).digest()


def digest_of(key: str, record: Record) -> int:
    """The share of one record in the digest, as a number."""
    return int.from_bytes(share_of(key.encode(), msgspec.msgpack.encode(record)), "big")


def digest_of_request(request_id: str, outcome: Remembered) -> int:
    """The share of one remembered request in the digest, as a number."""
    return int.from_bytes(share_of(request_id.encode(), msgspec.msgpack.encode(outcome)), "big")
