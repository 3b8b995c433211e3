"""All checkers, over what a run has left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.faults.checkers import convergence, linearizable, liveness, logfiles, outcomes
from tests.faults.checkers.suite import CHECKERS
from tests.faults.checkers.violation import Violation
from tests.faults.clients import OPERATION_S
from tests.faults.remains import Course, Remains

SLACK_S = 1.5
"""How much later an answer may be taken down than it came: clients share a processor with all that they test."""

THREADS, DESCRIPTORS = 10, 12
"""By how many a node may have grown, besides two threads and three descriptors for each client: a thread stays
once it is there, and so do connections to each peer for as many writes as were once forwarded at a time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a checker has found. ``note``: what it could not decide; ``took_s``: how long it took."""

    checker: str
    violations: tuple[Violation, ...]
    note: str = ""
    took_s: float = 0.0

    def __str__(self) -> str:
        found = f"{len(self.violations)} VIOLATIONS" if self.violations else "nothing"
        return f"{self.checker}: {found}" + (f" ({self.note})" if self.note else "") + f", in {self.took_s:.1f} s"


def check_all(remains: Remains) -> list[Verdict]:
    """What each checker has found."""
    special: dict[str, Callable[[Remains], list[Violation]]] = {
        "outcomes": lambda of: outcomes.check(of.evidence, limit_s=OPERATION_S + SLACK_S),
        "liveness": lambda of: [*_rounds(of), *resources(of.course)],
        "convergence": _convergence,
        "logfiles": _logfiles,
        "the end": lambda of: [Violation(invariant, what) for invariant, what in of.course.late],
    }
    checks = {name: partial(_of_evidence, name) for name in CHECKERS} | special
    del checks["linearizable"]
    return [*(_verdict(name, check, remains) for name, check in checks.items()), _linearizable(remains)]


def _verdict(name: str, check: Callable[[Remains], list[Violation]], remains: Remains) -> Verdict:
    begun = time.monotonic()
    violations = tuple(check(remains))
    return Verdict(name, violations, took_s=time.monotonic() - begun)


def _of_evidence(name: str, remains: Remains) -> list[Violation]:
    return CHECKERS[name](remains.evidence)


def _linearizable(remains: Remains) -> Verdict:
    """What is found of each object; it may be that nothing can be found of one."""
    begun = time.monotonic()
    found = linearizable.examine(remains.evidence)
    undecided = [each for each in found if each.decision is linearizable.Decision.UNDECIDED]
    note = f"{len(found)} objects"
    if undecided:
        names = ", ".join(each.keys[0] for each in undecided[:3])
        note += f", {len(undecided)} of them too large to decide: {names}"
    broken = any(each.decision is linearizable.Decision.BROKEN for each in found)
    violations = tuple(linearizable.check(remains.evidence)) if broken else ()
    return Verdict("linearizable", violations, note, time.monotonic() - begun)


def _rounds(remains: Remains) -> Iterator[Violation]:
    """After each fault, every node takes a write in its time, and all is well again (I14)."""
    for each in remains.rounds:
        if each.broken:
            continue  # the run is invalid anyway
        names = " and ".join(each.names)
        for node, took_s in each.writes_s.items():
            if took_s is None or took_s > each.settles_s:
                how = "took no write" if took_s is None else f"took its first write after {took_s:.1f} s"
                what = f"{node} {how} once {names} was over; it may take {each.settles_s:g} s"
                yield Violation("I14", f"{what} ({'; '.join(each.said)})")
        if each.well_s is None:
            yield Violation("I14", f"not all was well in time once {names} was over: {each.why_not_well}")


def resources(course: Course) -> list[Violation]:
    """What has grown, though nothing is asked for any more (I14)."""
    before, after = course.before, course.after
    clients = course.clients
    slack = liveness.Slack(threads=THREADS + 2 * clients, descriptors=DESCRIPTORS + 3 * clients)
    return liveness.check_resources(before, after, slack) if before is not None and after is not None else []


def _convergence(remains: Remains) -> list[Violation]:
    statuses = {status["node"]: status for status in remains.course.statuses}
    shown = [sample.shown for sample in remains.samples if sample.instance]
    return [*convergence.check(statuses, remains.evidence.log), *convergence.check_course(shown)]


def _logfiles(remains: Remains) -> list[Violation]:
    logs = {path.stem: path.read_text(errors="replace") for path in sorted(remains.logs.glob("*.log"))}
    exits: dict[str, list[int]] = {}
    for node, code in remains.course.exits:
        exits.setdefault(node, []).append(code)
    return logfiles.check(logs, exits=exits)
