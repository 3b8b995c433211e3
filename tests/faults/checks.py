"""All checkers, over what a run has left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.faults.checkers import bank, counter, linearizable, once, outcomes, revisions, sets
from tests.faults.checkers.violation import Checker, Violation
from tests.faults.clients import OPERATION_S
from tests.faults.remains import Remains

SLACK_S = 1.5
"""How much later an answer may be taken down than it came: clients share a processor with all that they test."""

CHECKERS: dict[str, Checker] = {
    "revisions": revisions.check,
    "once": once.check,
    "outcomes": lambda evidence: outcomes.check(evidence, limit_s=OPERATION_S + SLACK_S),
    "sets": sets.check,
    "counter": counter.check,
    "bank": bank.check,
}
"""Those that look at the evidence only."""


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
    return [
        *(_verdict(name, lambda check=check: check(remains.evidence)) for name, check in CHECKERS.items()),  # type: ignore[misc]
        _linearizable(remains),
        _verdict("liveness", lambda: list(_liveness(remains))),
        _verdict("the end", lambda: [Violation(invariant, what) for invariant, what in remains.course.late]),
    ]


def _linearizable(remains: Remains) -> Verdict:
    """One verdict for each object, and one for all of them."""
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


def _verdict(name: str, check: Callable[[], list[Violation]]) -> Verdict:
    begun = time.monotonic()
    violations = tuple(check())
    return Verdict(name, violations, took_s=time.monotonic() - begun)


def _liveness(remains: Remains) -> Iterator[Violation]:
    """After each fault, every node takes a write in its time, and is ready again (I14)."""
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
