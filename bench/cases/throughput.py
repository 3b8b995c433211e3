"""Reads and writes per second, by the number of connections that ask for them."""

from __future__ import annotations

from dataclasses import dataclass

from bench.case import Case, Figure, Unverified
from bench.cases.loading import Account, figures
from bench.inputs import Inputs
from bench.load import BULK, Kind
from bench.systems.base import System
from bench.systems.loaded import LoadedSystem

WARM_UP_S = 2.0
WARM_UP_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of load."""

    name: str
    kind: Kind
    connections: tuple[int, ...]


ROWS = (
    Row("local reads", Kind.READ, (1, 16, 64, 256)),
    Row("linearizable reads", Kind.LINEARIZABLE, (1, 16, 64, 256)),
    Row("single writes", Kind.PUT, (1, 16, 64, 256)),
    Row(f"updates, {BULK} per request,", Kind.BULK, (16, 64)),
    Row("95 % reads, 5 % writes", Kind.MIXED, (64,)),
)


class Throughput(Case):
    """10,000 keys with values of 100 bytes; writes go to the leader, reads to one follower, both to the leader."""

    @classmethod
    def fits(cls, system: System) -> bool:
        """What can be loaded."""
        return isinstance(system, LoadedSystem)

    def generate(self) -> None:
        """Keys, values and their order."""
        self._inputs = Inputs.drawn(self.seed)

    def prepare(self, system: System) -> None:
        """All keys, and a while of load that is not measured: much of what runs here is compiled only then."""
        assert isinstance(system, LoadedSystem)
        self._account = Account(system, self._inputs)
        self._account.prepare()
        self._leader = system.find_leader()
        for row in ROWS:
            if row.kind in system.kinds:
                self._account.run(row.kind, WARM_UP_CONNECTIONS, min(WARM_UP_S, self.scale.seconds))

    def execute(self, system: System) -> list[Figure]:
        """Each load for ``scale.seconds``."""
        assert isinstance(system, LoadedSystem)
        found = []
        for row in ROWS:
            for connections in row.connections:
                if row.kind in system.kinds and connections <= system.most_connections:
                    outcome = self._account.run(row.kind, connections, self.scale.seconds)
                    found += figures(f"{row.name} at {connections}", outcome, row.kind.updates)
        return found

    def verify(self, system: System) -> None:
        """All nodes hold what was acknowledged, and the same node has led all the time."""
        self._account.check_all_nodes()
        if system.find_leader() != self._leader:
            raise Unverified("another node leads than at the beginning")
