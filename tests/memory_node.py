"""A real runtime over the memory adapters, for tests of what it does when something in it stands still.

``python -m tests.memory_node WATCHDOG_S`` runs one as a process: it says "up", then ends with exit code 0 once it
has been paused, resumed, and has lived for twice WATCHDOG_S since.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.machine import Position
from kvlog.core.node import Node
from kvlog.core.values import Member, NodeSettings, Reach
from kvlog.guard import Fail
from kvlog.memory import MemoryEnsemble, MemorySession
from kvlog.memory_store import MemoryStore
from kvlog.ports import Clock, Post
from kvlog.runtime import Runtime


class RealClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class NoPeers:
    """The port Peers where there is nobody."""

    def __init__(self, post: Post) -> None:
        self._post = post

    def push(self, effect: do.Push) -> None:
        self._post(ev.PushFailed(effect.member.node_id))

    def probe(self, effect: do.Probe) -> None:
        self._post(ev.Probed(effect.address, Reach.REFUSED, ""))

    def fetch_snapshot(self, effect: do.FetchSnapshot) -> None:
        self._post(ev.SnapshotFailed(effect.member.node_id, "there is nobody"))


class MemoryNode:
    """One node alone with its ensemble."""

    def __init__(
        self,
        *,
        watchdog_s: float,
        say: Callable[[str], None],
        fail: Fail,
        store: MemoryStore | None = None,
        clock: Clock | None = None,
        on_applied: Callable[[Position], None] | None = None,
    ) -> None:
        self.store = store or MemoryStore()
        self.clock = clock or RealClock()
        me = Member("n1", "a1", "127.0.0.1:9", "catchup")
        settings = NodeSettings(
            node_id=me.node_id,
            address=me.address,
            instance=me.instance,
            recover=me.mode,
            session_timeout_s=4,
        )
        node = Node(settings, self.store, self.store.position())
        self.runtime = Runtime(
            node,
            self.store,
            self.clock,
            say=say,
            fail=fail,
            announce=lambda _: None,
            on_applied=on_applied,
            watchdog_s=watchdog_s,
        )
        self.session = MemorySession(MemoryEnsemble(), me, self.runtime.post, RealClock())
        self.peers = NoPeers(self.runtime.post)

    def start(self) -> None:
        self.runtime.start(log=self.session, election=self.session, peers=self.peers)
        self.session.connect()

    def stop(self) -> None:
        self.runtime.stop(timeout_s=10)


def main(watchdog_s: float) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})  # in all threads: it is waited for below
    node = MemoryNode(watchdog_s=watchdog_s, say=lambda _: None, fail=lambda code, _: os._exit(code))
    node.start()
    node.runtime.status()
    time.sleep(watchdog_s / 2)  # the watchdog has looked a few times
    print("up", flush=True)
    signal.sigtimedwait({signal.SIGCONT}, 60)
    time.sleep(2 * watchdog_s)
    node.stop()


if __name__ == "__main__":
    main(float(sys.argv[1]))
