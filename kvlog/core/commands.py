"""What clients ask for: commands, before anything is decided about them.

A command is evaluated by the leader alone, against the state before it (see ``evaluate``); the log holds what
comes of that, and never the command.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

COMPARES_MAX = OPERATIONS_MAX = 1_000
"""Conditions, and operations in each branch, of one transaction."""

TTL_MIN_MS = 1_000
TTL_MAX_MS = 365 * 86_400_000


class Failure(StrEnum):
    """Why a request was not carried out, or not in the way that was wanted first.

    It has a revision nevertheless: as of that one, it was so.
    """

    CONDITION = "condition"  # a comparison did not hold: instead, what was to be done otherwise
    LEASE = "lease"  # there is no such lease


class Target(StrEnum):
    """What of a key is compared. Of a key that is not there, the numbers are 0."""

    VALUE = "value"
    REVISION = "revision"
    CREATE = "create_revision"
    VERSION = "version"
    LEASE = "lease"


class Relation(StrEnum):
    """How it is compared."""

    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    GREATER = ">"
    AT_MOST = "<="
    AT_LEAST = ">="


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """The condition that ``target`` of ``key`` stands in ``relation`` to ``number``, or ``data`` for the value.

    The value of a key that is not there is unequal to everything, and in no other relation to anything.
    """

    key: str
    target: Target
    relation: Relation
    number: int = 0
    data: bytes = b""


class Unchanged(msgspec.Struct, frozen=True, tag="unchanged"):
    """The condition that no key with this prefix was written or deleted after revision ``since``."""

    prefix: str
    since: int


class AnyOf(msgspec.Struct, frozen=True, tag="any_of"):
    """The condition that the key's revision is one of these (``If-Match`` with a list)."""

    key: str
    revisions: tuple[int, ...]


class SetKey(msgspec.Struct, frozen=True, tag="put"):
    """Set a key; attached to ``lease`` if that is not 0, or to one of its own that lives ``ttl_ms``."""

    key: str
    value: bytes
    content_type: str = ""
    lease: int = 0
    ttl_ms: int = 0


class DeleteKey(msgspec.Struct, frozen=True, tag="delete"):
    """Remove a key, if it is there."""

    key: str


Condition = Compare | Unchanged | AnyOf
Operation = SetKey | DeleteKey


class Txn(msgspec.Struct, frozen=True, tag="txn"):
    """If all conditions hold, carry out ``then``, else ``otherwise``: at one revision, all of it or nothing.

    No key is in one branch twice. ``asked`` is what the client has asked for, where the operations follow from
    that and from the state (a rollback): it alone tells a repetition then.
    """

    then: tuple[Operation, ...] = ()
    conditions: tuple[Condition, ...] = ()
    otherwise: tuple[Operation, ...] = ()
    asked: str = ""


class Settle(msgspec.Struct, frozen=True, tag="settle"):
    """If the request with this command's id is not committed, it shall never be."""


class Grant(msgspec.Struct, frozen=True, tag="grant"):
    """Make a lease, which is named by the revision of this request."""

    ttl_ms: int


class KeepAlive(msgspec.Struct, frozen=True, tag="keep_alive"):
    """Let a lease live for its whole time again, from when the leader hears of this."""

    lease: int


class Revoke(msgspec.Struct, frozen=True, tag="revoke"):
    """End a lease, and delete the keys that are attached to it.

    If those are more than one request can hold, the rest follows in requests of the leader.
    """

    lease: int


Command = Txn | Settle | Grant | KeepAlive | Revoke


def update(key: str, value: str) -> Txn:
    """The command "set this key to this text"."""
    return Txn((SetKey(key, value.encode()),))


def fingerprint(command: Command) -> str:
    """What tells a repetition of a request from another one under the same id."""
    if isinstance(command, Txn) and command.asked:
        command = Txn(asked=command.asked)
    return hashlib.blake2b(msgspec.msgpack.encode(command), digest_size=16).hexdigest()
