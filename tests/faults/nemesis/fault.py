"""A kind of fault."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import ClassVar

from kvlog.cluster import ClusterNode
from tests.faults.arena import Arena


class Fault(ABC):
    """One fault that is injected and healed; made anew each time.

    Attributes:
        name: as it is asked for on the command line, in words with hyphens: "kill-leader".
        rows: those of the fault table in docs/reliability.md that it stands for.
        lasts_s: the shortest and the longest time from its injection until it is healed.
        settles_s: how long after it was healed the first write may take on every node.
    """

    name: ClassVar[str]
    rows: ClassVar[tuple[str, ...]]
    lasts_s: ClassVar[tuple[float, float]] = (2.0, 6.0)
    settles_s: ClassVar[float] = 15.0

    @classmethod
    def why_not(cls, arena: Arena) -> str | None:
        """None if it can be injected there, else what is missing on this machine."""
        del arena
        return None

    @abstractmethod
    def inject(self, arena: Arena, draw: random.Random) -> str:
        """Do it; what was done and to whom, in one sentence for the report."""

    @abstractmethod
    def heal(self, arena: Arena) -> None:
        """Undo it: afterwards everything that it has touched is up, or starting, and reachable.

        Nothing happens at the second time, nor if it was not injected. A node that has ended is started again.
        """


def leader_of(arena: Arena, draw: random.Random) -> ClusterNode:
    """The leader; any node if nobody says that it is."""
    return arena.leader() or draw.choice(arena.nodes)


def follower_of(arena: Arena, draw: random.Random) -> ClusterNode:
    """One that does not lead."""
    return draw.choice(arena.followers() or arena.nodes)
