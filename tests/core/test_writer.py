"""Group commit: each write has exactly one outcome, and it is the true one."""

from collections.abc import Sequence

import pytest

from kvlog.core.commands import (
    COMPARES_MAX,
    Compare,
    Grant,
    Relation,
    Revoke,
    SetKey,
    Target,
    Txn,
    Unchanged,
    update,
)
from kvlog.core.effects import Append, Reply
from kvlog.core.entry import ENTRY_BYTES_MAX, VALUE_BYTES_MAX, Leader, LogEntry, Put, decode_entry
from kvlog.core.evaluate import SEARCH_EFFORT
from kvlog.core.events import WriteSubmitted
from kvlog.core.values import Ack, Refused, Unknown
from kvlog.core.writer import BATCH_WRITES_MAX, EFFORT_MAX, NOBODY, QUEUE_MAX, Writer
from kvlog.memory_store import MemoryStore
from tests.chain import Chain
from tests.core.answers import Landed


class Bench:
    """A writer behind a log, whose entries land when the test says so."""

    def __init__(self, *, window: int | None = None) -> None:
        self.chain = Chain(window=window)
        self.chain.barrier("n1", epoch=5)
        self.store = MemoryStore()
        if self.chain.position.identity is not None:
            self.store.adopt(self.chain.position.identity)
        self.store.apply(tuple(self.chain.entries), fill=False)
        self.writer = Writer(self.store, instance="i1")

    def submit(
        self, *tokens: int, key: str = "", value: str = "v", ack: Ack = Ack.LOG, deadline: float = 9.0
    ) -> list[Reply]:
        """Submit a write for each token; by default each to a key of its own."""
        replies = []
        for token in tokens:
            command = update(key or f"key{token}", value)
            replies += self.writer.submit(WriteSubmitted(token, command, ack, deadline))
        return replies

    def next(self) -> tuple[Append | None, list[Reply]]:
        """The writer's next entry, and what it answers while it forms it."""
        effects = self.writer.next_append(**self.place(), fence="me")
        appends = [effect for effect in effects if isinstance(effect, Append)]
        assert len(appends) <= 1
        return appends[0] if appends else None, [effect for effect in effects if isinstance(effect, Reply)]

    def append(self) -> Append | None:
        """The writer's next entry, where nothing is answered."""
        append, replies = self.next()
        assert replies == []
        return append

    def barrier(self, epoch: int) -> Append:
        """The writer's barrier."""
        return self.writer.barrier(**self.place() | {"epoch": epoch}, fence="me", leader=Leader("n1", "n1:80"))

    def place(self) -> dict:
        position = self.chain.position
        return {
            "index": position.applied_index + 1,
            "prev_hash": position.hash,
            "revision": position.revision,
            "epoch": self.chain.epoch,
            "wall_ms": 1,
            "log_bytes": position.log_bytes,
        }

    def land(self, append: Append | None) -> LogEntry:
        """The entry is in the log."""
        assert append is not None
        return self.chain.add(append.data)

    def see(self, item: LogEntry) -> list[Reply]:
        """The writer learns of an entry of the log."""
        return self.writer.entry_seen(item)

    def apply(self, item: LogEntry) -> None:
        """The store has applied an entry."""
        self.store.apply((item,), fill=False)
        self.writer.applied(item.index)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def committed(*pairs: tuple[int, int], index: int = 1) -> list[Landed]:
    """What is answered to tokens whose writes have these revisions."""
    return [Landed(token, revision, index, {}) for token, revision in pairs]


def refused(replies: Sequence[Reply], *tokens: int) -> bool:
    """Whether exactly these tokens are refused."""
    return [reply.token for reply in replies] == list(tokens) and all(
        isinstance(reply.answer, Refused) for reply in replies
    )


# --- W1: exactly one answer, at the latest at the deadline ----------------------------------------------------


