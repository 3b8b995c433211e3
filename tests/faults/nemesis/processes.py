"""Nodes that are killed, stopped, restarted, or fail at a place inside."""

from __future__ import annotations

import random
import shutil
import threading
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from kvlog.cluster import ClusterNode
from kvlog.failpoints import PLACES
from kvlog.processes import wait_until
from tests.faults.arena import Arena
from tests.faults.nemesis.background import Background
from tests.faults.nemesis.fault import Fault, follower_of, leader_of

HAMMER_S = 0.3
UP_S = 20.0
MISSED_S = 2.0
MISSED_ENTRIES = 5


class NodeFault(Fault):
    """One that is over once its nodes run again."""

    def __init__(self) -> None:
        self.victims: list[ClusterNode] = []

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        for node in self.victims:
            arena.revive(node)


class _Kill(NodeFault):
    """Kill -9 of some nodes, at once."""

    lasts_s = (0.5, 5.0)

    @abstractmethod
    def choose(self, arena: Arena, draw: random.Random) -> Sequence[ClusterNode]:
        """Whom."""

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        self.victims = list(self.choose(arena, draw))
        for node in self.victims:
            arena.kill(node)
        return f"killed {_names(self.victims)} with kill -9"


class KillLeader(_Kill):
    """The leader, at any moment of what it does."""

    name = "kill-leader"
    rows = ("F1", "F2", "F3", "F4")

    def choose(self, arena: Arena, draw: random.Random) -> Sequence[ClusterNode]:
        """See _Kill."""
        return [leader_of(arena, draw)]


class KillFollower(_Kill):
    """A node that does not lead."""

    name = "kill-follower"
    rows = ("F4",)

    def choose(self, arena: Arena, draw: random.Random) -> Sequence[ClusterNode]:
        """See _Kill."""
        return [follower_of(arena, draw)]


class KillAll(_Kill):
    """All nodes."""

    name = "kill-all"
    rows = ("F8",)

    def choose(self, arena: Arena, draw: random.Random) -> Sequence[ClusterNode]:  # noqa: ARG002
        """See _Kill."""
        return arena.nodes


class PauseLeader(NodeFault):
    """SIGSTOP of the leader for longer than its session: somebody else leads when it wakes up."""

    name = "pause-leader"
    rows = ("F5", "F6")
    lasts_s = (6.0, 9.0)

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        self.victims = [leader_of(arena, draw)]
        return _pause(self.victims[0])


class PauseFollower(NodeFault):
    """SIGSTOP of a node that does not lead, for longer or shorter than its session."""

    name = "pause-follower"
    rows = ("F35",)
    lasts_s = (1.0, 8.0)

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        self.victims = [follower_of(arena, draw)]
        return _pause(self.victims[0])


class _Goes(NodeFault):
    """One that goes on by itself until it is healed."""

    background: Background | None = None

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        if self.background is not None:
            self.background.stop()
        super().heal(arena)


class Hammer(_Goes):
    """The leader stands still for 300 ms, goes on for 300 ms, and so on."""

    name = "hammer"
    rows = ("F7",)
    lasts_s = (3.0, 8.0)

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        node = leader_of(arena, draw)
        self.victims = [node]

        def work(stopping: threading.Event) -> None:
            while node.running and not stopping.is_set():
                _pause(node)
                stopping.wait(HAMMER_S)
                arena.resume(node)
                stopping.wait(HAMMER_S)

        self.background = Background(work)
        return f"hammers on {node.address}: SIGSTOP and SIGCONT each {HAMMER_S:g} s"


class RollingRestart(_Goes):
    """Each node is told to stop, and starts again, one after the other; the next one once this one is ready."""

    name = "rolling-restart"
    rows = ("F9",)
    lasts_s = (8.0, 12.0)

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        self.victims = draw.sample(arena.nodes, len(arena.nodes))

        def work(stopping: threading.Event) -> None:
            for node in self.victims:
                if stopping.is_set():
                    return
                if node.running:
                    node.terminate()
                arena.revive(node)
                wait_until(lambda node=node: stopping.is_set() or _is_ready(arena, node), UP_S)  # type: ignore[misc]

        self.background = Background(work)
        return f"restarts {_names(self.victims)} with SIGTERM, one after the other"


class Failpoint(NodeFault):
    """A node is killed, held up, or meets an exception that nobody expects, at one of the places made for that."""

    name = "failpoint"
    rows = ("F1", "F2", "F3", "F10", "F33", "F39")
    lasts_s = (3.0, 6.0)

    AT_LEADER: ClassVar = ("before_append", "after_append", "mid_push", "before_trim", "after_handover")
    AT_COPY: ClassVar = ("mid_snapshot", "mid_install")
    """Where a node comes by only while a store is copied; whether it is depends on how much of the log is kept."""

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        place = draw.choice(sorted(PLACES))
        spec = f"{place}:{self._action(place, draw)}"
        node = leader_of(arena, draw) if place in self.AT_LEADER else draw.choice(arena.nodes)
        self.victims = [node]
        if place in self.AT_COPY:
            self.victims = list(arena.nodes)
            for other in arena.nodes:
                arena.arm(other, spec)
            lose_store(arena, node, "--failpoint", spec)
            return f"{spec} on all nodes, while {node.address} has lost its store"
        arena.arm(node, spec)
        if place == "after_handover" and node.running:
            node.terminate()
        return f"{spec} on {node.address}"

    @staticmethod
    def _action(place: str, draw: random.Random) -> str:
        hit = 1 if place in ("after_handover", "before_trim", "mid_install") else draw.randint(1, 8)
        return draw.choice([f"kill@{hit}", f"raise@{hit}", f"sleep:{draw.randint(100, 2500)}@{hit}", "sleep:50"])

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        arena.heal_nodes(self.victims, UP_S)


class RestartStale(NodeFault):
    """A node that was away comes back with what it had, and says so, until it is told to catch up."""

    name = "restart-stale"
    rows = ("F41",)
    settles_s = 20.0

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        node = follower_of(arena, draw)
        self.victims = [node]
        come_back_stale(arena, node)
        return f"{node.address} has come back with --recover stale"

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        arena.heal_nodes(self.victims, UP_S)


class LoseStore(NodeFault):
    """A node is killed, and starts again without its store."""

    name = "lose-store"
    rows = ("F37",)
    settles_s = 20.0

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        node = draw.choice(arena.nodes)
        self.victims = [node]
        lose_store(arena, node)
        return f"{node.address} has lost its store"


def lose_store(arena: Arena, node: ClusterNode, *flags: str) -> None:
    """Kill a node, and have it start without its store."""
    arena.kill(node)
    shutil.rmtree(node.data_dir / "store", ignore_errors=True)
    node.start(wait=False, flags=flags)


def come_back_stale(arena: Arena, node: ClusterNode) -> None:
    """Stop a node, let it miss something, and have it start with what it has."""
    if node.running:
        node.terminate()
    begin = arena.tail()
    wait_until(lambda: arena.tail() >= begin + MISSED_ENTRIES, MISSED_S)
    node.start(recover="stale", wait=False)


def _pause(node: ClusterNode) -> str:
    try:
        node.pause()
    except ProcessLookupError:
        return f"{node.address} was not there to be stopped"
    return f"stopped {node.address} with SIGSTOP"


def _is_ready(arena: Arena, node: ClusterNode) -> bool:
    status = arena.status(node)
    return status is not None and bool(status["ready"])


def _names(nodes: Sequence[ClusterNode]) -> str:
    return ", ".join(node.address for node in nodes)
