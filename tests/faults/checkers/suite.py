"""All checkers of a run's evidence, by name."""

from __future__ import annotations

from tests.faults.checkers import (
    appends,
    bank,
    counter,
    linearizable,
    once,
    outcomes,
    revisions,
    sets,
    watches,
)
from tests.faults.checkers.violation import Checker, Violation
from tests.faults.operations import Evidence

CHECKERS: dict[str, Checker] = {
    "revisions": revisions.check,
    "once": once.check,
    "linearizable": linearizable.check,
    "sets": sets.check,
    "counter": counter.check,
    "bank": bank.check,
    "appends": appends.check,
    "watches": watches.check,
    "outcomes": outcomes.check,
}
"""Those that need nothing else; outcomes, liveness, convergence and logfiles take more, and find more."""


def check(evidence: Evidence) -> dict[str, list[Violation]]:
    """What each of them finds."""
    return {name: checker(evidence) for name, checker in CHECKERS.items()}
