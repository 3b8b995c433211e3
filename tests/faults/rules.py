"""What a proxy may be told to do to connections."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Door(StrEnum):
    """What becomes of new connections."""

    OPEN = "open"
    REFUSED = "refused"
    """The port is closed, for everybody."""
    RESET = "reset"
    """Taken, and reset at once."""
    SILENT = "silent"
    """Taken, and nothing comes of it until that is over; who has left by then was never there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What becomes of the bytes of one direction.

    Attributes:
        delay_s: each piece comes so much later.
        stalled: nothing comes until that is over; then all of it does, also from a client that has left.
        bytes_per_s: at most; 0 is no limit.
        cut_after: each connection is reset once it has carried so many bytes this way under this rule; -1: never.
    """

    delay_s: float = 0.0
    stalled: bool = False
    bytes_per_s: int = 0
    cut_after: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushes:
    """What becomes of ``POST /propagate``; each k stands for every k-th push, 0 for none.

    Attributes:
        delay_s: each push comes so much later.
        double: it comes a second time, over another connection, at about the same time.
        replay: the oldest of the last pushes comes once more, behind it.
        overtake: its connection is reset, also when it is sent again at once, and it comes behind the next push.
    """

    delay_s: float = 0.0
    double: int = 0
    replay: int = 0
    overtake: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What becomes of connections.

    Attributes:
        lose_answer: every k-th request that counts (see tests.faults.wire.Talk) is carried out, and when its
            answer comes, the connection is reset in its place; 0: none.
    """

    door: Door = Door.OPEN
    to_server: Way = Way()
    to_client: Way = Way()
    lose_answer: int = 0
    pushes: Pushes = Pushes()


PASS = Rules()

STALLED = Way(stalled=True)

BLACKHOLE = Rules(door=Door.SILENT, to_server=STALLED, to_client=STALLED)
"""Nothing comes through, and nobody is told."""
