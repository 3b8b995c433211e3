"""What a client may ask of a read, on a node that is well; nodes that lag or are stale are in tests/cluster."""

from __future__ import annotations

import pytest

from kvlog.cluster import Cluster, ClusterNode

from .wire import call

SOON = "timeout_ms=100"


def targets(key: str) -> tuple[str, str, str]:
    """The three ways to read."""
    return f"/read?key={key}&", f"/v1/kv/{key}?", f"/v1/kv?prefix={key}&"


def test_every_read_takes_the_same_parameters(trio: Cluster, key: str):
    """On any node, with the kind of read in the answer."""
    revision = call(trio.nodes[0], "PUT", f"/v1/kv/{key}", b"v").body["revision"]
    kinds = {
        f"min_revision={revision}": "local",
        "linearizable=true": "linearizable",
        f"at={revision}": "at",
        "max_stale_ms=60000&max_lag=1000": "local",
        f"linearizable=true&min_revision={revision}&max_lag=1000": "linearizable",
    }
    for node in trio.nodes:
        for target in targets(key):
            for query, kind in kinds.items():
                answer = call(node, "GET", target + query)
                assert (answer.status, answer.headers["kvlog-read"]) == (200, kind), (target, query, answer)
                assert int(answer.headers["kvlog-revision"]) >= revision


def test_a_revision_that_does_not_come_in_time_is_waited_for_in_vain(solo: ClusterNode, key: str):
    """503 behind, and when to try again; at= waits in the same way."""
    ahead = solo.status()["revision"] + 1_000
    for target in targets(key):
        for name in ("min_revision", "at"):
            answer = call(solo, "GET", f"{target}{name}={ahead}&{SOON}")
            answer.refused(503, "behind", f"revision {ahead} has not come")
            assert answer.headers["retry-after"] == "1"


def test_a_bound_that_does_not_hold_is_refused(solo: ClusterNode, key: str):
    """412 with what can be shown instead."""
    for target in targets(key):
        call(solo, "GET", f"{target}max_stale_ms=0").refused(
            412, "too-stale", "0 ms is the limit that was asked for"
        )


def test_a_read_as_of_a_revision_is_of_that_state(solo: ClusterNode, key: str):
    """Headers and all: its revision is the one that was asked for."""
    first = call(solo, "PUT", f"/v1/kv/{key}", b"1").body["revision"]
    call(solo, "DELETE", f"/v1/kv/{key}")
    old, item, listed = (call(solo, "GET", f"{target}at={first}") for target in targets(key))

    assert (old.body["value"], item.data, [each["value"] for each in listed.body["items"]]) == ("1", b"1", ["1"])
    assert {answer.headers["kvlog-revision"] for answer in (old, item, listed)} == {str(first)}
    assert call(solo, "GET", f"/v1/kv/{key}?at={first - 1}").refused(404, "not-found")["revision"] == first - 1
    assert solo.read(key).body["value"] == ""


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("at=1&linearizable=true", "leave one of them out"),
        ("linearizable=1", "must be true or false"),
        ("min_revision=-1", "must be a whole number"),
        ("max_stale_ms=1.5", "must be a whole number"),
        ("max_lag=", "must be a whole number"),
        ("at=latest", "must be a whole number"),
        ("timeout_ms=60001", "must be a whole number from 1 to 60000"),
        ("consistent=true", "unknown parameter 'consistent'"),
        ("max_lag=1&max_lag=1", "given twice"),
    ],
)
def test_a_read_that_makes_no_sense_is_refused(solo: ClusterNode, key: str, query: str, reason: str):
    """400, whichever way it comes."""
    for target in targets(key):
        call(solo, "GET", target + query).refused(400, "bad-request", reason)
