"""What clients send, without a node: accepted forms, the sentence for each refusal, and that nothing breaks it."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.api.bodies import Fields, json_value
from kvlog.api.conditions import conditions, is_known, matches, tag_of, tags, wants_item
from kvlog.api.course import READ_KEY, update_of
from kvlog.api.ids import any_request_id, request_id
from kvlog.api.items import check_content_type, data_of, value
from kvlog.api.keys import LIST, PUT
from kvlog.api.operations import condition_of, operation_of
from kvlog.api.parameters import KEY, NUMBER_MAX, WRITE, a_flag, number, parameters, seconds
from kvlog.api.reading import read_options
from kvlog.core.commands import AnyOf, Compare, Relation, Target, update
from kvlog.core.values import Ack
from kvlog.errors import InvalidInput

# --- queries --------------------------------------------------------------------------------------------------

GOOD_KEYS = [
    ("key=a", "a"),
    ("key=a%20b", "a b"),
    ("key=a+b", "a b"),
    ("key=%2B", "+"),
    ("key=%D0%B6", "ж"),
    ("key=a%26b%3Dc", "a&b=c"),
    ("key=a%00", "a\x00"),
    ("key=" + "k" * 511, "k" * 511),
]
BAD_KEYS = [
    ("", "the parameter key is missing"),
    ("key=", "the key is empty"),
    ("key", "the key is empty"),
    ("key=%00", "begins with the character NUL"),
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


@pytest.mark.parametrize(("query", "key"), GOOD_KEYS)
def test_a_key_is_read_from_the_query(query: str, key: str):
    """Percent-decoded, as UTF-8."""
    assert parameters(query, (KEY,)) == {"key": key}


@pytest.mark.parametrize(("query", "reason"), BAD_KEYS)
def test_a_query_that_cannot_be_meant_is_refused(query: str, reason: str):
    """With a sentence that says what is wrong, of bounded length."""
    with pytest.raises(InvalidInput, match=reason) as refusal:
        parameters(query, (KEY,))

    assert refusal.value.status == 400
    assert len(str(refusal.value)) < 300


@settings(deadline=None)
@given(st.text(min_size=1, max_size=100).filter(lambda text: text[0] != "\0"))
def test_any_key_can_be_read(key: str):
    """Whatever text it is, percent-encoded it arrives."""
    assert parameters(f"key={quote(key, safe='')}", (KEY,)) == {"key": key}


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_query_breaks_the_parser(query: str):
    """It is read or refused, whichever route it is for."""
    for known in ((), READ_KEY, WRITE, LIST, PUT):
        try:
            found = parameters(query, known)
        except InvalidInput:
            continue
        assert set(found) == {parameter.name for parameter in known}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", (Ack.REPLICAS, 5_000)),
        ("ack=log", (Ack.LOG, 5_000)),
        ("ack=replicas&timeout_ms=1", (Ack.REPLICAS, 1)),
        ("timeout_ms=60000", (Ack.REPLICAS, 60_000)),
        ("timeout_ms=00100", (Ack.REPLICAS, 100)),
    ],
)
def test_a_writes_options_are_read(query: str, expected: tuple[Ack, int]):
    """What its answer waits for, and how many milliseconds."""
    found = parameters(query, WRITE)

    assert expected == (found["ack"], found["timeout_ms"])


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "1e3", "9" * 5_000, "٣", "²", " 1", "1 ", "0x10", "nan", "1_0", "+1"]
)
def test_a_text_that_is_no_number_is_refused(text: str):
    """Only the ten digits are digits, and limits are limits."""
    for read in (number(0), number(1, 60_000)):
        with pytest.raises(InvalidInput, match=r"n=.* must be a whole number from"):
            read("n", text)


@given(st.integers())
def test_a_number_is_read_within_its_limits(found: int):
    """And refused beyond them."""
    for low, high in ((0, NUMBER_MAX), (1, 1_000)):
        try:
            assert number(low, high)("n", str(found)) == found
            assert low <= found <= high
        except InvalidInput:
            assert not low <= found <= high


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1", 1_000),
        ("1.5", 1_500),
        ("0.001", 1),
        ("60.000", 60_000),
        ("4.597483229523137", 4_597),
        ("1e-05", 0),
        ("6E+1", 60_000),
    ],
)
def test_seconds_may_have_decimals(text: str, milliseconds: int):
    """They are read as milliseconds, however a program writes a number down."""
    assert seconds(0, 60)("wait", text) == milliseconds


@given(st.text(max_size=30) | st.from_regex(r"[0-9.eE+-]{0,20}", fullmatch=True))
def test_no_text_breaks_the_reading_of_seconds(text: str):
    """It is a number of them, or refused."""
    try:
        found = seconds(0, 60)("wait", text)
    except InvalidInput:
        return
    assert 0 <= found <= 60_000
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", text)


def test_past_and_present_cannot_be_asked_for_together():
    """at= and linearizable= are two different questions."""
    both = parameters("key=k&at=3&linearizable=true", READ_KEY)
    with pytest.raises(InvalidInput, match="leave one of them out"):
        read_options(both)

    options = read_options(parameters("key=k&at=3&max_lag=0&max_stale_ms=7&timeout_ms=20", READ_KEY))
    assert (options.at, options.max_lag, options.max_stale_ms, options.timeout_s) == (3, 0, 7, 0.02)
    assert read_options(parameters("key=k&min_revision=4", READ_KEY)).min_revision == 4


def test_a_flag_is_true_or_false():
    """Nothing else: a typing error must not be taken for no."""
    known = (a_flag("x", "whether"),)
    assert [parameters(query, known)["x"] for query in ("", "x=true", "x=false")] == [False, True, False]
    for query in ("x", "x=1", "x=TRUE", "x=yes"):
        with pytest.raises(InvalidInput, match="must be true or false"):
            parameters(query, known)


# --- bodies ---------------------------------------------------------------------------------------------------

BODIES = [
    (b'{"key":"k","value":"v"}', "k", "v"),
    (b' {"value": "",\n "key": "k"} ', "k", ""),
    ('{"key":"ж","value":"😀"}'.encode(), "ж", "😀"),
    (rb'{"key":"\u0436","value":"\ud83d\ude00"}', "ж", "😀"),
    (rb'{"key":"a\u0000","value":"\n"}', "a\x00", "\n"),
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
    (b'{"key":"k","value":"v","ttl":5}', "unknown field 'ttl'; there is key, value"),
    (b'{"key":"","value":"v"}', "the key is empty"),
    (rb'{"key":"\u0000","value":"v"}', "begins with the character NUL"),
    (rb'{"key":"\ud800","value":"v"}', 'the field "key" holds half of a surrogate pair'),
    (rb'{"key":"k","value":"\udc00x"}', 'the field "value" holds half of a surrogate pair'),
    (b'{"key":"k","value":' + b"1" + b"0" * 5_000 + b"}", "the body is not JSON"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"),
    (json.dumps({"key": "k" * 512, "value": ""}).encode(), "the key has 512 bytes"),
]


@pytest.mark.parametrize(("body", "key", "text"), BODIES)
def test_an_update_is_read(body: bytes, key: str, text: str):
    """A JSON object with two strings."""
    assert update_of(body) == (key, update(key, text))


@pytest.mark.parametrize(("body", "reason"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_body_that_cannot_be_meant_is_refused(body: bytes, reason: str):
    """With a sentence that says what is wrong, of bounded length."""
    with pytest.raises(InvalidInput, match=re.escape(reason)) as refusal:
        update_of(body)

    assert refusal.value.status == 400
    assert len(str(refusal.value)) < 300


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(body: bytes):
    """They are read or refused."""
    try:
        json_value(body)
    except InvalidInput:
        return
    json.loads(body)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=50).filter(lambda text: text[0] != "\0"), st.text(max_size=200))
def test_any_text_can_be_written(key: str, text: str):
    """As JSON with escapes, or as plain UTF-8."""
    for ascii_only in (True, False):
        body = json.dumps({"key": key, "value": text}, ensure_ascii=ascii_only).encode()

        assert update_of(body) == (key, update(key, text))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_in_json_and_back(data: bytes):
    """Text where they are UTF-8, base64 where not."""
    form = value(data)

    assert data_of("", form["value"], form.get("encoding")) == data


@pytest.mark.parametrize("text", ["a", "a===", "YQ==\n", "Y Q==", "ж", "YQ", "\ud800"])
def test_a_value_that_is_no_base64_is_refused(text: str):
    """Strictly: no line breaks, no missing padding."""
    with pytest.raises(InvalidInput, match=r"here: the value is no base64"):
        data_of("here: ", text, "base64")


@pytest.mark.parametrize("found", [True, 1.5, "1", None, [], -1, 2**63, float(2**63), 1e400])
def test_a_field_that_is_no_number_is_refused(found: object):
    """JSON's true is none, and 1.5 is no whole one."""
    with pytest.raises(InvalidInput, match='here: the field "n" must be a whole number from 0 to'):
        Fields({"n": found}, ("n",), "here: ").number("n")


