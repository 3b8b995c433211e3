"""Connections between nodes and ZooKeeper, and among nodes, that are slow, silent, one-way, or break."""

from __future__ import annotations

import random
import threading
from abc import abstractmethod

from kvlog.cluster import ClusterNode
from tests.faults.arena import Arena
from tests.faults.nemesis.background import Background
from tests.faults.nemesis.fault import Fault, leader_of
from tests.faults.nemesis.processes import lose_store
from tests.faults.proxy import Proxy
from tests.faults.rules import BLACKHOLE, STALLED, Door, Pushes, Rules, Way


class NetworkFault(Fault):
    """One that is over once its proxies pass everything again."""

    def __init__(self) -> None:
        self.harmed: list[Proxy] = []

    def heal(self, arena: Arena) -> None:  # noqa: ARG002
        """See Fault."""
        for proxy in self.harmed:
            proxy.heal()


# --- between a node and ZooKeeper -----------------------------------------------------------------------------


class _WayToZooKeeper(NetworkFault):
    """Of one node to all servers: mostly of the leader, sometimes of another node."""

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        node = leader_of(arena, draw) if draw.random() < 0.8 else draw.choice(arena.nodes)
        self.harmed = list(arena.ways[node])
        return f"{node.address} and ZooKeeper: {self.harm(draw)}"

    @abstractmethod
    def harm(self, draw: random.Random) -> str:
        """What becomes of the connections."""

    def all(self, rules: Rules) -> None:
        """The same for the connections to all servers."""
        for proxy in self.harmed:
            proxy.set(rules)


class ZkReplyLost(_WayToZooKeeper):
    """A write is carried out, and the connection breaks before its answer has come."""

    name = "zk-reply-lost"
    rows = ("F2", "F18")

    def harm(self, draw: random.Random) -> str:
        """See _WayToZooKeeper."""
        every = draw.randint(2, 12)
        self.all(Rules(lose_answer=every))
        return f"each answer to a write that is the {every}th is lost, with its connection"


class ZkHold(_WayToZooKeeper):
    """What is on its way to ZooKeeper comes much later: there is another connection, or the session is over."""

    name = "zk-hold"
    rows = ("F19",)
    lasts_s = (3.0, 8.0)

    def harm(self, draw: random.Random) -> str:
        """See _WayToZooKeeper."""
        del draw
        for proxy in self.harmed:
            held = frozenset(proxy.clients)
            proxy.set(Rules(to_server=STALLED), of=held.__contains__)
        return "what is sent on the connections that there are is held back; new ones are well"


class ZkDelay(_WayToZooKeeper):
    """All that is said takes longer."""

    name = "zk-delay"
    rows = ("F19b",)

    def harm(self, draw: random.Random) -> str:
        """See _WayToZooKeeper."""
        late_s = draw.uniform(0.02, 0.6)
        self.all(Rules(to_server=Way(delay_s=late_s), to_client=Way(delay_s=late_s)))
        return f"{late_s * 1000:.0f} ms longer in each direction"


class ZkBlackholeIn(_WayToZooKeeper):
    """Requests reach ZooKeeper, answers do not come."""

    name = "zk-blackhole-in"
    rows = ("F19b", "F18")
    lasts_s = (2.0, 8.0)

    def harm(self, draw: random.Random) -> str:
        """See _WayToZooKeeper."""
        del draw
        self.all(Rules(door=Door.SILENT, to_client=STALLED))
        return "answers do not come"


class ZkBlackholeOut(_WayToZooKeeper):
    """Requests do not reach ZooKeeper, and the node is not told."""

    name = "zk-blackhole-out"
    rows = ("F19b", "F19")
    lasts_s = (2.0, 8.0)

    def harm(self, draw: random.Random) -> str:
        """See _WayToZooKeeper."""
        del draw
        self.all(Rules(door=Door.SILENT, to_server=STALLED))
        return "requests do not come"


