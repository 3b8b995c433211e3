"""POST /v1/txn: several keys at one revision, under conditions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.api.operations import plain_put, write_of
from kvlog.api.txn import txn_of
from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.commands import SetKey
from kvlog.errors import InvalidInput

from .wire import Answer, call, exchange, refused

Name = Callable[[str], str]


def txn(node: ClusterNode, compare: Any = None, then: Any = None, otherwise: Any = None, **headers: str) -> Answer:
    body = {"compare": compare, "then": then, "else": otherwise}
    given = {name: found for name, found in body.items() if found is not None}
    return call(node, "POST", "/v1/txn", given, **headers)


def put(key: str, value: str = "v", **more: Any) -> dict[str, Any]:
    return {"op": "put", "key": key, "value": value, **more}


def get(key: str) -> dict[str, Any]:
    return {"op": "get", "key": key}


def delete(key: str) -> dict[str, Any]:
    return {"op": "delete", "key": key}


def compare(key: str, target: str, op: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"key": key, "target": target, "op": op, "value": value, **more}


# --- what it does ---------------------------------------------------------------------------------------------


def test_all_of_it_happens_at_one_revision(solo: ClusterNode, name: Name):
    """Each operation has its result, in order; what is read is as of the transaction, after its writes."""
    call(solo, "PUT", f"/v1/kv/{name('gone')}", b"x")
    before = solo.status()["revision"]
    answer = txn(
        solo,
        then=[
            get(name("a")),
            put(name("a"), "1", content_type="text/plain"),
            put(name("b"), "/wA=", encoding="base64"),
            delete(name("gone")),
            get(name("gone")),
            get(name("b")),
        ],
    )
    body = answer.body

    assert answer.status == 200
    assert set(body) == {"outcome", "succeeded", "revision", "index", "leader", "replicas", "results"}
    assert (body["outcome"], body["succeeded"], body["revision"]) == ("committed", True, before + 1)
    a, *_, gone, b = body["results"]
    assert [(each["op"], each["key"]) for each in body["results"]] == [
        ("get", name("a")),
        ("put", name("a")),
        ("put", name("b")),
        ("delete", name("gone")),
        ("get", name("gone")),
        ("get", name("b")),
    ]
    assert body["results"][1] == {"op": "put", "key": name("a")}
    assert (a["item"]["value"], a["item"]["revision"], a["item"]["content_type"]) == (
        "1",
        before + 1,
        "text/plain",
    )
    assert gone["item"] is None
    assert (b["item"]["value"], b["item"]["encoding"], b["item"]["revision"]) == ("/wA=", "base64", before + 1)
    assert call(solo, "GET", f"/v1/kv/{name('gone')}?at={before}").data == b"x"


def test_what_is_read_is_of_the_transactions_revision(trio: Cluster, name: Name):
    """Also by a node that has to wait for it, and whatever comes after it."""
    for node in trio.nodes:
        answer = txn(node, then=[put(name("k"), node.address), get(name("k"))])
        call(node, "PUT", f"/v1/kv/{name('k')}", b"later")

        assert answer.body["results"][1]["item"]["value"] == node.address
        assert answer.body["results"][1]["item"]["revision"] == answer.body["revision"]


def test_either_branch_can_be_left_out(solo: ClusterNode, name: Name):
    """Without else, conditions that do not hold do nothing, and that is no error."""
    call(solo, "PUT", f"/v1/kv/{name('k')}", b"v")
    absent = [compare(name("k"), "version", "=", 0)]
    nothing = txn(solo, absent, [put(name("k"), "changed")])
    other = txn(solo, absent, None, [get(name("k"))])
    empty = txn(solo, None, [])

    assert (nothing.status, nothing.body["succeeded"], nothing.body["results"]) == (200, False, [])
    assert (other.body["succeeded"], other.body["results"][0]["item"]["value"]) == (False, "v")
    assert (empty.status, empty.body["succeeded"]) == (200, True)
    assert call(solo, "GET", f"/v1/kv/{name('k')}").data == b"v"


HOLDING = [
    ("k", "value", "=", "m"),
    ("k", "value", "!=", "n"),
    ("k", "value", "<", "n"),
    ("k", "value", ">", "lzzz"),
    ("k", "value", "<=", "m"),
    ("k", "value", ">=", "m"),
    ("k", "version", "=", 2),
    ("k", "version", "<", 3),
    ("k", "version", ">=", 2),
    ("k", "lease", "=", 0),
    ("none", "value", "!=", ""),
    ("none", "revision", "=", 0),
    ("none", "create_revision", "<=", 0),
    ("none", "version", "=", 0),
    ("none", "lease", "=", 0),
]
FAILING = [
    ("k", "value", "=", "M"),
    ("k", "value", ">", "m"),
    ("k", "version", "!=", 2),
    ("k", "version", ">", 2),
    ("k", "create_revision", "=", 0),
    ("k", "revision", "<", 1),
    ("none", "value", "=", ""),
    ("none", "value", "<", "z"),
    ("none", "value", ">=", ""),
    ("none", "revision", ">", 0),
]


def test_conditions_compare_what_a_key_is(solo: ClusterNode, name: Name):
    """Of a key that is not there the numbers are 0, and its value is unequal to everything and nothing else."""
    for value in (b"l", b"m"):
        revision = call(solo, "PUT", f"/v1/kv/{name('k')}", value).body["revision"]

    for key, *rest in HOLDING:
        assert txn(solo, [compare(name(key), *rest)], []).body["succeeded"], rest
    for key, *rest in FAILING:
        assert not txn(solo, [compare(name(key), *rest)], []).body["succeeded"], rest
    assert txn(solo, [compare(name("k"), "revision", "=", revision)], []).body["succeeded"]
    assert txn(solo, [compare(name("k"), "value", "=", "bQ==", encoding="base64")], []).body["succeeded"]
    both = [compare(name(key), *rest) for key, *rest in (HOLDING[0], FAILING[0])]
    assert not txn(solo, both, []).body["succeeded"], "all of them have to hold"
    assert txn(solo, [compare(name(key), *rest) for key, *rest in HOLDING], []).body["succeeded"]


def test_a_prefix_can_be_required_unchanged(solo: ClusterNode, name: Name):
    """Since a revision: neither written nor deleted, whatever happens elsewhere."""
    revision = call(solo, "PUT", f"/v1/kv/{name('p/a')}", b"v").body["revision"]
    call(solo, "PUT", f"/v1/kv/{name('q')}", b"v")
    unchanged = [{"prefix": name("p/"), "target": "unchanged_since", "value": revision}]

    assert txn(solo, unchanged, [put(name("q"), "w")]).body["succeeded"]
    assert txn(solo, unchanged, [put(name("p/b"))]).body["succeeded"]
    assert not txn(solo, unchanged, [put(name("p/c"))]).body["succeeded"], "the one before has changed it"
    earlier = [{"prefix": name("p/"), "target": "unchanged_since", "value": revision - 1}]
    assert not txn(solo, earlier, []).body["succeeded"]


def test_a_lease_that_is_not_there_undoes_all_of_it(solo: ClusterNode, name: Name):
    """404, and nothing is written; one that is there is taken."""
    lease = call(solo, "POST", "/v1/leases", {"ttl": 60}).body["lease"]
    refused = txn(solo, then=[put(name("a")), put(name("b"), lease=lease + 1)])
    done = txn(solo, then=[put(name("a")), put(name("b"), lease=lease), put(name("c"), ttl=60.5)])

    refused.refused(404, "no-such-lease", "nothing was written")
    assert done.status == 200
    assert call(solo, "GET", f"/v1/kv/{name('b')}").headers["kvlog-lease"] == str(lease)
    own = int(call(solo, "GET", f"/v1/kv/{name('c')}").headers["kvlog-lease"])
    assert call(solo, "GET", f"/v1/leases/{own}").body["ttl"] == 60.5
    call(solo, "DELETE", f"/v1/leases/{lease}")
    assert call(solo, "GET", f"/v1/kv/{name('b')}").status == 404


def test_a_transaction_under_an_id_happens_once(solo: ClusterNode, name: Name):
    """The repetition says the same, which branch it was included."""
    absent = [compare(name("k"), "version", "=", 0)]
    asked: tuple[Any, ...] = (absent, [put(name("k"))], [delete(name("k"))])
    first = txn(solo, *asked, Idempotency_Key=name("a").replace("/", ":"))
    again = txn(solo, *asked, Idempotency_Key=name("a").replace("/", ":"))
    second = txn(solo, *asked, Idempotency_Key=name("b").replace("/", ":"))
    second_again = txn(solo, *asked, Idempotency_Key=name("b").replace("/", ":"))

    assert (again.body, again.headers["idempotent-replayed"]) == (first.body, "true")
    assert (second.body["succeeded"], second_again.body) == (False, second.body)
    assert call(solo, "GET", f"/v1/kv/{name('k')}").status == 404


def test_gets_end_where_the_answer_would_be_too_long(solo: ClusterNode, name: Name):
    """The transaction is committed all the same; what is not shown says so in its place."""
    for number in range(20):
        call(solo, "PUT", f"/v1/kv/{name(str(number))}", b"x" * 262_144)
    answer = txn(solo, then=[get(name(str(number))) for number in range(20)])

    shown = ["item" in each for each in answer.body["results"]]
    assert (answer.status, answer.body["outcome"], sorted(shown, reverse=True)) == (200, "committed", shown)
    assert 15 <= sum(shown) <= 17
    assert answer.body["results"][-1]["problem"]["type"] == "kvlog:too-large"
    for number in range(20):
        call(solo, "DELETE", f"/v1/kv/{name(str(number))}")


# --- what is refused ------------------------------------------------------------------------------------------

BAD = [
    ({}, "there is nothing to do"),
    ({"compare": []}, "there is nothing to do"),
    ([], "the body must be a JSON object, not a list"),
    ({"then": {}}, 'the field "then" must be a list, not an object'),
    ({"then": None}, 'the field "then" must be a list, not null'),
    ({"then": [], "more": 1}, "unknown field 'more'; there is compare, then, else"),
    ({"then": ["put"]}, "then[0]: must be a JSON object, not a string"),
    ({"then": [{}]}, 'then[0]: the field "op" must be "put" or "delete"'),
    ({"then": [{"op": "increment", "key": "k"}]}, 'then[0]: the field "op" must be'),
    ({"else": [put("k"), {"op": "put", "key": "k2"}]}, 'else[1]: the field "value" is missing'),
    ({"then": [put("k", 7)]}, 'then[0]: the field "value" must be a string, not a number'),
    ({"then": [put("")]}, "then[0]: the key is empty"),
    ({"then": [put("\0lease/1")]}, "then[0]: the key begins with the character NUL"),
    ({"then": [delete("k") | {"value": "v"}]}, "then[0]: unknown field 'value'; there is op, key"),
    ({"then": [get("k") | {"at": 1}]}, "then[0]: unknown field 'at'"),
    ({"then": [put("k", encoding="hex")]}, 'then[0]: the encoding must be "base64"'),
    ({"then": [put("k", "!", encoding="base64")]}, "then[0]: the value is no base64"),
    ({"then": [put("k", content_type="text")]}, "then[0]: the content type 'text'"),
    ({"then": [put("k", ttl=0.5)]}, 'then[0]: the field "ttl" must be a number of seconds'),
    ({"then": [put("k", ttl=5, lease=1000)]}, "then[0]: a key has a ttl or a lease, not both"),
    ({"then": [put("k", lease=0)]}, 'then[0]: the field "lease" must be a whole number from 1'),
    ({"then": [put("k", lease="1000")]}, 'then[0]: the field "lease" must be a whole number'),
    ({"then": [put("k"), delete("k")]}, "then writes the key 'k' twice"),
    ({"then": [], "else": [put("k"), put("k")]}, "else writes the key 'k' twice"),
    ({"then": [get("k")] * 1_001}, 'the field "then" has 1001 elements, the limit is 1000'),
    ({"compare": [compare("k", "version", "=", 0)] * 1_001, "then": []}, "the limit is 1000"),
    (
        {"compare": [compare("k", "size", "=", 0)], "then": []},
        'compare[0]: the field "target" must be one of value',
    ),
    ({"compare": [compare("k", "version", "==", 0)], "then": []}, 'compare[0]: the field "op" must be one of ='),
    (
        {"compare": [compare("k", "version", "=", "0")], "then": []},
        'compare[0]: the field "value" must be a whole',
    ),
    ({"compare": [compare("k", "version", "=", 2**63)], "then": []}, 'the field "value" must be a whole number'),
    (
        {"compare": [compare("k", "version", "=", -1)], "then": []},
        'the field "value" must be a whole number from 0',
    ),
    ({"compare": [compare("k", "value", "=", 0)], "then": []}, 'compare[0]: the field "value" must be a string'),
    ({"compare": [compare("k", "version", "=", 0, encoding="base64")], "then": []}, "goes with the target value"),
    (
        {"compare": [{"prefix": "p", "target": "version", "op": "=", "value": 0}], "then": []},
        "unknown field 'prefix'",
    ),
    ({"compare": [{"prefix": "p", "target": "unchanged_since"}], "then": []}, 'the field "value" is missing'),
    ({"compare": [{"key": "p", "target": "unchanged_since", "value": 1}], "then": []}, "unknown field 'key'"),
    ({"compare": [{"prefix": "\0", "target": "unchanged_since", "value": 1}], "then": []}, "begins with NUL"),
    ({"compare": [{"key": "k"}], "then": []}, 'compare[0]: the field "target" is missing'),
]


@pytest.mark.parametrize(("body", "reason"), BAD, ids=range(len(BAD)))
def test_a_transaction_that_makes_no_sense_is_refused(solo: ClusterNode, body: Any, reason: str):
    """400, and where it does not; nothing is written."""
    before = solo.status()["revision"]

    call(solo, "POST", "/v1/txn", body).refused(400, "bad-request", reason)
    assert solo.status()["revision"] == before


def test_a_transaction_comes_as_json_and_says_so(solo: ClusterNode, key: str):
    """415 otherwise, with the header to send: a form that a browser may send anywhere is none."""
    body = json.dumps({"then": [put(key)]}).encode()
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        refused = call(solo, "POST", "/v1/txn", body, **headers)
        refused.refused(415, "unsupported-media-type", "send it with the header Content-Type: application/json")
    for kind in ("application/json", "Application/JSON; charset=utf-8"):
        assert call(solo, "POST", "/v1/txn", body, Content_Type=kind).status == 200


def test_a_transaction_that_no_entry_can_hold_is_refused(solo: ClusterNode, name: Name):
    """413, whichever branch it is, whether it would be carried out or not."""
    large = [put(name(str(number)), "\x01" * 60_000) for number in range(2)]
    for body in ({"then": large}, {"then": [], "else": large}):
        call(solo, "POST", "/v1/txn", body).refused(413, "too-large", "once encoded as JSON")
    # Only announced: who goes on sending may find the connection closed before it has read the answer.
    head = b"POST /v1/txn HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2097153\r\n\r\n"
    beyond = exchange(solo, head)
    assert refused(beyond, 413, "the body has more than 2097152 bytes")
    assert beyond.headers["connection"] == "close"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["put", "="]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["op", "key", "value", "target", "prefix", "ttl", "lease", "encoding", "content_type"])
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["compare", "then", "else"]), st.lists(JSON, max_size=4) | JSON, max_size=3)
)
def test_no_json_breaks_the_reading_of_a_transaction(body: dict[str, Any]):
    """It is a transaction, or refused."""
    try:
        _, then, _ = txn_of(json.dumps(body).encode())
    except InvalidInput:
        return
    assert len(then) == len(body.get("then", []))


@settings(deadline=None)
@given(
    JSON
    | st.fixed_dictionaries(
        {"op": st.just("put"), "key": st.text(max_size=4) | st.just("k" * 512) | JSON, "value": st.text() | JSON},
        optional={"content_type": st.just("text/plain")},
    )
)
def test_the_short_way_to_a_put_says_what_the_long_one_does(found: Any):
    """Where it says anything."""
    plain = plain_put(found)
    assert plain is None or plain == write_of(found, "")


def test_a_put_of_a_short_key_and_text_takes_the_short_way():
    """Else it would be of no use."""
    assert plain_put({"op": "put", "key": "k", "value": "v"}) == SetKey("k", b"v")
