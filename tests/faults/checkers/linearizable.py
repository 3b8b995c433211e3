"""Whether all that was answered can have happened one after the other; no revision is looked at (I4, I5, I10).

A history is linearizable if each operation can be given a moment between its invocation and its return such that,
carried out in that order, all of them answer as they did (Herlihy and Wing, 1990). That is decided for each key by
itself, or for the keys together that one transaction has touched: such histories are linearizable if and only if
each object's is (P-compositionality: Horn and Kroening, "Faster linearizability checking via
P-compositionality", arXiv 1504.00204).

The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) as Lowe has improved it
("Testing for linearizability", 2017), in the form that Lowe calls just-in-time: events are gone through in the
order of the clock, with the set of all configurations that are possible, each of them the operations under way
that have been given their moment (as bits of a number) and the state. Where an operation returns, configurations
go on by as many operations as it takes for that one to have had its moment. None is looked at twice.

Five things keep that small, and change no verdict:

- What only reads is given its moment as soon as the state is right: since it changes nothing, never too early.
- A write of unknown fate never has to have its moment, so of two configurations that differ only in that one has
  spent more of these, that one is dropped.
- If something was shown that only one write of unknown fate can have put there, then that had happened by then.
- A write of unknown fate is left out if nothing that was shown could come from it.
- Of those that are alike, since nobody was shown what they put, the first is taken first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tests.faults.checkers.meaning import expected, keys_of, ms, requests, seen, told, wanted
from tests.faults.checkers.violation import Violation
from tests.faults.operations import Evidence, Kind, Operation, Outcome

STEPS_MAX = 200_000
"""Configurations that are looked at for one object: a few seconds."""

State = tuple[str | None, ...]
_OTHER = "\0any other"

Values = tuple[tuple[int, str | None], ...]
"""Of some of an object's keys, each by its place in the state."""