class ZkThrottle(_WayToZooKeeper):
    """A few bytes in a second."""

    name = "zk-throttle"
    rows = ("F19b",)
    lasts_s = (3.0, 8.0)

    def harm(self, draw: random.Random) -> str:
        """See _WayToZooKeeper."""
        rate = draw.choice([1, 50, 500, 5_000])
        self.all(Rules(to_server=Way(bytes_per_s=rate), to_client=Way(bytes_per_s=rate)))
        return f"{rate} bytes a second in each direction"


class ZkHalfOpen(_WayToZooKeeper):
    """ZooKeeper has lost the connection, and the node has not heard of it."""

    name = "zk-half-open"
    rows = ("F19b",)
    lasts_s = (2.0, 6.0)

    def harm(self, draw: random.Random) -> str:
        """See _WayToZooKeeper."""
        del draw
        for proxy in self.harmed:
            proxy.abandon()
        return "half open"


class IsolateFromZk(_WayToZooKeeper):
    """Nothing comes through, while the node reaches its peers."""

    name = "isolate-zk"
    rows = ("F36",)
    lasts_s = (3.0, 9.0)

    def harm(self, draw: random.Random) -> str:
        """See _WayToZooKeeper."""
        del draw
        self.all(BLACKHOLE)
        return "nothing comes through"


# --- among nodes ----------------------------------------------------------------------------------------------


class _AmongPeers(NetworkFault):
    """Between one node and the others."""

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        node = draw.choice(arena.nodes)
        self.harmed = list(arena.doors.values())
        return f"{node.address}: {self.harm(arena, node, draw)}"

    @abstractmethod
    def harm(self, arena: Arena, node: ClusterNode, draw: random.Random) -> str:
        """What becomes of the connections."""

    @staticmethod
    def from_others(arena: Arena, node: ClusterNode, rules: Rules) -> None:
        """For connections that the others make to the node; what it says to itself passes."""
        own = arena.comes_from(node)
        arena.doors[node].set(rules, of=lambda port: not own(port))

    @staticmethod
    def to_others(arena: Arena, node: ClusterNode, rules: Rules) -> None:
        """For connections that the node makes to the others."""
        for other in arena.nodes:
            if other is not node:
                arena.doors[other].set(rules, of=arena.comes_from(node))


class PeerBlackholeIn(_AmongPeers):
    """What the others say to a node does not come, pushes above all."""

    name = "peer-blackhole-in"
    rows = ("F34", "F36")

    def harm(self, arena: Arena, node: ClusterNode, draw: random.Random) -> str:
        """See _AmongPeers."""
        del draw
        self.from_others(arena, node, BLACKHOLE)
        return "nothing that others say to it comes"


class PeerBlackholeOut(_AmongPeers):
    """What a node says to the others does not come: its pushes, or the writes that it forwards."""

    name = "peer-blackhole-out"
    rows = ("F34", "F36")

    def harm(self, arena: Arena, node: ClusterNode, draw: random.Random) -> str:
        """See _AmongPeers."""
        del draw
        self.to_others(arena, node, BLACKHOLE)
        return "nothing that it says to others comes"


class IsolateFromPeers(_AmongPeers):
    """A node and the others do not reach each other; ZooKeeper is reached by all."""

    name = "isolate-peers"
    rows = ("F36",)

    def harm(self, arena: Arena, node: ClusterNode, draw: random.Random) -> str:
        """See _AmongPeers."""
        del draw
        self.from_others(arena, node, BLACKHOLE)
        self.to_others(arena, node, BLACKHOLE)
        return "it and its peers do not reach each other"


class Isolate(_AmongPeers):
    """A node reaches nobody but its clients."""

    name = "isolate"
    rows = ("F5", "F36")
    lasts_s = (3.0, 9.0)

    def harm(self, arena: Arena, node: ClusterNode, draw: random.Random) -> str:
        """See _AmongPeers."""
        del draw
        self.harmed += arena.ways[node]
        self.from_others(arena, node, BLACKHOLE)
        self.to_others(arena, node, BLACKHOLE)
        for way in arena.ways[node]:
            way.set(BLACKHOLE)
        return "it reaches neither its peers nor ZooKeeper"


