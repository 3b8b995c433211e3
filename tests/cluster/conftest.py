"""Real node processes on a real ensemble."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from kvlog.cluster import Cluster, ClusterNode, server_command
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import Unavailable
from kvlog.processes import ProcessKeeper, free_ports, wait_until
from tests.faults.mutation import VARIABLE

WELL_S = 10.0

MUTANT_SERVER = Path(__file__).resolve().parents[1] / "faults" / "mutant_server.py"

STANDING: dict[str, Any] = {"session_timeout_s": 6, "flags": ("--retain", "1000000")}
"""Sessions that end soon after a node has been stopped; and a log that is kept whole, to be compared with."""


def mutant_command(_: int) -> list[str]:
    """``server.py`` as the mutant that the environment names."""
    return [sys.executable, str(MUTANT_SERVER)]


def new_cluster(keeper: ProcessKeeper, ensemble: LocalEnsemble, size: int = 3, **settings: Any) -> Cluster:
    """A cluster that is not started yet, below a root of its own; of mutants, if that is what is tested."""
    settings.setdefault("command", mutant_command if VARIABLE in os.environ else server_command)
    name = uuid.uuid4().hex[:8]
    directory = keeper.directory / f"cluster-{name}"
    return Cluster(
        keeper, ensemble.hosts, ports=free_ports(size), root=f"/test-{name}", directory=directory, **settings
    )


def end(cluster: Cluster) -> None:
    """Kill all nodes, whatever state they are in."""
    for node in cluster.running:
        node.resume()
        node.kill()


@pytest.fixture
def make_cluster(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters that are not started yet, each below a root of its own."""
    made: list[Cluster] = []

    def make(size: int = 3, **settings: Any) -> Cluster:
        made.append(new_cluster(keeper, ensemble, size, **settings))
        return made[-1]

    yield make
    for cluster in made:
        end(cluster)


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes that are up and agree on a leader, and an empty log: for one test."""
    cluster = make_cluster()
    cluster.start()
    return cluster


class Stand:
    """A cluster that is handed from test to test; another one takes its place if it cannot be put right."""

    def __init__(self, make: Callable[[], Cluster]) -> None:
        self.clusters: list[Cluster] = []
        self._make = make

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Kill all nodes of all clusters."""
        for cluster in self.clusters:
            end(cluster)

    def well(self) -> Cluster:
        """Three nodes that are up, whole, and agree."""
        with suppress(IndexError, Unavailable, AssertionError):
            return self._put_right(self.clusters[-1])
        self.end()
        self.clusters.append(self._make())
        self.clusters[-1].start()
        return self.clusters[-1]

    @staticmethod
    def _put_right(cluster: Cluster) -> Cluster:
        for node in cluster.nodes:
            if node.running:
                node.resume()
            else:
                node.start(wait=False)
        cluster.wait_until_settled(WELL_S)
        for node in cluster.nodes:
            assert node.request("PUT", "/v1/failpoints", body=b"").status == 200
            if node.status()["stale"]:
                assert node.catch_up().status == 200
        cluster.wait_for_agreement(WELL_S)
        return cluster


@pytest.fixture(scope="session")
def stand(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Stand]:
    """What the standing cluster stands on."""
    with Stand(lambda: new_cluster(keeper, ensemble, **STANDING)) as stand:
        yield stand


@pytest.fixture
def standing(stand: Stand) -> Cluster:
    """Three nodes that are up, whole, and agree. Other tests have written to them, and will.

    A test may stop, kill and pause them, arm failpoints and leave stores stale. What it may not do to them is what
    others would see: skip entries, leave leases behind, or strangers in the log.
    """
    return stand.well()


@pytest.fixture
def nodes(standing: Cluster) -> list[ClusterNode]:
    """The nodes of the standing cluster."""
    return standing.nodes


@pytest.fixture
def leader(standing: Cluster) -> ClusterNode:
    """The leader of the standing cluster."""
    return standing.wait_until_settled()


@pytest.fixture
def follower(standing: Cluster, leader: ClusterNode) -> ClusterNode:
    """Another one of its nodes."""
    return next(node for node in standing.nodes if node is not leader)


@pytest.fixture
def key() -> str:
    """A key that no other test has."""
    return f"key-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def fragile_ensemble(ensemble: LocalEnsemble) -> Iterator[LocalEnsemble]:
    """The ensemble, for tests that harm it: whole again afterwards."""
    yield ensemble
    for server in ensemble.servers:
        if server.running:
            server.resume()
        else:
            server.start(wait=False)
    assert wait_until(lambda: all(server.mode() for server in ensemble.servers), 20)
