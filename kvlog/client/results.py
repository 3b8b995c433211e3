"""What the client returns: values that do not change, with the units and the meaning of each field.

A *revision* counts the writes of the whole cluster; it is the one number to compare, to wait for and to go back
to. An *index* is a place in the log, for looking at what has happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kvlog.client.errors import NotRead


@dataclass(frozen=True, slots=True)
class Item:
    """A key and what it holds, as of the revision at which it was read.

    Attributes:
        key: the key.
        value: its value; empty if only keys were asked for.
        revision: that of the write which gave it this value; what ``if_revision`` compares with.
        create_revision: that of the write which created it.
        version: how many writes it has had since it was created, the first included.
        content_type: what kind of text or data the value is; "" if only keys were asked for.
        lease: the lease that it goes away with, if there is one.
    """

    key: str
    value: bytes
    revision: int
    create_revision: int
    version: int
    content_type: str = "application/octet-stream"
    lease: int | None = None

    @property
    def text(self) -> str:
        """The value as text.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        return self.value.decode()

    def json(self) -> Any:
        """The value, read as JSON.

        Raises:
            ValueError: it is not JSON.
        """
        try:
            return msgspec.json.decode(self.value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"the value of {self.key!r} is not JSON: {error}") from None


@dataclass(frozen=True, slots=True)
class Written:
    """A committed put.

    Attributes:
        key: the key.
        revision: the put's own; the key stands at it until it is written again.
        index: where in the log it is.
        leader: the id of the node that wrote it.
        replicas: what was known of the other replicas by then: node id to ``applied`` or why not yet.
        created: the key was not there before.
        replayed: an earlier try had done it; this is that one's answer.
    """

    key: str
    revision: int
    index: int
    leader: str = ""
    replicas: Mapping[str, Any] = field(default_factory=dict)
    created: bool = False
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Deleted:
    """A committed delete; ``deleted`` says whether the key was there. For the rest, see Written."""

    key: str
    deleted: bool
    revision: int
    index: int
    leader: str = ""
    replicas: Mapping[str, Any] = field(default_factory=dict)
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class OperationResult:
    """What one operation of a transaction has brought.

    Attributes:
        op: ``put``, ``delete`` or ``get``.
        key: the key.
        found: of a get: what the key holds after the transaction, None if it is not there.
        problem: of a get: why that could not be read, "" if it was. The transaction is committed all the same.
    """

    op: str
    key: str
    found: Item | None = None
    problem: str = ""

    @property
    def item(self) -> Item | None:
        """Of a get: what the key holds after the transaction, None if it is not there.

        Raises:
            NotRead: it could not be read.
        """
        if self.problem:
            raise NotRead(
                f"the transaction is committed, but what {self.key!r} holds after it could not be read: "
                f"{self.problem}; get it by itself, with at= and the transaction's revision"
            )
        return self.found


@dataclass(frozen=True, slots=True)
class TxnResult:
    """A committed transaction.

    Attributes:
        succeeded: all conditions held, and the operations were carried out; else the ``otherwise_`` ones were.
        revision: the transaction's own: all that it has written stands at it.
        index: where in the log it is.
        results: one for each operation that was carried out, in their order.
        leader: the id of the node that wrote it.
        replicas: as in Written.
        replayed: as in Written.
    """

    succeeded: bool
    revision: int
    index: int
    results: tuple[OperationResult, ...] = ()
    leader: str = ""
    replicas: Mapping[str, Any] = field(default_factory=dict)
    replayed: bool = False

    @property
    def items(self) -> dict[str, Item | None]:
        """What the gets have brought, by key.

        Raises:
            NotRead: one of them could not be read.
        """
        return {result.key: result.item for result in self.results if result.op == "get"}


@dataclass(frozen=True, slots=True)
class BatchResult:
    """A batch that was carried out as a whole.

    Attributes:
        operations: how many.
        revision: that of the last of its transactions; 0 if there was nothing to do.
    """

    operations: int
    revision: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A rollback, or with ``dry_run`` what it would do.

    Attributes:
        changes: how many keys it changes.
        revision: its own; with ``dry_run``, or where nothing had to be changed, one at which nothing was written.
        index: where in the log it is, if it was written.
        replayed: as in Written.
    """

    changes: int
    revision: int = 0
    index: int | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What a write did to one key.

    Attributes:
        op: ``put`` or ``delete``.
        key: the key.
        item: what it holds since; None after a delete.
    """

    op: str
    key: str
    item: Item | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One committed write, as a watch tells it.

    Attributes:
        revision: the write's.
        index: where in the log it is.
        time_ms: when the leader wrote it: milliseconds since 1970 by its clock.
        changes: what it did to the keys that are watched, all at once.
    """

    revision: int
    index: int
    time_ms: int
    changes: tuple[Change, ...]


def deletes(events: Iterable[Event]) -> bool:
    """Whether any of them takes a key away."""
    return any(change.op == "delete" for event in events for change in event.changes)


@dataclass(frozen=True, slots=True)
class Version:
    """One write of a key's history; ``item`` is what it held from then on, None after a delete."""

    revision: int
    index: int
    time_ms: int
    op: str
    item: Item | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that differs between two revisions: what it held ``before`` and ``after``; None: it was not there."""

    key: str
    before: Item | None
    after: Item | None


@dataclass(frozen=True, slots=True)
class LoggedEntry:
    """An entry of the log, as the node that was asked has it.

    Attributes:
        index: its place.
        epoch: that of the leader who wrote it.
        batch_id: a name that no other entry has.
        time_ms: when it was written: milliseconds since 1970 by the leader's clock.
        first_revision: the revision of its first request; the others follow one by one.
        requests: the writes in it, as the log holds them.
        leader: who begins to lead with this entry, if it is the first one of an epoch.
        skip: why nobody applies it, if an operator had it skipped.
        path: how it came to the node: ``append``, ``push``, ``watch``, ``poll`` or ``replay``; "" if forgotten.
        applied_after_ms: milliseconds from ``time_ms`` until this node had applied it, if remembered.
    """

    index: int
    epoch: int
    batch_id: str
    time_ms: int
    first_revision: int
    requests: tuple[Any, ...] = ()
    leader: Any = None
    skip: Any = None
    path: str = ""
    applied_after_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What has become of a write, for good.

    Attributes:
        request_id: the write's id.
        committed: it happened; False: it was cancelled, and never will.
        revision: at which the one or the other happened.
        index: where in the log that is.
    """

    request_id: str
    committed: bool
    revision: int
    index: int
