"""Runs of cases on systems, and what becomes of one that fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError

from bench.case import Case, Scale, Unverified
from bench.results import Measured
from bench.systems.base import System
from bench.systems.kvlog_nodes import KvlogNodes
from bench.systems.loaded import LoadedSystem
from bench.systems.zookeeper import ensemble_version
from kvlog.client import ClientError
from kvlog.errors import KvlogError

FAILURES = (KvlogError, ClientError, KazooException, KazooTimeoutError, OSError, ValueError, LookupError)
"""What a system that does not do what it should makes us raise, besides Unverified; the last two, if its answers
are of another form."""


class Bench:
    """All runs.

    Args:
        systems: what makes each of them, by name.
        cases: by name.
        say: takes a line about how it goes.
    """

    def __init__(
        self,
        systems: dict[str, Callable[[], System]],
        cases: dict[str, type[Case]],
        *,
        seed: int,
        scale: Scale,
        say: Callable[[str], None] = print,
    ) -> None:
        self._systems, self._cases = systems, cases
        self._seed, self._scale = seed, scale
        self._say = say
        self.versions: dict[str, str] = {}
        self.notes: dict[str, None] = {}
        self._running: System | None = None

    def run(self, number: int) -> Iterator[Measured]:
        """One run; each has another system as the first."""
        names = list(self._systems)
        shift = (number - 1) % len(names)
        for name in names[shift:] + names[:shift]:
            make = self._systems[name]
            fitting = {name: case for name, case in self._cases.items() if case.fits(make())}
            yield from self._one_system(number, make, fitting)

    def _one_system(
        self, number: int, make: Callable[[], System], cases: dict[str, type[Case]]
    ) -> Iterator[Measured]:
        """All cases on one system, which is started anew for those that want it so, and after a failure."""
        try:
            for name, kind in cases.items():
                if kind.fresh:
                    self._stop()
                begun = time.monotonic()
                measured = self._one_case(number, make, name, kind)
                if kind.fresh or measured.unverified:
                    self._stop()
                how = measured.unverified and f"not verified: {measured.unverified}"
                how = how or f"{len(measured.figures)} figures, verified"
                took = time.monotonic() - begun
                self._say(f"run {number}, {measured.system}, {name}: {how} ({took:.0f} s)")
                yield measured
        finally:
            self._stop()

    def _one_case(self, number: int, make: Callable[[], System], name: str, kind: type[Case]) -> Measured:
        """One case, on the system that runs if there is one."""
        system = self._running or make()
        case = kind(self._seed, self._scale)
        try:
            if self._running is None:
                self._running = system
                system.start()
                self._note(system)
            case.generate()
            case.prepare(system)
            figures = tuple(case.execute(system))
            case.verify(system)
        except Unverified as error:
            return Measured(number, system.name, name, unverified=str(error))
        except FAILURES as error:  # its words may hold paths, and are for whoever runs this
            self._say(f"{system.name}, {name}: {error!r}")
            return Measured(number, system.name, name, unverified=f"{type(error).__name__} in the midst of it")
        return Measured(number, system.name, name, figures, case.facts)

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def _note(self, system: System) -> None:
        self.versions[system.name] = system.version()
        if isinstance(system, KvlogNodes):
            self.versions["ZooKeeper"] = ensemble_version(system.ensemble)
        if isinstance(system, LoadedSystem):
            self.notes |= dict.fromkeys(system.notes)
