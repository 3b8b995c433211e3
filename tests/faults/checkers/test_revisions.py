"""The checker that holds every answer against the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kvlog.core.entry import Put, Request
from tests.faults.checkers import revisions
from tests.faults.checkers.by_hand import Story, cas, delete, invariants, read, read_all, transfer, write
from tests.faults.operations import Outcome


def told() -> Story:
    """Clients of all kinds, under faults: everything in it looks odd, and nothing in it is wrong."""
    story = Story()
    story.does(write("register/1", "1-1", (0, 10), request_id="a"))
    # Concurrent with that, and answered first: the revision is higher all the same.
    story.does(write("register/1", "2-1", (0, 1), process=2, node="n2"))
    # Unknown, and done much later; unknown, and never done; refused.
    story.says(write("register/1", "3-9", (2, 3), process=3, outcome=Outcome.UNKNOWN))
    story.says(write("register/1", "3-8", (2, None), process=3, outcome=Outcome.REFUSED))
    story.shows(read("register/1", "2-1", (11, 12)))
    story.does(write("register/1", "4-1", (4, 5), process=4, outcome=Outcome.UNKNOWN))
    # A read that began before, of the state before: it may be.
    story.says(read("register/1", "2-1", (4, 20), process=5, revision=story.revision - 1, index=2))
    # An id that was sent again long after it was answered: it has the revision of the first time.
    first = story.does(write("register/2", "1-2", (21, 22), request_id="b"))
    story.does(cas("register/2", "1-2", "1-3", (23, 24)))
    story.says(replace(first, number=1_000, invoked_ns=first.invoked_ns + 10_000_000, returned_ns=None, tries=2))
    # Refused at first; the same id was done later.
    story.says(write("register/3", "1-4", (25, 26), request_id="c", outcome=Outcome.REFUSED))
    story.does(write("register/3", "1-4", (27, 28), request_id="c"))
    # Cancelled: refused for good.
    story.says(write("register/3", "1-5", (29, 30), request_id="d", outcome=Outcome.REFUSED))
    story.logs(Request(id="d", cancels=True))
    story.does(cas("register/3", "other", "1-6", (31, 32), outcome=Outcome.FAILED))
    story.chain.barrier(epoch=77)
    story.log[:] = story.chain.entries
    story.does(delete("register/3", (33, 34)))
    story.does(delete("register/3", (35, 36)))  # once more: there is nothing left to delete, which is no failure
    # A local read of the past, at another node, after a newer one was shown by the first.
    story.shows(read("register/3", None, (37, 38)))
    story.says(read("register/3", "1-4", (39, 40), node="n2", mode="local", revision=story.revision - 2))
    # Back, behind a lost store.
    story.says(read("register/3", None, (41, 42), node="n2", mode="local", revision=1, life=1))
    story.does(write("bank/1", "5", (43, 44), workload="bank"))
    story.does(transfer({"bank/1": ("5", "3"), "bank/2": (None, "2")}, (45, 46), request_id="e"))
    story.shows(read_all({"bank/1": "3", "bank/2": "2"}, (47, 48), workload="bank"))
    story.shows(read_all({"register/1": "4-1", "register/2": "1-3"}, (49, 50), mode="local"))
    # Two want the same value; which of them the log has, without an id, only the revision tells.
    story.says(cas("counter", None, "1", (51, 52), workload="counter", outcome=Outcome.REFUSED))
    story.does(cas("counter", None, "1", (51, 53), workload="counter", process=2))
    # Other clients write as well, to keys of their own.
    story.logs(Request(effects=(Put("other", "x", story.revision + 1, 1),)))
    return story


def test_a_run_full_of_oddities_is_no_violation():
    assert revisions.check(told().evidence) == []


def test_a_log_that_does_not_begin_at_its_first_entry_is_looked_at_from_there():
    """What was answered of entries before it cannot be compared; versions go on from what is not known."""
    story = told()
    del story.log[:3]
    del story.operations[4]  # a read of what is not in there
    assert story.log[0].index == 3

    assert [each for each in revisions.check(story.evidence) if each.invariant not in ("I5", "I10")] == []


def lost(story: Story) -> None:
    """What stood there was another write's."""
    index = next(place for place, item in enumerate(story.log) if "1-4" in str(item.entry.requests))
    request = Request(effects=(Put("other", "y", 1, 1),))
    story.tamper(index, requests=(request,))


