"""What each call sends, and how its answer is read; as the API says it."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvlog.client import paging, reads, writes
from kvlog.client.batches import PIECE_BYTES, PIECE_OPERATIONS, pieces
from kvlog.client.errors import BadAnswer, BadRequest, ClientError, NoSuchLease, NotRead, TooLarge
from kvlog.client.judging import judge
from kvlog.client.messages import Again, Answer, Call, Done, Request, node_time_ms
from kvlog.client.operations import Delete, Put
from kvlog.client.reads import Listing, Page, ReadOptions
from kvlog.client.results import (
    BatchResult,
    Change,
    Deleted,
    Difference,
    Event,
    Item,
    LoggedEntry,
    OperationResult,
    RolledBack,
    Settled,
    TxnResult,
    Version,
    Written,
)
from kvlog.client.txn import TxnBuilder

KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(lambda key: len(key.encode()) <= 511)

ITEM = {"key": "k", "value": "v", "content_type": "text/plain", "create_revision": 1, "revision": 3, "version": 2}
AS_ITEM = Item("k", b"v", 3, 1, 2, "text/plain")

WRITTEN = {"outcome": "committed", "revision": 9, "index": 4, "leader": "n1", "replicas": {"n2": "applied"}}


def sent(call: Call[Any], seconds: float = 4.0) -> tuple[Request, dict[str, str]]:
    """The request and its parameters."""
    request = call.build(seconds)
    query = parse_qs(urlsplit(request.target).query, keep_blank_values=True, strict_parsing=False)
    return request, {name: value for name, (value,) in query.items()}


def read(call: Call[Any], body: Any, status: int = 200, **headers: str) -> Any:
    """What the call makes of an answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = judge(call, Answer("n:1", status, headers, data, sent_at=2.5))
    return found.value if isinstance(found, Done) else found


def put(value: bytes | str = "v", **settings: Any) -> Call[Written]:
    wanted = {"ttl": None, "lease": None, "if_revision": None, "content_type": None, "ack": "replicas"}
    return writes.put("k", value, **{**wanted, "request_id": "id-1", **settings})


# --- keys -----------------------------------------------------------------------------------------------------


@given(key=KEYS)
@example(key=".")
@example(key="..")
@example(key="/../a//b")
def test_every_key_arrives_as_it_was_given(key: str):
    """Through the path of a URL, as httpx sends it: slashes, dots, percent signs, question marks, spaces."""
    target = reads.get(key, ReadOptions()).build(1.0).target
    url = httpx.URL(f"http://127.0.0.1:5000{target}")

    assert url.raw_path.decode() == target
    assert unquote(url.raw_path.decode().removeprefix("/v1/kv/")) == key
    assert b"/" not in url.raw_path.removeprefix(b"/v1/kv/")
    assert not {"", ".", ".."} & {*url.raw_path.decode().removeprefix("/").split("/")}


@given(prefix=st.text(st.characters(codec="utf-8"), max_size=20))
def test_every_prefix_arrives_as_it_was_given(prefix: str):
    """Through the query of a URL, as httpx sends it."""
    target = reads.listing(Listing(prefix)).build(1.0).target
    raw = httpx.URL(f"http://127.0.0.1:5000{target}").raw_path.decode()

    assert raw == target
    assert parse_qs(urlsplit(raw).query, keep_blank_values=True).get("prefix", [""]) == [prefix]


@pytest.mark.parametrize("key", ["", "x" * 512, "é" * 256, "\ud800", 7, None, b"k"])
def test_what_is_no_key_is_refused_before_it_is_sent(key: Any):
    """An empty one would be the path of all keys."""
    for make in (
        lambda: reads.get(key, ReadOptions()),
        lambda: reads.history(key, None, 0),
        lambda: reads.poll(key, 1, 1.0),
        lambda: writes.delete(key, if_revision=None, ack="log", request_id="i"),
        lambda: TxnBuilder().put(key, "v"),
        lambda: TxnBuilder().when_absent(key),
        lambda: list(pieces([Delete(key)])),
    ):
        with pytest.raises(BadRequest):
            make()


