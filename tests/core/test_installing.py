"""A replica behind the log's beginning copies another one's store, and never over something better (I1 to I3)."""

import pytest

from kvlog.core.cursor import Cursor
from kvlog.core.effects import Effect, Exit, FetchSnapshot, Install, Note
from kvlog.core.events import SnapshotFailed, SnapshotFetched, SnapshotProgress
from kvlog.core.installing import LINGER_S, RETRY_S, SAY_S, Installing
from kvlog.core.machine import Gap, Position
from kvlog.core.values import Holding, Member, Replica
from kvlog.errors import WrongLog


def member(node_id: str, *, life: int = 1) -> Member:
    return Member(node_id, f"i{node_id[1:]}.{life}", f"{node_id}:80", "catchup")


def replica(node_id: str, index: int = 90, holding: Holding = Holding.WHOLE) -> Replica:
    return Replica(node_id, f"{node_id}:80", index, holding)


def at(index: int, *gaps: Gap) -> Position:
    return Position(applied_index=index, hash="h", gaps=gaps)


class Bench:
    """Node n1 at entry 5 of a log that begins at 50 and ends at 99."""

    def __init__(self, *others: str, position: Position | None = None, leader: str = "") -> None:
        self.installing = Installing("n1")
        self.cursor = Cursor(position or at(5))
        self.cursor.observe(99, 0.0, confirmed=True, first_index=50)
        self.members = tuple(member(name) for name in ("n1", *others))
        self.replicas = tuple(replica(name) for name in ("n1", *others))
        self.leader = leader

    def advance(self, now: float = 0.0) -> list[Effect]:
        return self.installing.advance(self.cursor, self.members, self.replicas, self.leader, now)

    def asked(self, now: float = 0.0) -> str:
        """Whose store it copies now; empty if nobody's."""
        fetches = [effect for effect in self.advance(now) if isinstance(effect, FetchSnapshot)]
        return fetches[0].member.node_id if fetches else ""

    def fail(self, node_id: str, now: float = 0.0, applied: int | None = None) -> None:
        self.installing.handle(SnapshotFailed(node_id, "no", applied), now)

    def fetched(self, position: Position, now: float = 0.0) -> None:
        self.installing.handle(SnapshotFetched("file", position), now)

    def exits(self, now: float = 0.0) -> bool:
        return any(isinstance(effect, Exit) for effect in self.advance(now))


# --- when and whom --------------------------------------------------------------------------------------------


def test_a_node_that_can_replay_copies_nothing():
    """The log holds what it needs."""
    assert Bench("n2", position=at(49)).advance() == []


def test_a_node_behind_the_logs_beginning_copies_a_store_that_reaches_it():
    """With the snapshot it can go on from the log; it says so, once (I1)."""
    bench = Bench("n2")
    note, fetch = bench.advance()

    assert note == Note(
        "the log begins at entry 50, and this store needs what was before: copying the store of n2"
    )
    assert fetch == FetchSnapshot(member("n2"), 49)
    assert bench.installing.busy
    assert bench.advance(99.0) == []


def test_a_store_with_a_trimmed_gap_copies_one_that_is_not_behind():
    """Equal is enough: a whole store is better than one with a gap, and in a quiet cluster none is ahead (I2)."""
    bench = Bench("n2", position=at(99, Gap(6, 60, "h")))
    bench.cursor.healing = True

    assert FetchSnapshot(member("n2"), 99) in bench.advance()


def test_the_one_that_holds_the_most_is_asked_and_the_leader_last():
    """The leader has work of its own."""
    bench = Bench("n2", "n3", "n4", leader="n4")
    bench.replicas = (replica("n1", 5), replica("n2", 60), replica("n3", 70), replica("n4", 99))

    assert bench.asked() == "n3"


def test_a_leader_is_asked_if_there_is_nobody_else():
    """Two nodes are a cluster."""
    assert Bench("n2", leader="n2").asked() == "n2"


def test_a_member_that_is_not_registered_yet_comes_behind_those_that_are():
    """Nothing is known of its store, which may do all the same."""
    bench = Bench("n2", "n3")
    bench.replicas = (replica("n3", 0),)
    assert bench.asked() == "n3"

    bench = Bench("n2")
    bench.replicas = ()
    assert bench.asked() == "n2"


def test_a_stale_node_is_not_asked():
    """Its store misses entries."""
    bench = Bench("n2", "n3")
    bench.replicas = (replica("n1"), replica("n2", 99, Holding.STALE), replica("n3", 49))
    assert bench.asked() == "n3"
    bench.fail("n3")

    assert bench.asked() == ""


