"""Taking over: what counts as proof (L1 to L3). The way as a whole is in the golden scripts."""

import pytest

from kvlog.core.commands import Grant, KeepAlive, update
from kvlog.core.cursor import Cursor
from kvlog.core.effects import Append
from kvlog.core.entry import Delete, Leader, decode_entry
from kvlog.core.evaluate import evaluate, first_lease, lease_key
from kvlog.core.events import Appended, AppendRefused, Enrolled, WriteSubmitted
from kvlog.core.leadership import Leadership
from kvlog.core.leases import ENDED_MAX, RETRY_S
from kvlog.core.machine import Position
from kvlog.core.role import Input
from kvlog.core.values import Ack
from kvlog.errors import BadEntry
from kvlog.memory_store import MemoryStore
from tests.chain import Chain

CANDIDATE = Enrolled("n1_i1_0000000000", epoch=5, session_id=1)


@pytest.fixture
def leadership() -> Leadership:
    """A node that has just been elected, at the time 10."""
    leadership = Leadership(Leader("n1", "n1:80"), MemoryStore(), instance="i1")
    leadership.elected(10.0, ())
    return leadership


def test_a_tail_that_was_asked_for_before_the_election_does_not_count(leadership: Leadership):
    """L1: the former leader may have appended between that answer and its end."""
    leadership.tail_confirmed(-1, asked_at=9.9)

    assert leadership.needs_tail
    assert leadership.take_over(Cursor(Position()), CANDIDATE, 10.0, 0).effects == []


def test_a_tail_of_an_earlier_election_does_not_count(leadership: Leadership):
    """L1: each election begins anew."""
    leadership.tail_confirmed(-1, asked_at=10.0)
    leadership.elected(11.0, ())

    assert leadership.needs_tail


def test_nothing_is_appended_before_the_confirmed_tail_is_applied(leadership: Leadership):
    """L1: an entry behind what is not known here would not chain."""
    leadership.tail_confirmed(3, asked_at=10.0)

    takeover = leadership.take_over(Cursor(Position(applied_index=2)), CANDIDATE, 10.0, 0)

    assert (takeover.change, takeover.effects) == (None, [])


def test_the_barrier_comes_first(leadership: Leadership):
    """L2: it is not a leader yet."""
    leadership.tail_confirmed(-1, asked_at=10.0)

    takeover = leadership.take_over(Cursor(Position()), CANDIDATE, 10.0, 0)

    assert takeover.change is None
    assert [(append.index, append.fence) for append in takeover.effects] == [(0, CANDIDATE.name)]


def test_an_own_barrier_that_is_applied_makes_a_leader(leadership: Leadership):
    """L2: also after a lost connection, without a second one."""
    leadership.tail_confirmed(0, asked_at=10.0)
    position = Position(applied_index=0, hash="h", epoch=CANDIDATE.epoch)

    assert leadership.take_over(Cursor(position), CANDIDATE, 10.0, 0).change is Input.SERVING


def test_a_later_epoch_in_the_log_ends_the_candidacy(leadership: Leadership):
    """A view of the candidates may be old; the log is not."""
    leadership.tail_confirmed(0, asked_at=10.0)
    position = Position(applied_index=0, hash="h", epoch=CANDIDATE.epoch + 1)

    assert leadership.take_over(Cursor(position), CANDIDATE, 10.0, 0).change is Input.RESIGNED


def test_an_append_at_another_index_than_expected_is_damage(leadership: Leadership):
    """Something else than entries is in the segment: every node halts there."""
    leadership.tail_confirmed(-1, asked_at=10.0)
    cursor = Cursor(Position())
    barrier = leadership.take_over(cursor, CANDIDATE, 10.0, 0).effects[0]

    with pytest.raises(BadEntry, match="log entry 0: was appended at 1"):
        leadership.appended(Appended(barrier.batch_id, 1), cursor, 1.0)