# --- reads ----------------------------------------------------------------------------------------------------


def test_a_get_asks_for_what_it_was_told():
    """Parameters that were not given are not sent; a time limit only where the node may have to wait."""
    assert sent(reads.get("a", ReadOptions()))[1] == {}
    assert sent(reads.get("a", ReadOptions(max_stale_ms=5, max_lag=0)))[1] == {"max_stale_ms": "5", "max_lag": "0"}
    assert sent(reads.get("a", ReadOptions(min_revision=0)))[1] == {"min_revision": "0", "timeout_ms": "3500"}
    assert sent(reads.get("a", ReadOptions(linearizable=True)))[1] == {
        "linearizable": "true",
        "timeout_ms": "3500",
    }
    assert sent(reads.get("a", ReadOptions(at=7)))[1] == {"at": "7", "timeout_ms": "3500"}
    with pytest.raises(BadRequest, match="take one of them"):
        reads.get("a", ReadOptions(at=7, linearizable=True))


def test_a_node_is_given_less_time_than_its_answer_is_waited_for():
    """Half a second less, or a quarter, and never none."""
    assert [node_time_ms(seconds) for seconds in (5.0, 2.0, 0.4, 0.0001)] == [4500, 1500, 300, 1]


def test_a_listing_goes_from_page_to_page_at_one_revision():
    """The first page as recent as was asked for, the next ones at the revision of the first."""
    next_page = paging.listing(Listing("p/", "p/b", options=ReadOptions(min_revision=4)))

    call = next_page(None)
    assert call is not None
    assert sent(call)[1] == {
        "prefix": "p/",
        "from": "p/b",
        "limit": "500",
        "min_revision": "4",
        "timeout_ms": "3500",
    }
    page = read(call, {"revision": 6, "items": [ITEM], "next": "p/ü"})
    assert page == Page((AS_ITEM,), "p/ü", 6)
    call = next_page(page)
    assert call is not None
    assert sent(call)[1] == {"prefix": "p/", "from": "p/ü", "limit": "500", "at": "6", "timeout_ms": "3500"}
    page = read(call, {"revision": 6, "items": []})
    assert next_page(page) is None


def test_a_listing_of_keys_has_no_values():
    """And a count has no items."""
    keys = reads.listing(Listing(keys_only=True))
    assert sent(keys)[1] == {"limit": "500", "keys_only": "true"}
    bare = {name: ITEM[name] for name in ("key", "create_revision", "revision", "version")}
    assert read(keys, {"revision": 6, "items": [bare]}).items == (Item("k", b"", 3, 1, 2, ""),)
    count = reads.count(Listing("p", limit=0, count=True))
    assert sent(count)[1] == {"prefix": "p", "limit": "0", "count": "true"}
    assert read(count, {"revision": 6, "items": [], "count": 12}) == 12
    with pytest.raises(BadAnswer):
        read(count, {"revision": 6, "items": []})


def test_values_that_are_no_text_come_in_base64():
    """An encoding that is not known, and base64 that is none, are not taken for a value."""
    call = reads.listing(Listing())
    encoded = ITEM | {"value": base64.b64encode(b"\xff\0").decode(), "encoding": "base64", "lease": 5}

    (item,) = read(call, {"revision": 6, "items": [encoded]}).items
    assert (item.value, item.lease) == (b"\xff\0", 5)
    for wrong in ({"encoding": "rot13"}, {"encoding": "base64", "value": "?"}):
        with pytest.raises(BadAnswer):
            read(call, {"revision": 6, "items": [ITEM | wrong]})


