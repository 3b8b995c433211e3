"""Entries: what is written is what is read, and nothing else passes for an entry."""

import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.core.commands import update
from kvlog.core.entry import (
    ENTRY_BYTES_MAX,
    FORMAT,
    HEADER_BYTES_MAX,
    KEY_BYTES_MAX,
    NO_HASH,
    REQUEST_ID_BYTES_MAX,
    VALUE_BYTES_MAX,
    Delete,
    Entry,
    Leader,
    Put,
    Request,
    Skip,
    check_key,
    check_value,
    decode_entry,
    encode_entry,
    encode_request,
    segment_of,
)
from kvlog.core.evaluate import check_command
from kvlog.errors import BadEntry, InvalidInput, InvariantViolation
from tests.chain import Chain

REQUESTS = (
    Request(effects=(Put(key="k", value="v", create=7, version=1), Delete(key="gone"))),
    Request(effects=(Put(key="ключ", value='"\\\n\x00', create=2, version=9),)),
)
HEADER = Entry(format=FORMAT, epoch=5, batch_id="b-1", prev_hash="0" * 32, first_revision=7, time_ms=123)


def with_checksum(body: bytes) -> bytes:
    """A body with the checksum that belongs to it."""
    return body + b"\n" + hashlib.blake2b(body, digest_size=16).hexdigest().encode()


def encoded() -> bytes:
    return encode_entry(HEADER, tuple(encode_request(request) for request in REQUESTS))


def test_an_entry_is_read_as_it_was_written():
    """Every field comes back, and the bytes with them."""
    item = decode_entry(41, encoded())

    assert msgspec.structs.replace(HEADER, requests=REQUESTS) == item.entry
    assert (41, encoded(), 8) == (item.index, item.data, item.entry.last_revision)


def test_a_barrier_is_read_as_it_was_written():
    """A barrier names the leader, has no requests and uses up no revision."""
    barrier = msgspec.structs.replace(HEADER, leader=Leader("n1", "n1:80"))
    item = decode_entry(0, encode_entry(barrier))

    assert barrier == item.entry
    assert item.entry.last_revision == 6


def test_request_ids_and_cancellations_are_read_as_they_were_written():
    """What a repetition is found by, and what a cancelled request is, come back."""
    requests = (
        Request(id="order-7", fingerprint="ab" * 16, effects=REQUESTS[0].effects),
        Request(id="~i1-3", effects=REQUESTS[1].effects),
        Request(id="order-8", cancels=True),
    )
    item = decode_entry(0, encode_entry(HEADER, tuple(encode_request(request) for request in requests)))

    assert requests == item.entry.requests
    assert item.entry.last_revision == 9  # a cancellation takes a revision


def test_an_entry_of_the_earlier_format_is_read():
    """Fields that an entry does not need are not in it: but for its number, format 1 is format 2 without them."""
    old = encoded().split(b"\n")[0].replace(b'"format":2', b'"format":1')

    assert decode_entry(3, with_checksum(old)).entry.requests == decode_entry(3, encoded()).entry.requests


def test_what_an_entry_does_not_need_is_not_in_it():
    """Neither ids nor leases, encodings or content types."""
    body = encoded().split(b"\n")[0]

    assert body == (
        b'{"format":2,"epoch":5,"batch_id":"b-1","prev_hash":"00000000000000000000000000000000",'
        b'"first_revision":7,"time_ms":123,"requests":[{"effects":['
        b'{"op":"put","key":"k","value":"v","create":7,"version":1},{"op":"delete","key":"gone"}]},'
        b'{"effects":[{"op":"put","key":"\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87","value":"\\"\\\\\\n\\u0000","create":2,'
        b'"version":9}]}]}'
    )


@pytest.mark.parametrize("hash_after", ["c" * 32, ""], ids=["as the next entry says", "its own"])
def test_the_hash_of_a_skip_is_what_the_next_entry_is_chained_to(hash_after: str):
    """The chain goes on where it went on; where nothing came behind, at the skip itself."""
    skip = msgspec.structs.replace(HEADER, skip=Skip("damaged", hash_after))
    data = encode_entry(skip)
    item = decode_entry(4, data)

    assert skip == item.entry
    assert item.hash == (hash_after or data.split(b"\n")[1].decode())
    assert item.entry.last_revision == 6


