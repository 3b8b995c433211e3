"""Where a node stands among the others: when it is a candidate, whom it watches, whom it removes."""

import pytest

from kvlog.core.effects import (
    Effect,
    Enrol,
    Exit,
    Join,
    ListCandidates,
    ListMembers,
    Note,
    Probe,
    RemoveCandidate,
    RemoveMember,
    WatchCandidate,
)
from kvlog.core.entry import Leader
from kvlog.core.events import Enrolled, JoinBlocked, Joined, MembersChanged, MembersListed, Probed
from kvlog.core.standing import PROBE_INTERVAL_S, Questions, Standing
from kvlog.core.values import Candidate, Member, Reach

ME = Member("n1", "i1", "n1:80", "catchup")
HOLD_S = 15.0


def candidate(node_id: str, sequence: int, instance: str = "") -> Candidate:
    instance = instance or f"i{node_id[1:]}"
    name = f"{node_id}_{instance}_{sequence:010d}"
    return Candidate(name, sequence, node_id, instance, f"{node_id}:80", 100 + sequence)


def standing(*, reachable: bool = True, joined: bool = True) -> Standing:
    """A node's standing with session 1."""
    made = Standing(ME, Questions(), hold_timeout_s=HOLD_S)
    made.session_connected(1, 0.0)
    if joined:
        made.joined_as(1)
    if reachable:
        made.probed(Probed("n1:80", Reach.ANSWERS, "i1"))
    return made


def enrolled(*others: Candidate, sequence: int = 5) -> Standing:
    """A candidate, and a list in which it is seen with others."""
    made = standing()
    mine = candidate("n1", sequence)
    made.enrolled(Enrolled(mine.name, mine.epoch, 1))
    made.candidates_listed(tuple(sorted((mine, *others), key=lambda found: found.sequence)))
    return made


def of(kind: type, effects: list[Effect]) -> list[Effect]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


# --- session --------------------------------------------------------------------------------------------------


def test_a_connection_begins_with_joining_looking_around_and_probing_oneself():
    """In this order: nobody is a candidate before its own port answers."""
    made = Standing(ME, Questions(), hold_timeout_s=HOLD_S)

    assert [Join("catchup"), ListCandidates(), ListMembers(), Probe("n1:80")] == made.session_connected(1, 0.0)


def test_nothing_is_asked_twice():
    """A question whose answer is still to come is not asked again."""
    made = Standing(ME, Questions(), hold_timeout_s=HOLD_S)
    made.session_connected(1, 0.0)

    assert made.session_connected(1, 0.1) == []
    assert made.tick(9.0) == []


@pytest.mark.parametrize(("session_id", "kept"), [(1, True), (2, False)])
def test_a_candidacy_lasts_as_long_as_its_session(session_id: int, kept: bool):
    """The same session after a lost connection: still a candidate. Another one: from the beginning (S1)."""
    made = enrolled()
    made.session_suspended()
    made.session_connected(session_id, 1.0)

    assert kept == (made.candidate is not None) == made.joined


def test_a_lost_session_leaves_nothing():
    """Its ephemeral znodes are gone."""
    made = enrolled(candidate("n2", 6))
    made.session_lost()

    assert (made.candidate, made.joined, made.rank) == (None, False, None)


def test_what_was_made_in_an_earlier_session_does_not_count():
    """Late answers of a session that has ended are told by their id (S1)."""
    made = standing(joined=False)
    made.session_connected(2, 1.0)
    made.joined_as(1)
    made.enrolled(Enrolled("n1_i1_0000000005", 105, 1))

    assert (made.joined, made.candidate) == (False, None)


