"""Whatever bytes come, from whomever: they are read, or refused in words; what was written is read as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvlog import failpoints
from kvlog.api.ids import request_id
from kvlog.api.incoming import KEYS, key_in
from kvlog.api.internal import forward_of, push_of
from kvlog.core.commands import DeleteKey, SetKey, Txn
from kvlog.core.entry import (
    FORMAT,
    Delete,
    Entry,
    Leader,
    Put,
    Request,
    Skip,
    decode_entry,
    encode_entry,
    encode_request,
)
from kvlog.core.values import Ack, PushBody
from kvlog.errors import BadEntry, SettingsError
from kvlog.peers import Forward
from kvlog.store.lmdb_store import LmdbStore
from kvlog.zookeeper.layout import Layout, entry_index, parse_candidate
from tests.chain import Chain

from .targets import TARGETS, Target, with_checksum

CORPUS = Path(__file__).parent / "corpus"
NESTED = tuple(piece * 20_000 for piece in (b"[", b'{"a":', b"\x91", b"\x81\xa1a"))
NASTY = (b"\xff", b"\x00", b"\xed\xa0\x80", b"9" * 400, b"-1", b" ", b"\r\n", "ж".encode(), b"\\u0000", *NESTED)

TEXT = st.text(max_size=20)
KEY_TEXT = st.text(min_size=1, max_size=40).filter(lambda text: not text.startswith("\0"))
NUMBERS = st.integers(0, 2**63 - 1)


@st.composite
def inputs(draw: st.DrawFn, target: Target) -> bytes:
    """Any bytes, or an input that makes sense and was spoilt in some places."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    data = draw(st.sampled_from(target.seeds))
    for _ in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, len(data)))
        last = draw(st.integers(first, min(len(data), first + 20)))
        piece = draw(st.sampled_from((b"", *target.dictionary, *NASTY)) | st.binary(max_size=8))
        data = data[:first] + piece + data[last:]
    return data


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_no_bytes_break_a_parser(name: str, data: st.DataObject):
    """Each either reads them, or raises what its callers know how to answer."""
    TARGETS[name](data.draw(inputs(TARGETS[name])))


@pytest.mark.parametrize("name", TARGETS)
def test_what_makes_sense_is_read_and_what_is_nested_too_deeply_is_not(name: str):
    """So that the parsers above do more than refuse; and 20,000 brackets are no way into any of them."""
    target = TARGETS[name]
    assert all(target(seed) is not None for seed in target.seeds)
    for nested in NESTED:
        for seed in target.seeds:
            for place in (0, len(seed) // 2, len(seed)):
                target(seed[:place] + nested + seed[place:])


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_the_fuzzer_has_found_is_found_no_more(file: Path):
    """Each input on which a parser once broke, as scripts/fuzz has left it."""
    TARGETS[file.parent.name](file.read_bytes())


# --- entries --------------------------------------------------------------------------------------------------

VALUES = st.tuples(TEXT, st.just("")) | st.tuples(
    st.binary(max_size=9).map(msgspec.to_builtins), st.just("base64")
)
PUTS = st.builds(
    lambda key, value, create, version, content_type, lease: Put(
        key, value[0], create, version, value[1], content_type, lease
    ),
    st.text(min_size=1, max_size=20) | st.just("k" * 512),
    VALUES,
    NUMBERS,
    NUMBERS,
    TEXT,
    NUMBERS,
)
REQUESTS = st.builds(
    Request,
    id=st.just(""),
    fingerprint=TEXT,
    cancels=st.booleans(),
    failed=TEXT,
    effects=st.lists(PUTS | st.builds(Delete, st.text(min_size=1, max_size=20)), max_size=4).map(tuple),
)


def too_long(name: str) -> bool:
    return len(name.encode()) > 511


@settings(deadline=None)
@given(
    st.lists(REQUESTS, max_size=4),
    st.none() | st.builds(Leader, TEXT, TEXT),
    st.none() | st.builds(Skip, TEXT, TEXT),
    NUMBERS,
    TEXT,
)
def test_an_entry_is_read_as_it_was_written(
    requests: list[Request], leader: Leader | None, skip: Skip | None, number: int, text: str
):
    """All fields, whatever is in them."""
    header = Entry(FORMAT, number, text, text, number, number, (), leader, skip)
    data = encode_entry(header, tuple(map(encode_request, requests)))
    if any(too_long(effect.key) for each in requests for effect in each.effects):
        with pytest.raises(BadEntry, match="which no store can have"):
            decode_entry(3, data)
        return

    assert decode_entry(3, data).entry == msgspec.structs.replace(header, requests=tuple(requests))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(REQUESTS, min_size=1, max_size=3), st.text(max_size=300))
