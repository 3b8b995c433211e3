"""The state machine: how effects become state. How commands become effects is in ``evaluate``.

``apply_entry`` and ``fill_entry`` run on every replica, inside one transaction of its store.

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

from kvlog.core.entry import NO_HASH, SYSTEM, Delete, Effect, Entry, Leader, LogEntry, Put, Request
from kvlog.errors import invariant

DIGEST_MODULUS = 1 << 128

REQUEST_WINDOW = 100_000
"""For how many revisions the requests with an id are remembered, if whoever made the log did not say. A count and
not a time: replicas, however late, remember the same."""


HISTORY_REVISIONS = 100_000
"""Of how many revisions the changes are kept, if the settings do not say (M10)."""

DROPPED_MAX = 32_768
"""Changes that are dropped with one entry, give or take a request's: more than an entry adds, and few enough that
none takes long after the number to keep has been lowered."""


class Record(msgspec.Struct, frozen=True, array_like=True):
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


class Remembered(msgspec.Struct, frozen=True, array_like=True):
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


class Change(msgspec.Struct, frozen=True, array_like=True):
    """What happened to one key at a revision: its record before and after, None where there was none.

    ``deleted``: if there was none before, the kept revision at which the key had been deleted; else 0. So
    every kept change of a key leads to the one before it.
    """

    key: str
    before: Record | None
    after: Record | None
    deleted: int = 0


class Changes(msgspec.Struct, frozen=True, array_like=True):
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

    def forget(self, revision: int) -> list[tuple[str, Remembered]]:
        """Forget the requests at revisions up to this one; returns them."""


def record_after(effect: Effect, revision: int) -> Record | None:
    """The record of the effect's key once the effect is applied."""
    if isinstance(effect, Delete):
        return None
    return Record(
        value=effect.data,
        create=effect.create,
        revision=revision,
        version=effect.version,
        content_type=effect.content_type,
        lease=effect.lease,
    )


def outcome_of(request: Request, revision: int, index: int) -> Remembered:
    """What becomes of a request that is committed at ``revision``."""
    own = [effect for effect in request.effects if not effect.key.startswith(SYSTEM)]
    return Remembered(
        revision,
        index,
        request.fingerprint,
        request.cancels,
        request.failed,
        created=any(isinstance(effect, Put) and effect.create == revision for effect in own),
        changes=len(own),
    )


def apply_entry(
    transaction: Transaction, position: Position, item: LogEntry, *, history: int = HISTORY_REVISIONS
) -> Position:
    """Apply the entry after ``position``; returns the position after it.

    ``history``: of how many revisions the changes are kept (M10).
    """
    entry = item.entry
    invariant(item.index == position.applied_index + 1, f"{item.index} applied after {position}")
    invariant(
        not position.hash or entry.skip is not None or entry.first_revision == position.revision + 1,
        f"entry {item.index} starts at revision {entry.first_revision} after {position}",
    )
    digest = int(position.digest, 16)
    last_revision = max(position.revision, entry.last_revision)
    if entry.first_revision > position.revision + 1:  # what was missed has made ids forgotten that come again here
        digest -= _forget(transaction, entry.first_revision - 1 - position.window)
    for revision, request in enumerate(entry.requests, start=entry.first_revision):
        if position.gaps:
            digest += _write_over_gaps(transaction, request, revision)
        else:
            digest += _write_and_keep(transaction, request, revision, item)
        digest += _remember(transaction, request, revision, item.index)
    digest -= _forget(transaction, last_revision - position.window)
    gaps = position.gaps
    if not position.hash:  # the first entry behind a gap says what the last missed one was
        gaps = (*gaps[:-1], msgspec.structs.replace(gaps[-1], last_hash=entry.prev_hash))
    return msgspec.structs.replace(
        position,
        applied_index=item.index,
        revision=last_revision,
        hash=item.hash,
        epoch=entry.epoch,
        leader=_leader_after(position, entry),
        digest=_digest_text(digest),
        gaps=gaps,
        log_bytes=position.log_bytes + len(item.data),
        skipped=_skipped(position, item),
        history=position.history
        if gaps
        else _trim_history(transaction, position.history, last_revision - history),
    )


def fill_entry(transaction: Transaction, position: Position, item: LogEntry) -> Position:
    """Apply the first entry of the first gap, which later entries may have overtaken (M6)."""
    gap = position.gaps[0]
    invariant(item.index == gap.first, f"{item.index} filled into {gap}")
    digest = int(position.digest, 16)
    last_revision = max(position.revision, item.entry.last_revision)
    for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
        if revision > last_revision - position.window:
            digest += _remember(transaction, request, revision, item.index)
        for effect in request.effects:
            before = transaction.get(effect.key)
            latest = max(before.revision if before else 0, transaction.tombstone(effect.key))
            if latest <= revision:  # equal: an effect of this same request has come before
                digest += _write(transaction, effect, before, record_after(effect, revision))
    rest = msgspec.structs.replace(
        gap,
        first=item.index + 1,
        prev_hash=item.hash,
        revision=item.entry.last_revision,
        epoch=item.entry.epoch,
    )
    gaps = ((rest,) if rest.first <= rest.last else ()) + position.gaps[1:]
    if not gaps:
        transaction.clear_tombstones()
    digest -= _forget(transaction, last_revision - position.window)
    filled = msgspec.structs.replace(
        position,
        revision=last_revision,
        digest=_digest_text(digest),
        gaps=gaps,
        log_bytes=position.log_bytes + len(item.data),
        skipped=_skipped(position, item),
        history=position.history if gaps else last_revision,
    )
    if item.index == position.applied_index:  # nothing came after the gap: it ends where the log ends
        filled = msgspec.structs.replace(filled, hash=item.hash)
    if item.entry.epoch >= position.epoch:
        filled = msgspec.structs.replace(
            filled, epoch=item.entry.epoch, leader=_leader_after(position, item.entry)
        )
    return filled


