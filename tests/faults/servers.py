"""Nodes and ZooKeeper's servers, looked at from beside: who is connected where, who leads, what was passed."""

from __future__ import annotations

import re
import socket
from functools import partial

from kazoo.client import KazooClient

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.ensemble.local import LocalServer
from kvlog.processes import wait_until
from tests.cluster import by_hand

WAIT_S = 15.0

zookeeper = partial(by_hand.zookeeper, timeout_s=WAIT_S)
"""A session with ZooKeeper."""

_SECRET = 0xB3415C00
"""ZooKeeperServer.superSecret (3.8): the same in every server."""


def ask(server: LocalServer, word: str) -> str:
    """A server's answer to one of ZooKeeper's words of four letters."""
    with socket.create_connection(("127.0.0.1", server.client_port), timeout=WAIT_S) as connection:
        connection.sendall(word.encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def count_of_sessions(ensemble: LocalEnsemble) -> int:
    """How many sessions there are, whoever they belong to."""
    found = re.search(r"^zk_global_sessions\t(\d+)", ask(ensemble.servers[0], "mntr"), re.MULTILINE)
    assert found is not None
    return int(found[1])


def session_of(client: KazooClient, cluster: Cluster, node: ClusterNode) -> int:
    """A node's session: that of its znode among the members; 0 if it is none."""
    stat = client.exists(f"{cluster.root}/members/{node.address}")
    return 0 if stat is None else stat.ephemeralOwner


def server_of(ensemble: LocalEnsemble, cluster: Cluster, node: ClusterNode) -> LocalServer | None:
    """The server that a node is connected to; None if there is none."""
    with zookeeper(ensemble.hosts) as client:
        mark = f"sid={session_of(client, cluster, node):#x},"
    return next((server for server in ensemble.servers if server.mode() and mark in ask(server, "cons")), None)


def expire(cluster: Cluster, node: ClusterNode) -> int:
    """Have ZooKeeper end a node's session, as it does when it has not heard of it for too long; returns its id.

    Whoever takes part in a session may close it. Its password is made of its id alone.
    """
    with zookeeper(cluster.hosts) as client:
        session = session_of(client, cluster, node)
    assert session, f"{node.address} is no member"
    twin = KazooClient(cluster.hosts, timeout=WAIT_S, client_id=(session, password_of(session)))
    twin.start(timeout=WAIT_S)
    assert twin.client_id[0] == session
    twin.stop()
    twin.close()
    return session


def password_of(session: int) -> bytes:
    """What a client has to show to take part in a session: ZooKeeperServer.generatePasswd (3.8).

    It takes sixteen bytes of java.util.Random, whose algorithm is a part of Java's documentation.
    """
    state = (session ^ _SECRET ^ 0x5DEECE66D) % (1 << 48)
    password = b""
    while len(password) < 16:
        state = (state * 0x5DEECE66D + 0xB) % (1 << 48)
        password += (state >> 16).to_bytes(4, "little")
    return password


def arm(node: ClusterNode, spec: str) -> None:
    """Arm a node's failpoints. From now on it counts how often each is passed."""
    assert node.request("PUT", "/v1/failpoints", body=spec.encode()).status == 200


def hits(node: ClusterNode, place: str) -> int:
    """How often a node has passed a failpoint since any were armed."""
    points = node.request("GET", "/v1/failpoints").body["failpoints"]
    return int(next(point["hits"] for point in points if point["name"] == place))


def another_leads(cluster: Cluster, old: ClusterNode) -> ClusterNode:
    """Who leads in a node's place, once somebody does; the node itself is not asked."""
    found: list[ClusterNode] = []

    def look() -> bool:
        found.extend(node for node in cluster.running if node is not old and node.status()["is_leader"])
        return bool(found)

    assert wait_until(look, WAIT_S), "nobody else leads"
    return found[-1]
