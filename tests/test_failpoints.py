"""Failpoints: the words that arm them, what they count, and each action in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvlog.core import effects as do
from kvlog.core.machine import Position
from kvlog.errors import FailpointHit, InvariantViolation, SettingsError
from kvlog.failpoints import FAILPOINTS, PLACES, Armed, Failpoints, parse
from kvlog.memory_store import MemoryState, MemoryStore
from kvlog.processes import wait_until
from kvlog.runtime import Executor

from .memory_node import MemoryNode

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 20.0


@pytest.mark.parametrize(
    ("spec", "armed"),
    [
        ("", []),
        ("after_append:kill", [Armed("after_append", "kill")]),
        ("after_append:raise@3", [Armed("after_append", "raise", at=3)]),
        ("mid_push:sleep:60000", [Armed("mid_push", "sleep", sleep_ms=60_000)]),
        ("mid_push:sleep:1@1000000000", [Armed("mid_push", "sleep", sleep_ms=1, at=1_000_000_000)]),
        (
            "before_apply:kill@2,after_apply:sleep:5",
            [Armed("before_apply", "kill", at=2), Armed("after_apply", "sleep", sleep_ms=5)],
        ),
    ],
)
def test_a_spec_names_places_actions_and_hits(spec: str, armed: list[Armed]):
    """NAME:ACTION[@N], separated by commas; what is armed can be said in the same words."""
    assert list(parse(spec).values()) == armed
    assert ",".join(f"{item.name}:{item}" for item in armed) == spec


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nowhere:kill", "there is no 'nowhere'; there are before_append, after_append, before_apply"),
        ("kill", "there is no 'kill'"),
        (":kill", "there is no ''"),
        ("after_append:kill,", "failpoint '': there is no ''"),
        (" after_append:kill", "there is no ' after_append'"),
        ("after_append", "the action must be kill, raise or sleep:MS"),
        ("after_append:", "the action must be"),
        ("after_append:die", "the action must be"),
        ("after_append:KILL", "the action must be"),
        ("after_append:kill ", "the action must be"),
        ("after_append:kill\n", "the action must be"),
        ("after_append:kill:5", "the action must be"),
        ("after_append:kill@", "the action must be"),
        ("after_append:kill@x", "the action must be"),
        ("after_append:kill@-1", "the action must be"),
        ("after_append:kill@1@2", "the action must be"),
        ("after_append:kill@\u0661", "the action must be"),
        ("after_append:sleep", "the action must be"),
        ("after_append:sleep:", "the action must be"),
        ("after_append:sleep:1.5", "the action must be"),
        ("after_append:sleep:0", "sleep takes from 1 to 60000 milliseconds"),
        ("after_append:sleep:60001", "sleep takes from 1 to 60000 milliseconds"),
        ("after_append:kill@0", "@N must be from 1 to 1000000000"),
        ("after_append:kill@1000000001", "@N must be from 1 to 1000000000"),
        ("after_append:kill,after_append:raise", "after_append is given twice"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(spec: str, sentence: str):
    """With what is wrong and what there is; nothing is armed by it, and what was armed stays so."""
    failpoints = Failpoints()
    failpoints.arm("mid_push:raise@7")

    with pytest.raises(SettingsError) as refusal:
        failpoints.arm(spec)

    assert sentence in str(refusal.value)
    assert armed(failpoints) == {"mid_push": "raise@7"}


def armed(failpoints: Failpoints) -> dict[object, object]:
    return {point["name"]: point["armed"] for point in failpoints.report() if point["armed"]}


def hits(failpoints: Failpoints, name: str) -> object:
    return next(point["hits"] for point in failpoints.report() if point["name"] == name)


def test_nothing_happens_and_nothing_is_counted_while_nothing_is_armed():
    """Off by default, and off again."""
    failpoints = Failpoints()
    for name in PLACES:
        failpoints.hit(name)
    failpoints.arm("mid_push:raise")
    failpoints.arm("")
    failpoints.hit("mid_push")

    assert armed(failpoints) == {}
    assert {point["hits"] for point in failpoints.report()} == {0}
    assert [point["name"] for point in failpoints.report()] == list(PLACES)


def test_an_action_at_the_third_hit_comes_at_the_third_hit_only():
    """@3: not before, not after; other places are counted by themselves."""
    failpoints = Failpoints()
    failpoints.arm("mid_push:raise@3")

    failpoints.hit("mid_push")
    failpoints.hit("before_apply")
    failpoints.hit("mid_push")
    with pytest.raises(FailpointHit, match=r"failpoint mid_push: an exception was asked for \(hit 3\)"):
        failpoints.hit("mid_push")
    failpoints.hit("mid_push")

    assert hits(failpoints, "mid_push") == 4
    assert hits(failpoints, "before_apply") == 1


def test_without_a_number_it_comes_at_each_hit_and_arming_counts_anew():
    """The same spec again begins at 1."""
    failpoints = Failpoints()
    for _ in range(2):
        failpoints.arm("mid_push:raise")
        for count in (1, 2):
            with pytest.raises(FailpointHit, match=f"hit {count}"):
                failpoints.hit("mid_push")


def test_no_hit_of_many_threads_is_lost():
    """The one at which it happens is one, however many come by at once."""
    failpoints, raised = Failpoints(), []
    failpoints.arm("mid_push:raise@2000")

    def come_by() -> None:
        for _ in range(1_000):
            try:
                failpoints.hit("mid_push")
            except FailpointHit as error:
                raised.append(error)

    threads = [threading.Thread(target=come_by) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)

    assert hits(failpoints, "mid_push") == 4_000
    assert len(raised) == 1


def test_a_sleep_keeps_only_who_comes_by():
    """It holds no lock meanwhile: others may pass, look and disarm."""
    failpoints, said = Failpoints(), []
    failpoints.belong_to(0, said.append)
    failpoints.arm("mid_push:sleep:700")
    begun_at = time.monotonic()
    sleeper = threading.Thread(target=failpoints.hit, args=("mid_push",))
    sleeper.start()
    while "failpoint mid_push: sleep:700 (hit 1)" not in said:
        assert time.monotonic() - begun_at < WAIT_S

    failpoints.hit("before_apply")
    failpoints.arm("")
    assert sleeper.is_alive()
    sleeper.join(WAIT_S)

    assert time.monotonic() - begun_at >= 0.7


def test_a_place_that_is_not_in_the_list_is_a_bug():
    """As soon as anything is armed."""
    failpoints = Failpoints()
    failpoints.arm("mid_push:raise")

    with pytest.raises(InvariantViolation, match="there is no failpoint 'elsewhere'"):
        failpoints.hit("elsewhere")


def test_every_place_in_the_code_has_its_line_in_the_list():
    """What is hit is known; places may be in the list before they are in the code."""
    code = "".join(path.read_text() for path in (ROOT / "kvlog").rglob("*.py"))
    found = set(re.findall(r"\b(?:hit|_passing)\(\"(\w+)\"", code))

    assert found <= set(PLACES)
    assert set(PLACES) - found <= {"mid_snapshot"}


@pytest.fixture
def arm() -> Iterator[Callable[[str], None]]:
    """Arms this process's own failpoints, for the time of the test."""
    yield FAILPOINTS.arm
    FAILPOINTS.arm("")


