"""kvlog itself, on a ZooKeeper ensemble of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from bench.inputs import PREFIX
from bench.load import Kind
from bench.systems.etcd import pieces
from bench.systems.http import Request
from bench.systems.loaded import HttpSystem
from bench.systems.process_tree import with_descendants
from kvlog import __version__
from kvlog.cluster import Cluster, server_command
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import Unavailable
from kvlog.processes import free_ports

NODES = 3
SERVERS = 3
AGREE_S = 60.0
AT_ONCE = 20_000
"""Puts in a batch, which the node cuts into transactions."""

PAGE = 1_000


class KvlogNodes(HttpSystem):
    """Three nodes and three ZooKeeper servers.

    Args:
        name: as it stands in the tables.
        flags: further ones for each node.
        checkout: of another version to be measured; by default this one.
        servers: of ZooKeeper.
    """

    dialect = "kvlog"
    kinds = frozenset(Kind)
    notes = (
        "kvlog's writes have `ack=log`: answered once they are on the disks of a quorum of ZooKeeper's servers.",
    )

    def __init__(
        self,
        *,
        name: str = "kvlog",
        flags: Sequence[str] = (),
        checkout: Path | None = None,
        nodes: int = NODES,
        servers: int = SERVERS,
    ) -> None:
        super().__init__()
        self.name = name
        self._flags = tuple(flags)
        self._checkout = checkout
        self._size = nodes
        self.ensemble = LocalEnsemble(self._keeper, servers)
        self.cluster: Cluster
        self._addresses: tuple[str, ...] = ()

    def another(self, *flags: str) -> KvlogNodes:
        """One more of the same version, not started yet; each of its nodes has these further flags."""
        return KvlogNodes(name=self.name, flags=(*self._flags, *flags), checkout=self._checkout, nodes=self._size)

    def start(self) -> None:
        """The ensemble, then the nodes."""
        self._keeper.__enter__()
        self.ensemble.start()
        command = server_command if self._checkout is None else self._command
        ports = free_ports(self._size)
        self.cluster = Cluster(self._keeper, self.ensemble.hosts, ports=ports, command=command, flags=self._flags)
        self.cluster.start()
        self.find_leader()

    def _command(self, _: int) -> list[str]:
        assert self._checkout is not None
        python = self._checkout / ".venv" / "bin" / "python"
        return [str(python) if python.exists() else sys.executable, str(self._checkout / "server.py")]

    def stop(self) -> None:
        """Kill them all."""
        self.http.close()
        self._keeper.__exit__(None, None, None)

    def version(self) -> str:
        """Of this checkout; that of another one is not known."""
        return __version__ if self._checkout is None else "another checkout"

    @property
    def addresses(self) -> tuple[str, ...]:
        """See System."""
        return self._addresses

    def find_leader(self) -> str:
        """As all running nodes agree."""
        leader = self.cluster.wait_for_leader().address
        others = (node.address for node in self.cluster.nodes if node.address != leader)
        self._addresses = (leader, *others)
        return leader

    def pids(self) -> dict[str, tuple[int, ...]]:
        """A supervisor and a worker per node, and the servers of the ensemble."""
        nodes = (node.child.pid for node in self.cluster.running if node.child is not None)
        servers = (server.pid for server in self.ensemble.servers)
        return {
            "node": tuple(pid for node in nodes for pid in with_descendants(node)),
            "zookeeper": tuple(pid for pid in servers if pid is not None),
        }

    def put_request(self, key: str, value: str) -> Request:
        """PUT /v1/kv/KEY, committed."""
        return Request("PUT", f"/v1/kv/{quote(key)}?ack=log", value.encode())

    def put(self, key: str, value: str) -> None:
        """Returns once a quorum of ZooKeeper has it on disk."""
        status, body = self.http.ask(self._addresses[0], self.put_request(key, value))
        if status not in (200, 201):
            raise Unavailable(f"a put was answered {status}: {body[:500]!r}")

    def put_many(self, items: Mapping[str, str]) -> None:
        """In batches, one after the other."""
        for some in pieces(items, AT_ONCE):
            lines = (json.dumps({"op": "put", "key": key, "value": value}) for key, value in some.items())
            headers = {"Content-Type": "application/x-ndjson"}
            batch = Request("POST", "/v1/batch?ack=log", "\n".join(lines).encode(), headers)
            status, body = self.http.ask(self._addresses[0], batch)
            last = json.loads(body.splitlines()[-1]) if status == 200 else {}  # noqa: PLR2004 - OK
            if last.get("outcome") != "committed" or last.get("operations") != len(some):
                raise Unavailable(f"a batch was answered {status}: {body[-500:]!r}")

    def get(self, key: str, *, node: int = 0) -> str | None:
        """A local read."""
        status, body = self.http.ask(self._addresses[node], Request("GET", f"/v1/kv/{quote(key)}"))
        if status not in (200, 404):
            raise Unavailable(f"a get was answered {status}: {body[:500]!r}")
        return body.decode() if status == 200 else None  # noqa: PLR2004 - OK

    def revision(self) -> int:
        """The leader's, which each request that was committed raises by one."""
        return int(self.cluster.node(self._addresses[0]).status()["revision"])

    def contents(self, node: int) -> dict[str, str]:
        """In pages."""
        found: dict[str, str] = {}
        first = PREFIX
        while first:
            path = f"/v1/kv?prefix={PREFIX}&limit={PAGE}&from={quote(first)}"
            page = self.http.json(self._addresses[node], Request("GET", path))
            found.update((item["key"], item["value"]) for item in page["items"])
            first = page.get("next", "")
        return found

    def agree(self) -> None:
        """All have the same digest at the same index."""
        self.cluster.wait_for_agreement(AGREE_S)
