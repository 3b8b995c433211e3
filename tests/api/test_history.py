"""The past: what a key has held, what differs between two revisions, and back to one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports

from .wire import Answer, call

Name = Callable[[str], str]


def put(node: ClusterNode, key: str, value: bytes = b"v", **headers: str) -> int:
    answer = call(node, "PUT", "/v1/kv/" + quote(key, safe=""), value, **headers)
    assert answer.status in (200, 201), answer
    return answer.body["revision"]


def delete(node: ClusterNode, key: str) -> int:
    return call(node, "DELETE", "/v1/kv/" + quote(key, safe="")).body["revision"]


def history(node: ClusterNode, key: str, query: str = "") -> dict[str, Any]:
    answer = call(node, "GET", f"/v1/history?key={quote(key, safe='')}{query}")
    assert answer.status == 200, answer
    return answer.body


def diff(node: ClusterNode, first: int, **query: object) -> Answer:
    more = "".join(f"&{name}={quote(str(value), safe='')}" for name, value in query.items())
    return call(node, "GET", f"/v1/diff?from={first}{more}")


def rollback(node: ClusterNode, revision: int, **body: Any) -> Answer:
    headers = body.pop("headers", {})
    return call(node, "POST", "/v1/rollback", {"revision": revision, **body}, **headers)


# --- a key's history ------------------------------------------------------------------------------------------


def test_a_key_tells_what_it_has_held(solo: ClusterNode, key: str):
    """The latest first: puts with their item, deletes; where in the log, and when."""
    first = put(solo, key, b"1", Content_Type="text/plain")
    gone = delete(solo, key)
    last = put(solo, key, b"\xff")
    found = history(solo, key)

    assert (found["key"], found["revision"], found["floor"]) == (key, last, 0)
    assert [(each["revision"], each["op"]) for each in found["versions"]] == [
        (last, "put"),
        (gone, "delete"),
        (first, "put"),
    ]
    assert set(found["versions"][1]) == {"revision", "index", "time_ms", "op"}
    assert (found["versions"][0]["value"], found["versions"][0]["encoding"]) == ("/w==", "base64")
    assert (found["versions"][0]["create_revision"], found["versions"][0]["version"]) == (last, 1)
    assert (found["versions"][2]["value"], found["versions"][2]["content_type"]) == ("1", "text/plain")
    assert found["versions"][2]["time_ms"] > 1_700_000_000_000
    assert ("next" in found, "trimmed" in found) == (False, False)
    assert history(solo, key + "-not")["versions"] == []


def test_a_history_comes_in_pages(solo: ClusterNode, key: str):
    """next is the before= of the page that follows, which begins where this one has ended."""
    revisions = [put(solo, key, str(number).encode()) for number in range(40)][::-1]
    seen, query = [], "&limit=17"
    while True:
        page = history(solo, key, query)
        seen += [each["revision"] for each in page["versions"]]
        if "next" not in page:
            break
        query = f"&limit=17&before={page['next']}"

    assert seen == revisions
    assert len(history(solo, key, "&limit=1")["versions"]) == 1
    assert history(solo, key, f"&before={revisions[-1]}")["versions"] == []


def test_a_page_of_large_versions_is_shorter(solo: ClusterNode, key: str):
    """It ends at about four mebibytes, and says where it goes on."""
    revisions = [put(solo, key, bytes([65 + number]) * 262_144) for number in range(20)]
    page = history(solo, key)

    assert 15 <= len(page["versions"]) <= 17
    rest = history(solo, key, f"&before={page['next']}")
    assert [each["revision"] for each in (*page["versions"], *rest["versions"])] == revisions[::-1]
    delete(solo, key)


@pytest.fixture(scope="module")
def short(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[ClusterNode]:
    """A node that keeps ten revisions of the past."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(1), root="/api-short", flags=("--history", "10"))
    cluster.start()
    yield cluster.nodes[0]
    cluster.stop()


def test_what_is_not_kept_any_more_is_gone(short: ClusterNode):
    """410 with the floor, the lowest revision that can be told; a history says that there may have been more."""
    revisions = [put(short, "k", str(number).encode()) for number in range(30)]
    last, floor = revisions[-1], revisions[-1] - 10
    found = history(short, "k")
    asked = [
        call(short, "GET", f"/v1/kv/k?at={floor - 1}"),
        call(short, "GET", f"/v1/kv?at={floor - 1}"),
        diff(short, floor - 1),
        rollback(short, floor - 1, key="k"),
    ]

    assert (found["floor"], found["trimmed"], len(found["versions"])) == (floor, True, 10)
    for answer in asked:
        assert answer.refused(410, "history-trimmed", "is not kept any more")["floor"] == floor
    assert call(short, "GET", f"/v1/kv/k?at={floor}").data == str(int(last - floor + 9)).encode()
    assert diff(short, floor).status == 200
    assert short.status()["history"] == {"first_revision": floor, "revisions": 10}


