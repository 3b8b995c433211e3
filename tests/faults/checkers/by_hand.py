"""Histories that are made by hand, each with the log that belongs to it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from kvlog.core.entry import Delete, Effect, LogEntry, Put, Request
from tests.chain import Chain
from tests.faults.checkers.meaning import expected, wanted
from tests.faults.checkers.violation import Violation
from tests.faults.operations import Delivery, Ended, Evidence, Kind, Operation, Outcome

MS = 1_000_000

_numbers = itertools.count(1)

Times = tuple[float, float | None]
"""When an operation was invoked, and when it returned, in milliseconds."""


def operation(kind: Kind, at: Times, **fields: Any) -> Operation:
    """Any operation; what is not said is as it mostly is."""
    invoked, returned = at
    return Operation(
        **{
            "number": next(_numbers),
            "process": 1,
            "workload": "register",
            "kind": kind,
            "node": "n1",
            "invoked_ns": round(invoked * MS),
            "returned_ns": None if returned is None else round(returned * MS),
            "outcome": Outcome.OK,
            **fields,
        }
    )


def write(key: str, value: str, at: Times, **fields: Any) -> Operation:
    return operation(Kind.WRITE, at, key=key, argument=value, **fields)


def cas(key: str, before: str | None, after: str, at: Times, **fields: Any) -> Operation:
    return operation(Kind.CAS, at, key=key, argument=(before, after), **fields)


def delete(key: str, at: Times, **fields: Any) -> Operation:
    return operation(Kind.DELETE, at, key=key, **fields)


def transfer(moves: Mapping[str, tuple[str, str]], at: Times, **fields: Any) -> Operation:
    return operation(Kind.TRANSFER, at, argument=dict(moves), **{"workload": "bank", **fields})


def read(key: str, value: str | None, at: Times, **fields: Any) -> Operation:
    return operation(Kind.READ, at, key=key, result=value, **{"mode": "linearizable", **fields})


def read_all(values: Mapping[str, str], at: Times, **fields: Any) -> Operation:
    return operation(Kind.READ_ALL, at, result=dict(values), **{"mode": "linearizable", **fields})


def evidence(*operations: Operation) -> Evidence:
    """What clients say, without a log."""
    return Evidence(tuple(operations), ())


def invariants(violations: list[Violation]) -> set[str]:
    """The numbers of what is broken."""
    return {each.invariant for each in violations}


class Story:
    """What clients say, and what the log says, as it is told.

    ``operations`` and ``log`` may be changed afterwards, into something that must not be.
    """

    def __init__(self) -> None:
        self.chain = Chain()
        self.chain.barrier()
        self.operations: list[Operation] = []
        self.log: list[LogEntry] = list(self.chain.entries)
        self.deliveries: list[Delivery] = []
        self.watchers: list[Ended] = []

    @property
    def revision(self) -> int:
        """The latest one."""
        return self.chain.position.revision

    def says(self, *told: Operation) -> None:
        """Clients say so."""
        self.operations.extend(told)

    def does(self, told: Operation) -> Operation:
        """A client says so, and the log has it: with what it wanted, unless its condition was found not to hold.

        Whether it holds is nobody's business here.
        """
        failed = told.outcome is Outcome.FAILED
        effects = () if failed else tuple(self._effect(key, value) for key, value in wanted(told).items())
        self.logs(
            Request(
                id=told.request_id,
                failed="condition" if failed else "",
                effects=tuple(effect for effect in effects if effect is not None),
            )
        )
        if told.outcome in (Outcome.OK, Outcome.FAILED):
            told = replace(told, revision=self.revision, index=self.log[-1].index)
        self.says(told)
        return told

    def logs(self, *requests: Request) -> None:
        """The log has an entry with these requests, whoever wanted it."""
        self.log.append(self.chain.request(*requests))

    def shows(self, told: Operation) -> Operation:
        """A client says that it has read so, of the latest state."""
        told = replace(told, revision=self.revision, index=self.log[-1].index)
        self.says(told)
        return told

    def value(self, key: str) -> str | None:
        """What a key holds."""
        record = self.chain.records.get(key)
        return record.value.decode() if record is not None else None

    def holds(self, told: Operation) -> bool:
        """Whether the condition of a write holds."""
        return all(self.value(key) == value for key, value in expected(told).items())

    def alter(self, place: int, **fields: Any) -> None:
        """An operation, by its place, is another one in these fields."""
        self.operations[place] = replace(self.operations[place], **fields)

    def tamper(self, place: int, **fields: Any) -> None:
        """An entry, by its place, is another one in these fields."""
        item = self.log[place]
        self.log[place] = msgspec.structs.replace(item, entry=msgspec.structs.replace(item.entry, **fields))

    @property
    def evidence(self) -> Evidence:
        """What is left behind."""
        return Evidence(
            tuple(sorted(self.operations, key=lambda each: each.invoked_ns)),
            tuple(self.log),
            tuple(self.deliveries),
            tuple(self.watchers),
        )

    def _effect(self, key: str, value: str | None) -> Effect | None:
        before = self.chain.records.get(key)
        if value is None:
            return Delete(key) if before is not None else None
        create, version = (before.create, before.version + 1) if before else (self.revision + 1, 1)
        return Put(key, value, create, version)
