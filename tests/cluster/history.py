"""Writers that note every outcome, and the check of what they noted against the log itself."""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kazoo.client import KazooClient

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.entry import LogEntry, decode_entry
from kvlog.errors import Unavailable
from tests.faults.checkers import once, revisions
from tests.faults.operations import Evidence, Kind, Operation, Outcome

LOG_S = 20.0

ONCE_S = 30.0
"""How long a write under an id may be tried again until it is committed."""


PAUSE_S = 0.01
"""Between two writes of one writer: without it, several of them leave no processor to the nodes that come up."""


@dataclass(frozen=True)
class Noted:
    """One write and what was answered; ``outcome`` is committed, refused, unknown or silence.

    A write under a ``request_id`` may have been tried several times, on any node.
    """

    value: str
    outcome: str
    revision: int
    invoked_at: float
    answered_at: float
    key: str = ""
    request_id: str = ""
    index: int = -1
    tries: int = 1


class History:
    """What several writers saw. The log from before it began is not its business."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.noted: list[Noted] = []
        self._begin = applied_index(cluster)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._name = uuid.uuid4().hex[:6]  # several histories may share a log

    def _key(self) -> str:
        """One of a few that nobody else writes."""
        return f"key{random.randrange(8)}-{self._name}"

    def _value(self) -> str:
        with self._lock:
            return f"value-{self._name}-{next(self._numbers)}"

    def _note(self, noted: Noted) -> Noted:
        with self._lock:
            self.noted.append(noted)
        return noted

    def write(self, node: ClusterNode, *, timeout_s: float = 5) -> Noted:
        """One write through ``node``, of a value that no other write has."""
        key, value = self._key(), self._value()
        invoked_at = time.monotonic()
        try:
            answer = node.update(key, value, timeout_s=timeout_s)
            outcome, revision = answer.body["outcome"], answer.body.get("revision", 0)
        except Unavailable:
            outcome, revision = "silence", 0
        return self._note(Noted(value, outcome, revision, invoked_at, time.monotonic(), key=key))

    def write_once(self, nodes: Sequence[ClusterNode], *, key: str = "", timeout_s: float = 5) -> Noted:
        """One write under an id of its own, tried on one of the nodes after the other until it is committed."""
        value = self._value()
        key, request_id = key or self._key(), f"id-{value}"
        invoked_at = time.monotonic()
        tries = 0
        for node in itertools.cycle(nodes):
            tries += 1
            try:
                answer = node.update(key, value, timeout_s=timeout_s, request_id=request_id)
            except Unavailable:
                time.sleep(0.02)  # nobody there: do not spin
            else:
                if answer.status == 200:
                    break
                assert answer.status in (503, 504), f"{request_id} can not be refused for good: {answer}"
            assert time.monotonic() < invoked_at + ONCE_S, f"{request_id} has no outcome after {ONCE_S} s"
        body = answer.body
        return self._note(
            Noted(
                value,
                body["outcome"],
                body["revision"],
                invoked_at,
                time.monotonic(),
                key=key,
                request_id=request_id,
                index=body["index"],
                tries=tries,
            )
        )

    def count(self, outcome: str) -> int:
        """How many writes ended so."""
        with self._lock:
            return sum(noted.outcome == outcome for noted in self.noted)

    def repeat(self, most: int = 20) -> None:
        """Each of the last writes under an id is answered by every node as it was at first, and done no more."""
        once = [noted for noted in self.noted if noted.request_id][-most:]
        assert once, "nothing was written under an id"
        for noted in once:
            for node in self.cluster.running:
                answer = node.update(noted.key, noted.value, request_id=noted.request_id)
                said = (answer.status, answer.body.get("revision"), answer.body.get("index"))
                assert said == (200, noted.revision, noted.index), f"{noted}: {answer}"
                assert answer.headers["idempotent-replayed"] == "true"

    def check(self) -> list[LogEntry]:
        """Compare with the log: committed once and in order, refused never, unknown at most once.

        What is trimmed can not be compared; it must not be there again.
        """
        log = read_log(self.cluster, self._begin)
        evidence = Evidence(tuple(map(_operation, self.noted)), tuple(log))
        assert revisions.check(evidence) + once.check(evidence) == []
        return log


def _operation(noted: Noted) -> Operation:
    """The same, for the checkers. Which client it was does not matter: none of them reads."""
    outcomes = {"committed": Outcome.OK, "refused": Outcome.REFUSED}
    return Operation(
        number=int(noted.value.rpartition("-")[2]),
        process=0,
        workload="history",
        kind=Kind.WRITE,
        node="",
        invoked_ns=round(noted.invoked_at * 1e9),
        returned_ns=round(noted.answered_at * 1e9),
        outcome=outcomes.get(noted.outcome, Outcome.UNKNOWN),
        key=noted.key,
        argument=noted.value,
        revision=noted.revision,
        index=noted.index,
        request_id=noted.request_id,
        tries=noted.tries,
    )


class Writers:
    """Threads that write through the given nodes until they are told to stop.

    ``once`` more of them write under ids and try again elsewhere; the n-th of these goes to the n-th node first.
    """

    def __init__(
        self,
        history: History,
        nodes: Sequence[ClusterNode],
        *,
        threads: int = 3,
        once: int = 0,
        timeout_s: float = 5,
    ) -> None:
        self._history = history
        self._nodes = list(nodes)
        self._timeout_s = timeout_s
        self._stopped = threading.Event()
        self._failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        self._threads += [
            threading.Thread(target=self._run_once, args=(number % len(self._nodes),), daemon=True)
            for number in range(once)
        ]

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE_S):
            self._history.write(random.choice(self._nodes), timeout_s=self._timeout_s)

    def _run_once(self, first: int) -> None:
        nodes = self._nodes[first:] + self._nodes[:first]
        try:
            while not self._stopped.wait(PAUSE_S):
                self._history.write_once(nodes, timeout_s=self._timeout_s)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for the writers
            self._failed.append(error)

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(ONCE_S + self._timeout_s + 15)
            assert not thread.is_alive(), "a writer hangs"
        if self._failed:
            raise self._failed[0]


def applied_index(cluster: Cluster) -> int:
    """An entry that is in the log already, if any node is up that could tell: the last one that it has applied."""
    return max(0, cluster.running[0].status()["applied_index"]) if cluster.running else 0


def read_log(cluster: Cluster, first: int = 0) -> list[LogEntry]:
    """The entries from ``first``, or from where the log begins, straight from ZooKeeper.

    Their names, places and chain are checked.
    """
    client = KazooClient(cluster.hosts, timeout=LOG_S)
    client.start(timeout=LOG_S)
    try:
        entries: list[LogEntry] = []
        segments = sorted(client.get_children(f"{cluster.root}/log"))
        begin = max(first, 1000 * int(segments[0]))
        for segment in (segment for segment in segments if int(segment) >= begin // 1000):
            names = sorted(client.get_children(f"{cluster.root}/log/{segment}"))
            assert len(names) <= 1_000
            names = [name for name in names if name >= f"entry-{begin % 1000:010d}" or entries]
            reads = [client.get_async(f"{cluster.root}/log/{segment}/{name}") for name in names]
            for name, read in zip(names, reads, strict=True):
                data, stat = read.get(timeout=LOG_S)
                index = begin + len(entries)
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
