"""Reads of a replica that stands still: what it shows is old and says so, or is refused."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.processes import wait_until

from .conftest import Stand
from .keys import get, put

STILL_MS = 60_000
"""Far longer than the tests of this file take together; the replica is killed afterwards."""

SOON_MS = 300


@dataclass(frozen=True)
class Lagging:
    """A replica that has heard of the latest write of a key, and has not applied it."""

    cluster: Cluster
    replica: ClusterNode
    key: str
    revision: int


@pytest.fixture(scope="module")
def lagging(stand: Stand) -> Iterator[Lagging]:
    """A follower of the standing cluster whose applying stands still."""
    cluster, key = stand.well(), f"key-{uuid.uuid4().hex[:8]}"
    leader = cluster.wait_until_settled()
    replica = next(node for node in cluster.nodes if node is not leader)
    put(leader, key, "old")
    assert replica.request("PUT", "/v1/failpoints", body=f"before_apply:sleep:{STILL_MS}".encode()).status == 200
    revision = put(leader, key, "new", ack="log")
    assert wait_until(lambda: replica.status()["tail_index"] == leader.status()["applied_index"], 2)
    yield Lagging(cluster, replica, key, revision)
    replica.kill()


def test_a_local_read_of_a_lagging_replica_is_old_and_says_so(lagging: Lagging):
    """How many entries are missing, and which revision it shows."""
    replica, key, revision = lagging.replica, lagging.key, lagging.revision

    answer = get(replica, key)

    assert (answer.status, answer.body["value"], answer.headers["kvlog-read"]) == (200, "old", "local")
    assert int(answer.headers["kvlog-revision"]) < revision
    assert int(answer.headers["kvlog-tail-index"]) > int(answer.headers["kvlog-applied-index"])


def test_the_course_read_says_so_as_well(lagging: Lagging):
    """GET /read has the same headers, and takes the same parameters."""
    replica, key, revision = lagging.replica, lagging.key, lagging.revision

    answer = replica.read(key)
    refused = replica.request("GET", "/read", fields={"key": key, "max_lag": "0"})

    assert (answer.body["value"], int(answer.headers["kvlog-revision"]) < revision) == ("old", True)
    assert (refused.status, refused.body["type"]) == (412, "kvlog:too-stale")


@pytest.mark.parametrize("asked", ["min_revision", "linearizable", "at"])
def test_a_read_that_needs_more_than_the_replica_has_refuses(lagging: Lagging, asked: str):
    """It waits as long as it may, and then says that it has waited in vain: 503, and never the old value."""
    replica, key, revision = lagging.replica, lagging.key, lagging.revision
    wanted = {asked: "true" if asked == "linearizable" else revision}

    answer = get(replica, key, timeout_ms=SOON_MS, **wanted)

    assert (answer.status, answer.body["type"]) == (503, "kvlog:behind")
    assert "value" not in answer.body
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("bound", [{"max_lag": 0}, {"max_stale_ms": 50}])
def test_a_bound_that_does_not_hold_is_refused_at_once(lagging: Lagging, bound: dict[str, int]):
    """412 says what holds instead; a bound that does hold is no hindrance."""
    replica, key = lagging.replica, lagging.key
    assert wait_until(lambda: int(get(replica, key).headers["kvlog-staleness-ms"]) > 50, 2)

    refused = get(replica, key, **bound)
    loose = get(replica, key, max_lag=1_000_000, max_stale_ms=1_000_000)

    assert (refused.status, refused.body["type"]) == (412, "kvlog:too-stale")
    assert (loose.status, loose.body["value"]) == (200, "old")


def test_the_others_have_it_meanwhile(lagging: Lagging):
    """One replica that stands still holds nobody up."""
    replica, key, revision = lagging.replica, lagging.key, lagging.revision
    for node in lagging.cluster.nodes:
        if node is not replica:
            answer = get(node, key, linearizable="true", timeout_ms=5_000)
            assert (answer.status, answer.body["revision"]) == (200, revision)