# --- S1: candidacy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "eligible", "made"),
    [
        ("nothing", True, standing()),
        ("a whole, recovered store", False, standing()),
        ("its membership", True, standing(joined=False)),
        ("an answer on its own address", True, standing(reachable=False)),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_only_who_could_lead_stands_for_election(missing: str, eligible: bool, made: Standing):
    """S1."""
    assert ([Enrol()] if missing == "nothing" else []) == made.enrol(eligible=eligible)


def test_no_connection_no_candidacy():
    """S1."""
    made = standing()
    made.session_suspended()

    assert made.enrol(eligible=True) == []


def test_a_candidate_does_not_enrol_again():
    """One znode is enough."""
    assert enrolled().enrol(eligible=True) == []


def test_who_resigns_is_no_candidate_from_that_moment():
    """Whether its znode is gone already or not."""
    made = enrolled(candidate("n2", 6))
    effects = made.resign()

    assert [RemoveCandidate("n1_i1_0000000005")] == effects
    assert (made.candidate, made.rank) == (None, None)
    assert made.resign() == []


def test_a_candidate_that_was_removed_notices():
    """It was in the list and is not any more: somebody took the process for dead (S3)."""
    made = enrolled(candidate("n2", 6))
    made.candidates_listed((candidate("n2", 6),))

    assert made.candidate is None


def test_a_candidate_that_is_removed_before_it_was_seen_is_made_again():
    """The list was read after it was made, for a session's requests are answered in order."""
    made = standing()
    made.enrolled(Enrolled("n1_i1_0000000005", 105, 1))
    made.candidates_listed((candidate("n2", 4),))

    assert made.candidate is None
    assert of(Enrol, made.enrol(eligible=True)) == [Enrol()]


def test_another_candidate_of_the_own_process_is_removed():
    """One whose reply got lost, say: it would stand before the other one, and nobody would lead."""
    made = standing()
    made.enrolled(Enrolled("n1_i1_0000000005", 105, 1))

    effects = made.candidates_listed((candidate("n1", 3), candidate("n1", 5)))

    assert of(RemoveCandidate, effects) == [RemoveCandidate("n1_i1_0000000003")]


def test_an_own_znode_of_an_earlier_session_never_ends_the_node():
    """S4: it blocks joining each time a session is replaced, hours apart, and is removed each time."""
    made = standing(joined=False)

    for moment in (1.0, 1.0 + 100 * HOLD_S):
        effects = made.handle(JoinBlocked(ME), moment)
        assert (of(RemoveMember, effects), of(Exit, effects)) == ([RemoveMember(ME)], [])
        made.handle(MembersChanged(), moment)
        made.handle(Joined(1), moment)


def test_a_live_node_at_the_same_address_ends_this_one_in_the_end():
    """S4: its znode comes back for longer than a dead one's could; the sentence says what to do."""
    made = standing(joined=False)
    other = Member("n1", "i2", "n1:80", "catchup")

    first = made.handle(JoinBlocked(other), 1.0)
    made.handle(MembersChanged(), 1.1)
    last = of(Exit, made.handle(JoinBlocked(other), 1.0 + HOLD_S + 0.1))

    assert of(RemoveMember, first) == [RemoveMember(other)]
    assert [exit_.code for exit_ in last] == [3]
    assert "say --advertise" in last[0].reason


def test_a_member_that_somebody_has_removed_joins_again():
    """A node that is up is a member, whoever else has hands in ZooKeeper."""
    made = standing()
    made.handle(Joined(1), 0.0)

    assert of(Join, made.handle(MembersListed(()), 1.0)) == [Join("catchup")]


def test_a_predecessor_that_stands_again_is_not_removed_again():
    """S3: it is alive after all, and only out of reach from here; now its session decides."""
    made = enrolled(candidate("n2", 3))
    gone = Probed("n2:80", Reach.REFUSED, "")

    first = of(RemoveCandidate, made.probed(gone))
    made.candidates_listed((candidate("n2", 4), candidate("n1", 5)))
    second = of(RemoveCandidate, made.probed(gone))

    assert (first, second) == ([RemoveCandidate("n2_i2_0000000003")], [])


# --- who leads ------------------------------------------------------------------------------------------------


def test_a_leader_is_known_from_its_barrier_or_push():
    """The newest epoch counts, in whichever order they are heard of."""
    made = standing()
    made.candidates_listed((candidate("n3", 4),))
    made.learn_leader(Leader("n3", "n3:80"), 104)
    made.learn_leader(Leader("n2", "n2:80"), 103)

    assert made.leader == (Leader("n3", "n3:80"), 104)


def test_during_an_election_nobody_leads():
    """The lowest candidate is of a later epoch than the last barrier that was seen; or there is no candidate."""
    made = standing()
    made.learn_leader(Leader("n2", "n2:80"), 103)
    assert made.leader is None
    made.candidates_listed((candidate("n3", 4),))

    assert made.leader is None


# --- S2: rank -------------------------------------------------------------------------------------------------


def test_the_lowest_leads():
    """Rank 0, whatever the node's id is (S2)."""
    assert enrolled(candidate("n0", 6), candidate("n9", 7)).rank == 0
    assert enrolled(candidate("n0", 3), candidate("n9", 4)).rank == 2


def test_only_the_predecessor_is_watched():
    """A change wakes one node (no herd)."""
    made = standing()
    mine = candidate("n1", 5)
    made.enrolled(Enrolled(mine.name, mine.epoch, 1))
    listed = (candidate("n2", 3), candidate("n3", 4), mine)

    assert [WatchCandidate("n3_i3_0000000004")] == made.candidates_listed(listed)
    assert made.candidates_listed(listed) == []


def test_who_is_no_candidate_watches_the_leader():
    """So that it knows soon who leads next."""
    listed = (candidate("n2", 3), candidate("n3", 4))

    assert [WatchCandidate("n2_i2_0000000003")] == standing().candidates_listed(listed)


@pytest.mark.parametrize("how", ["fired", "failed", "reconnected"])
def test_a_watch_that_is_over_is_set_again(how: str):
    """After it has fired, could not be set, or went with the connection."""
    before = candidate("n2", 3)
    made = enrolled(before)
    if how == "fired":
        made.watch_fired()
    elif how == "failed":
        made.watch_failed()
    else:
        made.session_connected(1, 1.0)

    assert [WatchCandidate(before.name)] == made.candidates_listed((before, candidate("n1", 5)))


# --- S3: removing others --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reach", "instance", "gone"),
    [
        (Reach.REFUSED, "", True),
        (Reach.ANSWERS, "another", True),
        (Reach.ANSWERS, "i2", False),
        (Reach.UNKNOWN, "", False),
    ],
)
def test_a_predecessor_is_removed_only_when_its_process_is_gone(reach: Reach, instance: str, gone: bool):
    """Nothing listens, or another process does. Silence is no proof (S3)."""
    before = candidate("n2", 3)
    made = enrolled(before)
    removals = of(RemoveCandidate, made.probed(Probed("n2:80", reach, instance)))

    assert ([RemoveCandidate(before.name)] if gone else []) == removals


