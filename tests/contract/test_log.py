"""The port Log, over each of its implementations."""

import pytest

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import SEGMENT_ENTRIES
from kvlog.core.values import Holding, Replica
from kvlog.processes import wait_until

from .conftest import WAIT_S, World, WorldNode, bytes_of


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
    """At once what is there, then what comes next; with that it has ended, and can be set again."""
    leader, other = world.node("n1"), world.node("n2")
    fence = leader.enrolled().name
    leader.fill(2, fence)
    other.log.watch_segment(do.WatchSegment(0))
    assert other.events.wait(ev.SegmentChanged) == ev.SegmentChanged(1)
    for index in range(2, 5):
        leader.append(index, b"x", fence)

        assert other.events.wait(ev.SegmentChanged) == ev.SegmentChanged(index, watching=False)
        other.log.watch_segment(do.WatchSegment(0))
        assert other.events.wait(ev.SegmentChanged) == ev.SegmentChanged(index)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_tail_is_confirmed_in_the_segment_where_it_is_expected(world: World, extra: int):
    """That of the next entry: as long as there is none behind it; elsewhere nothing is confirmed."""
    node = world.node("n1")
    count = SEGMENT_ENTRIES + extra
    node.fill(count, node.enrolled().name)
    segment = count // SEGMENT_ENTRIES
    node.log.confirm_tail(do.ConfirmTail(segment))
    found = node.events.wait(ev.TailConfirmed)
    assert found.tail_index == count - 1
    for other in (segment - 1, segment + 1):
        node.log.confirm_tail(do.ConfirmTail(other))
        assert node.events.wait(ev.Failed) == ev.Failed(do.ConfirmTail(other))


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


# --- trimming -------------------------------------------------------------------------------------------------

SECOND = 2 * SEGMENT_ENTRIES
"""Where the third segment begins."""


def remove(node: WorldNode, candidate: str) -> None:
    node.election.remove_candidate(do.RemoveCandidate(candidate))
    node.events.wait(ev.CandidatesChanged)


def test_a_trim_drops_a_segment_at_a_time_and_nothing_else(world: World):
    """It notes where the log begins, with the bytes before; the tail and what is behind stay as they were."""
    leader, other = world.node("n1"), world.node("n2")
    fence = leader.enrolled().name
    leader.fill(SECOND + 3, fence)

    assert leader.trim(SECOND, fence) == ev.Trimmed(SECOND, bytes_of(SECOND), done=False)
    assert other.tail_read().first_index == SECOND
    assert other.read(SEGMENT_ENTRIES, 1) == (b"%d" % SEGMENT_ENTRIES,)  # still there, though not of the log
    assert leader.trim(SECOND, fence) == ev.Trimmed(SECOND, bytes_of(SECOND), done=True)
    found = other.tail_read()
    assert (SECOND + 2, SECOND, bytes_of(SECOND)) == (found.tail_index, found.first_index, found.first_bytes)
    assert [other.read(index, 2) for index in (0, SEGMENT_ENTRIES - 1, SEGMENT_ENTRIES, SECOND - 1)] == [()] * 4
    assert other.read(SECOND, 9) == tuple(b"%d" % index for index in range(SECOND, SECOND + 3))
    leader.fill(SECOND + 4, fence)
    assert other.tail() == SECOND + 3


def test_a_trim_again_changes_nothing(world: World):
    """Nor does one to an earlier index: the log never grows back."""
    leader = world.node("n1")
    fence = leader.enrolled().name
    leader.fill(SECOND + 1, fence)
    for _ in range(2):
        leader.trim(SECOND, fence)
    before = leader.tail_read()

    for first_index in (SECOND, SEGMENT_ENTRIES, 0):
        assert leader.trim(first_index, fence) == ev.Trimmed(SECOND, bytes_of(SECOND), done=True)
    after = leader.tail_read()
    assert (before.tail_index, before.first_index) == (after.tail_index, after.first_index)
    assert leader.read(SECOND, 1) == (b"%d" % SECOND,)


