"""A counter: one key that all clients count up, by compare-and-set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tests.faults.clients import LINEARIZABLE, LOCAL, Client
from tests.faults.operations import Outcome
from tests.faults.workloads.workload import Workload, some_mode

KEY = "counter"


class Counter(Workload):
    """Its last value counts the increments that were done: one that is done twice shows."""

    name: ClassVar[str] = "counter"

    def step(self, client: Client) -> None:
        """See what it is, and try to make it one more."""
        found = client.read(KEY, some_mode(client))
        if found.outcome is Outcome.OK:
            client.cas(KEY, found.result, str(int(found.result or "0") + 1))

    def end(self, clients: Sequence[Client]) -> None:
        """What it has come to, on each node."""
        for client in clients:
            client.read(KEY, LINEARIZABLE)
            client.read(KEY, LOCAL)
