"""The design of the course assignment that kvlog began with, as a baseline."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.inputs import PREFIX
from bench.load import Kind
from bench.systems.http import Request, posted
from bench.systems.loaded import HttpSystem
from bench.systems.process_tree import with_descendants
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import Unavailable
from kvlog.processes import Child, free_ports, wait_until

NODES = 3
START_S = 30.0
AGREE_S = 60.0
_ROOT = Path(__file__).resolve().parent.parent.parent


class Course(HttpSystem):
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
        self._children: list[Child] = []
        self._addresses: tuple[str, ...] = ()

    def most_connections(self, kind: Kind) -> int:  # noqa: ARG002 - as with all of them
        """Each is a thread, and at each update the others wait for all that came before."""
        return 64

    def start(self) -> None:
        """The ensemble, then the nodes."""
        self._keeper.__enter__()
        self.ensemble.start()
        ports = free_ports(NODES)
        self._addresses = tuple(f"127.0.0.1:{port}" for port in ports)
        for port in ports:
            argv = [sys.executable, "-m", "bench.peers.course_node", str(port), self.ensemble.hosts]
            log = self._keeper.directory / f"course-{port}.log"
            self._children.append(self._keeper.start(argv, name=f"course node {port}", log=log, cwd=_ROOT))
        if not wait_until(self._serving, START_S):
            raise Unavailable(f"the course design does not serve:\n{self._children[0].log_tail()}")
        self.find_leader()

    def _serving(self) -> bool:
        try:
            members = {tuple(self._state(address)["members"]) for address in self._addresses}
        except Unavailable:
            return False
        return len(members) == 1 and len(members.pop()) == NODES

    def _state(self, address: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.json(address, Request("GET", "/state"))
        return found

    def stop(self) -> None:
        """Kill them all."""
        self.http.close()
        self._keeper.__exit__(None, None, None)

    def find_leader(self) -> str:
        """As the nodes see it."""
        leader = str(self._state(self._addresses[0])["members"][0])
        self._addresses = (leader, *(other for other in self._addresses if other != leader))
        return leader

    def version(self) -> str:
        """There is only this one."""
        return "as in this checkout"

    @property
    def addresses(self) -> tuple[str, ...]:
        """See System."""
        return self._addresses

    def pids(self) -> dict[str, tuple[int, ...]]:
        """One process per node, and the servers of the ensemble."""
        servers = (server.pid for server in self.ensemble.servers)
        return {
            "node": tuple(pid for child in self._children for pid in with_descendants(child.pid)),
            "zookeeper": tuple(pid for pid in servers if pid is not None),
        }

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

    def revision(self) -> int:
        """How many updates are in the log."""
        return int(self._state(self._addresses[0])["revision"])

    def contents(self, node: int) -> dict[str, str]:
        """All at once."""
        found = self.http.json(self._addresses[node], Request("GET", "/all"))
        return {key: value for key, value in found.items() if key.startswith(PREFIX)}

    def agree(self) -> None:
        """All have the same digest."""

        def same() -> bool:
            return len({self._state(address)["digest"] for address in self._addresses}) == 1

        if not wait_until(same, AGREE_S):
            raise Unavailable("the nodes of the course design do not have the same digest")
