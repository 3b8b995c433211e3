"""Do the replicas hold the same? Digests behind the same entries (A1 to A3)."""

import dataclasses

import msgspec
import pytest

from kvlog.core import agreement
from kvlog.core.agreement import CHECKPOINTS_MAX, Agreement, entries_to_checkpoint
from kvlog.core.cursor import APPLY_ENTRIES, Cursor
from kvlog.core.effects import Distrust, Effect, Note
from kvlog.core.machine import Gap, Position
from kvlog.core.values import Checkpoint, Holding, Replica
from tests.chain import Chain

GAP = Gap(2, 4, "h1")


@pytest.fixture(autouse=True)
def every_ten_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint behind every tenth entry."""
    monkeypatch.setattr(agreement, "CHECKPOINT_ENTRIES", 10)


def at(index: int, digest: str = "good") -> Position:
    return Position(applied_index=index, hash=f"h{index}", digest=digest)


def mark(node_id: str, *positions: Position, holding: Holding = Holding.WHOLE) -> Replica:
    """What a replica has published that was at these positions, the last of them durable."""
    of = Agreement(node_id)
    for position in positions:
        of.applied(position)
    return Replica(node_id, "", positions[-1].applied_index, holding, checkpoints=of.published(positions[-1]))


def compared(position: Position, *marks: Replica) -> list[Effect]:
    """What n1, which stands there, says to these marks; its own is one of them."""
    return Agreement("n1").compare((mark("n1", position), *marks), position)


def test_those_that_hold_the_same_say_nothing():
    """Nor do those that stand elsewhere (A1)."""
    assert compared(at(5), mark("n2", at(5)), mark("n3", at(4, "bad"))) == []


def test_a_store_that_differs_from_a_majority_is_not_used_any_more():
    """Two others agree with each other, and not with it (A2)."""
    [effect] = compared(at(5, "bad"), mark("n2", at(5)), mark("n3", at(5)))

    assert isinstance(effect, Distrust)
    assert "something else than those of n2 and n3 behind entry 5" in effect.reason
    assert "start this node again" in effect.reason


def test_who_agrees_with_a_majority_says_who_does_not_and_goes_on():
    """It is the other one that ends (A2)."""
    [effect] = compared(at(5), mark("n2", at(5, "bad")), mark("n3", at(5)))

    assert isinstance(effect, Note)
    assert effect.text.startswith("the store of n2 holds something else than this one behind entry 5")


@pytest.mark.parametrize(
    "marks",
    [
        (mark("n2", at(5)),),  # one against one
        (mark("n2", at(5)), mark("n3", at(5, "worse"))),  # everybody against everybody
        (mark("n2", at(5)), mark("n3", at(7)), mark("n4", at(8))),  # the others are elsewhere
        (mark("n2", at(5)), mark("n3", at(5)), mark("n4", at(5, "bad")), mark("n5", at(5, "bad"))),
        (mark("n2", at(5)), mark("n3", at(5)), mark("n4", at(6)), mark("n5", at(6))),  # who knows what they hold
    ],
)
def test_without_a_majority_nobody_ends(marks: tuple[Replica, ...]):
    """A majority of those that are registered, not of those that can be asked (A2)."""
    assert {type(effect) for effect in compared(at(5, "bad"), *marks)} == {Note}


def test_what_cannot_be_compared_is_not():
    """A stale store, an entry of another log, digests that are made in another way (A1)."""
    [made] = mark("n3", at(5)).checkpoints
    stale = mark("n2", at(5), holding=Holding.STALE)
    elsewhere = mark("n2", msgspec.structs.replace(at(5), hash="another log"))
    otherwise = dataclasses.replace(
        stale, holding=Holding.WHOLE, checkpoints=(dataclasses.replace(made, digest="0.good"),)
    )
    for other in (stale, elsewhere, otherwise):
        assert compared(at(5, "bad"), other, dataclasses.replace(other, node_id="n3")) == []


def test_a_store_with_gaps_compares_nothing_and_publishes_nothing():
    """What it holds is no function of the log up to there (A1)."""
    gaps = msgspec.structs.replace(at(9), gaps=(GAP,))

    assert mark("n1", gaps).checkpoints == ()
    assert compared(gaps, mark("n2", at(9, "bad")), mark("n3", at(9, "bad"))) == []


def test_replicas_that_never_stand_at_the_same_entry_are_compared_at_the_last_checkpoint():
    """Each publishes what it held there, beside what it holds where it is durable (A3)."""
    own = Agreement("n1")
    for index in (9, 14):
        own.applied(at(index, "bad"))
    others = [mark("n2", at(9), at(12)), mark("n3", at(9), at(13))]

    assert others[0].checkpoints == (Checkpoint(9, "h9", "1.good"), Checkpoint(12, "h12", "1.good"))
    [effect] = own.compare(tuple(others), at(14, "bad"))
    assert isinstance(effect, Distrust)


def test_checkpoints_that_are_far_apart_stay_longer():
    """However fast the log grows, there is one that two marks from different moments both tell of (A3)."""
    published = mark("n1", *(at(index) for index in range(9, 1_000, 10)), at(1_003)).checkpoints

    assert [each.index for each in published] == [959, 999, 1_003]
    assert [each.index for each in mark("n1", *(at(index) for index in range(9, 1_060, 10))).checkpoints] == [
        959,
        1_039,
        1_059,
    ]


def test_a_transaction_of_the_store_ends_at_a_checkpoint(monkeypatch: pytest.MonkeyPatch):
    """However many entries wait: else there would be no digest behind it (A3)."""
    chain = Chain()
    for number in range(APPLY_ENTRIES):
        chain.put("k", str(number))
    cursor = Cursor(Position())
    for item in chain.entries:
        cursor.offer(item.index, item.data)

    ends = []
    for _ in range(3):
        work = cursor.next_apply()
        assert work is not None
        ends.append(work.entries[-1].index)
        cursor.applied(Position(applied_index=ends[-1], hash=work.entries[-1].hash))

    assert ends == [9, 19, 29]
    assert [entries_to_checkpoint(index) for index in (0, 9, 10)] == [10, 1, 10]


def test_what_is_remembered_is_bounded():
    """The latest checkpoints, however long the log gets."""
    own = Agreement("n1")
    for index in range(9, 100_000, 10):
        own.applied(at(index))

    assert len(own._own) == CHECKPOINTS_MAX
    assert own.published(at(99_995))[-2].index == 99_989


def test_a_difference_is_said_once_until_it_is_gone():
    """Not every second; but again, if it comes again."""
    own = Agreement("n1")
    bad, good = mark("n2", at(5, "bad")), mark("n2", at(5))

    said = [len(own.compare((one,), at(5))) for one in (bad, bad, good, bad)]

    assert said == [1, 0, 0, 1]
