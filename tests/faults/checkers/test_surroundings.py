"""The checkers of what nodes say of themselves, write into their logs, and leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.faults.checkers import convergence, liveness, logfiles
from tests.faults.checkers.by_hand import MS, Story, cas, evidence, invariants, read, write
from tests.faults.checkers.convergence import Shown
from tests.faults.checkers.liveness import Resources
from tests.faults.operations import Outcome

# --- convergence ----------------------------------------------------------------------------------------------


def status(index: int, **fields: object) -> Mapping[str, Any]:
    """What a healthy node says; hash and digest follow from the index."""
    return {
        "applied_index": index,
        "tail_index": index,
        "revision": index,
        "log_hash": f"hash-{index}",
        "digest": f"digest-{index}",
        "stale": False,
        "missed_entries": 0,
        "halted_at": None,
        "ready": True,
        "reason": "",
        **fields,
    }


def test_nodes_that_are_equal_at_the_end_are_right():
    story = Story()
    story.does(write("k", "a", (0, 1)))
    end = status(1, log_hash=story.log[-1].hash)

    assert convergence.check({"n1": end, "n2": end, "n3": end}, story.log) == []


@pytest.mark.parametrize(
    ("changes", "broken", "said"),
    [
        ({"digest": "other"}, {"I7"}, "digest"),
        ({"log_hash": "other"}, {"I7"}, "log_hash"),
        ({"revision": 4}, {"I7"}, "revision"),
        ({"applied_index": 4}, {"I7", "I9"}, "different entries"),
        ({"stale": True, "missed_entries": 3, "digest": "other"}, {"I9"}, "missed 3"),
        ({"halted_at": 6}, {"I9"}, "halted at entry 6"),
        ({"tail_index": 6}, {"I9"}, "up to 6"),
        ({"ready": False, "reason": "stopping"}, {"I9"}, "stopping"),
    ],
)
def test_a_node_that_differs_at_the_end_is_found(changes: dict[str, Any], broken: set[str], said: str):
    statuses = {"n1": status(5), "n2": status(4) if "applied_index" in changes else status(5)}

    violations = convergence.check({**statuses, "n3": status(5, **changes)})

    assert invariants(violations) == broken
    assert any(said in each.what for each in violations), violations


def test_nodes_that_have_not_got_to_the_end_of_the_log_are_found():
    story = Story()
    story.does(write("k", "a", (0, 1)))

    assert invariants(convergence.check({"n1": status(0)}, story.log)) == {"I9"}


def shown(index: int, at: tuple[int, int], *, node: str = "n1", life: int = 0, **fields: object) -> Shown:
    return Shown(node, at[0], at[1], status(index, **fields), life)


COURSE = [
    shown(3, (0, 1)),
    shown(5, (2, 9)),
    shown(4, (3, 4)),  # asked for before the one above was answered
    shown(5, (10, 11), node="n2"),
    shown(-1, (12, 13), node="n2", life=1, digest="none"),  # its store was taken away
    shown(5, (14, 15), node="n3", stale=True, digest="other"),
    shown(5, (16, 17)),
]


def test_a_course_that_only_looks_as_if_it_went_back_is_right():
    assert convergence.check_course(COURSE) == []


@pytest.mark.parametrize(
    ("more", "broken"),
    [
        (shown(4, (18, 19)), {"I8"}),
        (shown(4, (18, 19), node="n2"), {"I8"}),
        (shown(3, (18, 19), node="n3", digest="other"), {"I7", "I8"}),
        (shown(5, (18, 19), log_hash="other"), {"I7"}),
    ],
)
def test_a_course_that_goes_back_or_apart_is_found(more: Shown, broken: set[str]):
    assert invariants(convergence.check_course([*COURSE, more])) == broken


def test_a_course_that_goes_back_behind_a_late_answer_is_found():
    """The answer that told of entry 5 was there before the last one was asked for, though not before the third."""
    course = [shown(3, (0, 1)), shown(5, (2, 9)), shown(4, (3, 4)), shown(4, (10, 11))]

    assert invariants(convergence.check_course(course)) == {"I8"}
    assert convergence.check_course(course[:3]) == []


# --- logs -----------------------------------------------------------------------------------------------------

MEANT = """\
12:00:01 failpoint before_apply: raise (hit 1)
Traceback (most recent call last):
  File "runtime.py", line 249, in run
    step()

  File "failpoints.py", line 156, in hit
    raise FailpointHit("...")
