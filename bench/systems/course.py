"""The design of the course assignment that kvlog began with, as a baseline."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from bench.load import Kind
from bench.systems.http import Request, posted
from bench.systems.peer_nodes import NODES, PeerNodes
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import Unavailable
from kvlog.processes import free_ports


class Course(PeerNodes):
    """Three processes, ``bench.peers.course_node``, and three ZooKeeper servers."""

    name = "course design"
    dialect = "course"
    kinds = frozenset((Kind.READ, Kind.PUT, Kind.MIXED))
    notes = (
        "The course design sends the whole dictionary to each replica at each update; at 10,000 keys, 1.4 MB.",
        "The course design is served by Werkzeug's development server: a thread and a connection per request.",
        "The course design is loaded with up to 64 connections.",
    )

    def __init__(self) -> None:
        super().__init__()
        self.ensemble = LocalEnsemble(self._keeper)

    def most_connections(self, kind: Kind) -> int:  # noqa: ARG002 - as with all of them
        """Each is a thread, and at each update the others wait for all that came before."""
        return 64

    def start(self) -> None:
        """The ensemble, then the nodes."""
        self._keeper.__enter__()
        self.ensemble.start()
        for port in free_ports(NODES):
            argv = [sys.executable, "-m", "bench.peers.course_node", str(port), self.ensemble.hosts]
            self._start_node(argv, port, self._keeper.directory / f"course-{port}.log")
        self._wait_until_serving()
        self.find_leader()

    def _serving(self) -> bool:
        try:
            members = {tuple(self._state(address)["members"]) for address in self._addresses}
        except Unavailable:
            return False
        return len(members) == 1 and len(members.pop()) == NODES

    def find_leader(self) -> str:
        """As the nodes see it."""
        return self._first(str(self._state(self._addresses[0])["members"][0]))

    def version(self) -> str:
        """There is only this one."""
        return "as in this checkout"

    def pids(self) -> dict[str, tuple[int, ...]]:
        """One process per node, and the servers of the ensemble."""
        servers = (server.pid for server in self.ensemble.servers)
        return {**super().pids(), "zookeeper": tuple(pid for pid in servers if pid is not None)}

    def put_request(self, key: str, value: str) -> Request:
        """POST /update."""
        return posted("/update", {"key": key, "value": value})

    def put(self, key: str, value: str) -> None:
        """Returns once all nodes have it."""
        self.http.json(self._addresses[0], self.put_request(key, value))

    def put_many(self, items: Mapping[str, str]) -> None:
        """All at once, and not through the log, which would take minutes."""
        self.http.json(self._addresses[0], posted("/load", dict(items)))

    def get(self, key: str, *, node: int = 0) -> str | None:
        """What the node has."""
        status, body = self.http.ask(self._addresses[node], Request("GET", f"/read?key={key}"))
        if status not in (200, 404):
            raise Unavailable(f"a get was answered {status}: {body[:500]!r}")
        found: str | None = json.loads(body)["value"]
        return found
