"""Loads, one after the other, with the account of what they have written."""

from __future__ import annotations

import time

from bench.case import Figure, Unverified
from bench.inputs import Inputs
from bench.load import Kind, Load, Outcome
from bench.systems.loaded import LoadedSystem
from kvlog.processes import wait_until

SETTLE_S = 60.0
"""Seconds for what was under way when a load ended."""

QUIET_S = 1.0
"""Seconds without a further write, after which none is expected any more."""

SHOWN = 3
"""Wrong keys that are named."""


class Account:
    """What a system must hold, by what it has acknowledged.

    All loads of one account are of one system, one after the other, and nobody else writes.
    """

    def __init__(self, system: LoadedSystem, inputs: Inputs) -> None:
        self._system = system
        self._inputs = inputs
        self._next = 1
        self._held: dict[str, str] = {}

    def prepare(self) -> None:
        """Put the keys there, and see that all nodes have them."""
        self._system.put_many(self._inputs.prepared())
        self._held = self._inputs.prepared()
        self.check_all_nodes()

    def run(self, kind: Kind, connections: int, seconds: float, *, leader: bool = False) -> Outcome:
        """One load; what it has written is verified on the leader before its outcome is returned.

        Reads go to a follower, unless they are to go to the ``leader``.

        Raises:
            Unverified: an answer was wrong, or what was acknowledged is not there.
        """
        first, before = self._next, self._system.revision()
        outcome = self._system.load(Load(kind, connections, seconds, first, leader), self._inputs)
        if kind.writes:
            committed = self._settled(before, outcome)
            self._next = first + outcome.writes_sent * kind.updates
            lost = (outcome.writes_sent - committed) * kind.updates
            self._take(self._system.contents(0), first, may_miss=lost)
        return outcome

    def _settled(self, before: int, outcome: Outcome) -> int:
        """How many writes were committed: those that were acknowledged, and maybe those under way at the end."""
        seen = self._system.revision() - before
        since = time.monotonic()

        def quiet() -> bool:
            nonlocal seen, since
            now = self._system.revision() - before
            if now != seen:
                seen, since = now, time.monotonic()
            return seen >= outcome.writes_sent or time.monotonic() - since > QUIET_S

        if not wait_until(quiet, SETTLE_S, every_s=0.1):
            raise Unverified(f"{SETTLE_S:g} s after the load, writes are still being committed")
        if not outcome.writes_answered <= seen <= outcome.writes_sent:
            raise Unverified(
                f"{outcome.writes_sent} writes were sent and {outcome.writes_answered} acknowledged,"
                f" but {seen} were committed"
            )
        return seen

    def _take(self, found: dict[str, str], first: int, *, may_miss: int) -> None:
        """Every key has its last write, but for as many as there were writes that were not committed."""
        if found.keys() != self._held.keys():
            raise Unverified(f"there are {len(found)} keys, not {len(self._held)}")
        missed = []
        for key, value in found.items():
            last = self._inputs.last_write(key, self._next - 1)
            expected = self._inputs.value(key, last) if last >= first else self._held[key]
            if value == expected:
                continue
            missed.append(key)
            number = self._inputs.number_in(key, value)
            if number is None or number >= self._next:
                raise Unverified(f"{key} has a value that nobody has given it: {value!r}")
        if len(missed) > may_miss:
            raise Unverified(
                f"{len(missed)} keys do not have what was last written to them, although only {may_miss} updates"
                f" were not committed: {', '.join(sorted(missed)[:SHOWN])}"
            )
        self._held = found

    def check_all_nodes(self) -> None:
        """All nodes hold the same, which is what the leader held after the last load.

        Raises:
            Unverified: one does not.
        """
        self._system.agree()
        for node in range(len(self._system.addresses)):
            found = self._system.contents(node)
            wrong = [key for key, value in self._held.items() if found.get(key) != value]
            if wrong or found.keys() != self._held.keys():
                raise Unverified(f"node {node} has something else for {len(wrong)} keys: {sorted(wrong)[:SHOWN]}")


def figures(name: str, outcome: Outcome, updates: int) -> list[Figure]:
    """The three figures of a load: updates or reads per second, and the latency of a request."""
    return [
        Figure(name, outcome.per_second * updates, "1/s", more_is_better=True),
        Figure(f"{name}: p50", outcome.p50_ms, "ms", more_is_better=False),
        Figure(f"{name}: p99", outcome.p99_ms, "ms", more_is_better=False),
    ]
