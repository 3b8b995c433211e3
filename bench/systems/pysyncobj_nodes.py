"""PySyncObj: Raft in Python, in the process of the program that uses it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata

from bench.load import Kind
from bench.systems.etcd import pieces
from bench.systems.http import Request, posted
from bench.systems.peer_nodes import NODES, PeerNodes
from kvlog.errors import Unavailable
from kvlog.processes import free_ports

AT_ONCE = 100


class PySyncObjNodes(PeerNodes):
    """Three processes with a replicated dictionary each, ``bench.peers.pysyncobj_node``."""

    name = "PySyncObj"
    dialect = "pysyncobj"
    kinds = frozenset((Kind.READ, Kind.PUT, Kind.BULK, Kind.MIXED))
    notes = (
        "PySyncObj does not flush: its journal is a mapped file, and may lose what it has acknowledged.",
        "PySyncObj runs with `appendEntriesUseBatch=False`, behind a small HTTP server in the same process.",
        "PySyncObj has 2 to 4 s until an election instead of 0.4 to 1.4 s, so that one node leads all the time.",
    )

    def start(self) -> None:
        """Three empty nodes."""
        self._keeper.__enter__()
        ports = free_ports(2 * NODES)
        peers = [f"127.0.0.1:{port}" for port in ports[NODES:]]
        for number, port in enumerate(ports[:NODES]):
            directory = self._keeper.directory / f"node-{number}"
            directory.mkdir()
            others = [peer for peer in peers if peer != peers[number]]
            argv = [sys.executable, "-m", "bench.peers.pysyncobj_node", str(port), str(directory), peers[number]]
            self._start_node([*argv, *others], port, directory / "log")
        self._wait_until_serving()

    def _serving(self) -> bool:
        try:
            self.find_leader()
            return all(self._state(address)["ready"] for address in self._addresses)
        except Unavailable:
            return False

    def find_leader(self) -> str:
        """Ask all nodes."""
        leading = [address for address in self._addresses if self._state(address)["leads"]]
        if len(leading) != 1:
            raise Unavailable(f"{len(leading)} nodes of PySyncObj lead")
        return self._first(leading[0])

    def version(self) -> str:
        """As it is installed."""
        return metadata.version("pysyncobj")

    def put_request(self, key: str, value: str) -> Request:
        """PUT /kv/KEY, of our front."""
        return Request("PUT", f"/kv/{key}", value.encode())

    def put(self, key: str, value: str) -> None:
        """Returns once a majority has it in memory."""
        self.http.json(self._addresses[0], self.put_request(key, value))

    def put_many(self, items: Mapping[str, str]) -> None:
        """A hundred at a time."""
        for some in pieces(items, AT_ONCE):
            self.http.json(self._addresses[0], posted("/bulk", some))

    def get(self, key: str, *, node: int = 0) -> str | None:
        """What the node has."""
        status, body = self.http.ask(self._addresses[node], Request("GET", f"/kv/{key}"))
        return body.decode() if status == 200 else None  # noqa: PLR2004 - OK
