"""Runs under faults: a cluster under load is broken again and again, and what it said is checked afterwards.

    python -m tests.faults.run --minutes 10 --seed 7
    python -m tests.faults.run --minutes 1 --fault kill-leader pause-leader --out /tmp/faults
    python -m tests.faults.run --check-again /tmp/faults

``scripts/faults`` does the same, and installs what is needed before. Ends with 0 if nothing is wrong, 1 if a
promise was broken, 2 if the run shows nothing. The seed decides which faults come in which order and what clients
do; when things happen is up to the machine, so that no two runs are the same.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvlog.errors import KvlogError, Unavailable
from tests.cluster.ledger import small_segments
from tests.faults.arena import Arena
from tests.faults.checkers.liveness import Resources
from tests.faults.checks import Verdict, check_all, resources
from tests.faults.load import Load
from tests.faults.nemesis import FAULTS
from tests.faults.nemesis.fault import Fault
from tests.faults.observer import Observer
from tests.faults.operations import Evidence, History, Outcome
from tests.faults.remains import HISTORY, LOGS, Course, Remains, load, save
from tests.faults.report import write_report
from tests.faults.rounds import Nemesis, Say, plan
from tests.faults.tap import Tap
from tests.faults.workloads import WORKLOADS
from tests.faults.workloads.watch import Watchers

WARM_UP_S = 2.0
QUIET_S = 40.0
"""How long the nodes may take to agree once clients and faults are over; and each of the last looks."""

RETAINED = 1_500
"""Entries of a log that is trimmed soon: enough for the tap to have them before they go."""

DISK_MIB = 512
"""The size of each node's disk: it is to be full only if something fills it."""