def test_a_former_leader_trims_nothing(world: World):
    """Its candidate is gone: it notes nothing, and deletes nothing of what was noted before."""
    old, new = world.node("n1"), world.node("n2")
    fence = old.enrolled().name
    old.fill(SECOND + 1, fence)
    lost = fence
    remove(old, lost)
    assert isinstance(old.trim(SECOND, lost), ev.Failed)
    assert (new.tail_read().first_index, new.read(0, 1)) == (0, (b"0",))

    fence = new.enrolled().name
    assert new.trim(SECOND, fence) == ev.Trimmed(SECOND, bytes_of(SECOND), done=False)
    assert isinstance(old.trim(SECOND, lost), ev.Failed)
    assert new.read(SEGMENT_ENTRIES, 1) == (b"%d" % SEGMENT_ENTRIES,)


def test_the_next_leader_ends_a_trim_that_was_half_done(world: World):
    """It finds what was noted, and what is left."""
    old, new = world.node("n1"), world.node("n2")
    fence = old.enrolled().name
    old.fill(SECOND + 1, fence)
    old.trim(SECOND, fence)
    remove(old, fence)
    new.catch_up()

    assert new.trim(SECOND, new.enrolled().name) == ev.Trimmed(SECOND, bytes_of(SECOND), done=True)
    assert new.read(SEGMENT_ENTRIES, 1) == ()


@pytest.mark.parametrize("first_index", [SECOND, 9 * SEGMENT_ENTRIES])
def test_a_trim_to_where_there_is_no_segment_is_refused(world: World, first_index: int):
    """Nothing is noted and nothing deleted."""
    leader = world.node("n1")
    fence = leader.enrolled().name
    leader.fill(SEGMENT_ENTRIES + 1, fence)

    assert isinstance(leader.trim(first_index, fence), ev.Failed)
    assert (leader.tail_read().first_index, leader.read(0, 1)) == (0, (b"0",))


def test_a_log_can_be_trimmed_within_a_segment(world: World):
    """Twice, and then beyond it: the bytes before are right each time, and the tail stays what it was."""
    leader = world.node("n1")
    fence = leader.enrolled().name
    leader.fill(SEGMENT_ENTRIES + 5, fence)
    for first in (50, 70):
        assert leader.trim(first, fence) == ev.Trimmed(first, bytes_of(first), done=True)
        assert leader.read(first - 1, 1) == ()
        assert leader.read(first, 1) == (b"%d" % first,)
        assert leader.tail() == SEGMENT_ENTRIES + 4
    first = SEGMENT_ENTRIES + 3

    assert leader.trim(first, fence) == ev.Trimmed(first, bytes_of(first), done=False)
    assert leader.trim(first, fence) == ev.Trimmed(first, bytes_of(first), done=True)
    assert leader.read(first - 1, 1) == ()
    assert leader.read(first, 9) == (b"%d" % first, b"%d" % (first + 1))
    leader.fill(SEGMENT_ENTRIES + 6, fence)
    assert leader.tail() == SEGMENT_ENTRIES + 5


def test_a_trim_is_licensed_by_the_marks_as_they_are(world: World):
    """One that has been published again since, or removed, may say otherwise now: nothing is noted or deleted."""
    leader, other = world.node("n1"), world.node("n2")
    fence = leader.enrolled().name
    leader.fill(SEGMENT_ENTRIES + 1, fence)
    leader.publish(Replica("n1", "n1:80", SEGMENT_ENTRIES, Holding.WHOLE))
    other.publish(Replica("n2", "n2:80", SEGMENT_ENTRIES, Holding.WHOLE))
    before = leader.replicas()
    other.publish(Replica("n2", "n2:80", -1, Holding.WHOLE))
    leader.catch_up()

    assert isinstance(leader.trim(SEGMENT_ENTRIES, fence, before), ev.Failed)
    other.remove_replica("n2")
    leader.catch_up()
    assert isinstance(leader.trim(SEGMENT_ENTRIES, fence, before), ev.Failed)
    assert (leader.tail_read().first_index, leader.read(0, 1)) == (0, (b"0",))
    before, version = leader.replicas(), leader.registry_version
    other.publish(Replica("n3", "n3:80", -1, Holding.WHOLE))
    leader.catch_up()
    assert isinstance(leader.trim(SEGMENT_ENTRIES, fence, before, version), ev.Failed), "n3 counts as well now"
    other.remove_replica("n3")
    trimmed = leader.trim(SEGMENT_ENTRIES, fence, leader.replicas())
    assert trimmed == ev.Trimmed(SEGMENT_ENTRIES, bytes_of(SEGMENT_ENTRIES), done=True)


