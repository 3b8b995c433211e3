"""A node that needs what the log does not hold any more copies another one's store, whatever happens meanwhile."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.machine import Position
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports, wait_until
from kvlog.store.lmdb_store import LmdbStore
from kvlog.store.quarantine import inspect

from .interceptor import Interceptor, ask, cut, flip, replace_by
from .ledger import WAIT_S, Ledger, arm, fill_until_trimmed, first_index, small_segments
from .small_segments import SEGMENT

RETAIN = 5 * SEGMENT


class Busy:
    """Three nodes that are written to all the time."""

    def __init__(self, cluster: Cluster, ledger: Ledger) -> None:
        self.cluster = cluster
        self.ledger = ledger

    def leader_and_followers(self) -> tuple[ClusterNode, ClusterNode, ClusterNode]:
        leader = self.cluster.wait_until_settled()
        first, second = (node for node in self.cluster.nodes if node is not leader)
        return leader, first, second

    def leave_behind(self, node: ClusterNode) -> int:
        """Kill a node, and write until the log begins behind its store; returns where that stands."""
        node.kill()
        applied = stands_at(node).applied_index
        fill_until_trimmed(self.ledger, self.cluster.wait_for_leader(), applied)
        return applied

    def check(self) -> None:
        """All are whole and agree, and nothing that was acknowledged is missing."""
        self.cluster.wait_until_settled()
        self.ledger.check_all(self.cluster)


def stands_at(node: ClusterNode) -> Position:
    """What the store of a node that does not run holds; it must be whole."""
    return inspect(node.data_dir / "store").position


@pytest.fixture(scope="module")
def quiet(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Busy]:
    """Three nodes whose log is trimmed to RETAIN entries; each test leaves all of them up and whole."""
    cluster = Cluster(
        keeper,
        ensemble.hosts,
        ports=free_ports(3),
        root="/test-snapshots",
        session_timeout_s=4,
        command=small_segments("--retain", str(RETAIN)),
    )
    cluster.start()
    yield Busy(cluster, Ledger())
    for node in cluster.running:
        node.kill()


@pytest.fixture
def busy(quiet: Busy) -> Iterator[Busy]:
    """The same, written to during the whole test; afterwards nothing is missing anywhere."""
    with quiet.ledger.writing(quiet.cluster):
        yield quiet
    quiet.check()


def log_since(node: ClusterNode, start: int) -> str:
    return node.log.read_text()[start:]


def restarted(node: ClusterNode) -> tuple[dict, str]:
    """Start a node; returns what its status says of its recovery, and what its log does."""
    said = len(node.log.read_text())
    node.start()
    return node.status()["recovery"], log_since(node, said)


def test_a_node_replays_what_is_kept_and_copies_what_is_not(busy: Busy):
    """Away for less than is kept, for longer, and with nothing: each says which way it went, and how much."""
    leader, node, source = busy.leader_and_followers()
    instance = source.status()["instance"]
    served = len(busy.ledger.acknowledged)

    node.kill()
    before = stands_at(node).applied_index
    recovery, said = restarted(node)
    replayed = recovery["replayed_entries"]
    assert "installed" not in recovery
    assert 0 <= replayed <= node.status()["applied_index"] - before
    assert f"caught up by replaying {replayed} entries in " in said

    before = busy.leave_behind(node)
    recovery, said = restarted(node)
    assert "installed" in recovery, said
    installed = recovery["installed"]
    assert installed["from"] == source.address
    assert installed["index"] > before
    assert installed["revision"] > 0
    assert 0 < installed["seconds"] < WAIT_S
    assert f"copying the store of {source.address}" in said
    assert f"installed a snapshot of {source.address}: index {installed['index']}, revision" in said
    assert f"caught up by a snapshot at index {installed['index']} and replaying" in said

    node.kill()
    shutil.rmtree(node.data_dir / "store")
    assert first_index(leader) > 0
    recovery, said = restarted(node)
    assert recovery["installed"]["index"] > installed["index"]
    assert "installed a snapshot of" in said

    assert source.status()["instance"] == instance
    assert len(busy.ledger.acknowledged) > served
    assert busy.ledger.write(source) == "committed"


def test_a_stale_store_whose_gap_is_trimmed_is_healed_by_a_snapshot(busy: Busy):
    """POST /v1/admin/catchup; until then it reads what it held, and says that it is stale."""
    _, node, _ = busy.leader_and_followers()
    busy.leave_behind(node)
    key, value = next(iter(busy.ledger.acknowledged.items()))
    node.start(recover="stale")
    assert node.read(key).body["value"] == value
    assert node.read(key).headers["kvlog-stale"] == "true"
    assert node.status()["missed_entries"] > RETAIN

    answer = node.catch_up()

    assert answer.status == 200, answer
    assert "took over another node's store in " in answer.body["result"]
    assert not node.status()["stale"]
    assert node.read(key).headers["kvlog-stale"] == "false"
    assert node.status()["recovery"]["installed"]["index"] > 0
    assert "installed a snapshot of" in node.log.read_text()


def test_another_node_is_asked_when_the_source_is_killed(busy: Busy):
    """mid_snapshot:kill: the copy breaks off; the leader, asked last else, has one too."""
    leader, node, source = busy.leader_and_followers()
    busy.leave_behind(node)
    arm(source, "mid_snapshot:kill@2")

    recovery, said = restarted(node)

    assert source.child.wait(WAIT_S) == -signal.SIGKILL
    assert f"no snapshot from {source.address}: " in said
    assert recovery["installed"]["from"] == leader.address
    source.start()


def test_a_node_killed_while_it_copies_has_its_old_store(busy: Busy):
    """kill -9 in the middle of the transfer, and when the copy is to take its place: started again, it copies."""
    leader, node, source = busy.leader_and_followers()
    before = busy.leave_behind(node)
    key, value = next(iter(busy.ledger.acknowledged.items()))
    for other in (leader, source):
        arm(other, "mid_snapshot:sleep:3000")

    node.start(wait=False)
    assert wait_until(lambda: node.answers and "fetching" in node.status()["recovery"], WAIT_S)
    assert node.status()["recovery"]["fetching"]["from"] == source.address
    assert node.read(key).body["value"] == value
    assert node.request("GET", "/readyz").status == 503
    assert wait_until((node.data_dir / "store.incoming" / "data.mdb").exists, WAIT_S)
    node.kill()
    assert stands_at(node).applied_index == before
    for other in (leader, source):
        arm(other, "")

    node.start(wait=False, flags=("--failpoint", "mid_install:kill"))
    assert node.child.wait(WAIT_S) == -signal.SIGKILL
    assert (node.data_dir / "store.incoming").exists()
    assert stands_at(node).applied_index == before

    recovery, _ = restarted(node)
    assert recovery["installed"]["index"] > before
    assert not (node.data_dir / "store.incoming").exists()
    assert not (node.data_dir / "store.old").exists()


@pytest.fixture
def intercepted(make_cluster: Callable[..., Cluster]) -> Iterator[tuple[Cluster, Interceptor, Ledger]]:
    """Two nodes: the first is reached through an interceptor, and alone counts; the second is far behind."""
    cluster = make_cluster(2, command=small_segments("--retain", "0"), session_timeout_s=4)
    source, node = cluster.nodes
    interceptor = Interceptor(*free_ports(1), source.port)
    source.start(flags=("--id", source.address, "--advertise", interceptor.address))
    node.start()
    ledger = Ledger()
    ledger.fill(source, 5)
    assert wait_until(lambda: node.status()["revision"] == source.status()["revision"], WAIT_S)
    node.terminate()
    path = f"/v1/admin/replicas/{node.address}/remove"
    assert wait_until(lambda: source.request("POST", path).status == 200, WAIT_S)
    fill_until_trimmed(ledger, source, stands_at(node).applied_index)
    yield cluster, interceptor, ledger
    interceptor.close()


def test_a_copy_that_is_not_whole_is_not_taken(
    make_cluster: Callable[..., Cluster], intercepted: tuple[Cluster, Interceptor, Ledger]
):
    """I1: cut off at any byte, the last one included, altered, or of another cluster: the old store stays."""
    cluster, interceptor, ledger = intercepted
    source, node = cluster.nodes
    foreign = make_cluster(1, command=small_segments())
    foreign.start()
    Ledger().fill(foreign.nodes[0], source.status()["tail_index"])
    request = f"GET /v1/snapshot HTTP/1.1\r\nHost: {source.address}\r\n\r\n".encode()
    answer = ask(source.port, request)
    head, end = answer.index(b"\r\n\r\n") + 4, answer.rindex(b"\n", 0, len(answer) - 7)
    chance = random.Random(1)
    places = [chance.randrange(head), head, *(chance.randrange(head, end) for _ in range(2))]
    changes = [cut(place) for place in places]
    changes += [cut(end - len(answer)), flip(end - 1 - len(answer)), flip(end // 2)]
    changes += [replace_by(foreign.nodes[0].port)]
    number = len(changes)
    interceptor.changes += changes
    key, value = next(iter(ledger.acknowledged.items()))
    before = stands_at(node)

    node.start(wait=False)

    assert wait_until(lambda: node.answers, WAIT_S)
    while interceptor.changes:
        assert node.read(key).body["value"] == value
        assert node.status()["applied_index"] in (before.applied_index, source.status()["applied_index"])
    assert wait_until(lambda: node.status()["ready"], WAIT_S), node.status()
    said = node.log.read_text()
    assert said.count(f"no snapshot from {source.address}: ") == number, said
    assert "checksum" in said
    assert "another cluster" in said
    assert wait_until(lambda: node.status()["digest"] == source.status()["digest"], WAIT_S)
    ledger.check(source)
    ledger.check(node)
    source.terminate()
    node.terminate()
    assert dict(contents(source)) == dict(contents(node))


def contents(node: ClusterNode) -> list:
    store = LmdbStore(node.data_dir / "store")
    try:
        return store.items()
    finally:
        store.close()
