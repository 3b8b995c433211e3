"""The trial of a mutant: its tests run in a process of their own, in which kvlog is that mutant.

The processes are forked from one that has imported what tests need from others, but nothing of kvlog: to begin
anew with every mutant would take longer than the tests.
"""

from __future__ import annotations

import gc
import importlib
import io
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import FrameType

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.faults.mutation import Mutant, switch_on

PRELOADED = (
    "pytest",
    "hypothesis.extra.pytestplugin",
    "hypothesis.stateful",
    "schemathesis.pytest.plugin",
    "docker",
    "flask",
    "kazoo.client",
    "kazoo.recipe.watchers",
    "lmdb",
    "msgspec",
    "granian",
    "httpx",
    "urllib3",
    "uvloop",
    "tests.faults.mutants",
)

IMPORTED = "Module already imported so cannot be rewritten"
"""What pytest warns of when others have been imported before it begins."""

SCHEDULES = {False: 600, True: 60}
"""Schedules of the simulator that are tried at most: short ones, and long ones."""

GRACE_S = 60.0
"""How much longer than its patience a trial may take in all."""

ENSEMBLE = "KVLOG_TEST_ENSEMBLE"
"""The variable by which a trial learns of the ensemble that the other tests use: see tests/conftest.py."""

BROKEN = frozenset({"AssertionError", "InvariantViolation", "StoreDamaged", "NoEnd", "Failed"})
"""How a test may fail that has noticed something: by an assertion, an invariant, a check of the store's own,
pytest.fail, or because nobody waits any longer."""


class NoEnd(AssertionError):
    """A test has gone on for longer than anybody waits for it."""


@dataclass(slots=True)
class Verdict:
    """What came of a trial.

    Attributes:
        failed: the tests that have failed, and by what kind of exception, as a test sees it.
        passed: the tests that have not noticed anything.
        schedule: what the simulator has said, and in which short schedule; empty if it was not asked, or has
            noticed nothing.
        code: pytest's exit code.
        output: what pytest wrote.
    """

    failed: dict[str, str] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    schedule: str = ""
    code: int = 0
    output: str = field(default="", repr=False)

    def of(self, test: str) -> dict[str, str]:
        """What has failed of a test, or of a case of it."""
        return {name: kind for name, kind in self.failed.items() if name == test or name.startswith(f"{test}[")}


class _Clerk:
    """A plugin that takes down what each test comes to."""

    def __init__(self, verdict: Verdict, patience_s: float) -> None:
        self._verdict = verdict
        self._patience_s = patience_s

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:  # noqa: ARG002 - pytest's own names
        with bounded(self._patience_s):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and call.excinfo is not None:
            self._verdict.failed.setdefault(item.nodeid, kind_of(call.excinfo.value))
        elif report.passed and report.when == "call":
            self._verdict.passed.append(item.nodeid)
        return report


def kind_of(error: BaseException) -> str:
    """The name of an exception's type; of a group in which all have noticed something, that of the first one."""
    if isinstance(error, BaseExceptionGroup):
        kinds = [kind_of(each) for each in error.exceptions]
        return next((kind for kind in kinds if kind not in BROKEN), kinds[0])
    return next((base.__name__ for base in type(error).__mro__ if base.__name__ in BROKEN), type(error).__name__)


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise NoEnd in what is inside if it takes longer; in the main thread only."""

    def over(number: int, frame: FrameType | None) -> None:
        raise NoEnd(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_mutant(mutant: Mutant, hosts: str = "") -> Verdict:
    """Run the tests that should kill a mutant; ``hosts``: of an ensemble that is up, if they need one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_trial, args=(theirs, mutant, hosts))
    process.start()
    theirs.close()
    verdict = Verdict(output="the trial's process ended without a word, or did not end at all")
    try:
        if ours.poll(mutant.patience_s + GRACE_S):
            verdict = ours.recv()
    except EOFError:
        pass  # it has ended without a word
    finally:
        process.join(5)
        process.kill()
        process.join()
        ours.close()
    return verdict


def _trial(theirs: Connection, mutant: Mutant, hosts: str) -> None:
    """In the process of a trial."""
    verdict = Verdict()
    written = io.StringIO()
    gc.freeze()  # what was imported before is not looked through again and again
    if hosts:
        os.environ[ENSEMBLE] = hosts
    with redirect_stdout(written), redirect_stderr(written):
        try:
            switch_on(mutant)
            _run(mutant, verdict)
        except BaseException:  # noqa: BLE001 - whatever it is, it goes into the verdict
            traceback.print_exc()
            verdict.code = -1
    verdict.output = written.getvalue()
    theirs.send(verdict)
    theirs.close()
    sys.stdout.flush()


def _run(mutant: Mutant, verdict: Verdict) -> None:
    # What fails is to fail quickly and each time in the same way, and nothing is to be kept for later runs.
    settings.register_profile(
        "trial",
        database=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    settings.load_profile("trial")
    clerk = _Clerk(verdict, mutant.patience_s)
    quietly = ["-q", "--tb=short", "-p", "no:cacheprovider"]
    options = [*quietly, "-W", f"ignore:{IMPORTED}:pytest.PytestAssertRewriteWarning"]
    verdict.code = int(pytest.main([*options, *mutant.killed_by], plugins=[clerk]))
    if mutant.seed:
        verdict.schedule = _first_broken(mutant)


def _first_broken(mutant: Mutant) -> str:
    """The first schedule, from that of the mutant on, in which the simulator notices something."""
    simulator = importlib.import_module("tests.sim.test_sim")  # with the mutant, and so not before
    for seed in range(mutant.seed, mutant.seed + SCHEDULES[mutant.long]):
        with bounded(mutant.patience_s):
            said: list[str] = simulator.broken_promises(range(seed, seed + 1), long_ones=mutant.long)
        if any(f": {kind} " in line for line in said for kind in (*BROKEN, "BadEntry")):
            return said[0]
    return ""
