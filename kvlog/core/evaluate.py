"""From a command to the blind effects that it has; runs on the leader only, before an entry is written.

A lease is a record like any other, under a key of kvlog's own: so it is replicated, replayed, filled in and
digested like any other. A key with a time to live of its own is attached to a lease that exists for it alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from kvlog.core.commands import (
    OPERATIONS_MAX,
    TTL_MAX_MS,
    AnyOf,
    Command,
    Compare,
    Condition,
    DeleteKey,
    Failure,
    Grant,
    KeepAlive,
    Operation,
    Relation,
    Revoke,
    SetKey,
    Settle,
    Target,
    Txn,
    Unchanged,
)
from kvlog.core.entry import (
    OWN_ID,
    SYSTEM,
    Delete,
    Effect,
    Put,
    Request,
    check_fits,
    encode_request,
    encode_value,
)
from kvlog.core.machine import Record, Remembered

LEASES = SYSTEM + "lease/"
"""How the keys of leases begin; their number follows."""

REVOKED_KEYS_MAX = 500
REVOKED_BYTES_MAX = 200 * 1024
"""What one request deletes when a lease ends; more than that takes several."""

CHANGED_SINCE_MAX = 10_000
"""Revisions that are looked at to find out whether anything has changed; beyond that, it counts as changed."""

SEARCHED_BYTES_MAX = 32 * 1024 * 1024
"""How much is looked at for all such conditions of one request together; beyond that, it counts as changed. The
leader decides nothing else meanwhile."""

SEARCH_EFFORT = 250
"""What a search counts for among the records that are looked at (see ``effort``)."""

_ESCAPED = 7
"""Bytes that JSON takes for one character or byte at most, within text that is escaped already."""

_WIDEST = 2**62

_SMALL_BYTES = 256 * 1024
_OPERATION_BYTES = 1_024
"""What an operation takes beside its key and value at most, leases and content type included."""

_RELATIONS: dict[Relation, Callable[[int | bytes, int | bytes], bool]] = {
    Relation.EQUAL: operator.eq,
    Relation.UNEQUAL: operator.ne,
    Relation.LESS: operator.lt,
    Relation.GREATER: operator.gt,
    Relation.AT_MOST: operator.le,
    Relation.AT_LEAST: operator.ge,
}


class Lease(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the record of a lease holds. ``key``: the only key that it exists for; ``ttl_ms`` 0: it has ended."""

    ttl_ms: int
    key: str = ""


@dataclass(slots=True)
class Search:
    """How much may still be looked at for one request (SEARCHED_BYTES_MAX)."""

    left: int = field(default_factory=lambda: SEARCHED_BYTES_MAX)


class View(Protocol):
    """What evaluating a command may look at: the state before it."""

    def get(self, key: str) -> Record | None:
        """The record of a key, or None."""

    def request(self, request_id: str) -> Remembered | None:
        """What became of a request, if it is remembered."""

    def attached(self, lease: int, limit: int) -> tuple[str, ...]:
        """Keys that are attached to a lease, ``limit`` of them at most."""

    def changed_since(self, prefix: str, revision: int, search: Search) -> bool:
        """Whether a key with this prefix was written or deleted after ``revision``.

        True also if that cannot be told any more, or would take longer to find out than ``search`` allows.
        """


_leases = msgspec.json.Decoder(Lease)


def lease_key(lease: int) -> str:
    """The key under which a lease is kept: in the order of the leases."""
    return f"{LEASES}{lease:019d}"


def first_lease(revision: int) -> int:
    """The number of the first lease that the request at ``revision`` makes; it makes one per operation at most."""
    return revision * OPERATIONS_MAX


def lease_number(key: str) -> int:
    """The lease that is kept under a key, 0 if it is not a lease's."""
    return int(key.removeprefix(LEASES)) if key.startswith(LEASES) else 0


def lease_in(value: bytes) -> Lease:
    """What is kept under a lease's key."""
    return _leases.decode(value)


def evaluate(view: View, command: Command, revision: int, *, request_id: str = "", check: str = "") -> Request:
    """What a command does at ``revision``, given the state before it.

    ``check`` is the command's fingerprint, where a client has chosen the id.
    """
    failed = ""
    effects: tuple[Effect, ...] | Failure
    match command:
        case Settle():
            return Request(id=request_id, cancels=True)
        case Txn():
            search = Search()
            met = all(_holds(view, condition, search) for condition in command.conditions)
            failed = "" if met else Failure.CONDITION.value
            effects = _Effects(view, revision).carry_out(command.then if met else command.otherwise)
        case Grant():
            number = first_lease(revision)
            effects = (_put_lease(number, Lease(command.ttl_ms), revision, 1),)
        case KeepAlive():
            effects = () if _lease(view, command.lease) else Failure.LEASE
        case Revoke():
            effects = _revoke(view, command.lease)
    if isinstance(effects, Failure):
        return Request(id=request_id, fingerprint=check, failed=effects.value)
    return Request(id=request_id, fingerprint=check, failed=failed, effects=effects)


def check_command(command: Command, *, request_id_bytes: int) -> None:
    """Refuse a command whose request no entry can hold, whatever the state is.

    Raises:
        InvalidInput: 413.
    """
    if not isinstance(command, Txn):
        return
    for branch in (command.then, command.otherwise):
        if sum(map(_bytes_at_most, branch)) > _SMALL_BYTES:
            effects = tuple(effect for operation in branch for effect in _widest(operation))
            check_fits(
                Request(
                    id=OWN_ID + "x" * request_id_bytes,
                    fingerprint="0" * 32,
                    failed=max(Failure, key=len),
                    effects=effects,
                )
            )


