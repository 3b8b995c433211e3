"""The format of snapshots: what was written comes back, and nothing else is taken for a snapshot."""

import io
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.core.machine import Gap, Identity, Position
from kvlog.errors import BadSnapshot, InvariantViolation
from kvlog.snapshot import FRAME_BYTES_MAX, HEADER_BYTES_MAX, Decoder, Header, encode, header_of, read

IDENTITY = Identity("c1", 7, 1_000)
POSITION = Position(applied_index=41, revision=99, hash="ab" * 16, digest="cd" * 16, identity=IDENTITY)


def header(size: int) -> Header:
    return header_of(POSITION, size=size, created_ms=1_700_000_000_000, node_id="n1")


def snapshot(*chunks: bytes) -> bytes:
    return b"".join(encode(header(sum(map(len, chunks))), chunks))


def decoded(data: bytes) -> tuple[Header, bytes]:
    file = io.BytesIO()
    found = read([data], file)
    return found, file.getvalue()


def test_the_format_is_the_documented_one():
    """Byte by byte: files of today are read by later versions."""
    lines = snapshot(b"abc", b"d")

    assert lines == (
        b"kvlog snapshot 1\n"
        b'{"cluster_id":"c1","log_czxid":7,"window":1000,"index":41,"revision":99,'
        b'"hash":"abababababababababababababababab","digest":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",'
        b'"bytes":4,"created_ms":1700000000000,"node_id":"n1"}\n'
        b"\x00\x00\x00\x03abc\x00\x00\x00\x01d\x00\x00\x00\x00"
        b"6ef28c05c94e8021aaa3b0cd9f1a37b4543801608001b0bdfefc35490c8143fe\n"
    )


@settings(max_examples=100, deadline=None)
@given(
    chunks=st.lists(st.binary(max_size=300), max_size=8),
    cuts=st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=30),
)
def test_what_is_written_comes_back_however_it_is_cut(chunks: list[bytes], cuts: list[int]):
    """In pieces of any size; nothing is taken for complete before the end."""
    data = snapshot(*chunks)
    file = io.BytesIO()
    decoder = Decoder(file.write)
    first = 0
    while first < len(data):
        with pytest.raises(BadSnapshot, match="cut off after"):
            decoder.finish()
        size = cuts[first % len(cuts)]
        decoder.feed(data[first : first + size])
        first += size

    assert header(sum(map(len, chunks))) == decoder.finish()
    assert b"".join(chunks) == file.getvalue()
    assert decoder.received_bytes == len(file.getvalue())


def test_a_large_chunk_becomes_several_frames():
    """No frame has more than a mebibyte, whatever the payload comes in."""
    payload = random.Random(1).randbytes(FRAME_BYTES_MAX * 2 + 5)
    pieces = list(encode(header(len(payload)), [payload]))

    assert max(map(len, pieces)) == FRAME_BYTES_MAX + 4
    assert (header(len(payload)), payload) == decoded(b"".join(pieces))


def test_a_snapshot_cut_anywhere_is_none():
    """At every byte: in each line, in a length, in a frame, in the checksum."""
    data = snapshot(b"abc", b"defgh")
    for size in range(len(data)):
        with pytest.raises(BadSnapshot, match="cut off after"):
            decoded(data[:size])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_snapshot_with_a_flipped_bit_is_none(data: st.DataObject):
    """Wherever it is, the checksum and the end of its line included."""
    sound = snapshot(b"abc" * 20, b"", b"defgh")
    bit = data.draw(st.integers(min_value=0, max_value=len(sound) * 8 - 1))
    damaged = bytearray(sound)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadSnapshot):
        decoded(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (snapshot(b"abc") + b"\n", "something behind the end"),
        (snapshot(b"abc") * 2, "something behind the end"),
        (b"kvlog snapshot 2\n", "format '2', this kvlog knows 1"),
        (b"kvlog snapshot 10\n", "format '10', this kvlog knows 1"),
        (b"HTTP/1.1 200 OK\r\n", "no snapshot of kvlog"),
        (b"x" * 100, "no snapshot of kvlog"),
        (b"kvlog snapshot 1\n" + b"x" * HEADER_BYTES_MAX, "no snapshot of kvlog"),
        (b"kvlog snapshot 1\nhello\n", "header cannot be read"),
        (b"kvlog snapshot 1\n{}\n", "header cannot be read"),
        (next(encode(header(5), [])) + b"\x00\x10\x00\x01", "a frame of 1048577 bytes"),
        (next(encode(header(5), [])) + b"\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (next(encode(header(5), [])) + b"\x00\x00\x00\x06", "more than the 5 bytes"),
    ],
    ids=range(12),
)
def test_what_is_no_snapshot_is_refused_as_soon_as_it_shows(data: bytes, reason: str):
    """And the sentence says what is wrong."""
    with pytest.raises(BadSnapshot, match=reason):
        decoded(data)


def test_nothing_is_written_before_the_header_is_accepted():
    """Whoever is told of the header may refuse it: for want of room, say."""
    file = io.BytesIO()

    def refuse(found: Header) -> None:
        raise BadSnapshot(f"{found.bytes} bytes are too many")

    with pytest.raises(BadSnapshot, match="3 bytes are too many"):
        read([snapshot(b"abc")], file, refuse)
    assert file.getvalue() == b""


def test_a_payload_that_fails_makes_no_snapshot():
    """The exception comes through, and what came before has no end."""

    def payload():
        yield b"abc"
        raise TimeoutError("the disk")

    pieces = []
    with pytest.raises(TimeoutError, match="the disk"):
        pieces.extend(encode(header(10), payload()))
    with pytest.raises(BadSnapshot, match="cut off"):
        decoded(b"".join(pieces))


@pytest.mark.parametrize(
    "changes",
    [
        {"applied_index": 40},
        {"revision": 98},
        {"hash": ""},
        {"digest": "00" * 16},
        {"identity": Identity("c2", 7)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_header_describes_one_position(changes: dict[str, object]):
    """What was fetched has to be what was announced."""
    assert header(1).describes(POSITION)
    assert not header(1).describes(msgspec.structs.replace(POSITION, **changes))


@pytest.mark.parametrize("changes", [{"identity": None}, {"gaps": (Gap(1, 2, ""),)}], ids=["no log", "stale"])
def test_a_store_that_is_not_whole_has_no_header(changes: dict[str, object]):
    """It must not be copied."""
    with pytest.raises(InvariantViolation, match="a snapshot of a store at"):
        header_of(msgspec.structs.replace(POSITION, **changes), size=1, created_ms=1, node_id="n1")
