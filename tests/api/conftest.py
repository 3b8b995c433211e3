"""Real nodes that the tests of this folder share: who writes takes keys of its own."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def solo(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[ClusterNode]:
    """A cluster of one node, which leads. It has to be as well at the end as at the beginning."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(1), root="/api")
    cluster.start()
    (node,) = cluster.nodes
    yield node
    assert node.request("GET", "/readyz").status == 200
    assert "Traceback" not in node.log.read_text(), node.log.read_text()
    assert node.terminate() == 0


@pytest.fixture(scope="session")
def trio(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Cluster]:
    """A cluster of three nodes, all of which are up. Who stops one starts it again."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(3), root="/api-3")
    cluster.start()
    yield cluster
    assert all("Traceback" not in node.log.read_text() for node in cluster.nodes)
    cluster.stop()


@pytest.fixture
def key() -> str:
    """A key that no other test has."""
    return f"key-{next(_numbers)}"


@pytest.fixture
def name(key: str) -> Callable[[str], str]:
    """Keys that no other test has, with a beginning in common."""
    return lambda text: f"{key}/{text}"
