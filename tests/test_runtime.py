"""The thread that decides: what it takes together, in which order, and when it is woken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.commands import update
from kvlog.core.node import Node
from kvlog.core.role import Role
from kvlog.core.values import Ack, Answer, Committed, Reach, Reached, Unknown
from kvlog.processes import wait_until
from kvlog.runtime import GATHERED_MAX, TICK_S

from .memory_node import MemoryNode, NoPeers

WAIT_S = 20.0


class OwnPort(NoPeers):
    """The port Peers where there is nobody else: its own address answers."""

    def probe(self, effect: do.Probe) -> None:
        self._post(ev.Probed(effect.address, Reach.ANSWERS, "a1"))


@pytest.fixture
def node() -> Iterator[MemoryNode]:
    """A node that leads."""
    failures: list[tuple[int, str]] = []
    node = MemoryNode(
        watchdog_s=WAIT_S, say=lambda _: None, fail=lambda code, reason: failures.append((code, reason))
    )
    node.peers = OwnPort(node.runtime.post)
    node.start()
    assert wait_until(lambda: node.runtime.status().role is Role.LEADER, WAIT_S)
    yield node
    node.stop()
    assert failures == []


class Held:
    """Keeps the deciding thread busy: what comes meanwhile comes together."""

    def __init__(self, node: MemoryNode) -> None:
        self._node = node
        self._busy, self._free = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self._node.runtime.submit(read(), self._answered)
        assert self._busy.wait(WAIT_S)

    def _answered(self, _: Answer) -> None:
        self._busy.set()
        assert self._free.wait(WAIT_S)

    def __exit__(self, *_: object) -> None:
        self._free.set()


def write(number: int) -> Callable[[int], ev.Event]:
    deadline = float("inf")
    return lambda token: ev.WriteSubmitted(token, update(f"k{number}", "v"), Ack.LOG, deadline)


def read(*, linearizable: bool = False) -> Callable[[int], ev.Event]:
    return lambda token: ev.ReadSubmitted(token, float("inf"), linearizable=linearizable)


def test_requests_that_came_together_are_answered_each_for_itself(node: MemoryNode):
    """Twenty writes are one entry, in which each has its own revision; reads beside them get theirs."""
    written: list[Answer] = []
    reached: list[Answer] = []
    with Held(node):
        for number in range(20):
            node.runtime.submit(write(number), written.append)
            node.runtime.submit(read(linearizable=number % 2 == 0), reached.append)

    assert wait_until(lambda: len(written) == len(reached) == 20, WAIT_S)
    committed = [answer for answer in written if isinstance(answer, Committed)]
    assert [answer.revision for answer in committed] == list(range(1, 21))
    assert len({answer.index for answer in committed}) == 1
    assert all(isinstance(answer, Reached) for answer in reached)


def test_what_comes_between_requests_keeps_its_place(node: MemoryNode):
    """It is neither lost nor moved: it finds the requests before it done, and none of those behind it."""
    written: list[Answer] = []

    def under_way(core: Node, _: float) -> int:
        batch = core.leadership.writer.in_flight
        return len(batch.landings) if batch is not None else 0

    with ThreadPoolExecutor(1) as pool, Held(node):
        for number in range(3):
            node.runtime.submit(write(number), written.append)
        looked = pool.submit(node.runtime.inspect, under_way)
        assert wait_until(lambda: node.runtime._events.qsize() == 4, WAIT_S)
        for number in range(3, 5):
            node.runtime.submit(write(number), written.append)

    assert looked.exception(WAIT_S) is None
    assert looked.result() == 3
    assert wait_until(lambda: len(written) == 5, WAIT_S)
    assert all(isinstance(answer, Committed) for answer in written)


def test_more_requests_than_one_step_takes_are_all_answered(node: MemoryNode):
    """The rest is the next step's."""
    reached: list[Answer] = []
    with Held(node):
        for _ in range(GATHERED_MAX * 2 + 1):
            node.runtime.submit(read(), reached.append)

    assert wait_until(lambda: len(reached) == GATHERED_MAX * 2 + 1, WAIT_S)
    assert all(isinstance(answer, Reached) for answer in reached)


def test_requests_before_a_stop_are_decided_and_what_comes_after_it_gets_no_wrong_answer(node: MemoryNode):
    """All threads end, and whoever asks later is told that nothing is known."""
    reached: list[Answer] = []
    with ThreadPoolExecutor(1) as pool, Held(node):
        for _ in range(3):
            node.runtime.submit(read(), reached.append)
        stopping = pool.submit(node.stop)
        assert wait_until(lambda: node.runtime._events.qsize() == 4, WAIT_S)

    stopping.result(WAIT_S)
    assert not any(thread.is_alive() for thread in node.runtime._threads)
    assert [type(answer) for answer in reached] == [Reached] * 3
    assert node.runtime.ask(read(), 0) == Unknown("this node did not decide in time")
    assert len(node.runtime._waiting) == 0, "nobody waits for what will not come"


def test_a_node_is_woken_when_it_wants_to_be_and_once_for_each_time(
    node: MemoryNode, monkeypatch: pytest.MonkeyPatch
):
    """Sooner than at the next tick; and a time that has passed without anything to do does not keep it busy."""
    woken: list[float] = []
    step = Node.step
    soon = node.clock.monotonic() + TICK_S / 10

    def watched(core: Node, event: ev.Event, now: float, wall_ms: int) -> list[do.Effect]:
        if isinstance(event, ev.Woken):
            woken.append(now)
        return step(core, event, now, wall_ms)

    monkeypatch.setattr(Node, "step", watched)
    monkeypatch.setattr(Node, "wake_at", property(lambda _: soon))
    turns = node.runtime._turns
    node.runtime.post(ev.Tick())  # it waits for the next one already
    assert wait_until(lambda: len(woken) > 0 and node.clock.monotonic() > soon + 10 * TICK_S, WAIT_S)

    assert len(woken) == 1
    assert woken[0] >= soon
    assert node.runtime._turns - turns < 200
