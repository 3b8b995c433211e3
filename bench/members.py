"""Single nodes of a system: killed, told to stop, and started again on what they have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from bench.systems.base import System
from bench.systems.etcd import Etcd
from bench.systems.kvlog_nodes import KvlogNodes
from kvlog.errors import Unavailable
from kvlog.processes import wait_until

S = TypeVar("S", bound=System)

STOP_S = 30.0
"""Seconds that a node may take to end in order."""

WHOLE_S = 120.0
"""Seconds after which nodes that were started have to be there: they may have much to catch up with."""


class Members(ABC, Generic[S]):
    """The nodes of a system, by address."""

    def __init__(self, system: S) -> None:
        self.system = system

    @abstractmethod
    def another(self) -> S:
        """A system of the same kind that is not started yet."""

    @abstractmethod
    def kill(self, address: str) -> None:
        """End it at once (SIGKILL)."""

    @abstractmethod
    def terminate(self, address: str) -> None:
        """Tell it to stop (SIGTERM), and wait until it has."""

    @abstractmethod
    def start(self, address: str) -> None:
        """Start it again; returns at once."""

    @abstractmethod
    def wait_until_whole(self) -> None:
        """Wait until all nodes are there, and follow the same leader.

        Raises:
            Unavailable: they do not, within WHOLE_S.
        """


class KvlogMembers(Members[KvlogNodes]):
    """Supervisors with their workers."""

    def another(self) -> KvlogNodes:
        """Of the same version and with the same flags."""
        return self.system.another()

    def kill(self, address: str) -> None:
        """Of the supervisor, which takes its worker along."""
        self.system.cluster.node(address).kill()

    def terminate(self, address: str) -> None:
        """It hands over first, if it leads."""
        self.system.cluster.node(address).terminate(STOP_S)

    def start(self, address: str) -> None:
        """With ``--recover catchup``."""
        self.system.cluster.node(address).start(wait=False)

    def wait_until_whole(self) -> None:
        """The leader pushes to all others."""
        self.system.cluster.wait_until_settled(WHOLE_S)
        self.system.find_leader()


class EtcdMembers(Members[Etcd]):
    """One process each."""

    def another(self) -> Etcd:
        """With the same settings, which are etcd's own."""
        return self.system.another()

    def kill(self, address: str) -> None:
        """Of the process."""
        self.system.node(address).kill()

    def terminate(self, address: str) -> None:
        """It transfers its leadership first, if it leads."""
        self.system.node(address).terminate(STOP_S)

    def start(self, address: str) -> None:
        """On its own data."""
        number = self.system.nodes.index(self.system.node(address))
        self.system.nodes[number] = self.system.start_node(address)

    def wait_until_whole(self) -> None:
        """All answer, and name the same leader."""
        if not wait_until(self._whole, WHOLE_S):
            raise Unavailable("the nodes of etcd do not follow one leader")
        self.system.find_leader()

    def _whole(self) -> bool:
        try:
            leaders = {self.system.status(address).get("leader", "0") for address in self.system.addresses}
        except Unavailable:
            return False
        return len(leaders) == 1 and leaders != {"0"}


def members_of(system: System) -> KvlogMembers | EtcdMembers | None:
    """Those of a system whose nodes can be handled one by one."""
    match system:
        case KvlogNodes():
            return KvlogMembers(system)
        case Etcd():
            return EtcdMembers(system)
        case _:
            return None
