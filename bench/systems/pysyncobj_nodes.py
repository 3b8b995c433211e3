"""PySyncObj: Raft in Python, in the process of the program that uses it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.inputs import PREFIX
from bench.load import Kind
from bench.systems.etcd import pieces
from bench.systems.http import Request, posted
from bench.systems.loaded import HttpSystem
from bench.systems.process_tree import with_descendants
from kvlog.errors import Unavailable
from kvlog.processes import Child, free_ports, wait_until

NODES = 3
START_S = 30.0
AGREE_S = 60.0
AT_ONCE = 100
_ROOT = Path(__file__).resolve().parent.parent.parent


class PySyncObjNodes(HttpSystem):
    """Three processes with a replicated dictionary each, ``bench.peers.pysyncobj_node``."""

    name = "PySyncObj"
    dialect = "pysyncobj"
    kinds = frozenset((Kind.READ, Kind.PUT, Kind.BULK, Kind.MIXED))
    notes = (
        "PySyncObj does not flush: its journal is a mapped file, and may lose what it has acknowledged.",
        "PySyncObj runs with `appendEntriesUseBatch=False`, behind a small HTTP server in the same process.",
        "PySyncObj has 2 to 4 s until an election instead of 0.4 to 1.4 s, so that one node leads all the time.",
    )

    def __init__(self) -> None:
        super().__init__()
        self._children: list[Child] = []
        self._addresses: tuple[str, ...] = ()

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
            log = directory / "log"
            child = self._keeper.start([*argv, *others], name=f"PySyncObj node {number}", log=log, cwd=_ROOT)
            self._children.append(child)
        self._addresses = tuple(f"127.0.0.1:{port}" for port in ports[:NODES])
        if not wait_until(self._serving, START_S):
            raise Unavailable(f"PySyncObj does not serve:\n{self._children[0].log_tail()}")

    def _serving(self) -> bool:
        try:
            self.find_leader()
            return all(self._state(address)["ready"] for address in self._addresses)
        except Unavailable:
            return False

    def _state(self, address: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.json(address, Request("GET", "/state"))
        return found

    def stop(self) -> None:
        """Kill them all."""
        self.http.close()
        self._keeper.__exit__(None, None, None)

    def find_leader(self) -> str:
        """Ask all nodes."""
        leading = [address for address in self._addresses if self._state(address)["leads"]]
        if len(leading) != 1:
            raise Unavailable(f"{len(leading)} nodes of PySyncObj lead")
        self._addresses = (leading[0], *(other for other in self._addresses if other != leading[0]))
        return leading[0]

    def version(self) -> str:
        """As it is installed."""
        return metadata.version("pysyncobj")

    @property
    def addresses(self) -> tuple[str, ...]:
        """See System."""
        return self._addresses

    def pids(self) -> dict[str, tuple[int, ...]]:
        """One process per node."""
        return {"node": tuple(pid for child in self._children for pid in with_descendants(child.pid))}

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

    def revision(self) -> int:
        """Counted in what is replicated."""
        return int(self._state(self._addresses[0])["revision"])

    def contents(self, node: int) -> dict[str, str]:
        """All at once."""
        found = self.http.json(self._addresses[node], Request("GET", "/all"))
        return {key: value for key, value in found.items() if key.startswith(PREFIX)}

    def agree(self) -> None:
        """All have the same digest at the same revision."""

        def same() -> bool:
            said = [self._state(address) for address in self._addresses]
            return len({(state["revision"], state["digest"]) for state in said}) == 1

        if not wait_until(same, AGREE_S):
            raise Unavailable("the nodes of PySyncObj do not have the same digest")
