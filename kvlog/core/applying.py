"""How entries become state. ``apply_entry`` and ``fill_entry`` run on every replica, in one of its transactions.

The invariants that they keep are numbered in ``machine``.
"""

from __future__ import annotations

import msgspec

from kvlog.core.entry import Delete, Entry, Leader, LogEntry, Request
from kvlog.core.machine import (
    DIGEST_MODULUS,
    HISTORY_REVISIONS,
    Change,
    Changes,
    Gap,
    Position,
    Record,
    Transaction,
    outcome_of,
    record_after,
)
from kvlog.errors import invariant

DROPPED_MAX = 32_768
"""Changes that are dropped with one entry, give or take a request's: more than an entry adds, and few enough that
none takes long after the number to keep has been lowered."""


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
    transaction.look_up(entry.requests)
    last_revision = max(position.revision, entry.last_revision)
    if entry.first_revision > position.revision + 1:  # what was missed has made ids forgotten that come again here
        _forget(transaction, entry.first_revision - 1 - position.window)
    for revision, request in enumerate(entry.requests, start=entry.first_revision):
        if position.gaps:
            _write_over_gaps(transaction, request, revision)
        else:
            _write_and_keep(transaction, request, revision, item)
        if request.id:
            _remember(transaction, request, revision, item.index)
    _forget(transaction, last_revision - position.window)
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
        digest=_digest_after(transaction, position),
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
    transaction.look_up(item.entry.requests)
    last_revision = max(position.revision, item.entry.last_revision)
    for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
        if request.id and revision > last_revision - position.window:
            _remember(transaction, request, revision, item.index)
        for effect in request.effects:
            before = transaction.get(effect.key)
            latest = max(before.revision if before else 0, transaction.tombstone(effect.key))
            if latest <= revision:  # equal: an effect of this same request has come before
                _write(transaction, effect.key, before, record_after(effect, revision))
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
    _forget(transaction, last_revision - position.window)
    filled = msgspec.structs.replace(
        position,
        revision=last_revision,
        digest=_digest_after(transaction, position),
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


def _remember(transaction: Transaction, request: Request, revision: int, index: int) -> None:
    """Remember a request that has an id (M7)."""
    before = transaction.request(request.id)
    if before is not None:
        # Only where a gap is filled: its id was forgotten and used again behind the gap.
        invariant(before.revision > revision, f"request {request.id} is there at {before} and {revision}")
        return
    transaction.remember(request.id, outcome_of(request, revision, index))


def _forget(transaction: Transaction, revision: int) -> None:
    """Forget the requests up to a revision (M7)."""
    if revision > 0:
        transaction.forget(revision)


def _skipped(position: Position, item: LogEntry) -> tuple[int, ...]:
    if item.entry.skip is None:
        return position.skipped
    return tuple(sorted((*position.skipped, item.index)))


def _leader_after(position: Position, entry: Entry) -> Leader | None:
    """Who leads the entry's epoch; not known if the barrier that told it was missed."""
    if entry.leader is not None:
        return entry.leader
    return position.leader if entry.epoch == position.epoch else None


def _digest_after(transaction: Transaction, position: Position) -> str:
    return f"{(int(position.digest, 16) + transaction.added_to_digest()) % DIGEST_MODULUS:032x}"


def _write_and_keep(transaction: Transaction, request: Request, revision: int, item: LogEntry) -> None:
    """Carry out a request, and keep what it has changed (M10)."""
    changes = []
    last = {effect.key: effect for effect in request.effects}  # of several on one key, only the last one is seen
    for key, effect in last.items():
        before, after, deleted = transaction.get(key), record_after(effect, revision), 0
        if before is None and after is None:
            continue
        _write(transaction, key, before, after)
        if before is None and (deleted := transaction.tombstone(key)):
            transaction.unbury(key)
        elif after is None:
            transaction.bury(key, revision)
        changes.append(Change(key, before, after, deleted))
    if changes:
        transaction.keep(revision, Changes(item.index, item.entry.time_ms, tuple(changes)))


def _write_over_gaps(transaction: Transaction, request: Request, revision: int) -> None:
    """Carry out a request while entries before it are missing (M5)."""
    for effect in request.effects:
        if isinstance(effect, Delete):
            transaction.bury(effect.key, revision)
        _write(transaction, effect.key, transaction.get(effect.key), record_after(effect, revision))


def _write(transaction: Transaction, key: str, before: Record | None, after: Record | None) -> None:
    """Carry out one effect."""
    if after is not None:
        transaction.put(key, after)
    elif before is not None:
        transaction.delete(key)
    lease_before, lease_after = before.lease if before else 0, after.lease if after else 0
    if lease_before != lease_after:  # M9
        if lease_before:
            transaction.detach(lease_before, key)
        if lease_after:
            transaction.attach(lease_after, key)


def _trim_history(transaction: Transaction, history: int, revision: int) -> int:
    """Drop the changes up to a revision; returns the lowest revision whose state can be told then (M10)."""
    if revision <= history:
        return history
    floor, deletions = transaction.drop(revision, DROPPED_MAX)
    for at, key in deletions:
        if transaction.tombstone(key) == at:
            transaction.unbury(key)
    return floor