def test_only_the_predecessor_is_removed():
    """A probe of somebody else's address removes nobody (S3)."""
    made = enrolled(candidate("n2", 3), candidate("n3", 4))

    assert of(RemoveCandidate, made.probed(Probed("n2:80", Reach.REFUSED, ""))) == []


def test_the_predecessor_is_probed_at_intervals():
    """One probe of one node at a time."""
    made = enrolled(candidate("n2", 3), candidate("n3", 4))

    assert [Probe("n3:80")] == of(Probe, made.tick(1.0))
    assert made.tick(1.0 + PROBE_INTERVAL_S / 2) == []
    assert of(Probe, made.tick(1.0 + PROBE_INTERVAL_S)) == []  # the first one has not been answered
    made._questions.answered(Probe, "n3:80")
    assert [Probe("n3:80")] == of(Probe, made.tick(1.0 + 2 * PROBE_INTERVAL_S))


def test_who_leads_probes_nobody():
    """The lowest candidate has no predecessor."""
    assert of(Probe, enrolled(candidate("n2", 6)).tick(1.0)) == []


def test_what_an_earlier_life_left_behind_is_removed():
    """The same id, another instance: that process is gone, as this one has its id (S3, S4)."""
    old = candidate("n1", 2, instance="i0")
    made = standing()

    assert [RemoveCandidate(old.name)] == of(RemoveCandidate, made.candidates_listed((old, candidate("n2", 3))))


def test_what_has_the_own_id_is_left_alone_before_joining():
    """Until this process has the id, the other one may be a running node (S3, S4)."""
    old = candidate("n1", 2, instance="i0")

    assert of(RemoveCandidate, standing(joined=False).candidates_listed((old,))) == []


# --- S4: one process for an id --------------------------------------------------------------------------------


def blocked_by(instance: str, address: str) -> tuple[Standing, list[Effect]]:
    """A node that finds its id taken; and what it does."""
    made = standing(joined=False)
    return made, made.join_blocked(JoinBlocked(Member("n1", instance, address, "catchup")), 1.0)


@pytest.mark.parametrize(("instance", "address"), [("i1", "n1:80"), ("i0", "n1:80"), ("i1", "elsewhere:80")])
def test_an_own_earlier_membership_is_removed(instance: str, address: str):
    """Of this very process, or of one whose address this process has now (S3)."""
    _, effects = blocked_by(instance, address)

    assert [RemoveMember(Member("n1", instance, address, "catchup"))] == effects


