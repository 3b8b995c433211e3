"""What operators do to a cluster that is well."""

from __future__ import annotations

import random
import threading
from contextlib import suppress

from kvlog.errors import Unavailable
from tests.faults.arena import Arena
from tests.faults.nemesis.background import Background
from tests.faults.nemesis.fault import follower_of
from tests.faults.nemesis.processes import NodeFault, come_back_stale

UP_S = 20.0
STALE_S = 0.5


class _Operator(NodeFault):
    """Goes on until it is healed; then everything is as it was."""

    background: Background | None = None

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        if self.background is not None:
            self.background.stop()
        arena.heal_nodes(self.victims, UP_S)


class Transfer(_Operator):
    """The leader is told to hand over, again and again."""

    name = "transfer"
    rows = ("F9",)

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        every_s = draw.uniform(0.3, 2.0)

        def work(stopping: threading.Event) -> None:
            while not stopping.wait(every_s):
                leader = arena.leader()
                if leader is not None:
                    with suppress(Unavailable):  # it has ended meanwhile
                        leader.request("POST", "/v1/admin/transfer")

        self.background = Background(work)
        return f"the leader is told to hand over, each {every_s:.1f} s"


class CatchUp(_Operator):
    """A node comes back stale and is told to catch up, again and again, under whatever load there is."""

    name = "catch-up"
    rows = ("F9", "F41")
    lasts_s = (4.0, 8.0)
    settles_s = 20.0

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        node = follower_of(arena, draw)
        self.victims = [node]

        def work(stopping: threading.Event) -> None:
            while not stopping.is_set():
                come_back_stale(arena, node)
                stopping.wait(STALE_S)
                arena.heal_nodes(self.victims, UP_S)

        self.background = Background(work)
        return f"{node.address} comes back stale and catches up, again and again"