def test_a_whole_number_may_be_written_with_a_point():
    """7.0 is 7: JSON knows one kind of numbers, and some languages have no other."""
    assert Fields(json_value(b'{"n": 7.0}'), ("n",)).number("n") == 7


@pytest.mark.parametrize("found", [None, "", "hex", 64])
def test_an_encoding_is_base64_or_left_out(found: object):
    """null is not the same as nothing, in an operation and in a comparison."""
    operation = {"op": "put", "key": "k", "value": "", "encoding": found}
    comparison = {"key": "k", "target": "value", "op": "=", "value": "", "encoding": found}
    with pytest.raises(InvalidInput, match="encoding"):
        operation_of(operation, "")
    with pytest.raises(InvalidInput, match="encoding"):
        condition_of(comparison, "")


@pytest.mark.parametrize("found", [True, 0.999, 31_536_001, "5", None, -1, 10**400])
def test_a_time_to_live_that_makes_no_sense_is_refused(found: object):
    """From one second to a year."""
    with pytest.raises(InvalidInput, match='the field "ttl" must be a number of seconds from 1 to 31536000'):
        Fields({"ttl": found}, ("ttl",)).ttl_ms()


# --- headers --------------------------------------------------------------------------------------------------


def test_tags_become_conditions():
    """Weak tags and tags that are no revision never match; 0 is no revision."""
    assert conditions("k", tags("If-Match", "*"), None) == (Compare("k", Target.REVISION, Relation.GREATER, 0),)
    assert conditions("k", None, tags("If-None-Match", " * ")) == (
        Compare("k", Target.REVISION, Relation.EQUAL, 0),
    )
    found = tags("If-Match", '"7" ,, "8-json","7", W/"9","x","0","07", "-1","9223372036854775808",')
    assert conditions("k", found, None) == (AnyOf("k", (7, 8)),)
    assert conditions("k", tags("If-Match", '"x"'), None) == (AnyOf("k", ()),)
    assert conditions("k", None, tags("If-None-Match", 'W/"9", "x"')) == (
        Compare("k", Target.REVISION, Relation.UNEQUAL, 9),
    )
    assert conditions("k", None, None) == ()


