"""All nodes are lost, or ZooKeeper loses its data: a backup, or the stores that are left, bring it back."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from kazoo.client import KazooClient

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.machine import Identity
from kvlog.ensemble import LocalEnsemble
from kvlog.store.lmdb_store import LmdbStore
from tests.chain import Chain

ROOT = Path(__file__).resolve().parent.parent.parent


def kvlog(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m kvlog``; it has to succeed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KVLOG_")}
    command = [sys.executable, "-m", "kvlog", *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended


def _write(node: ClusterNode, first: int, last: int) -> None:
    for number in range(first, last):
        assert node.update(f"key{number}", f"value {number}").status == 200


def _lose_the_log(cluster: Cluster, ensemble: LocalEnsemble) -> None:
    """ZooKeeper has lost all of the cluster's data."""
    client = KazooClient(hosts=ensemble.hosts)
    client.start(timeout=15)
    client.delete(cluster.root, recursive=True)
    client.stop()
    client.close()


def _start(cluster: Cluster, first: ClusterNode) -> None:
    """Start the node whose store began the log, then the others, as the commands say."""
    first.start()
    for node in cluster.nodes:
        if node is not first:
            node.start()
    cluster.wait_until_settled()


def test_a_backup_brings_a_lost_cluster_back(cluster: Cluster, ensemble: LocalEnsemble, tmp_path: Path):
    """Nodes and ZooKeeper lose everything; one restored node, and empty ones, have the same digest as before."""
    leader = cluster.wait_until_settled()
    _write(leader, 0, 30)
    digest = cluster.wait_for_agreement()
    revision = leader.status()["revision"]
    file = tmp_path / "backup"
    kvlog("backup", file, *(flag for node in cluster.nodes for flag in ("--node", node.address)))
    assert "the backup is whole" in kvlog("verify", file).stdout
    cluster.stop()
    _lose_the_log(cluster, ensemble)
    for node in cluster.nodes:
        shutil.rmtree(node.data_dir)

    kvlog(
        *("restore", file, "--zk", cluster.hosts, "--root", cluster.root),
        *("--data-dir", cluster.nodes[1].data_dir),
    )
    _start(cluster, cluster.nodes[1])

    assert cluster.wait_for_agreement() == digest
    assert {node.status()["revision"] for node in cluster.nodes} == {revision}
    assert [node.read("key17").body["value"] for node in cluster.nodes] == ["value 17"] * 3
    answer = cluster.nodes[0].update("key17", "anew")
    assert (answer.status, answer.body["revision"]) == (200, revision + 1)
    cluster.wait_for_agreement()


def test_the_stores_that_are_left_bring_a_lost_log_back(cluster: Cluster, ensemble: LocalEnsemble):
    """ZooKeeper loses everything; the store with the most begins a new log, and the others take its snapshot."""
    leader = cluster.wait_until_settled()
    _write(leader, 0, 10)
    cluster.wait_for_agreement()
    behind, *others = cluster.nodes
    behind.terminate()
    cluster.wait_until_settled()
    _write(others[0], 10, 20)
    digest = cluster.wait_for_agreement()
    cluster.stop()
    _lose_the_log(cluster, ensemble)

    said = kvlog(
        *("recover", "--zk", cluster.hosts, "--root", cluster.root, "--start-a-new-log"),
        *(flag for node in cluster.nodes for flag in ("--data-dir", node.data_dir)),
    ).stdout
    chosen = next(line.split()[1] for line in said.splitlines() if line.startswith("from "))
    _start(cluster, next(node for node in cluster.nodes if str(node.data_dir) == chosen))

    assert cluster.wait_for_agreement() == digest
    assert [node.read("key19").body["value"] for node in cluster.nodes] == ["value 19"] * 3
    table = kvlog("status", "--node", behind.address).stdout.splitlines()
    assert len(table) == 4
    assert all(" yes" in line for line in table[1:])


def test_a_store_leads_on_an_ensemble_that_counts_from_the_beginning(make_cluster: Callable[..., Cluster]):
    """Epochs are zxids: those of the lost ensemble may be far beyond the new one's, and bind nobody."""
    cluster = make_cluster(1)
    (node,) = cluster.nodes
    chain = Chain(epoch=1 << 60)
    chain.barrier()
    chain.put("before", "kept")
    node.data_dir.mkdir(parents=True)
    with closing(LmdbStore(node.data_dir / "store")) as store:
        store.adopt(Identity("lost", 7))
        store.apply(tuple(chain.entries), fill=False)
    place = ("--zk", cluster.hosts, "--root", cluster.root, "--data-dir", node.data_dir)

    kvlog("recover", *place, "--start-a-new-log")
    cluster.start()

    assert node.update("after", "taken").status == 200
    assert [node.read(key).body["value"] for key in ("before", "after")] == ["kept", "taken"]
