"""/v1/leases: what is granted, kept, listed and ended; how time is kept is in tests/core and tests/cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.processes import wait_until

from .wire import Answer, call

Name = Callable[[str], str]
WAIT_S = 20.0


def grant(node: ClusterNode, ttl: float = 60, **headers: str) -> Answer:
    return call(node, "POST", "/v1/leases", {"ttl": ttl}, **headers)


def lease(node: ClusterNode, number: int, method: str = "GET", rest: str = "", **headers: str) -> Answer:
    return call(node, method, f"/v1/leases/{number}{rest}", **headers)


def test_a_lease_is_granted_shown_and_ended_with_its_keys(solo: ClusterNode, name: Name):
    """201 with its number; its keys are listed; ending it deletes them."""
    granted = grant(solo, 60.5)
    number = granted.body["lease"]
    for text in "ab":
        assert call(solo, "PUT", f"/v1/kv/{name(text)}?lease={number}", b"v").status == 201
    shown = lease(solo, number)
    ended = lease(solo, number, "DELETE")

    assert granted.status == 201
    assert set(granted.body) == {"outcome", "lease", "ttl", "revision", "index", "leader", "replicas"}
    assert (granted.body["outcome"], granted.body["ttl"], number > 0) == ("committed", 60.5, True)
    assert (shown.body["lease"], shown.body["ttl"], shown.body["keys"]) == (number, 60.5, [name("a"), name("b")])
    assert 0 < shown.body["remaining_ms"] <= 60_500
    assert (ended.status, ended.body["deleted"], ended.body["lease"]) == (200, 2, number)
    assert call(solo, "GET", f"/v1/kv/{name('a')}").status == 404
    for method, rest in (("GET", ""), ("DELETE", ""), ("POST", "/keep-alive")):
        lease(solo, number, method, rest).refused(404, "no-such-lease")
    call(solo, "PUT", f"/v1/kv/{name('a')}?lease={number}", b"v").refused(
        404, "no-such-lease", "nothing was written"
    )


def test_a_key_without_a_lease_is_off_it(solo: ClusterNode, key: str):
    """A put that names none takes the key off the one it had, and it lives on."""
    number = grant(solo).body["lease"]
    call(solo, "PUT", f"/v1/kv/{key}?lease={number}", b"1")
    call(solo, "PUT", f"/v1/kv/{key}", b"2")

    assert lease(solo, number).body["keys"] == []
    assert lease(solo, number, "DELETE").body["deleted"] == 0
    assert call(solo, "GET", f"/v1/kv/{key}").data == b"2"


def test_a_lease_that_is_kept_alive_lives_its_whole_time_again(solo: ClusterNode):
    """200 with its time to live; what remains begins anew."""
    number = grant(solo, 30).body["lease"]
    assert wait_until(lambda: lease(solo, number).body["remaining_ms"] < 29_900, WAIT_S)
    before = lease(solo, number).body["remaining_ms"]
    kept = lease(solo, number, "POST", "/keep-alive")

    assert (kept.status, kept.body) == (200, {"lease": number, "ttl": 30.0})
    assert lease(solo, number).body["remaining_ms"] > before
    lease(solo, number, "DELETE")


def test_a_key_with_a_time_to_live_goes_away(solo: ClusterNode, key: str):
    """Not before; its lease goes with it."""
    created = call(solo, "PUT", f"/v1/kv/{key}?ttl=1", b"v")
    number = int(call(solo, "GET", f"/v1/kv/{key}").headers["kvlog-lease"])

    assert wait_until(lambda: call(solo, "GET", f"/v1/kv/{key}").status == 404, WAIT_S)
    lease(solo, number).refused(404, "no-such-lease")
    deleted, put = call(solo, "GET", f"/v1/history?key={key}").body["versions"]
    assert (deleted["op"], put["revision"]) == ("delete", created.body["revision"])
    assert deleted["time_ms"] - put["time_ms"] >= 1_000


def test_leases_are_listed_page_by_page(solo: ClusterNode):
    """In the order of their numbers; next is where the following page begins."""
    numbers = [grant(solo).body["lease"] for _ in range(3)]
    first = call(solo, "GET", f"/v1/leases?from={numbers[0]}&limit=2").body
    second = call(solo, "GET", f"/v1/leases?from={first['next']}").body

    assert first["leases"] == [{"lease": number, "ttl": 60.0} for number in numbers[:2]]
    assert (second["leases"], "next" in second) == ([{"lease": numbers[2], "ttl": 60.0}], False)
    for number in numbers:
        lease(solo, number, "DELETE")


def test_a_grant_under_an_id_happens_once(solo: ClusterNode, key: str):
    """The repetition gets the same lease; so does the end of one."""
    first, again = (grant(solo, Idempotency_Key=f"{key}-g") for _ in range(2))
    number = first.body["lease"]
    ended, ended_again = (lease(solo, number, "DELETE", Idempotency_Key=f"{key}-r") for _ in range(2))

    assert (again.status, again.body, again.headers["idempotent-replayed"]) == (201, first.body, "true")
    assert (ended.status, ended_again.status, ended_again.body) == (200, 200, ended.body)


def test_any_node_grants_and_keeps_alive(trio: Cluster):
    """Only the leader knows what remains of its time."""
    for node in trio.nodes:
        number = grant(node).body["lease"]
        for other in trio.nodes:
            assert lease(other, number, "POST", "/keep-alive").status == 200
        remaining = {
            other.status()["is_leader"]: lease(other, number).body["remaining_ms"] for other in trio.nodes
        }
        assert (remaining[False], remaining[True] > 0) == (None, True)
        assert lease(node, number, "DELETE").status == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, 'the field "ttl" is missing'),
        ({"ttl": 0.9}, 'the field "ttl" must be a number of seconds from 1 to 31536000'),
        ({"ttl": 31_536_001}, 'the field "ttl" must be a number of seconds'),
        ({"ttl": "10"}, 'the field "ttl" must be a number of seconds'),
        ({"ttl": True}, 'the field "ttl" must be a number of seconds'),
        ({"ttl": 10, "id": 5}, "unknown field 'id'; there is ttl"),
        ([], "must be a JSON object, not a list"),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(solo: ClusterNode, body: object, reason: str):
    """400, and why."""
    call(solo, "POST", "/v1/leases", body).refused(400, "bad-request", reason)


@pytest.mark.parametrize("number", ["0", "-1", "abc", "1.5", "9223372036854775808", "%20"])
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("DELETE", ""), ("POST", "/keep-alive")])
def test_what_is_no_lease_is_refused(solo: ClusterNode, number: str, method: str, rest: str):
    """400: it can never have been one."""
    call(solo, method, f"/v1/leases/{number}{rest}").refused(400, "bad-request", "must be a whole number from 1")


def test_keeping_alive_and_ending_take_no_body(solo: ClusterNode):
    """400, and the lease is as it was; a grant comes as JSON and says so."""
    number = grant(solo).body["lease"]
    for method, rest in (("POST", "/keep-alive"), ("DELETE", "")):
        refused = call(solo, method, f"/v1/leases/{number}{rest}", b"{}", Content_Type="application/json")
        refused.refused(400, "bad-request", "takes no body")
    call(solo, "POST", "/v1/leases", b'{"ttl":10}').refused(415, "unsupported-media-type")
    assert lease(solo, number, "DELETE").status == 200
