"""Entries of the log: what they hold and how they are written.

An entry is two lines of text, so that any ZooKeeper browser shows what is in the log:

    {"format":1,"epoch":4294967301,"batch_id":"...","prev_hash":"...","first_revision":7,"time_ms":...,
     "requests":[{"effects":[{"op":"put","key":"k","value":"v","create":7,"version":1}]}]}      (one line)
    1f0c...                                               BLAKE2b-128 of the first line, in hex

The hash of an entry covers the hash of the entry before it (``prev_hash``), so equal hashes at one index mean
equal logs up to there.

Effects are blind: a put carries everything that the record will hold, so that applying one needs no reading
and entries may be applied later, out of turn, to fill a gap (see ``machine``).

What there are many of has ``gc=False``: it never changes and leads to nothing that leads back to it, so the
garbage collector has nothing to find there, and need not look.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated, Any, Literal

import msgspec

from kvlog.errors import BadEntry, InvalidInput, invariant

FORMAT = 2
"""Version of the entry format that this code writes. It reads what was written in FORMATS."""

FORMATS = (1, 2)
"""Format 2 added values that are no text, content types, leases, and requests whose conditions were not met; an
entry of format 1 is one of format 2 without them."""

SEGMENT_ENTRIES = 1_000
"""Entries in one segment: ``index = segment * SEGMENT_ENTRIES + sequence number``."""

ENTRY_BYTES_MAX = 512 * 1024
"""Upper bound of an encoded entry. ZooKeeper drops the connection of a client that sends a packet over 1 MiB
(jute.maxbuffer, 1,048,575 bytes for the whole packet), so the limit is enforced here, well below it."""

KEY_BYTES_MAX = 511
"""Upper bound of a key in UTF-8: the longest key that LMDB takes."""

VALUE_BYTES_MAX = 256 * 1024
"""Upper bound of a value."""

CONTENT_TYPE_MAX = 255
"""Upper bound of the characters in a value's content type."""

SYSTEM = "\0"
"""How the keys begin that are kvlog's own; a client can neither write nor see them."""

BASE64: Literal["base64"] = "base64"

HEADER_BYTES_MAX = 1_024
"""Room kept in an entry for everything but its requests."""

REQUEST_BYTES_MAX = ENTRY_BYTES_MAX - HEADER_BYTES_MAX - 1
"""Upper bound of one encoded request: the comma behind it needs room, too."""

REQUEST_ID_BYTES_MAX = 128
"""Upper bound of a request's id."""

OWN_ID = "~"
"""How the ids begin that nodes give to requests which they forward; those that clients choose never do."""

NO_HASH = "0" * 32
"""What the first entry of a log is chained to."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are not what they should be: text that is not UTF-8, and what is nested too
deeply, are errors of Python's own."""


Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What a store can hold of a number: an entry with any other one is no entry."""


class Put(msgspec.Struct, frozen=True, tag_field="op", tag="put", omit_defaults=True, gc=False):
    """Set a key. ``create`` is the revision at which the key came to be, ``version`` counts its writes since.

    The value is text where it is UTF-8, so that people can read it in the log, and base64 (``encoding`` says so)
    where it is not. ``lease`` is the lease that the key is attached to, 0 for none.
    """

    key: str
    value: str
    create: Number
    version: Number
    encoding: Literal["", "base64"] = ""
    content_type: str = ""
    lease: Number = 0

    @property
    def data(self) -> bytes:
        """The value.

        Raises:
            ValueError: it is no base64 although it should be; ``decode_entry`` lets no such put through.
        """
        return base64.b64decode(self.value, validate=True) if self.encoding else self.value.encode()


class Delete(msgspec.Struct, frozen=True, tag_field="op", tag="delete", gc=False):
    """Remove a key."""

    key: str


Effect = Put | Delete


class Request(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One client's request as the log holds it: its effects, all at one revision, all or none.

    Attributes:
        id: name of the request, unique as long as it is remembered; empty for one that nobody will ask about.
        fingerprint: what tells another request with the same id from a repetition of this one.
        cancels: no request with this id was committed before, and none will be.
        failed: why it was not carried out as wanted, one of the values of commands.Failure; empty if it was.
        effects: what it does; also what a transaction does whose conditions do not hold.
    """

    id: str = ""
    fingerprint: str = ""
    cancels: bool = False
    failed: str = ""
    effects: tuple[Effect, ...] = ()


