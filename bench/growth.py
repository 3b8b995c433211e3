"""What a long history costs: many updates, with one replica away for a part of them, and again for a shorter one.

    .venv/bin/python -m bench.growth [UPDATES]

Three nodes on a local ensemble of three ZooKeeper servers. Writers on kept connections write unique values to
100,000 keys. Printed along the way: ZooKeeper's znodes, the log's first index and its weight. Measured at the
beginning and at the end, on one connection: the time of an update with ``ack=log``. Verified at the end, before
any figure is believed: every update was committed, the revision counts them exactly, all nodes have the same
digest, and a sample of keys has the value of the highest revision that was answered for it.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import Unavailable
from kvlog.processes import ProcessKeeper, free_ports, wait_until

CONNECTIONS = 128
KEYS = 100_000
RETAIN = 1_000
"""Entries; with so many connections, each holds some hundred updates."""

PROBES = 300
REPORT_EVERY = 100_000
RECEIVE_BYTES = 65_536
ANSWER_S = 30.0


@dataclass
class Connection:
    """One kept connection with one update under way."""

    socket: socket.socket
    key: str = ""
    value: str = ""
    received: bytes = b""


@dataclass
class Written:
    """What was committed: by key, its value and revision."""

    latest: dict[str, tuple[int, str]] = field(default_factory=dict)
    count: int = 0

    def note(self, key: str, value: str, revision: int) -> None:
        """An update of ``key`` was committed."""
        self.count += 1
        if revision > self.latest.get(key, (0, ""))[0]:
            self.latest[key] = (revision, value)


class Load:
    """Updates on many connections, on one thread: what is measured is the cluster, not the clients' threads."""

    def __init__(self, written: Written) -> None:
        self.written = written
        self._number = 0

    def run(self, node: ClusterNode, updates: int) -> float:
        """Write so many updates through ``node``; returns the seconds that it took."""
        begun = time.monotonic()
        left = updates
        with selectors.DefaultSelector() as selector:
            for _ in range(min(CONNECTIONS, updates)):
                peer = socket.create_connection(("127.0.0.1", node.port))
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(peer)
                selector.register(peer, selectors.EVENT_READ, connection)
                self._send(connection)
                left -= 1
            while selector.get_map():
                ready = selector.select(ANSWER_S)
                if not ready:
                    raise Unavailable(f"{node.address} has answered nothing for {ANSWER_S} s")
                for found, _ in ready:
                    connection = found.data
                    if not self._receive(connection):
                        continue
                    if left > 0:
                        left -= 1
                        self._send(connection)
                    else:
                        selector.unregister(connection.socket)
                        connection.socket.close()
        return time.monotonic() - begun

    def _send(self, connection: Connection) -> None:
        self._number += 1
        connection.key, connection.value = f"key-{random.randrange(KEYS)}", f"value-{self._number}"
        body = json.dumps({"key": connection.key, "value": connection.value})
        head = ("POST /update?ack=log HTTP/1.1", "Host: k", "Content-Type: application/json")
        lines = (*head, f"Content-Length: {len(body)}", "", body)
        connection.socket.sendall("\r\n".join(lines).encode())
        connection.received = b""

    def _receive(self, connection: Connection) -> bool:
        data = connection.socket.recv(RECEIVE_BYTES)
        if not data:
            raise Unavailable("a node has closed a connection")
        connection.received += data
        head, separator, body = connection.received.partition(b"\r\n\r\n")
        if not separator:
            return False
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) < length:
            return False
        answer = json.loads(body)
        if answer.get("outcome") != "committed":
            raise Unavailable(f"an update was answered {answer}")
        self.written.note(connection.key, connection.value, answer["revision"])
        return True