def test_a_log_can_be_trimmed_to_its_very_end(world: World):
    """Then its last segment is alone and empty, and the tail is what it was."""
    leader, other = world.node("n1"), world.node("n2")
    fence = leader.enrolled().name
    leader.fill(SEGMENT_ENTRIES, fence)

    assert leader.trim(SEGMENT_ENTRIES, fence) == ev.Trimmed(SEGMENT_ENTRIES, bytes_of(SEGMENT_ENTRIES), done=True)
    for confirm in (True, False):
        found = leader.tail_read(confirm=confirm)
        assert (found.tail_index, found.first_index) == (SEGMENT_ENTRIES - 1, SEGMENT_ENTRIES)
    assert other.tail() == SEGMENT_ENTRIES - 1
    leader.fill(SEGMENT_ENTRIES + 1, fence)
    assert other.tail() == SEGMENT_ENTRIES


def test_who_misses_an_entry_is_told_of_the_trim_that_removed_it(world: World):
    """Also by a tail that no quorum has confirmed, if it was asked for after the miss."""
    leader, other = world.node("n1"), world.node("n2")
    fence = leader.enrolled().name
    leader.fill(SEGMENT_ENTRIES + 1, fence)
    leader.trim(SEGMENT_ENTRIES, fence)

    assert wait_until(lambda: other.read(SEGMENT_ENTRIES - 1, 1) == (), WAIT_S)
    assert other.tail_read(confirm=False).first_index == SEGMENT_ENTRIES


# --- skips ----------------------------------------------------------------------------------------------------


def test_a_skip_stands_for_its_entry(world: World):
    """For everybody who has asked for the tail since; the entries around it are read as ever."""
    leader, other = world.node("n1"), world.node("n2")
    leader.fill(5, leader.enrolled().name)
    leader.write_skip(2, b"skip")

    assert leader.read(1, 3) == (b"1", b"skip", b"3")
    found = other.tail_read()
    assert (found.tail_index, found.skips) == (4, (2,))
    assert other.read(1, 3) == (b"1", b"skip", b"3")


def test_the_first_skip_of_an_entry_stays(world: World):
    """Operators of several nodes may all ask for it."""
    node, other = world.node("n1"), world.node("n2")
    node.fill(3, node.enrolled().name)
    node.write_skip(1, b"first")
    other.catch_up()
    other.write_skip(1, b"second")
    node.write_skip(0, b"another")

    assert other.tail_read().skips == (0, 1)
    assert other.read(0, 3) == (b"another", b"first", b"2")


def test_a_skip_stays_when_its_segment_is_trimmed(world: World):
    """By it, a node that has applied what was skipped finds out when it comes back (K4)."""
    leader, other = world.node("n1"), world.node("n2")
    fence = leader.enrolled().name
    leader.fill(SEGMENT_ENTRIES + 2, fence)
    leader.write_skip(SEGMENT_ENTRIES - 1, b"skip")
    leader.write_skip(SEGMENT_ENTRIES, b"skip")
    leader.trim(SEGMENT_ENTRIES, fence)

    expected = (SEGMENT_ENTRIES - 1, SEGMENT_ENTRIES)
    assert leader.tail_read().skips == other.tail_read().skips == expected
    assert leader.read(SEGMENT_ENTRIES - 1, 3) == other.read(SEGMENT_ENTRIES - 1, 3) == ()
    assert other.read(SEGMENT_ENTRIES, 2) == (b"skip", b"%d" % (SEGMENT_ENTRIES + 1))