def bytes_in_entry(operation: Operation) -> int:
    """What an operation takes in an entry at most, whatever the state is."""
    return len(encode_request(Request(effects=tuple(_widest(operation)))))


def _bytes_at_most(operation: Operation) -> int:
    """What an operation takes in an entry, estimated from above: most fit without being encoded."""
    value = len(operation.value) if isinstance(operation, SetKey) else 0
    return _OPERATION_BYTES + 2 * _ESCAPED * (len(operation.key) + 1) + _ESCAPED * value


def _widest(operation: Operation) -> list[Effect]:
    """The effects of an operation at their longest: a key may bring a lease of its own, and end another one."""
    effects: list[Effect] = [Delete(lease_key(_WIDEST))]
    if isinstance(operation, DeleteKey):
        return [*effects, Delete(operation.key)]
    if operation.ttl_ms:
        effects.append(_put_lease(_WIDEST, Lease(TTL_MAX_MS, operation.key), _WIDEST, 1))
    return [*effects, _put(operation, _WIDEST, _WIDEST, lease=_WIDEST)]


def effort(command: Command) -> int:
    """How many records, about, are looked at to evaluate a command: the leader decides nothing else meanwhile."""
    if not isinstance(command, Txn):
        return 1
    searched = any(isinstance(each, Unchanged) for each in command.conditions)
    operations = max(len(command.then), len(command.otherwise))
    return len(command.conditions) + operations + (SEARCH_EFFORT if searched else 0)


def _holds(view: View, condition: Condition, search: Search) -> bool:
    if isinstance(condition, Unchanged):
        return not view.changed_since(condition.prefix, condition.since, search)
    record = view.get(condition.key)
    if isinstance(condition, AnyOf):
        return (record.revision if record else 0) in condition.revisions
    return _compares(record, condition)


def _compares(record: Record | None, condition: Compare) -> bool:
    relation = _RELATIONS[condition.relation]
    if condition.target is Target.VALUE:
        if record is None:
            return condition.relation is Relation.UNEQUAL
        return relation(record.value, condition.data)
    return relation(_number(record, condition.target), condition.number)


def _number(record: Record | None, target: Target) -> int:
    if record is None:
        return 0
    match target:
        case Target.REVISION:
            return record.revision
        case Target.CREATE:
            return record.create
        case Target.VERSION:
            return record.version
        case _:
            return record.lease


def _lease(view: View, lease: int) -> Lease | None:
    """A lease that lives, or None."""
    record = view.get(lease_key(lease))
    found = lease_in(record.value) if record is not None else None
    return found if found is not None and found.ttl_ms else None


def _revoke(view: View, lease: int) -> tuple[Effect, ...] | Failure:
    record = view.get(lease_key(lease))
    if record is None:
        return Failure.LEASE
    keys = view.attached(lease, REVOKED_KEYS_MAX + 1)
    effects: list[Effect] = []
    room = REVOKED_BYTES_MAX
    for key in keys[:REVOKED_KEYS_MAX]:
        room -= _ESCAPED * len(key.encode())
        if room < 0 and effects:
            break
        effects.append(Delete(key))
    if len(effects) == len(keys):
        return (*effects, Delete(lease_key(lease)))
    return (*effects, _put_lease(lease, Lease(ttl_ms=0), record.create, record.version + 1))


class _Effects:
    """The effects of one request, as they gather. No key comes twice, so only the state before it counts."""

    def __init__(self, view: View, revision: int) -> None:
        self._view = view
        self._revision = revision
        self._effects: list[Effect] = []
        self._granted = 0

    def carry_out(self, operations: tuple[Operation, ...]) -> tuple[Effect, ...] | Failure:
        for operation in operations:
            if isinstance(operation, DeleteKey):
                self._delete(operation.key)
            elif operation.lease and not self._may_attach(operation):
                return Failure.LEASE
            else:
                self._set(operation)
        return tuple(self._effects)

    def grant(self, lease: Lease) -> int:
        number = first_lease(self._revision) + self._granted
        self._granted += 1
        self._effects.append(_put_lease(number, lease, self._revision, 1))
        return number

    def _may_attach(self, operation: SetKey) -> bool:
        """Whether the lease lives, and takes the key.

        One that exists for a single key ends with it: another key would be left behind on a lease that is no more.
        """
        lease = _lease(self._view, operation.lease)
        return lease is not None and lease.key in ("", operation.key)

    def _delete(self, key: str) -> None:
        before = self._view.get(key)
        if before is not None:
            self._effects.append(Delete(key))
            self._drop_own_lease(key, before)

    def _set(self, operation: SetKey) -> None:
        before = self._view.get(operation.key)
        lease = operation.lease
        if operation.ttl_ms:
            lease = self.grant(Lease(operation.ttl_ms, operation.key))
        if before is None:
            self._effects.append(_put(operation, self._revision, 1, lease=lease))
            return
        self._effects.append(_put(operation, before.create, before.version + 1, lease=lease))
        if before.lease != lease:
            self._drop_own_lease(operation.key, before)

    def _drop_own_lease(self, key: str, before: Record) -> None:
        """A lease that exists for one key alone ends when the key leaves it."""
        if before.lease and (lease := _lease(self._view, before.lease)) is not None and lease.key == key:
            self._effects.append(Delete(lease_key(before.lease)))


def _put_lease(lease: int, value: Lease, create: int, version: int) -> Put:
    return Put(lease_key(lease), msgspec.json.encode(value).decode(), create, version)


def _put(operation: SetKey, create: int, version: int, *, lease: int) -> Put:
    value, encoding = encode_value(operation.value)
    return Put(operation.key, value, create, version, encoding, operation.content_type, lease)