def at(story: Story, value: str) -> int:
    """The place of the operation that proposes a value."""
    return next(place for place, each in enumerate(story.operations) if value in str(each.argument))


def say(value: str, **fields: object) -> Callable[[Story], None]:
    """The operation that proposes ``value`` was answered otherwise."""
    return lambda story: story.alter(at(story, value), **fields)


def read_again(**fields: object) -> Callable[[Story], None]:
    """One more read, later than all, of the latest state but for ``fields``."""

    def change(story: Story) -> None:
        latest = read("register/2", "1-3", (90, 91), process=9, node="n9")
        story.says(replace(latest, **{"revision": story.revision, **fields}))

    return change


def done(operation_outcome: Outcome, **fields: object) -> Callable[[Story], None]:
    """A write of this outcome is in the log."""

    def change(story: Story) -> None:
        story.does(write("register/7", "9-1", (90, 91), outcome=operation_outcome, **fields))

    return change


def twice(story: Story) -> None:
    """What is unknown was done twice."""
    story.does(write("register/7", "9-1", (90, 91), outcome=Outcome.UNKNOWN))
    story.logs(Request(effects=(Put("register/7", "9-1", story.revision, 2),)))


def cas_of(outcome: Outcome, before: str) -> Callable[[Story], None]:
    return lambda story: void(story.does(cas("register/2", before, "9-2", (90, 91), outcome=outcome)))


def failed_and_answered_otherwise(story: Story) -> None:
    story.does(cas("register/2", "other", "9-2", (90, 91), outcome=Outcome.FAILED))
    story.alter(-1, outcome=Outcome.OK)


def failed_and_done(story: Story) -> None:
    story.does(write("register/7", "9-1", (90, 91)))
    story.alter(-1, outcome=Outcome.FAILED)


def half_a_transfer(story: Story) -> None:
    """Of two accounts, one was changed."""
    story.does(transfer({"bank/1": ("3", "1"), "bank/2": ("2", "4")}, (90, 91)))
    effects = story.log[-1].entry.requests[0].effects
    story.tamper(-1, requests=(Request(effects=effects[:1]),))


def wrong_version(story: Story) -> None:
    story.logs(Request(effects=(Put("register/2", "1-3", 1, 9),)))


def older_at_one_node(story: Story) -> None:
    one = {"process": 9, "node": "n9", "mode": "local"}
    story.says(read("register/2", "1-3", (90, 91), revision=story.revision, **one))
    story.says(read("register/2", "1-3", (92, 93), revision=story.revision - 1, **one))


def void(_: object) -> None:
    """Nothing is answered."""


def also_logs(*effects: Put) -> Callable[[Story], None]:
    return lambda story: story.logs(Request(effects=effects))


