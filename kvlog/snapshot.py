"""Snapshots in transit and as files: one format, which says what it holds and shows whether it is whole.

1. the line ``kvlog snapshot 1``
2. a line with a JSON object, the Header
3. any number of frames: a length from 1 to 1,048,576 as 4 bytes, big-endian, and that many bytes of ``data.mdb``
4. a length of 0
5. a line of 64 hex digits: the BLAKE2b-256 of everything before them
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import blake2b
from typing import BinaryIO

import msgspec

from kvlog.core.machine import Identity, Position
from kvlog.errors import BadSnapshot, InvariantViolation

FORMAT = 1
MEDIA_TYPE = "application/vnd.kvlog.snapshot"

FRAME_BYTES_MAX = 1024 * 1024
HEADER_BYTES_MAX = 4096
LENGTH_BYTES = 4
CHECKSUM_BYTES = 32

_MAGIC = b"kvlog snapshot "
_FIRST_LINE = _MAGIC + str(FORMAT).encode() + b"\n"
_FIRST_LINE_MAX = 32
_LAST_LINE_BYTES = CHECKSUM_BYTES * 2 + 1


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot holds.

    Attributes:
        cluster_id: the cluster's random id.
        log_czxid: czxid of the log's znode.
        window: for how many revisions requests are remembered.
        index: the log is applied up to here, without a gap.
        revision: revision of the last applied request.
        hash: hash of the entry at ``index``.
        digest: digest of the contents.
        bytes: size of the payload; more never comes.
        created_ms: when it was made, in milliseconds since 1970; for people only.
        node_id: whose store it is.
    """

    cluster_id: str
    log_czxid: int
    window: int
    index: int
    revision: int
    hash: str
    digest: str
    bytes: int
    created_ms: int
    node_id: str

    @property
    def identity(self) -> Identity:
        """The log that the copied store belongs to."""
        return Identity(self.cluster_id, self.log_czxid, self.window)

    def describes(self, position: Position) -> bool:
        """Whether a store that stands at ``position`` is the one that was copied."""
        return (
            not position.gaps
            and (self.index, self.revision, self.hash, self.digest, self.identity)
            == (position.applied_index, position.revision, position.hash, position.digest, position.identity)
        )  # fmt: skip


_headers = msgspec.json.Decoder(Header)


def header_of(position: Position, *, size: int, created_ms: int, node_id: str) -> Header:
    """The header of a copy of ``size`` bytes of a whole store that belongs to a log."""
    identity = position.identity
    if identity is None or position.gaps:
        raise InvariantViolation(f"a snapshot of a store at {position}")
    return Header(
        cluster_id=identity.cluster_id,
        log_czxid=identity.log_czxid,
        window=identity.window,
        index=position.applied_index,
        revision=position.revision,
        hash=position.hash,
        digest=position.digest,
        bytes=size,
        created_ms=created_ms,
        node_id=node_id,
    )


def encode(header: Header, payload: Iterable[bytes]) -> Iterator[bytes]:
    """The snapshot in pieces. If the payload ends by an exception, so does this: what came is no snapshot."""
    checksum = blake2b(digest_size=CHECKSUM_BYTES)

    def piece(data: bytes) -> bytes:
        checksum.update(data)
        return data

    yield piece(_FIRST_LINE + msgspec.json.encode(header) + b"\n")
    for chunk in payload:
        for first in range(0, len(chunk), FRAME_BYTES_MAX):
            part = chunk[first : first + FRAME_BYTES_MAX]
            yield piece(len(part).to_bytes(LENGTH_BYTES, "big") + part)
    yield piece(bytes(LENGTH_BYTES))
    yield checksum.hexdigest().encode() + b"\n"


class _Part(Enum):
    """What comes next in a snapshot."""

    FIRST_LINE = auto()
    HEADER = auto()
    LENGTH = auto()
    FRAME = auto()
    CHECKSUM = auto()
    NOTHING = auto()