def test_what_is_an_entry_the_store_can_hold(tmp_path: Path, requests: list[Request], name: str):
    """N4: otherwise each node would take its own store to be broken. What it cannot hold is no entry."""
    chain = Chain()
    named = [msgspec.structs.replace(requests[0], id=name), *requests[1:]]
    data = encode_entry(chain.header(), tuple(map(encode_request, named)))
    try:
        item = decode_entry(0, data)
    except BadEntry:
        assert too_long(name) or any(too_long(effect.key) for each in requests for effect in each.effects)
        return
    directory = tmp_path / str(len(list(tmp_path.iterdir())))
    store = LmdbStore(directory)
    try:
        assert store.apply((item,), fill=False).revision == len(named)
        assert not name or store.request(name) is not None
    finally:
        store.close()


@pytest.mark.parametrize(
    "piece",
    [
        b'"batch_id":"\xff"',
        b'"batch_id":"\xed\xa0\x80"',
        b'"batch_id":"","more":' + b"[" * 100_000,
        b'"batch_id":"","more":' + b'{"a":' * 100_000,
        b'"batch_id":"","requests":[{"id":"' + b"x" * 512 + b'"}]',
    ],
    ids=["no UTF-8", "half a surrogate pair", "lists in lists", "objects in objects", "a long id"],
)
@pytest.mark.parametrize("format_number", [b"2", b"3"])
def test_what_somebody_has_written_into_the_log_is_an_entry_or_a_bad_one(piece: bytes, format_number: bytes):
    """Its checksum is right. At a bad entry a node halts until it is skipped; anything else would end them all."""
    body = b'{"format":%b,"epoch":1,"prev_hash":"","first_revision":1,"time_ms":1,%b}' % (format_number, piece)

    with pytest.raises(BadEntry, match="log entry 5: "):
        decode_entry(5, with_checksum(body))


# --- between nodes, and the rest ------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50), max_size=4), NUMBERS, TEXT)
def test_a_push_is_read_as_it_was_written(entries: list[bytes], number: int, text: str):
    """Whatever its entries are: they are looked at later."""
    push = PushBody(text, Leader(text, text), number, number, number, tuple(entries))

    assert push_of(msgspec.msgpack.encode(push)) == push


OPERATIONS = st.builds(SetKey, KEY_TEXT, st.binary(max_size=20)) | st.builds(DeleteKey, KEY_TEXT)


@given(
    st.lists(OPERATIONS, max_size=3, unique_by=lambda one: one.key),
    st.sampled_from(list(Ack)),
    st.integers(1, 60_000),
)
def test_a_write_that_is_handed_on_is_read_as_it_was_written(operations: list[Any], ack: Ack, timeout_ms: int):
    """By the leader, from a node that has taken it from its client."""
    forward = Forward("c", "~n-1", ack, timeout_ms, Txn(tuple(operations)))

    assert forward_of(msgspec.msgpack.encode(forward)) == forward


@given(KEY_TEXT)
def test_any_key_is_read_from_a_path(key: str):
    """With each byte percent-encoded, or only those that have to be; with slashes either way."""
    for sent in (quote(key, safe=""), quote(key), "".join(f"%{byte:02x}" for byte in key.encode())):
        assert key_in(KEYS.encode() + sent.encode()) == key


@given(st.text("Aa0._:@=+-", min_size=3, max_size=100))
def test_an_id_is_read_with_and_without_quotes(name: str):
    """As clients may send it."""
    assert request_id(name) == request_id(f'"{name}"') == name


@given(
    st.dictionaries(
        st.sampled_from(sorted(failpoints.PLACES)),
        st.tuples(st.sampled_from(["kill", "raise", "sleep"]), st.integers(1, 60_000), st.integers(0, 10**9)),
    )
)
def test_a_spec_of_failpoints_is_read_as_it_is_shown(drawn: dict[str, tuple[str, int, int]]):
    """What is armed is told in the words in which it can be armed."""
    armed = {
        name: failpoints.Armed(name, action, number if action == "sleep" else 0, at or None)
        for name, (action, number, at) in drawn.items()
    }
    assert failpoints.parse(",".join(f"{name}:{each}" for name, each in armed.items())) == armed


@given(st.text(max_size=60) | st.text(":@,0123456789killsleepraise_", max_size=40))
def test_no_text_breaks_the_reading_of_failpoints(spec: str):
    """It is armed, or refused with a sentence of bounded length."""
    try:
        found = failpoints.parse(spec)
    except SettingsError as refusal:
        said = str(refusal)
    else:
        said = ""
        assert bool(found) == bool(spec)
    assert len(said) < 600


@given(st.integers(0, 10**12))
def test_an_index_is_read_from_the_path_that_it_gives(index: int):
    """Also where segments have more digits than ten."""
    assert entry_index(Layout("/a/b").entry(index)) == index


@given(
    st.from_regex(r"[A-Za-z0-9._:\[\]-]{1,100}", fullmatch=True),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**31 - 1),
)
def test_a_candidate_is_read_from_its_name(node_id: str, instance: int, sequence: int):
    """Whatever the node is called."""
    assert parse_candidate(f"{node_id}_{instance:016x}_{sequence:010d}") == (node_id, f"{instance:016x}", sequence)
