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
from kvlog.core.entry import (
    FORMAT,
    SEGMENT_ENTRIES,
    Entry,
    LogEntry,
    Put,
    Request,
    decode_entry,
    encode_entry,
    encode_request,
)
from kvlog.errors import Unavailable
from kvlog.processes import wait_until
from kvlog.zookeeper.layout import Layout
from kvlog.zookeeper.peek import Peek

ROOT = Path(__file__).resolve().parent.parent.parent

SESSION_S = 10.0
COMMAND_S = 60.0
HALT_S = 15.0
AT_ONCE = 100
BY_WRITING = 10


@contextmanager
def zookeeper(hosts: str, *, timeout_s: float = SESSION_S) -> Iterator[KazooClient]:
    """A session with ZooKeeper."""
    client = KazooClient(hosts, timeout=timeout_s)
    client.start(timeout=timeout_s)
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


def fill_segment(cluster: Cluster, node: ClusterNode, *, left: int = 0) -> None:
    """Bring the log to its second segment: entries made by hand, as the leader makes them, and then its own.

    ``left``: how many entries short of that it stays; then all are made by hand.
    """
    layout, last = Layout(cluster.root), Peek(cluster.hosts, cluster.root).last_entries(1)[0].item
    with zookeeper(cluster.hosts) as client:
        while last.index < SEGMENT_ENTRIES - (left or BY_WRITING):
            transaction = client.transaction()
            for _ in range(min(AT_ONCE, SEGMENT_ENTRIES - (left or BY_WRITING) - last.index)):
                last = decode_entry(last.index + 1, _after(last))
                transaction.create(layout.entry_prefix(0), last.data, sequence=True)
            results = transaction.commit()
            assert results[-1] == layout.entry(last.index), results[-1]
    assert wait_until(lambda: node.status()["applied_index"] == last.index, HALT_S), cluster.describe()
    index = last.index
    while not left and index < SEGMENT_ENTRIES:
        answer = node.update("filler", "written", ack="log")
        assert answer.status == 200, answer
        index = answer.body["index"]


def _after(last: LogEntry) -> bytes:
    """The next entry."""
    revision = last.entry.last_revision + 1
    header = Entry(
        format=FORMAT,
        epoch=last.entry.epoch,
        batch_id=f"by-hand-{revision}",
        prev_hash=last.hash,
        first_revision=revision,
        time_ms=1,
    )
    put = Put(f"filler-{revision}", "by hand", create=revision, version=1)
    return encode_entry(header, (encode_request(Request(effects=(put,))),))


def wait_until_halted(cluster: Cluster, nodes: list[ClusterNode], index: int) -> None:
    """Wait until these nodes have halted at an index, with everything before it applied."""

    def halted() -> bool:
        try:
            states = [node.status() for node in nodes]
        except Unavailable:
            return False
        return all((state["halted_at"], state["applied_index"]) == (index, index - 1) for state in states)

    assert wait_until(halted, HALT_S), cluster.describe()
