"""Going past an entry that nobody can apply, because an operator says so (K1 to K4)."""

import pytest

from kvlog.core.cursor import Cursor
from kvlog.core.effects import Note, ReadEntries, Reply, WriteSkip
from kvlog.core.entry import LogEntry, Request, Skip, decode_entry, encode_entry, encode_request
from kvlog.core.events import EntriesRead, SkipRequested
from kvlog.core.machine import Gap, Position
from kvlog.core.questions import Questions
from kvlog.core.skipping import (
    SKIPS_MAX,
    WAITING_MAX,
    Skipping,
    has_applied_what_was_skipped,
    skipped_elsewhere,
)
from kvlog.core.values import Done, Holding, Refused, Replica
from tests.chain import Chain
from tests.core.test_cursor import log, offer


class Bench:
    """A node that has halted at entry 3, behind three good ones."""

    def __init__(self) -> None:
        self.chain = log(3)
        self.questions = Questions()
        self.skipping = Skipping(self.questions, node_id="n1", instance="i1")
        self.cursor = Cursor(self.chain.position)
        self.replicas: tuple[Replica, ...] = (Replica("n1", "", 3, Holding.WHOLE),)

    def ask(self, token: int = 1, index: int = 3, halted_at: int | None = 3) -> str:
        """Ask for a skip, and have the tail confirmed; returns why it is refused, empty if it is not."""
        request = SkipRequested(token, index, "damaged")
        replies = self.skipping.request(request, self.cursor, halted_at, self.replicas, 5.0)
        if not replies:
            self.skipping.tail_confirmed(5.0)
            return ""
        (reply,) = replies
        assert isinstance(reply, Reply)
        assert isinstance(reply.answer, Refused)
        return reply.answer.reason

    def read(self, first_index: int, *data: bytes) -> None:
        """Entries have been read, by whoever has asked for them."""
        self.questions.answered(ReadEntries)
        self.skipping.read(EntriesRead(first_index, data), self.cursor, 7)

    def behind(self, *data: bytes) -> LogEntry:
        """What the skip is, when this is what the entry behind the bad one reads."""
        assert self.skipping.work() == [ReadEntries(4, 1)]
        assert self.skipping.work() == []
        self.read(4, *data)
        (effect,) = self.skipping.work()
        assert isinstance(effect, WriteSkip)
        assert effect.index == 3
        return decode_entry(3, effect.data)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_good_entry_of_another_replica_is_not_skipped(bench: Bench):
    """Somebody has applied it: it was damaged later, and the way out is that one's store (K2)."""
    others = (Replica("n3", "", 9, Holding.STALE), Replica("n4", "", 2, Holding.WHOLE))
    bench.replicas = (*others, Replica("n2", "", 3, Holding.WHOLE))
    said = bench.ask()

    assert said.startswith("n2 has applied entry 3: it was good once")
    assert "mv DATA_DIR/store" in said
    assert bench.skipping.work() == []
    bench.replicas = others
    assert bench.ask() == ""


def test_what_is_behind_is_read_once_a_quorum_has_told_the_tail(bench: Bench):
    """An answer that was asked for before the skip was wanted does not count (K3)."""
    bench.skipping.request(SkipRequested(1, 3, "damaged"), bench.cursor, 3, (), 5.0)
    bench.skipping.tail_confirmed(4.9)
    assert bench.skipping.needs_tail
    assert bench.skipping.work() == []
    bench.skipping.tail_confirmed(5.1)

    assert bench.skipping.work() == [ReadEntries(4, 1)]


# --- K1: who may skip what ------------------------------------------------------------------------------------


def test_nothing_is_skipped_unless_somebody_asks(bench: Bench):
    """A halted node waits for an operator (K1)."""
    assert bench.skipping.work() == []


def test_a_node_that_has_not_halted_skips_nothing(bench: Bench):
    """It can apply its log (K1)."""
    assert bench.ask(halted_at=None) == "this node has not halted: it needs no skip"
    assert bench.skipping.work() == []


