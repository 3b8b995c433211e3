"""Watchers are told every change of their prefix, once, in order, and revision by revision (I13).

What a watcher was told is held against the log: from the revision after which it began up to the one to which it
was told all, as it says, it is exactly what the log has for its prefix; and what it was told beyond that has no
hole. Named properties of etcd's robustness tests: ordered, unique, atomic, reliable, resumable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.faults.checkers.replay import Replay
from tests.faults.checkers.violation import Violation
from tests.faults.operations import Delivery, Ended, Evidence

Change = tuple[int, str, str | None]


def check(evidence: Evidence) -> list[Violation]:
    """What watchers were told twice, late, wrongly or not at all."""
    replay = Replay(evidence.log)
    told: dict[int, list[Delivery]] = {}
    for each in evidence.deliveries:
        told.setdefault(each.watcher, []).append(each)
    accounts = {account.watcher: account for account in evidence.watchers}
    violations = [
        Violation("I13", f"watcher {number} was told of changes, and has left no account")
        for number in told.keys() - accounts.keys()
    ]
    for account in evidence.watchers:
        violations += _watcher(replay, account, told.get(account.watcher, []))
    return violations


def _watcher(replay: Replay, account: Ended, told: Sequence[Delivery]) -> Iterator[Violation]:
    who = f"watcher {account.watcher} of {account.prefix!r}, after revision {account.after}"
    if account.through > replay.last_revision:
        yield Violation(
            "I13", f"{who}: was told all up to {account.through}; the log ends at {replay.last_revision}"
        )
    yield from _order(who, told)
    through = max([account.through, *(each.revision for each in told)])
    expected = replay.changes(account.prefix, account.after, through)
    known, shown = set(expected), {_change(each) for each in told}
    for change in expected:
        if change not in shown:
            yield Violation("I13", f"{who}: was not told of {change}{_around(change, told)}")
    for each in told:
        if _change(each) not in known:
            yield Violation("I13", f"{who}: was told by {each.node} of {_change(each)}, which is not in the log")


def _order(who: str, told: Sequence[Delivery]) -> Iterator[Violation]:
    """Upwards, each change once, and those of one revision together: from the first one on, by one node."""
    before: Delivery | None = None
    shown: set[tuple[int, str]] = set()
    for each in told:
        together = before is not None and each.revision == before.revision
        what = f"{who}: was told by {each.node} of {_change(each)}, place {each.place}"
        after = f" after {_change(before)}, place {before.place}, by {before.node}" if before else ""
        if (each.revision, each.key) in shown:
            yield Violation("I13", f"{what}, for the second time,{after}")
        elif before is not None and each.revision < before.revision:
            yield Violation("I13", f"{what},{after}: out of order")
        elif each.place != (before.place + 1 if together and before else 0):
            yield Violation("I13", f"{what},{after}: the changes of one revision belong together")
        elif together and before and before.node != each.node:
            yield Violation("I13", f"{what},{after}: one revision told by two nodes")
        shown.add((each.revision, each.key))
        before = each


def _change(delivery: Delivery) -> Change:
    return delivery.revision, delivery.key, delivery.value


def _around(change: Change, told: Sequence[Delivery]) -> str:
    """Between which deliveries it should have been: by different nodes, if a watcher has resumed wrongly."""
    before = [each for each in told if each.revision < change[0]][-1:]
    behind = [each for each in told if each.revision > change[0]][:1]
    names = [f"revision {each.revision} by {each.node}" for each in (*before, *behind)]
    return f" (beside: {', '.join(names)})" if names else ""