def test_a_skip_that_was_altered_is_found():
    """What it says about the next entry is under its own checksum."""
    data = encode_entry(msgspec.structs.replace(HEADER, skip=Skip("damaged", "c" * 32)))
    with pytest.raises(BadEntry, match="checksum"):
        decode_entry(4, data.replace(b"cccc", b"dddd"))


@settings(deadline=None)
@given(key=st.text(min_size=1), value=st.text())
def test_any_text_survives(key: str, value: str):
    """Whatever characters a key and a value have, they come back."""
    request = Request(effects=(Put(key=key, value=value, create=1, version=1),))
    item = decode_entry(0, encode_entry(HEADER, (encode_request(request),)))

    assert (request,) == item.entry.requests


def test_the_body_is_one_line_of_text():
    """Any ZooKeeper browser can show it: line breaks in values are escaped."""
    lines = encoded().split(b"\n")

    assert len(lines) == 2
    assert lines[1] == hashlib.blake2b(lines[0], digest_size=16).hexdigest().encode()


def test_an_entry_that_is_cut_off_anywhere_is_found():
    """No beginning of an entry is an entry."""
    data = encoded()
    for length in range(len(data)):
        with pytest.raises(BadEntry, match="checksum"):
            decode_entry(3, data[:length])


def test_every_flipped_bit_is_found():
    """One altered bit, wherever it is, makes it no entry."""
    data = encoded()
    for place in range(len(data) * 8):
        altered = bytearray(data)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises(BadEntry):
            decode_entry(3, bytes(altered))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"format":3}', "written in format 3, this kvlog knows formats 1 and 2"),
        (b'{"format":"new","more":[]}', "written in format new"),
        (encoded().split(b"\n")[0].replace(b'"format":2', b'"format":9'), "written in format 9"),
        (b'{"format":1}', "not an entry: Object missing required field `epoch`"),
        (b"[]", "not an entry"),
        (b"", "not an entry"),
        (b"\xff", "not an entry"),
        (b"{}", "written in format None"),
    ],
)
def test_what_is_whole_but_no_entry_says_why(body: bytes, reason: str):
    """A good checksum is not enough; an unknown format is named."""
    with pytest.raises(BadEntry, match=f"log entry 12: .*{reason}"):
        decode_entry(12, with_checksum(body))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"key":"gone"', b'"key":""'),
        (b'"key":"gone"', b'"key":"' + b"k" * 512 + b'"'),
        (b'"create":7', b'"create":-7'),
        (b'"create":7', b'"create":9223372036854775808'),
        (b'"version":1', b'"version":1.5'),
        (b'"version":1', b'"version":1,"lease":-1'),
        (b'"value":"v"', b'"value":"v","encoding":"base64"'),
        (b'"value":"v"', b'"value":"v","encoding":"rot13"'),
        (b'"time_ms":123', b'"time_ms":1000000000000000000000'),
    ],
)
def test_what_no_store_could_hold_is_no_entry(before: bytes, after: bytes):
    """However good its checksum is: otherwise each node would take its own store to be broken (N4)."""
    body = encoded().split(b"\n")[0]
    assert before in body

    with pytest.raises(BadEntry, match="log entry 12"):
        decode_entry(12, with_checksum(body.replace(before, after)))


def test_an_unknown_effect_is_no_entry():
    """An operation that this version does not know is never skipped in silence."""
    body = encoded().split(b"\n")[0].replace(b'"op":"delete"', b'"op":"append"')

    with pytest.raises(BadEntry, match="not an entry"):
        decode_entry(0, with_checksum(body))


def test_the_hash_covers_the_hash_before():
    """Equal hashes at one index mean equal logs up to there: the same change behind another log differs."""
    one, other = Chain(), Chain()
    one.put("a", "1")
    other.put("a", "2")
    first, second = one.put("b", "1"), other.put("b", "1")

    assert first.entry.requests == second.entry.requests
    assert first.hash != second.hash


