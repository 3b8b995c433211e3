"""How long the log is kept: marks (R1, R2), trimming (R3, R4), and a log that is full (R5)."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlog.core import entry
from kvlog.core.agreement import Agreement
from kvlog.core.cursor import Cursor
from kvlog.core.effects import Effect, ListReplicas, Note, PublishMark, RemoveReplica, Reply, Sync, Trim
from kvlog.core.entry import Leader
from kvlog.core.events import MarkPublished, RemovalRequested, ReplicaRemoved, ReplicasListed, Synced, Trimmed
from kvlog.core.machine import Gap, Position
from kvlog.core.questions import RETRY_S, Questions
from kvlog.core.retention import ENTRY_OVERHEAD_BYTES, MARK_S, REMOVALS_MAX, Retention
from kvlog.core.values import Done, Holding, Member, Refused, Replica

ENTRY = 1_000 - ENTRY_OVERHEAD_BYTES
"""Bytes of an entry here, so that each weighs 1,000."""


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten entries to a segment."""
    monkeypatch.setattr(entry, "SEGMENT_ENTRIES", 10)


def at(index: int, *, gaps: tuple[Gap, ...] = ()) -> Position:
    """A store that has applied up to ``index``."""
    return Position(applied_index=index, hash="h", gaps=gaps, log_bytes=(index + 1) * ENTRY)


def whole(node_id: str, index: int) -> Replica:
    return Replica(node_id, f"{node_id}:80", index, Holding.WHOLE)


def stale(node_id: str, index: int) -> Replica:
    return dataclasses.replace(whole(node_id, index), holding=Holding.STALE)


def installing(node_id: str, index: int) -> Replica:
    return dataclasses.replace(whole(node_id, index), holding=Holding.INSTALLING)


class Bench:
    """The retention of node n1, whose store and log end at ``index``."""

    def __init__(self, index: int = 99, *replicas: Replica, retain: int = 0, limit: int = 10**9) -> None:
        self.questions = Questions()
        self.retention = Retention(
            Leader("n1", "n1:80"), self.questions, retain_entries=retain, log_bytes_max=limit
        )
        self.move(at(index))
        self.register(*replicas)

    def move(self, position: Position) -> None:
        """The store and the log stand there now."""
        self.cursor = Cursor(position)

    def register(self, *replicas: Replica) -> None:
        """So many replicas are registered."""
        self.retention.handle(ReplicasListed(replicas))

    def mark(self, now: float = 0.0) -> list[Effect]:
        self.questions.now = now
        return self.retention.mark(self.cursor, Agreement("n1"), now)

    def synced(self, position: Position) -> None:
        self.retention.handle(Synced(position))

    def published(self, mark: Replica) -> None:
        self.retention.handle(MarkPublished(mark))

    def trim(self) -> int | None:
        """Where the log is to begin, if it is to be trimmed now."""
        effects = self.retention.trim(self.cursor, "me")
        assert all(isinstance(effect, Trim) and effect.fence == "me" for effect in effects)
        return effects[0].first_index if effects else None  # type: ignore[union-attr]

    def trimmed(self, first_index: int, *, done: bool = True) -> list[Effect]:
        return self.retention.handle(Trimmed(first_index, first_index * ENTRY, done))


# --- R1: the own mark -----------------------------------------------------------------------------------------


def test_a_mark_is_published_once_the_store_is_durable_and_not_before():
    """First the disk, then the promise (R1)."""
    bench = Bench(7)
    assert bench.mark() == [Sync()]
    assert bench.mark(99.0) == []
    bench.synced(at(5))

    assert [effect for effect in bench.mark() if not isinstance(effect, Sync)] == [PublishMark(whole("n1", 5))]


def test_a_mark_says_what_was_durable_not_what_is_applied():
    """What came after the sync would not survive a power cut (R1)."""
    bench = Bench(7)
    bench.mark()
    bench.synced(at(7))
    bench.move(at(9))

    assert PublishMark(whole("n1", 7)) in bench.mark(0.1)


