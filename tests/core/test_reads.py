"""Reads that wait: what they wait for, and what they are told when it does not come (Q1 to Q3)."""

import pytest

from kvlog.core.cursor import Cursor
from kvlog.core.effects import Reply
from kvlog.core.events import ReadSubmitted
from kvlog.core.machine import Gap, Position
from kvlog.core.reads import WAITING_MAX, Reads
from kvlog.core.values import Reached, Refused


def cursor(index: int, revision: int, *, gaps: tuple[Gap, ...] = ()) -> Cursor:
    return Cursor(Position(applied_index=index, revision=revision, gaps=gaps))


@pytest.fixture
def reads() -> Reads:
    return Reads()


def refusal(replies: list[Reply]) -> str:
    """The words of the only answer."""
    assert [type(reply.answer) for reply in replies] == [Refused]
    return replies[0].answer.reason


def test_a_read_waits_for_its_revision(reads: Reads):
    """Not a revision less; and it is answered once (Q3)."""
    assert reads.submit(ReadSubmitted(1, 5.0, min_revision=7), cursor(3, 6), 0.0) == []

    assert reads.ready(cursor(3, 6)) == []
    assert reads.ready(cursor(4, 7)) == [Reply(1, Reached(4))]
    assert reads.ready(cursor(5, 8)) == []


def test_a_read_waits_for_its_index(reads: Reads):
    """The same for an entry of the log."""
    reads.submit(ReadSubmitted(1, 5.0, min_index=4), cursor(3, 6), 0.0)

    assert reads.ready(cursor(3, 6)) == []
    assert reads.ready(cursor(4, 6)) == [Reply(1, Reached(4))]


def test_a_confirmation_that_was_asked_for_earlier_is_not_used(reads: Reads):
    """Something may have been acknowledged between the two (Q1)."""
    reads.submit(ReadSubmitted(1, 9.0, linearizable=True), cursor(3, 6), 2.0)
    reads.tail_confirmed(3, 1.999)

    assert reads.ready(cursor(3, 6)) == []
    assert reads.unconfirmed


def test_one_confirmation_serves_all_that_came_before_it(reads: Reads):
    """Each waits until what it has told is applied (Q1)."""
    for token in (1, 2):
        reads.submit(ReadSubmitted(token, 9.0, linearizable=True), cursor(3, 6), float(token))
    reads.tail_confirmed(4, 2.0)

    assert not reads.unconfirmed
    assert reads.ready(cursor(3, 6)) == []
    assert [reply.token for reply in reads.ready(cursor(4, 7))] == [1, 2]


def test_a_confirmation_serves_none_that_came_after_it_was_asked_for(reads: Reads):
    """They wait for the next one, and count until it has come (Q1)."""
    for token, now in ((1, 1.0), (2, 2.0), (3, 3.0)):
        reads.submit(ReadSubmitted(token, 9.0, linearizable=True), cursor(3, 6), now)
    assert reads.unconfirmed == 3

    reads.tail_confirmed(3, 2.0)
    assert reads.unconfirmed == 1
    assert [reply.token for reply in reads.ready(cursor(3, 6))] == [1, 2]

    reads.tail_confirmed(4, 3.0)
    assert reads.unconfirmed == 0
    assert reads.ready(cursor(3, 6)) == []
    assert reads.ready(cursor(4, 7)) == [Reply(3, Reached(4))]


def test_a_later_confirmation_asks_no_more_of_a_read_that_has_its_own(reads: Reads):
    """What came after it need not be shown: else it would wait for ever on a busy node (Q1)."""
    reads.submit(ReadSubmitted(1, 9.0, linearizable=True), cursor(3, 6), 1.0)
    reads.tail_confirmed(4, 1.0)
    reads.tail_confirmed(8, 2.0)

    assert reads.ready(cursor(4, 7)) == [Reply(1, Reached(4))]