GOOD_SIZES = [
    ("one character", "k", ""),
    ("the longest key", "k" * KEY_BYTES_MAX, ""),
    ("the longest key of two-byte characters", "ж" * 255, ""),
    ("... and one byte more", "ж" * 255 + "k", ""),
    ("the longest key of four-byte characters", "😀" * 127 + "abc", ""),
    ("the largest value", "k", "v" * VALUE_BYTES_MAX),
    ("the largest value of four-byte characters", "k", "😀" * (VALUE_BYTES_MAX // 4)),
    ("as many control characters as fit", "k", "\x01" * 86_000),
    ("the largest value that is escaped to twice its size less the overhead", "k", '"' * 260_000),
]
BAD_SIZES = [
    ("no key", "", "v", 400, "the key is empty"),
    ("a key of 512 bytes", "k" * 512, "", 400, "the key has 512 bytes in UTF-8, the limit is 511"),
    ("a key of 256 characters, 512 bytes", "ж" * 256, "", 400, "the key has 512 bytes"),
    ("a key of 128 characters, 512 bytes", "😀" * 128, "", 400, "the key has 512 bytes"),
    ("a value one byte too large", "k", "v" * (VALUE_BYTES_MAX + 1), 413, "the value has 262145 bytes"),
    ("a value of too many bytes, not characters", "k", "ж" * (VALUE_BYTES_MAX // 2 + 1), 413, "262146 bytes"),
    ("control characters that JSON makes too large", "k", "\x01" * 90_000, 413, "once encoded as JSON"),
    ("quotes that JSON makes too large", "k", '"' * VALUE_BYTES_MAX, 413, "once encoded as JSON"),
]


def check_sizes(key: str, value: str) -> None:
    """What a client's write of a text has to pass."""
    check_key(key)
    check_value(value.encode())
    check_command(update(key, value), request_id_bytes=REQUEST_ID_BYTES_MAX)


@pytest.mark.parametrize(("key", "value"), [pytest.param(*row[1:], id=row[0]) for row in GOOD_SIZES])
def test_what_fits_is_taken_and_makes_an_entry(key: str, value: str):
    """What check_sizes lets through can be encoded, whatever its revisions and its id will be."""
    check_sizes(key, value)
    put = Put(key=key, value=value, create=2**62, version=2**62)
    request = Request(id="x" * REQUEST_ID_BYTES_MAX, fingerprint=NO_HASH, effects=(put,))
    header = msgspec.structs.replace(HEADER, epoch=2**63 - 1, batch_id="f" * 40, first_revision=2**62)
    data = encode_entry(header, (encode_request(request),))

    assert len(data) <= ENTRY_BYTES_MAX
    assert (request,) == decode_entry(0, data).entry.requests


@pytest.mark.parametrize(
    ("key", "value", "status", "reason"), [pytest.param(*row[1:], id=row[0]) for row in BAD_SIZES]
)
def test_what_does_not_fit_is_refused(key: str, value: str, status: int, reason: str):
    """The refusal has the right status and says how much it was."""
    with pytest.raises(InvalidInput, match=reason) as refusal:
        check_sizes(key, value)

    assert status == refusal.value.status


def test_the_room_for_a_header_is_enough():
    """The longest possible header, a barrier's with long names, stays below HEADER_BYTES_MAX."""
    widest = Entry(
        format=FORMAT,
        epoch=2**63 - 1,
        batch_id="f" * 16 + "-" + "9" * 20,
        prev_hash="f" * 32,
        first_revision=2**63 - 1,
        time_ms=2**53,
        leader=Leader("n" * 100, "h" * 253 + ":65535"),
    )

    assert len(encode_entry(widest)) < HEADER_BYTES_MAX


def test_a_batch_that_is_too_large_is_a_bug():
    """Whoever gathers a batch keeps below the limit; if not, nothing is sent."""
    large = Request(effects=(Put(key="k", value="v" * ENTRY_BYTES_MAX, create=1, version=1),))

    with pytest.raises(InvariantViolation, match="an entry of"):
        encode_entry(HEADER, (encode_request(large),))


@pytest.mark.parametrize(("index", "segment"), [(0, 0), (999, 0), (1_000, 1), (1_999, 1), (2**40, 2**40 // 1_000)])
def test_a_segment_has_a_thousand_entries(index: int, segment: int):
    """The segment of an index is its thousands."""
    assert segment == segment_of(index)
