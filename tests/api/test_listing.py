"""GET /v1/kv: pages of keys, in order, all of one revision."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest

from kvlog.cluster import ClusterNode

from .wire import Answer, call


def put(node: ClusterNode, key: str, value: bytes = b"v") -> int:
    return call(node, "PUT", "/v1/kv/" + quote(key, safe=""), value).body["revision"]


def page(node: ClusterNode, **query: object) -> Answer:
    given = {"from" if name == "start" else name: value for name, value in query.items()}
    return call(node, "GET", "/v1/kv?" + "&".join(f"{k}={quote(str(v), safe='')}" for k, v in given.items()))


def keys(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    return [item["key"] for item in answer.body["items"]]


def test_keys_come_in_the_order_of_their_bytes(solo: ClusterNode, name: Callable[[str], str]):
    """UTF-8's order, not that of UTF-16; only those with the prefix."""
    texts = ["", "A", "B", "a", "a/b", "ab", "ж", "\uffee", "\U0001f600"]
    for text in reversed(texts):
        put(solo, name(text))
    put(solo, name("")[:-1] + "0")

    found = page(solo, prefix=name(""))

    assert keys(found) == [name(text) for text in texts]
    assert set(found.body) == {"revision", "items"}
    assert found.body["revision"] == solo.status()["revision"]


def test_pages_are_of_one_revision(solo: ClusterNode, name: Callable[[str], str]):
    """``next`` says where to go on; with at= nothing that is written meanwhile shows."""
    for number in range(5):
        put(solo, name(str(number)))
    first = page(solo, prefix=name(""), limit=2, count="true")
    put(solo, name("2"), b"changed")
    call(solo, "DELETE", "/v1/kv/" + name("3"))
    put(solo, name("9"))
    rest, at = [], first.body["revision"]
    following: str | None = first.body["next"]
    while following is not None:
        answer = page(solo, prefix=name(""), limit=2, start=following, at=at, count="true")
        assert (answer.body["revision"], answer.body["count"]) == (at, 5)
        rest += answer.body["items"]
        following = answer.body.get("next")

    assert (keys(first), first.body["count"]) == ([name("0"), name("1")], 5)
    assert [item["key"] for item in rest] == [name("2"), name("3"), name("4")]
    assert rest[0]["value"] == "v"
    assert keys(page(solo, prefix=name(""))) == [name(number) for number in "01249"]


def test_a_page_can_be_of_keys_only_or_of_none(solo: ClusterNode, name: Callable[[str], str]):
    """keys_only leaves the values out; limit=0 with count=true only counts."""
    at = [put(solo, name(text), b"\xff") for text in "ab"]
    bare = page(solo, prefix=name(""), keys_only="true")
    counted = page(solo, prefix=name(""), limit=0, count="true")

    assert bare.body["items"] == [
        {"key": name(text), "create_revision": revision, "revision": revision, "version": 1}
        for text, revision in zip("ab", at, strict=True)
    ]
    assert (counted.body["items"], counted.body["count"], counted.body["next"]) == ([], 2, name("a"))
    assert page(solo, prefix=name("c"), count="true").body["count"] == 0


def test_a_page_ends_at_about_four_mebibytes(solo: ClusterNode, name: Callable[[str], str]):
    """However many were asked for; the next one goes on."""
    for number in range(18):
        put(solo, name(f"{number:02}"), b"x" * 262_144)
    first = page(solo, prefix=name(""), limit=1_000)
    second = page(solo, prefix=name(""), limit=1_000, start=first.body["next"], at=first.body["revision"])

    assert 15 <= len(keys(first)) <= 17
    assert len(first.data) < 5 * 2**20
    assert keys(first) + keys(second) == [name(f"{number:02}") for number in range(18)]
    for number in range(18):
        call(solo, "DELETE", "/v1/kv/" + name(f"{number:02}"))


def test_kvlogs_own_keys_are_not_shown(solo: ClusterNode, key: str):
    """Neither leases nor anything else below NUL: not listed, not counted, not asked for."""
    before = page(solo, count="true", limit=0).body["count"]
    assert call(solo, "PUT", f"/v1/kv/{key}?ttl=1000", b"v").status == 201

    assert page(solo, count="true", limit=0).body["count"] == before + 1
    assert not any(text.startswith("\0") for text in keys(page(solo, limit=1_000, keys_only="true")))
    for name in ("prefix", "start"):
        page(solo, **{name: "\0lease/"}).refused(400, "bad-request", "kvlog's own")


def test_the_head_of_a_page_has_no_body(solo: ClusterNode):
    """As for everything that can be got."""
    answer = call(solo, "HEAD", "/v1/kv")

    assert (answer.status, answer.data) == (200, b"")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("limit=1001", "limit='1001': must be a whole number from 0 to 1000"),
        ("limit=-1", "must be a whole number from 0 to 1000"),
        ("limit=", "must be a whole number"),
        ("keys_only=1", "keys_only='1': must be true or false"),
        ("count=", "must be true or false"),
        ("count=true&count=true", "given twice"),
        ("prefix=" + "k" * 512, "prefix: has more bytes"),
        ("from=" + "k" * 512, "from: has more bytes"),
        ("prefix=%ff", "not UTF-8"),
        ("start=a", "unknown parameter 'start'; there is prefix, from, limit, keys_only, count, min_revision"),
        ("at=-1", "must be a whole number"),
        ("at=9223372036854775808", "must be a whole number from 0 to 9223372036854775807"),
    ],
)
def test_a_listing_that_makes_no_sense_is_refused(solo: ClusterNode, query: str, reason: str):
    """400, and why."""
    call(solo, "GET", f"/v1/kv?{query}").refused(400, "bad-request", reason)
