"""Whether a write or a read costs more when much has been written before, is there, or is kept in the log."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.case import Figure, Scale, Unverified
from bench.cases.members_case import MembersCase, key_of
from bench.dialects import DIALECTS
from bench.systems.base import System
from bench.systems.kvlog_nodes import KvlogNodes
from bench.systems.loaded import HttpSystem
from bench.systems.process_tree import worked
from bench.wire import Loop, closed_loop, encoded
from kvlog.errors import Unavailable
from kvlog.processes import wait_until

SMALL = 1_000
HISTORIES = (1_000, 10_000, 100_000, 1_000_000)
"""Updates, each a write of its own."""

KEYS = 1_000_000
RETAINED = 10_000
"""Entries: kvlog's usual ``--retain``."""

LEAST = 200
WRITTEN_KEYS = 10_000
"""Which the updates go to, in turn: two of the same key are far apart."""

PUT_AT_ONCE = 100_000
KEPT_OF_PUT = 100
"""Of so many keys that are put at once, one is looked at later."""

CONNECTIONS = 64
GROW_CONNECTIONS = 128
ENTRY_CONNECTIONS = 2
"""So that each write is an entry: while one is in the append, the other one waits."""

ROUNDS, LEAST_ROUNDS = 6, 2
SINGLE, MANY, READS = 30, 960, 200
LEAST_PROBED = 5
"""Requests of one round."""

SAMPLE = 500
SEEN_S = 30.0


@dataclass
class Rounds:
    """What was probed, each time: ms of a write, writes/s, ms of a read.

    ``worked``: the processor's seconds for those writes on all connections that are counted in ``writes``.
    """

    scale: Scale
    single: list[float] = field(default_factory=list)
    many: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    writes: int = 0
    worked: float = 0.0

    def of(self, count: int) -> int:
        """So many requests in one round."""
        return self.scale.of(count, least=LEAST_PROBED)


@dataclass
class Place:
    """A system that is probed, with an account of what was written."""

    system: HttpSystem
    case: MembersCase
    written: int = 0
    latest: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dialect = DIALECTS[self.system.dialect]
        self.system.agree()
        self.uncounted = self.system.revision()

    def put_keys(self, count: int) -> None:
        """So many keys, in large transactions."""
        for first in range(0, count, PUT_AT_ONCE):
            items = self.case.items(range(first, min(first + PUT_AT_ONCE, count)))
            self.system.put_many(items)
            self.latest.update(list(items.items())[::KEPT_OF_PUT])
        self.system.agree()  # a node counts what it has applied
        self.uncounted = self.system.revision() - self.written

    def write(self, count: int, connections: int) -> Loop:
        """So many updates, to the keys in turn."""
        leader = self.system.addresses[0]

        def requests() -> Iterator[bytes]:
            for _ in range(count):
                self.written += 1
                key, value = key_of(self.written % WRITTEN_KEYS), self.case.value(self.written)
                self.latest[key] = value
                yield encoded(leader, self.system.put_request(key, value))

        def taken(_: int, status: int, body: bytes) -> None:
            if not self.dialect.acknowledged(status, body):
                raise Unavailable(f"a write was answered {status}: {body[:500]!r}")

        return closed_loop(leader, requests(), connections, taken)

    def read(self, count: int) -> Loop:
        """So many reads of keys whose value is known, one after the other."""
        address = self.system.addresses[self.system.reader]
        keys = self.case.draw.choices(sorted(self.latest), k=count)

        def taken(number: int, status: int, body: bytes) -> None:
            if self.dialect.value(status, body) != self.latest[keys[number]]:
                raise Unverified(f"{keys[number]} was read as {body[:500]!r}, and not as it was written last")

        return closed_loop(address, (encoded(address, self.dialect.get(key)) for key in keys), 1, taken)

    def probe(self, rounds: Rounds) -> None:
        """One round."""
        rounds.single.append(statistics.median(self.write(rounds.of(SINGLE), 1).latencies) * 1e3)
        before = worked(self.system.pids()["node"])
        many = max(CONNECTIONS, rounds.of(MANY))
        rounds.many.append(self.write(many, CONNECTIONS).rate)
        self._wait_for_reader()
        rounds.worked += worked(self.system.pids()["node"]) - before
        rounds.writes += many
        rounds.reads.append(statistics.median(self.read(rounds.of(READS)).latencies) * 1e3)

    def _wait_for_reader(self) -> None:
        """Until the node that is read from has what was written last, on all connections."""
        last = range(max(1, self.written - CONNECTIONS), self.written + 1)
        for key in (key_of(number % WRITTEN_KEYS) for number in last):
            if not wait_until(lambda key=key: self._reads(key), SEEN_S, every_s=0.002):  # type: ignore[misc]
                raise Unverified(f"a write of {key} was not seen on another node within {SEEN_S:g} s")

    def _reads(self, key: str) -> bool:
        return self.system.get(key, node=self.system.reader) == self.latest[key]

    def check(self) -> None:
        """Every update counts once, all nodes agree, and a sample of the keys has what was written to them last.

        Raises:
            Unverified: it is not so.
        """
        counted = self.system.revision() - self.uncounted
        if counted != self.written:
            raise Unverified(f"{self.written} updates were acknowledged, and {counted} are counted")
        self.system.agree()
        sample = self.case.draw.sample(sorted(self.latest), min(SAMPLE, len(self.latest)))
        for number in range(len(self.system.addresses)):
            for key in sample:
                if (found := self.system.get(key, node=number)) != self.latest[key]:
                    raise Unverified(f"node {number}: {key} is {found}, not {self.latest[key]}")


