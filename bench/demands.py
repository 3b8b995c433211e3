"""Measures what bench/capacity.py wants to know: what one write, one entry and one read cost each process.

    .venv/bin/python -m bench.demands [WRITES]

Processor time is counted by the kernel, so that it hardly matters what else the machine does. The same writes go
to one node and to three, on one connection and on 64: with few and with many of them in an entry. So what a write
costs is told from what an entry costs, and that from what it costs for each further node. Prints the arguments for
``python -m bench.capacity``, and what the formulas say of this very machine, beside what was measured on it.
"""

from __future__ import annotations

import os
import statistics
import sys
from dataclasses import asdict, dataclass, replace

from bench.capacity import Demands, Shape, node_demands, zookeeper_demand
from bench.dialects import DIALECTS
from bench.inputs import Inputs
from bench.systems.kvlog_nodes import KvlogNodes
from bench.systems.process_tree import with_descendants, worked
from bench.wire import Loop, closed_loop, encoded
from kvlog.errors import Unavailable

WRITES = 4_000
CONNECTIONS = (1, 64)
NODES = (1, 3)
SERVERS = 3
WARM_UP = 500


@dataclass(frozen=True, slots=True)
class Worked:
    """Seconds of processor per write, by process, with so many writes in an entry; and how long writes took."""

    batch: float
    by: dict[str, float]
    rate: float
    latency: float


def measured(nodes: KvlogNodes, inputs: Inputs, writes: int, connections: int) -> Worked:
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
    before, entries = _by_process(nodes), cluster.node(leader).status()["tail_index"]
    loop = write(writes)
    nodes.agree()
    entries = cluster.node(leader).status()["tail_index"] - entries
    after = _by_process(nodes)
    by = {name: (after[name] - seconds) / writes for name, seconds in before.items()}
    return Worked(writes / entries, by, loop.rate, statistics.median(loop.latencies))


def _by_process(nodes: KvlogNodes) -> dict[str, float]:
    """Seconds so far, of one node or server of each kind; where there are several, the mean."""
    found: dict[str, list[float]] = {}
    for node in nodes.cluster.running:
        assert node.child is not None
        kind = "leader" if node.address == nodes.addresses[0] else "follower"
        found.setdefault(kind, []).append(worked(with_descendants(node.child.pid)))
    for server in nodes.ensemble.servers:
        assert server.pid is not None
        found.setdefault(f"ZooKeeper's {server.mode()}", []).append(worked([server.pid]))
    return {kind: statistics.mean(seconds) for kind, seconds in found.items()}


def apart(kind: str, one: Worked, many: Worked) -> tuple[float, float]:
    """What a process works per write, and besides per entry: from two measurements with entries of different size."""
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
    _, zk_leader = apart("ZooKeeper's leader", *three)
    _, zk_follow = apart("ZooKeeper's follower", *three)
    front = min(read, per_write)
    found = Demands(
        read=read,
        front=front,
        apply=_some(apply),
        decide=_some(per_write - front - apply),
        lead=_some(lead_alone),
        push=_some(lead - lead_alone) / 2,
        follow=_some(follow),
        zk_follow=_some(zk_follow),
        zk_lead=_some(zk_leader - (SERVERS - 1) * zk_follow),
        quorum=0.0,
    )
    work = found.front + found.decide + found.lead + zookeeper_demand(found, Shape(), 1)
    return replace(found, quorum=_some(three[0].latency - work))


def _some(seconds: float) -> float:
    return max(0.0, seconds)


def main() -> None:
    """See the module's docstring."""
    writes = int(sys.argv[1]) if len(sys.argv) > 1 else WRITES
    inputs = Inputs.drawn(1, keys=max(writes, WARM_UP))
    found: dict[int, list[Worked]] = {}
    for count in NODES:
        with KvlogNodes(nodes=count) as nodes:
            found[count] = [measured(nodes, inputs, writes, connections) for connections in CONNECTIONS]
            read = reading(nodes, inputs, writes)
    demands = demands_from(found[1], found[3], read)
    print(" ".join(f"{name}={seconds * 1e6:.0f}" for name, seconds in asdict(demands).items()))
    many, processors = found[3][-1], os.cpu_count() or 1
    servers = (demands.zk_lead + 2 * demands.zk_follow * (SERVERS - 1)) / many.batch
    most = processors / (sum(node_demands(demands, Shape(), many.batch)) + servers)
    print(
        f"{CONNECTIONS[-1]} connections: {many.rate:,.0f} writes/s, {many.batch:.1f} in an entry; all on this "
        f"machine's {processors} processors, it can be no more than {most:,.0f}"
    )


if __name__ == "__main__":
    main()