def test_items_are_bytes_text_or_json():
    """What is none says so."""
    item = Item("k", '{"a": ["é"]}'.encode(), 1, 1, 1)
    assert (item.text, item.json()) == ('{"a": ["é"]}', {"a": ["é"]})
    broken = Item("k", b"\xff", 1, 1, 1)
    with pytest.raises(UnicodeDecodeError):
        _ = broken.text
    with pytest.raises(ValueError, match="not JSON"):
        broken.json()


def test_a_history_goes_back_page_by_page():
    """The newest first; a delete has no item."""
    next_page = paging.history("k", 0)
    call = next_page(None)
    assert call is not None
    assert sent(call)[1] == {"key": "k", "limit": "100"}
    put_at_3 = {"index": 2, "time_ms": 30, "op": "put", **ITEM}
    deleted = {"revision": 5, "index": 4, "time_ms": 50, "op": "delete"}
    answer = {"key": "k", "revision": 9, "floor": 2, "versions": [deleted, put_at_3], "next": 3, "trimmed": True}

    page = read(call, answer)

    assert page.items == (Version(5, 4, 50, "delete", None), Version(3, 2, 30, "put", AS_ITEM))
    assert (page.floor, page.trimmed, page.revision) == (2, True, 9)
    call = next_page(page)
    assert call is not None
    assert sent(call)[1]["before"] == "3"


def test_the_past_is_not_told_by_a_node_that_is_behind():
    """A history, or a diff up to now, of a node that has not come as far as the client has seen is asked again."""
    history = reads.history("k", None, 8)
    diff = reads.diff(2, None, "p", "", 8)

    for revision, is_enough in ((7, False), (8, True)):
        found = read(history, {"key": "k", "revision": revision, "versions": []})
        assert isinstance(found, Page) is is_enough
        found = read(diff, {"from": 2, "to": revision, "changes": []})
        assert isinstance(found, Page) is is_enough
    assert isinstance(read(reads.diff(2, 7, "p", "", 8), {"from": 2, "to": 7, "changes": []}), Page)


def test_a_diff_stays_between_the_same_two_revisions():
    """Also where the second one was "now" at first."""
    next_page = paging.diff(2, None, "p", 0)
    call = next_page(None)
    assert call is not None
    assert sent(call)[1] == {"from": "2", "prefix": "p", "limit": "500"}
    page = read(call, {"from": 2, "to": 8, "changes": [{"key": "k", "before": None, "after": ITEM}], "next": "l"})
    assert page.items == (Difference("k", None, AS_ITEM),)
    call = next_page(page)
    assert call is not None
    assert sent(call)[1] == {"from": "2", "to": "8", "prefix": "p", "limit": "500", "start": "l"}


def test_the_log_ends_where_it_ends():
    """No page is asked for behind the tail; fields that are not known yet are left out."""
    next_page = paging.log(0)
    entry = {"index": 1, "epoch": 7, "batch_id": "b", "time_ms": 5, "first_revision": 1, "requests": [{"id": "x"}]}
    answer = {"first_index": 0, "tail_index": 2, "entries": [entry | {"path": "push", "new": 1}], "next": 2}
    call = next_page(None)
    assert call is not None

    page = read(call, answer)

    assert page.items == (LoggedEntry(1, 7, "b", 5, 1, ({"id": "x"},), path="push"),)
    call = next_page(page)
    assert call is not None
    assert sent(call)[1]["from"] == "2"
    assert next_page(read(call, answer | {"next": 3})) is None
    assert next_page(read(call, answer | {"entries": []})) is None


def test_a_page_that_goes_on_at_nonsense_is_not_followed():
    """A number where there should be a key, and the other way round."""
    for next_page, page in (
        (paging.listing(Listing()), Page((), 3)),
        (paging.diff(1, 2, "", 0), Page((), 3)),
        (paging.history("k", 0), Page((), "k")),
        (paging.log(0), Page((), "k")),
    ):
        with pytest.raises(BadAnswer):
            next_page(page)  # type: ignore[arg-type]