def test_another_holder_of_the_id_is_probed_first():
    """Whether it lives decides (S4)."""
    _, effects = blocked_by("i9", "other:80")

    assert effects == [Probe("other:80")]


def test_an_id_of_a_running_node_ends_the_process():
    """Two nodes never share an id; the later one goes, and says what to do (S4)."""
    made, _ = blocked_by("i9", "other:80")
    (end,) = made.probed(Probed("other:80", Reach.ANSWERS, "i9"))

    assert isinstance(end, Exit)
    assert end.code == 3
    assert end.reason.startswith("the id n1 is in use by the node at other:80, which is up")


@pytest.mark.parametrize(("reach", "instance"), [(Reach.REFUSED, ""), (Reach.ANSWERS, "another")])
def test_an_id_of_a_dead_node_is_taken_over(reach: Reach, instance: str):
    """Its member znode only waits for the session to end (S3)."""
    made, _ = blocked_by("i9", "other:80")

    assert [RemoveMember(Member("n1", "i9", "other:80", "catchup"))] == made.probed(
        Probed("other:80", reach, instance)
    )


def test_an_id_of_a_silent_node_is_waited_for_and_then_given_up():
    """A session that outlives its timeout belongs to something that lives (S4)."""
    made, _ = blocked_by("i9", "other:80")
    holder = JoinBlocked(Member("n1", "i9", "other:80", "catchup"))
    made.probed(Probed("other:80", Reach.UNKNOWN, ""))
    assert of(Exit, made.join_blocked(holder, 1.0 + HOLD_S)) == []
    (end,) = made.join_blocked(holder, 1.1 + HOLD_S)

    assert isinstance(end, Exit)
    assert "does not answer, but its ZooKeeper session lives" in end.reason


def test_another_process_on_the_own_address_ends_this_one():
    """What answers there is not this process: it would take this node's requests."""
    (end,) = standing(reachable=False).probed(Probed("n1:80", Reach.ANSWERS, "stranger"))

    assert isinstance(end, Exit)
    assert end.code == 3


# --- who does not begin ---------------------------------------------------------------------------------------


def notes(made: Standing, until_s: float) -> list[str]:
    """What it says in this time, a tick each second; probes are not answered."""
    return [found.text for now in range(int(until_s) + 1) for found in of(Note, made.tick(float(now)))]


def test_a_first_candidate_that_never_begins_is_named_once():
    """With the command that clears it, for the one whose turn would be next and all behind it."""
    for behind in ((), (candidate("n2", 4),)):
        made = enrolled(candidate("n0", 3), *behind)

        (said,) = notes(made, 5 * HOLD_S)

        assert "n0 at n0:80 is to be next, and has not begun" in said
        assert said.endswith("zkCli.sh -server HOSTS delete ELECTION/n0_i0_0000000003")
        assert made.why_nobody_leads == "no node leads: n0 at n0:80 is to be next, and has not begun"


def test_nobody_is_named_before_a_dead_ones_session_would_have_ended():
    """Each new first one has that time, and so has ZooKeeper when it is back."""
    made = enrolled(candidate("n0", 3))
    assert notes(made, HOLD_S) == []

    made.candidates_listed((candidate("n2", 4), candidate("n1", 5)))
    assert [of(Note, made.tick(HOLD_S + after)) for after in (1, HOLD_S)] == [[], []]
    made.session_suspended()
    made.session_connected(1, 9 * HOLD_S)
    assert of(Note, made.tick(9 * HOLD_S + 1)) == []


def test_nobody_is_named_while_somebody_leads():
    """Nor by the one that is to be next itself."""
    led, first = enrolled(candidate("n0", 3)), enrolled()
    led.learn_leader(Leader("n0", "n0:80"), 103)

    assert notes(led, 5 * HOLD_S) == notes(first, 5 * HOLD_S) == []


def test_a_candidate_of_an_earlier_life_that_does_not_go_is_not_removed_without_a_pause():
    """A server may go on showing it (ZOOKEEPER-5010): each removal is answered at once, and changes nothing."""
    made = enrolled()
    shown = (candidate("n1", 2, "i9"), candidate("n1", 5))
    removals = []

    for step in range(100):  # ten in a second
        made._questions.now = step / 10
        removals += of(RemoveCandidate, made.candidates_listed(shown))
        made._questions.answered(RemoveCandidate, shown[0].name)

    assert len(removals) == 10
