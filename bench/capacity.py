"""How capacity grows with nodes, with ZooKeeper's servers and with several logs: formulas, and a model of them.

    .venv/bin/python -m bench.capacity [front=100 decide=50 ...]

prints the tables of docs/performance.md; the arguments are demands in microseconds, in place of those that were
measured last (``bench/demands.py``). The formulas are ordinary operational analysis. The model plays the way of
each write, event by event and without chance: processors that do one thing at a time, one append in flight per
log, and what gathers meanwhile in the next entry. It knows nothing of the formulas.
"""

from __future__ import annotations

import heapq
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from kvlog.core.writer import BATCH_WRITES_MAX

MEASURED = Path(__file__).resolve().parent / "demands.json"
"""Demands in microseconds."""

WARM_UP_S = 1.0
WINDOW_S = 4.0


@dataclass(frozen=True, slots=True)
class Demands:
    """What one write, one read and one entry cost, in seconds; of a processor, but for ``quorum``.

    A node is one processor: its threads share the interpreter's lock.

    Attributes:
        front: per write, where it is asked for: taking the request in, and answering it.
        decide: per write, at its leader: evaluating and encoding it.
        apply: per write, at every replica.
        lead: per entry, at its leader: forming it, its transaction in ZooKeeper, the store's commit.
        push: per entry and other replica, at its leader.
        follow: per entry, at every other replica: taking the push, the store's commit.
        zk_lead: per entry, at ZooKeeper's leader.
        zk_send: per entry and other server of ZooKeeper, at its leader.
        quorum: how long an entry takes besides until a quorum has it: disks and network.
        read: per local read.
    """

    front: float
    decide: float
    apply: float
    lead: float
    push: float
    follow: float
    zk_lead: float
    zk_send: float
    quorum: float
    read: float


def measured() -> Demands:
    """What was measured last."""
    return Demands(**{name: microseconds / 1e6 for name, microseconds in json.loads(MEASURED.read_text()).items()})


@dataclass(frozen=True, slots=True)
class Shape:
    """What there is of everything. Clients are spread evenly over the logs; each asks the leader of its log.

    Log i is led by node i, counted round, and its replicas are on the ``copies`` nodes from there on; 0: on all.
    """

    nodes: int = 3
    servers: int = 3
    logs: int = 1
    clients: int = 256
    copies: int = 0

    @property
    def replicas(self) -> int:
        """Of each log."""
        return min(self.copies or self.nodes, self.nodes)

    def holders(self, log: int) -> list[int]:
        """The nodes that hold a log, its leader first."""
        return [(log + place) % self.nodes for place in range(self.replicas)]


def node_demands(demands: Demands, shape: Shape, batch: float) -> list[float]:
    """What each node works per write to any log, where ``batch`` of them share an entry."""
    d, found = demands, [0.0] * shape.nodes
    leads = d.front + d.decide + d.apply + (d.lead + d.push * (shape.replicas - 1)) / batch
    for log in range(shape.logs):
        leader, *others = shape.holders(log)
        found[leader] += leads / shape.logs
        for node in others:
            found[node] += (d.apply + d.follow / batch) / shape.logs
    return found


def zookeeper_demand(demands: Demands, shape: Shape, batch: float) -> float:
    """What ZooKeeper's leader works per write."""
    return (demands.zk_lead + demands.zk_send * (shape.servers - 1)) / batch


def capacity(demands: Demands, shape: Shape) -> float:
    """Writes/s that are not exceeded: the busiest processor works all of the time, with the fullest entries."""
    batch = _bounded(shape.clients / shape.logs)
    return 1 / max(*node_demands(demands, shape, batch), zookeeper_demand(demands, shape, batch))


def throughput(demands: Demands, shape: Shape) -> float:
    """Writes/s with so many clients. Their latency is ``clients / throughput`` (Little's law).

    Half of a log's writes are in the append while the other half gathers: an entry holds half of them. In one
    round they are taken in, decided and formed; then ZooKeeper writes them, while the leader applies the entry
    before. Who is alone waits for all of this, one behind the other. Or a processor is busy all of the time.
    """
    d, batch = demands, _bounded(shape.clients / shape.logs / 2)
    append = zookeeper_demand(d, shape, 1) + d.quorum
    forming = (d.front + d.decide) * batch + d.lead
    applying = d.apply * batch + d.push * (shape.replicas - 1)
    alone = shape.clients <= shape.logs
    meanwhile = append + applying if alone else max(append, applying)
    rounds = min(shape.clients, shape.logs) * batch / (forming + meanwhile)
    busiest = max(*node_demands(d, shape, batch), zookeeper_demand(d, shape, batch))
    return min(rounds, 1 / busiest)


def _bounded(batch: float) -> float:
    return min(BATCH_WRITES_MAX, max(1.0, batch))