LEAST_EACH = 20
"""Operations of each workload that have to be done, for a run to show anything."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is run.

    Attributes:
        kinds: of faults.
        seconds: of faults; 0: every kind once.
        hold_s: no fault lasts longer, if it need not; None: as long as it likes to.
        whole_log: whether the log is kept, as it usually is; else all but its end is trimmed soon.
    """

    kinds: tuple[type[Fault], ...]
    out: Path
    seed: int = 0
    seconds: float = 0
    clients: int = 12
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    hold_s: float | None = None
    whole_log: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What has come of a run."""

    remains: Remains
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def code(self) -> int:
        """The exit code: 1 with violations, 2 if it shows nothing."""
        if any(verdict.violations for verdict in self.verdicts):
            return 1
        return 2 if self.remains.course.invalid else 0


def arena_of(settings: Settings, **given: Any) -> Arena:
    """What a run with these settings is made on; ``given``: a keeper and an ensemble that are there already."""
    if settings.whole_log:
        return Arena(disk_mib=DISK_MIB, **given)
    return Arena(disk_mib=DISK_MIB, command=small_segments("--retain", str(RETAINED)), **given)


def run(settings: Settings, arena: Arena, say: Say) -> Result:
    """One run on an arena that is up and well: load, faults, quiet, last reads, checks, report."""
    settings.out.mkdir(parents=True, exist_ok=True)
    possible = []
    for kind in settings.kinds:
        why_not = kind.why_not(arena)
        say(f"{kind.name} is left out: {why_not}") if why_not else possible.append(kind)
    settings = replace(settings, kinds=tuple(possible))
    history = History(settings.out / HISTORY)
    try:
        remains = _Run(settings, arena, history, say).go()
    finally:
        history.close()
    _keep_logs(arena, settings.out / LOGS)
    save(remains, settings.out)
    return look(remains, settings.out, say)


def look(remains: Remains, out: Path, say: Say) -> Result:
    """Check what a run has left behind, and write the report."""
    say(f"Checking {len(remains.evidence.operations)} operations and {len(remains.evidence.log)} entries ...")
    result = Result(remains, check_all(remains))
    for verdict in result.verdicts:
        say(f"  {verdict}")
        for violation in verdict.violations[:3]:
            say(f"    {violation.invariant}: {violation.what}")
    for reason in remains.course.invalid:
        say(f"This run shows nothing: {reason}")
    totals = write_report(remains, result.verdicts, out)
    say(f"{totals.sentence} The report is {out / 'report.html'}.")
    if result.code == 1:
        say(f"There are VIOLATIONS. The evidence is in {out}; --check-again {out} looks at it anew.")
    return result


class _Run:
    """One run, up to where everything has been collected."""

    def __init__(self, settings: Settings, arena: Arena, history: History, say: Say) -> None:
        self._settings, self._arena, self._history, self._say = settings, arena, history, say
        self._draw = random.Random(settings.seed)
        addresses = [node.address for node in arena.cluster.nodes]
        self._course = Course(
            seed=settings.seed,
            kinds=tuple(kind.name for kind in settings.kinds),
            clients=settings.clients,
            began=datetime.now(UTC).isoformat(timespec="seconds"),
            nodes=tuple(addresses),
        )
        after = max(node.status()["revision"] for node in arena.cluster.nodes)
        self._load = Load(settings.workloads, settings.clients, addresses, history, self._part())
        self._watchers = Watchers(addresses, after, self._part())
        self._observer = Observer(addresses, self._load.lives)
        self._tap = Tap(arena.ensemble.hosts, arena.cluster.root)
        probes = [self._load.client("probe", place, only=True) for place in range(len(addresses))]
        self._nemesis = Nemesis(arena, probes, self._load.lives, self._part(), say, hold_s=settings.hold_s)

    def _part(self) -> random.Random:
        """Chance for one part of the run: what the others draw makes no difference to it."""
        return random.Random(self._draw.random())

    def go(self) -> Remains:
        """All phases."""
        course = self._course
        with ExitStack() as stack:
            self._tap.start()
            stack.callback(self._tap.stop)
            self._observer.start()
            stack.callback(self._observer.stop)
            course.before = self._resources()
            course.first_ns = time.monotonic_ns()
            self._watchers.start()
            self._load.start()
            time.sleep(WARM_UP_S)
            self._phase("faults", self._faults)
            self._phase("the clients' end", self._load.stop)
            if not course.invalid:
                self._phase("quiet", self._quiet)
                self._phase("the last reads", self._last_reads)
            course.last_ns = time.monotonic_ns()
            self._phase("the end", self._collect)
        self._count()
        evidence = Evidence(
            tuple(self._history.operations()),
            tuple(self._tap.entries),
            self._watchers.deliveries,
            self._watchers.accounts,
        )
        return Remains(
            course,
            evidence,
            tuple(self._nemesis.rounds),
            tuple(self._observer.samples()),
            self._settings.out / LOGS,
        )

    def _phase(self, name: str, work: Callable[[], None]) -> None:
        """Whatever breaks in it makes the run invalid, and is said; what was collected up to there is kept."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run shows nothing any more
            self._course.invalid.append(f"{name}: {error!r}")

    # --- phases -------------------------------------------------------------------------------------------

    def _faults(self) -> None:
        settings, begun = self._settings, time.monotonic()
        rounds = plan(settings.kinds, self._part())
        left = list(settings.kinds)
        while time.monotonic() < begun + settings.seconds or (not settings.seconds and left):
            kinds = next(rounds) if settings.seconds else (left.pop(0),)
            passed = time.monotonic() - begun
            self._say(f"{passed:6.0f} s: {' and '.join(kind.name for kind in kinds)}, {self._so_far()}")
            this = self._nemesis.round(kinds)
            self._load.check()
            if this.broken:
                raise RuntimeError(this.broken)
            if self._tap.hole:
                raise RuntimeError(self._tap.hole)

    def _so_far(self) -> str:
        counts = self._history.counts()
        return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome)

    def _quiet(self) -> None:
        try:
            self._arena.cluster.wait_for_agreement(QUIET_S)
        except Unavailable as error:
            self._course.late.append(("I9", f"the nodes do not agree {QUIET_S:g} s after all was over: {error}"))

    def _last_reads(self) -> None:
        readers = {
            name: [self._load.client(name, place, only=True) for place in range(len(self._course.nodes))]
            for name in self._load.workloads
        }
        for name, workload in self._load.workloads.items():
            workload.end(readers[name])
            for client in readers[name]:
                client.close()

    def _collect(self) -> None:
        """What the nodes say at the end, and all of the log and of the changes up to there."""
        course = self._course
        for node in self._arena.cluster.running:
            try:
                course.statuses.append(node.status())
            except Unavailable as error:
                course.late.append(("I14", f"a node does not answer at the end: {error}"))
        revision = max((status["revision"] for status in course.statuses), default=0)
        index = max((status["applied_index"] for status in course.statuses), default=-1)
        if not self._tap.wait_for(index, QUIET_S):
            course.invalid.append(self._tap.hole or f"the tap did not come to entry {index}")
        late = self._watchers.end_at(0 if course.invalid else revision, QUIET_S)
        course.late += [("I13", what) for what in late]
        course.moves = self._watchers.moves
        course.exits = [(each.node, each.code) for each in self._arena.exits]
        until = time.monotonic() + QUIET_S
        course.after = self._resources()
        while resources(course) and time.monotonic() < until:
            time.sleep(1.0)  # sessions of nodes that were killed end by themselves, a while later
            course.after = self._resources()

    def _resources(self) -> Resources:
        """What is in use at this moment."""
        held = self._arena.resources()
        return Resources(
            threads={each.name: each.threads for each in held.nodes},
            descriptors={each.name: each.descriptors for each in held.nodes},
            sessions=held.sessions,
            znodes=self._tap.other_znodes(),
        )

    def _count(self) -> None:
        """A run in which little was done shows nothing."""
        for name in self._settings.workloads:
            done = sum(each.outcome is Outcome.OK for each in self._history.operations(name))
            if done < LEAST_EACH:
                self._course.invalid.append(f"of the workload {name}, {done} operations were done: too few")


