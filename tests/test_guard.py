"""Whatever thread of a node ends by an exception, the process does."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kvlog.assembly import WorkerLine
from kvlog.processes import free_ports

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 20.0

HEAD = """
import os, sys, threading, time
from kvlog.errors import StoreFailure
from kvlog.guard import Guard, GuardedThreads

def fail(code, reason):
    print(reason, file=sys.stderr, flush=True)
    os._exit(code)

def broken():
    raise ZeroDivisionError("nobody expects this")

guard = Guard(fail)
guard.install()
"""

ENDINGS = {
    "a thread": "threading.Thread(target=broken).start(); time.sleep(60)",
    "a timer": "threading.Timer(0, broken).start(); time.sleep(60)",
    "a task of the pool": "GuardedThreads(2, guard, thread_name_prefix='p').submit(broken); time.sleep(60)",
    "a push": (
        "from pathlib import Path\n"
        "from kvlog.core import effects as do\n"
        "from kvlog.core.values import Member\n"
        "from kvlog.peers import HttpPeers\n"
        "threads = GuardedThreads(2, guard, thread_name_prefix='p')\n"
        "peers = HttpPeers(print, incoming=Path('/nowhere'), verify=print, threads=threads)\n"
        "peers.push(do.Push(Member('n2', 'a2', '127.0.0.1:9', 'catchup'), object()))\n"
        "time.sleep(60)"
    ),
    "the time limits of the ZooKeeper session": (
        "from pathlib import Path\n"
        "from kvlog.zookeeper.layout import Layout\n"
        "from kvlog.zookeeper.session import ZooKeeperSession\n"
        "class Clock:\n"
        "    monotonic = staticmethod(broken)\n"
        f"session = ZooKeeperSession('127.0.0.1:{free_ports(1)[0]}', Layout('/x'), known=None,\n"
        "    data_dir=Path('/nowhere'), session_timeout_s=4, post=print, clock=Clock(), say=print, fail=fail)\n"
        "session.start(); time.sleep(60)"
    ),
}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + code], capture_output=True, text=True, cwd=ROOT, timeout=WAIT_S, check=False
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_exception_that_nobody_expects_ends_the_process(ending: str):
    """With the exit code of a bug, and the whole story."""
    ended = run(ENDINGS[ending])

    assert ended.returncode == 70, ended.stderr
    assert "Traceback" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("a bug in kvlog: ")


@pytest.mark.parametrize(
    ("shortage", "words"),
    [
        ("MemoryError()", "no memory left for this process"),
        ("OSError(24, 'Too many open files')", "no descriptors left for this process (ulimit -n)"),
        ('RuntimeError("can\'t start new thread")', "no threads left for this process"),
    ],
)
def test_a_process_that_has_run_out_of_something_says_of_what(shortage: str, words: str):
    """It is no bug: exit code 6, and what to do."""
    ended = run(f"def failing(): raise {shortage}\nthreading.Thread(target=failing).start(); time.sleep(60)")

    assert ended.returncode == 6, ended.stderr
    assert words in ended.stderr.splitlines()[-1]
    assert ended.stderr.splitlines()[-1].endswith("start this node again")


def test_an_error_with_an_exit_code_of_its_own_keeps_it():
    """A failed store is no bug: one line, no traceback."""
    ended = run("def failing(): raise StoreFailure('no space')\nthreading.Thread(target=failing).start()\n")

    assert (ended.returncode, ended.stderr) == (5, "no space\n")


def test_a_thread_that_leaves_and_a_task_that_was_cancelled_end_nothing():
    """SystemExit ends the thread alone, as it always does."""
    ended = run(
        "threading.Thread(target=sys.exit, args=(3,)).start()\n"
        "pool = GuardedThreads(1, guard, thread_name_prefix='p')\n"
        "go = threading.Event()\n"
        "pool.submit(go.wait, 10)\n"
        "pool.submit(broken)\n"
        "pool.shutdown(wait=False, cancel_futures=True)\n"
        "go.set()\n"
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_breaks_while_the_process_ends_in_good_order_is_told_and_no_more():
    """The exit code stays what it is."""
    ended = run("guard.off(); threading.Thread(target=broken).start()")

    assert ended.returncode == 0
    assert "ZeroDivisionError: nobody expects this" in ended.stderr


# --- the supervisor's end -------------------------------------------------------------------------------------


def test_a_worker_that_ends_by_an_error_during_the_handover_is_heard():
    """What it says is read once, by whoever waits, and known to both."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = WorkerLine(ours)
        waiting = threading.Thread(target=line.hand_over, args=(WAIT_S,))
        waiting.start()
        assert theirs.recv(64) == b"hand over\n"

        theirs.sendall(b"exit 5\n")
        waiting.join(WAIT_S / 2)

        assert not waiting.is_alive()
        assert line.exit_code(1) == 5


def test_a_worker_may_hand_over_and_then_end_by_an_error():
    """Both lines may come at once, or in pieces."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = WorkerLine(ours)
        theirs.sendall(b"done\nexi")
        line.hand_over(WAIT_S)
        assert line.exit_code(1) == 1

        theirs.sendall(b"t 70\n")

        assert line.exit_code(1) == 70


def test_a_worker_that_is_gone_is_not_waited_for():
    """Its end of the pipe is closed: nobody will hand over."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        line = WorkerLine(ours)

        line.hand_over(WAIT_S * 10)

        assert line.exit_code(1) == 1


def test_a_worker_that_says_nothing_is_waited_for_no_longer_than_said():
    """It may be stuck."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = WorkerLine(ours)

        line.hand_over(0.2)

        assert line.exit_code(0) == 0
