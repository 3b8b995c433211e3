"""Everything that was answered, held against the log by its revisions: I1 to I6, I10 and I11, in O(n log n).

An answer says at which revision it is true. So no order has to be searched for: each operation has its place, and
what is left is to look whether the log agrees with it, and whether the places agree with the clocks. That is
enough only as long as nodes do not lie about revisions in a way that fits together: ``linearizable`` knows none.

A write is found in the log by its id, or by a value that nobody else has proposed for its key. One that has
neither, a deletion without an id, say, is held only against the revision that was answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kvlog.core.entry import Delete, LogEntry, Put
from tests.faults.checkers.meaning import Proposals, expected, keys_of, one_request, proposals, seen, told, wanted
from tests.faults.checkers.replay import Placed, Replay
from tests.faults.checkers.violation import Violation
from tests.faults.operations import Evidence, Kind, Operation, Outcome

_ANSWERED = (Outcome.OK, Outcome.FAILED)


def check(evidence: Evidence) -> list[Violation]:
    """What of the answers the log does not bear out; see the module's docstring."""
    return [*_structure(evidence.log), *_Answers(evidence).violations()]


def _structure(log: Sequence[LogEntry]) -> Iterator[Violation]:
    """The log itself: dense, chained, and with a barrier at the beginning of each epoch (I11)."""
    for before, item in pairwise(log):
        entry, skipped = item.entry, before.entry.skip is not None or item.entry.skip is not None
        where = f"entry {item.index}"
        if item.index != before.index + 1:
            yield Violation("I11", f"{where} comes behind entry {before.index}")
        if entry.prev_hash != before.hash:
            yield Violation("I11", f"{where} is not chained to the one before it")
        if entry.epoch < before.entry.epoch:
            yield Violation("I11", f"{where} is of epoch {entry.epoch}, the one before it of {before.entry.epoch}")
        if (entry.epoch > before.entry.epoch) != (entry.leader is not None) and not skipped:
            yield Violation("I11", f"{where}: an epoch begins with one barrier, and no other entry is one")
        gap = entry.first_revision - before.entry.last_revision - 1
        if gap < 0 or (gap and entry.skip is None):
            yield Violation(
                "I11", f"{where} begins at revision {entry.first_revision}, {gap} from where it should"
            )
    yield from _counts(log)


def _counts(log: Sequence[LogEntry]) -> Iterator[Violation]:
    """Each put says since when its key is there, and how often it was put: exactly the state before it (I10)."""
    known: dict[str, tuple[int, int]] = {}
    from_the_start = bool(log) and log[0].index == 0
    for item in log:
        for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
            for effect in request.effects:
                before = known.get(effect.key, (0, 0) if from_the_start else None)
                after = (effect.create, effect.version) if isinstance(effect, Put) else (0, 0)
                if before is not None:
                    wrong = before == after if isinstance(effect, Delete) else after != _next(before, revision)
                    if wrong:
                        yield Violation(
                            "I10", f"revision {revision}: {effect} behind (create, version) {before} of its key"
                        )
                known[effect.key] = after


def _next(before: tuple[int, int], revision: int) -> tuple[int, int]:
    create, version = before
    return (create, version + 1) if version else (revision, 1)


@dataclass(frozen=True, slots=True)
class _Known:
    """An operation whose revision is known, and from when on it may have happened."""

    operation: Operation
    revision: int
    since_ns: int


