"""What a client does in a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from tests.faults.clients import LINEARIZABLE, LOCAL, Client


class Workload(ABC):
    """One kind of load: its clients, on threads of their own, share it.

    Attributes:
        name: under which its operations are noted, and of the checker that knows what to make of them.
        clients: of all clients of a run, this part, in proportion to the others'.
    """

    name: ClassVar[str]
    clients: ClassVar[int] = 1

    def begin(self, client: Client) -> None:  # noqa: B027 - most need nothing
        """What has to be there before the first step; done once, while all is well."""

    @abstractmethod
    def step(self, client: Client) -> None:
        """One thing that a client does: an operation, or a few that belong together."""

    @abstractmethod
    def end(self, clients: Sequence[Client]) -> None:
        """The final reads, by one client for each node, once all is quiet."""


def some_mode(client: Client) -> str:
    """How a client reads this time."""
    return client.draw.choice((LINEARIZABLE, LOCAL))
