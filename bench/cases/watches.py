"""How soon many watchers are told of a write."""

from __future__ import annotations

import random
import resource
import selectors
import socket
import statistics
import string
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from bench.case import Case, Figure, Unverified
from bench.dialects import DIALECTS, spoken
from bench.systems.base import System
from bench.systems.loaded import HttpSystem
from bench.wire import ANSWER_S, RECEIVE_BYTES, answer_in, connected, encoded
from kvlog.errors import Unavailable

WATCHERS = (1, 100, 1_000)
WRITES = 50
LEAST_WATCHERS = 10
LEAST_WRITES = 5
KEYS = 10
VALUE_BYTES = 99
"""A multiple of three, as the number in front is: so each stands by itself in base64."""

OTHER_DESCRIPTORS = 200


@dataclass(slots=True)
class Watcher:
    """One watcher's connection, and all that it was sent."""

    peer: socket.socket
    received: list[bytes] = field(default_factory=list)
    tail: bytes = b""

    def receive(self, mark: bytes) -> bool:
        """Take in what has come; whether the mark is in it."""
        data = self.peer.recv(RECEIVE_BYTES)
        if not data:
            raise Unavailable("a watch has ended before its time")
        self.received.append(data)
        seen = self.tail + data  # the mark may have come in two pieces
        self.tail = seen[1 - len(mark) :]
        return mark in seen


@dataclass(frozen=True, slots=True)
class Told:
    """One write: seconds from its sending to its acknowledgement, and to the last delivery."""

    acknowledged: float
    delivered: float

    @property
    def after(self) -> float:
        """Seconds from the acknowledgement to the last delivery; 0 where that came first."""
        return max(0.0, self.delivered - self.acknowledged)


class Round:
    """So many watchers, and the writes that they are told of."""

    def __init__(self, system: HttpSystem, prefix: str, values: list[str]) -> None:
        self.system = system
        self.prefix = prefix
        self.values = values
        self.dialect = DIALECTS[system.dialect]
        self.watchers: list[Watcher] = []

    def run(self, count: int) -> list[Told]:
        """Let them watch, write, and say how long each write took to be told."""
        system = self.system
        with ExitStack() as stack, selectors.DefaultSelector() as selector:
            address = system.addresses[system.reader]
            watch = encoded(address, self.dialect.watch(self.prefix))
            for _ in range(count):
                watcher = Watcher(stack.enter_context(closing(connected(address))))
                watcher.peer.sendall(watch)
                selector.register(watcher.peer, selectors.EVENT_READ, watcher)
                self.watchers.append(watcher)
            self._hear(selector, self.dialect.begun, count)
            with closing(connected(system.addresses[0])) as writer:
                selector.register(writer, selectors.EVENT_READ, None)
                return [self._write(selector, writer, number) for number in range(len(self.values))]

    def _write(self, selector: selectors.BaseSelector, writer: socket.socket, number: int) -> Told:
        key, value = f"{self.prefix}{number % KEYS}", self.values[number]
        request = encoded(self.system.addresses[0], self.system.put_request(key, value))
        begun = time.perf_counter()
        writer.sendall(request)
        acknowledged, delivered = self._hear(selector, self.dialect.mark(value[:12]), len(self.watchers), writer)
        return Told(acknowledged - begun, delivered - begun)

    def _hear(
        self, selector: selectors.BaseSelector, mark: bytes, missing: int, writer: socket.socket | None = None
    ) -> tuple[float, float]:
        """Read until so many watchers have been sent the mark, and the writer its answer; says when that was."""
        acknowledged, delivered, answer = 0.0, 0.0, b""
        while missing or (writer is not None and not acknowledged):
            ready = selector.select(ANSWER_S)
            if not ready:
                raise Unavailable(f"{missing} watchers were not told within {ANSWER_S:g} s")
            for key, _ in ready:
                if key.data is not None:
                    if key.data.receive(mark):
                        missing -= 1
                        delivered = time.perf_counter()
                    continue
                answer += key.fileobj.recv(RECEIVE_BYTES)  # type: ignore[union-attr] # the writer's socket
                if (whole := answer_in(answer)) is not None:
                    acknowledged = time.perf_counter()
                    if not self.dialect.acknowledged(*whole):
                        raise Unavailable(f"a put was answered {whole}")
        return acknowledged, delivered

    def check(self) -> None:
        """Each has been told of every write, once and in order."""
        for number, watcher in enumerate(self.watchers):
            told = list(self.dialect.changes(b"".join(watcher.received)))
            if [value for _, value in told] != self.values:
                raise Unverified(f"watcher {number} was told of {len(told)} changes, and not of what was written")
            revisions = [revision for revision, _ in told]
            if revisions != sorted(set(revisions)):
                raise Unverified(f"watcher {number} was told of revisions {revisions}")


class Watches(Case):
    """How soon many watchers are told: from a write's acknowledgement, and from its sending, to the last delivery.

    All watchers are at one node that does not lead, on one connection each, and one thread of the client reads
    them all. The writes come one after the other, each once every watcher has been told of the one before.
    """

    @classmethod
    def fits(cls, system: System) -> bool:
        """Those that can tell of changes by themselves."""
        return spoken(system) is not None

    def generate(self) -> None:
        """The values, each with its number in front."""
        draw = random.Random(self.seed)
        alphabet = string.ascii_letters
        self.values = [
            f"{number:012}{''.join(draw.choices(alphabet, k=VALUE_BYTES - 12))}"
            for number in range(self.scale.of(WRITES, least=LEAST_WRITES))
        ]
        self.counts = sorted({self.scale.of(count, least=min(count, LEAST_WATCHERS)) for count in WATCHERS})
        self.rounds: list[Round] = []

    def prepare(self, system: System) -> None:  # noqa: ARG002 - it is known since prepare
        """Room for the connections; nothing has to be there."""
        most = self.counts[-1] + OTHER_DESCRIPTORS
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

    def execute(self, system: System) -> list[Figure]:
        """One round for each number of watchers."""
        asked = spoken(system)
        assert asked is not None
        figures = []
        for count in self.counts:
            watching = Round(asked, f"watched-{count}/", self.values)
            self.rounds.append(watching)
            worked = time.process_time()
            told = watching.run(count)
            worked = time.process_time() - worked
            figures += [
                *_spread(
                    f"acknowledgement to last delivery, watchers at {count:,}", [each.after for each in told]
                ),
                *_spread(f"sending to last delivery, watchers at {count:,}", [each.delivered for each in told]),
            ]
            each = worked / len(told) * 1e3
            self.facts[f"{count:,} watchers"] = (
                f"the client itself works {each:.1f} ms per write, to read and to connect"
            )
        return figures

    def verify(self, system: System) -> None:  # noqa: ARG002 - it is known since prepare
        """What every watcher was sent is read again, as a whole."""
        for watching in self.rounds:
            watching.check()


def _spread(name: str, seconds: list[float]) -> list[Figure]:
    """The median, and what only one of a hundred exceeds."""
    times = [each * 1e3 for each in seconds]
    p99 = statistics.quantiles(times, n=100, method="inclusive")[98]
    return [Figure(name, statistics.median(times), "ms", False), Figure(f"{name}: p99", p99, "ms", False)]
