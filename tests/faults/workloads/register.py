"""Registers: a few keys that are read, written, compared and set, and deleted by several clients at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar

from tests.faults.clients import LINEARIZABLE, LOCAL, Client
from tests.faults.operations import Outcome
from tests.faults.workloads.workload import Workload, some_mode

KEYS = 5
"""That are in use at a time."""

KEY_OPERATIONS = 200
"""After so many, a key makes room for another one: whether a history can be put in order is hard to tell of long
ones."""

WRITES, DELETES, CHANGES = 0.25, 0.32, 0.55
"""The borders between what a step is, by chance: a write, a deletion, a compare-and-set; above them a read."""


class Register(Workload):
    """Every value is unique, so that a read tells which write it has seen."""

    name: ClassVar[str] = "register"
    clients: ClassVar[int] = 4

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys = {place: place for place in range(KEYS)}
        self._next = KEYS
        self._used = dict.fromkeys(range(KEYS), 0)
        self._seen: dict[tuple[int, str], str | None] = {}

    def step(self, client: Client) -> None:
        """One operation on one of the keys."""
        key, chance = self._key(client.draw.randrange(KEYS)), client.draw.random()
        mine = (client.process, key)
        if chance < WRITES:
            value = client.value()
            client.write(key, value)
            self._seen[mine] = value
        elif chance < DELETES:
            client.delete(key)
            self._seen[mine] = None
        elif chance < CHANGES and mine in self._seen:
            value = client.value()
            if client.cas(key, self._seen[mine], value).outcome is Outcome.OK:
                self._seen[mine] = value
            else:
                del self._seen[mine]  # it is another one by now, or may be
        else:
            found = client.read(key, some_mode(client))
            if found.outcome is Outcome.OK:
                self._seen[mine] = found.result

    def end(self, clients: Sequence[Client]) -> None:
        """All keys that there are, and those of the end one by one, on each node."""
        for client in clients:
            client.read_all("register/", LINEARIZABLE)
            for number in self._keys.values():
                client.read(f"register/{number}", LINEARIZABLE)
                client.read(f"register/{number}", LOCAL)

    def _key(self, place: int) -> str:
        with self._lock:
            self._used[place] += 1
            if self._used[place] > KEY_OPERATIONS:
                self._keys[place], self._next, self._used[place] = self._next, self._next + 1, 1
            return f"register/{self._keys[place]}"
