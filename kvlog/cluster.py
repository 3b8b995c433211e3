"""A cluster of node processes on this machine, for the demo, the tests and the benchmarks.

    with ProcessKeeper() as keeper, LocalEnsemble(keeper) as ensemble:
        cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(3))
        cluster.start()
        cluster.nodes[0].update("key", "value")

Everything is done as a user would do it: ``server.py`` is started with flags, asked over HTTP, and killed by
its process number.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from kvlog.errors import Unavailable
from kvlog.processes import Child, ProcessKeeper, wait_until

START_S = 20.0
"""How long a node may take until it is up, or a cluster until it has a leader."""

ANSWER_S = 10.0

_SERVER = Path(__file__).resolve().parent.parent / "server.py"

NodeCommand = Callable[[int], Sequence[str]]
"""The command that starts the node with this number, without its flags."""


def server_command(_: int) -> list[str]:
    """The ordinary one: ``python server.py``."""
    return [sys.executable, str(_SERVER)]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: its status, JSON body and headers (names in lower case)."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


class ClusterNode:
    """One node: its process, and its API."""

    def __init__(self, cluster: Cluster, number: int, port: int) -> None:
        self._cluster = cluster
        self.number = number
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.advertised = self.address
        """Where the other nodes reach it; another address if there is something in between."""
        self.flags: tuple[str, ...] = ()
        """What only this node is started with."""
        self.data_dir = cluster.directory / str(port)
        self.log = cluster.directory / f"{port}.log"
        self.child: Child | None = None

    # --- process ------------------------------------------------------------------------------------------

    def start(self, *, recover: str = "catchup", wait: bool = True, flags: Sequence[str] = ()) -> None:
        """Start the process; ``wait`` until it is up, which a stale node is too."""
        cluster = self._cluster
        argv = [
            *cluster.command(self.number),
            *("--port", str(self.port), "--zk", cluster.hosts, "--root", cluster.root),
            *("--data-dir", str(self.data_dir), "--recover", recover),
            *("--session-timeout", str(cluster.session_timeout_s), "--demo"),
            *(("--id", self.address, "--advertise", self.advertised) if self.advertised != self.address else ()),
            *cluster.flags,
            *self.flags,
            *flags,
        ]
        said = self._lines_on_ready()
        self.child = cluster.keeper.start(argv, name=f"node {self.address}", log=self.log, cwd=_SERVER.parent)
        if wait:
            self.wait_until_up(said)

    def wait_until_up(self, said: int = 0) -> None:
        """Wait for the ready line; ``said``: how many of them earlier lives have written."""
        child = self._running_child()
        wait_until(lambda: not child.running or self._lines_on_ready() > said, START_S)
        if self._lines_on_ready() <= said:
            raise Unavailable(f"node {self.address} did not come up:\n{child.log_tail()}")

    def _lines_on_ready(self) -> int:
        return self.log.read_text().count(" is ready on ") if self.log.exists() else 0

    def kill(self) -> None:
        """Kill -9 of the supervisor, which takes the worker along; returns once both are dead.

        Dead means that the kernel has closed their connections: whoever asks after that is refused, and does
        not send into a connection that nobody reads any more.
        """
        child = self._running_child()
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        workers = [os.pidfd_open(int(pid)) for pid in children.read_text().split()]
        os.kill(child.pid, signal.SIGKILL)
        try:
            for worker in workers:
                if not select.select([worker], [], [], ANSWER_S)[0]:
                    raise Unavailable(f"the worker of node {self.address} lives on without its supervisor")
        finally:
            for worker in workers:
                os.close(worker)
        child.reap()

    def terminate(self, timeout_s: float = 15) -> int:
        """SIGTERM: hand over and stop; returns the exit code."""
        return self._running_child().terminate(timeout_s)

    def pause(self) -> None:
        """SIGSTOP of both processes."""
        self._running_child().pause()

    def resume(self) -> None:
        """SIGCONT."""
        self._running_child().resume()

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self.child is not None and self.child.running

    def _running_child(self) -> Child:
        if self.child is None:
            raise Unavailable(f"node {self.address} was never started")
        return self.child

    # --- API ----------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        fields: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = ANSWER_S,
    ) -> Answer:
        """Any request.

        Raises:
            Unavailable: no answer, or none of kvlog's.
        """
        try:
            response = self._cluster.pool.request(
                method,
                f"http://{self.address}{path}",
                fields=fields,
                body=body,
                timeout=timeout_s,
                headers={**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})},
            )
        except HTTPError as error:
            raise Unavailable(f"{method} {path} on {self.address}: {error}") from error
        try:
            content = json.loads(response.data) if response.data else {}
        except ValueError as error:
            raise Unavailable(f"{method} {path} on {self.address} was not answered in JSON: {error}") from error
        answered = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, content, answered)

    @property
    def answers(self) -> bool:
        """Whether anything answers on its address."""
        try:
            return self.request("GET", "/healthz", timeout_s=1).status == 200  # noqa: PLR2004 - OK
        except Unavailable:
            return False

    def status(self) -> dict[str, Any]:
        """GET /v1/status.

        Raises:
            Unavailable: no answer, or one that says that the node cannot tell.
        """
        answer = self.request("GET", "/v1/status")
        if answer.status != 200:  # noqa: PLR2004 - OK
            raise Unavailable(f"GET /v1/status on {self.address} was answered {answer.status}: {answer.body}")
        return answer.body

    def read(self, key: str) -> Answer:
        """GET /read."""
        return self.request("GET", "/read", fields={"key": key})

    def update(
        self, key: str, value: str, *, ack: str = "replicas", timeout_s: float = 5, request_id: str = ""
    ) -> Answer:
        """POST /update, in the node's time limit of ``timeout_s``, under an Idempotency-Key if there is one."""
        path = f"/update?ack={ack}&timeout_ms={round(timeout_s * 1000)}"
        body = json.dumps({"key": key, "value": value}).encode()
        headers = {"Idempotency-Key": request_id} if request_id else None
        return self.request("POST", path, body=body, headers=headers, timeout_s=timeout_s + ANSWER_S)

    def remembered(self, request_id: str) -> Answer:
        """GET /v1/requests/<id>."""
        return self.request("GET", f"/v1/requests/{request_id}")

    def settle(self, request_id: str) -> Answer:
        """DELETE /v1/requests/<id>."""
        return self.request("DELETE", f"/v1/requests/{request_id}")

    def catch_up(self) -> Answer:
        """POST /v1/admin/catchup."""
        return self.request("POST", "/v1/admin/catchup", timeout_s=60)


