"""The port Election, over each of its implementations."""

import pytest

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.values import Checkpoint, Holding, Member, Replica

from .conftest import World


def test_a_node_that_joins_is_a_member(world: World):
    """With its address, instance and mode, for everybody, in order of the ids."""
    second, first = world.node("n2"), world.node("n1")
    second.joined("stale")

    assert first.session_id == first.joined().session_id
    assert (first.me, Member("n2", second.me.instance, "n2:80", "stale")) == first.members() == second.members()


def test_joining_again_changes_the_mode(world: World):
    """A node whose store was healed tells so with its next Join, in the same session."""
    node = world.node("n1")
    before, after = node.joined("stale"), node.joined("catchup")

    assert before == after
    assert (node.me,) == node.members()


def test_an_id_that_is_taken_blocks(world: World):
    """Another session has it: who joins later is told who that is, and changes nothing (S4)."""
    first, second = world.node("n1"), world.node("n1")
    first.joined()
    second.election.join(do.Join("catchup"))

    assert first.me == second.events.wait(ev.JoinBlocked).holder
    assert (first.me,) == second.members()


def test_a_removed_members_id_is_free(world: World):
    """Whoever knows that the holder is dead removes it and takes its place (S3)."""
    first, second = world.node("n1"), world.node("n1")
    first.joined()
    second.catch_up()
    second.election.remove_member(do.RemoveMember(first.me))
    second.events.wait(ev.MembersChanged)

    assert second.session_id == second.joined().session_id
    assert (second.me,) == second.members()


def test_only_the_known_holder_is_removed(world: World):
    """A member that has changed meanwhile stays: the one that was known to be dead is gone already (S3)."""
    first, second = world.node("n1"), world.node("n2")
    first.joined()
    second.catch_up()
    second.election.remove_member(do.RemoveMember(Member("n1", "dead", "n1:80", "catchup")))
    second.events.wait(ev.MembersChanged)

    assert (first.me,) == second.members()


def test_removing_who_is_gone_is_no_failure(world: World):
    """It has gone by itself."""
    node = world.node("n1")
    node.election.remove_member(do.RemoveMember(Member("n9", "dead", "n9:80", "catchup")))
    node.events.wait(ev.MembersChanged)

    assert node.members() == ()


def test_a_change_of_members_is_told_to_who_has_listed_them(world: World):
    """Once for each listing."""
    first, second = world.node("n1"), world.node("n2")
    first.members()
    second.joined()

    first.events.wait(ev.MembersChanged)


def test_candidates_come_in_order_with_their_epochs(world: World):
    """The order of their enrolment; the epoch that each was told itself; later ones are higher."""
    nodes = [world.node(name) for name in ("n3", "n1", "n2")]
    told = [node.enrolled() for node in nodes]
    listed = nodes[0].candidates()

    assert [found.node_id for found in listed] == ["n3", "n1", "n2"]
    assert [(found.name, found.epoch) for found in told] == [(found.name, found.epoch) for found in listed]
    assert [(node.me.instance, node.me.address) for node in nodes] == [
        (found.instance, found.address) for found in listed
    ]
    assert sorted({found.epoch for found in listed}) == [found.epoch for found in listed]


def test_enrolling_twice_in_a_session_is_one_candidacy(world: World):
    """The reply to the first may have been lost: it is found again."""
    node = world.node("n1")

    assert node.enrolled() == node.enrolled()
    assert len(node.candidates()) == 1


def test_enrolling_after_a_removal_is_a_new_candidacy(world: World):
    """Behind all others, with a higher epoch (S2)."""
    node, other = world.node("n1"), world.node("n2")
    before = node.enrolled()
    other.enrolled()
    node.election.remove_candidate(do.RemoveCandidate(before.name))
    node.events.wait(ev.CandidatesChanged)
    after = node.enrolled()

    assert after.epoch > before.epoch
    assert [found.node_id for found in node.candidates()] == ["n2", "n1"]


