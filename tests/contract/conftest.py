"""Two worlds in which the ports Log and Election are put to the same tests: in memory, and a real ZooKeeper."""

from __future__ import annotations

import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from kazoo.client import KazooClient

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.describe import describe
from kvlog.core.entry import first_of, segment_of
from kvlog.core.machine import REQUEST_WINDOW, Identity
from kvlog.core.values import Member, Replica
from kvlog.ensemble import LocalEnsemble
from kvlog.memory import ManualClock, MemoryEnsemble, MemorySession
from kvlog.ports import Election, Log
from kvlog.zookeeper.election import ZooKeeperElection
from kvlog.zookeeper.layout import Layout
from kvlog.zookeeper.log import ZooKeeperLog
from kvlog.zookeeper.session import ZooKeeperSession

WAIT_S = 15.0
SESSION_TIMEOUT_S = 4.0

E = TypeVar("E")


class Events:
    """What an adapter has posted. Each event is taken by one ``wait``."""

    def __init__(self) -> None:
        self._events: list[ev.Event] = []
        self.failures: list[str] = []  # why the adapter has wanted to end the process
        self._changed = threading.Condition()
        self.over = threading.Event()

    def post(self, event: ev.Event) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def fail(self, code: int, reason: str) -> None:
        """What an adapter calls when the process must end: its thread goes no further while the test runs."""
        with self._changed:
            self.failures.append(f"exit {code}: {reason}")
            self._changed.notify_all()
        self.over.wait(60)

    def wait_for_failure(self) -> str:
        """Why the process ends, which is expected."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.failures, WAIT_S), "the adapter goes on"
            return self.failures.pop()

    def wait(self, kind: type[E], matches: Callable[[E], bool] = lambda _: True, timeout_s: float = WAIT_S) -> E:
        """The first event of this kind that matches, once it is there; it is taken out."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for event in self._events:
                    if isinstance(event, kind) and matches(event):
                        self._events.remove(event)
                        return event
                left_s = 0.0 if self.failures else end - time.monotonic()
                if left_s <= 0:
                    there = [describe(event) for event in self._events]
                    raise AssertionError(f"no {kind} in {timeout_s} s, but {there}, failures {self.failures}")
                self._changed.wait(left_s)

    def count(self, kind: type) -> int:
        """How many of this kind are there."""
        with self._changed:
            return sum(isinstance(event, kind) for event in self._events)


