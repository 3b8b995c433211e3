"""ZooKeeper's servers are killed, stopped and slow; a session ends although both its ends are well."""

from __future__ import annotations

import random
import socket
import struct
import threading
from abc import abstractmethod
from collections.abc import Sequence

from kvlog.ensemble.local import LocalServer
from kvlog.processes import Child, wait_until
from tests.faults.arena import Arena, can_trace
from tests.faults.nemesis.background import Background
from tests.faults.nemesis.fault import Fault, leader_of

UP_S = 30.0
APART_S = 0.5
GREETING_S = 5.0

_CLOSE_SESSION = -11


class ServerFault(Fault):
    """One that is over once its servers run again."""

    settles_s = 20.0

    def __init__(self) -> None:
        self.victims: list[LocalServer] = []

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        for server in self.victims:
            arena.restore(server)


class _Kill(ServerFault):
    """Kill -9 of one server."""

    lasts_s = (1.0, 6.0)

    @abstractmethod
    def choose(self, arena: Arena, draw: random.Random) -> LocalServer:
        """Which."""

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        self.victims = [self.choose(arena, draw)]
        self.victims[0].kill()
        return f"killed the ZooKeeper server {_name(self.victims[0])} with kill -9"


class KillZkFollower(_Kill):
    """A server that does not lead."""

    name = "kill-zk-follower"
    rows = ("F15",)

    def choose(self, arena: Arena, draw: random.Random) -> LocalServer:
        """See _Kill."""
        return draw.choice(followers_of(arena))


class KillZkLeader(_Kill):
    """The server that leads the others."""

    name = "kill-zk-leader"
    rows = ("F15",)

    def choose(self, arena: Arena, draw: random.Random) -> LocalServer:
        """See _Kill."""
        return arena.zookeeper_leader() or draw.choice(arena.servers)


class KillZkOfLeader(_Kill):
    """The server that the leading node is connected to."""

    name = "kill-zk-of-leader"
    rows = ("F15",)

    def choose(self, arena: Arena, draw: random.Random) -> LocalServer:
        """See _Kill."""
        return arena.server_of(leader_of(arena, draw)) or draw.choice(arena.servers)


class PauseZkLeader(ServerFault):
    """SIGSTOP of the server that leads the others, for longer or shorter than they wait for it."""

    name = "pause-zk-leader"
    rows = ("F15", "F19")
    lasts_s = (1.0, 8.0)

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        self.victims = [arena.zookeeper_leader() or draw.choice(arena.servers)]
        return _pause(self.victims)


class PauseZkFollower(ServerFault):
    """SIGSTOP of a server that does not lead: it lags behind, with nodes connected to it, perhaps."""

    name = "pause-zk-follower"
    rows = ("F19g",)
    lasts_s = (1.0, 8.0)

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        self.victims = [draw.choice(followers_of(arena))]
        return _pause(self.victims)


class QuorumLoss(ServerFault):
    """Two of three servers are killed, or stopped."""

    name = "quorum-loss"
    rows = ("F16", "F19d", "F19e")
    lasts_s = (2.0, 10.0)
    settles_s = 25.0

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        self.victims = draw.sample(arena.servers, 2)
        if draw.random() < 0.5:
            return _pause(self.victims)
        for server in self.victims:
            server.kill()
        return f"killed the ZooKeeper servers {_names(self.victims)} with kill -9"


class RollingZkRestart(ServerFault):
    """Each server is killed and started again, one after the other; the next one once this one serves."""

    name = "rolling-zk-restart"
    rows = ("F17",)
    lasts_s = (6.0, 12.0)

    def __init__(self) -> None:
        super().__init__()
        self._background: Background | None = None

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        self.victims = draw.sample(arena.servers, len(arena.servers))

        def work(stopping: threading.Event) -> None:
            for server in self.victims:
                if stopping.is_set():
                    return
                server.kill()
                stopping.wait(APART_S)
                arena.restore(server)
                wait_until(lambda server=server: stopping.is_set() or server.mode() is not None, UP_S)  # type: ignore[misc]

        self._background = Background(work)
        return f"restarts the ZooKeeper servers {_names(self.victims)}, one after the other"

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        if self._background is not None:
            self._background.stop()
        super().heal(arena)


