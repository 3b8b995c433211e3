"""What others do to a cluster: many connections, foreign znodes, removed znodes, refusals of ZooKeeper."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from kazoo.client import KazooClient
from kazoo.security import OPEN_ACL_UNSAFE, make_acl

from kvlog.cluster import Cluster, ClusterNode
from kvlog.processes import wait_until

CONNECTIONS = 400


@contextmanager
def zookeeper(cluster: Cluster) -> Iterator[KazooClient]:
    client = KazooClient(cluster.hosts, timeout=10)
    client.start(timeout=10)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def follower_of(cluster: Cluster, leader: ClusterNode) -> ClusterNode:
    return next(node for node in cluster.nodes if node is not leader)


def test_idle_connections_keep_nobody_out(standing: Cluster):
    """Clients that keep their connections, as most do, cost nobody an answer, the followers' writes included."""
    leader = standing.wait_until_settled()
    request = f"GET /healthz HTTP/1.1\r\nHost: {leader.address}\r\n\r\n".encode()

    with ExitStack() as kept:
        for _ in range(CONNECTIONS):
            connection = kept.enter_context(socket.create_connection(("127.0.0.1", leader.port), timeout=5))
            connection.sendall(request)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")

        assert follower_of(standing, leader).update("key", "value").status == 200
        assert leader.answers


STRANGERS = ("members/stranger", "election/stranger_ab_0000000000", "log/stranger", "replicas/stranger")
FOREIGN_DATA = (b"", b'{"address":"\xff"}', b"[" * 100_000, b'{"address":' + b'{"a":' * 100_000)
"""Nothing, what is no UTF-8, and what is nested deeper than any reader goes."""


def test_a_foreign_znode_ends_nobody(standing: Cluster):
    """What kvlog did not make, it passes over, wherever it is and whatever is in it."""
    with zookeeper(standing) as client:
        for path in STRANGERS:
            for number, data in enumerate(FOREIGN_DATA):
                name = path.replace("stranger", f"stranger{number}")
                client.create(f"{standing.root}/{name}", data, ephemeral=True)
        leader = standing.wait_until_settled()
        leader.kill()
        survivor = standing.wait_for_leader()

        assert survivor.update("key", "value").status == 200
        leader.start()
        standing.wait_for_agreement()


def test_znodes_removed_by_hand_come_back(standing: Cluster):
    """Membership and candidacy of a node that is up are made again, twice in a row if need be."""
    with zookeeper(standing) as client:
        for _ in range(2):
            for folder in ("members", "election"):
                for name in client.get_children(f"{standing.root}/{folder}"):
                    client.delete(f"{standing.root}/{folder}/{name}")
        assert wait_until(lambda: len(client.get_children(f"{standing.root}/members")) == 3, 15)
        assert wait_until(lambda: len(client.get_children(f"{standing.root}/election")) == 3, 15)

    leader = standing.wait_until_settled()
    assert leader.update("key", "value").status == 200


def test_a_log_that_may_not_be_written_refuses_writes_and_says_why(cluster: Cluster):
    """An ACL without CREATE: no election goes round in circles, and it is over when the ACL is back."""
    leader = cluster.wait_until_settled()
    epoch = leader.status()["epoch"]
    segment = f"{cluster.root}/log/0000000000"
    with zookeeper(cluster) as client:
        client.set_acls(segment, [make_acl("world", "anyone", read=True, admin=True)])
        refused = leader.update("key", "value", timeout_s=2)
        client.set_acls(segment, OPEN_ACL_UNSAFE)

    assert (refused.status, refused.body["outcome"]) == (503, "refused")
    assert "NoAuth" in refused.body["detail"]
    assert wait_until(lambda: leader.update("key", "value").status == 200, 10)
    assert leader.status()["epoch"] == epoch
