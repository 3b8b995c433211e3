"""Real node processes on a real ensemble."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from kvlog.cluster import Cluster
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports, wait_until


@pytest.fixture
def make_cluster(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters that are not started yet, each below a root of its own."""
    made: list[Cluster] = []

    def make(size: int = 3, **settings: object) -> Cluster:
        ports = free_ports(size)
        directory = keeper.directory / f"cluster-{uuid.uuid4().hex[:8]}"
        root = f"/test-{uuid.uuid4().hex[:8]}"
        cluster = Cluster(keeper, ensemble.hosts, ports=ports, root=root, directory=directory, **settings)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        for node in cluster.running:
            node.resume()
            node.kill()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes that are up and agree on a leader."""
    cluster = make_cluster()
    cluster.start()
    return cluster


@pytest.fixture
def fragile_ensemble(ensemble: LocalEnsemble) -> Iterator[LocalEnsemble]:
    """The ensemble, for tests that harm it: whole again afterwards."""
    yield ensemble
    for server in ensemble.servers:
        if server.running:
            server.resume()
        else:
            server.start()
    assert wait_until(lambda: all(server.mode() for server in ensemble.servers), 20)
