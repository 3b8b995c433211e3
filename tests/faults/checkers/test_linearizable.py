"""The search for an order, against the plainest one that there is: all orders."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.checkers import linearizable
from tests.faults.checkers.by_hand import (
    cas,
    delete,
    evidence,
    invariants,
    operation,
    read,
    read_all,
    transfer,
    write,
)
from tests.faults.checkers.linearizable import Decision
from tests.faults.operations import Kind, Operation, Outcome

GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "a new value, then the old one, while it is written": [
        write("k", "a", (0, 1)),
        write("k", "b", (2, 9)),
        read("k", "a", (3, 4)),
        read("k", "b", (5, 6), process=2),
    ],
    "unknown, and done much later": [
        write("k", "a", (0, 1), outcome=Outcome.UNKNOWN),
        write("k", "b", (2, 3)),
        read("k", "b", (4, 5)),
        read("k", "a", (6, 7)),
    ],
    "unknown, and never done": [
        write("k", "a", (0, 1), outcome=Outcome.UNKNOWN),
        read("k", None, (2, 3)),
    ],
    "a swap in between explains both reads": [
        write("k", "a", (0, 10)),
        cas("k", "a", "b", (0, 10), process=2),
        read("k", "b", (1, 2), process=3),
        cas("k", "a", "c", (11, 12), outcome=Outcome.FAILED),
    ],
    "only an unknown write explains why the swap failed": [
        write("k", "a", (0, 1)),
        write("k", "b", (2, 3), outcome=Outcome.UNKNOWN),
        cas("k", "a", "c", (4, 5), outcome=Outcome.FAILED),
    ],
    "deleted in between": [
        write("k", "a", (0, 1)),
        delete("k", (2, 9), outcome=Outcome.UNKNOWN),
        read("k", "a", (3, 4)),
        read("k", None, (5, 6)),
        delete("k", (7, 8), outcome=Outcome.FAILED),
    ],
    "at the same moment": [write("k", "a", (0, 1)), read("k", None, (1, 2))],
    "an answer that came twice": [
        cas("k", None, "a", (0, 1), request_id="x"),
        cas("k", None, "a", (2, 3), request_id="x", tries=2),
    ],
    "refused, and local reads, are nobody's business": [
        write("k", "a", (0, 1)),
        write("k", "b", (2, 3), outcome=Outcome.REFUSED),
        read("k", None, (4, 5), mode="local"),
        read("k", "a", (6, 7)),
    ],
    "money on its way": [
        write("bank/1", "5", (0, 1), workload="bank"),
        write("bank/2", "0", (0, 1), workload="bank", process=2),
        transfer({"bank/1": ("5", "3"), "bank/2": ("0", "2")}, (2, 9)),
        read_all({"bank/1": "5", "bank/2": "0"}, (3, 4), workload="bank"),
        read("bank/2", "2", (5, 6), workload="bank"),
        transfer({"bank/1": ("5", "4"), "bank/2": ("0", "1")}, (7, 8), outcome=Outcome.FAILED),
    ],
}

BAD: dict[str, list[Operation]] = {
    "stale": [write("k", "a", (0, 1)), write("k", "b", (2, 3)), read("k", "a", (4, 5))],
    "lost": [write("k", "a", (0, 1)), read("k", None, (2, 3))],
    "from nowhere": [write("k", "a", (0, 1)), read("k", "b", (2, 3))],
    "from the future": [read("k", "a", (0, 1)), write("k", "a", (2, 3))],
    "from the future, unknown": [read("k", "a", (0, 1)), write("k", "a", (2, 3), outcome=Outcome.UNKNOWN)],
    "back again": [
        write("k", "a", (0, 1)),
        write("k", "b", (2, 9)),
        read("k", "b", (3, 4)),
        read("k", "a", (5, 6), process=2),
    ],
    "unknown, and done twice": [
        write("k", "a", (0, 1), outcome=Outcome.UNKNOWN),
        read("k", "a", (2, 3)),
        write("k", "b", (4, 5)),
        read("k", "b", (6, 7)),
        read("k", "a", (8, 9)),
    ],
    "two swaps of one value": [
        write("k", "a", (0, 1)),
        cas("k", "a", "b", (2, 5)),
        cas("k", "a", "c", (2, 5), process=2),
    ],
    "a swap that failed for no reason": [
        write("k", "a", (0, 1)),
        cas("k", "a", "b", (2, 3), outcome=Outcome.FAILED),
    ],
    "refused, and seen": [write("k", "a", (0, 1), outcome=Outcome.REFUSED), read("k", "a", (2, 3))],
    "half of a transfer": [
        write("bank/1", "5", (0, 1), workload="bank"),
        transfer({"bank/1": ("5", "3"), "bank/2": (None, "2")}, (2, 9)),
        read("bank/2", "2", (3, 4), workload="bank"),
        read("bank/1", "5", (5, 6), workload="bank"),
    ],
    "an element that a read of all does not show": [
        write("set/1", "a", (0, 1), workload="set"),
        read_all({}, (2, 3), workload="set"),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_has_an_order_is_linearizable(name: str):
    """Each looks suspicious."""
    assert linearizable.check(evidence(*GOOD[name])) == []
    assert {one.decision for one in linearizable.examine(evidence(*GOOD[name]))} <= {Decision.LINEARIZABLE}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_order_is_found(name: str):
    """It is told which operation nothing explains."""
    found = linearizable.check(evidence(*BAD[name]))

    assert len(found) == 1
    assert invariants(found) <= {"I5", "I10"}
    assert found[0].operations[0] in BAD[name]
    assert "no order" in found[0].what


def test_keys_are_looked_at_together_only_where_a_transaction_needs_it():
    """A read of all hangs only those keys together that transactions of its workload write."""
    puts = [write(f"set/{number}", "x", (0, 1), workload="set") for number in range(3)]
    history = [*puts, read_all({put.key: "x" for put in puts}, (2, 3), workload="set"), *GOOD["money on its way"]]

    verdicts = linearizable.examine(evidence(*history))

    assert [verdict.keys for verdict in verdicts] == [("bank/1", "bank/2"), ("set/0",), ("set/1",), ("set/2",)]


def test_revisions_are_not_looked_at():
    """They could agree with each other, and be wrong."""
    history = [write("k", "a", (0, 1), revision=2), read("k", None, (2, 3), revision=1)]

    assert invariants(linearizable.check(evidence(*history))) == {"I5"}


def test_what_is_too_large_is_not_decided_and_no_violation():
    """Twelve writes at once, whose values come again in every order."""
    writes = [write("k", str(number % 6), (0, 100), process=number) for number in range(12)]
    reads = [read("k", str(number % 6), (number, number + 0.5), process=20) for number in range(1, 12)]

    assert linearizable.check(evidence(*writes, *reads), steps_max=50) == []
    (verdict,) = linearizable.examine(evidence(*writes, *reads), steps_max=50)

    assert verdict.decision is Decision.UNDECIDED
    assert verdict.looked_at > 50
    assert verdict.operations == 23


def test_a_hundred_unknown_writes_are_no_obstacle():
    """As a run under faults leaves them: most of what is unknown explains nothing, the rest one thing each."""
    history = [write("k", f"u{number}", (number, number), outcome=Outcome.UNKNOWN) for number in range(100)]
    history += [write("k", f"v{number}", (number, number + 3), process=number % 5) for number in range(100)]
    history += [
        cas("k", f"v{number}", "w", (number + 2, number + 4), outcome=Outcome.FAILED) for number in range(100)
    ]
    history += [read("k", "u7", (300, 301)), read("k", "u8", (302, 303))]

    (verdict,) = linearizable.examine(evidence(*history))

    assert verdict.decision is Decision.LINEARIZABLE
    (verdict,) = linearizable.examine(evidence(*history, read("k", "u7", (304, 305))))
    assert verdict.decision is Decision.BROKEN


# --- against all orders -----------------------------------------------------------------------------------------


def any_order(operations: Sequence[Operation]) -> bool:
    """Whether some order of some of what is unknown, and of all the rest, explains a register's history."""
    told = [
        each
        for each in operations
        if each.outcome is not Outcome.REFUSED
        and (each.writes or (each.outcome is Outcome.OK and each.mode == "linearizable"))
    ]
    unknown = [each for each in told if each.outcome is Outcome.UNKNOWN]
    certain = [each for each in told if each.outcome is not Outcome.UNKNOWN]
    return any(
        explains(order)
        for count in range(len(unknown) + 1)
        for some in itertools.combinations(unknown, count)
        for order in itertools.permutations([*certain, *some])
    )


