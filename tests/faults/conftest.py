"""The fixtures of tests/cluster, and a cluster behind proxies, whose sessions end soon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports
from tests.cluster.conftest import (
    Stand,
    cluster,
    follower,
    fragile_ensemble,
    key,
    leader,
    make_cluster,
    new_cluster,
    nodes,
    stand,
    standing,
)
from tests.faults.proxy import Network, Proxy
from tests.faults.rules import Rules
from tests.faults.wire import ZooKeeperTalk

__all__ = [
    "cluster",
    "follower",
    "fragile_ensemble",
    "key",
    "leader",
    "make_cluster",
    "nodes",
    "stand",
    "standing",
]

BRISK_S = 2.0
"""A session of the brisk cluster. ZooKeeper ends it up to a quarter of that later."""


class RoutedNode(ClusterNode):
    """A node that reaches ZooKeeper's servers through proxies of its own."""

    hosts = ""

    def start(self, *, recover: str = "catchup", wait: bool = True, flags: Sequence[str] = ()) -> None:
        """See ClusterNode."""
        super().start(recover=recover, wait=wait, flags=("--zk", self.hosts, *flags))


class Brisk(Stand):
    """A standing cluster of short sessions, and the ways of its nodes to ZooKeeper."""

    def __init__(self, keeper: ProcessKeeper, ensemble: LocalEnsemble, network: Network) -> None:
        super().__init__(self._new)
        self._keeper, self._ensemble, self._network = keeper, ensemble, network
        self._proxies: dict[str, list[Proxy]] = {}

    def _new(self) -> Cluster:
        settings: dict[str, Any] = {"session_timeout_s": BRISK_S, "flags": ("--retain", "1000000")}
        cluster = new_cluster(self._keeper, self._ensemble, **settings)
        routed = [RoutedNode(cluster, node.number, node.port) for node in cluster.nodes]
        for node in routed:
            ports = free_ports(len(self._ensemble.servers))
            proxies = [
                self._network.proxy(port=port, to_port=server.client_port, talk=ZooKeeperTalk)
                for server, port in zip(self._ensemble.servers, ports, strict=True)
            ]
            self._proxies[node.address] = proxies
            node.hosts = ",".join(proxy.address for proxy in proxies)
        cluster.nodes = [*routed]
        return cluster

    def well(self) -> Cluster:
        """See Stand."""
        self.heal()
        return super().well()

    def set(self, node: ClusterNode, rules: Rules) -> None:
        """What becomes of all that goes between a node and ZooKeeper."""
        for proxy in self._proxies[node.address]:
            proxy.set(rules)

    def abandon(self, node: ClusterNode) -> None:
        """ZooKeeper takes the node's connection for closed; the node hears nothing of that."""
        for proxy in self._proxies[node.address]:
            proxy.abandon()

    def in_use(self, node: ClusterNode) -> list[Proxy]:
        """The proxies through which a node is connected."""
        return [proxy for proxy in self._proxies[node.address] if proxy.clients]

    def slow_down(self, node: ClusterNode, rules: Rules) -> Proxy:
        """What becomes of what goes between a node and the server that it is connected to; returns its proxy."""
        (proxy,) = self.in_use(node)
        proxy.set(rules)
        return proxy

    def heal(self) -> None:
        """Everything passes."""
        for proxy in self._all():
            proxy.heal()

    def count(self, what: str) -> int:
        """How often something has happened on the ways of all nodes; see Proxy.counts."""
        return sum(proxy.counts[what] for proxy in self._all())

    def _all(self) -> list[Proxy]:
        return [proxy for proxies in self._proxies.values() for proxy in proxies]


@pytest.fixture(scope="session")
def brisk_stand(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Brisk]:
    """What the brisk cluster stands on."""
    with Network() as network, Brisk(keeper, ensemble, network) as stand:
        yield stand


@pytest.fixture
def brisk(brisk_stand: Brisk) -> Cluster:
    """Like ``standing``; but whoever is cut off from ZooKeeper is without a session after two seconds."""
    return brisk_stand.well()
