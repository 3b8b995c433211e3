"""Lists that only grow at their end: all reads agree on one order of everything (I1 to I5).

The workload "append": a key holds its elements joined by commas, and Kind.CAS replaces a list by the same one with
one element more, which nobody else appends anywhere. So a list that was read tells every write before it, in
order: that is what makes anomalies easy to find in Elle (Kingsbury and Alvaro, "Elle: inferring isolation
anomalies from experimental observations", PVLDB 14, 2020), whose method this is.

What is known of the order of operations becomes a graph: which append came behind which (ww), who was shown whose
element (wr), who was not shown it yet (rw), and who was answered before another one was asked for (time). A cycle
has no order. Cycles are named as Adya does ("Weak consistency", 1999): G0 is of ww alone, G1c of ww and wr,
G-single has one rw, G2 several. A local read may be of the past: nothing has to be in it because of the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tests.faults.checkers.meaning import expected, keys_of, of_workload, requests, seen, told, wanted
from tests.faults.checkers.violation import Violation
from tests.faults.operations import Evidence, Kind, Operation, Outcome

WORKLOAD = "append"

Elements = tuple[str, ...]
Graph = dict[int, dict[int, str]]
"""Operations by their numbers, and the reasons for which others come behind them."""


def check(evidence: Evidence) -> list[Violation]:
    """What of the lists cannot be; see the module's docstring.

    Raises:
        ValueError: the workload itself does not append one element at a time.
    """
    operations = requests(of_workload(evidence.operations, WORKLOAD))
    history = _History(operations)
    return [*history.contents(), *history.lost(), *history.cycles()]


def elements(value: str | None) -> Elements:
    """The elements of a list."""
    return tuple(value.split(",")) if value else ()


def _appended(write: Operation) -> str:
    before, after = elements(write.argument[0]), elements(write.argument[1])
    if after[:-1] != before or after[-1:] == ():
        raise ValueError(f"this does not append one element: {told(write)}")
    return after[-1]


class _History:
    """The appends and reads of a run, and what they were shown."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._appends = {(each.key, _appended(each)): each for each in operations if each.kind is Kind.CAS}
        keys = keys_of(operations)
        self._shown: dict[int, dict[str, Elements]] = {}
        self._happened: list[Operation] = []
        for each in operations:
            if each.outcome is not Outcome.OK:
                continue
            self._happened.append(each)
            values = expected(each) if each.writes else seen(each)
            asked = keys if each.kind is Kind.READ_ALL else values
            self._shown[each.number] = {key: elements(values.get(key)) for key in asked}
        self._order = self._longest()
        # What was never answered has happened if its element was shown to somebody.
        self._happened += [
            replace(write, returned_ns=None)
            for (key, element), write in self._appends.items()
            if write.outcome is Outcome.UNKNOWN and element in self._order.get(key, ())
        ]

    def _lists(self, operation: Operation) -> list[tuple[str, Elements]]:
        """What each list was, as an operation has found or left it."""
        left = {key: elements(value) for key, value in wanted(operation).items()}
        return [*self._shown.get(operation.number, {}).items(), *left.items()]

    def _longest(self) -> Mapping[str, Elements]:
        """The order of each list's elements, as the longest of all that was shown or written has it."""
        order: dict[str, Elements] = {}
        for each in self._happened:
            for key, found in self._lists(each):
                order[key] = max(order.get(key, ()), found, key=len)
        return order

    def contents(self) -> Iterator[Violation]:
        """Lists with an element twice, or one that nobody appended, or of which none is the other's beginning."""
        for each in self._happened:
            for key, found in self._lists(each):
                order = self._order[key]
                if found != order[: len(found)]:
                    what = f"{key} is {','.join(found)}, and another list of it {','.join(order)}"
                    yield Violation("I5", f"{told(each)}: {what}", (each,))
                if len(set(found)) < len(found):
                    yield Violation("I3", f"{told(each)}: {key} has an element twice", (each,))
                for element in found:
                    write = self._appends.get((key, element))
                    if write is None or write.outcome in (Outcome.REFUSED, Outcome.FAILED):
                        what = "refused" if write else "appended by nobody"
                        yield Violation("I2", f"{told(each)}: {element} in {key} was {what}", (each,))

    def lost(self) -> Iterator[Violation]:
        """Acknowledged elements that are not in a linearizable read which began later."""
        for (key, element), write in self._appends.items():
            if write.outcome is not Outcome.OK:
                continue
            without = [
                each
                for each in self._happened
                if not each.writes
                and each.mode == "linearizable"
                and each.invoked_ns > (write.returned_ns or each.invoked_ns)
                and element not in self._shown[each.number].get(key, (element,))
            ]
            if without:
                what = f"{told(write)}: was acknowledged, and is not in {told(without[0])}"
                yield Violation("I1", what, (write, without[0]))

    # --- cycles -------------------------------------------------------------------------------------------

    def cycles(self) -> Iterator[Violation]:
        """The simplest kind of cycle that there is, if there is one."""
        graph = self._graph()
        by_number = {each.number: each for each in self._happened}
        for name, reasons, once in (
            ("G0", {"ww", "time"}, ""),
            ("G1c", {"ww", "wr", "time"}, ""),
            ("G-single", {"ww", "wr", "time"}, "rw"),
            ("G2", {"ww", "wr", "rw", "time"}, "rw"),
        ):
            cycle = _cycle(graph, reasons, once)
            if cycle:
                steps = zip(cycle, [*cycle[1:], cycle[0]], strict=True)
                told_of = "; ".join(
                    f"{told(by_number[one])} before #{other} ({graph[one][other]})" for one, other in steps
                )
                yield Violation(
                    "I5" if once else "I4", f"a cycle, {name}: {told_of}", tuple(by_number[one] for one in cycle)
                )
                return

    def _graph(self) -> Graph:
        graph: Graph = {each.number: {} for each in self._happened}
        for one, other in self._by_time():
            graph[one][other] = "time"
        writers = {
            (key, element): write.number
            for (key, element), write in self._appends.items()
            if write.number in graph
        }
        for key, order in self._order.items():
            line = [writers.get((key, element)) for element in order]
            _link(graph, line[:-1], line[1:], "ww")
            for each in self._happened:
                found = self._shown.get(each.number, {}).get(key)
                if found is None or each.writes:  # an append's place is told by ww
                    continue
                _link(graph, [each.number], line[len(found) : len(found) + 1], "rw")
                if found:
                    _link(graph, line[len(found) - 1 : len(found)], [each.number], "wr")
        return graph

    def _by_time(self) -> Iterator[tuple[int, int]]:
        """Who was answered before who was asked for; what follows from others is left out."""
        events = [(each.invoked_ns, False, each.number, each) for each in self._happened]
        events += [
            (each.returned_ns, True, each.number, each) for each in self._happened if each.returned_ns is not None
        ]
        latest: dict[int, Operation] = {}
        for _, ends, number, each in sorted(events, key=lambda event: event[:3]):
            of_now = each.writes or each.mode == "linearizable"
            if not ends and of_now:
                for number_before in latest:
                    yield number_before, number
            if ends:
                done = [
                    one.number for one in latest.values() if of_now and (one.returned_ns or 0) < each.invoked_ns
                ]
                for number_before in done:
                    del latest[number_before]
                latest[number] = each