class _Answers:
    """What the operations of a run were answered, beside its log."""

    def __init__(self, evidence: Evidence) -> None:
        self._operations = evidence.operations
        self._replay = Replay(evidence.log)
        self._proposals: Proposals = proposals(evidence.operations)
        self._by_id: dict[str, list[Operation]] = {}
        self._keys: dict[str, set[str]] = {}
        for each in evidence.operations:
            if each.request_id:
                self._by_id.setdefault(each.request_id, []).append(each)
        for workload in {each.workload for each in evidence.operations}:
            self._keys[workload] = keys_of(each for each in evidence.operations if each.workload == workload)

    def violations(self) -> Iterator[Violation]:
        for each in self._operations:
            yield from self._write(each) if each.writes else self._read(each)
        yield from self._unasked()
        yield from self._order()
        yield from self._sessions()

    # --- writes -------------------------------------------------------------------------------------------

    def _places(self, write: Operation) -> list[Placed] | None:
        """Where a write is in the log; None if that cannot be told."""
        if write.request_id:
            return [each for each in self._replay.by_id.get(write.request_id, []) if not each.request.cancels]
        for key, value in wanted(write).items():
            if value is not None and one_request(self._proposals[key, value]):
                return self._replay.puts.get((key, value), [])
        return None

    def _write(self, write: Operation) -> Iterator[Violation]:
        found = self._places(write)
        places = found or []
        at = ", ".join(f"{each.revision} (entry {each.index})" for each in places)
        if len(places) > 1:
            yield Violation("I3", f"{told(write)}: is in the log more than once, at revisions {at}", (write,))
        match write.outcome:
            case Outcome.REFUSED if places and not self._sent_otherwise(write):
                yield Violation("I2", f"{told(write)}: was refused, and is in the log at revision {at}", (write,))
            case Outcome.UNKNOWN:
                for placed in places[:1]:
                    yield from self._condition(write, placed)
            case Outcome.OK | Outcome.FAILED if write.revision >= self._replay.first_revision:
                yield from self._answered(write, places)
            case Outcome.OK if not write.revision and found == []:
                yield Violation("I1", f"{told(write)}: is not in the log", (write,))
            case Outcome.OK | Outcome.FAILED if places and write.revision:
                yield Violation("I1", f"{told(write)}: is in the log at revision {at} instead", (write,))

    def _sent_otherwise(self, write: Operation) -> bool:
        """Whether it was sent under the same id once more, and not refused then."""
        same = self._by_id.get(write.request_id, [])
        return any(each.outcome is not Outcome.REFUSED for each in same)

    def _answered(self, write: Operation, places: list[Placed]) -> Iterator[Violation]:
        """A write that was answered for good is where the answer said (I1), with the outcome that it said."""
        placed = self._replay.placed.get(write.revision)
        if placed is None:
            yield Violation("I1", f"{told(write)}: the log has nothing at this revision", (write,))
            return
        if write.index not in (-1, placed.index):
            where = f"entry {placed.index}, not {write.index}"
            yield Violation("I1", f"{told(write)}: the revision is in {where}", (write,))
        if any(each.revision != write.revision for each in places):
            at = ", ".join(str(each.revision) for each in places)
            yield Violation("I1", f"{told(write)}: is in the log at revision {at} instead", (write,))
            return
        if write.request_id and not places:
            yield Violation("I1", f"{told(write)}: its id {write.request_id} is not in the log", (write,))
            return
        yield from self._condition(write, placed)
        if write.outcome is Outcome.OK and not self._does(placed, write):
            yield Violation("I1", f"{told(write)}: the log has {placed.request} there", (write,))

    def _condition(self, write: Operation, placed: Placed) -> Iterator[Violation]:
        """What the condition says of the state before it is what was found then, and answered (I10)."""
        before = {key: self._replay.value(key, placed.revision - 1) for key in expected(write)}
        held, done = before == expected(write), not placed.request.failed
        what = f"{told(write)}, at revision {placed.revision}, where before it there was {before}"
        if expected(write) and held != done:
            found = "was done" if done else "was not done"
            yield Violation("I10", f"{what}: it {found}, which is not what follows from that", (write,))
        if (write.outcome is Outcome.OK and not done) or (write.outcome is Outcome.FAILED and done):
            yield Violation("I10", f"{what}: the log has another outcome, {placed.request}", (write,))
        if not done and placed.request.effects:
            yield Violation("I2", f"{what}: its condition did not hold, and it has effects", (write,))

    def _does(self, placed: Placed, write: Operation) -> bool:
        """Whether a request does just what the write asked for."""
        after = {
            effect.key: effect.value if isinstance(effect, Put) else None for effect in placed.request.effects
        }
        return all(
            after.pop(key, self._replay.value(key, placed.revision - 1) if value is None else None) == value
            for key, value in wanted(write).items()
        ) and not any(key in self._keys[write.workload] for key in after)

    def _unasked(self) -> Iterator[Violation]:
        """Nobody has asked for a value that is in the log, under a key that a workload has for its own (I2)."""
        keys = set().union(*(keys_of([each]) for each in self._operations if each.writes))
        for (key, value), places in self._replay.puts.items():
            if key in keys and not self._proposals.get((key, value)):
                yield Violation(
                    "I2", f"revision {places[0].revision} puts {value!r} to {key}: nobody asked for that"
                )

    # --- reads --------------------------------------------------------------------------------------------

    def _read(self, read: Operation) -> Iterator[Violation]:
        """A read is what the log gives at its revision (I5)."""
        if read.outcome is not Outcome.OK or not read.revision:
            return
        if read.revision > self._replay.last_revision:
            yield Violation("I5", f"{told(read)}: the log ends at {self._replay.last_revision}", (read,))
            return
        through = self._replay.revision_at(read.index)
        if through not in (None, read.revision):
            what = f"entry {read.index} leads to revision {through}"
            yield Violation("I5", f"{told(read)}, of the state at entry {read.index}: {what}", (read,))
        if read.revision < read.min_revision:
            yield Violation("I6", f"{told(read)}: asked for revision {read.min_revision} at least", (read,))
        shown = seen(read)
        for key in shown if read.kind is Kind.READ else self._keys[read.workload]:
            value = self._replay.value(key, read.revision)
            if shown.get(key) != value:
                what = f"{key} is {shown.get(key)!r}, and by the log {value!r}"
                yield Violation("I5", f"{told(read)}: {what}", (read,))

    # --- order --------------------------------------------------------------------------------------------

    def _order(self) -> Iterator[Violation]:
        """What was answered before something else was asked for has the lower revision (I4, I5)."""
        known = [each for each in map(self._know, self._operations) if each is not None]
        answered = sorted(
            (
                each
                for each in known
                if each.operation.outcome in _ANSWERED and each.operation.returned_ns is not None
            ),
            key=lambda each: each.operation.returned_ns or 0,
        )
        highest: _Known | None = None
        place = 0
        for later in sorted(known, key=lambda each: each.since_ns):
            while place < len(answered) and (answered[place].operation.returned_ns or 0) < later.since_ns:
                if highest is None or answered[place].revision > highest.revision:
                    highest = answered[place]
                place += 1
            if highest is None:
                continue
            write, linearizable = later.operation.writes, later.operation.mode == "linearizable"
            if later.revision < highest.revision if linearizable else write and later.revision <= highest.revision:
                what = f"{told(later.operation)}: {told(highest.operation)} was answered before that was asked for"
                both = (highest.operation, later.operation)
                yield Violation("I4" if write else "I5", f"revision {later.revision}: {what}", both)

    def _know(self, operation: Operation) -> _Known | None:
        """The revision of an operation, as answered, or, of a write of unknown fate, as the log has it.

        What was sent several times under one id may have happened since the first of these was sent.
        """
        since = min(
            (each.invoked_ns for each in self._by_id.get(operation.request_id, [])), default=operation.invoked_ns
        )
        if operation.outcome in _ANSWERED and operation.revision:
            return _Known(operation, operation.revision, since)
        if operation.outcome is Outcome.UNKNOWN and operation.writes:
            for placed in self._places(operation) or []:
                return _Known(operation, placed.revision, since)
        return None

    def _sessions(self) -> Iterator[Violation]:
        """What a process is shown by one node never goes back, unless that has lost its store (I6)."""
        latest: dict[tuple[int, str, int], Operation] = {}
        for read in sorted(self._operations, key=lambda each: each.invoked_ns):
            if read.writes or read.outcome is not Outcome.OK or not read.revision:
                continue
            before = latest.setdefault((read.process, read.node, read.life), read)
            if read.revision < before.revision:
                yield Violation("I6", f"{told(read)}: behind {told(before)}", (before, read))
            latest[read.process, read.node, read.life] = max(before, read, key=lambda each: each.revision)
