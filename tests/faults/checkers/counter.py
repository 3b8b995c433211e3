"""A counter that only goes up: every value lies between what was acknowledged and what was asked for (I1, I3, I5).

The workload "counter": one key with a whole number in text, and Kind.CAS (expected, new) with new above expected;
no such key counts as 0. A linearizable read shows at least the increments that were acknowledged before it began,
and at most those besides whose fate was unknown or that were still under way when it was answered. What a
compare-and-set found is such a read as well. Named after Jepsen's checker "counter"; no revision is looked at.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from tests.faults.checkers.meaning import of_workload, requests, told
from tests.faults.checkers.violation import Violation
from tests.faults.operations import Evidence, Kind, Operation, Outcome

WORKLOAD = "counter"


def check(evidence: Evidence) -> list[Violation]:
    """What the counter has lost or counted twice; see the module's docstring.

    Raises:
        ValueError: the workload is none of a counter that only goes up.
    """
    operations = requests(of_workload(evidence.operations, WORKLOAD))
    bounds = _Bounds([each for each in operations if each.kind is Kind.CAS])
    return [*_reads(operations, bounds), *_lost_updates(operations)]


def _number(value: str | None) -> int:
    return int(value or 0)


def _added(operation: Operation) -> int:
    before, after = operation.argument
    if (added := _number(after) - _number(before)) <= 0:
        raise ValueError(f"the counter only goes up, but: {told(operation)}")
    return added


class _Sums:
    """How much was added up to a time."""

    def __init__(self, added: Iterable[tuple[int, int]]) -> None:
        changes = sorted(added)
        self._times = [time for time, _ in changes]
        self._sums = [0, *accumulate(change for _, change in changes)]

    def before(self, time: int) -> int:
        return self._sums[bisect_left(self._times, time)]

    def until(self, time: int) -> int:
        return self._sums[bisect_right(self._times, time)]


class _Bounds:
    """What the counter may be at a time."""

    def __init__(self, increments: Sequence[Operation]) -> None:
        done = [each for each in increments if each.outcome is Outcome.OK]
        perhaps = [each for each in increments if each.outcome is Outcome.UNKNOWN]
        self._certain = _Sums((each.returned_ns, _added(each)) for each in done if each.returned_ns is not None)
        self._possible = _Sums((each.invoked_ns, _added(each)) for each in (*done, *perhaps))

    def at_least(self, invoked_ns: int) -> int:
        """What was acknowledged before."""
        return self._certain.before(invoked_ns)

    def at_most(self, returned_ns: int) -> int:
        """What was asked for until then, and not refused."""
        return self._possible.until(returned_ns)


def _reads(operations: Sequence[Operation], bounds: _Bounds) -> Iterator[Violation]:
    for each in operations:
        if each.outcome is not Outcome.OK or each.returned_ns is None:
            continue
        most = bounds.at_most(each.returned_ns)
        if each.kind is Kind.READ:
            value, fresh = _number(each.result), each.mode == "linearizable"
        elif each.kind is Kind.CAS:
            value, fresh = _number(each.argument[0]), True
            most -= _added(each)
        else:
            continue
        least = bounds.at_least(each.invoked_ns) if fresh else 0
        if value < least:
            what = f"{told(each)}: found {value}, and {least} was acknowledged before it began"
            yield Violation("I5" if each.kind is Kind.READ else "I1", what, (each,))
        if value > most:
            what = f"{told(each)}: found {value}, and no more than {most} was asked for: something counts twice"
            yield Violation("I3", what, (each,))


def _lost_updates(operations: Sequence[Operation]) -> Iterator[Violation]:
    """Two increments began at one value: the counter only goes up, so one of them is lost."""
    first: dict[int, Operation] = {}
    for each in operations:
        if each.kind is Kind.CAS and each.outcome is Outcome.OK:
            before = first.setdefault(_number(each.argument[0]), each)
            if before is not each:
                yield Violation("I10", f"{told(each)} and {told(before)} began at one value", (before, each))