def test_a_poll_waits_no_longer_than_its_try():
    """Nor longer than it is told to; it goes on where the answer says."""
    assert sent(reads.poll("k", 7, 60.0), 4.0)[1] == {"key": "k", "from": "7", "wait": "3.5"}
    call = reads.poll("k", 7, 1.25)
    assert sent(call, 4.0)[1]["wait"] == "1.25"
    event = {"revision": 8, "index": 6, "time_ms": 9, "changes": [{"op": "delete", "key": "k"}]}
    events = (Event(8, 6, 9, (Change("delete", "k"),)),)
    assert read(call, {"revision": 8, "events": [event], "next": 9}) == (events, 9)
    assert read(call, {"revision": 6, "events": [], "next": 7}) == ((), 7)
    assert isinstance(read(call, {"revision": 5, "events": [], "next": 6}), Again)


# --- writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "query", "headers"),
    [
        ({}, {}, {}),
        ({"ttl": 1.5}, {"ttl": "1.5"}, {}),
        ({"ttl": 3.33333333333}, {"ttl": "3.333"}, {}),
        ({"lease": 7}, {"lease": "7"}, {}),
        ({"ack": "log"}, {"ack": "log"}, {}),
        ({"if_revision": 0}, {}, {"If-None-Match": "*"}),
        ({"if_revision": 7}, {}, {"If-Match": '"7"'}),
        ({"content_type": "image/png"}, {}, {"Content-Type": "image/png"}),
    ],
)
def test_a_put_says_what_it_was_told(settings: dict[str, Any], query: dict[str, str], headers: dict[str, str]):
    """The value is the body as it is; text is text/plain unless it is said to be something else."""
    request, parameters = sent(put(**settings))

    assert (request.method, urlsplit(request.target).path, request.body) == ("PUT", "/v1/kv/k", b"v")
    assert parameters == {"ack": "replicas", "timeout_ms": "3500"} | query
    assert request.headers == {"Content-Type": "text/plain; charset=utf-8", "Idempotency-Key": "id-1"} | headers
    assert "Content-Type" not in sent(put(b"\xff"))[0].headers


def test_a_write_tells_what_it_has_done():
    """201 is a key that was not there; a repeated answer is marked."""
    assert read(put(), WRITTEN) == Written("k", 9, 4, "n1", {"n2": "applied"})
    assert read(put(), WRITTEN, 201).created
    assert read(put(), WRITTEN, 200, **{"idempotent-replayed": "true"}).replayed
    delete = writes.delete("k", if_revision=4, ack="log", request_id="i")
    assert sent(delete)[0].headers["If-Match"] == '"4"'
    assert read(delete, WRITTEN | {"deleted": True}) == Deleted("k", True, 9, 4, "n1", {"n2": "applied"})


@pytest.mark.parametrize(
    "make",
    [
        lambda: put(ttl=1, lease=2),
        lambda: put(ttl=0.5),
        lambda: put(ttl=float("nan")),
        lambda: put(b"x" * 262_145),
        lambda: writes.txn({"then": ["x" * 3_000_000]}, ack="log", request_id="i"),
        lambda: put(7),
        lambda: put(None),
        lambda: put("\ud800"),
        lambda: put(content_type="text/plain\r\nX: y"),
        lambda: put(content_type=""),
        lambda: put(request_id="ü"),
        lambda: put(request_id=".."),
        lambda: put(request_id="x" * 129),
        lambda: writes.delete("k", if_revision=0, ack="log", request_id="i"),
        lambda: writes.grant(0.5, "i"),
        lambda: writes.grant(float("nan"), "i"),
        lambda: writes.settle("a/b"),
        lambda: writes.rollback(None, None, 1, dry_run=False, request_id="i"),
        lambda: writes.rollback("k", "p", 1, dry_run=False, request_id="i"),
        lambda: TxnBuilder()._body(),
        lambda: TxnBuilder().when_exists("k")._body(),
        lambda: list(pieces(["k"])),  # type: ignore[list-item]
    ],
)
def test_what_makes_no_sense_is_refused_before_it_is_sent(make: Any):
    """With a sentence that says what to do."""
    with pytest.raises(BadRequest) as caught:
        make()
    assert len(str(caught.value)) > 20