def explains(order: Sequence[Operation]) -> bool:
    """Whether an order agrees with the clock, and each answer with the state that it finds."""
    for each, later in itertools.combinations(order, 2):
        if later.outcome is not Outcome.UNKNOWN and (later.returned_ns or 0) < each.invoked_ns:
            return False
    state = None
    for each in order:
        match each.kind:
            case Kind.READ:
                right = state == each.result
            case Kind.WRITE:
                right, state = True, each.argument
            case Kind.DELETE:
                right, state = True, None
            case _ if each.outcome is Outcome.FAILED:
                right = state != each.argument[0]
            case _:
                right, state = state == each.argument[0], each.argument[1]
        if not right:
            return False
    return True


VALUES = st.sampled_from(["a", "b", "c"])
MAYBE = st.one_of(st.none(), VALUES)


@st.composite
def an_operation(draw: st.DrawFn) -> Operation:
    """One on a key that has few values: much of it can be explained in several ways, or hardly at all."""
    begin = draw(st.integers(0, 8))
    at = (begin, begin + draw(st.integers(0, 5)))
    kind = draw(st.sampled_from([Kind.READ, Kind.READ, Kind.WRITE, Kind.CAS, Kind.DELETE]))
    outcome = draw(st.sampled_from([Outcome.OK, Outcome.OK, Outcome.OK, Outcome.UNKNOWN, Outcome.REFUSED]))
    if kind is Kind.CAS and outcome is Outcome.OK:
        outcome = draw(st.sampled_from([Outcome.OK, Outcome.FAILED]))
    fields = {
        Kind.READ: {"result": draw(MAYBE), "mode": "linearizable"},
        Kind.WRITE: {"argument": draw(VALUES)},
        Kind.CAS: {"argument": (draw(MAYBE), draw(VALUES))},
        Kind.DELETE: {},
    }[kind]
    return operation(kind, at, key="k", outcome=outcome, **fields)


