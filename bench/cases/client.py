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

CALLS = 2_000
WARM_UP = 100


class PythonClient(Case):
    """Puts, then gets of what was put, through the leader."""

    @classmethod
    def fits(cls, system: System) -> bool:
        """What answers HTTP."""
        return isinstance(system, HttpSystem)

    def generate(self) -> None:
        """As many keys as calls."""
        self._inputs = Inputs.drawn(self.seed, keys=self.scale.of(CALLS, least=WARM_UP))

    def prepare(self, system: System) -> None:
        """A client, and some calls that do not count."""
        self._client = Client(system.addresses) if isinstance(system, KvlogNodes) else None
        for key in self._inputs.keys[:WARM_UP]:
            self._put(system, key, self._inputs.value(key, 1))
            self._get(system, key)

    def execute(self, system: System) -> list[Figure]:
        """All keys in a row."""
        inputs = self._inputs
        begun = time.perf_counter()
        for key in inputs.keys:
            self._put(system, key, inputs.value(key, 2))
        put = time.perf_counter()
        found = [self._get(system, key) for key in inputs.keys]
        got = time.perf_counter()
        if found != [inputs.value(key, 2) for key in inputs.keys]:
            raise Unverified("a get did not return what was put")
        count = len(inputs.keys)
        return [
            Figure("puts, one after the other", count / (put - begun), "1/s", more_is_better=True),
            Figure("gets, one after the other", count / (got - put), "1/s", more_is_better=True),
        ]

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
            if any(found.get(key) != self._inputs.value(key, 2) for key in self._inputs.keys):
                raise Unverified(f"node {node} does not have what was put")