def test_only_the_entry_at_which_the_node_has_halted_is_skipped(bench: Bench):
    """A slip of the finger costs nothing (K1)."""
    assert bench.ask(index=4) == "this node has halted at entry 3, not at 4"


@pytest.mark.parametrize(
    "position", [Position(applied_index=1), Position(applied_index=2, gaps=(Gap(1, 2, "h"),))]
)
def test_everything_before_a_skipped_entry_is_applied(bench: Bench, position: Position):
    """The skip says which revisions are left out, and what it is chained to (K1)."""
    bench.cursor = Cursor(position)

    assert bench.ask() == "this node has not applied everything before entry 3"


def test_skips_are_bounded(bench: Bench):
    """They stay in the position for ever; a log of so many bad entries needs a backup."""
    bench.cursor = Cursor(Position(applied_index=2, skipped=tuple(range(SKIPS_MAX))))

    assert bench.ask() == "100 entries were skipped already: restore a backup instead"


def test_requests_that_wait_are_bounded(bench: Bench):
    """Each holds a client."""
    for token in range(WAITING_MAX):
        assert bench.ask(token) == ""

    assert bench.ask(99) == "16 requests to skip are waiting already"


# --- what the skip says ---------------------------------------------------------------------------------------


def bad_then_good(bench: Bench, *, requests: int) -> LogEntry:
    """An entry that nobody can read, with so many requests, and the good one behind it; returns the latter."""
    lost = Chain()
    lost.entries, lost.position = list(bench.chain.entries), bench.chain.position
    lost.epoch = bench.chain.epoch
    lost.write(*((f"lost{number}", "x") for number in range(requests)))
    return lost.put("k", "behind")


@pytest.mark.parametrize("requests", [0, 1, 3])
def test_a_skip_is_chained_to_both_sides(bench: Bench, requests: int):
    """To the entry before it, and by what the next one says; the revisions between are left out."""
    after = bad_then_good(bench, requests=requests)
    bench.ask()
    item = bench.behind(after.data)

    assert item.entry.skip == Skip("damaged", after.entry.prev_hash)
    assert (item.entry.prev_hash, item.entry.epoch) == (bench.cursor.last_hash, bench.cursor.epoch)
    assert item.entry.first_revision == 3 + requests
    assert offer(bench.cursor, item) == [3]
    assert bench.cursor.offer(4, after.data) is not None
    assert bench.cursor.next_index == 5


@pytest.mark.parametrize("data", [(), (b"garbage",)], ids=["nothing there", "bad as well"])
def test_a_skip_with_nothing_good_behind_it_leaves_the_chain_as_it_was(bench: Bench, data: tuple[bytes, ...]):
    """A leader that has not met the bad entry yet chains its next one to what is before it."""
    bench.ask()
    item = bench.behind(*data)

    assert item.entry.skip == Skip("damaged", bench.chain.entries[2].hash)
    assert item.entry.first_revision == 3
    assert offer(bench.cursor, item) == [3]
    assert bench.cursor.last_hash == item.hash


def test_an_entry_behind_that_is_older_says_nothing(bench: Bench):
    """Its revision is used already: it does not belong there, and will need a skip of its own."""
    bench.ask()
    item = bench.behind(bench.chain.entries[1].data)

    assert item.entry.skip == Skip("damaged", bench.chain.entries[2].hash)
    assert item.entry.first_revision == 3


def test_two_bad_entries_in_a_row_are_skipped_one_after_the_other(bench: Bench):
    """The second skip is chained to the first, and knows the good entry behind (K1)."""
    bench.ask()
    first = bench.behind(b"garbage")
    offer(bench.cursor, first)
    bench.questions.answered(WriteSkip)
    bench.skipping.resumed(3, "which was skipped")
    good = Chain(epoch=2).header(prev_hash="b" * 32, first_revision=10)
    after = encode_entry(good, (encode_request(Request()),))
    bench.cursor.applied(Position(3, 2, first.hash, 2, skipped=(3,)))

    assert bench.ask(2, index=4, halted_at=4) == ""
    assert bench.skipping.work() == [ReadEntries(5, 1)]
    bench.read(5, after)
    (effect,) = bench.skipping.work()
    assert isinstance(effect, WriteSkip)
    second = decode_entry(4, effect.data)

    assert second.entry.skip == Skip("damaged", "b" * 32)
    assert offer(bench.cursor, second) == [4]
    assert bench.cursor.offer(5, after) is not None