def test_an_append_that_zookeeper_refuses_is_followed_by_a_pause(leadership: Leadership):
    """An ACL, say: the node stays elected, says why, and does not hammer ZooKeeper."""
    leadership.tail_confirmed(-1, asked_at=10.0)
    cursor = Cursor(Position())
    barrier = leadership.take_over(cursor, CANDIDATE, 10.0, 0).effects[0]

    effects = leadership.refused(AppendRefused(barrier.batch_id, "NoAuth"), 10.0)
    at_once = leadership.take_over(cursor, CANDIDATE, 10.5, 0).effects
    later = leadership.take_over(cursor, CANDIDATE, 11.5, 0).effects

    assert [effect.text for effect in effects] == ["NoAuth"]
    assert (len(at_once), len(later)) == (0, 1)


def test_after_a_refusal_nothing_is_evaluated_before_all_is_applied(leadership: Leadership):
    """W5: the refused entry may have hidden what an earlier one, still on its way to the store, wrote."""
    chain, cursor = Chain(), Cursor(Position())
    chain.put("k", "1")
    cursor.offer(0, chain.entries[0].data)
    leadership.writer.submit(WriteSubmitted(1, update("k", "2"), Ack.LOG, 99.0))
    leadership.refused(AppendRefused("gone", "NoAuth"), 10.0)

    before = leadership.append(cursor, CANDIDATE, 12.0, 0)
    cursor.next_apply()
    cursor.applied(Position(applied_index=0, hash=chain.entries[0].hash, revision=1))
    after = leadership.append(cursor, CANDIDATE, 12.0, 0)

    assert (len(before), len(after)) == (0, 1)


def granted(leadership: Leadership, store: MemoryStore, chain: Chain, count: int) -> list[int]:
    """So many leases of a second each, which the leader knows of at the time 20."""
    revisions = []
    for _ in range(count):
        revisions.append(chain.position.revision + 1)
        chain.request(evaluate(store, Grant(1_000), revisions[-1]))
    store.apply(tuple(chain.entries), fill=False)
    leases = [first_lease(revision) for revision in revisions]
    leadership.leases.listed(tuple((lease, 1_000) for lease in leases), 20.0)
    return leases


def test_leases_that_are_over_leave_room_for_other_writes():
    """However many end at once, and however much else happens before they can be appended."""
    store, chain = MemoryStore(), Chain()
    leadership = Leadership(Leader("n1", "n1:80"), store, instance="i1")
    granted(leadership, store, chain, 3 * ENDED_MAX)

    for _ in range(50):
        leadership.end_leases(30.0)

    assert len(leadership.writer.queue) == ENDED_MAX


def test_a_lease_that_ended_while_it_was_listed_is_forgotten():
    """It was revoked before the listing came: nobody tries to end it for ever."""
    store = MemoryStore()
    leadership = Leadership(Leader("n1", "n1:80"), store, instance="i1")
    leadership.leases.listed(((7_000, 1_000),), 20.0)

    leadership.end_leases(30.0)

    assert (len(leadership.leases), len(leadership.writer.queue)) == (0, 0)


def test_a_lease_whose_end_is_refused_is_ended_later():
    """While its end is under way it looks as if it were gone, and is not forgotten for that."""
    store, chain = MemoryStore(), Chain()
    leadership = Leadership(Leader("n1", "n1:80"), store, instance="i1")
    (lease,) = granted(leadership, store, chain, 1)
    cursor = Cursor(chain.position)
    leadership.end_leases(30.0)
    (append,) = leadership.append(cursor, CANDIDATE, 30.0, 0)
    assert isinstance(append, Append)
    leadership.end_leases(30.0 + RETRY_S)
    leadership.refused(AppendRefused(append.batch_id, "an ACL"), 31.5)

    leadership.end_leases(40.0)
    (again,) = leadership.append(cursor, CANDIDATE, 40.0, 0)

    assert isinstance(again, Append)
    (request,) = decode_entry(again.index, again.data).entry.requests
    assert request.effects == (Delete(lease_key(lease)),)


def test_a_keep_alive_counts_although_the_log_is_full(leadership: Leadership):
    """It cannot be confirmed, but the leader has heard of it: the lease does not end once there is room (E1)."""
    leadership.leases.listed(((7_000, 1_000),), 20.0)

    leadership.submit(WriteSubmitted(1, KeepAlive(7_000), Ack.LOG, 29.0), "the log is full", 20.9)

    assert leadership.leases.due(21.8) == []
    assert leadership.leases.due(21.9) == [7_000]