@dataclass(slots=True)
class Decoder:
    """Reads a snapshot as it comes, in pieces of any size, and keeps no more of it than a line.

    ``write`` is given the payload; it is worth nothing until ``finish`` has returned. ``announced`` is called with
    the header before the first byte of the payload, and may refuse it by an exception.

    Attributes:
        received_bytes: how much of the payload has been written.
    """

    write: Callable[[memoryview], object]
    announced: Callable[[Header], None] = lambda _: None
    header: Header | None = None
    received_bytes: int = 0
    _next: _Part = _Part.FIRST_LINE
    _gathered: bytearray = field(default_factory=bytearray)
    _frame_left: int = 0
    _seen_bytes: int = 0
    _checksum: blake2b = field(default_factory=lambda: blake2b(digest_size=CHECKSUM_BYTES))

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            BadSnapshot: this is no snapshot, or a damaged one.
        """
        view = memoryview(data)
        self._seen_bytes += len(view)
        while view:
            match self._next:
                case _Part.FRAME:
                    view = self._frame(view)
                case _Part.FIRST_LINE:
                    view = self._line(view, _FIRST_LINE_MAX, self._first_line)
                case _Part.HEADER:
                    view = self._line(view, HEADER_BYTES_MAX, self._header)
                case _Part.LENGTH:
                    view = self._fixed(view, LENGTH_BYTES, self._length)
                case _Part.CHECKSUM:
                    view = self._fixed(view, _LAST_LINE_BYTES, self._last_line)
                case _Part.NOTHING:
                    raise BadSnapshot("there is something behind the end of the snapshot")

    def finish(self) -> Header:
        """The header of the snapshot, all of which has come and is as it was written.

        Raises:
            BadSnapshot: it is not complete.
        """
        if self._next is not _Part.NOTHING or self.header is None:
            raise BadSnapshot(f"the snapshot is cut off after {self._seen_bytes} bytes")
        return self.header

    def _frame(self, view: memoryview) -> memoryview:
        part = view[: self._frame_left]
        self._checksum.update(part)
        self.write(part)
        self.received_bytes += len(part)
        self._frame_left -= len(part)
        if not self._frame_left:
            self._next = _Part.LENGTH
        return view[len(part) :]

    def _line(self, view: memoryview, limit: int, take: Callable[[bytes], None]) -> memoryview:
        """Gather up to the end of the line, and no more than ``limit`` bytes."""
        part = bytes(view[: limit - len(self._gathered)])
        end = part.find(b"\n") + 1
        self._gathered += part[: end or len(part)]
        if end:
            self._taken(take)
        elif len(self._gathered) == limit:
            raise BadSnapshot(f"this is no snapshot of kvlog: it begins with {bytes(self._gathered[:40])!r}")
        return view[end or len(part) :]

    def _fixed(self, view: memoryview, size: int, take: Callable[[bytes], None]) -> memoryview:
        """Gather exactly ``size`` bytes."""
        part = view[: size - len(self._gathered)]
        self._gathered += part
        if len(self._gathered) == size:
            self._taken(take)
        return view[len(part) :]

    def _taken(self, take: Callable[[bytes], None]) -> None:
        whole = bytes(self._gathered)
        self._gathered.clear()
        take(whole)

    def _first_line(self, line: bytes) -> None:
        if line != _FIRST_LINE:
            if line.startswith(_MAGIC):
                version = line[len(_MAGIC) :].strip().decode(errors="replace")
                raise BadSnapshot(f"the snapshot has format {version!r}, this kvlog knows {FORMAT}")
            raise BadSnapshot(f"this is no snapshot of kvlog: it begins with {line[:40]!r}")
        self._checksum.update(line)
        self._next = _Part.HEADER

    def _header(self, line: bytes) -> None:
        try:
            self.header = _headers.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadSnapshot(f"the snapshot's header cannot be read: {error}") from None
        self._checksum.update(line)
        self.announced(self.header)
        self._next = _Part.LENGTH

    def _length(self, data: bytes) -> None:
        length = int.from_bytes(data, "big")
        self._checksum.update(data)
        if length > FRAME_BYTES_MAX:
            raise BadSnapshot(f"the snapshot is damaged: a frame of {length} bytes")
        if self.header is not None and self.received_bytes + length > self.header.bytes:
            raise BadSnapshot(f"the snapshot has more than the {self.header.bytes} bytes that it announces")
        self._frame_left = length
        self._next = _Part.FRAME if length else _Part.CHECKSUM

    def _last_line(self, line: bytes) -> None:
        if line != self._checksum.hexdigest().encode() + b"\n":
            raise BadSnapshot("the snapshot is damaged: its checksum is that of something else")
        self._next = _Part.NOTHING


def read(pieces: Iterable[bytes], file: BinaryIO, announced: Callable[[Header], None] = lambda _: None) -> Header:
    """Write a snapshot's payload to a file; see Decoder.

    Raises:
        BadSnapshot: it is not whole; what is in the file is worth nothing.
    """
    decoder = Decoder(file.write, announced)
    for piece in pieces:
        decoder.feed(piece)
    return decoder.finish()