# --- asking and answering -------------------------------------------------------------------------------------


def test_a_read_of_other_entries_is_not_taken_for_the_one_behind(bench: Bench):
    """An answer that was under way when the node halted (K1)."""
    bench.ask()
    bench.skipping.work()
    bench.read(1, bench.chain.entries[1].data)

    assert bench.skipping.work() == [ReadEntries(4, 1)]


def test_a_skip_is_written_once(bench: Bench):
    """Once it is there, the node waits until it sees it in the log; it does not write it again and again."""
    bench.ask()
    bench.behind()
    assert bench.skipping.work() == []
    bench.questions.answered(WriteSkip)
    bench.skipping.written = True

    assert bench.skipping.work() == []


def test_a_skip_that_could_not_be_written_is_tried_again(bench: Bench):
    """After a pause; the first one that was written counts, whoever wrote it."""
    bench.ask()
    bench.behind()
    bench.questions.now = 1.0
    bench.questions.failed(WriteSkip)
    assert bench.skipping.work() == []
    bench.questions.now = 2.0

    assert [type(effect) for effect in bench.skipping.work()] == [WriteSkip]


def test_all_who_asked_are_told(bench: Bench):
    """Once the skip has been seen in the log; then nothing is wanted any more."""
    bench.ask(1)
    bench.ask(2)
    bench.behind()
    text = "goes on behind entry 3, which was skipped"

    assert bench.skipping.resumed(3, "which was skipped") == [
        Note(text),
        Reply(1, Done(text)),
        Reply(2, Done(text)),
    ]
    assert bench.skipping.work() == []


# --- K2: who has applied it ----------------------------------------------------------------------------------

APPLIED = [
    ("nothing was skipped", Position(applied_index=9), (), None),
    ("it is ahead", Position(applied_index=9), (10,), None),
    ("it was applied", Position(applied_index=9), (9,), 9),
    ("it was skipped here too", Position(applied_index=9, skipped=(4,)), (4,), None),
    ("one of them was applied", Position(applied_index=9, skipped=(4,)), (4, 7, 12), 7),
    ("it was missed", Position(applied_index=9, gaps=(Gap(2, 4, "h"), Gap(6, 8, "h"))), (2, 4, 7), None),
    ("it is between the gaps", Position(applied_index=9, gaps=(Gap(2, 4, "h"), Gap(6, 8, "h"))), (2, 5), 5),
    ("the store is empty", Position(), (0, 1), None),
]


@pytest.mark.parametrize(("position", "skips", "found"), [pytest.param(*row[1:], id=row[0]) for row in APPLIED])
def test_a_store_that_has_applied_a_skipped_entry_is_found(
    position: Position, skips: tuple[int, ...], found: int | None
):
    """Its data differs from that of all who have skipped it (K4)."""
    assert found == has_applied_what_was_skipped(position, skips)


def test_a_store_that_differs_is_told_what_to_do():
    """What happened, what it means, what to do."""
    assert "mv DATA_DIR/store DATA_DIR/store.before" in skipped_elsewhere(7)
    assert "log entry 7" in skipped_elsewhere(7)


def test_a_new_connection_has_to_confirm_the_tail_again():
    """Its server may not have the entry behind the bad one yet, and the skip would be chained past it (K3)."""
    bench = Bench()
    assert bench.ask() == ""
    bench.skipping.disconnected()

    assert bench.skipping.needs_tail
    assert bench.skipping.work() == []
    bench.skipping.tail_confirmed(6.0)
    assert bench.skipping.work() == [ReadEntries(4, 1)]