def test_a_write_is_answered_once(bench: Bench):
    """The entry is seen when ZooKeeper answers, and again when it is read: the second time says nothing (W1)."""
    bench.submit(1, 2)
    item = bench.land(bench.append())

    assert committed((1, 1), (2, 2)) == bench.see(item)
    assert bench.see(item) == []
    assert bench.writer.expire(99, {}) == []
    assert bench.writer.idle


def test_a_write_in_no_entry_is_refused_at_its_deadline(bench: Bench):
    """It is taken out of the queue: it can never be appended (W1, W3)."""
    bench.submit(1, deadline=2.0)
    assert bench.writer.expire(1.9, {}) == []

    assert refused(bench.writer.expire(2.0, {}), 1)
    assert bench.append() is None


def test_a_write_in_flight_is_unknown_at_its_deadline(bench: Bench):
    """Nobody can say what will come of it; what comes is not said a second time (W1, W2)."""
    bench.submit(1, deadline=2.0)
    bench.submit(2, deadline=9.0)
    append = bench.append()
    (reply,) = bench.writer.expire(2.0, {})

    assert (1, Unknown) == (reply.token, type(reply.answer))
    assert bench.writer.expire(3.0, {}) == []
    assert committed((2, 2)) == bench.see(bench.land(append))


def test_an_unresolved_write_is_unknown_at_its_deadline(bench: Bench):
    """The same after ZooKeeper has given no answer (W1)."""
    bench.submit(1, deadline=2.0)
    bench.append()
    bench.writer.lost()
    (reply,) = bench.writer.expire(2.0, {})

    assert isinstance(reply.answer, Unknown)


def test_a_committed_write_says_so_at_its_deadline(bench: Bench):
    """Replicas that were waited for in vain do not make it unknown (W1)."""
    bench.submit(1, ack=Ack.REPLICAS, deadline=2.0)
    assert bench.see(bench.land(bench.append())) == []

    assert bench.writer.expire(2.0, {"n2": "behind"}) == [Landed(1, 1, 1, {"n2": "behind"})]


def test_a_full_queue_refuses(bench: Bench):
    """What waits is bounded; one more is refused at once, and nothing else is."""
    bench.submit(*range(1, QUEUE_MAX + 1))

    assert refused(bench.submit(9_999), 9_999)
    assert len(bench.writer.take_queue()) == QUEUE_MAX
    assert bench.writer.idle


# --- W2: committed means in the log ---------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True], ids=["in flight", "unresolved"])
def test_committed_is_said_once_the_entry_is_seen(bench: Bench, lost: bool):
    """An append is found by its batch id in the log, whether ZooKeeper has answered or not (W2)."""
    bench.submit(1)
    append = bench.append()
    if lost:
        bench.writer.lost()

    assert committed((1, 1)) == bench.see(bench.land(append))


def test_another_entry_at_its_index_commits_nothing(bench: Bench):
    """What counts is the batch id, not the place (W2)."""
    bench.submit(1)
    bench.append()

    assert bench.see(bench.chain.put("other", "x")) == []
    assert not bench.writer.idle


def test_a_write_that_waits_for_replicas_is_answered_when_they_have_it(bench: Bench):
    """ack=replicas: not before the replicas' index reaches the write's."""
    bench.submit(1, ack=Ack.REPLICAS)
    bench.see(bench.land(bench.append()))

    assert bench.writer.acknowledge(0, {}) == []
    assert bench.writer.acknowledge(1, {"n2": "applied"}) == [Landed(1, 1, 1, {"n2": "applied"})]


# --- W3: refused means never ----------------------------------------------------------------------------------


def test_a_fenced_append_is_refused(bench: Bench):
    """ZooKeeper has said that it did not take it (W3)."""
    bench.submit(1, 2)
    append = bench.append()
    assert append is not None

    assert refused(bench.writer.fenced(append.batch_id), 1, 2)
    assert bench.writer.idle