class SlowZkDisk(ServerFault):
    """A majority of the servers takes a while to make anything durable."""

    name = "slow-zk-disk"
    rows = ("F19j",)
    lasts_s = (3.0, 8.0)

    def __init__(self) -> None:
        super().__init__()
        self._tracers: list[Child] = []

    @classmethod
    def why_not(cls, arena: Arena) -> str | None:  # noqa: ARG003
        """See Fault."""
        return can_trace()

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        slow, late_ms = draw.sample(arena.servers, 2), draw.randint(50, 500)
        for server in slow:
            if server.pid is not None:
                self._tracers.append(arena.trace(server.pid, "fdatasync", f"delay_enter={late_ms * 1000}"))
        return f"each fdatasync of the ZooKeeper servers {_names(slow)} takes {late_ms} ms longer"

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        for tracer in self._tracers:
            tracer.kill()
        super().heal(arena)


class ExpireSession(Fault):
    """The leader's session ends, though it and its connection are well: somebody else has closed it."""

    name = "expire-session"
    rows = ("F19c",)
    lasts_s = (0.5, 3.0)

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        node = leader_of(arena, draw)
        with arena.zookeeper() as client:
            path = f"{arena.cluster.root}/members/{node.address}"
            member = client.exists(path)
        if member is None:
            return f"{node.address} had no session that could be closed"
        # At the node's own server, which ends its connection first. At another one the session would move there,
        # and what the node still asks for be answered in part: kazoo's thread ends by that.
        own = arena.server_of(node)
        servers = sorted((server for server in arena.servers if server.mode()), key=lambda each: each is not own)
        closed = any(close_session(server, member.ephemeralOwner) for server in servers)
        return f"{'closed' if closed else 'did not find'} the session {member.ephemeralOwner:#x} of {node.address}"

    def heal(self, arena: Arena) -> None:
        """Nothing to undo: the node makes itself another session."""


def followers_of(arena: Arena) -> list[LocalServer]:
    """The servers that do not lead."""
    leader = arena.zookeeper_leader()
    return [server for server in arena.servers if server is not leader]


def password(session_id: int) -> bytes:
    """That of a session, as ZooKeeper makes it: 16 bytes of java.util.Random, seeded with the id and a constant.

    So it is in ZooKeeperServer.generatePasswd of ZooKeeper 3.4 to 3.9.
    """
    mask = (1 << 48) - 1
    seed = ((session_id ^ 0xB3415C00) ^ 0x5DEECE66D) & mask
    made = bytearray()
    while len(made) < 16:
        seed = (seed * 0x5DEECE66D + 0xB) & mask
        made += ((seed >> 16) & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(made)


def close_session(server: LocalServer, session_id: int) -> bool:
    """Close somebody else's session, as that could itself; whether the server knows it."""
    greeting = struct.pack(">iqiqi16s?", 0, 0, 4000, session_id, 16, password(session_id), False)
    with socket.create_connection(("127.0.0.1", server.client_port), timeout=GREETING_S) as connection:
        connection.sendall(struct.pack(">i", len(greeting)) + greeting)
        answer = connection.recv(4096)
        if len(answer) < 20 or struct.unpack(">iiiq", answer[:20])[3] != session_id:
            return False  # the session has ended, or the password is another one
        connection.sendall(struct.pack(">iii", 8, 1, _CLOSE_SESSION))
        while connection.recv(4096):
            pass  # the server closes the connection behind its answer
    return True


def _pause(servers: Sequence[LocalServer]) -> str:
    for server in servers:
        if server.running:
            server.pause()
    return f"stopped the ZooKeeper servers {_names(servers)} with SIGSTOP"


def _name(server: LocalServer) -> str:
    return f"at port {server.client_port}"


def _names(servers: Sequence[LocalServer]) -> str:
    return ", ".join(map(_name, servers))