class PeerReset(_AmongPeers):
    """Connections among nodes are reset again and again, whatever is under way on them."""

    name = "peer-reset"
    rows = ("F34", "F52")

    def __init__(self) -> None:
        super().__init__()
        self._background: Background | None = None

    def harm(self, arena: Arena, node: ClusterNode, draw: random.Random) -> str:
        """See _AmongPeers."""
        del arena, node
        every_s = draw.uniform(0.05, 0.5)

        def work(stopping: threading.Event) -> None:
            while not stopping.wait(every_s):
                for proxy in self.harmed:
                    proxy.reset()

        self._background = Background(work)
        return f"it and all others: each {every_s * 1000:.0f} ms, all connections among nodes are reset"

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        if self._background is not None:
            self._background.stop()
        super().heal(arena)


class SnapshotCut(_AmongPeers):
    """A node has lost its store, and each answer to it breaks off soon: the copies of other stores above all."""

    name = "snapshot-cut"
    rows = ("F39",)
    settles_s = 20.0

    def __init__(self) -> None:
        super().__init__()
        self._victim: ClusterNode | None = None

    def harm(self, arena: Arena, node: ClusterNode, draw: random.Random) -> str:
        """See _AmongPeers."""
        self._victim = node
        cut_after = draw.choice([100, 3_000, 30_000])
        self.to_others(arena, node, Rules(to_client=Way(cut_after=cut_after)))
        lose_store(arena, node)
        return f"it has lost its store, and hears {cut_after} bytes on each connection to others"

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        super().heal(arena)
        if self._victim is not None:
            arena.revive(self._victim)


class _AllDoors(NetworkFault):
    """In front of all nodes."""

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        rules, what = self.rules_of(draw)
        self.harmed = list(arena.doors.values())
        for proxy in self.harmed:
            proxy.set(rules)
        return what

    @abstractmethod
    def rules_of(self, draw: random.Random) -> tuple[Rules, str]:
        """What becomes of what nodes say to each other, for the proxies and for people."""


class ForwardReplyLost(_AllDoors):
    """A forwarded write is carried out, and the connection breaks before its answer has come."""

    name = "forward-reply-lost"
    rows = ("F2", "F52")

    def rules_of(self, draw: random.Random) -> tuple[Rules, str]:
        """See _AllDoors."""
        every = draw.randint(1, 5)
        return Rules(lose_answer=every), f"each answer to a forwarded write that is the {every}th is lost"


class PushDuplicate(_AllDoors):
    """Pushes come twice, side by side."""

    name = "push-duplicate"
    rows = ("F29", "F34")

    def rules_of(self, draw: random.Random) -> tuple[Rules, str]:
        """See _AllDoors."""
        every = draw.randint(1, 3)
        return Rules(pushes=Pushes(double=every)), f"each push that is the {every}th comes twice"


class PushReorder(_AllDoors):
    """Pushes overtake each other, and old ones come again."""

    name = "push-reorder"
    rows = ("F34",)

    def rules_of(self, draw: random.Random) -> tuple[Rules, str]:
        """See _AllDoors."""
        every, again = draw.randint(2, 6), draw.randint(1, 4)
        return (
            Rules(pushes=Pushes(overtake=every, replay=again)),
            f"each push that is the {every}th is overtaken; behind each {again}th, an old one comes again",
        )


class PushDelay(_AllDoors):
    """Pushes come late; so late, perhaps, that nobody waits for their answers any more."""

    name = "push-delay"
    rows = ("F34", "F35")

    def rules_of(self, draw: random.Random) -> tuple[Rules, str]:
        """See _AllDoors."""
        late_s = draw.choice([0.02, 0.2, 0.9, 2.5])
        return Rules(pushes=Pushes(delay_s=late_s)), f"each push comes {late_s * 1000:.0f} ms late"
