"""What people do to a cluster from outside: with ZooKeeper's own means, and with the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kazoo.client import KazooClient

from kvlog.cluster import Cluster, ClusterNode
from kvlog.errors import Unavailable
from kvlog.processes import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent

SESSION_S = 10.0
COMMAND_S = 60.0
HALT_S = 15.0


@contextmanager
def zookeeper(hosts: str) -> Iterator[KazooClient]:
    """A session with ZooKeeper."""
    client = KazooClient(hosts, timeout=SESSION_S)
    client.start(timeout=SESSION_S)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def kvlog(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m kvlog``, whatever comes of it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KVLOG_")}
    command = [sys.executable, "-m", "kvlog", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )


def move_store_away(node: ClusterNode) -> None:
    """``mv DIR/store DIR/store.before``, as the sentences say; the node does not run."""
    (node.data_dir / "store").rename(node.data_dir / "store.before")


def others(cluster: Cluster, node: ClusterNode) -> list[ClusterNode]:
    """All nodes but one."""
    return [other for other in cluster.nodes if other is not node]


def wait_until_halted(cluster: Cluster, nodes: list[ClusterNode], index: int) -> None:
    """Wait until these nodes have halted at an index, with everything before it applied."""

    def halted() -> bool:
        try:
            states = [node.status() for node in nodes]
        except Unavailable:
            return False
        return all((state["halted_at"], state["applied_index"]) == (index, index - 1) for state in states)

    assert wait_until(halted, HALT_S), cluster.describe()