def test_a_fence_of_another_append_refuses_nothing(bench: Bench):
    """A late answer to an earlier append does not touch the present one (W3)."""
    bench.submit(1)
    bench.append()

    assert bench.writer.fenced("i1-0") == []
    assert not bench.writer.idle


def test_a_lost_append_is_refused_by_the_next_epochs_barrier(bench: Bench):
    """It is not in the log before the barrier, and the fence keeps it out behind it (W3)."""
    bench.submit(1)
    bench.append()
    bench.writer.lost()

    assert refused(bench.see(bench.chain.barrier("n2", epoch=6)), 1)
    assert bench.writer.idle


def test_a_lost_append_is_not_refused_by_what_is_no_barrier(bench: Bench):
    """Entries of its own epoch prove nothing: it may still come behind them (W3)."""
    bench.submit(1)
    bench.append()
    bench.writer.lost()

    assert bench.see(bench.chain.put("other", "x")) == []
    assert not bench.writer.idle


def test_an_append_in_flight_is_not_refused_by_a_barrier(bench: Bench):
    """ZooKeeper's answer is on its way: it says what became of it."""
    bench.submit(1)
    append = bench.append()
    assert append is not None
    assert bench.see(bench.chain.barrier("n2", epoch=6)) == []

    assert refused(bench.writer.fenced(append.batch_id), 1)


def test_a_lost_barrier_does_not_make_an_earlier_lost_append_forgotten(bench: Bench):
    """Every write is answered, also when the barrier that would have decided it is lost itself (W1)."""
    bench.submit(1)
    bench.append()
    bench.writer.lost()
    bench.barrier(epoch=6)
    bench.writer.lost()
    replies = [*bench.see(bench.chain.barrier("n2", epoch=7)), *bench.writer.expire(99, {})]

    assert [reply.token for reply in replies] == [1]


# --- W4: nothing behind an unknown fate -----------------------------------------------------------------------


def test_one_append_is_in_flight(bench: Bench):
    """What arrives meanwhile forms the next entry, together."""
    bench.submit(1)
    first = bench.append()
    bench.submit(2, 3)
    assert bench.append() is None
    bench.see(bench.land(first))
    second = bench.append()

    assert second is not None
    assert len(decode_entry(2, second.data).entry.requests) == 2


def test_nothing_is_appended_behind_an_unknown_fate(bench: Bench):
    """Until the lost append is found, or proven never to land (W4)."""
    bench.submit(1)
    append = bench.append()
    bench.writer.lost()
    bench.submit(2)
    assert bench.append() is None
    bench.see(bench.land(append))

    assert bench.append() is not None


def test_batch_ids_are_never_used_twice(bench: Bench):
    """Each append, barriers too, has a name of its own."""
    names = set()
    for token in range(5):
        bench.submit(token)
        append = bench.append()
        bench.see(bench.land(append))
        barrier = bench.barrier(epoch=6 + token)
        bench.see(bench.land(barrier))
        names |= {append.batch_id, barrier.batch_id} if append else set()

    assert len(names) == 10


# --- W5: evaluated against everything before ------------------------------------------------------------------


def puts(item: LogEntry) -> list[Put]:
    """The puts of an entry."""
    return [effect for request in item.entry.requests for effect in request.effects if isinstance(effect, Put)]


def test_writes_of_one_entry_see_each_other(bench: Bench):
    """The second write of a key counts on from the first (W5)."""
    bench.submit(1, 2, key="k")
    item = bench.land(bench.append())

    assert [(put.create, put.version) for put in puts(item)] == [(1, 1), (1, 2)]


def test_writes_see_entries_that_are_not_applied_yet(bench: Bench):
    """The store lags behind the log; evaluation does not (W5)."""
    bench.submit(1, key="k")
    first = bench.land(bench.append())
    bench.see(first)
    bench.submit(2, key="k")
    second = bench.land(bench.append())
    bench.see(second)
    bench.apply(first)
    bench.submit(3, key="k")
    third = bench.land(bench.append())

    assert [(put.create, put.version) for put in (*puts(second), *puts(third))] == [(1, 2), (1, 3)]


