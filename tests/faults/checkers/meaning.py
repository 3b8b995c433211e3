"""What the operations of a history mean: which keys they look at, and which values they give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.faults.operations import Kind, Operation, Outcome

Values = dict[str, str | None]
"""Values of keys; None: there is no such key."""

Proposals = Mapping[tuple[str, str], Sequence[Operation]]
"""Who wants to give a key a value."""


def expected(operation: Operation) -> Values:
    """What has to be there before, for a write with a condition to be done."""
    match operation.kind:
        case Kind.CAS:
            return {operation.key: operation.argument[0]}
        case Kind.TRANSFER:
            return {key: before for key, (before, _) in operation.argument.items()}
        case _:
            return {}


def wanted(operation: Operation) -> Values:
    """What is there behind a write that was done."""
    match operation.kind:
        case Kind.WRITE:
            return {operation.key: operation.argument}
        case Kind.CAS:
            return {operation.key: operation.argument[1]}
        case Kind.DELETE:
            return {operation.key: None}
        case Kind.TRANSFER:
            return {key: after for key, (_, after) in operation.argument.items()}
        case _:
            return {}


def seen(operation: Operation) -> Values:
    """What a read was shown; nothing if it was not answered."""
    if operation.outcome is not Outcome.OK:
        return {}
    match operation.kind:
        case Kind.READ:
            return {operation.key: operation.result}
        case Kind.READ_ALL:
            return dict(operation.result)
        case _:
            return {}


def proposals(operations: Iterable[Operation]) -> Proposals:
    """Who has proposed each value of each key."""
    found: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for operation in operations:
        for key, value in wanted(operation).items():
            if value is not None:
                found[key, value].append(operation)
    return found


def keys_of(operations: Iterable[Operation]) -> set[str]:
    """All keys that they name."""
    return {key for each in operations for key in (*wanted(each), *seen(each), each.key) if key}


def one_request(operations: Iterable[Operation]) -> bool:
    """Whether these are one and the same request, sent once or under one id."""
    return len({each.request_id or each.number for each in operations}) == 1


def requests(operations: Iterable[Operation]) -> list[Operation]:
    """The operations, where those that were sent under one id are one: in the order of their invocations.

    It has begun with the first of them, and has ended with the first answer for good.
    """
    found: dict[str | int, Operation] = {}
    for each in sorted(operations, key=lambda each: each.invoked_ns):
        name = each.request_id or each.number
        before = found.setdefault(name, each)
        if each is not before:
            better = min(before, each, key=_definite)
            found[name] = replace(better, invoked_ns=before.invoked_ns)
    return sorted(found.values(), key=lambda each: each.invoked_ns)


_DEFINITE = (Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN, Outcome.REFUSED)
"""Of several answers under one id, the one that counts: what one answer refuses, another one may have done."""

_LATE_NS = 2**63


def _definite(operation: Operation) -> tuple[int, int]:
    return _DEFINITE.index(operation.outcome), operation.returned_ns or _LATE_NS


def of_workload(operations: Iterable[Operation], workload: str) -> list[Operation]:
    """The operations of a workload, in the order of their invocations."""
    return sorted((each for each in operations if each.workload == workload), key=lambda each: each.invoked_ns)


def told(operation: Operation) -> str:
    """An operation in a few words, for people."""
    match operation.kind:
        case Kind.READ | Kind.READ_ALL:
            about: Any = operation.result if operation.kind is Kind.READ else f"{len(seen(operation))} keys"
            what = f"{operation.mode} {operation.kind} {operation.key}".rstrip() + f" -> {about}"
        case _:
            what = f"{operation.kind} {operation.key} {operation.argument}"
    who = f"#{operation.number} of process {operation.process} at {operation.node}"
    where = f", revision {operation.revision}" if operation.revision else ""
    return f"{who}: {what}: {operation.outcome}{where}"


def ms(nanoseconds: int) -> str:
    """A time for people."""
    return f"{nanoseconds / 1e6:.0f} ms"