class Growth(MembersCase):
    """Whether a write or a read costs more when much has been written before, is there, or is kept in the log.

    The system that has grown stands beside a small one of the same kind, started afresh for every comparison,
    with a thousand updates behind it, and those of the probes. Both are probed in turn, in short rounds, so that
    whatever else the machine does meets both. Figures are medians of the rounds, ratios those of the medians: 1
    is no growth. The first of them compares like with like, and so tells how much is chance. Probed are one
    write at a time on one connection, writes on 64 connections, and one read at a time, from a node that does
    not lead. The processor time of all nodes for a write hardly depends on what else the machine does.
    """

    fresh = True

    def generate(self) -> None:
        """How much of everything."""
        super().generate()
        self.histories = sorted({self.scale.of(count, least=LEAST) for count in HISTORIES})
        self.small = self.scale.of(SMALL, least=LEAST)
        self.keys = self.scale.of(KEYS, least=LEAST)
        self.retained = self.scale.of(RETAINED, least=LEAST)

    def execute(self, system: System) -> list[Figure]:
        """Grow in one way after the other."""
        figures = []
        self.place = self._place(self.asked)
        for count in self.histories:
            self.place.write(count - self.place.written, GROW_CONNECTIONS)
            figures += self._compared(self.place, f"updates before at {count:,}")
        with self.members.another() as grown:
            place = self._place(grown)
            place.put_keys(self.keys)
            figures += self._compared(place, f"keys there at {self.keys:,}")
            place.check()
        if isinstance(system, KvlogNodes):
            figures += self._kept(system)
        return figures

    def _place(self, system: HttpSystem) -> Place:
        return Place(system, self)

    def _kept(self, system: KvlogNodes) -> list[Figure]:
        """A log that has as many entries as are kept."""
        with system.another("--retain", str(self.retained)) as grown:
            place = self._place(grown)
            leader = grown.cluster.node(grown.addresses[0])
            while (said := leader.status())["tail_index"] - said["log"]["first_index"] < self.retained:
                place.write(LEAST, ENTRY_CONNECTIONS)
            figures = self._compared(place, f"entries kept at {self.retained:,}")
            place.check()
        return figures

    def _compared(self, place: Place, what: str) -> list[Figure]:
        """Probe the system that has grown beside a small one."""
        grown, small = Rounds(self.scale), Rounds(self.scale)
        with self.members.another() as fresh:
            beside = self._place(fresh)
            beside.write(self.small, GROW_CONNECTIONS)
            pair = [(place, grown), (beside, small)]
            for _ in range(self.scale.of(ROUNDS, least=LEAST_ROUNDS)):
                pair.reverse()  # neither is always the first
                for one, rounds in pair:
                    one.probe(rounds)
            beside.check()
        self._note(place, what)
        work, work_of_small = (rounds.worked / rounds.writes * 1e6 for rounds in (grown, small))
        pairs = [
            ("one write", "ms", False, statistics.median(grown.single), statistics.median(small.single)),
            (
                "writes on 64 connections",
                "1/s",
                True,
                statistics.median(grown.many),
                statistics.median(small.many),
            ),
            ("processor of all nodes for one write on 64 connections", "us", False, work, work_of_small),
            ("one read", "ms", False, statistics.median(grown.reads), statistics.median(small.reads)),
        ]
        figures = []
        for name, unit, more, value, value_of_small in pairs:
            figures.append(Figure(f"{name}, {what}", value, unit, more))
            figures.append(
                Figure(f"{name} to that of the small one, {what}", value / value_of_small, "times", more)
            )
        return figures

    def _note(self, place: Place, what: str) -> None:
        """kvlog: what ZooKeeper holds."""
        if isinstance(place.system, KvlogNodes):
            log = place.system.cluster.node(place.system.addresses[0]).status()["log"]
            self.facts[what] = (
                f"ZooKeeper has {znodes(place.system):,} znodes, {log['memory_bytes'] / 2**20:.1f} MiB of log"
            )

    def verify(self, system: System) -> None:  # noqa: ARG002 - it is known since prepare
        """As the others were before they were stopped: see Place.check."""
        self.place.check()


def znodes(system: KvlogNodes) -> int:
    """As the servers of the ensemble count them; the highest."""
    counts = []
    for server in system.ensemble.servers:
        with socket.create_connection(("127.0.0.1", server.client_port), timeout=SEEN_S) as peer:
            peer.sendall(b"mntr")
            said = peer.makefile("rb").read().decode()
        counts += [int(line.split("\t")[1]) for line in said.splitlines() if line.startswith("zk_znode_count")]
    return max(counts)