def test_a_refused_write_leaves_no_trace(bench: Bench):
    """What was evaluated for a fenced entry does not count (W5)."""
    bench.submit(1, key="k")
    append = bench.append()
    assert append is not None
    bench.writer.fenced(append.batch_id)
    bench.submit(2, key="k")
    item = bench.land(bench.append())

    assert [(put.create, put.version) for put in puts(item)] == [(1, 1)]


def test_what_is_in_memory_goes_once_it_is_applied(bench: Bench):
    """The state over the store does not grow with the log."""
    for token in range(20):
        bench.submit(token)
        item = bench.land(bench.append())
        bench.see(item)
        bench.apply(item)

    assert bench.writer._pending._records == {}


# --- the size of an entry -------------------------------------------------------------------------------------


def test_an_entry_takes_as_much_as_fits(bench: Bench):
    """Largest values go one or two to an entry; none is left behind, and their order stays."""
    bench.submit(1, 2, 3, value="v" * VALUE_BYTES_MAX)
    values = []
    while (append := bench.append()) is not None:
        assert len(append.data) <= ENTRY_BYTES_MAX
        item = bench.land(append)
        bench.see(item)
        values += [put.key for put in puts(item)]

    assert values == ["key1", "key2", "key3"]


def test_what_a_leader_wants_by_itself_ends_with_its_leadership(bench: Bench):
    """Until it leads again, another leader may have confirmed that a lease lives that it was about to end (E2)."""
    bench.submit(1)
    bench.writer.submit(WriteSubmitted(NOBODY, Revoke(7_000), Ack.LOG, 9.0))
    bench.submit(2)

    assert [write.token for write in bench.writer.take_queue()] == [1, 2]
    assert bench.writer.idle


def test_an_entry_takes_a_few_writes_whose_conditions_need_a_search(bench: Bench):
    """So that finding out whether they hold does not keep the leader from everything else; the rest comes next."""
    fit = EFFORT_MAX // (SEARCH_EFFORT + 2)
    for number in range(1, fit + 2):
        unchanged = Txn((SetKey(f"k{number}", b"v"),), (Unchanged("other", bench.chain.position.revision),))
        bench.writer.submit(WriteSubmitted(number, unchanged, Ack.LOG, 9.0))

    first = bench.see(bench.land(bench.append()))
    second = bench.see(bench.land(bench.append()))

    assert (len(first), len(second)) == (fit, 1)