def open_gap(transaction: Transaction, position: Position, last: int) -> Position:
    """Declare all entries after ``position`` up to ``last`` as missed, and stand behind them."""
    if not position.gaps:  # M5, M10
        transaction.clear_kept()
        transaction.clear_tombstones()
    first = position.applied_index + 1
    invariant(first <= last, f"no gap between {first} and {last}")
    gaps = position.gaps
    if gaps and gaps[-1].last == position.applied_index:
        gaps = (*gaps[:-1], msgspec.structs.replace(gaps[-1], last=last))
    else:
        gap = Gap(first, last, position.hash, revision=position.revision, epoch=position.epoch)
        gaps = (*gaps, gap)
    # The hash of the entry at ``last`` is not known here: the first entry after the gap says what it was.
    return msgspec.structs.replace(position, applied_index=last, hash="", gaps=gaps)


def digest_of(key: str, record: Record) -> int:
    """The share of one record in the digest.

    The digest is a sum, so that it is kept up to date at a cost that does not depend on the store's size
    (Bellare and Micciancio's incremental hashing, 1997, with addition). It finds accidental divergence; it is
    not meant to withstand somebody who searches for collisions.
    """
    data = msgspec.msgpack.encode((key, record))
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "big")


def digest_of_request(request_id: str, outcome: Remembered) -> int:
    """The share of one remembered request in the digest."""
    data = msgspec.msgpack.encode(("request", request_id, outcome))
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "big")


def _remember(transaction: Transaction, request: Request, revision: int, index: int) -> int:
    """Remember a request that has an id (M7); returns what that adds to the digest."""
    if not request.id:
        return 0
    before = transaction.request(request.id)
    if before is not None:
        # Only where a gap is filled: its id was forgotten and used again behind the gap.
        invariant(before.revision > revision, f"request {request.id} is there at {before} and {revision}")
        return 0
    outcome = outcome_of(request, revision, index)
    transaction.remember(request.id, outcome)
    return digest_of_request(request.id, outcome)


def _forget(transaction: Transaction, revision: int) -> int:
    """Forget the requests up to a revision (M7); returns what they had added to the digest."""
    if revision <= 0:
        return 0
    return sum(digest_of_request(*forgotten) for forgotten in transaction.forget(revision))


def _skipped(position: Position, item: LogEntry) -> tuple[int, ...]:
    if item.entry.skip is None:
        return position.skipped
    return tuple(sorted((*position.skipped, item.index)))


def _leader_after(position: Position, entry: Entry) -> Leader | None:
    """Who leads the entry's epoch; not known if the barrier that told it was missed."""
    if entry.leader is not None:
        return entry.leader
    return position.leader if entry.epoch == position.epoch else None


def _digest_text(digest: int) -> str:
    return f"{digest % DIGEST_MODULUS:032x}"


def _write_and_keep(transaction: Transaction, request: Request, revision: int, item: LogEntry) -> int:
    """Carry out a request, and keep what it has changed (M10); returns what that adds to the digest."""
    digest = 0
    changes = []
    last = {effect.key: effect for effect in request.effects}  # of several on one key, only the last one is seen
    for effect in last.values():
        before, after, deleted = transaction.get(effect.key), record_after(effect, revision), 0
        if before is None and after is None:
            continue
        digest += _write(transaction, effect, before, after)
        if before is None and (deleted := transaction.tombstone(effect.key)):
            transaction.unbury(effect.key)
        elif after is None:
            transaction.bury(effect.key, revision)
        changes.append(Change(effect.key, before, after, deleted))
    if changes:
        transaction.keep(revision, Changes(item.index, item.entry.time_ms, tuple(changes)))
    return digest


def _write_over_gaps(transaction: Transaction, request: Request, revision: int) -> int:
    """Carry out a request while entries before it are missing (M5); returns what that adds to the digest."""
    digest = 0
    for effect in request.effects:
        if isinstance(effect, Delete):
            transaction.bury(effect.key, revision)
        digest += _write(transaction, effect, transaction.get(effect.key), record_after(effect, revision))
    return digest


def _write(transaction: Transaction, effect: Effect, before: Record | None, after: Record | None) -> int:
    """Carry out one effect; returns what that adds to the digest."""
    key, digest = effect.key, 0
    if before is not None:
        digest -= digest_of(key, before)
    if after is not None:
        digest += digest_of(key, after)
        transaction.put(key, after)
    elif before is not None:
        transaction.delete(key)
    lease_before, lease_after = before.lease if before else 0, after.lease if after else 0
    if lease_before != lease_after:  # M9
        if lease_before:
            transaction.detach(lease_before, key)
        if lease_after:
            transaction.attach(lease_after, key)
    return digest


def _trim_history(transaction: Transaction, history: int, revision: int) -> int:
    """Drop the changes up to a revision; returns the lowest revision whose state can be told then (M10)."""
    if revision <= history:
        return history
    floor, deletions = transaction.drop(revision, DROPPED_MAX)
    for at, key in deletions:
        if transaction.tombstone(key) == at:
            transaction.unbury(key)
    return floor
