"""Reads and writes per second, by the number of connections that ask for them."""

from __future__ import annotations

from typing import ClassVar

from bench.case import Case, Figure, Unverified
from bench.cases.loading import Account, figures
from bench.inputs import Inputs
from bench.load import Kind
from bench.systems.base import System
from bench.systems.loaded import LoadedSystem

WARM_UP_S = 2.0
WARM_UP_CONNECTIONS = 16

AT_LEADER = 64
"""With so many connections, reads are also sent to the leader."""


class Throughput(Case):
    """One kind of load at several numbers of connections, on 10,000 keys with values of 100 bytes.

    Attributes:
        kind: of load.
        named: what is counted, as it stands in the tables.
        connections: one load for each of these.
    """

    kind: ClassVar[Kind]
    named: ClassVar[str]
    connections: ClassVar[tuple[int, ...]] = (1, 16, 64, 256)

    @classmethod
    def fits(cls, system: System) -> bool:
        """What can do this kind of load."""
        return isinstance(system, LoadedSystem) and cls.kind in system.kinds

    def generate(self) -> None:
        """Keys, values and their order."""
        self._inputs = Inputs.drawn(self.seed)

    def prepare(self, system: System) -> None:
        """All keys, and a while of load that is not measured: much of what runs here is compiled only then."""
        assert isinstance(system, LoadedSystem)
        self._account = Account(system, self._inputs)
        self._account.prepare()
        self._leader = system.find_leader()
        self._account.run(self.kind, WARM_UP_CONNECTIONS, min(WARM_UP_S, self.scale.seconds))

    def execute(self, system: System) -> list[Figure]:
        """Each load for ``scale.seconds``."""
        assert isinstance(system, LoadedSystem)
        found = []
        for connections in self.connections:
            if connections <= system.most_connections(self.kind):
                outcome = self._account.run(self.kind, connections, self.scale.seconds)
                found += figures(f"{self.named} at {connections}", outcome, self.kind.updates)
        if not self.kind.writes:
            outcome = self._account.run(self.kind, AT_LEADER, self.scale.seconds, leader=True)
            found += figures(f"{self.named} from the leader, {AT_LEADER} connections", outcome, self.kind.updates)
        return found

    def verify(self, system: System) -> None:
        """All nodes hold what was acknowledged, and the same node has led all the time."""
        self._account.check_all_nodes()
        if system.find_leader() != self._leader:
            raise Unverified("another node leads than at the beginning")


class LocalReads(Throughput):
    """Reads of single keys from what a node has, at so many connections to one follower."""

    kind = Kind.READ
    named = "local reads"


class LinearizableReads(Throughput):
    """Reads that hold every write acknowledged before they began, at so many connections to one follower."""

    kind = Kind.LINEARIZABLE
    named = "linearizable reads"


class SingleWrites(Throughput):
    """Writes of single keys, committed, at so many connections to the leader."""

    kind = Kind.PUT
    named = "single writes"


class BulkWrites(Throughput):
    """Updates in transactions of 100, committed, at so many connections to the leader.

    The time of a request is that of a transaction.
    """

    kind = Kind.BULK
    named = "updates in bulk"
    connections = (16, 64)


class Mixed(Throughput):
    """95 % local reads and 5 % single writes, at so many connections to the leader."""

    kind = Kind.MIXED
    named = "reads and writes"
    connections = (64,)
