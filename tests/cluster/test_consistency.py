"""What each kind of read promises on a real ensemble: with a replica that lags, and without a leader."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import wait_until

from .keys import get, put

PAUSE_MS = 1_000
"""For how long the replica's applying stands still."""


@pytest.mark.parametrize("asked", ["min_revision", "linearizable", "at"])
def test_a_read_that_may_wait_sees_the_write(leader: ClusterNode, follower: ClusterNode, key: str, asked: str):
    """As soon as the replica has applied it; what a read does that may not wait for so long is in test_lagging."""
    put(leader, key, "old")
    assert (
        follower.request("PUT", "/v1/failpoints", body=f"before_apply:sleep:{PAUSE_MS}@1".encode()).status == 200
    )
    revision = put(leader, key, "new", ack="log")
    # It has heard of the write, and its applying stands still.
    assert wait_until(lambda: follower.status()["tail_index"] == leader.status()["applied_index"], 2)

    answer = get(follower, key, timeout_ms=20_000, **{asked: "true" if asked == "linearizable" else revision})

    assert (answer.status, answer.body["value"], answer.body["revision"]) == (200, "new", revision)


def test_the_past_reads_the_same_on_every_node(standing: Cluster, leader: ClusterNode, key: str):
    """``at=`` names one state, whoever is asked."""
    revisions = [put(leader, key, f"v{number}") for number in range(3)]

    for node in standing.nodes:
        values = [get(node, key, at=revision).body["value"] for revision in revisions]
        assert values == ["v0", "v1", "v2"]
        assert get(node, key, at=revisions[0] - 1).status == 404


def test_a_stale_store_refuses_what_it_cannot_prove(standing: Cluster, leader: ClusterNode, key: str):
    """Local reads go on and are marked; what needs all entries is refused with 503, and so is the past."""
    follower = next(node for node in standing.nodes if node is not leader)
    put(leader, key, "old")
    follower.kill()
    revision = put(leader, key, "new")
    follower.start(recover="stale")

    local = get(follower, key)
    assert (local.status, local.body["value"], local.headers["kvlog-stale"]) == (200, "old", "true")
    for parameters in ({"linearizable": "true"}, {"min_revision": revision}, {"at": revision}):
        answer = get(follower, key, **parameters)
        assert (answer.status, answer.body["type"]) == (503, "kvlog:stale-store"), parameters
    for parameters in ({"max_stale_ms": 1_000_000}, {"max_lag": 0}):
        assert get(follower, key, **parameters).status == 412, parameters
    for path in (f"/v1/history?key={key}", "/v1/diff?from=1", "/v1/watch?prefix=a&wait=0"):
        assert follower.request("GET", path).status == 503, path

    assert follower.catch_up().status == 200
    healed = get(follower, key, linearizable="true")
    assert (healed.status, healed.body["value"]) == (200, "new")


def reading(node: ClusterNode, key: str, revision: int, stop: Event) -> int:
    """Linearizable reads through a node, one after the other; returns how many, all of which saw ``revision``."""
    count = 0
    while not stop.is_set():
        answer = get(node, key, linearizable="true", timeout_ms=5_000)
        assert (answer.status, answer.body["revision"]) == (200, revision), answer
        count += 1
    return count


@pytest.mark.parametrize("harm", ["pause", "kill"])
def test_linearizable_reads_go_on_without_a_leader(
    standing: Cluster, leader: ClusterNode, key: str, harm: str, capsys: pytest.CaptureFixture[str]
):
    """They need ZooKeeper's quorum and nobody else.

    A leader that is stopped keeps its place for 6 s: for two of these, nobody can write, and every read on the
    other nodes is answered.
    """
    revision = put(leader, key, "acknowledged")
    others = [node for node in standing.nodes if node is not leader]
    stop = Event()
    harms: dict[str, Callable[[], None]] = {"pause": leader.pause, "kill": leader.kill}
    harms[harm]()
    try:
        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(reading, node, key, revision, stop) for node in others for _ in range(2)]
            stop.wait(2)
            stop.set()
            counts = [reader.result() for reader in readers]
    finally:
        if harm == "pause":
            leader.resume()

    with capsys.disabled():
        print(f"\n{sum(counts)} linearizable reads in 2 s, the leader {harm}ed")
    assert all(counts)


def test_without_a_quorum_nothing_is_called_linearizable(
    standing: Cluster, leader: ClusterNode, key: str, fragile_ensemble: LocalEnsemble
):
    """Local reads go on, with their age; a linearizable one is refused with the reason."""
    put(leader, key, "old")
    for server in fragile_ensemble.servers[:2]:
        server.kill()
    node = standing.nodes[0]

    answer = get(node, key, linearizable="true", timeout_ms=1_000)
    local = get(node, key)

    assert (answer.status, answer.body["type"]) == (503, "kvlog:behind")
    assert (local.status, local.body["value"]) == (200, "old")
