"""Watches what the nodes say of themselves while a run goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

from tests.faults.checkers.convergence import Shown
from tests.faults.clients import Line, Lives, NoAnswer, NotSent

POLL_S = 0.25
ANSWER_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What a node said at a moment; of one that did not answer, everything but the first two is empty.

    Attributes:
        at_ns, answered_ns: when it was asked, and when it answered, on the monotonic clock.
        life: see Operation.
        instance: its process.
        role: "leader", "follower"...
        stale, applied_index, revision, log_hash, digest: of its store.
    """

    at_ns: int
    node: str
    answered_ns: int = 0
    life: int = 0
    instance: str = ""
    role: str = ""
    epoch: int = 0
    stale: bool = False
    applied_index: int = -1
    revision: int = 0
    log_hash: str = ""
    digest: str = ""

    @property
    def shown(self) -> Shown:
        """The same for the checker of how stores went on."""
        return Shown(self.node, self.at_ns, self.answered_ns, asdict(self), self.life)


@dataclass(frozen=True, slots=True)
class Span:
    """A time during which a node said the same of itself."""

    node: str
    role: str
    first_ns: int
    last_ns: int


_SAID = ("instance", "role", "epoch", "stale", "applied_index", "revision", "log_hash", "digest")
"""What of a status is kept."""


class Observer:
    """Asks every node for its status, four times a second, each on a thread of its own."""

    def __init__(self, addresses: Sequence[str], lives: Lives) -> None:
        self._lives = lives
        self._samples: dict[str, list[Sample]] = {address: [] for address in addresses}
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(address,), name=f"observer of {address}", daemon=True)
            for address in addresses
        ]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * ANSWER_S + POLL_S)

    def samples(self) -> list[Sample]:
        """All that was said, in order."""
        return sorted((each for found in self._samples.values() for each in found), key=lambda each: each.at_ns)

    def _run(self, address: str) -> None:
        line = Line(address, ANSWER_S)
        while not self._stopped.wait(POLL_S):
            self._samples[address].append(self._ask(line))
        line.close()

    def _ask(self, line: Line) -> Sample:
        at_ns = time.monotonic_ns()
        try:
            reply = line.ask("GET", "/v1/status", None, {})
        except (NotSent, NoAnswer):
            return Sample(at_ns, line.address)
        if reply.status != HTTPStatus.OK:
            return Sample(at_ns, line.address)
        said = reply.body
        life = self._lives.of(line.address, said["instance"])
        return Sample(at_ns, line.address, time.monotonic_ns(), life, **{name: said[name] for name in _SAID})


def spans(samples: Iterable[Sample]) -> Iterator[Span]:
    """The samples of each node, those that follow each other and say the same as one."""
    open_spans: dict[str, Span] = {}
    for sample in samples:
        before = open_spans.get(sample.node)
        if before is not None and before.role == sample.role:
            open_spans[sample.node] = Span(sample.node, sample.role, before.first_ns, sample.at_ns)
            continue
        if before is not None:
            yield Span(before.node, before.role, before.first_ns, sample.at_ns)
        open_spans[sample.node] = Span(sample.node, sample.role, sample.at_ns, sample.at_ns)
    yield from open_spans.values()


def save_samples(samples: Iterable[Sample], path: Path) -> None:
    """Write samples into a file, line by line."""
    with path.open("w") as file:
        for sample in samples:
            file.write(json.dumps(asdict(sample)) + "\n")


def read_samples(path: Path) -> list[Sample]:
    """The samples in a file that ``save_samples`` has written."""
    with path.open() as file:
        return [Sample(**json.loads(line)) for line in file]
