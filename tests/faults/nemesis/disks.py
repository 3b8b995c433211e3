"""A node's disk is full, fails or is slow."""

from __future__ import annotations

import errno
import random
from abc import abstractmethod
from typing import ClassVar

from kvlog.cluster import ClusterNode
from kvlog.processes import Child
from tests.faults.arena import Arena, can_trace
from tests.faults.nemesis.fault import leader_of
from tests.faults.nemesis.processes import NodeFault

BALLAST_BYTES = 1024 * 1024


class _Traced(NodeFault):
    """System calls of a node that fail, or take long: mostly of the leader, sometimes of another node."""

    call: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._tracers: list[Child] = []

    @classmethod
    def why_not(cls, arena: Arena) -> str | None:  # noqa: ARG003
        """See Fault."""
        return can_trace()

    def inject(self, arena: Arena, draw: random.Random) -> str:
        """See Fault."""
        node = leader_of(arena, draw) if draw.random() < 0.6 else draw.choice(arena.nodes)
        self.victims = [node]
        what = self.harm(draw)
        return f"{node.address}: {self.trace(arena, node, what)}"

    @abstractmethod
    def harm(self, draw: random.Random) -> str:
        """In strace's words, what becomes of a call."""

    def trace(self, arena: Arena, node: ClusterNode, inject: str) -> str:
        """Do it to a node's worker."""
        worker = arena.worker_of(node)
        if worker is None:
            return "had ended before its disk could fail"
        self._tracers.append(arena.trace(worker, self.call, inject))
        return f"{self.call} with {inject}"

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        for tracer in self._tracers:
            tracer.kill()
        super().heal(arena)


class FsyncEio(_Traced):
    """What is to become durable does not; nobody knows what the disk has."""

    name = "fsync-eio"
    rows = ("F21",)
    call = "fdatasync"

    def harm(self, draw: random.Random) -> str:
        """See _Traced."""
        return f"error=EIO:when={draw.randint(1, 4)}+"


class WriteEio(_Traced):
    """A page cannot be written."""

    name = "write-eio"
    rows = ("F21",)
    call = "pwrite64"

    def harm(self, draw: random.Random) -> str:
        """See _Traced."""
        return f"error=EIO:when={draw.randint(1, 50)}+"


class SlowFsync(_Traced):
    """It takes long until something is durable."""

    name = "slow-fsync"
    rows = ("F35",)
    call = "fdatasync"
    lasts_s = (3.0, 8.0)

    def harm(self, draw: random.Random) -> str:
        """See _Traced."""
        return f"delay_enter={draw.randint(100, 3000) * 1000}"


class DiskFull(_Traced):
    """No room is left for a store: on a small file system of its own, else as strace has it."""

    name = "disk-full"
    rows = ("F20",)
    call = "pwrite64"

    @classmethod
    def why_not(cls, arena: Arena) -> str | None:
        """See Fault."""
        return None if arena.small_disks else can_trace()

    def harm(self, draw: random.Random) -> str:
        """See _Traced."""
        return f"error=ENOSPC:when={draw.randint(1, 20)}+"

    def trace(self, arena: Arena, node: ClusterNode, inject: str) -> str:
        """See _Traced."""
        if not arena.small_disks:
            return super().trace(arena, node, inject)
        with arena.ballast(node).open("wb", buffering=0) as file:
            try:
                while file.write(bytes(BALLAST_BYTES)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        return "its disk is full"

    def heal(self, arena: Arena) -> None:
        """See Fault."""
        for node in self.victims:
            arena.ballast(node).unlink(missing_ok=True)
        super().heal(arena)