def test_a_linearizable_read_waits_for_its_revision_as_well(reads: Reads):
    """Confirmed is not enough, nor is the revision without a confirmation (Q1)."""
    reads.submit(ReadSubmitted(1, 9.0, min_revision=8, linearizable=True), cursor(3, 6), 1.0)

    assert reads.ready(cursor(5, 8)) == []
    reads.tail_confirmed(4, 1.0)
    assert reads.ready(cursor(4, 7)) == []
    assert reads.ready(cursor(5, 8)) == [Reply(1, Reached(5))]


def test_reads_that_need_no_confirmation_ask_for_none(reads: Reads):
    """Nobody asks a quorum for them."""
    reads.submit(ReadSubmitted(1, 9.0, min_revision=7), cursor(3, 6), 1.0)

    assert reads.unconfirmed == 0


def test_entries_that_are_missed_end_the_wait_for_a_confirmation_too(reads: Reads):
    """What a quorum tells cannot be shown here (Q2); each is answered once (Q3)."""
    for token in (1, 2):
        reads.submit(ReadSubmitted(token, 9.0, linearizable=True), cursor(3, 6), 1.0)
    reads.submit(ReadSubmitted(3, 9.0, min_revision=7), cursor(3, 6), 1.0)
    stale = cursor(9, 9, gaps=(Gap(4, 5, ""),))

    assert sorted(reply.token for reply in reads.ready(stale)) == [1, 2, 3]
    assert reads.unconfirmed == 0
    reads.tail_confirmed(9, 2.0)
    assert reads.ready(stale) == []


def test_a_confirmed_read_is_told_at_its_deadline_what_is_not_applied(reads: Reads):
    """The quorum has answered; this node is behind (Q3)."""
    reads.submit(ReadSubmitted(1, 5.0, linearizable=True), cursor(3, 6), 0.0)
    reads.tail_confirmed(4, 0.0)

    assert "index 4 is not applied yet" in refusal(reads.expire(5.0, cursor(3, 6), connected=True, halted=""))


def test_a_stale_store_answers_none_of_them(reads: Reads):
    """Neither when it comes nor when entries are declared missed while it waits (Q2)."""
    stale = cursor(9, 9, gaps=(Gap(4, 5, ""),))

    assert "stale: it has missed 2 entries" in refusal(reads.submit(ReadSubmitted(1, 9.0), stale, 0.0))

    reads.submit(ReadSubmitted(2, 9.0, min_revision=7), cursor(3, 6), 0.0)
    assert "stale" in refusal(reads.ready(stale))
    assert reads.ready(stale) == []


@pytest.mark.parametrize(
    ("read", "connected", "halted", "reason"),
    [
        (ReadSubmitted(1, 5.0, linearizable=True), True, "", "ZooKeeper's quorum has not answered"),
        (ReadSubmitted(1, 5.0, linearizable=True), False, "", "no connection to ZooKeeper"),
        (
            ReadSubmitted(1, 5.0, min_revision=7),
            True,
            "",
            "stands at revision 6, index 3, and revision 7 has not come",
        ),
        (ReadSubmitted(1, 5.0, min_index=8), True, "", "index 8 is not applied yet"),
        (ReadSubmitted(1, 5.0, min_revision=7), True, "log entry 4: damaged", "halted: log entry 4: damaged"),
    ],
)
def test_at_its_deadline_a_read_is_told_what_it_has_waited_for(
    reads: Reads, read: ReadSubmitted, connected: bool, halted: str, reason: str
):
    """Not before, and once (Q3)."""
    reads.submit(read, cursor(3, 6), 0.0)

    assert reads.expire(4.9, cursor(3, 6), connected=connected, halted=halted) == []
    assert reason in refusal(reads.expire(5.0, cursor(3, 6), connected=connected, halted=halted))
    assert reads.expire(6.0, cursor(3, 6), connected=connected, halted=halted) == []


def test_what_waits_is_bounded(reads: Reads):
    """One more is refused at once."""
    for token in range(WAITING_MAX):
        read = ReadSubmitted(token, 9.0, min_revision=7, linearizable=token % 2 == 0)
        assert reads.submit(read, cursor(3, 6), 0.0) == []

    assert "are waiting already" in refusal(reads.submit(ReadSubmitted(9_999, 9.0), cursor(3, 6), 0.0))
