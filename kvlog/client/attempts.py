"""Which node is asked next, when, for how long, and when to give up: the whole policy, without clock or network.

- The node that answered last is asked first, then the others in their order, round and round.
- A try gets an equal share of the time that is left among the nodes that this round has not asked yet: a node that
  is silent costs its share, and no more.
- A node that has failed is left alone for a while, which doubles with each of its failures, or for as long as its
  ``Retry-After`` says. While all are left alone there is a pause.
- Nothing begins that could not be answered before the deadline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

TRY_MAX_S = 5.0
"""A try takes no longer, however much time there is: a node that is silent must not hold up a call for longer."""

TRY_MIN_S = 0.02
"""With less time than this left, no try is begun."""

BACKOFF_FIRST_S = 0.05
"""How long a node is left alone after its first failure: about the time that a change of leader takes."""

BACKOFF_MAX_S = 1.0

DOUBLINGS_MAX = 16
"""More of them would change nothing."""

RETRY_AFTER_MAX_S = 2.0
"""A node that asks to be left alone for longer is asked again nevertheless."""


@dataclass(frozen=True, slots=True)
class Try:
    """Ask the node with this number, and wait for its answer for at most ``seconds``."""

    node: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Ask nobody for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The time is over, or would be before anybody could be asked again.

    ``in_doubt``: a try may have done what was asked without saying so.
    """

    in_doubt: bool


class Attempts:
    """The tries of one call.

    Args:
        nodes: how many there are.
        first: the number of the node to begin with.
        now: the time in seconds, on any clock that only goes forward; the same one as in all calls.
        timeout: seconds from ``now`` until the call must have ended.
        chance: a number from 0 up to 1, evenly spread, anew at each call.
    """

    def __init__(self, nodes: int, *, first: int, now: float, timeout: float, chance: Callable[[], float]) -> None:
        self._nodes = nodes
        self._at = first % nodes
        self._deadline = now + timeout
        self._chance = chance
        self._tries = 0
        self._failures = [0] * nodes
        self._not_before = [-math.inf] * nodes
        self._in_doubt = False
        self._has_answer = False

    @property
    def in_doubt(self) -> bool:
        """Whether a try that has failed may have done what was asked."""
        return self._in_doubt

    def next(self, now: float) -> Try | Pause | GiveUp:
        """What to do now; each ``Try`` is followed by an end of the call, or by ``failed``."""
        left = self._deadline - now
        if left < TRY_MIN_S or (self._has_answer and all(self._failures)):
            return GiveUp(self._in_doubt)
        for step in range(self._nodes):
            node = (self._at + step) % self._nodes
            if self._not_before[node] <= now:
                unasked = self._nodes - self._tries % self._nodes
                self._at, self._tries = node, self._tries + 1
                return Try(node, min(TRY_MAX_S, max(TRY_MIN_S, left / unasked)))
        pause = min(self._not_before) - now
        if left - pause < TRY_MIN_S:
            return GiveUp(self._in_doubt)
        return Pause(pause)

    def failed(self, now: float, *, in_doubt: bool, retry_after: float = 0.0, last_word: bool = False) -> None:
        """The last try has not brought an answer that ends the call.

        Args:
            now: the time.
            in_doubt: it may have done what was asked.
            retry_after: seconds for which the node wants to be left alone; 0 if it has not said so.
            last_word: what it has answered is the call's end, unless another node, asked once, knows better.
        """
        node = self._at
        self._in_doubt |= in_doubt
        backoff = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(self._failures[node], DOUBLINGS_MAX))
        alone = max(backoff * (0.5 + 0.5 * self._chance()), min(retry_after, RETRY_AFTER_MAX_S))
        self._failures[node] += 1
        self._not_before[node] = math.inf if last_word else now + alone
        self._has_answer |= last_word
        self._at = (node + 1) % self._nodes
