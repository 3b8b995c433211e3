"""What a program in Python gets: one thread, one call after the other.

kvlog is called through its client, each of the others by plain requests on a kept connection.
"""

from __future__ import annotations

import time

from bench.case import Case, Figure, Unverified
from bench.inputs import Inputs
from bench.systems.base import System
from bench.systems.kvlog_nodes import KvlogNodes
from bench.systems.loaded import HttpSystem
from kvlog import Client

KEYS = 1_000
WARM_UP_S = 1.0


class PythonClient(Case):
    """Puts, then gets of what was put, through the leader."""

    @classmethod
    def fits(cls, system: System) -> bool:
        """What answers HTTP."""
        return isinstance(system, HttpSystem)

    def generate(self) -> None:
        """Keys and values."""
        self._inputs = Inputs.drawn(self.seed, keys=KEYS)
        self._written = 0
        self._last: dict[str, str] = {}

    def prepare(self, system: System) -> None:
        """A client, and some calls that do not count."""
        self._client = Client(system.addresses) if isinstance(system, KvlogNodes) else None
        self._puts(system, min(WARM_UP_S, self.scale.seconds))
        self._gets(system, min(WARM_UP_S, self.scale.seconds))

    def execute(self, system: System) -> list[Figure]:
        """Each for the seconds of a load."""
        seconds = self.scale.seconds
        return [
            Figure("puts, one after the other", self._puts(system, seconds), "1/s", more_is_better=True),
            Figure("gets, one after the other", self._gets(system, seconds), "1/s", more_is_better=True),
        ]

    def _puts(self, system: System, seconds: float) -> float:
        """How many a second."""
        begun, first = time.monotonic(), self._written
        while time.monotonic() - begun < seconds:
            key = self._inputs.keys[self._written % KEYS]
            self._written += 1
            value = self._inputs.value(key, self._written)
            self._put(system, key, value)
            self._last[key] = value
        return (self._written - first) / (time.monotonic() - begun)

    def _gets(self, system: System, seconds: float) -> float:
        """How many a second."""
        begun, count, keys = time.monotonic(), 0, sorted(self._last)
        while time.monotonic() - begun < seconds:
            key = keys[count % len(keys)]
            count += 1
            if self._get(system, key) != self._last[key]:
                raise Unverified(f"a get of {key} did not return what was put")
        return count / (time.monotonic() - begun)

    def _put(self, system: System, key: str, value: str) -> None:
        if self._client is None:
            system.put(key, value)
        else:
            self._client.put(key, value, ack="log")

    def _get(self, system: System, key: str) -> str | None:
        if self._client is None:
            return system.get(key)
        item = self._client.get(key)
        return None if item is None else item.text

    def verify(self, system: System) -> None:
        """All nodes have it."""
        assert isinstance(system, HttpSystem)
        if self._client is not None:
            self._client.close()
        system.agree()
        for node in range(len(system.addresses)):
            found = system.contents(node)
            if any(found.get(key) != value for key, value in self._last.items()):
                raise Unverified(f"node {node} does not have what was put")
