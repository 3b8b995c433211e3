"""A set that grows: each element is a key of its own, which is written once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import ClassVar

from tests.faults.clients import LINEARIZABLE, LOCAL, Client
from tests.faults.workloads.workload import Workload, some_mode

ALL = 0.01
MANY = 3_000
"""The share of steps that read the whole set meanwhile, as long as it has no more elements than these."""


class Set(Workload):
    """Whatever was added must be in every later read, and in the last one of every node."""

    name: ClassVar[str] = "set"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    def step(self, client: Client) -> None:
        """One more element."""
        with self._lock:
            number = next(self._numbers)
        if number < MANY and client.draw.random() < ALL:
            client.read_all("set/", some_mode(client))
        client.write(f"set/{number}", client.value())

    def end(self, clients: Sequence[Client]) -> None:
        """The whole set, on each node."""
        for client in clients:
            client.read_all("set/", LINEARIZABLE)
            client.read_all("set/", LOCAL)