def test_a_store_that_does_not_change_is_synced_and_published_once():
    """An idle node writes nothing."""
    bench = Bench(7)
    bench.mark()
    bench.synced(at(7))
    bench.mark(0.1)
    bench.published(whole("n1", 7))

    assert [bench.mark(now) for now in (0.2, 5.0, 500.0)] == [[], [], []]


def test_marks_are_rare():
    """However fast the store moves, it is synced for its mark every MARK_S at most."""
    bench, syncs = Bench(0), 0
    for step in range(100):
        now = step * 0.1
        bench.move(at(step))
        effects = bench.mark(now)
        syncs += effects.count(Sync())
        if Sync() in effects:
            bench.synced(at(step))
        for effect in bench.mark(now):
            if isinstance(effect, PublishMark):
                bench.published(effect.mark)

    assert syncs == round(10.0 / MARK_S)


def test_a_mark_that_was_not_published_is_published_again():
    """After a pause; nothing is known of the first try."""
    bench = Bench(7)
    bench.mark()
    bench.synced(at(7))
    assert bench.mark() == [PublishMark(whole("n1", 7))]
    bench.questions.failed(PublishMark)

    assert bench.mark(RETRY_S / 2) == []
    assert bench.mark(RETRY_S * 2) == [PublishMark(whole("n1", 7))]


def test_a_store_that_has_missed_entries_says_so():
    """It holds what is before its first gap, and is no whole store (R2)."""
    gaps = (Gap(3, 4, "h"), Gap(8, 8, "h"))
    bench = Bench()
    bench.move(at(9, gaps=gaps))
    bench.mark()
    bench.synced(at(9, gaps=gaps))

    assert bench.mark() == [PublishMark(stale("n1", 2))]


def test_a_store_that_has_just_missed_entries_is_not_whole_any_more():
    """The gap is applied before it is durable: the mark does not wait for that (R2)."""
    bench = Bench(5)
    bench.mark()
    bench.synced(at(5))
    bench.move(at(9, gaps=(Gap(6, 9, "h"),)))

    assert PublishMark(stale("n1", 5)) in bench.mark()


def test_a_store_that_has_just_been_filled_is_not_whole_before_it_is_durable():
    """A power cut would bring the gap back (R1, R2)."""
    bench = Bench()
    bench.mark()
    bench.synced(at(9, gaps=(Gap(3, 4, "h"),)))
    bench.move(at(9))

    assert PublishMark(stale("n1", 2)) in bench.mark()


def test_a_store_behind_the_logs_beginning_waits_for_a_snapshot():
    """What it lacks is in no log (R2)."""
    bench = Bench(5)
    bench.retention.log_begins(7, 7 * ENTRY)
    bench.mark()
    bench.synced(at(5))
    assert bench.mark() == [PublishMark(installing("n1", 5))]
    bench.published(installing("n1", 5))
    bench.move(at(9))
    assert bench.mark(10.0) == [Sync()]
    bench.synced(at(9))

    assert bench.mark(10.0) == [PublishMark(whole("n1", 9))]


@pytest.mark.parametrize("begins", [0, 5, 6])
def test_a_store_at_the_logs_beginning_is_whole(begins: int):
    """The next entry that it needs is there (R2)."""
    bench = Bench(5)
    bench.retention.log_begins(begins, begins * ENTRY)
    bench.mark()
    bench.synced(at(5))

    assert bench.mark() == [PublishMark(whole("n1", 5))]


# --- registration ---------------------------------------------------------------------------------------------


def test_a_removed_node_that_is_there_registers_again():
    """Whoever removed it was wrong: the cluster counts on it (R3)."""
    bench = Bench(7)
    bench.mark()
    bench.synced(at(7))
    bench.mark()
    bench.published(whole("n1", 7))
    bench.register(whole("n1", 7), whole("n2", 7))
    assert bench.mark() == []
    bench.register(whole("n2", 7))

    assert bench.mark() == [PublishMark(whole("n1", 7))]