def test_an_entry_takes_a_few_writes_with_many_conditions(bench: Bench):
    """They leave nothing in the entry that would bound it, and each has to be looked at."""
    absent = Compare("k", Target.REVISION, Relation.EQUAL, 0)
    for number in range(1, 7):
        bench.writer.submit(WriteSubmitted(number, Txn((), (absent,) * COMPARES_MAX), Ack.LOG, 9.0))

    first = bench.see(bench.land(bench.append()))
    second = bench.see(bench.land(bench.append()))

    assert (len(first), len(second)) == (EFFORT_MAX // COMPARES_MAX, 2)


def test_a_lease_that_is_being_granted_is_no_change_of_the_keys(bench: Bench):
    """Neither before it is applied nor afterwards: a condition must not depend on that."""
    unchanged = Txn((SetKey("k", b"v"),), (Unchanged("", bench.chain.position.revision),))
    bench.writer.submit(WriteSubmitted(1, Grant(5_000), Ack.LOG, 9.0))
    bench.writer.submit(WriteSubmitted(2, unchanged, Ack.LOG, 9.0))

    assert bench.see(bench.land(bench.append())) == committed((1, 1), (2, 2))


def test_an_entry_has_a_bounded_number_of_writes(bench: Bench):
    """BATCH_WRITES_MAX at most, the rest in the next one."""
    bench.submit(*range(BATCH_WRITES_MAX + 1))
    item = bench.land(bench.append())

    assert len(item.entry.requests) == BATCH_WRITES_MAX
    assert len(bench.writer.queue) == 1


def test_a_skip_in_its_place_commits_nothing(bench: Bench):
    """A skip has a batch id of its own: the lost append waits for the next epoch's barrier (W2, W3)."""
    bench.submit(1)
    bench.append()
    bench.writer.lost()
    assert bench.see(bench.chain.skip()) == []

    assert refused(bench.see(bench.chain.barrier("n2", epoch=6)), 1)


def test_an_append_says_how_large_the_log_is_with_it(bench: Bench):
    """The leader keeps that with each segment that begins, so that what is trimmed can be subtracted."""
    bench.submit(1)
    append = bench.append()
    assert append is not None
    bench.land(append)

    assert append.log_bytes == sum(len(item.data) for item in bench.chain.entries)
    assert bench.barrier(epoch=6).log_bytes > append.log_bytes


def test_a_lost_append_behind_which_a_snapshot_was_installed_is_unknown(bench: Bench):
    """What became of it cannot be seen any more; it is answered once, and holds nothing up (W1, W4)."""
    bench.submit(1, deadline=2.0)
    bench.submit(2, 3, deadline=9.0)
    bench.append()
    bench.writer.lost()
    bench.writer.expire(2.0, {})
    bench.chain.put("other", "x")

    replies = bench.writer.installed(bench.chain.position)

    assert [(reply.token, type(reply.answer)) for reply in replies] == [(2, Unknown), (3, Unknown)]
    assert bench.writer.idle
    assert bench.see(bench.chain.barrier("n2", epoch=6)) == []


def test_a_lost_append_ahead_of_an_installed_snapshot_is_still_decided_by_the_log(bench: Bench):
    """What is read from the log behind the snapshot tells what became of it (W3)."""
    bench.submit(1)
    bench.append()
    bench.writer.lost()
    assert bench.writer.installed(bench.store.position()) == []

    assert refused(bench.see(bench.chain.barrier("n2", epoch=6)), 1)


def test_an_append_in_flight_is_unknown_behind_an_installed_snapshot(bench: Bench):
    """It may be in there: no barrier behind the snapshot says that it is not (W3)."""
    bench.submit(1)
    bench.append()
    bench.chain.put("other", "x")
    (reply,) = bench.writer.installed(bench.chain.position)

    assert isinstance(reply.answer, Unknown)
    bench.writer.lost()  # ZooKeeper's answer, or that there is none, comes late
    assert bench.see(bench.chain.barrier("n2", epoch=6)) == []
    assert bench.writer.idle


def test_what_is_pending_counts_as_changed(bench: Bench):
    """A write that is in the log and not applied yet breaks the condition that nothing has changed (W5)."""
    bench.submit(1, key="a")
    bench.see(bench.land(bench.append()))
    for token, prefix in enumerate(["a", "c", ""], start=2):
        command = Txn((SetKey("b", b"1"),), (Unchanged(prefix, 0),))
        bench.writer.submit(WriteSubmitted(token, command, Ack.LOG, 9.0))
    item = bench.land(bench.append())

    assert [request.failed for request in item.entry.requests] == ["condition", "", "condition"]


def test_a_lease_that_is_pending_changes_no_key(bench: Bench):
    """Leases are under keys of kvlog's own, which no client's condition is about (W5)."""
    bench.writer.submit(WriteSubmitted(1, Grant(5_000), Ack.LOG, 9.0))
    bench.writer.submit(WriteSubmitted(2, Txn((SetKey("b", b"1"),), (Unchanged("", 0),)), Ack.LOG, 9.0))
    item = bench.land(bench.append())

    assert [request.failed for request in item.entry.requests] == ["", ""]