kvlog.errors.FailpointHit: failpoint before_apply: an exception was asked for (hit 1)

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "runtime.py", line 251, in run
kvlog.errors.InvariantViolation: broken
a bug in kvlog: FailpointHit('failpoint before_apply: an exception was asked for (hit 1)')
12:00:02 n1 is ready on 127.0.0.1:5000
"""


def test_a_log_with_nothing_but_what_was_meant_is_right():
    """Words that sound bad are no report."""
    said = MEANT + "12:00:03 lost the connection to ZooKeeper: Exception while reading; trying again\n"

    assert logfiles.check({"n1": said, "n2": ""}, exits={"n1": [-9, 70, 0], "n2": [0, 5]}) == []


@pytest.mark.parametrize(
    "said",
    [
        'Traceback (most recent call last):\n  File "x.py", line 1\nKeyError: 1\n',
        MEANT + 'E Traceback (most recent call last):\n  File "x.py", line 1\nKeyError: 1\n' + MEANT,
        "Exception in thread kvlog-apply:\n",
        "a bug in kvlog: KeyError(1)\n",
        "Task exception was never retrieved\n",
        "Fatal Python error: Segmentation fault\n",
        "thread '<unnamed>' panicked at src/lib.rs\n",
    ],
)
def test_a_report_that_nobody_meant_is_found(said: str):
    (violation,) = logfiles.check({"n1": MEANT, "n2": said})

    assert violation.invariant == "I15"
    assert violation.what.startswith("n2 ")
    assert "asked for" not in violation.what


def test_an_end_by_a_bug_is_found_also_if_nothing_was_written():
    """One was meant, so the second was not."""
    violations = logfiles.check({"n1": MEANT, "n2": ""}, exits={"n1": [70, 70], "n2": [6]})

    assert [each.what[:2] for each in violations] == ["n1", "n2"]


# --- liveness -------------------------------------------------------------------------------------------------

AFTER = [
    write("k", "a", (0, 2_000)),  # asked for before faults were healed
    write("k", "b", (1_000, 1_500), outcome=Outcome.UNKNOWN),
    write("k", "c", (1_100, 4_000)),
    cas("k", "x", "d", (1_200, 3_000), outcome=Outcome.FAILED),
    read("k", None, (1_000, 1_100), node="n2"),
    write("k", "e", (1_300, 2_500), node="n2"),
]


def test_the_first_write_on_each_node_counts_from_the_end_of_faults():
    told = evidence(*AFTER)

    assert liveness.first_writes(told, ["n1", "n2", "n3"], 1_000 * MS) == {"n1": 2.0, "n2": 1.5, "n3": None}
    assert liveness.check(told, ["n1", "n2"], 1_000 * MS, within_s=2) == []
    (late,) = liveness.check(told, ["n1", "n2"], 1_000 * MS, within_s=1.9)
    (never,) = liveness.check(told, ["n3"], 1_000 * MS, within_s=99)
    assert ("n1" in late.what, "never" in never.what) == (True, True)
    assert invariants([late, never]) == {"I14"}


def test_what_is_left_of_faults_is_found():
    """A little more or less is what a healthy node takes from time to time."""
    before = Resources({"n1": 20, "n2": 20}, {"n1": 50, "n2": 50}, sessions=3, znodes=12)
    healthy = Resources({"n1": 24, "n2": 11}, {"n1": 62, "n2": 30}, sessions=3, znodes=16)
    leaking = Resources({"n1": 25}, {"n1": 63, "n2": 50}, sessions=4, znodes=17)

    assert liveness.check_resources(before, healthy) == []
    violations = liveness.check_resources(before, leaking)
    assert invariants(violations) == {"I14"}
    assert [each.what.partition(" were")[0] for each in violations] == [
        "n1: threads", "n2: threads", "n1: descriptors", "sessions", "znodes",
    ]  # fmt: skip
