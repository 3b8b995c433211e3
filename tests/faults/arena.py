"""What a run is made on: an ensemble, nodes, and a proxy on every way between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kazoo.client import KazooClient

from kvlog.cluster import Cluster, ClusterNode, NodeCommand, server_command
from kvlog.ensemble import LocalEnsemble
from kvlog.ensemble.local import LocalServer
from kvlog.errors import Unavailable
from kvlog.processes import Child, ProcessKeeper, free_ports, wait_until
from tests.cluster.by_hand import zookeeper
from tests.faults.proxy import Network, Proxy
from tests.faults.resources import Resources, of_ensemble, of_process, processes_below
from tests.faults.wire import Turns, ZooKeeperTalk

SESSION_S = 4.0
NODES = 3
SERVERS = 3

ASK_S = 2.0
"""How long a node may take to say how it stands, before it counts as one that does not."""

WELL_S = 60.0
ESTABLISHED = "01"
"""What /proc/net/tcp calls the state of a connection."""

FORWARDED = b"POST /forward "


@dataclass(frozen=True, slots=True)
class Exit:
    """A node that had ended when it was looked for.

    Attributes:
        node: its address.
        code: its exit code; minus the signal, if one ended it.
        last_line: of what it has said.
        found_at: when it was looked for, on the monotonic clock, in seconds.
    """

    node: str
    code: int
    last_line: str
    found_at: float


class Arena:
    """An ensemble of three servers, and three nodes, with a proxy on every way between them.

    Clients reach the nodes directly. Entering it starts all, leaving it ends all, in whatever state they are.

    Attributes:
        ensemble: whose servers can be killed, paused and started again.
        cluster: whose nodes reach the ensemble and each other through the proxies.
        ways: for each node, its proxies in front of the servers, in the order of `ensemble.servers`; requests that
            write are those whose answers can be lost.
        doors: for each node, the proxy in front of it for its peers; forwarded writes are those whose answers can
            be lost.
        exits: of all nodes that were started again, in that order; kill -9 is one with the code -9.
        starting: held by whoever has a node down and will start it, so that nobody else does meanwhile.
        small_disks: whether each node's store is on a file system of its own that can be filled.
    """

    ensemble: LocalEnsemble
    cluster: Cluster
    keeper: ProcessKeeper
    network: Network

    def __init__(
        self,
        *,
        keeper: ProcessKeeper | None = None,
        ensemble: LocalEnsemble | None = None,
        session_timeout_s: float = SESSION_S,
        command: NodeCommand = server_command,
        flags: Sequence[str] = (),
        disk_mib: int = 0,
    ) -> None:
        """A keeper and an ensemble that are given stay; else there are new ones.

        Args:
            command: how nodes are started, without their flags.
            flags: of all nodes.
            disk_mib: size of each node's file system; 0 for none of its own, and none as well where nothing can be
                mounted.
        """
        self.session_timeout_s = session_timeout_s
        self.ways: dict[ClusterNode, list[Proxy]] = {}
        self.doors: dict[ClusterNode, Proxy] = {}
        self.exits: list[Exit] = []
        self.small_disks = False
        self._given = (keeper, ensemble)
        self._command = command
        self._flags = tuple(flags)
        self._disk_mib = disk_mib
        self._tracers: list[Child] = []
        self.starting = threading.RLock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- start and stop -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all; returns once the nodes have a leader and keep up with it."""
        keeper, ensemble = self._given
        self.keeper = keeper or self._stack.enter_context(ProcessKeeper())
        self.ensemble = ensemble or self._stack.enter_context(LocalEnsemble(self.keeper))
        self.network = self._stack.enter_context(Network())
        name = uuid.uuid4().hex[:8]
        ports = free_ports(NODES * (2 + SERVERS))
        self.cluster = Cluster(
            self.keeper,
            self.ensemble.hosts,
            ports=ports[:NODES],
            root=f"/arena-{name}",
            session_timeout_s=self.session_timeout_s,
            directory=self.keeper.directory / f"arena-{name}",
            command=self._command,
            flags=self._flags,
        )
        more = iter(ports[NODES:])
        for node in self.cluster.nodes:
            door = self.network.proxy(port=next(more), to_port=node.port, talk=lambda: Turns(FORWARDED))
            ways = [
                self.network.proxy(port=next(more), to_port=server.client_port, talk=ZooKeeperTalk)
                for server in self.ensemble.servers
            ]
            node.advertised, self.doors[node], self.ways[node] = door.address, door, ways
            node.flags = ("--zk", ",".join(way.address for way in ways))
            node.data_dir.mkdir(parents=True)
        self.small_disks = self._disk_mib > 0 and all(self._mount(node) for node in self.cluster.nodes)
        self.cluster.start()

    def stop(self) -> None:
        """End all that was started here; an ensemble that was given is whole again."""
        with self._stack:
            self.release_traced()
            if hasattr(self, "cluster"):
                for node in self.cluster.nodes:
                    self.kill(node)
                self.cluster.pool.clear()
            if self._given[1] is not None:
                for server in self.ensemble.servers:
                    self.restore(server)
                wait_until(lambda: all(server.mode() for server in self.ensemble.servers), WELL_S)

    def _mount(self, node: ClusterNode) -> bool:
        if os.geteuid() != 0:
            return False
        options = f"size={self._disk_mib}m"
        argv = ["mount", "-t", "tmpfs", "-o", options, "kvlog-arena", str(node.data_dir)]
        if subprocess.run(argv, capture_output=True, check=False).returncode:
            return False
        unmount = ["umount", "--lazy", str(node.data_dir)]
        self.keeper.run_at_end(unmount)
        self._stack.callback(self.keeper.cancel_run, unmount)
        self._stack.callback(subprocess.run, unmount, check=True)
        return True

    # --- who is who ---------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[ClusterNode]:
        """All nodes."""
        return self.cluster.nodes

    @property
    def servers(self) -> list[LocalServer]:
        """All ZooKeeper servers."""
        return self.ensemble.servers

    def status(self, node: ClusterNode) -> dict[str, Any] | None:
        """What a node says of itself; None if it does not, or not in time."""
        if not node.running:
            return None
        try:
            answer = node.request("GET", "/v1/status", timeout_s=ASK_S)
        except Unavailable:
            return None
        return answer.body if answer.status == 200 else None

    def leader(self) -> ClusterNode | None:
        """The node that says that it leads; the one of the highest epoch, should there be two."""
        said = {node: status for node in self.nodes if (status := self.status(node)) and status["is_leader"]}
        return max(said, key=lambda node: int(said[node]["epoch"]), default=None)

    def tail(self) -> int:
        """The highest index of the log that a node knows; -1 if none says so."""
        said = [status for node in self.nodes if (status := self.status(node))]
        return max((int(status["tail_index"]) for status in said), default=-1)

    def followers(self) -> list[ClusterNode]:
        """All nodes that run, without the leader."""
        leader = self.leader()
        return [node for node in self.cluster.running if node is not leader]

    def server_of(self, node: ClusterNode) -> LocalServer | None:
        """The server that a node is connected to; None if it is to none."""
        since, server = max(
            ((way.last_taken, server) for way, server in zip(self.ways[node], self.servers, strict=True)),
            key=lambda found: found[0],
        )
        return server if since else None

    def zookeeper_leader(self) -> LocalServer | None:
        """The server that leads the others; None if none says so."""
        return next((server for server in self.servers if server.running and server.mode() == "leader"), None)

    def comes_from(self, node: ClusterNode) -> Callable[[int], bool]:
        """Tells of a client's port whether it is one of a node's connections, for `Proxy.set`."""
        known: dict[int, bool] = {}

        def look(port: int) -> bool:
            if port not in known:  # one look tells of all that there are: there may be many
                known.update(_connected_ports(self._pids(node)))
            return known.setdefault(port, False)

        return look

    def zookeeper(self) -> AbstractContextManager[KazooClient]:
        """A session with the ensemble, past all proxies."""
        return zookeeper(self.ensemble.hosts)

    def _pids(self, node: ClusterNode) -> list[int]:
        return processes_below(node.child.pid) if node.child is not None and node.running else []

    def worker_of(self, node: ClusterNode) -> int | None:
        """The process that serves, and has the store; None if the node does not run."""
        return next(iter(self._pids(node)[1:]), None)

    @staticmethod
    def ballast(node: ClusterNode) -> Path:
        """A file beside a node's store that takes the room on a small disk."""
        return node.data_dir / "ballast"

    def resources(self) -> Resources:
        """What all that runs holds at this moment.

        Raises:
            OSError: a ZooKeeper server that runs does not answer.
        """
        nodes = tuple(
            of_process(node.address, node.child.pid) for node in self.cluster.running if node.child is not None
        )
        servers, counted = of_ensemble(self.ensemble)
        return Resources(nodes, servers, **counted)

    # --- faults and their end -----------------------------------------------------------------------------

    def kill(self, node: ClusterNode) -> None:
        """Kill -9 of both processes, whatever state they are in; nothing if they have ended."""
        if node.child is not None:
            self.resume(node)
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended by itself
                if node.running:
                    node.kill()
            node.child.kill()

    def resume(self, node: ClusterNode) -> None:
        """SIGCONT, if it is there."""
        with suppress(ProcessLookupError):  # it has ended
            if node.running:
                node.resume()

    def arm(self, node: ClusterNode, spec: str) -> bool:
        """Arm these failpoints of a node and no others; whether it has heard that."""
        if node.running:
            with suppress(Unavailable):  # it does not answer
                return node.request("PUT", "/v1/failpoints", body=spec.encode(), timeout_s=ASK_S).status == 200
        return False

    def trace(self, pid: int, call: str, inject: str) -> Child:
        """Have system calls of one kind fail or be late, as strace puts it in ``inject``, until that is killed.

        Raises:
            Unavailable: strace cannot do that here.
        """
        log = self.cluster.directory / f"strace-{pid}-{len(self._tracers)}.log"
        argv = ["strace", "-f", "-q", "-e", f"trace={call}", "-e", f"inject={call}:{inject}", "-o", str(log)]
        tracer = self.keeper.start([*argv, "-p", str(pid)], name="strace", log=log.with_suffix(".said"))
        self._tracers.append(tracer)
        if (
            not wait_until(lambda: _is_traced(pid) or not tracer.running, ASK_S, every_s=0.01)
            or not tracer.running
        ):
            raise Unavailable(f"strace does not attach to process {pid}: {tracer.log_tail(3)}")
        return tracer

    def release_traced(self) -> None:
        """No system call fails, or is late, any more."""
        while self._tracers:
            self._tracers.pop().kill()

    def revive(self, node: ClusterNode) -> None:
        """Have a node run: it goes on, or starts if it has ended. For any thread."""
        with self.starting:
            if node.running:
                self.resume(node)
                return
            if node.child is not None:
                code, last_line = node.child.reap(), node.child.log_tail(1)
                self.exits.append(Exit(node.address, code, last_line, time.monotonic()))
            node.start(wait=False)

    def restore(self, server: LocalServer) -> None:
        """Have a ZooKeeper server run: it goes on, or starts if it has ended."""
        if server.running:
            server.resume()
        else:
            server.start(wait=False)

    def heal_all(self, timeout_s: float = WELL_S) -> None:
        """Whatever was done: everything runs and is reachable, nothing is armed, no store stays stale.

        Raises:
            Unavailable: not in time.
        """
        self.release_traced()
        for proxy in self.proxies:
            proxy.heal()
        for server in self.servers:
            self.restore(server)
        for node in self.nodes:
            self.ballast(node).unlink(missing_ok=True)
            self.revive(node)
        self.heal_nodes(self.nodes, timeout_s)

    def heal_nodes(self, nodes: Sequence[ClusterNode], timeout_s: float) -> None:
        """Have nodes run, with nothing armed; those that are stale are told to catch up.

        Raises:
            Unavailable: not in time.
        """
        left = list(nodes)
        end = time.monotonic() + timeout_s
        while left := [node for node in left if not self._is_healed(node)]:
            if time.monotonic() > end:
                raise Unavailable(f"not all is healed within {timeout_s:g} s:\n{self.cluster.describe()}")
            time.sleep(0.1)

    def _is_healed(self, node: ClusterNode) -> bool:
        self.revive(node)
        status = self.status(node)
        if status is None or not status["recovery"]["finished"] or not self.arm(node, ""):
            return False  # whether its store is stale is known once it has recovered
        with suppress(Unavailable):  # it does not answer: once more, later
            return not status["stale"] or node.catch_up().status == 200
        return False

    @property
    def proxies(self) -> list[Proxy]:
        """All of them."""
        return [*self.doors.values(), *(way for ways in self.ways.values() for way in ways)]

    def why_not_well(self) -> str:
        """Empty if all servers serve, and all nodes are ready and keep up with one leader; else what is not so."""
        for server in self.servers:
            if not server.running or server.mode() is None:
                return f"the ZooKeeper server at port {server.client_port} does not serve"
        said = {node: self.status(node) for node in self.nodes}
        for node, status in said.items():
            if status is None:
                return f"node {node.address} does not answer"
            if not status["ready"]:
                return f"node {node.address} is not ready: {status.get('reason', status)}"
        leaders = {str((status["leader"] or {}).get("address", "")) for status in said.values() if status}
        leader = self.cluster.node(leaders.pop()) if len(leaders) == 1 and "" not in leaders else None
        status = said[leader] if leader is not None else None
        if leader is None or status is None or not status["is_leader"]:
            return "the nodes do not agree on a leader"
        applied = {member["address"] for member in status["members"] if member.get("push") == "applied"}
        behind = [node.address for node in self.nodes if node is not leader and node.advertised not in applied]
        return f"{', '.join(behind)} did not take the last push of {leader.address}" if behind else ""

    def wait_until_well(self, timeout_s: float = WELL_S) -> ClusterNode:
        """The leader, once all servers serve, and all nodes are ready and keep up with it.

        A node that ends meanwhile is started again: that is for whoever looks at `exits`.

        Raises:
            Unavailable: not in time; says what is wrong.
        """
        reason = "nobody has looked yet"
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for node in self.nodes:
                if not node.running:
                    self.revive(node)
            reason = self.why_not_well()
            if not reason and (leader := self.leader()) is not None:
                return leader
            time.sleep(0.1)
        raise Unavailable(f"not well within {timeout_s:g} s: {reason}:\n{self.cluster.describe()}")


def can_trace() -> str | None:
    """None if system calls can be made to fail here, else what is missing."""
    return None if shutil.which("strace") else "there is no strace here: apt-get install strace"


def _is_traced(pid: int) -> bool:
    with suppress(OSError):  # it has ended
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    return False


def _connected_ports(pids: Sequence[int]) -> dict[int, bool]:
    """The local ports of all TCP connections of this machine, and whether they are those of some processes."""
    sockets = set()
    for pid in pids:
        with suppress(OSError):  # it has just ended
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):  # it has just been closed
                    sockets.add(str(descriptor.readlink()))
    ports = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == ESTABLISHED:  # a port at which nothing is connected any more may soon be another one's
            ports[int(fields[1].rpartition(":")[2], 16)] = f"socket:[{fields[9]}]" in sockets
    return ports
