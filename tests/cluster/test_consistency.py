"""What each kind of read promises on a real ensemble: with a replica that stands still, and without a leader."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from kvlog.cluster import Answer, Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports, wait_until

PAUSE_MS = 3_000
"""For how long the replica's applying stands still; all that is asked of it meanwhile takes about a second."""

SOON_MS = 300


@pytest.fixture(scope="module")
def standing(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Cluster]:
    """Three nodes for all tests of this file."""
    directory = keeper.directory / f"consistency-{uuid.uuid4().hex[:8]}"
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(3), root="/consistency", directory=directory)
    yield cluster
    for node in cluster.running:
        node.resume()
        node.kill()


@pytest.fixture
def leader(standing: Cluster) -> ClusterNode:
    """The leader of the standing cluster, all of whose nodes are up."""
    for node in standing.nodes:
        if not node.running:
            node.start(wait=False)
    return standing.wait_until_settled()


@pytest.fixture
def key() -> str:
    return f"key-{uuid.uuid4().hex[:8]}"


def get(node: ClusterNode, key: str, **parameters: object) -> Answer:
    """The JSON form of a key, as a node answers it."""
    fields = {name: str(value) for name, value in parameters.items()}
    return node.request(
        "GET", f"/v1/kv/{key}", fields=fields, headers={"Accept": "application/json"}, timeout_s=30
    )


def put(node: ClusterNode, key: str, value: str, **parameters: object) -> int:
    """Write a key through a node; returns its revision."""
    query = "&".join(f"{name}={given}" for name, given in parameters.items())
    answer = node.request("PUT", f"/v1/kv/{key}?{query}", body=value.encode(), timeout_s=30)
    assert answer.status in (200, 201), answer
    return answer.body["revision"]


@pytest.fixture
def paused(standing: Cluster, leader: ClusterNode, key: str) -> Iterator[tuple[ClusterNode, int]]:
    """A follower that has not applied the latest write of ``key``, and that write's revision; it goes on later."""
    follower = next(node for node in standing.nodes if node is not leader)
    put(leader, key, "old")
    assert follower.request("PUT", "/v1/failpoints", body=f"before_apply:sleep:{PAUSE_MS}".encode()).status == 200
    revision = put(leader, key, "new", ack="log")
    # It has heard of the write, and its applying stands still.
    assert wait_until(lambda: follower.status()["tail_index"] == leader.status()["applied_index"], 2)
    yield follower, revision
    assert follower.request("PUT", "/v1/failpoints", body=b"").status == 200
    standing.wait_for_agreement()


def test_a_local_read_of_a_lagging_replica_is_old_and_says_so(paused: tuple[ClusterNode, int], key: str):
    """How many entries are missing, and which revision it shows."""
    replica, revision = paused

    answer = get(replica, key)

    assert (answer.status, answer.body["value"], answer.headers["kvlog-read"]) == (200, "old", "local")
    assert int(answer.headers["kvlog-revision"]) < revision
    assert int(answer.headers["kvlog-tail-index"]) > int(answer.headers["kvlog-applied-index"])


def test_the_course_read_says_so_as_well(paused: tuple[ClusterNode, int], key: str):
    """GET /read has the same headers, and takes the same parameters."""
    replica, revision = paused

    answer = replica.read(key)
    refused = replica.request("GET", "/read", fields={"key": key, "max_lag": "0"})

    assert (answer.body["value"], int(answer.headers["kvlog-revision"]) < revision) == ("old", True)
    assert (refused.status, refused.body["type"]) == (412, "kvlog:too-stale")


@pytest.mark.parametrize("asked", ["min_revision", "linearizable", "at"])
def test_a_read_that_needs_more_than_the_replica_has_refuses(
    paused: tuple[ClusterNode, int], key: str, asked: str
):
    """It waits as long as it may, and then says that it has waited in vain: 503, and never the old value."""
    replica, revision = paused
    wanted = {asked: "true" if asked == "linearizable" else revision}

    answer = get(replica, key, timeout_ms=SOON_MS, **wanted)

    assert (answer.status, answer.body["type"]) == (503, "kvlog:behind")
    assert "value" not in answer.body
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("asked", ["min_revision", "linearizable", "at"])
def test_a_read_that_may_wait_longer_sees_the_write(paused: tuple[ClusterNode, int], key: str, asked: str):
    """As soon as the replica has applied it."""
    replica, revision = paused
    wanted = {asked: "true" if asked == "linearizable" else revision}

    answer = get(replica, key, timeout_ms=20_000, **wanted)

    assert (answer.status, answer.body["value"], answer.body["revision"]) == (200, "new", revision)


@pytest.mark.parametrize("bound", [{"max_lag": 0}, {"max_stale_ms": 50}])
def test_a_bound_that_does_not_hold_is_refused_at_once(
    paused: tuple[ClusterNode, int], key: str, bound: dict[str, int]
):
    """412 says what holds instead; a bound that does hold is no hindrance."""
    replica, _ = paused
    assert wait_until(lambda: int(get(replica, key).headers["kvlog-staleness-ms"]) > 50, 2)

    refused = get(replica, key, **bound)
    loose = get(replica, key, max_lag=1_000_000, max_stale_ms=1_000_000)

    assert (refused.status, refused.body["type"]) == (412, "kvlog:too-stale")
    assert (loose.status, loose.body["value"]) == (200, "old")


def test_the_others_have_it_meanwhile(standing: Cluster, paused: tuple[ClusterNode, int], key: str):
    """One replica that stands still holds nobody up."""
    replica, revision = paused
    for node in standing.nodes:
        if node is not replica:
            answer = get(node, key, linearizable="true", timeout_ms=5_000)
            assert (answer.status, answer.body["revision"]) == (200, revision)


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

    A leader that is stopped keeps its place for 10 s: for two of these, nobody can write, and every read on the
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
