"""Writers that note every outcome, and the check of what they noted against the log itself."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kazoo.client import KazooClient

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.entry import LogEntry, decode_entry
from kvlog.errors import Unavailable

LOG_S = 20.0


@dataclass(frozen=True)
class Noted:
    """One write and what was answered; ``outcome`` is committed, refused, unknown or silence."""

    value: str
    outcome: str
    revision: int
    invoked_at: float
    answered_at: float


class History:
    """What several writers saw."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.noted: list[Noted] = []
        self._lock = threading.Lock()
        self._numbers = iter(range(1_000_000))

    def write(self, node: ClusterNode, *, timeout_s: float = 5) -> Noted:
        """One write through ``node``, of a value that no other write has."""
        with self._lock:
            value = f"value-{next(self._numbers)}"
        invoked_at = time.monotonic()
        try:
            answer = node.update(f"key{random.randrange(8)}", value, timeout_s=timeout_s)
            outcome, revision = answer.body["outcome"], answer.body.get("revision", 0)
        except Unavailable:
            outcome, revision = "silence", 0
        noted = Noted(value, outcome, revision, invoked_at, time.monotonic())
        with self._lock:
            self.noted.append(noted)
        return noted

    def count(self, outcome: str) -> int:
        """How many writes ended so."""
        with self._lock:
            return sum(noted.outcome == outcome for noted in self.noted)

    def check(self) -> list[LogEntry]:
        """Compare with the log: committed once and in order, refused never, unknown at most once."""
        log = read_log(self.cluster)
        found: dict[str, list[int]] = {}
        for item in log:
            for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
                found.setdefault(request.effects[0].value, []).append(revision)
        for noted in self.noted:
            revisions = found.get(noted.value, [])
            if noted.outcome == "committed":
                assert revisions == [noted.revision], f"{noted}: {revisions}"
            elif noted.outcome == "refused":
                assert revisions == [], f"{noted}: {revisions}"
            else:
                assert len(revisions) <= 1, f"{noted}: {revisions}"
        committed = [noted for noted in self.noted if noted.outcome == "committed"]
        for noted in committed:
            for later in committed:
                assert noted.answered_at >= later.invoked_at or noted.revision < later.revision
        return log


class Writers:
    """Threads that write through the given nodes until they are told to stop."""

    def __init__(
        self, history: History, nodes: Sequence[ClusterNode], *, threads: int = 3, timeout_s: float = 5
    ) -> None:
        self._history = history
        self._nodes = nodes
        self._timeout_s = timeout_s
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def _run(self) -> None:
        while not self._stopped.is_set():
            noted = self._history.write(random.choice(self._nodes), timeout_s=self._timeout_s)
            if noted.outcome == "silence":
                self._stopped.wait(0.02)  # nobody there: do not spin

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(self._timeout_s + 15)
            assert not thread.is_alive(), "a writer hangs"


def read_log(cluster: Cluster) -> list[LogEntry]:
    """All entries, straight from ZooKeeper; checks their names, places and chain on the way."""
    client = KazooClient(cluster.hosts, timeout=LOG_S)
    client.start(timeout=LOG_S)
    try:
        entries: list[LogEntry] = []
        for segment in sorted(client.get_children(f"{cluster.root}/log")):
            names = sorted(client.get_children(f"{cluster.root}/log/{segment}"))
            assert len(names) <= 1_000
            for name in names:
                data, stat = client.get(f"{cluster.root}/log/{segment}/{name}")
                index = len(entries)
                assert (segment, name) == (f"{index // 1000:010d}", f"entry-{index % 1000:010d}")
                assert stat.ephemeralOwner == 0
                entries.append(decode_entry(index, data))
    finally:
        client.stop()
        client.close()
    for before, item in pairwise(entries):
        assert item.entry.prev_hash == before.hash
        assert (item.entry.epoch > before.entry.epoch) == (item.entry.leader is not None)
    return entries