def test_a_transaction_is_put_together_step_by_step():
    """Conditions, operations, and operations for the other case, in their order."""
    txn = (
        TxnBuilder()
        .when_revision("a", 7)
        .when_value("b", b"\xff")
        .when_absent("c")
        .when_exists("d")
        .when_unchanged("p/", 5)
        .put("a", "1", ttl=2)
        .put("b", b"\xff", lease=3, content_type="x/y")
        .delete("c")
        .get("d")
        .otherwise_put("e", "2")
        .otherwise_delete("f")
        .otherwise_get("g")
    )
    text = {"content_type": "text/plain; charset=utf-8"}

    assert txn._body() == {
        "compare": [
            {"key": "a", "target": "revision", "op": "=", "value": 7},
            {"key": "b", "target": "value", "op": "=", "value": "/w==", "encoding": "base64"},
            {"key": "c", "target": "create_revision", "op": "=", "value": 0},
            {"key": "d", "target": "create_revision", "op": ">", "value": 0},
            {"prefix": "p/", "target": "unchanged_since", "value": 5},
        ],
        "then": [
            {"op": "put", "key": "a", "value": "1", "ttl": 2, **text},
            {"op": "put", "key": "b", "value": "/w==", "encoding": "base64", "lease": 3, "content_type": "x/y"},
            {"op": "delete", "key": "c"},
            {"op": "get", "key": "d"},
        ],
        "else": [
            {"op": "put", "key": "e", "value": "2", **text},
            {"op": "delete", "key": "f"},
            {"op": "get", "key": "g"},
        ],
    }


def test_a_transaction_tells_which_way_it_went():
    """And what its gets have brought."""
    call = writes.txn({"then": []}, ack="replicas", request_id="i")
    results = [
        {"op": "put", "key": "a"},
        {"op": "get", "key": "k", "item": ITEM},
        {"op": "get", "key": "n", "item": None},
    ]

    found = read(call, WRITTEN | {"succeeded": False, "results": results})

    assert found == TxnResult(
        False,
        9,
        4,
        (OperationResult("put", "a"), OperationResult("get", "k", AS_ITEM), OperationResult("get", "n")),
        "n1",
        {"n2": "applied"},
    )
    assert found.items == {"k": AS_ITEM, "n": None}


def test_a_get_that_could_not_be_read_is_no_key_that_is_not_there():
    """The transaction is committed; asking for what is not known raises, and says how to get it."""
    call = writes.txn({"then": []}, ack="replicas", request_id="i")
    results = [{"op": "get", "key": "k", "problem": {"type": "kvlog:behind", "detail": "not yet"}}]

    found = read(call, WRITTEN | {"succeeded": True, "results": results})

    assert (found.revision, found.results[0].problem) == (9, "not yet")
    for ask in (lambda: found.items, lambda: found.results[0].item):
        with pytest.raises(NotRead, match="is committed, but what 'k' holds after it could not be read: not yet"):
            ask()


