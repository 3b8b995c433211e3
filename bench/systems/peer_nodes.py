"""Systems whose nodes are the small programs in ``bench/peers``: each says its state and all that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.inputs import PREFIX
from bench.systems.http import Request
from bench.systems.loaded import HttpSystem
from bench.systems.process_tree import with_descendants
from kvlog.errors import Unavailable
from kvlog.processes import Child, wait_until

NODES = 3
START_S = 30.0
AGREE_S = 60.0
_ROOT = Path(__file__).resolve().parent.parent.parent


class PeerNodes(HttpSystem):
    """See the module's docstring; the leader is the first of the addresses."""

    def __init__(self) -> None:
        super().__init__()
        self._children: list[Child] = []
        self._addresses: tuple[str, ...] = ()

    def _start_node(self, argv: Sequence[str], port: int, log: Path) -> None:
        child = self._keeper.start(argv, name=f"{self.name} node {port}", log=log, cwd=_ROOT)
        self._children.append(child)
        self._addresses = (*self._addresses, f"127.0.0.1:{port}")

    def _wait_until_serving(self) -> None:
        if not wait_until(self._serving, START_S):
            raise Unavailable(f"{self.name} does not serve:\n{self._children[0].log_tail()}")

    def _serving(self) -> bool:
        """Whether all nodes do."""
        raise NotImplementedError

    def _state(self, address: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.json(address, Request("GET", "/state"))
        return found

    def _first(self, leader: str) -> str:
        """From now on, this one is the first of the addresses."""
        self._addresses = (leader, *(other for other in self._addresses if other != leader))
        return leader

    def stop(self) -> None:
        """Kill them all."""
        self.http.close()
        self._keeper.__exit__(None, None, None)

    @property
    def addresses(self) -> tuple[str, ...]:
        """See System."""
        return self._addresses

    def pids(self) -> dict[str, tuple[int, ...]]:
        """One process per node."""
        return {"node": tuple(pid for child in self._children for pid in with_descendants(child.pid))}

    def revision(self) -> int:
        """As the leader counts the updates."""
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
            raise Unavailable(f"the nodes of {self.name} do not have the same digest")
