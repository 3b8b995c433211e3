"""The port Log, over each of its implementations."""

import pytest

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import SEGMENT_ENTRIES

from .conftest import World


def test_a_new_log_is_empty(world: World):
    """Its tail is before the first entry, and nothing can be read."""
    node = world.node("n1")

    assert node.tail() == -1
    assert node.read(0, 5) == ()


@pytest.mark.parametrize("confirm", [True, False])
def test_a_tail_says_how_it_was_read(world: World, confirm: bool):
    """And that it was asked for at a moment of the node's own clock, before the answer came."""
    node = world.node("n1")
    node.log.read_tail(do.ReadTail(confirm))
    found = node.events.wait(ev.TailRead)

    assert (confirm, -1) == (found.confirmed, found.tail_index)


def test_an_append_lands_at_the_expected_index(world: World):
    """One behind the other, and read back as they were written, by anybody."""
    leader, other = world.node("n1"), world.node("n2")
    fence = leader.enrolled().name

    assert [leader.append(index, b"entry %d" % index, fence).index for index in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
    assert other.tail() == 2
    assert other.read(0, 3) == (b"entry 0", b"entry 1", b"entry 2")


def test_a_read_brings_as_many_as_there_are(world: World):
    """Fewer than asked for at the end, and from anywhere."""
    node = world.node("n1")
    node.fill(5, node.enrolled().name)

    assert node.read(3, 10) == (b"3", b"4")
    assert node.read(1, 2) == (b"1", b"2")
    assert node.read(5, 1) == ()


def test_an_append_without_its_fence_never_lands(world: World):
    """The candidate's znode is gone: ZooKeeper refuses, says so, and nothing is in the log (W3)."""
    old, new = world.node("n1"), world.node("n2")
    fence = old.enrolled().name
    old.fill(2, fence)
    new.election.remove_candidate(do.RemoveCandidate(fence))
    new.events.wait(ev.CandidatesChanged)

    assert isinstance(old.append(2, b"too late", fence), ev.AppendFenced)
    assert new.tail() == 1
    assert new.read(2, 1) == ()


def test_a_refused_append_leaves_no_gap(world: World):
    """The next leader's first entry gets the very next index."""
    old, new = world.node("n1"), world.node("n2")
    fence = old.enrolled().name
    old.fill(2, fence)
    old.election.remove_candidate(do.RemoveCandidate(fence))
    old.events.wait(ev.CandidatesChanged)
    for _ in range(5):
        old.append(2, b"too late", fence)
    appended = new.append(2, b"barrier", new.enrolled().name)

    assert isinstance(appended, ev.Appended)
    assert appended.index == 2
    assert new.tail() == 2


def test_the_log_goes_on_across_a_segments_boundary(world: World):
    """The last entry of a segment brings the next one along; tails and reads do not notice."""
    node, other = world.node("n1"), world.node("n2")
    fence = node.enrolled().name
    node.fill(SEGMENT_ENTRIES - 2, fence)
    for index in range(SEGMENT_ENTRIES - 2, SEGMENT_ENTRIES + 3):
        appended = node.append(index, b"%d" % index, fence)

        assert isinstance(appended, ev.Appended)
        assert index == appended.index == node.tail() == other.tail()
    first = SEGMENT_ENTRIES - 3
    assert tuple(b"%d" % index for index in range(first, first + 6)) == other.read(first, 128)


def test_a_watch_reports_what_is_new_in_its_segment(world: World):
    """At once what is there, then whatever comes."""
    leader, other = world.node("n1"), world.node("n2")
    fence = leader.enrolled().name
    leader.fill(2, fence)
    other.log.watch_segment(do.WatchSegment(0))
    other.events.wait(ev.SegmentChanged, lambda event: event.tail_index == 1)
    for index in range(2, 5):
        leader.append(index, b"x", fence)

        other.events.wait(ev.SegmentChanged, lambda event, index=index: event.tail_index == index)  # type: ignore[misc]


def test_a_watch_ends_with_the_next_one(world: World):
    """None: no segment at all; what comes then is not reported."""
    leader, other = world.node("n1"), world.node("n2")
    fence = leader.enrolled().name
    other.log.watch_segment(do.WatchSegment(0))
    leader.append(0, b"x", fence)
    other.events.wait(ev.SegmentChanged, lambda event: event.tail_index == 0)
    other.log.watch_segment(do.WatchSegment(None))
    leader.append(1, b"x", fence)
    other.catch_up()
    other.log.watch_segment(do.WatchSegment(0))
    other.events.wait(ev.SegmentChanged, lambda event: event.tail_index == 1)
    leader.append(2, b"x", fence)
    other.events.wait(ev.SegmentChanged, lambda event: event.tail_index == 2)

    assert other.events.count(ev.SegmentChanged) == 0  # each was reported once, by the one watch that there is