@settings(max_examples=250, deadline=None)
@given(st.lists(an_operation(), max_size=6))
def test_the_search_finds_what_trying_all_orders_finds(history: list[Operation]):
    assert (linearizable.check(evidence(*history)) == []) == any_order(history)


@pytest.mark.parametrize("unique", [False, True])
def test_the_search_agrees_with_all_orders_on_histories_that_nearly_happened(unique: bool):
    """A register by chance, six clients, and sometimes one answer that is another: many of these have an order."""
    draw = random.Random(5 + unique)
    verdicts = []
    for _ in range(300):
        history = nearly(draw, unique=unique)
        verdicts.append(any_order(history))
        assert (linearizable.check(evidence(*history)) == []) == verdicts[-1], history
    assert 100 < sum(verdicts) < 290


def nearly(draw: random.Random, *, unique: bool) -> list[Operation]:
    """What six clients did, one operation each, at moments by chance."""
    state: str | None = None
    history = []
    for number, moment in enumerate(sorted(draw.uniform(0, 10) for _ in range(6))):
        at = (moment - draw.uniform(0, 3), moment + draw.uniform(0, 3))
        value = f"v{number}" if unique else draw.choice("ab")
        unknown = draw.random() < 0.25
        outcome = Outcome.UNKNOWN if unknown else Outcome.OK
        match draw.choice("wwrrrcd"):
            case "r":
                history.append(read("k", state, at))
            case "w":
                history.append(write("k", value, at, outcome=outcome))
                state = state if unknown and draw.random() < 0.5 else value
            case "d":
                history.append(delete("k", at))
                state = None
            case _:
                before = draw.choice([state, "a"])
                met = before == state
                history.append(cas("k", before, value, at, outcome=Outcome.OK if met else Outcome.FAILED))
                state = value if met else state
    if draw.random() < 0.6:
        place = draw.randrange(6)
        shown = draw.choice([None, "a", "b", "v0", "v1", "v2"])
        begin = draw.uniform(0, 10)
        history[place] = read("k", shown, (begin, begin + 1))
    return history
