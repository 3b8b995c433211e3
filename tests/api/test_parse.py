"""What clients send: the accepted forms, and the sentence for each refusal."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.api import parse
from kvlog.core.commands import Txn, update
from kvlog.core.values import Ack
from kvlog.errors import InvalidInput

KEYS = [
    ("key=a", "a"),
    ("key=a%20b", "a b"),
    ("key=a+b", "a b"),
    ("key=%2B", "+"),
    ("key=%D0%B6", "ж"),
    ("key=a%26b%3Dc", "a&b=c"),
    ("key=%00", "\x00"),
    ("key=" + "k" * 511, "k" * 511),
]
BAD_KEYS = [
    ("", "the parameter key is missing"),
    ("key=", "the key is empty"),
    ("key", "the key is empty"),
    ("key=a&key=b", "the parameter 'key' is given twice"),
    ("key=a&key=a", "the parameter 'key' is given twice"),
    ("key=a&x=1", "unknown parameter 'x'; there is key"),
    ("Key=a", "unknown parameter 'Key'"),
    ("key=%ff", "not UTF-8"),
    ("key=%ed%a0%80", "not UTF-8"),
    ("key=" + "k" * 512, "the key has 512 bytes in UTF-8, the limit is 511"),
    ("key=" + "%D0%B6" * 256, "the key has 512 bytes"),
    ("&".join(f"x{number}=1" for number in range(100)), "the query cannot be read"),
    ("x" * 1_000 + "=1", "unknown parameter 'xxx"),
]


@pytest.mark.parametrize(("query", "key"), KEYS)
def test_a_key_is_read_from_the_query(query: str, key: str):
    """Percent-decoded, as UTF-8."""
    assert key == parse.read_key(query)


@pytest.mark.parametrize(("query", "reason"), BAD_KEYS)
def test_a_query_that_cannot_be_meant_is_refused(query: str, reason: str):
    """With a sentence that says what is wrong, of bounded length."""
    with pytest.raises(InvalidInput, match=reason) as refusal:
        parse.read_key(query)

    assert refusal.value.status == 400
    assert len(str(refusal.value)) < 300


@settings(deadline=None)
@given(st.text(min_size=1, max_size=100))
def test_any_key_can_be_read(key: str):
    """Whatever text it is, percent-encoded it arrives."""
    assert key == parse.read_key(f"key={quote(key, safe='')}")


OPTIONS = [
    ("", (Ack.REPLICAS, 5.0)),
    ("ack=log", (Ack.LOG, 5.0)),
    ("ack=replicas&timeout_ms=1", (Ack.REPLICAS, 0.001)),
    ("timeout_ms=60000", (Ack.REPLICAS, 60.0)),
    ("timeout_ms=00100", (Ack.REPLICAS, 0.1)),
]
BAD_OPTIONS = [
    ("ack=", "ack='': must be log or replicas"),
    ("ack=LOG", "ack='LOG': must be log or replicas"),
    ("ack=log&ack=log", "the parameter 'ack' is given twice"),
    ("timeout=5", "unknown parameter 'timeout'; there is ack, timeout_ms"),
    *(
        (f"timeout_ms={text}", "must be a whole number from 1 to 60000")
        for text in ("", "0", "-1", "1.5", "1e3", "60001", "9" * 5_000, "٣", "%C2%B2", "%201", "0x10", "nan")
    ),
]


@pytest.mark.parametrize(("query", "options"), OPTIONS)
def test_a_writes_options_are_read(query: str, options: tuple[Ack, float]):
    """What its answer waits for, and how long."""
    assert options == parse.write_options(query)


@pytest.mark.parametrize(("query", "reason"), BAD_OPTIONS)
def test_options_that_make_no_sense_are_refused(query: str, reason: str):
    """Each with the limits in the sentence."""
    with pytest.raises(InvalidInput, match=reason):
        parse.write_options(query)


BODIES = [
    (b'{"key":"k","value":"v"}', update("k", "v")),
    (b' {"value": "",\n "key": "k"} ', update("k", "")),
    ('{"key":"ж","value":"😀"}'.encode(), update("ж", "😀")),
    (rb'{"key":"\u0436","value":"\ud83d\ude00"}', update("ж", "😀")),
    (rb'{"key":"\u0000","value":"\n"}', update("\x00", "\n")),
]
BAD_BODIES = [
    (b"", "the body is not JSON"),
    (b"key=k&value=v", "the body is not JSON"),
    (b"{'key':'k'}", "the body is not JSON"),
    (b'{"key":"k","value":"v"} x', "the body is not JSON"),
    (b'{"key":"k","value":"v",}', "the body is not JSON"),
    (b'{"key":"k","value":"a\nb"}', "the body is not JSON"),
    (b'\xef\xbb\xbf{"key":"k","value":"v"}', "the body is not JSON: Unexpected UTF-8 BOM"),
    (b'{"key":"\xff","value":"v"}', "the body is not UTF-8"),
    ('{"key":"k","value":"v"}'.encode("utf-16"), "the body is not"),
    (b"[]", "must be a JSON object, not a list"),
    (b'"k"', "must be a JSON object, not a string"),
    (b"null", "must be a JSON object, not null"),
    (b"true", "must be a JSON object, not true or false"),
    (b"7", "must be a JSON object, not a number"),
    (b"NaN", "NaN is not JSON"),
    (b'{"key":"k","value":Infinity}', "Infinity is not JSON"),
    (b'{"key":"k","value":-Infinity}', "-Infinity is not JSON"),
    (b"{}", 'the field "key" is missing'),
    (b'{"key":"k"}', 'the field "value" is missing'),
    (b'{"key":"k","value":1}', 'the field "value" must be a string, not a number'),
    (b'{"key":"k","value":1e999}', 'the field "value" must be a string, not a number'),
    (b'{"key":"k","value":null}', 'the field "value" must be a string, not null'),
    (b'{"key":["k"],"value":"v"}', 'the field "key" must be a string, not a list'),
    (b'{"key":{},"value":"v"}', 'the field "key" must be a string, not an object'),
    (b'{"key":true,"value":"v"}', 'the field "key" must be a string, not true or false'),
    (b'{"key":"k","key":"k","value":"v"}', "the field 'key' is given twice"),
    (b'{"key":"k","value":"v","value":"w"}', "the field 'value' is given twice"),
    (b'{"key":"k","value":"v","ttl":5}', "unknown field 'ttl': there are key and value"),
    (b'{"key":"","value":"v"}', "the key is empty"),
    (rb'{"key":"\ud800","value":"v"}', 'the field "key" holds half of a surrogate pair'),
    (rb'{"key":"k","value":"\udc00x"}', 'the field "value" holds half of a surrogate pair'),
    (b'{"key":"k","value":' + b"1" + b"0" * 5_000 + b"}", "the body is not JSON"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"),
    (json.dumps({"key": "k" * 512, "value": ""}).encode(), "the key has 512 bytes"),
]


@pytest.mark.parametrize(("body", "update"), BODIES)
def test_an_update_is_read(body: bytes, update: Txn):
    """A JSON object with two strings."""
    assert update == parse.update(body)


@pytest.mark.parametrize(("body", "reason"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_body_that_cannot_be_meant_is_refused(body: bytes, reason: str):
    """With a sentence that says what is wrong, of bounded length."""
    with pytest.raises(InvalidInput, match=reason) as refusal:
        parse.update(body)

    assert refusal.value.status == 400
    assert len(str(refusal.value)) < 300


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(body: bytes):
    """It reads them or refuses them."""
    try:
        update = parse.update(body)
    except InvalidInput:
        return
    assert isinstance(update, Txn)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=50), st.text(max_size=200))
def test_any_text_can_be_written(key: str, value: str):
    """As JSON with escapes, or as plain UTF-8."""
    for ascii_only in (True, False):
        body = json.dumps({"key": key, "value": value}, ensure_ascii=ascii_only).encode()

        assert update(key, value) == parse.update(body)
