"""What the clients of a run have asked for, and what they were answered."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kvlog.core.entry import LogEntry


class Outcome(StrEnum):
    """What a client knows of its operation."""

    OK = "ok"
    """It was done."""
    FAILED = "failed"
    """It was carried out, and its condition did not hold: definite, with a revision."""
    REFUSED = "refused"
    """It did not happen and never will. Of a read: there was no answer to it."""
    UNKNOWN = "unknown"
    """It may have happened, or may still happen: no answer, or one that says so."""


class Kind(StrEnum):
    """What an operation does, whichever workload it belongs to."""

    READ = "read"
    """One key; ``result`` is its value, None if it is not there."""
    READ_ALL = "read-all"
    """All keys of a workload at one revision; ``result`` is a mapping of keys to values."""
    WRITE = "write"
    """``argument`` is the key's new value."""
    CAS = "cas"
    """``argument`` is (expected, new): the value must be the first (None: no such key) to become the second."""
    DELETE = "delete"
    """The key goes, if it is there."""
    TRANSFER = "transfer"
    """``argument`` is a mapping of keys to (expected, new) values, all of them or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of one client. A client has one under way at a time.

    Attributes:
        number: in the order of invocations; every operation of a run has its own.
        process: the client. One whose operation has become unknown goes on as the same process: the operation may
            be carried out at any time after its invocation.
        workload: the name of the workload that it belongs to.
        node: the address of the node that was asked, or asked last.
        invoked_ns, returned_ns: on this machine's monotonic clock; the second is None while there is no answer.
        key: empty for what is of several keys.
        argument, result: see Kind; what JSON can hold.
        mode: of a read, "linearizable" or "local".
        revision: at which a write was committed, or of the state that was read; 0 if that is not known.
        index: of the write's entry in the log, or the applied index of the state that was read; -1 if not known.
        request_id: the Idempotency-Key; empty if there was none.
        tries: how often it was sent, under that id.
        error: why there was no other outcome, as the node or the network put it.
        min_revision: of a read, the revision that it asked for at least; 0 if it asked for none.
        life: of the node that was asked, a number that changes whenever a fault takes its store away: what it has
            shown before, it may have to learn again.
    """

    number: int
    process: int
    workload: str
    kind: Kind
    node: str
    invoked_ns: int
    returned_ns: int | None
    outcome: Outcome
    key: str = ""
    argument: Any = None
    result: Any = None
    mode: str = ""
    revision: int = 0
    index: int = -1
    request_id: str = ""
    tries: int = 1
    error: str = ""
    min_revision: int = 0
    life: int = 0

    @property
    def writes(self) -> bool:
        """Whether it may change anything."""
        return self.kind not in (Kind.READ, Kind.READ_ALL)


class History:
    """All operations of a run, for any thread; also in a file, line by line, if one is given."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._operations: list[Operation] = []
        self._counts: Counter[Outcome] = Counter()
        self._file = path.open("w") if path is not None else None

    def number(self) -> int:
        """That of the next operation: asked for when it is invoked."""
        with self._lock:
            return next(self._numbers)

    def note(self, operation: Operation) -> Operation:
        """Take down what has come to its end."""
        with self._lock:
            self._operations.append(operation)
            self._counts[operation.outcome] += 1
            if self._file is not None:
                self._file.write(json.dumps(asdict(operation)) + "\n")
        return operation

    def operations(self, workload: str = "") -> list[Operation]:
        """Those of a workload, or all, in the order of their invocations."""
        with self._lock:
            found = [each for each in self._operations if not workload or each.workload == workload]
        return sorted(found, key=lambda each: each.invoked_ns)

    def counts(self) -> Counter[Outcome]:
        """How many there are of each outcome."""
        with self._lock:
            return Counter(self._counts)

    def close(self) -> None:
        """Nothing more is noted."""
        if self._file is not None:
            self._file.close()


def read_history(path: Path) -> Iterator[Operation]:
    """The operations in a file that a History has written."""
    with path.open() as lines:
        for line in lines:
            fields = json.loads(line)
            yield Operation(**{**fields, "kind": Kind(fields["kind"]), "outcome": Outcome(fields["outcome"])})


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a watcher was told: one change, in the order in which it came.

    Attributes:
        watcher: its number; one that lost its connection goes on at another node under the same one.
        revision, key, value: of the change; value is None for a deletion.
        node: who told it.
        told_ns: when, on the monotonic clock.
        place: of the change within its revision as the watcher was told it; 0 is the first.
    """

    watcher: int
    revision: int
    key: str
    value: str | None
    node: str
    told_ns: int
    place: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """A watcher's account: its prefix, after which revision it began, and up to where it was told everything."""

    watcher: int
    prefix: str
    after: int
    through: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a run leaves behind, for the checkers.

    Attributes:
        operations: of all workloads, in the order of their invocations.
        log: every entry from the first one of the run on, without a hole, also those that were trimmed meanwhile.
        deliveries, watchers: what the watchers were told.
    """

    operations: tuple[Operation, ...]
    log: tuple[LogEntry, ...]
    deliveries: tuple[Delivery, ...] = ()
    watchers: tuple[Ended, ...] = ()
