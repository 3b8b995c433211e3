"""The checkers of one workload each: sets, counters, banks and lists."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvlog.core.entry import Put, Request
from tests.faults.checkers import appends, bank, counter, sets
from tests.faults.checkers.by_hand import (
    Story,
    Times,
    cas,
    evidence,
    invariants,
    operation,
    read,
    read_all,
    transfer,
    write,
)
from tests.faults.operations import Kind, Operation, Outcome

UNKNOWN, REFUSED, FAILED = Outcome.UNKNOWN, Outcome.REFUSED, Outcome.FAILED


# --- sets -----------------------------------------------------------------------------------------------------


def put(number: int, at: Times, **fields: object) -> Operation:
    return write(f"set/{number}", f"1-{number}", at, workload="set", **fields)


def elements(*numbers: int, at: Times, **fields: object) -> Operation:
    values = {f"set/{number}": f"1-{number}" for number in numbers}
    return read_all(values, at, workload="set", **fields)


SET = [
    put(1, (0, 1)),
    put(2, (2, 9)),
    put(3, (3, 4), outcome=UNKNOWN),
    put(4, (3, 4), outcome=UNKNOWN),
    put(5, (3, 4), outcome=REFUSED),
    put(6, (5, 6), request_id="six", outcome=REFUSED),
    put(6, (7, 8), request_id="six"),
    elements(at=(1, 2), process=4),  # from the very moment on at which 1 was acknowledged
    elements(1, at=(3, 5)),  # while 2 is put
    elements(at=(8.5, 9), mode="local", node="n3"),  # before all is done: no last one
    elements(at=(5, 6), mode="local", node="n2"),  # a replica that is behind
    elements(1, 2, 3, 6, at=(10, 12)),  # one of the unknown is there
    elements(1, 2, 3, 6, at=(20, 21), node="n1"),
    elements(1, 2, 3, 6, at=(20, 21), node="n2", mode="local", process=2),
]


def test_a_set_that_is_late_where_it_may_be_is_right():
    assert sets.check(evidence(*SET)) == []


@pytest.mark.parametrize(
    ("more", "broken", "said"),
    [
        ([elements(1, 3, 6, at=(30, 31))], {"I1", "I6"}, "lost"),
        ([elements(1, 2, 6, at=(30, 31), process=3)], {"I1"}, "lost"),  # 3 was shown before
        ([elements(1, 3, at=(10, 11), process=3)], {"I5"}, "later"),
        ([elements(1, 2, 3, at=(30, 31), mode="local", process=3, node="n3")], {"I9"}, "last one"),
        ([elements(1, 2, 3, 5, 6, at=(30, 31))], {"I2"}, "refused"),
        ([elements(1, 2, 3, 6, 9, at=(30, 31))], {"I2"}, "nobody"),
        ([elements(1, 2, 3, 4, 6, 9, at=(30, 31)), put(9, (32, 33)), elements(1, 2, 3, 4, 6, 9, at=(34, 35))],
         {"I5"}, "put later"),
        ([read_all({**elements(1, 2, 3, 6, at=(0, 0)).result, "set/4": "1-3"}, (30, 31), workload="set")],
         {"I2", "I3"}, "one value"),
    ],
)  # fmt: skip
def test_what_a_set_must_not_show_is_found(more: list[Operation], broken: set[str], said: str):
    violations = sets.check(evidence(*SET, *more))

    assert invariants(violations) == broken
    assert any(said in each.what for each in violations)


def test_an_element_that_the_log_has_twice_is_found():
    story = Story()
    story.does(put(1, (0, 1)))
    assert sets.check(story.evidence) == []

    story.logs(Request(effects=(Put("set/1", "1-1", 1, 2),)))

    assert invariants(sets.check(story.evidence)) == {"I3"}


# --- counters -------------------------------------------------------------------------------------------------


def count(before: int, at: Times, **fields: object) -> Operation:
    return cas("counter", str(before) if before else None, str(before + 1), at, workload="counter", **fields)


def counted(value: int, at: Times, **fields: object) -> Operation:
    return read("counter", str(value) if value else None, at, workload="counter", **fields)


COUNTER = [
    counted(0, (0, 1)),
    count(0, (0, 2)),
    count(0, (1, 3), outcome=FAILED),
    count(1, (4, 9), outcome=UNKNOWN),
    count(1, (4, 9), process=2, outcome=REFUSED),
    count(9, (4, 9), process=3, outcome=FAILED),  # whoever asked for that was told that it is not so
    counted(2, (5, 6)),  # what is unknown was done
    counted(0, (7, 8), mode="local", node="n2"),
    count(2, (10, 20)),
    counted(2, (11, 12)),
    counted(3, (13, 14)),
    counted(3, (21, 22)),
    count(3, (23, 24), request_id="x"),
    count(3, (25, 26), request_id="x", tries=2),  # asked for again: the same one
    counted(4, (27, 28)),
]


def test_a_counter_between_what_is_acknowledged_and_what_is_possible_is_right():
    assert counter.check(evidence(*COUNTER)) == []


@pytest.mark.parametrize(
    ("more", "broken"),
    [
        ([counted(2, (30, 31))], {"I5"}),  # less than acknowledged
        ([counted(5, (30, 31))], {"I3"}),  # more than was asked for
        ([counted(5, (30, 31), mode="local")], {"I3"}),
        ([count(2, (30, 31))], {"I1", "I10"}),  # began at what had been counted up already
        ([count(9, (30, 31))], {"I3"}),
        ([count(4, (30, 40)), count(4, (30, 40), process=2)], {"I10"}),  # one of them is lost
    ],
)
def test_a_counter_that_counts_wrongly_is_found(more: list[Operation], broken: set[str]):
    assert invariants(counter.check(evidence(*COUNTER, *more))) == broken


def test_a_counter_that_goes_down_is_no_counter():
    with pytest.raises(ValueError, match="only goes up"):
        counter.check(evidence(cas("counter", "2", "1", (0, 1), workload="counter")))


# --- banks ----------------------------------------------------------------------------------------------------


def open_bank() -> Story:
    """Two accounts, and transfers of all outcomes."""
    story = Story()
    # While accounts are opened, and at the very moment at which they are, anything may be there.
    story.says(balances({"bank/1": "5"}, (0.2, 0.4)), balances({"bank/1": "5"}, (1, 2)))
    story.does(write("bank/1", "5", (0, 0.1), workload="bank"))
    story.does(write("bank/2", "5", (0, 1), workload="bank"))
    story.does(transfer({"bank/1": ("5", "0"), "bank/2": ("5", "10")}, (2, 9)))
    story.says(balances({"bank/1": "5", "bank/2": "5"}, (3, 4)))  # not done yet
    story.does(transfer({"bank/1": ("5", "4"), "bank/2": ("5", "6")}, (10, 11), outcome=FAILED))
    story.does(transfer({"bank/2": ("10", "9"), "bank/1": ("0", "1")}, (12, 13), outcome=UNKNOWN))
    story.shows(balances({"bank/1": "1", "bank/2": "9"}, (14, 15)))
    story.says(balances({"bank/1": "0", "bank/2": "10"}, (16, 17), mode="local"))
    story.says(balances({"bank/1": "5"}, (18, 19), mode="local", node="n2"))  # of long ago
    return story


def balances(values: dict[str, str], at: Times, **fields: object) -> Operation:
    return read_all(values, at, workload="bank", **fields)


def test_a_bank_whose_money_is_on_its_way_is_right():
    assert bank.check(open_bank().evidence) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bank/1": "1", "bank/2": "10"}, "11 in all"),
        ({"bank/1": "-1", "bank/2": "11"}, "owed"),
        ({"bank/1": "1", "bank/2": "9", "bank/3": "0"}, "accounts"),
    ],
)
@pytest.mark.parametrize("mode", ["linearizable", "local"])
def test_a_read_of_other_balances_is_found(values: dict[str, str], said: str, mode: str):
    story = open_bank()
    story.shows(balances(values, (20, 21), mode=mode))

    (violation,) = bank.check(story.evidence)

    assert (violation.invariant, said in violation.what) == ("I10", True)


def test_an_account_that_has_gone_is_found():
    story = open_bank()
    story.shows(balances({"bank/1": "10"}, (20, 21)))

    assert invariants(bank.check(story.evidence)) == {"I10"}


def test_a_revision_of_the_log_that_makes_money_is_found_once():
    """Nobody has read it, and what comes behind it is wrong because of it."""
    story = open_bank()
    story.logs(Request(effects=(Put("bank/1", "7", 1, 4),)))
    story.does(transfer({"bank/1": ("7", "8"), "bank/2": ("9", "8")}, (20, 21)))

    (violation,) = bank.check(story.evidence)

    assert violation.invariant == "I10"
    assert "revision 6" in violation.what


def test_a_transfer_that_makes_money_itself_is_a_mistake_of_the_workload():
    story = open_bank()
    story.says(transfer({"bank/1": ("1", "2"), "bank/2": ("9", "9")}, (20, 21)))

    with pytest.raises(ValueError, match="makes money"):
        bank.check(story.evidence)


@pytest.mark.parametrize("again", [Outcome.OK, UNKNOWN])
def test_an_account_that_may_hold_anything_is_a_mistake_of_the_workload(again: Outcome):
    """It is opened twice, or nobody knows whether it is."""
    key = "bank/1" if again is Outcome.OK else "bank/9"
    story = open_bank()
    story.says(write(key, "1", (20, 21), workload="bank", outcome=again))

    with pytest.raises(ValueError, match="opened"):
        bank.check(story.evidence)


# --- lists ----------------------------------------------------------------------------------------------------


def add(key: str, after: str, at: Times, **fields: object) -> Operation:
    """The last element of ``after`` is appended to those before it."""
    before = after.rpartition(",")[0] or None
    return cas(key, before, after, at, **{"workload": "append", **fields})


def shown(key: str, value: str | None, at: Times, **fields: object) -> Operation:
    return read(key, value, at, **{"workload": "append", **fields})


LISTS = [
    add("list/1", "a", (0, 1)),
    add("list/1", "a,b", (2, 9)),
    shown("list/1", None, (1, 2), process=4),  # from the very moment on at which a was acknowledged
    shown("list/1", "a", (3, 4)),
    shown("list/1", "a,b", (5, 6)),
    add("list/1", "a,c", (7, 8), outcome=FAILED),
    add("list/1", "a,b,d", (10, 11), outcome=UNKNOWN),
    add("list/1", "a,b,e", (10, 11), outcome=UNKNOWN),
    shown("list/1", "a,b", (12, 13)),  # the unknown is not done yet
    shown("list/1", "a,b,d", (14, 15)),
    shown("list/1", None, (16, 17), mode="local", node="n2"),
    add("list/2", "f", (18, 19)),
    read_all({"list/1": "a,b,d", "list/2": "f"}, (20, 21), workload="append"),
    read_all({"list/1": "a"}, (22, 23), workload="append", mode="local"),
    add("list/1", "a,b,d,g", (24, 25), request_id="x"),
    add("list/1", "a,b,d,g", (26, 27), request_id="x", tries=2),
]


def test_lists_that_agree_on_one_order_are_right():
    assert appends.check(evidence(*LISTS)) == []


@pytest.mark.parametrize(
    ("more", "broken", "said"),
    [
        ([shown("list/1", "b,a", (30, 31))], {"I1", "I5"}, "another list"),
        ([shown("list/1", "a,b,d,g,a", (30, 31))], {"I3", "I4"}, "twice"),
        ([shown("list/1", "a,b,d,g,z", (30, 31))], {"I2"}, "nobody"),
        ([add("list/1", "a,b,d,g,r", (28, 29), outcome=REFUSED), shown("list/1", "a,b,d,g,r", (30, 31))],
         {"I2"}, "refused"),
        ([shown("list/1", "a", (30, 31))], {"I1", "I5"}, "acknowledged"),
        # Two appends behind the same list: one of them is lost.
        ([add("list/2", "f,h", (30, 31)), add("list/2", "f,i", (32, 33))], {"I5"}, "another list"),
        # In the order of the list, h comes before i; by the clock it is the other way round.
        ([add("list/2", "f,h,i", (30, 31)), add("list/2", "f,h", (32, 33))], {"I4"}, "G0"),
        # Shown before it was asked for.
        ([shown("list/2", "f,h", (30, 31)), add("list/2", "f,h", (32, 33))], {"I4"}, "G1c"),
        # Two reads of both lists: each shows an append that the other one does not.
        ([add("list/1", "a,b,d,g,h", (30, 40)), add("list/2", "f,i", (30, 40)),
          read_all({"list/1": "a,b,d,g,h", "list/2": "f"}, (31, 39), workload="append"),
          read_all({"list/1": "a,b,d,g", "list/2": "f,i"}, (31, 39), workload="append", mode="local")],
         {"I5"}, "G2"),
        # A read of both lists is older in one than another read was before it in the other one.
        ([add("list/2", "f,h", (30, 31), outcome=UNKNOWN), shown("list/2", "f,h", (32, 33)),
          shown("list/2", "f", (34, 35))], {"I5"}, "G-single"),
    ],
)  # fmt: skip
def test_lists_that_do_not_agree_are_found(more: list[Operation], broken: set[str], said: str):
    violations = appends.check(evidence(*LISTS, *more))

    assert invariants(violations) == broken
    assert any(said in each.what for each in violations), violations


@pytest.mark.parametrize(
    "between",
    [
        shown("list/1", "a,b,d,g", (30.5, 31.5)),
        shown("list/1", "a,b,d,g", (31, 31.5)),
        shown("list/1", "a,b,d,g", (31.2, 31.5), mode="local"),
    ],
)
def test_what_was_answered_earlier_counts_also_behind_others(between: Operation):
    """The first append had ended before the second began, whoever overlapped with it or read the past since."""
    appended = [add("list/2", "f,h,i", (30, 31)), between, add("list/2", "f,h", (32, 33))]

    assert invariants(appends.check(evidence(*LISTS, *appended))) == {"I4"}


def test_an_append_of_two_elements_is_a_mistake_of_the_workload():
    with pytest.raises(ValueError, match="one element"):
        appends.check(evidence(cas("list/1", "a", "a,b,c", (0, 1), workload="append")))


@pytest.mark.parametrize("check", [sets.check, counter.check, bank.check, appends.check])
def test_other_workloads_are_left_alone(check):
    """Each looks at its own operations only."""
    strangers = [replace(each, workload="other") for each in (*SET, *COUNTER, *LISTS)]
    assert check(evidence(*strangers, operation(Kind.DELETE, (0, 1), key="x", workload="other"))) == []
