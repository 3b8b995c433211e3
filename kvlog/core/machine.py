"""The state machine: how commands become effects, and effects become state.

``evaluate`` runs on the leader only, before an entry is written: it turns a command into blind effects.
``apply_entry`` and ``fill_entry`` run on every replica, inside one transaction of its store.

Invariants of the state, held by every transaction (tests cite the numbers):

M1  ``Position.applied_index`` and the data change together: the data is the replay of the log up to there,
    but for the entries in ``gaps``.
M2  ``applied_index`` and ``revision`` never decrease, nor does ``epoch`` within one log.
M3  A record's ``revision`` is that of the last put of its key among the applied entries.
M4  ``digest`` is a function of the records and the remembered requests alone: replicas with the same ones have
    the same digest, in whichever order they applied the entries.
M5  While there are gaps, every deletion leaves a tombstone, so that a missed older put cannot come back;
    without gaps there are none.
M6  Filling a gap touches a key only where the key's revision is lower than the missed entry's.
M7  Remembered are the requests with an id at the last ``Identity.window`` revisions, those in ``gaps`` apart.
M8  ``log_bytes`` is the size of all entries up to ``applied_index``, those in ``gaps`` apart.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import msgspec

from kvlog.core.entry import NO_HASH, Delete, Effect, Entry, Leader, LogEntry, Put, Request
from kvlog.errors import invariant

DIGEST_MODULUS = 1 << 128

REQUEST_WINDOW = 100_000
"""For how many revisions the requests with an id are remembered, if whoever made the log did not say. A count and
not a time: replicas, however late, remember the same."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What the store holds for a key: its value, and the revisions that made it so."""

    value: str
    create: int
    revision: int
    version: int


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
    """What became of a request with an id: committed at ``revision``, or cancelled there for good."""

    revision: int
    index: int
    fingerprint: str
    cancelled: bool


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

    @property
    def window(self) -> int:
        """For how many revisions requests are remembered."""
        return self.identity.window if self.identity is not None else REQUEST_WINDOW

    @property
    def missed_entries(self) -> int:
        """How many entries the store has missed."""
        return sum(gap.last - gap.first + 1 for gap in self.gaps)


class View(Protocol):
    """What evaluating a command may look at."""

    def get(self, key: str) -> Record | None:
        """The record of a key, or None."""

    def request(self, request_id: str) -> Remembered | None:
        """What became of a request, if it is remembered."""


class Transaction(View, Protocol):
    """What applying an entry does its work on; all of it takes effect together, or none."""

    def put(self, key: str, record: Record) -> None:
        """Set the record of a key."""

    def delete(self, key: str) -> None:
        """Remove the record of a key that has one."""

    def tombstone(self, key: str) -> int:
        """The revision at which a key was deleted while there were gaps; 0 if it was not."""

    def bury(self, key: str, revision: int) -> None:
        """Leave a tombstone."""

    def clear_tombstones(self) -> None:
        """Remove all tombstones."""

    def remember(self, request_id: str, outcome: Remembered) -> None:
        """Note what became of a request that is not remembered yet."""

    def forget(self, revision: int) -> list[tuple[str, Remembered]]:
        """Forget the requests at revisions up to this one; returns them."""


class Update(msgspec.Struct, frozen=True):
    """The command "set this key to this value"."""

    key: str
    value: str


class Settle(msgspec.Struct, frozen=True):
    """The command "if the request with this command's id is not committed, it shall never be"."""


Command = Update | Settle


def fingerprint(command: Command) -> str:
    """What tells a repetition of a request from another one under the same id."""
    return hashlib.blake2b(msgspec.msgpack.encode(command), digest_size=16).hexdigest()


def evaluate(view: View, command: Command, revision: int, *, request_id: str = "", check: str = "") -> Request:
    """Turn a command into the blind effects that it has at ``revision``, given the state before it.

    ``check`` is the command's fingerprint, where a client has chosen the id.
    """
    if isinstance(command, Settle):
        return Request(id=request_id, cancels=True)
    before = view.get(command.key)
    if before is None:
        put = Put(key=command.key, value=command.value, create=revision, version=1)
    else:
        put = Put(key=command.key, value=command.value, create=before.create, version=before.version + 1)
    return Request(id=request_id, fingerprint=check, effects=(put,))


def record_after(effect: Effect, revision: int) -> Record | None:
    """The record of the effect's key once the effect is applied."""
    if isinstance(effect, Delete):
        return None
    return Record(value=effect.value, create=effect.create, revision=revision, version=effect.version)


def apply_entry(transaction: Transaction, position: Position, item: LogEntry) -> Position:
    """Apply the entry after ``position``; returns the position after it."""
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
        for effect in request.effects:
            if isinstance(effect, Delete) and position.gaps:
                transaction.bury(effect.key, revision)
            digest = _write(transaction, effect, revision, digest)
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
                digest = _write(transaction, effect, revision, digest)
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
    )
    if item.index == position.applied_index:  # nothing came after the gap: it ends where the log ends
        filled = msgspec.structs.replace(filled, hash=item.hash)
    if item.entry.epoch >= position.epoch:
        filled = msgspec.structs.replace(
            filled, epoch=item.entry.epoch, leader=_leader_after(position, item.entry)
        )
    return filled


def open_gap(position: Position, last: int) -> Position:
    """Declare all entries after ``position`` up to ``last`` as missed, and stand behind them."""
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
    outcome = Remembered(revision, index, request.fingerprint, request.cancels)
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


def _write(transaction: Transaction, effect: Effect, revision: int, digest: int) -> int:
    """Carry out one effect; returns the digest after it."""
    before = transaction.get(effect.key)
    after = record_after(effect, revision)
    if before is not None:
        digest -= digest_of(effect.key, before)
    if after is not None:
        digest += digest_of(effect.key, after)
        transaction.put(effect.key, after)
    elif before is not None:
        transaction.delete(effect.key)
    return digest