@pytest.mark.parametrize("found", [whole("n1", 9), installing("n1", 7)])
def test_a_mark_that_is_not_the_own_one_is_replaced(found: Replica):
    """An earlier life's mark arrived late, or another process used this id: it must license nothing (R1)."""
    bench = Bench(7)
    bench.mark()
    bench.synced(at(7))
    bench.mark(0.1)
    bench.published(whole("n1", 7))
    bench.register(dataclasses.replace(whole("n1", 7), version=3), whole("n2", 9))
    assert bench.mark(5.0) == []
    bench.register(found, whole("n2", 9))

    assert bench.mark(5.1) == [PublishMark(whole("n1", 7))]


def test_who_is_up_is_not_removed():
    """It would register again at once; the operator is told to stop it first."""
    bench = Bench(7, whole("n1", 7), whole("n2", 7))
    members = (Member("n2", "i2", "n2:80", "catchup"),)
    (reply,) = bench.retention.remove(RemovalRequested(1, "n2"), members)

    assert reply == Reply(1, Refused("n2 is up: stop it first"))
    assert RemoveReplica("n2") not in bench.mark()


def test_who_is_not_registered_is_not_removed():
    """A misspelt id does nothing, and the answer says which ones there are."""
    bench = Bench(7, whole("n1", 7), whole("n2", 7))
    (reply,) = bench.retention.remove(RemovalRequested(1, "n9"), ())

    assert reply == Reply(1, Refused("there is no replica n9; there is n1, n2"))


def test_who_is_gone_is_removed():
    """All who asked get the answer, the removal is asked for once, and the list is read again."""
    bench = Bench(7, whole("n1", 7), whole("n2", 7))
    assert bench.retention.remove(RemovalRequested(1, "n2"), ()) == []
    assert bench.retention.remove(RemovalRequested(2, "n2"), ()) == []
    assert bench.mark().count(RemoveReplica("n2")) == 1
    assert RemoveReplica("n2") not in bench.mark()
    effects = bench.retention.handle(ReplicaRemoved("n2"))

    text = "n2 is not counted on any more"
    assert effects == [Note(text), Reply(1, Done(text)), Reply(2, Done(text)), ListReplicas()]
    assert RemoveReplica("n2") not in bench.mark()


def test_a_removal_that_failed_is_tried_again():
    """After a pause, until it is answered."""
    bench = Bench(7, whole("n1", 7), whole("n2", 7))
    bench.retention.remove(RemovalRequested(1, "n2"), ())
    bench.mark()
    bench.questions.failed(RemoveReplica, "n2")

    assert RemoveReplica("n2") in bench.mark(RETRY_S * 2)


def test_removals_that_wait_are_bounded():
    """Each holds a client."""
    bench = Bench(7, whole("n1", 7), whole("n2", 7))
    for token in range(REMOVALS_MAX):
        assert bench.retention.remove(RemovalRequested(token, "n2"), ()) == []
    (reply,) = bench.retention.remove(RemovalRequested(99, "n2"), ())

    assert isinstance(reply, Reply)
    assert reply.token == 99
    assert isinstance(reply.answer, Refused)


# --- R2, R3: what may be trimmed ------------------------------------------------------------------------------

MAJORITIES = [
    ("nobody is registered", (), -1),
    ("one", (whole("n1", 50),), 50),
    ("the lower of two", (whole("n1", 50), whole("n2", 40)), 40),
    ("the middle of three", (whole("n1", 50), whole("n2", 40), whole("n3", 30)), 40),
    ("one of three is far behind, or down", (whole("n1", 50), whole("n2", 40), whole("n3", -1)), 40),
    ("three of four", (whole("n1", 50), whole("n2", 40), whole("n3", 30), whole("n4", 20)), 30),
    ("three of five", (*(whole(f"n{n}", n * 10) for n in range(1, 6)),), 30),
    ("a stale one holds nothing, and counts for the majority", (whole("n1", 50), stale("n2", 90)), -1),
    ("two whole of three", (whole("n1", 50), stale("n2", 90), whole("n3", 30)), 30),
    ("one that waits for a snapshot holds nothing", (whole("n1", 50), installing("n2", 60)), -1),
    ("one whole of three", (whole("n1", 50), stale("n2", 90), installing("n3", 60)), -1),
]