def test_other_writes_are_read_as_well():
    """Rollbacks, leases, what has become of a request."""
    rollback = writes.rollback("k", None, 5, dry_run=True, request_id="i")
    assert json.loads(sent(rollback)[0].body) == {"key": "k", "revision": 5, "dry_run": True}
    assert read(rollback, WRITTEN | {"changes": 2}) == RolledBack(2, 9, 4)
    grant = writes.grant(10, "i")
    assert (sent(grant)[0].target, json.loads(sent(grant)[0].body)) == ("/v1/leases?timeout_ms=3500", {"ttl": 10})
    assert read(grant, WRITTEN | {"lease": 9, "ttl": 10.0}, 201) == 9
    alive = writes.keep_alive(9)
    assert sent(alive)[0] == Request("POST", "/v1/leases/9/keep-alive?timeout_ms=3500")
    assert read(alive, {"lease": 9, "ttl": 10.0}) == 2.5
    assert read(writes.revoke(9, "i"), {"outcome": "committed", "lease": 9, "deleted": 3, "revision": 12}) == 3
    for outcome, is_committed in (("committed", True), ("cancelled", False)):
        answer = {"id": "id-1", "outcome": outcome, "revision": 9, "index": 4}
        assert read(writes.settle("id-1"), answer) == Settled("id-1", is_committed, 9, 4)


# --- batches --------------------------------------------------------------------------------------------------


def batch(told: list[int], lines: int = 3) -> Call[BatchResult]:
    return writes.batch([b"{}"] * lines, ack="log", request_id="K", committed=told.append)


def lines_of(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_a_batch_is_cut_into_pieces_that_can_be_kept():
    """By number and by size; a single operation that is larger goes alone; order is kept."""
    many = list(pieces(Put(f"k{number}", "v") for number in range(2 * PIECE_OPERATIONS + 1)))
    assert [len(lines) for lines in many] == [PIECE_OPERATIONS, PIECE_OPERATIONS, 1]
    assert [json.loads(line)["key"] for lines in many for line in lines][::2000] == ["k0", "k2000", "k4000"]
    large = list(pieces([Put("a", "v"), Put("b", "\0" * (PIECE_BYTES // 6)), Delete("c")]))  # a NUL takes six
    assert [len(lines) for lines in large] == [1, 1, 1]
    assert list(pieces([])) == []


def test_what_stands_before_a_senseless_operation_is_given_out_first():
    """So that the number which is done tells where it stands."""
    cut = pieces([Delete("a"), Delete("b"), Delete("")])

    assert len(next(cut)) == 2
    with pytest.raises(BadRequest):
        next(cut)


def test_a_batch_is_sent_in_lines_and_tells_how_far_it_has_come():
    """Each chunk, then the end."""
    told: list[int] = []
    call = batch(told)
    assert sent(call)[0].body == b"{}\n{}\n{}\n"
    assert sent(call)[0].headers["Content-Type"] == "application/x-ndjson"

    answer = lines_of(
        {"done": 2, "revision": 8, "index": 3}, {"outcome": "committed", "operations": 3, "revision": 9}
    )

    assert read(call, answer) == BatchResult(3, 9)
    assert told == [3]


@pytest.mark.parametrize(
    ("end", "in_doubt"),
    [
        ([{"outcome": "refused", "done": 2, "status": 503, "detail": "no leader"}], False),
        ([{"outcome": "unknown", "done": 2, "status": 504, "detail": "no answer"}], True),
        ([], True),
    ],
)
def test_a_batch_that_stops_on_the_way_is_sent_again(end: list[dict[str, Any]], in_doubt: bool):
    """What is done is known; the rest is asked for again under the same id."""
    told: list[int] = []

    found = read(batch(told), lines_of({"done": 2, "revision": 8, "index": 3}, *end))

    assert isinstance(found, Again)
    assert found.in_doubt is in_doubt
    assert told == [2]


def test_a_batch_with_a_senseless_line_is_not_sent_again():
    """What it is of is told, as for any other call."""
    for name, status, kind in (
        ("bad-request", 400, BadRequest),
        ("too-large", 413, TooLarge),
        ("no-such-lease", 404, NoSuchLease),
    ):
        told: list[int] = []
        end = {"type": f"kvlog:{name}", "status": status, "detail": "line 2: no key", "outcome": "refused"}

        with pytest.raises(ClientError, match="line 2: no key") as caught:
            read(batch(told), lines_of(end | {"done": 1, "line": 2}))

        assert (told, type(caught.value), caught.value.status) == ([1], kind, status)
