"""What was answered for good stays so: the refused is never shown, and every answer comes in time (I2, I14).

``revisions`` looks into the log for what was refused; here it is looked for in all that clients were shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tests.faults.checkers.meaning import ms, proposals, seen, told
from tests.faults.checkers.violation import Violation
from tests.faults.operations import Evidence, Operation, Outcome

Spans = Sequence[tuple[int, int]]
"""From when to when, on the monotonic clock, in nanoseconds."""


def check(
    evidence: Evidence, *, limit_s: float | None = None, paused: Mapping[str, Spans] | None = None
) -> list[Violation]:
    """What was shown although it was refused, and what was answered later than ``limit_s`` after it was asked for.

    ``paused``: when each node stood still (SIGSTOP) or could not be reached; that time does not count.
    """
    late = [] if limit_s is None else [*_late(evidence.operations, round(limit_s * 1e9), paused or {})]
    return [*_shown(evidence), *late]


def _shown(evidence: Evidence) -> Iterator[Violation]:
    proposed = proposals(evidence.operations)
    refused = {
        what: who
        for what, who in proposed.items()
        if all(each.outcome in (Outcome.REFUSED, Outcome.FAILED) for each in who)
    }
    for read in evidence.operations:
        for key, value in seen(read).items():
            for write in [] if value is None else refused.get((key, value), [])[:1]:
                yield Violation("I2", f"{told(read)}: shows what never was: {told(write)}", (read, write))
    for each in evidence.deliveries:
        for write in [] if each.value is None else refused.get((each.key, each.value), [])[:1]:
            what = f"watcher {each.watcher} was told of {each.value!r} at {each.key}, revision {each.revision}"
            yield Violation("I2", f"{what}, which never was: {told(write)}", (write,))


def _late(operations: Sequence[Operation], limit_ns: int, paused: Mapping[str, Spans]) -> Iterator[Violation]:
    for each in operations:
        if each.returned_ns is None:
            if each.outcome is not Outcome.UNKNOWN:
                yield Violation("I14", f"{told(each)}: has an outcome, and was never answered", (each,))
            continue
        stood_still = sum(
            max(0, min(until, each.returned_ns) - max(since, each.invoked_ns))
            for since, until in paused.get(each.node, [])
        )
        if (took := each.returned_ns - each.invoked_ns - stood_still) > limit_ns:
            what = f"was answered after {ms(took)}, {ms(limit_ns)} are allowed: {each.error or 'no error'}"
            yield Violation("I14", f"{told(each)}: {what}", (each,))
