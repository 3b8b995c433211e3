"""The JSON that goes over the wire, and what it is in Python."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from kvlog.client.errors import BadRequest, TooLarge
from kvlog.client.results import Change, Difference, Event, Item, LoggedEntry, OperationResult, Version

VALUE_BYTES_MAX = 262_144
BODY_BYTES_MAX = 2 * 1024 * 1024
"""What a node takes. It does not read what is larger, so that its answer to that may get lost."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are not what they should be: text that is not UTF-8, and what is nested too
deeply, are errors of Python's own."""

encoder = msgspec.json.Encoder()


class WireItem(msgspec.Struct, kw_only=True):
    """An item. Value, encoding and content type are missing where only keys were asked for."""

    key: str
    create_revision: int
    revision: int
    version: int
    value: str = ""
    encoding: str = ""
    content_type: str = ""
    lease: int | None = None

    def item(self) -> Item:
        """It as a result."""
        return Item(
            key=self.key,
            value=_bytes(self.value, self.encoding),
            revision=self.revision,
            create_revision=self.create_revision,
            version=self.version,
            content_type=self.content_type,
            lease=self.lease,
        )


class WireChange(msgspec.Struct, kw_only=True):
    """A change in an event: a put with the fields of an item beside it, or a delete with the key alone."""

    op: str
    key: str
    create_revision: int = 0
    revision: int = 0
    version: int = 0
    value: str = ""
    encoding: str = ""
    content_type: str = ""
    lease: int | None = None

    def change(self, revision: int) -> Change:
        """It as a result, of an event at ``revision``."""
        return Change(self.op, self.key, _item_of(self, self.key, revision))


class WireEvent(msgspec.Struct, kw_only=True):
    """A revision's changes."""

    revision: int
    changes: list[WireChange]
    index: int = 0
    time_ms: int = 0

    def event(self) -> Event:
        """It as a result."""
        changes = tuple(change.change(self.revision) for change in self.changes)
        return Event(self.revision, self.index, self.time_ms, changes)


class WireVersion(msgspec.Struct, kw_only=True):
    """One version of a key's history."""

    revision: int
    op: str
    index: int = 0
    time_ms: int = 0
    key: str = ""
    create_revision: int = 0
    version: int = 0
    value: str = ""
    encoding: str = ""
    content_type: str = ""
    lease: int | None = None

    def seen(self, key: str) -> Version:
        """It as a result."""
        item = _item_of(self, key, self.revision)
        return Version(self.revision, self.index, self.time_ms, self.op, item)


class WireItems(msgspec.Struct, kw_only=True):
    """A page of a listing."""

    revision: int
    items: list[WireItem]
    next: str | None = None
    count: int | None = None


class WireVersions(msgspec.Struct, kw_only=True):
    """A page of a key's history."""

    revision: int
    versions: list[WireVersion]
    floor: int = 0
    next: int | None = None
    trimmed: bool = False


class WireDifference(msgspec.Struct, kw_only=True):
    """A key that differs between two revisions."""

    key: str
    before: WireItem | None = None
    after: WireItem | None = None

    def difference(self) -> Difference:
        """It as a result."""
        before = self.before.item() if self.before is not None else None
        return Difference(self.key, before, self.after.item() if self.after is not None else None)


class WireDifferences(msgspec.Struct, kw_only=True):
    """A page of a diff."""

    to: int
    changes: list[WireDifference]
    next: str | None = None


class WireEntries(msgspec.Struct, kw_only=True):
    """A page of the log."""

    entries: list[LoggedEntry]
    next: int
    first_index: int = 0
    tail_index: int = -1


class WireEvents(msgspec.Struct, kw_only=True):
    """What a long poll brings."""

    revision: int
    events: list[WireEvent]
    next: int


class WireProblem(msgspec.Struct, kw_only=True):
    """Why something in an answer is not there."""

    detail: str


class WireResult(msgspec.Struct, kw_only=True):
    """What one operation of a transaction has brought."""

    op: str
    key: str
    item: WireItem | None = None
    problem: WireProblem | None = None

    def result(self) -> OperationResult:
        """It as a result."""
        item = self.item.item() if self.item is not None else None
        return OperationResult(self.op, self.key, item, self.problem.detail if self.problem is not None else "")


class WireCommitted(msgspec.Struct, kw_only=True):
    """A committed write of any kind."""

    outcome: str
    revision: int
    index: int = -1
    key: str = ""
    leader: str = ""
    replicas: dict[str, Any] = {}
    deleted: bool | int = False
    succeeded: bool = True
    results: list[WireResult] = []
    changes: int = 0
    lease: int = 0
    ttl: float = 0.0


class BatchLine(msgspec.Struct, kw_only=True):
    """A line of the answer to a batch: how far it has come, or with ``outcome`` how it ended."""

    done: int = 0
    revision: int = 0
    outcome: str = ""
    operations: int = 0
    line: int | None = None
    type: str = ""
    status: int = 503
    detail: str = ""


def value_fields(value: bytes) -> dict[str, str]:
    """A value as JSON has it: text where it is UTF-8, else base64."""
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(value).decode(), "encoding": "base64"}


def as_bytes(value: bytes | str) -> bytes:
    """A value as a caller gives it.

    Raises:
        BadRequest: it is neither bytes nor text, or text that UTF-8 cannot hold.
        TooLarge: it is larger than a value may be.
    """
    if isinstance(value, str):
        data = checked_text("the value", value)
    elif isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
    else:
        kind = type(value).__name__
        raise BadRequest(f"a value is bytes or text, not {kind}: encode it first, e.g. with json.dumps")
    if len(data) > VALUE_BYTES_MAX:
        raise TooLarge(f"a value of {len(data)} bytes: {VALUE_BYTES_MAX} are the most that a key holds")
    return data


def checked_text(what: str, text: str) -> bytes:
    """A text in UTF-8.

    Raises:
        BadRequest: it is no text, or one that UTF-8 cannot hold.
    """
    if not isinstance(text, str):
        raise BadRequest(f"{what} is a text, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"{what} holds half of a surrogate pair, which is no character") from error


def _bytes(value: str, encoding: str) -> bytes:
    if not encoding:
        return value.encode()
    if encoding != "base64":
        raise ValueError(f"a value comes in the encoding {encoding!r}")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a value is not base64: {error}") from error


def _item_of(found: WireChange | WireVersion, key: str, revision: int) -> Item | None:
    if found.op != "put":
        return None
    return Item(
        key=key,
        value=_bytes(found.value, found.encoding),
        revision=found.revision or revision,
        create_revision=found.create_revision,
        version=found.version,
        content_type=found.content_type,
        lease=found.lease,
    )
