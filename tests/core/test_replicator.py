"""The leader's pushes: one at a time to each replica, bounded in memory, and waited for by the right writes."""

import pytest

from kvlog.core.entry import Leader
from kvlog.core.replicator import (
    ACK_WAIT_S,
    PUSH_BYTES_MAX,
    RETRY_S,
    RING_BYTES_MAX,
    RING_ENTRIES_MAX,
    Replicator,
)
from kvlog.core.values import Member, PushAnswer, PushBody


def member(node_id: str, instance: str = "i") -> Member:
    return Member(node_id, instance, f"{node_id}:80", "catchup")


class Bench:
    """A leader's replicator, and the tail of its log."""

    def __init__(self, *others: str) -> None:
        self.replicator = Replicator(node_id="n1")
        self.replicator.set_members(tuple(member(name) for name in ("n1", *others)))
        self.tail = 9

    def record(self, count: int = 1, size: int = 10) -> None:
        """So many more entries are in the log."""
        for _ in range(count):
            self.tail += 1
            self.replicator.record(self.tail, b"x" * size)

    def pushes(self, now: float = 0.0) -> dict[str, tuple[int, int]]:
        """What is pushed now: replica to first index and number of entries."""
        greeting = PushBody("c", Leader("n1", "n1:80"), 5, self.tail, self.tail + 1, ())
        pushes = self.replicator.next_pushes(now, greeting)
        return {to.node_id: (body.first_index, len(body.entries)) for to, body in pushes}

    def answer(self, node_id: str, applied: int, now: float = 0.0) -> None:
        """A replica answers where it stands."""
        self.replicator.answered(node_id, PushAnswer(applied, 5), now)

    def greet(self, node_id: str, applied: int | None = None) -> None:
        """Go through the first, empty push."""
        self.pushes()
        self.answer(node_id, self.tail if applied is None else applied)


def test_a_new_replica_is_greeted_with_nothing():
    """The first push only asks where it stands."""
    bench = Bench("n2", "n3")
    bench.record(3)

    assert bench.pushes() == {"n2": (13, 0), "n3": (13, 0)}


def test_one_push_is_in_flight_and_carries_what_has_gathered():
    """P1."""
    bench = Bench("n2")
    bench.greet("n2")
    bench.record()
    assert bench.pushes() == {"n2": (10, 1)}
    bench.record(3)
    assert bench.pushes() == {}

    bench.answer("n2", 10)

    assert bench.pushes() == {"n2": (11, 3)}


def test_who_has_everything_is_sent_nothing():
    """No entries, no push."""
    bench = Bench("n2")
    bench.greet("n2")

    assert bench.pushes(now=99) == {}


def test_the_own_node_is_no_replica():
    """A leader does not push to itself."""
    assert Bench().pushes() == {}


def test_a_replica_that_lags_too_far_is_told_the_tail_only():
    """What is not kept any more it reads from the log (P2)."""
    bench = Bench("n2")
    bench.greet("n2", applied=3)
    bench.record()

    assert bench.pushes() == {"n2": (11, 0)}


