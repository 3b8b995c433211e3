"""What the watchdog sees, and what it does not take for a fault."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvlog.core import effects as do
from kvlog.core.machine import Identity, Position
from kvlog.memory_store import MemoryStore
from kvlog.processes import ProcessKeeper, wait_until

from .memory_node import MemoryNode, RealClock

ROOT = Path(__file__).resolve().parent.parent
WATCHDOG_S = 0.5
WAIT_S = 20.0


class Gate:
    """Something that stands still while it is closed."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def go_through(self) -> None:
        if not self._open.is_set():
            self.entered.set()
            assert self._open.wait(60)


class Failures:
    """What the runtime has wanted the process to end by."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self.said: list[str] = []

    def fail(self, code: int, reason: str) -> None:
        self.found.append((code, reason))


class GateClock(RealClock):
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def monotonic(self) -> float:
        self._gate.go_through()
        return super().monotonic()


class GateStore(MemoryStore):
    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def adopt(self, identity: Identity) -> Position:
        self._gate.go_through()
        return super().adopt(identity)


def stuck_in_the_clock(gate: Gate, failures: Failures) -> MemoryNode:
    return MemoryNode(watchdog_s=WATCHDOG_S, say=failures.said.append, fail=failures.fail, clock=GateClock(gate))


def stuck_in_an_effect(gate: Gate, failures: Failures) -> MemoryNode:
    node = MemoryNode(watchdog_s=WATCHDOG_S, say=failures.said.append, fail=failures.fail)
    list_members = node.session.list_members

    def gated(effect: do.ListMembers) -> None:
        gate.go_through()
        list_members(effect)

    node.session.list_members = gated
    return node


@pytest.mark.parametrize("make", [stuck_in_the_clock, stuck_in_an_effect])
def test_a_deciding_thread_that_stands_still_ends_the_process(
    make: Callable[[Gate, Failures], MemoryNode], capfd: pytest.CaptureFixture[str]
):
    """Exit code 6, the last line says what and for how long, and the stack of the stuck thread comes first."""
    gate, failures = Gate(), Failures()
    node = make(gate, failures)
    node.start()
    assert wait_until(lambda: node.runtime._turns > 3, WAIT_S)

    gate.close()
    assert gate.entered.wait(WAIT_S)
    closed_at = time.monotonic()
    assert wait_until(lambda: failures.found, WAIT_S)
    took_s = time.monotonic() - closed_at
    gate.open()
    node.stop()

    ((code, reason),) = failures.found
    assert code == 6
    assert reason == (
        "the deciding thread has stood still for 0.5 s, see above where: a part of the process has stopped "
        "working; start it again"
    )
    assert took_s >= WATCHDOG_S * 0.8
    report = capfd.readouterr().err
    assert report.startswith("kvlog-decide:\n")
    assert "in go_through" in report.partition("MainThread")[0]
    assert "kvlog-apply:\n" in report


def test_a_process_that_was_stopped_goes_on(keeper: ProcessKeeper):
    """SIGSTOP for three times the watchdog's time, then SIGCONT: nothing has stood still."""
    argv = [sys.executable, "-m", "tests.memory_node", "1"]
    child = keeper.start(argv, name="memory node", log=keeper.directory / "memory-node.log", cwd=ROOT)
    assert wait_until(lambda: child.log_tail() == "up", WAIT_S), child.log_tail()

    child.pause()
    time.sleep(3)
    child.resume()

    assert child.wait(WAIT_S) == 0, child.log_tail()


def test_a_slow_transaction_is_told_once_and_shown_until_it_ends():
    """The store's thread may take its time: it is said, the node is not ready, and nothing ends by it."""
    gate, failures = Gate(), Failures()
    node = MemoryNode(watchdog_s=WATCHDOG_S, say=failures.said.append, fail=failures.fail, store=GateStore(gate))
    told = "the store has been at work on one transaction for 0.5 s: the disk is slow or stuck"

    def said() -> list[str]:
        return [text for text in failures.said if "the store" in text]

    gate.close()
    node.start()
    assert wait_until(lambda: said() == [told], WAIT_S)
    assert wait_until(lambda: "for 0.8 s: the disk is slow" in node.runtime.status().not_ready, WAIT_S)
    assert said() == [told]
    gate.open()
    assert wait_until(lambda: len(said()) > 1, WAIT_S)

    assert said()[1].startswith("the store goes on: that transaction has taken ")
    assert "the disk" not in node.runtime.status().not_ready
    assert failures.found == []
    node.stop()


BLOCKED = """
import os, sys
from tests.memory_node import MemoryNode

def say(text):
    while True:
        os.write(2, b"x" * 65536)  # until nobody takes any more

node = MemoryNode(watchdog_s=0.5, say=say, fail=lambda code, reason: os._exit(code))
node.start()
sys.stdin.read()
"""


def test_a_log_that_nobody_reads_does_not_keep_a_stuck_process():
    """The report goes where the deciding thread hangs, too: it is not waited for."""
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.wait(WAIT_S) == 6
    finally:
        process.kill()
        process.communicate(timeout=WAIT_S)
