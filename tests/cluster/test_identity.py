"""A store and a ZooKeeper that do not go together: refused, nothing touched, and what to do said as commands."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports
from kvlog.store.lmdb_verify import verify
from kvlog.zookeeper.layout import Layout

from .by_hand import fill_segment, kvlog, move_store_away, wait_until_halted, zookeeper

WAIT_S = 30.0
WRONG_LOG = 4

TRANSACTIONS_BEFORE = 200
"""Transactions of ZooKeeper before the nodes come: a new one's have lower numbers, and so have its epochs."""

RECOVER = re.compile(r"python -m kvlog (recover .*? --start-a-new-log)")


@pytest.fixture(scope="module")
def lone_ensemble(keeper: ProcessKeeper) -> Iterator[LocalEnsemble]:
    """A ZooKeeper of one server, whose data may be taken away."""
    reason = LocalEnsemble.why_not()
    if reason is not None:
        pytest.skip(reason)
    with LocalEnsemble(keeper, size=1) as ensemble:
        yield ensemble


@pytest.fixture
def lone(keeper: ProcessKeeper, lone_ensemble: LocalEnsemble) -> Iterator[Cluster]:
    """Two nodes over one ZooKeeper server that has been in use before, with a few values in them."""
    with zookeeper(lone_ensemble.hosts) as client:
        for pending in [client.create_async("/used-", sequence=True) for _ in range(TRANSACTIONS_BEFORE)]:
            pending.get(timeout=WAIT_S)
    name = uuid.uuid4().hex[:8]
    cluster = Cluster(
        keeper,
        lone_ensemble.hosts,
        ports=free_ports(2),
        root=f"/test-{name}",
        directory=keeper.directory / f"cluster-{name}",
        session_timeout_s=2,
    )
    leader = cluster.start()
    write(leader, "old", 5)
    cluster.wait_for_agreement()
    yield cluster
    for node in cluster.running:
        node.kill()


def write(node: ClusterNode, value: str, count: int) -> None:
    for number in range(count):
        assert node.update(f"key{number}", value).status == 200


def data_of(ensemble: LocalEnsemble) -> Path:
    """Where its one server keeps its data."""
    return ensemble.servers[0].log.parent / "data" / "version-2"


def contents(nodes: list[ClusterNode]) -> dict[str, str]:
    """The hash of each file of the nodes' stores; but for LMDB's table of who reads just now."""
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest()
        for node in nodes
        for file in sorted((node.data_dir / "store").iterdir())
        if file.name != "lock.mdb"
    }


def digests(nodes: list[ClusterNode]) -> list[str]:
    """What the stores of nodes that do not run hold, every key of them read."""
    return [verify(node.data_dir / "store").position.digest for node in nodes]


def last_words(node: ClusterNode) -> str:
    """Why the node has ended; its exit code is that of a store and a log that do not go together."""
    assert node.child.wait(WAIT_S) == WRONG_LOG, node.child.log_tail()
    return node.child.log_tail(1)


def recover(cluster: Cluster, said: str, **names: str) -> ClusterNode:
    """Run the very command out of a node's last words, with all data directories; returns the node to start first.

    ``names``: what stands for words that only a person can replace.
    """
    found = RECOVER.search(said)
    assert found is not None, said
    words = shlex.split(found[1].replace("[--data-dir DIR...] ", ""))
    words = [names.get(word, word) for word in words]
    for node in cluster.nodes:
        if str(node.data_dir) not in words:
            words[-1:-1] = ["--data-dir", str(node.data_dir)]
    done = kvlog(*words)
    assert done.returncode == 0, done.stderr
    chosen = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("from "))
    return next(node for node in cluster.nodes if str(node.data_dir) == chosen)


def works_again(cluster: Cluster, first: ClusterNode) -> None:
    """Start this node, then the other ones; they agree, and take writes."""
    first.start()
    for node in cluster.nodes:
        if node is not first:
            node.start()
    cluster.wait_until_settled()
    assert first.update("again", "value").status == 200
    cluster.wait_for_agreement()


# --- the wrong place ------------------------------------------------------------------------------------------


def test_a_root_without_a_log_is_refused_by_a_store_that_has_one(lone: Cluster):
    """Nothing is made there; with the right root all is as before."""
    node = lone.nodes[0]
    digest = node.status()["digest"]
    node.terminate()
    before = contents([node])
    node.start(wait=False, flags=("--root", "/nowhere"))
    said = last_words(node)

    assert f"there is no log below /nowhere in ZooKeeper at {lone.hosts}" in said
    assert f"the store in {node.data_dir} belongs to cluster " in said
    assert "If --zk or --root is wrong, start this node with the right one." in said
    assert contents([node]) == before
    assert digests([node]) == [digest]
    with zookeeper(lone.hosts) as client:
        assert client.exists("/nowhere") is None
    works_again_with(lone, node)


def test_the_zookeeper_of_another_cluster_is_refused(lone: Cluster, standing: Cluster):
    """The same root there holds another log: it is named, and both stay as they are."""
    node, digest = lone.nodes[0], lone.nodes[0].status()["digest"]
    theirs = standing.wait_for_agreement()
    node.terminate()
    before = contents([node])
    node.start(wait=False, flags=("--zk", standing.hosts, "--root", standing.root))
    said = last_words(node)

    assert f"this store belongs to cluster {lone.nodes[1].status()['cluster_id']}" in said
    assert f"ZooKeeper holds cluster {standing.nodes[0].status()['cluster_id']}" in said
    assert f"mv {node.data_dir}/store {node.data_dir}/store.before" in said
    assert contents([node]) == before
    assert digests([node]) == [digest]
    assert standing.wait_for_agreement() == theirs
    works_again_with(lone, node)