# --- what differs ---------------------------------------------------------------------------------------------


def test_two_revisions_are_compared(solo: ClusterNode, name: Name):
    """Keys that are not the same, in order, each with both items; what came and went in between is none."""
    first = put(solo, name("a"), b"1")
    put(solo, name("b"), b"1")
    start = put(solo, name("c"), b"1")
    put(solo, name("a"), b"2")
    put(solo, name("d"), b"2")
    delete(solo, name("b"))
    put(solo, name("e"), b"2")
    end = delete(solo, name("e"))
    found = diff(solo, start, prefix=name(""))
    changes = {each["key"].removeprefix(name("")): each for each in found.body["changes"]}

    assert (found.body["from"], found.body["to"]) == (start, end)
    assert list(changes) == ["a", "b", "d"]
    assert (changes["a"]["before"]["value"], changes["a"]["after"]["value"]) == ("1", "2")
    assert changes["a"]["before"]["revision"] == first
    assert (changes["b"]["before"]["value"], changes["b"]["after"]) == ("1", None)
    assert (changes["d"]["before"], changes["d"]["after"]["value"]) == (None, "2")
    backwards = diff(solo, end, to=start, prefix=name("")).body["changes"]
    assert [(each["before"], each["after"]) for each in backwards] == [
        (each["after"], each["before"]) for each in changes.values()
    ]
    assert diff(solo, end, to=end).body["changes"] == []


def test_a_difference_comes_in_pages(solo: ClusterNode, name: Name):
    """next is the key at which the following page begins."""
    start = solo.status()["revision"]
    for number in range(5):
        put(solo, name(str(number)))
    end = solo.status()["revision"]
    first = diff(solo, start, to=end, limit=3).body
    second = diff(solo, start, to=end, limit=3, start=first["next"]).body

    assert [each["key"] for each in (*first["changes"], *second["changes"])] == [name(str(n)) for n in range(5)]
    assert "next" not in second


def test_a_page_of_large_differences_is_shorter(solo: ClusterNode, name: Name):
    """It ends at about four mebibytes."""
    start = solo.status()["revision"]
    for number in range(20):
        put(solo, name(f"{number:02}"), b"x" * 262_144)
    found = diff(solo, start, limit=1_000).body

    assert 15 <= len(found["changes"]) <= 17
    assert found["next"] == name(f"{len(found['changes']):02}")
    for number in range(20):
        delete(solo, name(f"{number:02}"))


# --- and back -------------------------------------------------------------------------------------------------


def test_a_key_goes_back_to_what_it_was(solo: ClusterNode, key: str):
    """As a new revision: value and content type of then; a key that was not there goes away."""
    none = solo.status()["revision"]
    then = put(solo, key, b"good", Content_Type="text/plain")
    put(solo, key, b"bad", Content_Type="image/png")
    back = rollback(solo, then, key=key)
    now = call(solo, "GET", f"/v1/kv/{key}")
    again = rollback(solo, then, key=key)
    away = rollback(solo, none, key=key)

    assert set(back.body) == {"outcome", "changes", "revision", "index", "leader", "replicas"}
    assert (back.status, back.body["outcome"], back.body["changes"]) == (200, "committed", 1)
    assert (now.data, now.headers["content-type"], now.headers["kvlog-version"]) == (b"good", "text/plain", "3")
    assert again.body["changes"] == 1, "it was written since, be it with the same value"
    assert (away.body["changes"], call(solo, "GET", f"/v1/kv/{key}").status) == (1, 404)