@pytest.mark.parametrize(("replicas", "held"), [pytest.param(*row[1:], id=row[0]) for row in MAJORITIES])
def test_what_a_majority_of_the_registered_holds(replicas: tuple[Replica, ...], held: int):
    """Those that are down count for the majority; only whole stores hold something (R2, R3)."""
    bench = Bench(99, *replicas)

    assert bench.retention.held_by_majority == held
    assert bench.trim() == ((held + 1) // 10 * 10 or None)


def test_whole_segments_are_trimmed():
    """Up to the last one whose every entry a majority holds (R3)."""
    firsts = [Bench(99, whole("n1", held)).trim() for held in (8, 9, 10, 18, 19, 20)]

    assert firsts == [None, 10, 10, 10, 20, 20]


@pytest.mark.parametrize(("tail", "first"), [(5, None), (9, 10), (15, 10), (19, 20), (20, 20)])
def test_the_segment_of_the_next_entry_stays(tail: int, first: int | None):
    """However much a majority holds, and says that it holds (R3)."""
    assert Bench(tail, whole("n1", 1_000)).trim() == first


def test_the_last_entries_are_retained():
    """A replica that was away for fewer comes back by replay (R3)."""
    firsts = [
        Bench(99, whole("n1", 99), retain=retain).trim() for retain in (0, 1, 40, 41, 89, 90, 91, 100, 5_000)
    ]

    assert firsts == [100, 90, 60, 50, 10, 10, None, None, None]


def test_entries_are_not_retained_in_a_log_that_is_half_full():
    """What a majority holds goes; what it does not hold never does (R3)."""
    replicas = (whole("n1", 99), whole("n2", 50), whole("n3", 20))
    half, more = (Bench(99, *replicas, retain=5_000, limit=limit) for limit in (200_000, 199_998))

    assert (half.trim(), more.trim()) == (None, 50)


@given(
    tail=st.integers(0, 120),
    marks=st.lists(st.tuples(st.integers(-1, 130), st.sampled_from(Holding)), max_size=5),
    retain=st.integers(0, 60),
    limit=st.integers(1, 300_000),
)
def test_nothing_is_trimmed_that_a_majority_does_not_hold(
    tail: int, marks: list[tuple[int, Holding]], retain: int, limit: int
):
    """R2 and R3 for any marks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "SEGMENT_ENTRIES", 10)
        replicas = [Replica(f"n{place}", "", index, holding) for place, (index, holding) in enumerate(marks)]
        first = Bench(tail, *replicas, retain=retain, limit=limit).trim()
    if first is None:
        return
    holders = sum(replica.holding is Holding.WHOLE and replica.durable_index >= first - 1 for replica in replicas)

    heavy = (tail + 1) * 1_000 > limit // 2
    assert first % 10 == 0 or heavy
    assert 0 < first <= tail + 1
    assert holders > len(replicas) // 2
    assert first <= tail + 1 - retain or heavy


def test_a_heavy_log_is_trimmed_within_its_last_segment():
    """A few large entries can weigh more than the limit: whole segments would never make room (R3)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "SEGMENT_ENTRIES", 10)
        bench = Bench(7, whole("n1", 5), limit=6_000)

        assert bench.trim() == 6


# --- R4: who trims, and how -----------------------------------------------------------------------------------


def test_one_trim_is_asked_for_at_a_time():
    """Each drops one segment; the next is asked for when the answer is there."""
    bench = Bench(99, whole("n1", 35))
    assert bench.trim() == 30
    assert bench.trim() is None
    bench.trimmed(30, done=False)
    assert bench.trim() == 30
    bench.trimmed(30, done=True)

    assert bench.trim() is None


def test_a_trim_that_failed_is_asked_for_again():
    """After a pause."""
    bench = Bench(99, whole("n1", 35))
    bench.trim()
    bench.questions.failed(Trim)
    assert bench.trim() is None
    bench.questions.now = RETRY_S * 2

    assert bench.trim() == 30