def works_again_with(cluster: Cluster, node: ClusterNode) -> None:
    """The others run; this node is started as it should have been."""
    node.start()
    cluster.wait_until_settled()
    assert node.update("again", "value").status == 200
    cluster.wait_for_agreement()


# --- ZooKeeper has lost what it had ---------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True], ids=["down", "running"])
def test_a_zookeeper_that_was_wiped_is_refused_and_gets_a_new_log(
    lone: Cluster, lone_ensemble: LocalEnsemble, running: bool
):
    """Every node ends and keeps what it has; the command that it names begins a new log with all of it."""
    digest = lone.wait_for_agreement()
    server = lone_ensemble.servers[0]
    if not running:
        lone.stop()
    server.kill()
    before = contents(lone.nodes)
    shutil.rmtree(data_of(lone_ensemble))
    server.start()
    if not running:
        for node in lone.nodes:
            node.start(wait=False)
    said = [last_words(node) for node in lone.nodes]

    assert all(f"there is no log below {lone.root} in ZooKeeper at {lone.hosts}" in words for words in said)
    assert contents(lone.nodes) == before
    assert digests(lone.nodes) == [digest] * 2
    with zookeeper(lone.hosts) as client:
        assert client.exists(lone.root) is None
    first = recover(lone, said[0])
    assert digests([first]) == [digest]
    works_again(lone, first)
    assert not any("has begun" in node.log.read_text() for node in lone.nodes), "epochs of the lost log count"
    assert [node.read("key4").body["value"] for node in lone.nodes] == ["old"] * 2


@pytest.mark.parametrize("running", [False, True], ids=["down", "running"])
def test_a_zookeeper_that_was_restored_from_an_older_copy_is_refused(
    lone: Cluster, lone_ensemble: LocalEnsemble, tmp_path: Path, running: bool
):
    """What was acknowledged since is in the stores: the command that the nodes name brings it below a new root."""
    server, data = lone_ensemble.servers[0], data_of(lone_ensemble)
    server.kill()
    shutil.copytree(data, tmp_path / "older")
    server.start()
    write(lone.wait_until_settled(), "new", 5)
    digest = lone.wait_for_agreement()
    if not running:
        lone.stop()
    server.kill()
    before = contents(lone.nodes)
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "older", data)
    server.start()
    if not running:
        for node in lone.nodes:
            node.start(wait=False)
    said = [last_words(node) for node in lone.nodes]

    assert all("was restored from an older copy" in words for words in said), said
    assert contents(lone.nodes) == before
    assert digests(lone.nodes) == [digest] * 2
    root = f"{lone.root}-new"
    first = recover(lone, said[0], NEW_ROOT=root)
    lone.root = root
    works_again(lone, first)
    assert [node.read("key4").body["value"] for node in lone.nodes] == ["new"] * 2


# --- somebody has deleted something ---------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True], ids=["down", "running"])
def test_a_log_that_was_deleted_by_hand_is_refused(lone: Cluster, running: bool):
    """The command wants what is left of it out of the way first, and says how; then it begins a new one."""
    digest = lone.wait_for_agreement()
    before = contents(lone.nodes)
    if not running:
        lone.stop()
        before = contents(lone.nodes)
    with zookeeper(lone.hosts) as client:
        client.delete(Layout(lone.root).log, recursive=True)
    if not running:
        for node in lone.nodes:
            node.start(wait=False)
    said = [last_words(node) for node in lone.nodes]

    assert all(f"below {lone.root} in ZooKeeper at {lone.hosts}" in words for words in said)
    assert all("log" in words and "Nothing was touched" in words for words in said)
    assert contents(lone.nodes) == before
    assert digests(lone.nodes) == [digest] * 2
    with pytest.raises(AssertionError, match=f"zkCli.sh deleteall {lone.root}`, and run this command again"):
        recover(lone, said[0])
    assert digests(lone.nodes) == [digest] * 2
    with zookeeper(lone.hosts) as client:
        client.delete(lone.root, recursive=True)
    works_again(lone, recover(lone, said[0]))
    assert [node.read("key4").body["value"] for node in lone.nodes] == ["old"] * 2


def test_a_segment_that_was_deleted_by_hand_halts_who_still_needs_it(make_cluster: Callable[..., Cluster]):
    """A hole in the log; who has applied all of it goes on, and gives its store to the other one."""
    cluster = make_cluster(2)
    cluster.start()
    ahead, behind = cluster.nodes
    write(ahead, "old", 2)
    cluster.wait_for_agreement()
    behind.terminate()
    index = verify(behind.data_dir / "store").position.applied_index + 1
    before = contents([behind])
    cluster.wait_for_leader()
    fill_segment(cluster, ahead)
    ahead.terminate()
    with zookeeper(cluster.hosts) as client:
        client.delete(Layout(cluster.root).segment(0), recursive=True)
    ahead.start()
    behind.start(wait=False)
    wait_until_halted(cluster, [behind], index)
    reason = behind.status()["reason"]
    refused = kvlog("log", "skip", index, "--reason", "deleted", "--node", behind.address)

    assert reason == f"halted: log entry {index}: is missing, although the log goes on behind it"
    assert behind.read("key1").body == {"key": "key1", "value": "old", "halted_at": index}
    assert refused.returncode == 1
    assert f"nothing was skipped: {ahead.address} has applied entry {index}, so nothing is lost" in refused.stderr
    behind.terminate()
    assert contents([behind]) == before
    move_store_away(behind)
    behind.start()
    cluster.wait_until_settled()
    assert behind.update("again", "value").status == 200
    cluster.wait_for_agreement()