class Cluster:
    """Nodes that share an ensemble and a root.

    Their stores and logs are in ``directory``, by default the keeper's. The ports are theirs for good: a node
    that is started again has the same address and the same store. Every node is started with ``flags``.
    """

    def __init__(
        self,
        keeper: ProcessKeeper,
        hosts: str,
        *,
        ports: Sequence[int],
        root: str = "/kvlog",
        session_timeout_s: float = 10,
        directory: Path | None = None,
        command: NodeCommand = server_command,
        flags: Sequence[str] = (),
    ) -> None:
        self.keeper = keeper
        self.hosts = hosts
        self.root = root
        self.session_timeout_s = session_timeout_s
        self.directory = directory or keeper.directory / f"cluster-{ports[0]}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.command = command
        self.flags = tuple(flags)
        self.pool = urllib3.PoolManager(num_pools=len(ports), maxsize=64, retries=False)
        self.nodes = [ClusterNode(self, number, port) for number, port in enumerate(ports)]

    def start(self) -> ClusterNode:
        """Start all nodes; returns the leader once every node knows it and the others keep up with it."""
        for node in self.nodes:
            node.start(wait=False)
        for node in self.nodes:
            node.wait_until_up()
        return self.wait_until_settled()

    def stop(self) -> None:
        """Stop all nodes that run, gracefully."""
        for node in self.nodes:
            if node.running:
                node.terminate()

    def node(self, address: str) -> ClusterNode:
        """The node at an address: its own, or the one that the other nodes know."""
        return next(node for node in self.nodes if address in (node.address, node.advertised))

    @property
    def running(self) -> list[ClusterNode]:
        """The nodes whose processes are there."""
        return [node for node in self.nodes if node.running]

    def leader(self) -> ClusterNode | None:
        """The node that leads, as far as it says so itself and the others that run agree."""
        leaders = {self._leader_of(node) for node in self.running}
        address = leaders.pop() if len(leaders) == 1 else None
        if address is None or not (node := self.node(address)).running:
            return None
        return node if node.status()["is_leader"] else None

    @staticmethod
    def _leader_of(node: ClusterNode) -> str | None:
        leader = node.status()["leader"]
        return leader["address"] if leader else None

    def wait_for_leader(self, timeout_s: float = START_S) -> ClusterNode:
        """The leader, once there is one that all running nodes know.

        Raises:
            Unavailable: there is none in time.
        """
        found: list[ClusterNode] = []

        def look() -> bool:
            try:
                leader = self.leader()
            except Unavailable:
                return False
            if leader is not None:
                found.append(leader)
            return leader is not None

        if not wait_until(look, timeout_s):
            raise Unavailable(f"no leader within {timeout_s} s:\n{self.describe()}")
        return found[-1]

    def wait_until_settled(self, timeout_s: float = START_S) -> ClusterNode:
        """The leader, once every running node is a member that keeps up with its pushes."""
        end = time.monotonic() + timeout_s
        leader = self.wait_for_leader(timeout_s)
        others = {node.advertised for node in self.running} - {leader.advertised}

        def settled() -> bool:
            members = leader.status()["members"]
            return others <= {member["address"] for member in members if member.get("push") == "applied"}

        if not wait_until(settled, max(0.0, end - time.monotonic())):
            raise Unavailable(f"not all nodes keep up within {timeout_s} s:\n{self.describe()}")
        return leader

    def wait_for_agreement(self, timeout_s: float = START_S) -> str:
        """The digest, once all running nodes have the same one at the same index and nothing is missing.

        Raises:
            Unavailable: they do not agree in time.
        """
        digests: set[tuple[int, str]] = set()

        def agree() -> bool:
            states = [node.status() for node in self.running]
            digests.clear()
            digests.update((state["applied_index"], state["digest"]) for state in states)
            whole = all(not state["stale"] and state["tail_index"] == state["applied_index"] for state in states)
            return whole and len(digests) == 1

        if not wait_until(agree, timeout_s):
            raise Unavailable(f"no agreement within {timeout_s} s:\n{self.describe()}")
        return digests.pop()[1]

    def describe(self) -> str:
        """What each node says of itself and in its log, for error messages."""
        lines = []
        for node in self.nodes:
            try:
                said = json.dumps(node.status()) if node.running else "not running"
            except Unavailable as error:
                said = str(error)
            tail = node.child.log_tail(12) if node.child else ""
            lines.append(f"{node.address}: {said}\n{tail}")
        return "\n".join(lines)
