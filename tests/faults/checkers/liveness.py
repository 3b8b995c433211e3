"""Once faults are over, every node soon takes a write, and nothing is left of what they took (I14)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.checkers.violation import Violation
from tests.faults.operations import Evidence, Outcome


@dataclass(frozen=True, slots=True)
class Resources:
    """What is in use, at a time at which nothing is asked for.

    ``threads`` and ``descriptors`` are of each node, its supervisor included; ``sessions`` those that ZooKeeper
    keeps, ``znodes`` those below the cluster's root, the entries of its log apart.
    """

    threads: Mapping[str, int]
    descriptors: Mapping[str, int]
    sessions: int
    znodes: int


@dataclass(frozen=True, slots=True)
class Slack:
    """By how much each of them may have grown: what a healthy node takes more or less of from time to time."""

    threads: int = 4
    descriptors: int = 12
    sessions: int = 0
    znodes: int = 4


def first_writes(evidence: Evidence, nodes: Iterable[str], healed_ns: int) -> dict[str, float | None]:
    """How long after ``healed_ns`` each node first answered a write that was asked for since, in seconds."""
    found: dict[str, float | None] = {}
    for node in nodes:
        answered = [
            each.returned_ns
            for each in evidence.operations
            if each.node == node
            and each.writes
            and each.outcome in (Outcome.OK, Outcome.FAILED)
            and each.invoked_ns >= healed_ns
            and each.returned_ns is not None
        ]
        found[node] = (min(answered) - healed_ns) / 1e9 if answered else None
    return found


def check(evidence: Evidence, nodes: Sequence[str], healed_ns: int, within_s: float) -> list[Violation]:
    """Nodes that have not answered a write within so many seconds after all faults were healed."""
    violations = []
    for node, took_s in first_writes(evidence, nodes, healed_ns).items():
        if took_s is None or took_s > within_s:
            when = "never" if took_s is None else f"after {took_s:.1f} s"
            violations.append(
                Violation("I14", f"{node} took its first write after the faults {when}; {within_s} s are allowed")
            )
    return violations


def check_resources(before: Resources, after: Resources, slack: Slack | None = None) -> list[Violation]:
    """What has grown by more than ``slack``, and a node of which nothing is known any more."""
    may = slack or Slack()
    grown = [
        (f"{node}: {name}", counts[node], later.get(node), most)
        for name, counts, later, most in (
            ("threads", before.threads, after.threads, may.threads),
            ("descriptors", before.descriptors, after.descriptors, may.descriptors),
        )
        for node in counts
    ]
    grown += [
        ("sessions", before.sessions, after.sessions, may.sessions),
        ("znodes", before.znodes, after.znodes, may.znodes),
    ]
    return [
        Violation(
            "I14", f"{name} were {was} before the faults, and are {now} behind them; {most} more are allowed"
        )
        for name, was, now, most in grown
        if now is None or now > was + most
    ]