CHANGES: dict[str, tuple[Callable[[Story], None], set[str]]] = {
    "concurrent with all": (done(Outcome.OK, invoked_ns=0), set()),
    "unknown, and done late": (done(Outcome.UNKNOWN), set()),
    "lost": (lost, {"I1", "I5", "I10"}),
    "at another index": (say("1-3", index=1), {"I1"}),
    "at no revision": (say("1-3", revision=1_000), {"I1", "I4", "I5"}),
    "at another revision": (say("1-3", revision=13), {"I1", "I4", "I5"}),
    "another value": (say("1-5", outcome=Outcome.OK, revision=6), {"I1", "I4"}),
    "never done": (say("3-9", outcome=Outcome.OK, revision=2), {"I1", "I4"}),
    "never done under its id": (say("3-8", outcome=Outcome.OK, revision=2, request_id="nowhere"), {"I1", "I4"}),
    "never done, and no revision answered": (say("3-9", outcome=Outcome.OK), {"I1"}),
    "half a transfer": (half_a_transfer, {"I1"}),
    "refused, and done": (done(Outcome.REFUSED), {"I2"}),
    "refused, and done under its id": (done(Outcome.REFUSED, request_id="refused"), {"I2"}),
    "failed, and done": (failed_and_done, {"I10"}),
    "asked for by nobody": (also_logs(Put("register/2", "?", 4, 3)), {"I2"}),
    "done twice": (twice, {"I3"}),
    "in the future": (lambda story: void(story.does(write("register/7", "9-1", (-9, -8)))), {"I4", "I5"}),
    "before it was asked for": (lambda story: story.alter(at(story, "4-1"), invoked_ns=95_000_000), {"I4"}),
    "a stale read": (read_again(revision=8), {"I5"}),
    "another value read": (read_again(result="1-2"), {"I5"}),
    "read behind the end": (read_again(revision=1_000), {"I5"}),
    "read at another entry": (read_again(index=3), {"I5"}),
    "older than asked for": (read_again(revision=12, mode="local", min_revision=13), {"I6"}),
    "older than before": (older_at_one_node, {"I6"}),
    "swapped against the condition": (cas_of(Outcome.OK, "other"), {"I10"}),
    "swapped against the condition, unknown": (cas_of(Outcome.UNKNOWN, "other"), {"I10"}),
    "not swapped against the condition": (cas_of(Outcome.FAILED, "1-3"), {"I10"}),
    "not swapped, and answered otherwise": (failed_and_answered_otherwise, {"I1", "I10"}),
    "a version left out": (also_logs(Put("register/2", "1-3", 1, 9)), {"I1", "I3", "I10"}),
    "an epoch without a barrier": (lambda story: story.tamper(-1, epoch=99), {"I11"}),
    "an older epoch": (lambda story: story.tamper(-1, epoch=3), {"I11"}),
    "no chain": (lambda story: story.tamper(-1, prev_hash="other"), {"I11"}),
    "revisions left out": (lambda story: story.tamper(-1, first_revision=99), {"I10", "I11"}),
    "a revision used again": (
        lambda story: story.tamper(-1, first_revision=story.revision - 1),
        {"I1", "I10", "I11"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_must_not_be_is_found(name: str):
    """Each of them is the run above but for one thing. The first ones are still right."""
    change, broken = CHANGES[name]
    story = told()

    change(story)

    assert invariants(revisions.check(story.evidence)) == broken


def test_a_hole_in_the_log_is_found():
    """Also everything that was in it."""
    story = told()
    story.log.pop(2)

    assert invariants(revisions.check(story.evidence)) == {"I1", "I5", "I10", "I11"}


def test_a_skip_may_leave_revisions_out_and_what_they_held_is_lost():
    story = Story()
    story.does(write("register/1", "1-1", (0, 1)))
    story.does(write("register/1", "1-2", (2, 3)))
    before = story.log[1]
    story.tamper(2, requests=(), skip=None)
    story.log.pop()
    story.chain = type(story.chain)()
    story.log[:] = [story.chain.barrier(), story.chain.add(before.data), story.chain.skip(left_out=1)]

    assert invariants(revisions.check(story.evidence)) == {"I1"}


def test_behind_a_skip_an_epoch_may_have_begun():
    """What was skipped may have been its barrier."""
    story = Story()
    story.chain.skip()
    story.chain.epoch = 99
    story.chain.put("register/1", "1-1")
    story.log[:] = story.chain.entries

    assert revisions.check(story.evidence) == []


def test_versions_go_on_from_what_was_before_the_first_entry():
    """It is not known there; from then on, it is."""
    story = Story()
    for number in range(4):
        story.does(write("register/1", f"1-{number}", (2 * number, 2 * number + 1)))
    del story.log[:3], story.operations[:2]

    assert revisions.check(story.evidence) == []
    story.logs(Request(effects=(Put("register/1", "1-3", 1, 4),)))
    assert invariants(revisions.check(story.evidence)) == {"I1", "I3", "I10"}
