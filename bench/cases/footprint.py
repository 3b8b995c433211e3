"""How much memory a node takes, and how long it takes to be there again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bench.case import Figure, Unverified
from bench.cases.members_case import MembersCase, key_of
from bench.inputs import PREFIX
from bench.members import KvlogMembers
from bench.systems.base import System
from bench.systems.http import Request
from kvlog.errors import Unavailable
from kvlog.processes import wait_until

KEYS = (10_000, 1_000_000)
LEAST = 100
PUT_AT_ONCE = 100_000
SAMPLE = 200

LOOK_S = 0.01
BACK_S = 300.0
"""Seconds that a node may take until it is there again."""

OK = 200


class Footprint(MembersCase):
    """How much memory a node takes, idle and with many keys, and how long it takes to be there again with them.

    Memory is what the kernel counts for the processes of a node: RSS, all that is in memory of each of them, and
    PSS, in which each part that several processes share (a supervisor and its worker, the nodes of one machine)
    is divided among them. Both include pages of memory-mapped files, which the kernel can take back at any time.
    ZooKeeper's servers are told apart.
    """

    fresh = True

    def generate(self) -> None:
        """How many keys."""
        super().generate()
        self.counts = sorted({self.scale.of(count, least=LEAST) for count in KEYS})

    def execute(self, system: System) -> list[Figure]:  # noqa: ARG002 - it is known since prepare
        """Idle, with fewer keys, with more, and started again."""
        figures = self._memory("idle")
        there = 0
        for count in self.counts:
            self._put(there, count)
            there = count
            self.asked.agree()
            figures += self._memory(f"{count:,} keys")
        return figures + self._start()

    def _put(self, there: int, count: int) -> None:
        for first in range(there, count, PUT_AT_ONCE):
            self.asked.put_many(self.items(range(first, min(first + PUT_AT_ONCE, count))))

    def _memory(self, when: str) -> list[Figure]:
        """Of all nodes, divided by their number; of the ensemble, all of it."""
        pids, nodes = self.asked.pids(), len(self.asked.addresses)
        resident, shared = _mib(pids["node"])
        figures = [
            Figure(f"{when}: memory of a node, RSS", resident / nodes, "MiB", False),
            Figure(f"{when}: memory of a node, PSS", shared / nodes, "MiB", False),
        ]
        if servers := pids.get("zookeeper"):
            _, shared = _mib(servers)
            figures.append(
                Figure(f"{when}: memory of ZooKeeper's {len(servers)} servers, PSS", shared, "MiB", False)
            )
        return figures

    def _start(self) -> list[Figure]:
        """Stop a node that does not lead, and start it again: until it says that it is ready, and takes a put."""
        address, keys = self.asked.addresses[-1], f"{self.counts[-1]:,} keys"
        self.members.terminate(address)
        begun = time.perf_counter()
        self.members.start(address)
        figures = []
        if isinstance(self.members, KvlogMembers):
            _wait(lambda: self._answered(address, Request("GET", "/readyz"))[0] == OK)
            seconds = time.perf_counter() - begun
            figures.append(Figure(f"{keys}: start until /readyz", seconds, "s", False))
        put = self.asked.put_request(f"{PREFIX}started", "yes")
        _wait(lambda: self.dialect.acknowledged(*self._answered(address, put)))
        seconds = time.perf_counter() - begun
        self.members.wait_until_whole()
        return [*figures, Figure(f"{keys}: start until a put is taken", seconds, "s", False)]

    def _answered(self, address: str, request: Request) -> tuple[int, bytes]:
        """Status and body; 0 if there is no answer."""
        try:
            return self.asked.http.ask(address, request)
        except Unavailable:
            return 0, b""

    def verify(self, system: System) -> None:  # noqa: ARG002 - it is known since prepare
        """All nodes hold the same; the one that was started again has a sample of what was put."""
        self.asked.agree()
        node = len(self.asked.addresses) - 1
        for number in self.draw.sample(range(self.counts[-1]), min(SAMPLE, self.counts[-1])):
            if (found := self.asked.get(key_of(number), node=node)) != self.value(number):
                raise Unverified(
                    f"a node that was started again has {found} at {key_of(number)}, not what was put"
                )


def _mib(pids: tuple[int, ...]) -> tuple[float, float]:
    """RSS and PSS of these processes."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sums:
                sums[name] += int(rest.split()[0])
    return sums["Rss"] / 1024, sums["Pss"] / 1024


def _wait(condition: Callable[[], bool]) -> None:
    if not wait_until(condition, BACK_S, every_s=LOOK_S):
        raise Unverified(f"a node that was started again was not there within {BACK_S:g} s")
