"""How an event is written: JSON in one line, within the frame that Server-Sent Events put around it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from kvlog.core.entry import encode_value
from kvlog.core.machine import Change, Changes

DEFAULT_CONTENT_TYPE = "application/octet-stream"
"""The content type of a value that was put without one."""


class Frame(NamedTuple):
    """The event of one revision as it is sent; ``begin`` is where its JSON begins in ``text``."""

    revision: int
    text: bytes
    begin: int

    @property
    def data(self) -> bytes:
        """The event alone, as JSON."""
        return self.text[self.begin : -len(_END)]


class _Put(msgspec.Struct, frozen=True, tag_field="op", tag="put", omit_defaults=True, kw_only=True):
    key: str
    value: str
    encoding: Literal["", "base64"] = ""
    content_type: str
    create_revision: int
    revision: int
    version: int
    lease: int = 0


class _Delete(msgspec.Struct, frozen=True, tag_field="op", tag="delete"):
    key: str


class _Event(msgspec.Struct, frozen=True):
    revision: int
    index: int
    time_ms: int
    changes: tuple[msgspec.Raw, ...]


_END = b"\n\n"
_encoder = msgspec.json.Encoder()


class Happened:
    """What happened at one revision, and the frames of it that were asked for. Each is made once."""

    def __init__(self, revision: int, changes: Changes) -> None:
        self.changes = changes
        self._revision = revision
        self._encoded: dict[int, msgspec.Raw] = {}
        self._frames: dict[tuple[int, ...], Frame] = {}

    def frame(self, places: tuple[int, ...]) -> Frame:
        """The frame that tells of these of the changes: those who want the same ones share it."""
        frame = self._frames.get(places)
        if frame is None:
            frame = self._frames[places] = self._make(places)
        return frame

    def _make(self, places: tuple[int, ...]) -> Frame:
        changes = self.changes
        event = _Event(
            self._revision, changes.index, changes.time_ms, tuple(self._change(place) for place in places)
        )
        head = b"id: %d\nevent: change\ndata: " % self._revision
        return Frame(self._revision, head + _encoder.encode(event) + _END, len(head))

    def _change(self, place: int) -> msgspec.Raw:
        encoded = self._encoded.get(place)
        if encoded is None:
            encoded = self._encoded[place] = msgspec.Raw(_encoder.encode(_told(self.changes.changes[place])))
        return encoded


def _told(change: Change) -> _Put | _Delete:
    record = change.after
    if record is None:
        return _Delete(change.key)
    value, encoding = encode_value(record.value)
    return _Put(
        key=change.key,
        value=value,
        encoding=encoding,
        content_type=record.content_type or DEFAULT_CONTENT_TYPE,
        create_revision=record.create,
        revision=record.revision,
        version=record.version,
        lease=record.lease,
    )