class Growth:
    """The run."""

    def __init__(self, cluster: Cluster, ensemble: LocalEnsemble) -> None:
        self.cluster, self.ensemble = cluster, ensemble
        self.written = Written()
        self.load = Load(self.written)
        self.highest_znodes = 0

    def write(self, leader: ClusterNode, updates: int) -> None:
        """Write so many updates, and say how it goes."""
        for first in range(0, updates, REPORT_EVERY):
            count = min(REPORT_EVERY, updates - first)
            seconds = self.load.run(leader, count)
            znodes = self.znodes()
            self.highest_znodes = max(self.highest_znodes, znodes)
            log = leader.status()["log"]
            print(
                f"{self.written.count:>9,} updates: {count / seconds:>6,.0f}/s, {znodes:,} znodes, log from entry "
                f"{log['first_index']:,}, {log['memory_bytes'] / 2**20:.1f} MiB",
                flush=True,
            )

    def probe(self, leader: ClusterNode) -> float:
        """Median time of one update on one connection, in milliseconds."""
        times = []
        for number in range(PROBES):
            begun = time.monotonic()
            answer = leader.update("probe", str(number), ack="log")
            times.append(time.monotonic() - begun)
            self.written.note("probe", str(number), answer.body["revision"])
        return statistics.median(times) * 1000

    def znodes(self) -> int:
        """As the ensemble's servers count them; the highest."""
        counts = []
        for server in self.ensemble.servers:
            with socket.create_connection(("127.0.0.1", server.client_port), timeout=5) as peer:
                peer.sendall(b"mntr")
                said = peer.makefile("rb").read().decode()
            counts += [int(line.split("\t")[1]) for line in said.splitlines() if line.startswith("zk_znode_count")]
        return max(counts)

    def come_back(self, node: ClusterNode) -> None:
        """Start a node that was away, and say what it did about it."""
        begun = time.monotonic()
        node.start()
        if not wait_until(lambda: bool(node.status()["ready"]), 120):
            raise Unavailable(f"{node.address} is not ready: {node.status()['reason']}")
        recovery = node.status()["recovery"]
        print(f"{node.address} is back after {time.monotonic() - begun:.1f} s: {json.dumps(recovery)}", flush=True)

    def verify(self) -> str:
        """What was written is there, everywhere."""
        digest = self.cluster.wait_for_agreement(60)
        revision = self.cluster.nodes[0].status()["revision"]
        if revision != self.written.count:
            raise Unavailable(f"{self.written.count} updates were committed, but the revision is {revision}")
        sample = random.sample(sorted(self.written.latest), min(500, len(self.written.latest)))
        for node in self.cluster.nodes:
            for key in sample:
                found = node.read(key).body["value"]
                if found != self.written.latest[key][1]:
                    raise Unavailable(f"{node.address}: {key} is {found}, not {self.written.latest[key]}")
        return digest


def parts(updates: int) -> Iterator[int]:
    """A fifth, three tenths while a replica is away, the rest."""
    yield updates // 5
    yield updates * 3 // 10
    yield updates - updates // 5 - updates * 3 // 10


def main() -> None:
    """See the module's docstring."""
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with ProcessKeeper() as keeper, LocalEnsemble(keeper) as ensemble:
        cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(3), flags=("--retain", str(RETAIN)))
        leader = cluster.start()
        away = next(node for node in cluster.nodes if node is not leader)
        growth = Growth(cluster, ensemble)
        first, second, third = parts(updates)
        at_first = statistics.median([growth.probe(leader) for _ in range(3)])
        growth.write(leader, first)
        away.terminate()
        growth.write(leader, second)
        growth.come_back(away)
        growth.write(leader, third)
        away.terminate()
        growth.load.run(leader, 5_000)
        growth.come_back(away)
        cluster.wait_until_settled()
        at_end = statistics.median([growth.probe(leader) for _ in range(3)])
        digest = growth.verify()
        print(f"verified: {growth.written.count:,} updates, digest {digest} on all nodes")
        print(f"znodes at most: {growth.highest_znodes:,}")
        print(f"an update on one connection: {at_first:.2f} ms at the beginning, {at_end:.2f} ms at the end")
        print(f"ratio: {at_end / at_first:.2f}")


if __name__ == "__main__":
    main()