class Decision(StrEnum):
    """What was found of one object's history."""

    LINEARIZABLE = "linearizable"
    BROKEN = "not linearizable"
    UNDECIDED = "too large to decide"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one object: its keys, how many operations it had, how many configurations were looked at.

    ``stuck`` is the operation that nothing explains, if one does not, and ``states`` what could have been there.
    """

    keys: tuple[str, ...]
    decision: Decision
    operations: int
    looked_at: int
    stuck: Operation | None = None
    beside: tuple[Operation, ...] = ()
    states: tuple[State, ...] = ()


def check(evidence: Evidence, *, steps_max: int = STEPS_MAX) -> list[Violation]:
    """The objects whose histories are not linearizable; those that are too large to decide are no violations."""
    return [
        _violation(verdict)
        for verdict in examine(evidence, steps_max=steps_max)
        if verdict.decision is Decision.BROKEN
    ]


def examine(evidence: Evidence, *, steps_max: int = STEPS_MAX) -> list[Verdict]:
    """What is found of each object, also of those that could not be decided within so many configurations."""
    return [
        decide(keys, operations, steps_max=steps_max)
        for keys, operations in _objects(requests(evidence.operations))
    ]


def decide(keys: Sequence[str], operations: Iterable[Operation], *, steps_max: int = STEPS_MAX) -> Verdict:
    """The same of one object: these keys, which are all not there in the beginning."""
    places = {key: place for place, key in enumerate(keys)}
    steps = _alike(_relevant([step for each in operations if (step := _step(each, places)) is not None]))
    search = _Search(steps, len(keys), steps_max)
    decision = search.decide()
    stuck = search.stuck
    return Verdict(
        keys=tuple(keys),
        decision=decision,
        operations=len(steps),
        looked_at=search.looked_at,
        stuck=stuck.operation if stuck else None,
        beside=tuple(step.operation for step in search.under_way if step is not stuck),
        states=tuple(sorted({state for _, state in search.configurations}, key=str)),
    )


def _violation(verdict: Verdict) -> Violation:
    """A history that nothing explains, for people."""
    stuck = verdict.stuck
    assert stuck is not None
    held = " or ".join(str(dict(zip(verdict.keys, state, strict=True))) for state in verdict.states[:5])
    took = ms((stuck.returned_ns or stuck.invoked_ns) - stuck.invoked_ns)
    what = f"{told(stuck)}, in {took}: no order of all that was answered explains it; before it there was {held}"
    return Violation("I10" if stuck.writes else "I5", what, (stuck, *verdict.beside))


# --- what is decided ------------------------------------------------------------------------------------------


def _objects(operations: Sequence[Operation]) -> Iterator[tuple[list[str], list[Operation]]]:
    """The operations of each object: a key, or the keys that transactions hang together."""
    universe: dict[
        str, set[str]
    ] = {}  # all keys of a workload: those that a read of all does not show are not there
    for each in operations:
        universe.setdefault(each.workload, set()).update(keys_of([each]))

    def named(operation: Operation) -> set[str]:
        return universe[operation.workload] if operation.kind is Kind.READ_ALL else keys_of([operation])

    joined = {each.workload for each in operations if each.kind is Kind.TRANSFER}
    together = _together(
        keys_of(operations), (named(each) for each in operations if each.workload in joined and not each.key)
    )
    mine: dict[str, list[Operation]] = {key: [] for key in set(together.values())}
    for each in operations:
        for key in {together[key] for key in named(each)}:
            mine[key].append(each)
    members: dict[str, list[str]] = {key: [] for key in mine}
    for key, first in together.items():
        members[first].append(key)
    for key, those in sorted(mine.items()):
        yield sorted(members[key]), those


def _together(keys: Iterable[str], groups: Iterable[set[str]]) -> dict[str, str]:
    """For each key one that stands for all those which it is in a group with, also by way of others."""
    owner = {key: key for key in keys}

    def find(key: str) -> str:
        while owner[key] != key:
            key = owner[key]
        return key

    for group in groups:
        for key in group:
            owner[find(key)] = find(min(group))
    return {key: find(key) for key in owner}


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """An operation: it takes effect where ``guard`` holds, or does not (``met``), and then sets ``puts``.

    ``returned`` is infinite for what need not have taken effect at all.
    """

    operation: Operation
    guard: Values
    met: bool
    puts: Values
    invoked: int
    returned: float

    @property
    def optional(self) -> bool:
        return math.isinf(self.returned)

    def fits(self, state: State) -> bool:
        """Whether it can take effect in a state, and answer as it did."""
        return all(state[place] == value for place, value in self.guard) == self.met

    def after(self, state: State) -> State:
        """The state behind it."""
        changed = list(state)
        for place, value in self.puts:
            changed[place] = value
        return tuple(changed)


def _step(operation: Operation, places: dict[str, int]) -> _Step | None:
    """An operation as the search sees it; None for one that tells nothing."""
    guard, puts, met = expected(operation), wanted(operation), True
    returned: float = math.inf if operation.returned_ns is None else operation.returned_ns
    if not operation.writes:
        if operation.outcome is not Outcome.OK or operation.mode != "linearizable":
            return None
        # A read of all is in the history of each object: nothing here may take as long as it has keys.
        read_all = operation.kind is Kind.READ_ALL
        guard = {key: operation.result.get(key) for key in places} if read_all else seen(operation)
    elif operation.outcome is Outcome.REFUSED:
        return None
    elif operation.outcome is Outcome.UNKNOWN:
        returned = math.inf
    elif operation.outcome is Outcome.FAILED:
        if operation.kind is Kind.DELETE:
            guard = {operation.key: None}
        elif not guard:
            return None
        else:
            met = False
        puts = {}
    return _Step(
        operation=operation,
        guard=tuple((places[key], value) for key, value in guard.items() if key in places),
        met=met,
        puts=tuple((places[key], value) for key, value in puts.items()),
        invoked=operation.invoked_ns,
        returned=returned,
    )


def _relevant(steps: list[_Step]) -> list[_Step]:
    """The steps that matter, with the time by which those of unknown fate must have happened, if they must."""
    while True:
        changed = [bounded for step in steps if (bounded := _bounded(step, steps)) is not None]
        if len(changed) == len(steps) and all(one is other for one, other in zip(changed, steps, strict=True)):
            return steps
        steps = changed


def _bounded(step: _Step, steps: list[_Step]) -> _Step | None:
    """A step of unknown fate, as it is, or with an end, or None if it explains nothing."""
    if not step.optional:
        return step
    others = [each for each in steps if each is not step]
    matters = False
    for place, value in step.puts:
        shown = [each for each in others if each.met and (place, value) in each.guard]
        differs = any(not each.met and place in dict(each.guard) for each in others)
        matters = matters or bool(shown) or differs
        only = value is not None and not any((place, value) in each.puts for each in others)
        ends = min((each.returned for each in shown), default=math.inf)
        if only and not math.isinf(ends):
            return replace(step, returned=max(ends, step.invoked))
    return step if matters else None


def _alike(steps: list[_Step]) -> list[_Step]:
    """The steps, with one value for all those that steps of unknown fate put and nobody asks for."""
    asked = {value for step in steps for value in step.guard}

    def known(value: tuple[int, str | None]) -> tuple[int, str | None]:
        return value if value in asked else (value[0], _OTHER)

    return [
        replace(step, puts=tuple(known(value) for value in step.puts)) if step.optional else step for step in steps
    ]


# --- the search -----------------------------------------------------------------------------------------------

_Configuration = tuple[int, State]


class _TooLarge(Exception):
    """More configurations than may be looked at."""


class _Search:
    """See the module's docstring. ``stuck``: the step that could not be given a moment; None: all could."""

    def __init__(self, steps: Sequence[_Step], places: int, steps_max: int) -> None:
        self._steps = steps
        self._steps_max = steps_max
        # What is under way, by its bit: what only reads, what writes, and what need not have its moment.
        self._reads: dict[int, _Step] = {}
        self._writes: dict[int, _Step] = {}
        self._spare: dict[tuple[Values, Values], list[tuple[int, _Step]]] = {}
        self._spare_bits = 0
        self.configurations: list[_Configuration] = [(0, (None,) * places)]
        self.looked_at = 0
        self.stuck: _Step | None = None

    @property
    def under_way(self) -> list[_Step]:
        """What was under way when it ended, and may not be left out."""
        return [*self._reads.values(), *self._writes.values()]

    def decide(self) -> Decision:
        """Go through all events."""
        # What returns at the very moment at which another one is invoked overlaps with it.
        events: list[tuple[float, bool, int]]
        events = [(step.invoked, False, number) for number, step in enumerate(self._steps)]
        events += [(step.returned, True, number) for number, step in enumerate(self._steps) if not step.optional]
        bits: dict[int, int] = {}
        try:
            for _, ends, number in sorted(events):
                if not ends:
                    bits[number] = self._begin(self._steps[number])
                elif not self._end(self._steps[number], bits[number]):
                    return Decision.BROKEN
        except _TooLarge:
            return Decision.UNDECIDED
        return Decision.LINEARIZABLE

    def _begin(self, step: _Step) -> int:
        bit = 1
        while bit in self._reads or bit in self._writes or bit & self._spare_bits:
            bit <<= 1
        if step.optional:
            self._spare.setdefault((step.guard, step.puts), []).append((bit, step))
            self._spare_bits |= bit
        elif step.puts:
            self._writes[bit] = step
        else:
            self._reads[bit] = step
            self.configurations = [self._with_reads(mask, state) for mask, state in self.configurations]
        return bit

    def _end(self, step: _Step, bit: int) -> bool:
        """The step has returned: only configurations in which it has had its moment are left."""
        spent: dict[_Configuration, list[int]] = {}
        waiting = deque(one for one in self.configurations if self._is_new(one, spent))
        found = []
        while waiting:
            mask, state = waiting.popleft()
            if mask & bit:
                found.append((mask ^ bit, state))
                continue
            for other, writing in self._next(mask):
                self.looked_at += 1
                if self.looked_at > self._steps_max:
                    raise _TooLarge
                if writing.fits(state):
                    further = self._with_reads(mask | other, writing.after(state))
                    if self._is_new(further, spent):
                        waiting.append(further)
        if not found:
            self.stuck = step
            return False
        self._reads.pop(bit, None)
        self._writes.pop(bit, None)
        self.configurations = found
        return True

    def _next(self, mask: int) -> Iterator[tuple[int, _Step]]:
        """What can have its moment next, of those that write."""
        for bit, step in self._writes.items():
            if not mask & bit:
                yield bit, step
        for alike in self._spare.values():
            yield from [(bit, step) for bit, step in alike if not mask & bit][:1]

    def _with_reads(self, mask: int, state: State) -> _Configuration:
        """A configuration, further by all that only reads and fits the state."""
        for bit, step in self._reads.items():
            if not mask & bit and step.fits(state):
                mask |= bit
        return mask, state

    def _is_new(self, configuration: _Configuration, spent: dict[_Configuration, list[int]]) -> bool:
        """Whether no configuration was met that is the same, or has spent less of what is spare."""
        mask, state = configuration
        spare = mask & self._spare_bits
        before = spent.setdefault((mask & ~self._spare_bits, state), [])
        if any(each & ~spare == 0 for each in before):
            return False
        before.append(spare)
        return True