class Leader(msgspec.Struct, frozen=True):
    """Who leads, as told by a barrier entry."""

    node_id: str
    address: str


REASON_CHARACTERS_MAX = 500
"""Upper bound of the reason for a skip, which goes into the log."""


class Skip(msgspec.Struct, frozen=True):
    """What an operator has put in the place of an entry that nobody can apply.

    ``hash`` is what the next entry is chained to: as that one says, or, if there was none yet, what the bad entry
    should have been chained to itself. Empty: the next one is chained to the skip's own hash.
    """

    reason: str
    hash: str


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry: the requests of one group commit, a barrier, or a skip.

    A barrier (``leader`` set, no requests) is the first entry of each epoch: its success is the proof that
    every entry of earlier epochs is known, and it tells all replicas who leads. A skip (``skip`` set, no
    requests) stands for an entry that is damaged or missing; its ``first_revision`` may leave some out.

    Attributes:
        format: version of the entry format.
        epoch: czxid of the election znode of the leader that wrote the entry.
        batch_id: unique name of this append, by which its writer finds it again after a lost reply.
        prev_hash: hash of the entry before this one.
        first_revision: revision of the first request; the n-th has ``first_revision + n``.
        time_ms: the leader's wall clock, milliseconds since 1970; for people only.
        requests: in the order in which they take effect.
        leader: set in barriers only.
        skip: set in skips only.
    """

    format: int
    epoch: Number
    batch_id: str
    prev_hash: str
    first_revision: Number
    time_ms: Number
    requests: tuple[Request, ...] = ()
    leader: Leader | None = None
    skip: Skip | None = None

    @property
    def last_revision(self) -> int:
        """Revision after this entry."""
        return self.first_revision + len(self.requests) - 1


class LogEntry(msgspec.Struct, frozen=True):
    """An entry at its place: decoded, with the hash that the next one is chained to, and the bytes read."""

    index: int
    entry: Entry
    hash: str
    data: bytes


class _EncodedEntry(msgspec.Struct, omit_defaults=True):
    """Entry with requests that are encoded already; the fields are those of Entry, in the same order."""

    format: int
    epoch: int
    batch_id: str
    prev_hash: str
    first_revision: int
    time_ms: int
    requests: tuple[msgspec.Raw, ...] = ()
    leader: Leader | None = None
    skip: Skip | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)
_format_decoder = msgspec.json.Decoder(dict[str, Any])


def encode_request(request: Request) -> bytes:
    """Encode one request, ready for ``encode_entry``."""
    return _encoder.encode(request)


def encode_value(data: bytes) -> tuple[str, Literal["", "base64"]]:
    """A value as JSON can hold it: the text, and its encoding ("" for UTF-8, or ``base64``)."""
    try:
        return data.decode(), ""
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), BASE64


def check_key(key: str) -> None:
    """Refuse a key that no client's record can have.

    Raises:
        InvalidInput: 400.
    """
    if not key:
        raise InvalidInput("the key is empty; give it at least one character")
    if (size := len(key.encode())) > KEY_BYTES_MAX:
        raise InvalidInput(f"the key has {size} bytes in UTF-8, the limit is {KEY_BYTES_MAX}")
    if key.startswith(SYSTEM):
        raise InvalidInput("the key begins with the character NUL; such keys are kvlog's own: take another")


def check_value(data: bytes) -> None:
    """Refuse a value that no record can have.

    Raises:
        InvalidInput: 413.
    """
    if len(data) > VALUE_BYTES_MAX:
        raise InvalidInput(f"the value has {len(data)} bytes, the limit is {VALUE_BYTES_MAX}", status=413)


def check_fits(request: Request) -> None:
    """Refuse a request that no entry can hold.

    Raises:
        InvalidInput: 413.
    """
    if (size := len(encode_request(request))) > REQUEST_BYTES_MAX:
        raise InvalidInput(
            f"the write takes {size} bytes once encoded as JSON, the limit is {REQUEST_BYTES_MAX}; characters "
            "that JSON escapes take up to six bytes each, bytes that are not UTF-8 a third more",
            status=413,
        )


def encode_entry(header: Entry, requests: tuple[bytes, ...] = ()) -> bytes:
    """Encode an entry whose requests are encoded already (``header.requests`` is left empty).

    Raises:
        InvariantViolation: the entry is larger than ENTRY_BYTES_MAX; whoever gathers a batch keeps below it.
    """
    body = _encoder.encode(
        _EncodedEntry(
            format=header.format,
            epoch=header.epoch,
            batch_id=header.batch_id,
            prev_hash=header.prev_hash,
            first_revision=header.first_revision,
            time_ms=header.time_ms,
            requests=tuple(msgspec.Raw(request) for request in requests),
            leader=header.leader,
            skip=header.skip,
        )
    )
    data = body + b"\n" + _hash(body).encode()
    invariant(len(data) <= ENTRY_BYTES_MAX, f"an entry of {len(data)} bytes was gathered")
    return data


def decode_entry(index: int, data: bytes) -> LogEntry:
    """Decode and verify the bytes of the entry at ``index``.

    Raises:
        BadEntry: truncated, altered, of an unknown format, or not an entry at all.
    """
    body, _, trailer = data.rpartition(b"\n")
    digest = _hash(body)
    if trailer != digest.encode():
        raise BadEntry(index, f"its {len(data)} bytes do not match their own checksum: truncated or altered")
    try:
        entry = _decoder.decode(body)
    except UNREADABLE as error:
        raise BadEntry(index, _undecodable(body, error)) from error
    if entry.format not in FORMATS:
        raise BadEntry(index, _unknown_format(entry.format))
    _check_effects(index, entry)
    chained = entry.skip.hash if entry.skip is not None and entry.skip.hash else digest
    return LogEntry(index=index, entry=entry, hash=chained, data=data)


def _check_effects(index: int, entry: Entry) -> None:
    """What no store could hold would look like a failure of the store on every node: it is found before (N4)."""
    for request in entry.requests:
        if request.id and (size := len(request.id.encode())) > KEY_BYTES_MAX:
            raise BadEntry(index, f"holds a request with an id of {size} bytes, which no store can have")
        for effect in request.effects:
            size = len(effect.key) if effect.key.isascii() else len(effect.key.encode())
            if not 0 < size <= KEY_BYTES_MAX:
                raise BadEntry(index, f"holds a key of {size} bytes, which no store can have")
            if isinstance(effect, Put) and effect.encoding:
                try:
                    base64.b64decode(effect.value, validate=True)
                except (binascii.Error, ValueError) as error:
                    raise BadEntry(index, f"holds a value that is no base64: {error}") from None


def _undecodable(body: bytes, error: Exception) -> str:
    """Why a body with a good checksum is no entry: mostly because a newer kvlog wrote it."""
    try:
        declared = _format_decoder.decode(body).get("format")
    except UNREADABLE:
        declared = FORMAT
    return f"not an entry: {error}" if declared in FORMATS else _unknown_format(declared)


def _unknown_format(declared: object) -> str:
    known = " and ".join(map(str, FORMATS))
    return f"written in format {str(declared)[:20]}, this kvlog knows formats {known}; run a newer one"


def _hash(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def segment_of(index: int) -> int:
    """Number of the segment that holds the entry at ``index``."""
    return index // SEGMENT_ENTRIES


def first_of(segment: int) -> int:
    """Index of the first entry in a segment."""
    return segment * SEGMENT_ENTRIES
