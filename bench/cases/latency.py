"""How long one write takes on a system that has nothing else to do, next to the create that it costs in ZooKeeper.

Both go to the same ensemble, in small rounds by turns, so that whatever slows the machine down slows down both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from kazoo.client import KazooClient

from bench.case import Case, Figure, Unverified
from bench.inputs import Inputs
from bench.systems.base import System
from bench.systems.kvlog_nodes import KvlogNodes
from bench.systems.loaded import LoadedSystem

ROUND = 20
LEAST_ROUNDS = 2
WARM_UP_S = 2.0
KEYS = 1_000
START_S = 20.0
_ROOT = "/raw"


class Latency(Case):
    """One client on one connection, in Python, on both sides."""

    @classmethod
    def fits(cls, system: System) -> bool:
        """What keys can be written to, and what they are on each node can be listed."""
        return isinstance(system, LoadedSystem)

    def generate(self) -> None:
        """Keys and values."""
        self._inputs = Inputs.drawn(self.seed, keys=KEYS)
        self._number = 0
        self._created = 0
        self._last: dict[str, str] = {}

    def prepare(self, system: System) -> None:
        """A few rounds that do not count."""
        assert isinstance(system, LoadedSystem)
        self._system = system
        self._rounds(min(WARM_UP_S, self.scale.seconds))

    def execute(self, system: System) -> list[Figure]:  # noqa: ARG002 - it is known since prepare
        """Round by round, for twice the seconds of a load; raw creates only where kvlog is measured."""
        self._rounds(2 * self.scale.seconds)
        found = _times("a write", self._writes)
        if self._creates:
            found += _times("a raw create on the same ensemble", self._creates)
            ratio = statistics.median(self._writes) / statistics.median(self._creates)
            found.append(Figure("a write in raw creates", ratio, "", more_is_better=False))
        self.facts["writes"] = f"{len(self._writes)} in rounds of {ROUND}"
        return found

    def _rounds(self, seconds: float) -> None:
        self._writes: list[float] = []
        self._creates: list[float] = []
        end = time.monotonic() + seconds

        def more() -> bool:
            return time.monotonic() < end or len(self._writes) < LEAST_ROUNDS * ROUND

        if not isinstance(self._system, KvlogNodes):
            while more():
                self._writes += [_seconds(self._write) for _ in range(ROUND)]
            return
        client = KazooClient(hosts=self._system.ensemble.hosts, timeout=10.0)
        client.start(timeout=START_S)
        try:
            client.ensure_path(_ROOT)
            while more():
                self._writes += [_seconds(self._write) for _ in range(ROUND)]
                self._creates += [_seconds(lambda: self._create(client)) for _ in range(ROUND)]
            there = client.exists(_ROOT).children_count
        finally:
            client.stop()
            client.close()
        if there != self._created:
            raise Unverified(f"{self._created} znodes were created, and {there} are there")

    def _write(self) -> None:
        key, value = self._next()
        self._system.put(key, value)
        self._last[key] = value

    def _create(self, client: KazooClient) -> None:
        client.create(f"{_ROOT}/e-", self._next()[1].encode(), sequence=True)
        self._created += 1

    def _next(self) -> tuple[str, str]:
        inputs = self._inputs
        key = inputs.keys[inputs.order[self._number % len(inputs.order)]]
        self._number += 1
        return key, inputs.value(key, self._number)

    def verify(self, system: System) -> None:
        """All nodes have what was written last."""
        system = self._system
        system.agree()
        for node in range(len(system.addresses)):
            found = system.contents(node)
            wrong = [key for key, value in self._last.items() if found.get(key) != value]
            if wrong:
                raise Unverified(f"node {node} does not have what was last written to {len(wrong)} keys")


def _seconds(act: Callable[[], None]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def _times(name: str, seconds: list[float]) -> list[Figure]:
    ordered = sorted(seconds)
    return [
        Figure(name, statistics.median(ordered) * 1000, "ms", more_is_better=False),
        Figure(f"{name}: p99", ordered[len(ordered) * 99 // 100] * 1000, "ms", more_is_better=False),
    ]
