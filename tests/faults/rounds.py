"""The faults of a run: which ones, when, and how the cluster came back from each."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kvlog.errors import Unavailable
from tests.faults.arena import Arena
from tests.faults.clients import Client, Lives
from tests.faults.nemesis.fault import Fault
from tests.faults.operations import Outcome

TWO_AT_ONCE = 0.2
"""The share of rounds in which another fault comes on top of the first one."""

BETWEEN_S = (0.5, 2.0)
"""From the one fault's end to the next one's beginning, when all is well."""

LATE_S = 30.0
"""How long after its time a cluster is still waited for: to say how late it was, and to go on."""

LEAST_S = 2.0
"""How long it may take at least until all is seen to be well: each of the nodes is asked several things."""

AGAIN_S = 0.05
RESTART_S = 0.2

LOSING = {"lose-store", "failpoint", "snapshot-cut"}
"""Faults that take stores away, always or now and then."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Round:
    """One fault, or two at once, and what came after; times are on the monotonic clock.

    Attributes:
        names: of the faults.
        said: what was done, and to whom.
        settles_s: how long the first write on every node may take.
        healed_ns: when the undoing was done.
        writes_s: from then until the first write on each node was answered; None where that did not come.
        well_s: until all was as before; None if that did not come.
        why_not_well: what was not, and what the nodes said.
        broken: why it could not be done, or undone.
    """

    names: tuple[str, ...]
    settles_s: float
    injected_ns: int
    said: list[str] = field(default_factory=list)
    healed_ns: int = 0
    writes_s: dict[str, float | None] = field(default_factory=dict)
    well_s: float | None = None
    why_not_well: str = ""
    broken: str = ""


def plan(kinds: Sequence[type[Fault]], draw: random.Random) -> Iterator[tuple[type[Fault], ...]]:
    """The faults of each round, without an end: all kinds come up equally often, each time in another order.

    Two at once are of different families: two of the same would be after the same processes.
    """
    while True:
        turn = draw.sample(kinds, len(kinds))
        while turn:
            first = turn.pop()
            others = [each for each in turn if each.__module__ != first.__module__]
            if others and draw.random() < TWO_AT_ONCE:
                second = draw.choice(others)
                turn.remove(second)
                yield first, second
            else:
                yield (first,)


class Nemesis:
    """Carries the rounds out, one after the other."""

    def __init__(
        self,
        arena: Arena,
        probes: Sequence[Client],
        lives: Lives,
        draw: random.Random,
        say: Say,
        *,
        hold_s: float | None = None,
    ) -> None:
        """``probes``: a client for each node, which asks no other; ``hold_s``: no fault lasts longer than that."""
        self.rounds: list[Round] = []
        self._arena = arena
        self._probes = probes
        self._lives = lives
        self._draw = draw
        self._say = say
        self._hold_s = hold_s

    def round(self, kinds: Sequence[type[Fault]]) -> Round:
        """One round: inject, hold, heal, and wait until every node takes a write and is ready.

        One that could not be done or undone, or after which the nodes do not come back, says so.
        """
        settles_s = max(kind.settles_s for kind in kinds)
        this = Round(tuple(kind.name for kind in kinds), settles_s, time.monotonic_ns())
        self.rounds.append(this)
        faults = [kind() for kind in kinds]
        injected: list[Fault] = []
        self._lives.losing = any(kind.name in LOSING for kind in kinds)
        try:
            for number, fault in enumerate(faults):
                if number:
                    time.sleep(self._draw.uniform(0.0, 1.0))
                injected.append(fault)
                this.said.append(fault.inject(self._arena, self._draw))
                self._say(f"  {fault.name}: {this.said[-1]}")
            time.sleep(max(self._hold(kind) for kind in kinds))
        except Exception as error:  # noqa: BLE001 - whatever it is, the run is no good any more, and has to say so
            this.broken = f"{this.names} could not be injected: {error!r}"
        finally:
            for fault in reversed(injected):
                self._heal(fault, this)
            this.healed_ns = time.monotonic_ns()
        if not this.broken:
            self._wait_until_well(this)
            self._lives.losing = False
            pause_s = self._draw.uniform(*BETWEEN_S)
            time.sleep(pause_s if self._hold_s is None else min(pause_s, max(self._hold_s, BETWEEN_S[0])))
        return this

    def _hold(self, kind: type[Fault]) -> float:
        shortest, longest = kind.lasts_s
        drawn = self._draw.uniform(shortest, longest)
        return drawn if self._hold_s is None else min(drawn, max(shortest, self._hold_s))

    def _heal(self, fault: Fault, this: Round) -> None:
        try:
            fault.heal(self._arena)
        except Exception as error:  # noqa: BLE001 - the same
            this.broken = this.broken or f"{fault.name} could not be healed: {error!r}"

    def _wait_until_well(self, this: Round) -> None:
        threads = [
            threading.Thread(target=self._write, args=(probe, this), name=f"probe of {probe.node}", daemon=True)
            for probe in self._probes
        ]
        done = threading.Event()
        restarts = threading.Thread(target=self._restart, args=(done,), name="restarts", daemon=True)
        for thread in (*threads, restarts):
            thread.start()
        try:
            for thread in threads:
                thread.join()
            self._arena.wait_until_well(max(LEAST_S, this.settles_s + LATE_S - _since(this.healed_ns)))
            this.well_s = _since(this.healed_ns)
        except Unavailable as error:
            this.why_not_well = str(error)
        finally:
            done.set()
            restarts.join()
        wrote = ", ".join("never" if each is None else f"{each:.1f} s" for each in this.writes_s.values())
        well = f"not well: {this.why_not_well}" if this.well_s is None else f"well after {this.well_s:.1f} s"
        self._say(f"  healed; the first writes after {wrote}; {well}")

    def _restart(self, done: threading.Event) -> None:
        """Start nodes that end after all: one may have been about to, because of the fault, when it was healed."""
        while not done.wait(RESTART_S):
            for node in self._arena.nodes:
                if not node.running:
                    self._arena.revive(node)

    def _write(self, probe: Client, this: Round) -> None:
        """Write at one node until it takes it."""
        node = probe.node
        this.writes_s[node] = None
        until = this.healed_ns / 1e9 + this.settles_s + LATE_S
        while time.monotonic() < until:
            if probe.write(f"probe/{node}", probe.value()).outcome is Outcome.OK:
                this.writes_s[node] = _since(this.healed_ns)
                return
            time.sleep(AGAIN_S)


def _since(then_ns: int) -> float:
    return (time.monotonic_ns() - then_ns) / 1e9
