"""The checkers of watches, of requests under ids, and of answers for good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kvlog.core.entry import Delete, Put, Request
from tests.faults.checkers import once, outcomes, watches
from tests.faults.checkers.by_hand import MS, Story, cas, evidence, invariants, read, read_all, write
from tests.faults.operations import Delivery, Ended, Operation, Outcome

# --- watches --------------------------------------------------------------------------------------------------


def watched() -> Story:
    """One watcher that has gone to another node, one that began late, and one that was told nothing."""
    story = Story()
    story.chain.put("a/1", "x")
    story.chain.put("b/1", "x")
    story.chain.effects(Put("a/1", "y", 1, 2), Put("a/2", "y", 3, 1), Put("b/1", "y", 2, 2))
    # Of several effects on a key only the last is seen; a deletion of nothing is none.
    story.chain.effects(Put("a/3", "z", 4, 1), Put("a/1", "z", 1, 3), Delete("a/3"))
    story.chain.effects(Put("\0lease/1", "z", 5, 1), Delete("a/2"))
    story.log[:] = story.chain.entries
    tell(story, 1, "n1", (1, "a/1", "x"), (3, "a/1", "y"), (3, "a/2", "y"))
    tell(story, 1, "n2", (4, "a/1", "z"), (5, "a/2", None))
    tell(story, 2, "n2", (4, "a/1", "z"))
    story.watchers += [
        Ended(1, "a/", after=0, through=3),
        Ended(2, "", after=3, through=4),
        Ended(3, "c", after=0, through=5),
    ]
    return story


def tell(story: Story, watcher: int, node: str, *changes: tuple[int, str, str | None]) -> None:
    for place, (revision, key, value) in enumerate(changes):
        within = sum(earlier[0] == revision for earlier in changes[:place])
        story.deliveries.append(Delivery(watcher, revision, key, value, node, 0, within))


def drop(place: int) -> Callable[[Story], None]:
    return lambda story: story.deliveries.__delitem__(place)


def swap(one: int, other: int) -> Callable[[Story], None]:
    def change(story: Story) -> None:
        told = story.deliveries
        told[one], told[other] = told[other], told[one]

    return change


def other(place: int, **fields: object) -> Callable[[Story], None]:
    return lambda story: story.deliveries.__setitem__(place, replace(story.deliveries[place], **fields))


def account(place: int, **fields: object) -> Callable[[Story], None]:
    return lambda story: story.watchers.__setitem__(place, replace(story.watchers[place], **fields))


def test_a_watcher_that_was_told_all_at_two_nodes_is_right():
    """Beyond what it was told all of, it may have been told more, without a hole."""
    assert watches.check(watched().evidence) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop(0), "not told of (1, 'a/1', 'x')"),
        (drop(1), "not told of (3, 'a/1', 'y')"),
        (drop(3), "revision 3 by n1, revision 5 by n2"),  # a hole where it has resumed
        (swap(0, 1), "out of order"),
        (swap(1, 2), "belong together"),
        (lambda story: tell(story, 1, "n2", (5, "a/2", None)), "second time"),
        (lambda story: tell(story, 1, "n2", (9, "a/9", "?")), "not in the log"),
        (lambda story: tell(story, 2, "n2", (3, "a/1", "y")), "not in the log"),  # before it began
        (lambda story: tell(story, 9, "n2", (3, "a/1", "y")), "no account"),
        (other(3, value="other"), "not in the log"),
        (other(0, key="b/1"), "not in the log"),
        (other(2, node="n2"), "two nodes"),
        (account(1, through=5), "not told of (5, 'a/2', None)"),
        (account(2, through=6), "log ends at 5"),
        (account(1, prefix="b/"), "not in the log"),
        (account(0, after=1), "not in the log"),
    ],
)
def test_a_watcher_that_was_told_otherwise_is_found(change: Callable[[Story], None], said: str):
    story = watched()
    change(story)

    violations = watches.check(story.evidence)

    assert invariants(violations) == {"I13"}
    assert any(said in each.what for each in violations), violations


# --- ids ------------------------------------------------------------------------------------------------------


def retried() -> Story:
    """Requests that were sent again and again, under their ids."""
    story = Story()
    first = story.does(write("k", "a", (0, 1), request_id="a"))
    story.says(replace(first, number=90, node="n2", index=-1))
    story.says(write("k", "a", (0, 9), request_id="a", outcome=Outcome.UNKNOWN))
    story.says(write("k", "b", (2, 3), request_id="b", outcome=Outcome.REFUSED))
    story.does(write("k", "b", (4, 5), request_id="b"))
    story.says(write("k", "c", (6, 7), request_id="c", outcome=Outcome.UNKNOWN))
    story.logs(Request(id="c", cancels=True))
    story.does(cas("k", "x", "d", (8, 9), request_id="d", outcome=Outcome.FAILED))
    story.does(write("k", "e", (10, 11)))  # without an id, each is another one
    story.does(write("k", "f", (12, 13)))
    story.logs(Request(id="~n1-1"))
    return story


def test_retries_with_one_result_are_right():
    assert once.check(retried().evidence) == []


def again(story: Story, request_id: str, **fields: object) -> None:
    """The same answer once more, but for these fields."""
    told = next(each for each in reversed(story.operations) if each.request_id == request_id)
    story.says(replace(told, **{"number": 91, **fields}))


def log_again(story: Story, **fields: object) -> None:
    """The log has one more request like its last one, but for these fields."""
    story.logs(Request())
    story.tamper(-1, requests=(Request(**{"id": "~n1-1", **fields}),))


@pytest.mark.parametrize(
    "change",
    [
        lambda story: again(story, "b", revision=5),
        lambda story: again(story, "b", index=5),
        lambda story: again(story, "b", outcome=Outcome.FAILED),
        lambda story: again(story, "d", outcome=Outcome.OK),
        lambda story: again(story, "c", outcome=Outcome.OK),
        log_again,
        lambda story: log_again(story, id="b", cancels=True),
        lambda story: log_again(story, id="c"),
    ],
)
def test_an_id_with_two_results_is_found(change: Callable[[Story], None]):
    story = retried()
    change(story)

    assert invariants(once.check(story.evidence)) == {"I3"}


# --- answers for good -----------------------------------------------------------------------------------------

ANSWERED = [
    write("k", "a", (0, 1), outcome=Outcome.REFUSED),
    write("k", "b", (2, 3), outcome=Outcome.REFUSED, request_id="b"),
    write("k", "b", (4, 5), outcome=Outcome.UNKNOWN, request_id="b"),
    write("other", "a", (6, 7)),
    read("k", "b", (8, 9)),
    read("other", "a", (10, 11)),
    read("k", None, (12, 13)),
    write("k", "c", (14, None), outcome=Outcome.UNKNOWN),
    cas("k", "x", "d", (16, 17), outcome=Outcome.FAILED),
]


def test_the_refused_that_nobody_sees_is_right():
    """The same value may be another key's, or have been sent once more."""
    assert outcomes.check(evidence(*ANSWERED), limit_s=0.005) == []


