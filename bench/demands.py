"""Measures what bench/capacity.py wants to know: what one write, one entry and one read cost each process.

    .venv/bin/python -m bench.demands [--writes N] [--keep]

Processor time is counted by the kernel; what the processes work while nothing is asked of them is taken off.
The same writes go to one node with one server of ZooKeeper, and to three with three, on one connection and on
64: with few and with many of them in an entry. So what a write costs is told from what an entry costs, and that
from what it costs for each further node and server. Prints the arguments for ``python -m bench.capacity``, and
how fast it was. With ``--keep`` it also keeps them in bench/demands.json, and brings docs/performance.md up to
date.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.capacity import MEASURED, SHAPES, Demands, Shape, measured, table, throughput, zookeeper_demand
from bench.dialects import DIALECTS
from bench.inputs import Inputs
from bench.systems.kvlog_nodes import KvlogNodes
from bench.systems.process_tree import with_descendants, worked
from bench.wire import Loop, closed_loop, encoded
from kvlog.errors import Unavailable
from kvlog.processes import wait_until

WRITES = 4_000
CONNECTIONS = (1, 64)
SIZES = (1, 3)
"""Of the cluster, and of ZooKeeper."""

WARM_UP = 500
IDLE_S = 3.0
SERVES_S = 20.0
ZOOKEEPER = "ZooKeeper's"

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


@dataclass(frozen=True, slots=True)
class Worked:
    """Seconds of processor per write, by process, with so many writes in an entry; and how long writes took."""

    batch: float
    by: dict[str, float]
    rate: float
    latency: float


def measured_on(nodes: KvlogNodes, inputs: Inputs, writes: int, connections: int) -> Worked:
    """Write, and see who works for it."""
    leader = nodes.addresses[0]
    dialect, cluster = DIALECTS[nodes.dialect], nodes.cluster

    def taken(_: int, status: int, body: bytes) -> None:
        if not dialect.acknowledged(status, body):
            raise Unavailable(f"a write was answered {status}: {body[:500]!r}")

    def write(count: int) -> Loop:
        items = ((key, inputs.value(key, number)) for number, key in enumerate(inputs.keys[:count]))
        requests = (encoded(leader, nodes.put_request(key, value)) for key, value in items)
        return closed_loop(leader, requests, connections, taken)

    write(WARM_UP)
    nodes.agree()
    kinds = kinds_of(nodes)
    idle = _idle(kinds)
    before, entries, begun = _worked(kinds), cluster.node(leader).status()["tail_index"], time.monotonic()
    loop = write(writes)
    nodes.agree()
    after, seconds = _worked(kinds), time.monotonic() - begun
    entries = cluster.node(leader).status()["tail_index"] - entries
    by = {name: (after[name] - before[name] - seconds * idle[name]) / writes for name in before}
    return Worked(writes / entries, by, loop.rate, statistics.median(loop.latencies))


Kinds = dict[str, list[tuple[int, ...]]]
"""The processes of each node and server, by what it is."""


def kinds_of(nodes: KvlogNodes) -> Kinds:
    """Who leads is asked once: a server that is busy may not say it."""
    found: Kinds = {}
    for node in nodes.cluster.running:
        assert node.child is not None
        kind = "leader" if node.address == nodes.addresses[0] else "follower"
        found.setdefault(kind, []).append(with_descendants(node.child.pid))
    for server in nodes.ensemble.servers:
        if not wait_until(lambda server=server: server.mode() is not None, SERVES_S):  # type: ignore[misc]
            raise Unavailable("a server of ZooKeeper does not say whether it leads")
        assert server.pid is not None
        found.setdefault(f"{ZOOKEEPER} {server.mode()}", []).append((server.pid,))
    return found


def _worked(kinds: Kinds) -> dict[str, float]:
    """Seconds of processor so far; where there are several nodes or servers of a kind, the mean."""
    return {kind: statistics.mean(map(worked, pids)) for kind, pids in kinds.items()}


def _idle(kinds: Kinds) -> dict[str, float]:
    """Seconds of processor in each second in which nothing is asked."""
    before, begun = _worked(kinds), time.monotonic()
    time.sleep(IDLE_S)
    seconds = time.monotonic() - begun
    return {kind: (after - before[kind]) / seconds for kind, after in _worked(kinds).items()}


def apart(kind: str, one: Worked, many: Worked) -> tuple[float, float]:
    """What a process works per write, and besides per entry: from measurements with few and with many in one."""
    per_entry = (one.by[kind] - many.by[kind]) / (1 / one.batch - 1 / many.batch)
    return many.by[kind] - per_entry / many.batch, per_entry


def reading(nodes: KvlogNodes, inputs: Inputs, count: int) -> float:
    """Seconds of processor that a node works for one local read."""
    address = nodes.addresses[0]
    node = nodes.cluster.node(address).child
    assert node is not None
    requests = [encoded(address, DIALECTS[nodes.dialect].get(key)) for key in inputs.keys[:count]]
    closed_loop(address, requests[:WARM_UP], CONNECTIONS[-1], lambda *_: None)
    before = worked(with_descendants(node.pid))
    closed_loop(address, requests, CONNECTIONS[-1], lambda *_: None)
    return (worked(with_descendants(node.pid)) - before) / count


def demands_from(alone: list[Worked], three: list[Worked], read: float) -> Demands:
    """Put together; what comes out below nothing is less than the clock can tell, and taken for nothing."""
    per_write, lead_alone = apart("leader", *alone)
    _, lead = apart("leader", *three)
    apply, follow = apart("follower", *three)
    _, zk_alone = apart(f"{ZOOKEEPER} standalone", *alone)
    _, zk_lead = apart(f"{ZOOKEEPER} leader", *three)
    front = min(read, per_write)
    found = Demands(
        read=read,
        front=front,
        apply=_some(apply),
        decide=_some(per_write - front - apply),
        lead=_some(lead_alone),
        push=_some(lead - lead_alone) / 2,
        follow=_some(follow),
        zk_lead=_some(zk_alone),
        zk_send=_some(zk_lead - zk_alone) / 2,
        quorum=0.0,
    )
    work = found.front + found.decide + found.lead + zookeeper_demand(found, Shape(), 1)
    return replace(found, quorum=_some(three[0].latency - work))


def _some(seconds: float) -> float:
    return max(0.0, seconds)


def shown(demands: Demands) -> str:
    """As arguments for ``python -m bench.capacity``."""
    return " ".join(f"{name}={seconds * 1e6:.0f}" for name, seconds in asdict(demands).items())


def up_to_date(page: str, demands: Demands, said: list[str]) -> str:
    """The page with these demands, with what was measured besides, and with the tables that follow from them."""
    page = re.sub(r"^front=.*(\nclients=.*)*", "\n".join([shown(demands), *said]), page, flags=re.MULTILINE)
    for varied in SHAPES:
        lines = list(table(demands, varied))
        page = re.sub(re.escape(lines[0]) + r"(\n\|.*)*", "\n".join(lines), page)
    return page


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure what writes, entries and reads cost each process.")
    parser.add_argument("--writes", type=int, default=WRITES, help=f"of each measurement ({WRITES})")
    parser.add_argument("--keep", action="store_true", help="keep them, and bring docs/performance.md up to date")
    arguments = parser.parse_args()
    inputs = Inputs.drawn(1, keys=max(arguments.writes, WARM_UP))
    found: dict[int, list[Worked]] = {}
    for size in SIZES:
        with KvlogNodes(nodes=size, servers=size) as nodes:
            found[size] = [measured_on(nodes, inputs, arguments.writes, number) for number in CONNECTIONS]
            read = reading(nodes, inputs, arguments.writes)
    demands = demands_from(found[1], found[3], read)
    said = [
        f"clients={number}: {seen.rate:,.0f} writes/s measured, {seen.batch:.1f} in an entry; "
        f"{throughput(demands, Shape(clients=number)):,.0f} writes/s by the formulas"
        for number, seen in zip(CONNECTIONS, found[3], strict=True)
    ]
    print(shown(demands), *said, sep="\n")
    if arguments.keep:
        kept = {name: round(seconds * 1e6) for name, seconds in asdict(demands).items()}
        MEASURED.write_text(json.dumps(kept) + "\n")
        PAGE.write_text(up_to_date(PAGE.read_text(), measured(), said))


if __name__ == "__main__":
    main()