def test_a_node_that_waits_for_a_snapshot_itself_is_asked_last():
    """It may have got one since its mark was read, and has to say that it has not (I3)."""
    bench = Bench("n2", "n3", leader="n3")
    bench.replicas = (replica("n1"), replica("n2", 99, Holding.INSTALLING), replica("n3", 60))
    assert bench.asked() == "n3"
    bench.fail("n3")

    assert bench.asked() == "n2"


def test_a_node_does_not_copy_its_own_store():
    """Alone, it waits for others (I3 says when it stops waiting)."""
    bench = Bench()
    bench.replicas = (replica("n1"), replica("n2"))

    assert bench.advance() == []


def test_after_a_failure_the_next_one_is_asked_and_nobody_too_soon():
    """Round and round, those that failed longest ago first."""
    bench = Bench("n2", "n3")
    assert bench.asked(0.0) == "n2"
    bench.fail("n2", 0.0)
    assert bench.asked(0.1) == "n3"
    bench.fail("n3", 0.2)
    assert bench.asked(RETRY_S - 0.1) == ""
    assert bench.asked(RETRY_S) == "n2"
    bench.fail("n2", RETRY_S)
    assert bench.asked(RETRY_S + 0.2) == "n3"


def test_a_failure_says_why():
    """One line for people."""
    bench = Bench("n2")
    bench.advance()

    assert bench.installing.handle(SnapshotFailed("n2", "it is full"), 1.0) == [
        Note("no snapshot from n2: it is full")
    ]
    assert not bench.installing.busy


def test_progress_is_said_now_and_then():
    """And is in the status at any time."""
    bench = Bench("n2")
    bench.advance(0.0)
    said = [
        bool(bench.installing.handle(SnapshotProgress(received << 20, 9 << 20), now))
        for received, now in ((1, 0.1), (2, SAY_S), (3, SAY_S + 0.1), (4, 2 * SAY_S))
    ]

    assert said == [False, True, False, True]
    assert bench.installing.report == {
        "fetching": {"from": "n2", "received_bytes": 4 << 20, "total_bytes": 9 << 20}
    }


def test_news_of_a_copy_that_nobody_waits_for_is_ignored():
    """A late answer starts nothing."""
    bench = Bench("n2")

    for event in (SnapshotProgress(1, 2), SnapshotFetched("file", at(60)), SnapshotFailed("n2", "no", 3)):
        assert bench.installing.handle(event, 0.0) == []
    assert not bench.installing.busy


# --- I1, I2: putting it in place ------------------------------------------------------------------------------


def test_a_fetched_copy_is_installed_once():
    """It takes the store for itself, and the status tells of it afterwards (I1)."""
    bench = Bench("n2")
    bench.advance(1.0)
    bench.fetched(at(60), 2.0)

    assert bench.advance(2.0) == [Install("file")]
    assert bench.installing.busy
    assert bench.cursor.next_apply() is None
    assert not bench.cursor.hold()
    assert bench.installing.installed(3.0) == [Note("installed a snapshot of n2: index 60, revision 0, 2.000 s")]
    bench.cursor.applied(at(60))
    assert bench.installing.installed(3.0) == []
    assert bench.advance(3.0) == []
    assert not bench.installing.busy
    assert bench.installing.report == {"installed": {"from": "n2", "index": 60, "revision": 0, "seconds": 2.0}}


def test_a_copy_waits_for_the_store():
    """Whatever else the store is at comes to its end first (I1)."""
    bench = Bench("n2")
    bench.advance()
    assert bench.cursor.hold()
    bench.fetched(at(60))
    assert bench.advance() == []
    bench.cursor.applied(at(5))

    assert bench.advance() == [Install("file")]


@pytest.mark.parametrize(("own", "copy", "installed"), [(60, 59, False), (60, 60, False), (60, 61, True)])
def test_a_copy_that_is_not_ahead_is_not_needed_any_more(own: int, copy: int, installed: bool):
    """Pushes have brought the store as far while the copy came (I2)."""
    bench = Bench("n2")
    bench.advance()
    bench.cursor.applied(at(own))
    bench.fetched(at(copy))
    effects = bench.advance()

    assert (Install("file") in effects) == installed
    if not installed:
        assert effects == [Note("the snapshot is not needed any more: the log was faster")]
        assert not bench.installing.busy
        assert bench.cursor.hold()


@pytest.mark.parametrize(("copy", "installed"), [(98, False), (99, True), (120, True)])
def test_a_copy_never_takes_a_store_with_a_gap_back(copy: int, installed: bool):
    """What has been applied here has been read here, and told to the leader (I2, M2)."""
    bench = Bench("n2", position=at(99, Gap(6, 60, "h")))
    bench.cursor.healing = True
    bench.advance()
    bench.fetched(at(copy))

    assert (Install("file") in bench.advance()) == installed


