"""Clusters whose log is trimmed within seconds, and writers that keep account of what they were promised."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from kazoo.client import KazooClient

from kvlog.cluster import Cluster, ClusterNode, NodeCommand
from kvlog.errors import Unavailable
from kvlog.processes import wait_until

from .small_segments import SEGMENT

WAIT_S = 30.0

_PROGRAM = Path(__file__).with_name("small_segments.py")


def small_segments(*flags: str) -> NodeCommand:
    """Nodes with segments of SEGMENT entries, and these flags."""
    return lambda _: [sys.executable, str(_PROGRAM), *flags]


def arm(node: ClusterNode, spec: str) -> None:
    assert node.request("PUT", "/v1/failpoints", body=spec.encode()).status == 200


class Ledger:
    """Writes, each to a key of its own, and which of them were acknowledged.

    Keys and values begin with ``name``: several ledgers on one cluster need one each.
    """

    def __init__(self, name: str = "key") -> None:
        self._name = name
        self.acknowledged: dict[str, str] = {}
        self.revisions: dict[int, str] = {}
        self.refused: set[str] = set()
        self._lock = threading.Lock()
        self._numbers = iter(range(1_000_000))

    def write(self, node: ClusterNode, *, ack: str = "log", size: int = 10) -> str:
        """One write; returns its outcome: committed, refused, unknown or silence."""
        with self._lock:
            number = next(self._numbers)
        key, value = f"{self._name}-{number}", f"{self._name}-value-{number}-".ljust(size, "x")
        try:
            outcome = (answer := node.update(key, value, ack=ack)).body["outcome"]
        except Unavailable:
            return "silence"
        with self._lock:
            if outcome == "committed":
                assert self.revisions.setdefault(answer.body["revision"], key) == key, (
                    "one revision for two writes"
                )
                self.acknowledged[key] = value
            elif outcome == "refused":
                self.refused.add(key)
        return str(outcome)

    def fill(self, node: ClusterNode, entries: int, *, size: int = 10) -> None:
        """Write until the log has got these many entries longer; one writer, so that each write is an entry."""
        for _ in range(entries):
            assert self.write(node, size=size) == "committed"

    def check(self, node: ClusterNode) -> None:
        """The node has all that was acknowledged, and nothing that was refused."""
        for key, value in [*self.acknowledged.items()]:
            assert node.read(key).body["value"] == value, f"{key} on {node.address}"
        for key in self.refused:
            assert node.read(key).body["value"] == "", f"{key} on {node.address} was refused"

    def check_all(self, cluster: Cluster) -> None:
        """The same of every node: all have the same digest, so it is enough to ask one."""
        cluster.wait_for_agreement()
        self.check(cluster.nodes[0])

    @contextmanager
    def writing(self, cluster: Cluster, *, pause_s: float = 0.02) -> Iterator[None]:
        """One writer goes on through whichever nodes are there, with a pause after each write."""
        stopped = threading.Event()

        def run() -> None:
            number = 0
            while not stopped.wait(pause_s):
                number += 1
                nodes = cluster.running
                if nodes:
                    self.write(nodes[number % len(nodes)])

        writer = threading.Thread(target=run, daemon=True)
        writer.start()
        try:
            yield
        finally:
            stopped.set()
            writer.join(WAIT_S)
            assert not writer.is_alive(), "the writer hangs"


class Log:
    """A cluster's log as it is in ZooKeeper, looked at without the nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self._root = cluster.root
        self._client = KazooClient(cluster.hosts, timeout=WAIT_S)

    def __enter__(self) -> Log:
        self._client.start(timeout=WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop()
        self._client.close()

    @property
    def first_index(self) -> int:
        """Where it says that it begins."""
        data, _ = self._client.get(f"{self._root}/log")
        return int(msgspec.json.decode(data)["first_index"]) if data else 0

    def segments(self) -> dict[int, int]:
        """How many entries each segment has that is there; one that goes meanwhile is not."""
        found = {}
        for name in sorted(self._client.get_children(f"{self._root}/log")):
            if stat := self._client.exists(f"{self._root}/log/{name}"):
                found[int(name)] = stat.numChildren
        return found

    @property
    def entries(self) -> int:
        """How many entries are there."""
        return sum(self.segments().values())

    def durable_index(self, node: ClusterNode) -> int:
        """What a replica has published."""
        data, _ = self._client.get(f"{self._root}/replicas/{node.address}")
        return int(msgspec.json.decode(data)["durable_index"])

    def depose(self, node: ClusterNode) -> None:
        """Delete a node's candidate, as another one does that takes it for dead."""
        path = f"{self._root}/election"
        for name in self._client.get_children(path):
            if name.startswith(f"{node.address}_"):
                self._client.delete(f"{path}/{name}")


def mark(leader: ClusterNode, node: ClusterNode) -> dict:
    """What the leader knows of a replica; empty if it does not count on it."""
    replicas = leader.status()["replicas"]
    return next((replica for replica in replicas if replica["node"] == node.address), {})


def first_index(node: ClusterNode) -> int:
    return int(node.status()["log"]["first_index"])


def fill_until_trimmed(ledger: Ledger, leader: ClusterNode, beyond: int) -> None:
    """Write until the log begins behind the entry ``beyond``."""
    end = time.monotonic() + 2 * WAIT_S
    while first_index(leader) <= beyond + 1:
        assert time.monotonic() < end, f"the log is not trimmed: {leader.status()}"
        ledger.fill(leader, SEGMENT // 2)


def wait_until_held(leader: ClusterNode, *nodes: ClusterNode) -> None:
    """Wait until these replicas have published that they hold all that the leader had when this was called."""
    index = leader.status()["applied_index"]
    assert wait_until(
        lambda: all(mark(leader, node).get("durable_index", -1) >= index for node in nodes), WAIT_S
    ), leader.status()