class WorldNode(ABC):
    """One node's adapters."""

    me: Member
    events: Events
    log: Log
    election: Election

    @property
    @abstractmethod
    def session_id(self) -> int: ...

    @abstractmethod
    def expire(self) -> None:
        """End the session, as ZooKeeper does when it has not heard of the node for too long."""

    # --- what most tests do ---

    def catch_up(self) -> None:
        """From here on the node sees what others have done so far: its server may lag behind theirs."""
        self.tail(confirm=True)

    def enrolled(self) -> ev.Enrolled:
        """Become a candidate."""
        self.election.enrol(do.Enrol())
        return self.events.wait(ev.Enrolled)

    def tail(self, *, confirm: bool = True) -> int:
        """The log's tail."""
        return self.tail_read(confirm=confirm).tail_index

    def tail_read(self, *, confirm: bool = True) -> ev.TailRead:
        """All that is told with the log's tail."""
        self.log.read_tail(do.ReadTail(confirm))
        return self.events.wait(ev.TailRead)

    def append(self, index: int, data: bytes, fence: str) -> ev.Appended | ev.AppendFenced:
        """Append and wait for what became of it."""
        name = uuid.uuid4().hex
        self.log.append(do.Append(fence, name, index, data))
        return self.events.wait(ev.Appended | ev.AppendFenced, lambda found: found.batch_id == name)  # type: ignore[arg-type]

    def fill(self, count: int, fence: str) -> None:
        """Append entries up to index ``count - 1``, many of them on their way at a time."""
        for index in range(self.tail() + 1, count):
            self.log.append(do.Append(fence, f"fill-{index}", index, b"%d" % index, bytes_of(index + 1)))
            if index % 100 == 99 or index == count - 1:
                self.events.wait(ev.Appended, lambda event, index=index: event.index == index)  # type: ignore[misc]

    def read(self, first: int, count: int) -> tuple[bytes, ...]:
        """Entries of the log."""
        self.log.read_entries(do.ReadEntries(first, count))
        return self.events.wait(ev.EntriesRead, lambda found: found.first_index == first).entries

    def trim(self, first_index: int, fence: str, holders: tuple[Replica, ...] = ()) -> ev.Trimmed | ev.Failed:
        """Take one step of a trim, and wait for what became of it."""
        effect = do.Trim(fence, first_index, holders)
        self.log.trim(effect)
        return self.events.wait(
            ev.Trimmed | ev.Failed,  # type: ignore[arg-type]
            lambda found: isinstance(found, ev.Trimmed) or found.effect == effect,
        )

    def write_skip(self, index: int, data: bytes) -> None:
        """Put a skip in an entry's place."""
        self.log.write_skip(do.WriteSkip(index, data))
        self.events.wait(ev.SkipWritten, lambda found: found.index == index)

    def publish(self, mark: Replica) -> None:
        """Publish a mark."""
        self.election.publish_mark(do.PublishMark(mark))
        self.events.wait(ev.MarkPublished, lambda found: found.mark == mark)

    def remove_replica(self, node_id: str) -> None:
        """Stop counting on a node."""
        self.election.remove_replica(do.RemoveReplica(node_id))
        self.events.wait(ev.ReplicaRemoved, lambda found: found.node_id == node_id)

    def replicas(self) -> tuple[Replica, ...]:
        """The replicas in order, as of now."""
        self.catch_up()
        self.election.list_replicas(do.ListReplicas())
        return self.events.wait(ev.ReplicasListed).replicas

    def candidates(self) -> tuple:
        """The candidates in order, as of now."""
        self.catch_up()
        self.election.list_candidates(do.ListCandidates())
        return self.events.wait(ev.CandidatesListed).candidates

    def members(self) -> tuple[Member, ...]:
        """The members in order, as of now."""
        self.catch_up()
        self.election.list_members(do.ListMembers())
        return self.events.wait(ev.MembersListed).members

    def joined(self, mode: str = "catchup") -> ev.Joined:
        """Become a member."""
        self.election.join(do.Join(mode))
        return self.events.wait(ev.Joined)


def bytes_of(count: int) -> int:
    """The size of the first ``count`` entries that ``fill`` appends."""
    return sum(len(b"%d" % index) for index in range(count))


class World(ABC):
    """Where nodes share a log."""

    @abstractmethod
    def node(self, node_id: str, instance: str = "") -> WorldNode:
        """A node that is connected."""


class MemoryNode(WorldNode):
    def __init__(self, ensemble: MemoryEnsemble, me: Member) -> None:
        self.me, self.events, self._ensemble = me, Events(), ensemble
        self.session = MemorySession(ensemble, me, self.events.post, ManualClock())
        self.log = self.election = self.session
        self.session.connect()
        self.events.wait(ev.SessionConnected)

    @property
    def session_id(self) -> int:
        return self.session.session_id

    def expire(self) -> None:
        self._ensemble.end_session(self.session.session_id)
        self.session.connect()


class MemoryWorld(World):
    def __init__(self) -> None:
        self.ensemble = MemoryEnsemble()

    def node(self, node_id: str, instance: str = "") -> WorldNode:
        return MemoryNode(self.ensemble, member(node_id, instance))


class RealClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return round(time.time() * 1000)