@pytest.mark.parametrize(
    "shown",
    [
        read("k", "a", (20, 21)),
        read("k", "a", (20, 21), mode="local"),
        read("k", "d", (20, 21)),
        read_all({"k": "a"}, (20, 21)),
    ],
)
def test_the_refused_that_a_read_shows_is_found(shown: Operation):
    assert invariants(outcomes.check(evidence(*ANSWERED, shown))) == {"I2"}


def test_the_refused_that_a_watcher_is_told_of_is_found():
    told = replace(
        evidence(*ANSWERED), deliveries=(Delivery(1, 2, "k", "a", "n1", 0), Delivery(1, 3, "k", None, "n1", 0))
    )

    assert invariants(outcomes.check(told)) == {"I2"}


def test_what_is_answered_too_late_is_found():
    """The time in which the node stood still does not count, and who was never answered has no time."""
    late = read("k", None, (100, 200), outcome=Outcome.UNKNOWN, error="nobody there")
    pauses = {"n1": [(90 * MS, 120 * MS), (130 * MS, 150 * MS)], "n2": [(0, 1_000 * MS)]}

    assert outcomes.check(evidence(late)) == []
    assert invariants(outcomes.check(evidence(late), limit_s=0.099)) == {"I14"}
    assert outcomes.check(evidence(late), limit_s=0.060, paused=pauses) == []
    (violation,) = outcomes.check(evidence(late), limit_s=0.059, paused=pauses)
    assert "60 ms" in violation.what
    assert "nobody there" in violation.what
    never = replace(late, returned_ns=None)
    assert outcomes.check(evidence(never), limit_s=1) == []
    assert invariants(outcomes.check(evidence(replace(never, outcome=Outcome.OK)), limit_s=1)) == {"I14"}