@pytest.mark.parametrize("who", ["itself", "another"])
def test_a_watch_fires_when_its_candidate_is_removed(world: World, who: str):
    """Whoever removed it."""
    watcher, watched = world.node("n2"), world.node("n1")
    name = watched.enrolled().name
    watcher.catch_up()
    watcher.election.watch_candidate(do.WatchCandidate(name))
    watcher.candidates()  # the watch is set before this is answered
    assert watcher.events.count(ev.CandidatesChanged) == 0
    (watched if who == "itself" else watcher).election.remove_candidate(do.RemoveCandidate(name))

    assert watcher.events.wait(ev.CandidatesChanged).name == name


def test_a_watch_fires_when_its_candidates_session_ends(world: World):
    """A process that has died is noticed by the one behind it."""
    watcher, watched = world.node("n2"), world.node("n1")
    name = watched.enrolled().name
    watcher.catch_up()
    watcher.election.watch_candidate(do.WatchCandidate(name))
    watcher.candidates()
    watched.expire()

    assert watcher.events.wait(ev.CandidatesChanged).name == name
    assert watcher.candidates() == ()


def test_a_watch_on_who_has_gone_fires_at_once(world: World):
    """It may have gone between the list and the watch."""
    node = world.node("n1")
    node.election.watch_candidate(do.WatchCandidate("n9_abc_0000000009"))

    assert node.events.wait(ev.CandidatesChanged).name == "n9_abc_0000000009"


def test_removing_a_candidate_that_has_gone_is_no_failure(world: World):
    """It has gone by itself."""
    node = world.node("n1")
    node.election.remove_candidate(do.RemoveCandidate("n9_abc_0000000009"))

    assert node.events.wait(ev.CandidatesChanged).name == "n9_abc_0000000009"


def test_a_session_that_ends_takes_everything_of_its_node_along(world: World):
    """Candidacy and membership; then the node has a new session, and starts from nothing."""
    node, other = world.node("n1"), world.node("n2")
    before = node.session_id
    node.joined()
    fence = node.enrolled().name
    node.expire()
    node.events.wait(ev.SessionLost)
    connected = node.events.wait(ev.SessionConnected, lambda event: event.session_id != before)

    assert (other.members(), other.candidates()) == ((), ())
    assert isinstance(node.append(0, b"x", fence), ev.AppendFenced)
    assert connected.session_id == node.joined().session_id == node.enrolled().session_id


# --- replicas -------------------------------------------------------------------------------------------------


def test_a_mark_is_there_for_good(world: World):
    """For everybody, in order of the ids; a later one takes its place, and it outlives its node's session."""
    first, second = world.node("n1"), world.node("n2")
    second.publish(Replica("n2", "n2:80", 7, Holding.STALE))
    first.publish(Replica("n1", "n1:80", -1, Holding.INSTALLING))
    first.publish(Replica("n1", "n1:81", 12, Holding.WHOLE))
    second.joined()
    second.expire()
    second.events.wait(ev.SessionLost)

    expected = (Replica("n1", "n1:81", 12, Holding.WHOLE, version=1), Replica("n2", "n2:80", 7, Holding.STALE))
    assert expected == first.replicas()
    assert first.members() == ()


def test_a_mark_tells_what_its_store_held_behind_some_entries(world: World):
    """For the others to compare with (A1)."""
    node = world.node("n1")
    checkpoints = (Checkpoint(255, "a" * 32, "1.b"), Checkpoint(300, "c" * 32, "1.d"))
    node.publish(Replica("n1", "n1:80", 300, Holding.WHOLE, checkpoints=checkpoints))

    [found] = world.node("n2").replicas()
    assert found.checkpoints == checkpoints


def test_nobody_is_counted_on_at_first(world: World):
    """A new cluster has no replicas, however many members."""
    node = world.node("n1")
    node.joined()

    assert node.replicas() == ()


def test_a_replica_that_was_removed_is_gone_until_it_comes_back(world: World):
    """Removing it again, or one that never was, is no failure."""
    node, other = world.node("n1"), world.node("n2")
    mark = Replica("n1", "n1:80", 5, Holding.WHOLE)
    node.publish(mark)
    other.catch_up()
    for node_id in ("n1", "n1", "n9"):
        other.remove_replica(node_id)
    assert node.replicas() == ()
    node.publish(mark)

    assert other.replicas() == (mark,)