class ZooKeeperNode(WorldNode):
    connected: ev.SessionConnected

    def __init__(
        self,
        hosts: str,
        root: str,
        me: Member,
        *,
        known: Identity | None,
        window: int,
        session_timeout_s: float,
    ) -> None:
        self.me, self.events, self.hosts = me, Events(), hosts
        self.said: list[str] = []
        self.session = ZooKeeperSession(
            hosts,
            Layout(root),
            known=known,
            data_dir=Path("data") / me.node_id,
            session_timeout_s=session_timeout_s,
            post=self.events.post,
            clock=RealClock(),
            say=self.said.append,
            fail=self.events.fail,
            window=window,
        )
        self.layout = self.session.layout
        self.log, self.election = ZooKeeperLog(self.session), ZooKeeperElection(self.session, me)
        self.session.start()

    @property
    def session_id(self) -> int:
        return self.session.session_id

    @property
    def client(self) -> KazooClient:
        """The adapter's own client, for a look at what it has done."""
        return self.session.client

    def fill(self, count: int, fence: str) -> None:
        """The same, but of many entries only those around the end of a segment are appended one by one."""
        begin = self.tail() + 1
        for segment in range(segment_of(begin), segment_of(count)):
            begin = max(begin, first_of(segment))
            for first in range(begin, first_of(segment + 1) - 2, 50):
                transaction = self.client.transaction()
                for index in range(first, min(first + 50, first_of(segment + 1) - 2)):
                    transaction.create(self.layout.entry_prefix(segment), b"%d" % index, sequence=True)
                transaction.commit()
            super().fill(first_of(segment + 1), fence)
        super().fill(count, fence)

    def expire(self) -> None:
        """Close the session through a second client that claims it (ZooKeeper's own way to test this)."""
        second = KazooClient(hosts=self.hosts, client_id=self.client.client_id, timeout=SESSION_TIMEOUT_S)
        second.start(timeout=WAIT_S)
        second.stop()
        second.close()

    def close(self) -> None:
        self.session.stop()
        self.client.close()
        self.events.over.set()


class ZooKeeperWorld(World):
    def __init__(self, ensemble: LocalEnsemble, root: str = "") -> None:
        self.ensemble = ensemble
        self.root = root or f"/contract-{uuid.uuid4().hex[:8]}"
        self.nodes: list[ZooKeeperNode] = []

    def node(self, node_id: str, instance: str = "") -> ZooKeeperNode:
        node = self.starting(node_id, instance)
        node.connected = node.events.wait(ev.SessionConnected)
        return node

    def starting(
        self,
        node_id: str,
        instance: str = "",
        known: Identity | None = None,
        hosts: str = "",
        window: int = REQUEST_WINDOW,
        session_timeout_s: float = SESSION_TIMEOUT_S,
    ) -> ZooKeeperNode:
        """A node that may or may not come to connect; ``known`` is the log that its store belongs to."""
        me = member(node_id, instance)
        node = ZooKeeperNode(
            hosts or self.ensemble.hosts,
            self.root,
            me,
            known=known,
            window=window,
            session_timeout_s=session_timeout_s,
        )
        self.nodes.append(node)
        return self.nodes[-1]

    def close(self) -> None:
        for node in self.nodes:
            node.close()


def member(node_id: str, instance: str = "") -> Member:
    """A node's own description; instances are hexadecimal, as in real life."""
    return Member(node_id, instance or uuid.uuid4().hex[:16], f"{node_id}:80", "catchup")


@pytest.fixture
def zookeeper_world(ensemble: LocalEnsemble) -> Iterator[ZooKeeperWorld]:
    """A root of its own on the shared ensemble. No adapter may have wanted to end the process."""
    world = ZooKeeperWorld(ensemble)
    try:
        yield world
    finally:
        world.close()
    assert [node.events.failures for node in world.nodes if node.events.failures] == []


@pytest.fixture(params=["memory", "zookeeper"])
def world(request: pytest.FixtureRequest) -> World:
    """Each implementation of the ports."""
    return MemoryWorld() if request.param == "memory" else request.getfixturevalue("zookeeper_world")