def test_a_copy_that_is_too_old_is_fetched_again():
    """The gap is still there (I2)."""
    bench = Bench("n2", position=at(99, Gap(6, 60, "h")))
    bench.cursor.healing = True
    bench.advance()
    bench.fetched(at(98))
    bench.advance()

    assert bench.asked() == "n2"


# --- I3: when the state is lost -------------------------------------------------------------------------------


def test_the_state_is_lost_when_everybody_is_up_and_says_so():
    """Two others, both behind the log's beginning: nobody has what is missing, and nothing was touched (I3)."""
    bench = Bench("n2", "n3")
    for name in ("n2", "n3"):
        assert bench.asked() == name
        bench.fail(name, applied=20)
    assert bench.advance() == [], "it still answers, so that the others hear it of it, too"
    bench.members = bench.members[:1]  # they have heard it, and ended
    (effect,) = bench.advance(LINGER_S)

    assert isinstance(effect, Exit)
    assert effect.code == WrongLog.exit_code
    assert effect.reason.startswith(
        "the log begins at entry 50, and no store of a registered node holds what was before it "
        "(this one is behind it, n2's up to 20, n3's up to 20)"
    )
    assert "python -m kvlog restore FILE --zk HOSTS --root NEW_ROOT --data-dir DIR" in effect.reason


def test_the_state_is_not_lost_while_somebody_has_not_been_asked():
    """I3."""
    bench = Bench("n2", "n3")
    bench.advance()
    bench.fail("n2", applied=20)

    assert not bench.exits()


def test_the_state_is_not_lost_while_a_registered_one_is_down():
    """Its disk may hold it: the node waits (I3)."""
    bench = Bench("n2")
    bench.replicas += (replica("n3"),)
    bench.advance()
    bench.fail("n2", applied=20)
    assert not bench.exits()
    bench.replicas = bench.replicas[:2]

    assert not bench.exits()
    assert bench.exits(LINGER_S)


@pytest.mark.parametrize("applied", [49, 60, None])
def test_the_state_is_not_lost_when_somebody_failed_for_another_reason(applied: int | None):
    """Its store does reach the log's beginning, or it did not say (I3)."""
    bench = Bench("n2")
    bench.advance()
    bench.fail("n2", applied=applied)

    assert not bench.exits()
    assert bench.asked(RETRY_S) == "n2"


def test_a_later_failure_without_a_word_takes_an_earlier_one_back():
    """The node was too short, and has been given another store since: it has to say so again (I3)."""
    bench = Bench("n2", "n3")
    bench.advance(0.0)
    bench.fail("n2", 0.0, applied=20)
    assert bench.asked(0.1) == "n3"
    bench.fail("n3", 0.1)
    assert bench.asked(2.0) == "n2"
    bench.fail("n2", 2.0)
    assert bench.asked(2.1) == "n3"
    bench.fail("n3", 2.1, applied=20)

    assert not bench.exits(2.2)


def test_a_node_that_was_started_again_has_to_say_so_again():
    """Another process may have another store: somebody has brought an older one back (I3)."""
    bench = Bench("n2", "n3")
    bench.advance(0.0)
    bench.fail("n2", 0.0, applied=20)
    bench.members = (member("n1"), member("n2", life=2), member("n3"))
    bench.advance(0.1)
    bench.fail("n3", 0.1, applied=20)

    assert not bench.exits(0.2)


def test_the_state_is_not_lost_before_the_replicas_are_known():
    """A node that starts first knows nobody yet: they may all be registered, and down (I3)."""
    bench = Bench()
    bench.replicas = ()

    assert bench.advance() == []


def test_a_stale_node_that_is_up_may_hold_what_is_missing():
    """It is not asked, so it has not said that it does not (I3)."""
    bench = Bench("n2")
    bench.replicas = (replica("n1"), replica("n2", 20, Holding.STALE))

    assert bench.advance() == []


def test_a_single_node_behind_its_log_has_lost_the_state():
    """There is nobody else, and it is registered itself (I3)."""
    assert Bench().exits()


def test_an_empty_node_that_starts_first_is_told_to_wait_for_the_store_that_the_log_was_made_from():
    """After recover or restore nobody is registered yet, and nothing is lost: the last line tells the way (I3)."""
    (effect,) = Bench(position=at(-1)).advance()

    assert isinstance(effect, Exit)
    before_all, _, after = effect.reason.partition("start the node with the store that it named first")
    assert "lost" not in before_all
    assert "lost" in after


def test_a_node_that_is_no_member_yet_waits():
    """What it knows of the others may be from before (I3)."""
    bench = Bench()
    bench.members = ()

    assert not bench.exits()