@pytest.mark.parametrize(("count", "size"), [(RING_ENTRIES_MAX + 100, 10), (40, RING_BYTES_MAX // 20)])
def test_what_is_kept_is_bounded(count: int, size: int):
    """By number and by bytes, whatever the replicas do (P2)."""
    bench = Bench("n2")
    bench.record(count, size)
    ring = bench.replicator._ring

    assert len(ring) <= RING_ENTRIES_MAX
    assert sum(len(data) for _, data in ring) == bench.replicator._ring_bytes <= RING_BYTES_MAX
    assert ring[-1][0] == bench.tail


def test_a_push_is_bounded_but_takes_at_least_one_entry():
    """PUSH_BYTES_MAX; an entry that is larger goes alone."""
    bench = Bench("n2")
    bench.greet("n2")
    bench.record(5, PUSH_BYTES_MAX // 2)
    assert bench.pushes() == {"n2": (10, 2)}
    bench.answer("n2", 11)
    bench.record(1, PUSH_BYTES_MAX * 2)
    assert bench.pushes() == {"n2": (12, 2)}
    bench.answer("n2", 14)

    assert bench.pushes() == {"n2": (15, 1)}


def test_a_replica_that_failed_is_greeted_again_after_a_while():
    """Its answer may have been lost: it says anew where it stands, and gets what it lacks."""
    bench = Bench("n2")
    bench.greet("n2")
    bench.record(2)
    bench.pushes()
    bench.replicator.failed("n2", 1.0)
    assert bench.pushes(now=1.0 + RETRY_S - 0.01) == {}
    assert bench.pushes(now=1.0 + RETRY_S) == {"n2": (12, 0)}
    bench.answer("n2", 10)

    assert bench.pushes(now=2.0) == {"n2": (11, 1)}


def test_a_replica_that_could_not_use_a_push_gets_the_next_one_later():
    """No tight loop with a replica that does not move."""
    bench = Bench("n2")
    bench.greet("n2", applied=9)
    bench.record()
    bench.pushes()
    bench.answer("n2", 9, now=1.0)

    assert bench.pushes(now=1.0) == {}
    assert bench.pushes(now=1.0 + RETRY_S) == {"n2": (10, 1)}


def test_a_replica_that_is_a_new_process_starts_from_nothing():
    """Another instance under the same id is another replica; the same one stays as it is."""
    bench = Bench("n2", "n3")
    bench.greet("n2")
    bench.answer("n3", bench.tail)
    bench.replicator.set_members((member("n1"), member("n2", "new"), member("n3")))
    bench.record()

    assert bench.pushes() == {"n2": (11, 0), "n3": (10, 1)}
    assert bench.replicator.report() == {"n2": "behind", "n3": "applied"}


def test_answers_of_who_has_gone_are_ignored():
    """A replica that is no member any more changes nothing."""
    bench = Bench("n2")
    bench.pushes()
    bench.replicator.set_members((member("n1"),))
    bench.answer("n2", 99)
    bench.replicator.failed("n2", 0.0)

    assert bench.replicator.report() == {}


# --- P3: what an answer waits for -----------------------------------------------------------------------------


def test_without_replicas_nothing_is_waited_for():
    """The log's own acknowledgement is enough."""
    assert Bench().replicator.acked_index(12, 0.0) == 12


def test_a_replica_that_keeps_up_is_waited_for():
    """P3."""
    bench = Bench("n2", "n3")
    bench.greet("n2")
    bench.answer("n3", bench.tail)
    bench.record(2)
    bench.pushes()
    assert bench.replicator.acked_index(11, 0.0) == 9
    bench.answer("n2", 11)
    assert bench.replicator.acked_index(11, 0.1) == 9
    bench.answer("n3", 10)

    assert bench.replicator.acked_index(11, 0.2) == 11


def test_a_new_replica_is_waited_for_until_it_says_where_it_stands():
    """It may have everything: its first answer tells (P3)."""
    bench = Bench("n2")
    bench.pushes()
    assert bench.replicator.acked_index(9, 0.0) == -1
    assert bench.replicator.report() == {"n2": "behind"}
    bench.answer("n2", 9)

    assert bench.replicator.acked_index(9, 0.1) == 9
    assert bench.replicator.report() == {"n2": "applied"}


@pytest.mark.parametrize("answers", [True, False])
def test_a_new_replica_that_is_behind_or_silent_is_not_waited_for_any_more(answers: bool):
    """Its first answer shows that it lags, or does not come at all (P3)."""
    bench = Bench("n2")
    bench.pushes()
    assert bench.replicator.acked_index(9, 0.0) == -1
    if answers:
        bench.answer("n2", 3)
    else:
        bench.replicator.failed("n2", 0.1)

    assert bench.replicator.acked_index(9, 0.2) == 9
    assert bench.replicator.report() == {"n2": "behind"}


def test_a_silent_replica_is_waited_for_no_longer_than_the_bound():
    """From ACK_WAIT_S on it is behind, until it has caught up (P3)."""
    bench = Bench("n2")
    bench.greet("n2")
    bench.record()
    bench.pushes()
    assert bench.replicator.acked_index(10, 5.0) == 9
    assert bench.replicator.acked_index(10, 5.0 + ACK_WAIT_S - 0.01) == 9
    assert bench.replicator.acked_index(10, 5.0 + ACK_WAIT_S) == 10
    assert bench.replicator.report() == {"n2": "behind"}
    bench.answer("n2", 10)

    assert bench.replicator.report() == {"n2": "applied"}


def test_a_replica_that_failed_is_not_waited_for():
    """A push without an answer ends the waiting at once (P3)."""
    bench = Bench("n2")
    bench.greet("n2")
    bench.record()
    bench.pushes()
    bench.replicator.failed("n2", 0.0)

    assert bench.replicator.acked_index(10, 0.0) == 10


def test_a_new_epoch_knows_nothing_of_the_old_one():
    """What replicas had under a former leader has to be asked anew."""
    bench = Bench("n2")
    bench.greet("n2")
    bench.record(3)
    bench.replicator.reset()
    bench.replicator.set_members((member("n1"), member("n2")))

    assert bench.pushes() == {"n2": (13, 0)}
    assert bench.replicator.acked_index(12, 0.0) == -1
    bench.answer("n2", 12)
    assert bench.replicator.acked_index(12, 0.1) == 12
