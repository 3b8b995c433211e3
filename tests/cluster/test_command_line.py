"""The operators' commands and real nodes: what they ask for is what the API has."""

import json

from kazoo.client import KazooClient

from kvlog.cluster import Cluster
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import wait_until

from .test_disasters import kvlog


def test_requests_are_looked_up_and_settled(standing: Cluster):
    """A committed one, and one that never came: from then on it never can."""
    node = standing.nodes[0]
    body = json.dumps({"key": "k", "value": "v"}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": "order-1"}
    answer = standing.pool.request("POST", f"http://{node.address}/update", body=body, headers=headers)
    assert answer.status == 200
    committed = kvlog("request", "order-1", "--node", node.address).stdout.split()
    settled = kvlog("request", "order-2", "--settle", "--node", node.address).stdout.split()

    assert committed[committed.index("outcome") + 1] == "committed"
    assert settled[settled.index("outcome") + 1] == "cancelled"


def test_a_replica_that_is_gone_is_removed(standing: Cluster):
    """Until then it is shown as silent, because the cluster counts on it."""
    leader = standing.wait_until_settled()
    gone = next(node for node in standing.nodes if node is not leader)

    def known() -> bool:
        return gone.address in {replica["node"] for replica in leader.status()["replicas"]}

    assert wait_until(known, 20)
    gone.terminate()
    silent = next(line for line in _status(leader.address) if line.startswith(gone.address))
    kvlog("replicas", "remove", gone.address, "--node", leader.address)

    assert "silent" in silent
    assert wait_until(lambda: not known(), 20)


def test_an_entry_that_nobody_can_apply_is_skipped(cluster: Cluster, ensemble: LocalEnsemble):
    """All nodes have halted at it; after the skip they go on, and have the same data."""
    leader = cluster.wait_until_settled()
    assert leader.update("k", "before").status == 200
    cluster.wait_for_agreement()
    index = leader.status()["tail_index"] + 1
    client = KazooClient(hosts=ensemble.hosts)
    client.start(timeout=15)
    client.create(f"{cluster.root}/log/0000000000/entry-", b"of a stranger", sequence=True)
    client.stop()
    client.close()
    assert wait_until(lambda: all(node.status()["halted_at"] == index for node in cluster.nodes), 20)

    kvlog("log", "skip", index, "--reason", "a stranger's znode", "--node", leader.address)
    again = cluster.wait_until_settled()

    assert again.update("k", "after").status == 200
    cluster.wait_for_agreement()
    assert [node.status()["skipped"] for node in cluster.nodes] == [[index]] * 3


def _status(address: str) -> list[str]:
    return kvlog("status", "--node", address).stdout.splitlines()