class Clock:
    """Time, and what happens at it: in order, and of the same moment in the order in which it was planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._plans: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        """Plan something."""
        heapq.heappush(self._plans, (self.now + seconds, next(self._numbers), then))

    def run(self, until: float) -> None:
        """Let everything happen that is planned before ``until``."""
        while self._plans and self._plans[0][0] < until:
            self.now, _, then = heapq.heappop(self._plans)
            then()
        self.now = until


class Processor:
    """Does one thing at a time, in the order in which they come."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._since: float | None = None
        self._worked = 0.0

    @property
    def worked(self) -> float:
        """Seconds, up to now."""
        return self._worked + (0.0 if self._since is None else self._clock.now - self._since)

    def work(self, seconds: float, then: Callable[[], None] = lambda: None) -> None:
        """Work so long, after what is waiting already."""
        self._waiting.append((seconds, then))
        if self._since is None:
            self._next()

    def _next(self) -> None:
        self._since = self._clock.now
        seconds, then = self._waiting.popleft()

        def done() -> None:
            self._worked += seconds
            self._since = None
            if self._waiting:
                self._next()
            then()

        self._clock.after(seconds, done)


@dataclass(slots=True)
class Log:
    """Who holds it, the leader first; when each write was asked for that waits; whether an append is under way."""

    holders: list[int]
    waiting: list[float] = field(default_factory=list)
    appending: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """Writes/s, seconds of one write, writes of one entry, and the share of time of each node and of ZooKeeper."""

    throughput: float
    latency: float
    batch: float
    worked: list[float]


class Model:
    """The way of all writes, from moment to moment."""

    def __init__(self, demands: Demands, shape: Shape) -> None:
        self.demands, self.shape = demands, shape
        self.clock = Clock()
        self.nodes = [Processor(self.clock) for _ in range(shape.nodes)]
        self.zookeeper = Processor(self.clock)
        self.logs = [Log(shape.holders(log)) for log in range(shape.logs)]
        self.entries = 0
        self.latencies: list[float] = []

    def run(self) -> Seen:
        """Let it run in, and then watch it for a while."""
        for client in range(self.shape.clients):
            log = self.logs[client % len(self.logs)]
            self.clock.after(client * self.demands.front, lambda log=log: self._ask(log))  # type: ignore[misc]
        self.clock.run(WARM_UP_S)
        processors = [*self.nodes, self.zookeeper]
        worked, entries = [processor.worked for processor in processors], self.entries
        self.latencies.clear()
        self.clock.run(WARM_UP_S + WINDOW_S)
        writes, entries = len(self.latencies), self.entries - entries
        shares = [(last.worked - first) / WINDOW_S for last, first in zip(processors, worked, strict=True)]
        return Seen(writes / WINDOW_S, sum(self.latencies) / writes, writes / entries, shares)

    def _ask(self, log: Log) -> None:
        asked = self.clock.now

        def taken_in() -> None:
            log.waiting.append(asked)
            self._append(log)

        self.nodes[log.holders[0]].work(self.demands.front, taken_in)

    def _append(self, log: Log) -> None:
        """Form an entry of all that waits, unless one is under way."""
        if log.appending or not log.waiting:
            return
        log.appending = True
        entry, log.waiting = log.waiting[:BATCH_WRITES_MAX], log.waiting[BATCH_WRITES_MAX:]
        d, others = self.demands, len(log.holders) - 1

        def formed() -> None:
            seconds = d.zk_lead + d.zk_send * (self.shape.servers - 1)
            self.zookeeper.work(seconds, lambda: self.clock.after(d.quorum, landed))

        def landed() -> None:
            log.appending = False
            self.entries += 1
            for asked in entry:
                self.latencies.append(self.clock.now - asked)
                self._ask(log)  # its client does so at once
            self._append(log)
            self.nodes[log.holders[0]].work(d.apply * len(entry) + d.push * others)
            for node in log.holders[1:]:
                self.nodes[node].work(d.apply * len(entry) + d.follow)

        self.nodes[log.holders[0]].work(d.decide * len(entry) + d.lead, formed)


SHAPES = {
    "clients": {n: Shape(clients=n) for n in (1, 4, 16, 64, 256)},
    "nodes": {n: Shape(nodes=n) for n in (1, 3, 5, 7)},
    "ZooKeeper servers": {n: Shape(servers=n, clients=16) for n in (1, 3, 5, 7)},
    "logs": {n: Shape(nodes=n, logs=n, copies=3, clients=256 * n) for n in (1, 3, 6, 12)},
}
"""What each table goes through, by what is in its first column. There are as many nodes as logs, if it is logs."""


def table(demands: Demands, varied: str) -> Iterator[str]:
    """Lines of Markdown."""
    yield f"| {varied} | writes/s | in the model | ms for one | in the model | no more than | local reads/s |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for many, shape in SHAPES[varied].items():
        seen, written = Model(demands, shape).run(), throughput(demands, shape)
        yield (
            f"| {many} | {written:,.0f} | {seen.throughput:,.0f} | {shape.clients / written * 1e3:.1f} "
            f"| {seen.latency * 1e3:.1f} | {capacity(demands, shape):,.0f} | {shape.nodes / demands.read:,.0f} |"
        )


def main() -> None:
    """Print all tables."""
    given = (argument.split("=", 1) for argument in sys.argv[1:])
    demands = replace(measured(), **{name: float(microseconds) / 1e6 for name, microseconds in given})
    for varied in SHAPES:
        print("\n".join(table(demands, varied)) + "\n")


if __name__ == "__main__":
    main()