def _keep_logs(arena: Arena, directory: Path) -> None:
    """Copy the nodes' logs: they go with the arena."""
    directory.mkdir(exist_ok=True)
    for node in arena.cluster.nodes:
        if node.log.exists():
            shutil.copy(node.log, directory / f"{node.address}.log")


# --- the command ----------------------------------------------------------------------------------------------


def settings_of(arguments: Sequence[str]) -> tuple[Settings, Path | None]:
    """What a command line asks for; and the directory that is to be checked again, if that is it."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="scripts/faults", description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults (%(default)s); 0: every kind once")
    parser.add_argument("--fault", nargs="+", choices=sorted(FAULTS), default=sorted(FAULTS), metavar="NAME",
                        help=f"only these kinds: {', '.join(sorted(FAULTS))}")  # fmt: skip
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), metavar="NAME",
                        help=f"only these kinds of load: {', '.join(WORKLOADS)}")  # fmt: skip
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6),
                        help="what is drawn comes from it (another one each time)")  # fmt: skip
    parser.add_argument("--clients", type=int, default=12, help="(%(default)s)")
    parser.add_argument("--hold", type=float, metavar="SECONDS", help="the longest that a fault lasts, if it can")
    parser.add_argument(
        "--whole-log", action="store_true", help="trim the log as seldom as usual, not all the time"
    )
    parser.add_argument("--out", type=Path, help="the directory for evidence and report (one of its own)")
    parser.add_argument("--check-again", type=Path, metavar="DIR", help="run nothing; check what is in there")
    given = parser.parse_args(arguments)
    out = given.out or Path("data") / f"faults-{datetime.now(UTC):%Y%m%d-%H%M%S}-{given.seed}"
    kinds = tuple(FAULTS[name] for name in dict.fromkeys(given.fault))
    settings = Settings(
        kinds=kinds,
        out=out,
        seed=given.seed,
        seconds=60 * given.minutes,
        clients=given.clients,
        workloads=tuple(dict.fromkeys(given.workload)),
        hold_s=given.hold,
        whole_log=given.whole_log,
    )
    return settings, given.check_again


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f}] {text}", flush=True)

    settings, again = settings_of(arguments)
    if again is not None:
        return look(load(again), again, say).code
    say(f"Seed {settings.seed}, {settings.clients} clients. Everything goes to {settings.out}.")
    try:
        with arena_of(settings) as arena:
            return run(settings, arena, say).code
    except KvlogError as error:
        say(f"There was nothing to run on: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