def test_trimming_passes_its_place_before_anything_is_noted_or_deleted(arm: Callable[[str], None]):
    """before_trim: what fails there has left the log as it was."""
    node = MemoryNode(watchdog_s=60, say=print, fail=print)
    ensemble = node.session._ensemble
    ensemble.entries += [b"x"] * 1_500
    executor = Executor(
        log=node.session,
        election=node.session,
        peers=node.peers,
        store=print,
        reply=print,
        note=print,
        stop=print,
    )
    arm("before_trim:raise")

    with pytest.raises(FailpointHit, match="failpoint before_trim"):
        executor.execute(do.Trim("c1", 1_000))

    assert (ensemble.first_index, ensemble.kept_from) == (0, 0)
    assert hits(FAILPOINTS, "before_trim") == 1


def test_installing_passes_its_place_before_the_store_is_replaced(arm: Callable[[str], None]):
    """mid_install: what fails there has left the store as it was, and ends the node as a bug would."""
    failures: list[tuple[int, str]] = []
    store = MemoryStore({"fetched": MemoryState(position=Position(applied_index=7))})
    node = MemoryNode(watchdog_s=60, say=print, fail=lambda *end: failures.append(end), store=store)
    arm("mid_install:raise")
    node.start()

    node.runtime._store_work.put_nowait(do.Install("fetched"))

    assert wait_until(lambda: failures, WAIT_S)
    assert failures == [(70, "failpoint mid_install: an exception was asked for (hit 1)")]
    assert store.position().applied_index != 7
    node.stop()


def process(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def ended(child: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what it said."""
    try:
        said, _ = child.communicate(timeout=WAIT_S)
    finally:
        child.kill()
    return child.returncode, said


def test_raise_raises():
    """FailpointHit, with the exit code of a bug."""
    child = process(
        "from kvlog.failpoints import FAILPOINTS, hit\n"
        "from kvlog.errors import KvlogError\n"
        "FAILPOINTS.arm('mid_push:raise')\n"
        "try: hit('mid_push')\n"
        "except KvlogError as error: raise SystemExit(error.exit_code)\n"
    )

    assert ended(child) == (70, "")


def test_sleep_goes_on_afterwards():
    """After the time that was said."""
    child = process(
        "import time\n"
        "from kvlog.failpoints import FAILPOINTS, hit\n"
        "FAILPOINTS.arm('mid_push:sleep:200')\n"
        "begin = time.monotonic()\n"
        "hit('mid_push')\n"
        "print(time.monotonic() - begin >= 0.2)\n"
    )

    assert ended(child) == (0, "True\n")


def test_kill_ends_both_processes_before_anything_else_happens():
    """The worker hits, and its supervisor is dead too; no finally, no atexit, no other thread gets a turn."""
    child = process(
        "import os, threading, time\n"
        "from kvlog.failpoints import FAILPOINTS, hit\n"
        "supervisor = os.getpid()\n"
        "if os.fork():\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "FAILPOINTS.belong_to(supervisor, print)\n"
        "FAILPOINTS.arm('after_append:kill@2')\n"
        "hit('after_append')\n"
        "print('once', flush=True)\n"
        "try: hit('after_append')\n"
        "finally: print('alive', flush=True)\n"
    )

    # Its output ends when the worker is gone as well.
    assert ended(child) == (-signal.SIGKILL, "failpoints armed: after_append:kill@2\nonce\n")