@given(st.text(alphabet='W/"*,x71-json\t \x80ÿ', max_size=40) | st.text(max_size=40))
def test_no_header_breaks_the_reading_of_tags(header: str):
    """A list of tags, or refused; never an empty condition."""
    try:
        found = tags("If-Match", header)
    except InvalidInput:
        return
    assert found is not None
    assert found.anything != bool(found.tags)


def test_a_thousand_tags_are_refused_in_no_time():
    """As is what looks like a tag for long, and is none."""
    for header in (", ".join(['"1"'] * 501), '"' + "x" * 100_000, "," * 100_000, " \t" * 50_000 + "x"):
        with pytest.raises(InvalidInput, match="must be"):
            tags("If-Match", header)
    assert len(tags("If-Match", ", ".join(['"1"'] * 500)).tags) == 500


@given(st.integers(1, NUMBER_MAX), st.booleans())
def test_a_tag_that_was_given_out_is_understood(revision: int, as_item: bool):
    """By both headers, for both forms."""
    tag = tag_of(revision, as_item=as_item)

    assert conditions("k", tags("If-Match", tag), None) == (AnyOf("k", (revision,)),)
    assert matches(tags("If-Match", tag), revision)
    assert is_known(tags("If-None-Match", f'"a", W/{tag}'), tag)
    assert not is_known(tags("If-None-Match", tag), tag_of(revision, as_item=not as_item))


@pytest.mark.parametrize(
    ("accepted", "raw", "expected"),
    [
        ([], "text/plain", False),
        ([("application/json", 1)], "text/plain", True),
        ([("APPLICATION/JSON", 1)], "text/plain", True),
        ([("application/json", 1), ("*/*", 0.8)], "text/plain", True),
        ([("application/json", 1), ("*/*", 0.8), ("text/*", 1)], "text/plain; charset=utf-8", False),
        ([("application/json", 1), ("text/*", 1), ("text/plain", 0.1)], "text/plain", True),
        ([("application/*", 1)], "application/octet-stream", False),
    ],
)
def test_the_most_specific_range_counts(accepted: list[tuple[str, float]], raw: str, expected: bool):
    """RFC 9110, 12.5.1."""
    assert wants_item(accepted, raw) is expected


@pytest.mark.parametrize(
    "text",
    ["", "text/plain", "text/plain;charset=utf-8", 'a/b ;c="d\\"; e" ; f=g', "a/b;", "x-y/vnd.z+json; v=1;;"],
)
def test_a_content_type_is_kept_as_it_is(text: str):
    """Parameters and all; nothing is nothing."""
    assert check_content_type(text) == text


@pytest.mark.parametrize(
    "text", ["text", "/", "a/", "a/b/c", "a b/c", "a/b; c", "a/b; c=", 'a/b; c="', "a/b\r\nX: y"]
)
def test_a_content_type_that_is_none_is_refused(text: str):
    """It would be sent in a header."""
    with pytest.raises(InvalidInput, match="the content type"):
        check_content_type(text)


@given(st.text(alphabet='a/b;= "\\\t', max_size=255) | st.text(max_size=255))
def test_no_content_type_takes_long(text: str):
    """Whatever it is, it is looked at once."""
    try:
        check_content_type(text)
    except InvalidInput:
        return
    assert text == "" or "/" in text


def test_an_id_is_read_with_or_without_quotes():
    """What nodes give begins with a tilde, and no client's does."""
    assert [request_id(given) for given in (None, "a", '"a"', "a" * 128)] == ["", "a", "a", "a" * 128]
    assert any_request_id("~n1-2") == "~n1-2"
    for bad in ("", '""', "~a", "a b", "a" * 129, "..", ".", '"'):
        with pytest.raises(InvalidInput, match="Idempotency-Key"):
            request_id(bad)
