"""The clients of a run, on threads of their own."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Sequence

from tests.faults.clients import OPERATION_S, Client, Lives
from tests.faults.operations import History
from tests.faults.workloads import WORKLOADS, Workload

PAUSE_S = (0.01, 0.09)
"""A client's pause between two steps: the nodes are to be broken, not to be kept busy."""


class Load:
    """Clients that go on until they are told to stop."""

    def __init__(
        self, names: Sequence[str], clients: int, addresses: Sequence[str], history: History, draw: random.Random
    ) -> None:
        """``names``: the workloads that they share, each by its weight."""
        self.workloads = {name: WORKLOADS[name]() for name in names}
        self.lives = Lives()
        self._stopped = threading.Event()
        self._failed: list[BaseException] = []
        self._addresses, self._history = addresses, history
        self._processes = itertools.count(1)
        self._draw = draw
        turns = itertools.cycle(_turns(self.workloads))
        self._threads = [
            threading.Thread(
                target=self._run, args=(workload, client), name=f"client {client.process}", daemon=True
            )
            for workload in itertools.islice(turns, clients)
            for client in [self.client(workload.name, place=next(self._processes))]
        ]

    def client(self, workload: str, place: int = 0, *, only: bool = False) -> Client:
        """A client of its own that asks the node at a place first; or only that."""
        at = place % len(self._addresses)
        order = [*self._addresses[at:], *self._addresses[:at]]
        return Client(
            next(self._processes),
            workload,
            order[:1] if only else order,
            self._history,
            random.Random(self._draw.random()),
            lives=self.lives,
        )

    def start(self) -> None:
        """All clients begin.

        Raises:
            Unavailable: what a workload needs before could not be done.
        """
        for workload in self.workloads.values():
            client = self.client(workload.name)
            workload.begin(client)
            client.close()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """All clients end.

        Raises:
            Whatever a client has met that it does not know.
            TimeoutError: one of them does not end.
        """
        self._stopped.set()
        until = time.monotonic() + 4 * OPERATION_S
        for thread in self._threads:
            thread.join(max(0.1, until - time.monotonic()))
            if thread.is_alive():
                raise TimeoutError(f"{thread.name} does not end")
        self.check()

    def check(self) -> None:
        """Raises whatever a client has met that it does not know."""
        if self._failed:
            raise self._failed[0]

    def _run(self, workload: Workload, client: Client) -> None:
        try:
            while not self._stopped.wait(client.draw.uniform(*PAUSE_S)):
                workload.step(client)
        except Exception as error:  # noqa: BLE001 - told by whoever waits for the clients
            self._failed.append(error)
        finally:
            client.close()


def _turns(workloads: dict[str, Workload]) -> list[Workload]:
    """Each workload once, and then again those with more weight."""
    most = max(workload.clients for workload in workloads.values())
    return [each for turn in range(most) for each in workloads.values() if turn < each.clients]
