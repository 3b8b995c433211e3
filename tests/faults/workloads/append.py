"""Lists to which clients append: the order of their elements tells in which order the appends happened."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar

from tests.faults.clients import LINEARIZABLE, LOCAL, Client
from tests.faults.operations import Outcome
from tests.faults.workloads.workload import Workload, some_mode

LISTS = 3
"""That are in use at a time."""

LENGTH = 40
"""At which a list makes room for another one."""


class Append(Workload):
    """A list is one value, its elements joined by commas; an append is a compare-and-set of the whole."""

    name: ClassVar[str] = "append"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lists = list(range(LISTS))

    def step(self, client: Client) -> None:
        """See a list, and append to what was seen."""
        place = client.draw.randrange(LISTS)
        number = self._lists[place]
        found = client.read(f"list/{number}", some_mode(client))
        if found.outcome is not Outcome.OK:
            return
        elements = found.result.split(",") if found.result else []
        if len(elements) >= LENGTH:
            with self._lock:
                if self._lists[place] == number:
                    self._lists[place] = max(self._lists) + 1
            return
        client.cas(f"list/{number}", found.result, ",".join([*elements, client.value()]))

    def end(self, clients: Sequence[Client]) -> None:
        """All lists that there are, on each node."""
        for client in clients:
            for number in range(max(self._lists) + 1):
                client.read(f"list/{number}", LINEARIZABLE if number in self._lists else LOCAL)