def _link(graph: Graph, ones: Sequence[int | None], others: Sequence[int | None], reason: str) -> None:
    for one, other in zip(ones, others, strict=False):
        if one is not None and other is not None and one != other:
            graph[one].setdefault(other, reason)


def _cycle(graph: Graph, reasons: set[str], once: str) -> list[int]:
    """A cycle along these reasons; with ``once``, one that begins with a step for that reason. Empty: none."""
    plain = {one: [other for other, why in others.items() if why in reasons] for one, others in graph.items()}
    tangled = _tangled({one: list(others) for one, others in graph.items()})
    for one in tangled:
        for other, why in graph[one].items():
            if why == once or (not once and why in reasons):
                way = _way(plain, other, one)
                if way:
                    return [one, *way[:-1]]
    return []


def _tangled(graph: Mapping[int, Sequence[int]]) -> set[int]:
    """What is left when everything that nothing comes before is taken away, again and again."""
    before = dict.fromkeys(graph, 0)
    for others in graph.values():
        for other in others:
            before[other] += 1
    free = [one for one, count in before.items() if not count]
    left = set(graph)
    while free:
        one = free.pop()
        left.remove(one)
        for other in graph[one]:
            before[other] -= 1
            if not before[other]:
                free.append(other)
    return left


def _way(graph: Mapping[int, Sequence[int]], begin: int, end: int) -> list[int]:
    """The shortest way from one operation to another, both included; empty if there is none."""
    came_from = {begin: begin}
    waiting = deque([begin])
    while waiting:
        one = waiting.popleft()
        if one == end:
            way = [one]
            while way[-1] != begin:
                way.append(came_from[way[-1]])
            return way[::-1]
        for other in graph[one]:
            if other not in came_from:
                came_from[other] = one
                waiting.append(other)
    return []