def test_a_prefix_goes_back_in_one_step(solo: ClusterNode, name: Name):
    """All keys with it, and no others; a dry run only says how many."""
    for text in "ab":
        put(solo, name(text), b"good")
    then = solo.status()["revision"]
    put(solo, name("a"), b"bad")
    delete(solo, name("b"))
    put(solo, name("c"), b"new")
    other = put(solo, name("")[:-1] + "x", b"other")
    planned = rollback(solo, then, prefix=name(""), dry_run=True)
    assert planned.body == {"outcome": "planned", "changes": 3, "revision": other}
    assert call(solo, "GET", f"/v1/kv/{name('a')}").data == b"bad"
    done = rollback(solo, then, prefix=name(""))

    assert (done.body["changes"], done.body["revision"]) == (3, other + 1)
    listed = call(solo, "GET", f"/v1/kv?prefix={name('')}").body["items"]
    assert [(item["key"], item["value"]) for item in listed] == [(name("a"), "good"), (name("b"), "good")]
    assert call(solo, "GET", "/v1/kv/" + name("")[:-1] + "x").data == b"other"
    assert rollback(solo, done.body["revision"], prefix=name(""), dry_run=True).body["changes"] == 0


def test_a_rollback_under_an_id_happens_once(trio: Cluster, name: Name):
    """Sent again, to any node, it is the same request, although there is nothing left to change."""
    leader = trio.nodes[0]
    then = put(leader, name("a"), b"good")
    put(leader, name("a"), b"bad")
    headers = {"Idempotency-Key": name("id").replace("/", ":")}
    first = rollback(leader, then, prefix=name(""), headers=headers)
    put(leader, name("a"), b"changed since")

    for node in trio.nodes:
        again = rollback(node, then, prefix=name(""), headers=headers)
        assert (again.status, again.body["revision"]) == (200, first.body["revision"])
        assert (again.body["changes"], again.headers["idempotent-replayed"]) == (1, "true")
        assert call(node, "GET", f"/v1/kv/{name('a')}?linearizable=true").data == b"changed since"
    rollback(leader, then - 1, prefix=name(""), headers=headers).refused(422, "id-reused")


def test_too_much_at_once_is_refused(solo: ClusterNode, name: Name):
    """422 for more than a thousand keys, 413 for more than an entry holds; nothing is changed."""
    start = solo.status()["revision"]
    lines = "".join(f'{{"op":"put","key":"{name(str(n))}","value":"v"}}\n' for n in range(1_001)).encode()
    assert call(solo, "POST", "/v1/batch", lines, Content_Type="application/x-ndjson").status == 200
    rollback(solo, start, prefix=name("")).refused(422, "too-many-keys", "1001 keys would have to be changed")
    for number in range(3):
        put(solo, name(f"large/{number}"), b"x" * 262_144)
    middle = solo.status()["revision"]
    for number in range(3):
        delete(solo, name(f"large/{number}"))
    rollback(solo, middle, prefix=name("large/")).refused(413, "too-large", "more than one transaction can hold")
    assert call(solo, "GET", f"/v1/kv?prefix={name('large/')}").body["items"] == []


# --- what makes no sense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/v1/history", "the parameter key is missing"),
        ("/v1/history?key=", "the key is empty"),
        ("/v1/history?key=k&limit=0", "must be a whole number from 1 to 1000"),
        ("/v1/history?key=k&before=0", "before='0': must be a whole number from 1"),
        ("/v1/history?key=k&at=3", "unknown parameter 'at'"),
        ("/v1/diff", "the parameter from is missing"),
        ("/v1/diff?from=", "must be a whole number"),
        ("/v1/diff?from=1&to=-1", "must be a whole number"),
        ("/v1/diff?from=1&prefix=%00", "kvlog's own"),
        ("/v1/diff?from=1&limit=1001", "must be a whole number from 1 to 1000"),
    ],
)
def test_a_look_at_the_past_that_makes_no_sense_is_refused(solo: ClusterNode, target: str, reason: str):
    """400, and why."""
    call(solo, "GET", target).refused(400, "bad-request", reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"revision": 1}, 'send either "key" or "prefix"'),
        ({"revision": 1, "key": "k", "prefix": "k"}, 'send either "key" or "prefix"'),
        ({"key": "k"}, 'the field "revision" is missing'),
        ({"key": "k", "revision": "1"}, 'the field "revision" must be a whole number'),
        ({"key": "", "revision": 1}, "the key is empty"),
        ({"prefix": "\0", "revision": 1}, "kvlog's own"),
        ({"key": "k", "revision": 1, "dry_run": 1}, 'the field "dry_run" must be true or false, not a number'),
        ({"key": "k", "revision": 2**62}, "is still to come"),
        ({"key": "k", "revision": 1, "force": True}, "unknown field 'force'"),
    ],
)
def test_a_rollback_that_makes_no_sense_is_refused(solo: ClusterNode, body: dict[str, Any], reason: str):
    """400, and why."""
    call(solo, "POST", "/v1/rollback", body).refused(400, "bad-request", reason)
