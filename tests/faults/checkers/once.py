"""Requests under an id of their own: each happens at most once, and all answers to one say the same (I3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.faults.checkers.meaning import told
from tests.faults.checkers.replay import Placed, Replay
from tests.faults.checkers.violation import Violation
from tests.faults.operations import Evidence, Operation, Outcome


def check(evidence: Evidence) -> list[Violation]:
    """Ids that the log has twice, also those that nodes give, and answers that do not agree with it."""
    replay = Replay(evidence.log)
    by_id: dict[str, list[Operation]] = {}
    for each in evidence.operations:
        if each.request_id and each.writes:
            by_id.setdefault(each.request_id, []).append(each)
    violations = [*_log(replay)]
    for name, operations in by_id.items():
        violations += _answers(name, operations, replay.by_id.get(name, []))
    return violations


def _log(replay: Replay) -> Iterator[Violation]:
    for name, places in replay.by_id.items():
        if len(places) > 1:
            at = ", ".join(f"{each.revision} ({_outcome(each)})" for each in places)
            yield Violation("I3", f"the id {name} is in the log more than once, at revisions {at}")


def _outcome(placed: Placed) -> str:
    if placed.request.cancels:
        return "cancelled"
    return Outcome.FAILED if placed.request.failed else Outcome.OK


def _answers(name: str, operations: Sequence[Operation], places: Sequence[Placed]) -> Iterator[Violation]:
    """All that answered for good say what the log says, where it has the id, and the same as each other."""
    definite = [each for each in operations if each.outcome in (Outcome.OK, Outcome.FAILED)]
    for before, each in pairwise(definite):
        if (before.outcome, before.revision) != (each.outcome, each.revision) or (
            before.index != each.index and -1 not in (before.index, each.index)
        ):
            yield Violation("I3", f"the id {name} has two results: {told(before)}, {told(each)}", (before, each))
    for each in definite:
        for placed in places:
            if _outcome(placed) != each.outcome:
                what = f"the log has it as {_outcome(placed)}, at revision {placed.revision}"
                yield Violation("I3", f"{told(each)}, under the id {name}: {what}", (each,))
