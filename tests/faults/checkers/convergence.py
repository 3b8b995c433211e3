"""What nodes say of themselves: equal where they are equally far, never back, and all equal at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvlog.core.entry import LogEntry
from tests.faults.checkers.violation import Violation

Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a node said of itself at a time. ``life`` is as in Operation: another one begins with another store."""

    node: str
    asked_ns: int
    answered_ns: int
    status: Status
    life: int = 0


def check(statuses: Mapping[str, Status], log: Sequence[LogEntry] = ()) -> list[Violation]:
    """Once faults are over: every node is whole, up to date and ready, and all hold the same (I7, I9).

    ``statuses``: GET /v1/status by node once all writing is over. ``log`` ends where they stand, if given.
    """
    violations = [*_equal((node, status) for node, status in statuses.items())]
    for node, status in statuses.items():
        for wrong, what in (
            (status["stale"], f"has missed {status['missed_entries']} entries"),
            (status["halted_at"] is not None, f"has halted at entry {status['halted_at']}"),
            (status["tail_index"] > status["applied_index"], f"has not applied all up to {status['tail_index']}"),
            (not status["ready"], f"is not ready: {status['reason']}"),
        ):
            if wrong:
                violations.append(Violation("I9", f"{node} {what}, at entry {status['applied_index']}"))
    ends = {node: status["applied_index"] for node, status in statuses.items()}
    if len(set(ends.values())) > 1:
        violations.append(Violation("I9", f"the nodes stand at different entries: {ends}"))
    for node, status in statuses.items() if log else ():
        end = (log[-1].index, log[-1].hash)
        if (status["applied_index"], status["log_hash"]) != end:
            what = f"entry {status['applied_index']}, {status['log_hash']}"
            violations.append(Violation("I9", f"{node} stands at {what}; the log ends at {end[0]}, {end[1]}"))
    return violations


def check_course(shown: Sequence[Shown]) -> list[Violation]:
    """While faults go on: what a node has applied never decreases (I8), and equal indices mean equal data (I7)."""
    violations = [*_equal((f"{each.node} (life {each.life})", each.status) for each in shown)]
    latest: dict[tuple[str, int], list[Shown]] = {}
    for each in sorted(shown, key=lambda one: one.asked_ns):
        earlier = latest.setdefault((each.node, each.life), [])
        before = max(
            (one for one in earlier if one.answered_ns < each.asked_ns),
            key=lambda one: one.status["applied_index"],
            default=None,
        )
        if before is not None and each.status["applied_index"] < before.status["applied_index"]:
            went = f"from {before.status['applied_index']} to {each.status['applied_index']}"
            violations.append(Violation("I8", f"{each.node}: what it has applied went back, {went}"))
        # Only the furthest counts, and those that may not have been answered yet.
        earlier[:] = [one for one in earlier if one is before or one.answered_ns >= each.asked_ns] + [each]
    return violations


def _equal(statuses: Iterator[tuple[str, Status]] | Any) -> Iterator[Violation]:
    """Stores without gaps at one index have the same hash of the log, and the same digest."""
    first: dict[int, tuple[str, Status]] = {}
    for node, status in statuses:
        if status["stale"] or status["applied_index"] < 0:
            continue
        other, before = first.setdefault(status["applied_index"], (node, status))
        for name in ("log_hash", "digest", "revision"):
            if before[name] != status[name]:
                what = f"{other} has the {name} {before[name]}, {node} has {status[name]}"
                yield Violation("I7", f"at entry {status['applied_index']} {what}")