def test_trimming_goes_on_with_the_marks():
    """The next segment goes once a majority holds it."""
    bench = Bench(99, whole("n1", 35))
    bench.trim()
    bench.trimmed(30)
    bench.register(whole("n1", 49))

    assert bench.trim() == 50


def test_what_a_former_leader_left_half_trimmed_is_finished():
    """The log begins behind it already, but it may still be there (R4)."""
    bench = Bench(99, whole("n1", 20))
    bench.retention.log_begins(50, 50 * ENTRY)
    assert bench.trim() == 50
    bench.trimmed(50, done=True)
    assert bench.trim() is None

    bench.retention.elected()

    assert bench.trim() == 50


def test_the_logs_beginning_never_goes_back():
    """Neither by fewer marks, nor by a late answer, nor by a lagging server (R3)."""
    bench = Bench(99, whole("n1", 20))
    bench.retention.log_begins(50, 50 * ENTRY)
    bench.retention.log_begins(30, 30 * ENTRY)
    bench.retention.handle(Trimmed(40, 40 * ENTRY, done=False))

    assert bench.retention.first_index == 50
    assert bench.trim() == 50


def test_trimming_is_said_once():
    """One line for each time that the log's beginning moves."""
    bench = Bench(99, whole("n1", 35))

    assert bench.trimmed(30, done=False) == [Note("trimmed the log: it begins at entry 30 now")]
    assert bench.trimmed(30) == []


# --- R5: a log that is full -----------------------------------------------------------------------------------


def test_the_log_weighs_its_entries_and_what_each_costs():
    """Only those that are in ZooKeeper: not what was trimmed."""
    bench = Bench(99)
    assert bench.retention.log_weight(bench.cursor) == 100_000
    bench.retention.log_begins(40, 40 * ENTRY)

    assert bench.retention.log_weight(bench.cursor) == 60_000


def test_a_full_log_takes_no_more_until_there_is_room_again():
    """Beyond the limit nothing; and then only below nine tenths of it, so that it does not flutter (R5)."""
    bench = Bench(99, limit=100_000)
    full = []
    for tail, begins in ((99, 0), (100, 0), (100, 1), (100, 10), (100, 11), (109, 11), (110, 11), (111, 11)):
        bench.move(at(tail))
        bench.retention.log_begins(begins, begins * ENTRY)
        full.append(bool(bench.retention.why_full(bench.cursor)))

    assert full == [False, True, True, True, False, False, False, True]


def test_a_full_log_says_who_is_behind_and_what_to_do():
    """The sentence names the replicas that hold the trimming up, and the way out (R5)."""
    mib = 1 << 20
    replicas = (whole("n1", 99), stale("n2", 7), whole("n3", 20), installing("n4", 3), whole("n5", 60))
    bench = Bench(99, *replicas, limit=2 * mib)
    bench.move(sized(at(99), log_bytes=3 * mib))

    assert bench.retention.why_full(bench.cursor) == (
        "the log takes 3 MiB of ZooKeeper's memory, the limit is 2; of its entries up to 99, a majority of the "
        "replicas holds those up to 20: n1 (whole) up to 99, n2 (stale) up to 7, n3 (whole) up to 20, "
        "n4 (installing) up to 3, n5 (whole) up to 60; start those that are behind, or, if one is gone for good, "
        "POST /v1/admin/replicas/<id>/remove"
    )


def sized(position: Position, *, log_bytes: int) -> Position:
    """The position with a log of another size."""
    return Position(applied_index=position.applied_index, hash=position.hash, log_bytes=log_bytes)


def test_a_full_log_has_room_again_once_a_dead_replica_is_removed():
    """The majority is that of the others then (R3, R5)."""
    bench = Bench(99, whole("n1", 99), whole("n2", -1), limit=50_000)
    assert bench.retention.why_full(bench.cursor)
    assert bench.trim() is None
    bench.register(whole("n1", 99))
    assert bench.trim() == 100
    bench.trimmed(100)

    assert bench.retention.why_full(bench.cursor) == ""
