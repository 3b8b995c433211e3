"""Systems that can be put under load, and what the verification of a load asks of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from bench.inputs import Inputs
from bench.load import Kind, Load, Outcome, wrk
from bench.systems.base import System
from bench.systems.http import Http, Request
from kvlog.processes import ProcessKeeper

MOST_CONNECTIONS = 256


class LoadedSystem(System):
    """A system that can do at least one kind of load.

    Attributes:
        kinds: of load, that it can do.
        reader: the node that reads are sent to, as a number in ``addresses``: one that does not lead.
        notes: what a reader of its figures has to know, each a sentence or two.
    """

    kinds: ClassVar[frozenset[Kind]]
    reader: ClassVar[int] = 1
    notes: ClassVar[tuple[str, ...]] = ()

    def most_connections(self, kind: Kind) -> int:  # noqa: ARG002 - for those who differ
        """With how many it can be loaded at most; more are not tried."""
        return MOST_CONNECTIONS

    @abstractmethod
    def load(self, load: Load, inputs: Inputs) -> Outcome:
        """Put it under load."""

    @abstractmethod
    def revision(self) -> int:
        """How many writes were committed ever, by the system's own count. A bulk write is one."""

    @abstractmethod
    def contents(self, node: int) -> dict[str, str]:
        """All keys of the inputs (``inputs.PREFIX``) with their values, as one node has them."""

    @abstractmethod
    def agree(self) -> None:
        """Wait until all nodes hold the same.

        Raises:
            Unavailable: they do not, within a minute.
        """


class HttpSystem(LoadedSystem):
    """One that answers HTTP: it is loaded by wrk.

    Attributes:
        dialect: the file in ``bench/lua`` that knows its requests and answers, without ``.lua``.
    """

    dialect: ClassVar[str]

    def __init__(self) -> None:
        self.http = Http()
        self._keeper = ProcessKeeper()

    def load(self, load: Load, inputs: Inputs) -> Outcome:
        """Let wrk loose on one node."""
        address = self.addresses[0 if load.leader or load.kind.writes else self.reader]
        return wrk(self._keeper, self.dialect, address, load, inputs)

    @abstractmethod
    def put_request(self, key: str, value: str) -> Request:
        """The request that writes one key, to be sent to the leader."""
