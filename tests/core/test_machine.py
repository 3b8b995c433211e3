"""The state machine: commands become effects, effects become state, in whichever order they have to."""

import dataclasses

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.core.commands import update
from kvlog.core.entry import NO_HASH, Delete, LogEntry, Put, Request
from kvlog.core.evaluate import evaluate
from kvlog.core.machine import (
    DIGEST_MODULUS,
    Gap,
    Identity,
    Position,
    Record,
    Remembered,
    apply_entry,
    digest_of,
    digest_of_request,
    fill_entry,
    open_gap,
    record_after,
)
from kvlog.errors import InvariantViolation
from kvlog.memory_store import MemoryTransaction
from tests.chain import Chain


@dataclasses.dataclass
class Replica:
    """A store's data and position, moved by the functions under test."""

    transaction: MemoryTransaction = dataclasses.field(default_factory=lambda: MemoryTransaction({}, {}))
    position: Position = dataclasses.field(default_factory=Position)

    def apply(self, *items: LogEntry) -> None:
        for item in items:
            self.position = apply_entry(self.transaction, self.position, item)

    def fill(self, *items: LogEntry) -> None:
        for item in items:
            self.position = fill_entry(self.transaction, self.position, item)

    def skip_to(self, index: int) -> None:
        self.position = open_gap(self.position, index)

    @classmethod
    def remembering(cls, window: int) -> "Replica":
        """An empty one of a cluster that remembers requests for so many revisions."""
        return cls(position=Position(identity=Identity("c1", 1, window)))

    @property
    def requests(self) -> dict[str, Remembered]:
        return self.transaction.requests

    @property
    def records(self) -> dict[str, Record]:
        return self.transaction.records


def digest_from_scratch(records: dict[str, Record], requests: dict[str, Remembered] | None = None) -> str:
    """What Position.digest has to be, computed from the records and the remembered requests alone."""
    shares = [digest_of(key, record) for key, record in records.items()]
    shares += [digest_of_request(name, outcome) for name, outcome in (requests or {}).items()]
    return f"{sum(shares) % DIGEST_MODULUS:032x}"


# --- evaluate -------------------------------------------------------------------------------------------------


def test_the_first_put_of_a_key_creates_it():
    """Its create revision is its own, its version 1."""
    put = Put(key="k", value="v", create=7, version=1)

    assert Request(effects=(put,)) == evaluate(MemoryTransaction({}, {}), update("k", "v"), 7)


def test_a_later_put_counts_on():
    """It keeps the create revision and has the next version."""
    before = MemoryTransaction({"k": Record("old", create=3, revision=5, version=2)}, {})
    put = Put(key="k", value="v", create=3, version=3)

    assert Request(effects=(put,)) == evaluate(before, update("k", "v"), 7)


def test_evaluating_changes_nothing():
    """Only entries change the state."""
    view = MemoryTransaction({}, {})
    evaluate(view, update("k", "v"), 1)

    assert MemoryTransaction({}, {}) == view


def test_effects_are_blind():
    """What a put leaves behind depends on the put and its revision alone."""
    assert Record("v", 3, 9, 4) == record_after(Put(key="k", value="v", create=3, version=4), 9)
    assert record_after(Delete(key="k"), 9) is None


# --- apply ----------------------------------------------------------------------------------------------------


def test_a_replica_holds_the_last_put_of_each_key():
    """Values, create revisions, revisions and versions are those of the log (M3)."""
    chain, replica = Chain(), Replica()
    chain.barrier()
    chain.write(("a", "1"), ("b", "1"), ("a", "2"))
    chain.put("a", "3")
    replica.apply(*chain.entries)

    assert replica.records == {"a": Record("3", 1, 4, 3), "b": Record("1", 2, 2, 1)}
    assert (2, 4, chain.entries[2].hash) == (
        replica.position.applied_index,
        replica.position.revision,
        replica.position.hash,
    )


def test_a_deleted_key_begins_anew():
    """After a delete, the next put creates the key again."""
    chain, replica = Chain(), Replica()
    chain.put("k", "1")
    chain.put("k", "2")
    chain.delete("k")
    chain.put("k", "3")
    replica.apply(*chain.entries)

    assert replica.records == {"k": Record("3", create=4, revision=4, version=1)}


def test_deleting_what_is_not_there_takes_a_revision_and_nothing_else():
    """A blind delete of an absent key is harmless."""
    chain, replica = Chain(), Replica()
    chain.delete("k")
    replica.apply(*chain.entries)

    assert (replica.position.revision, replica.position.digest, replica.records) == (1, NO_HASH, {})


def test_a_barrier_changes_the_epoch_and_the_leader_only():
    """A barrier uses up an index and its bytes, no revision, and tells who leads (M8)."""
    chain, replica = Chain(), Replica()
    chain.put("k", "1")
    replica.apply(*chain.entries)
    before = replica.position
    barrier = chain.barrier("n2", epoch=9)
    replica.apply(barrier)
    expected = msgspec.structs.replace(
        before,
        applied_index=1,
        hash=barrier.hash,
        epoch=9,
        leader=barrier.entry.leader,
        log_bytes=before.log_bytes + len(barrier.data),
    )

    assert expected == replica.position


def test_an_entry_out_of_turn_is_a_bug():
    """Neither a later nor the same entry is applied after a position (M1)."""
    chain = Chain()
    first, second = chain.put("a", "1"), chain.put("b", "1")
    with pytest.raises(InvariantViolation):
        Replica().apply(second)
    replica = Replica()
    replica.apply(first)
    with pytest.raises(InvariantViolation):
        replica.apply(first)


def test_an_entry_with_a_revision_of_its_own_is_a_bug():
    """Where the position is known, revisions go on without a jump."""
    chain, other = Chain(), Chain()
    replica = Replica()
    replica.apply(chain.put("a", "1"))
    other.write(("a", "1"), ("b", "1"))
    with pytest.raises(InvariantViolation, match="starts at revision 3"):
        replica.apply(other.put("c", "1"))


# --- digest ---------------------------------------------------------------------------------------------------


def test_the_digest_is_of_the_records_alone():
    """Two logs that end with the same records end with the same digest (M4)."""
    one, other = Chain(), Chain()
    one.write(("a", "1"), ("b", "2"), ("gone", "x"), ("gone", None))
    other.write(("a", "1"), ("b", "2"), ("never", None), ("never", None))

    assert one.records == other.records
    assert one.position.digest == other.position.digest
    assert one.position.hash != other.position.hash


@pytest.mark.parametrize(
    "other",
    [Record("w", 1, 2, 3), Record("v", 2, 2, 3), Record("v", 1, 3, 3), Record("v", 1, 2, 4)],
    ids=["value", "create", "revision", "version"],
)
def test_the_digest_sees_every_field(other: Record):
    """Records that differ in anything, the key included, have different shares."""
    assert digest_of("k", Record("v", 1, 2, 3)) != digest_of("k", other)
    assert digest_of("k", other) != digest_of("l", other)


CHANGES = st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.text(max_size=3)))
ENTRIES = st.lists(st.one_of(st.just("barrier"), st.lists(CHANGES, min_size=1, max_size=3)), max_size=24)


def chain_of(entries: list[str | list[tuple[str, str | None]]]) -> Chain:
    """The log with these changes."""
    chain = Chain()
    chain.barrier("n0")
    for number, changes in enumerate(entries, start=1):
        if isinstance(changes, str):
            chain.barrier(f"n{number}")
        else:
            chain.write(*changes)
    return chain


@settings(deadline=None)
@given(ENTRIES)
def test_the_digest_kept_up_is_the_digest_from_scratch(entries: list):
    """However it came about, the incremental digest is that of the records (M4)."""
    chain = chain_of(entries)

    assert digest_from_scratch(chain.records) == chain.position.digest


# --- gaps -----------------------------------------------------------------------------------------------------


def test_a_gap_is_stood_behind():
    """What is declared missed is known by its place, and by the hash that it must be chained to."""
    chain, replica = Chain(), Replica()
    for number in range(6):
        chain.put("k", str(number))
    replica.apply(*chain.entries[:2])
    replica.skip_to(4)
    gap = Gap(first=2, last=4, prev_hash=chain.entries[1].hash, revision=2, epoch=1)

    assert (4, 2, "", (gap,), 3) == (
        replica.position.applied_index,
        replica.position.revision,
        replica.position.hash,
        replica.position.gaps,
        replica.position.missed_entries,
    )


def test_a_gap_at_the_head_grows():
    """Missing more right behind a gap is one larger gap; after an entry it is another one."""
    chain, replica = Chain(), Replica()
    for number in range(9):
        chain.put("k", str(number))
    replica.skip_to(1)
    replica.skip_to(3)
    replica.apply(chain.entries[4])
    replica.skip_to(7)

    assert replica.position.gaps == (
        Gap(0, 3, NO_HASH, last_hash=chain.entries[3].hash),  # as entry 4 has told
        Gap(5, 7, chain.entries[4].hash, revision=5, epoch=1),
    )


def test_an_empty_gap_is_a_bug():
    """There is nothing to miss up to the position."""
    replica = Replica()
    replica.apply(Chain().put("k", "1"))
    with pytest.raises(InvariantViolation):
        replica.skip_to(0)


def test_a_missed_older_put_does_not_win():
    """Filling touches a key only where its revision is lower (M6)."""
    chain, replica = Chain(), Replica()
    chain.put("k", "old")
    chain.put("k", "new")
    replica.skip_to(0)
    replica.apply(chain.entries[1])
    replica.fill(chain.entries[0])

    assert chain.records == replica.records
    assert chain.position == replica.position


def test_a_missed_put_of_a_deleted_key_does_not_come_back():
    """The tombstone of a deletion seen while there was a gap keeps it away, and goes with the gap (M5)."""
    chain, replica = Chain(), Replica()
    chain.put("k", "1")
    chain.delete("k")
    replica.skip_to(0)
    replica.apply(chain.entries[1])
    assert replica.transaction.tombstones == {"k": 2}

    replica.fill(chain.entries[0])

    assert MemoryTransaction({}, {}) == replica.transaction
    assert chain.position == replica.position


def test_a_deletion_without_gaps_leaves_no_tombstone():
    """Whole stores need none (M5)."""
    chain, replica = Chain(), Replica()
    chain.put("k", "1")
    chain.delete("k")
    replica.apply(*chain.entries)

    assert replica.transaction.tombstones == {}


def test_gaps_are_filled_from_their_beginning():
    """An entry that is not the first missed one is a bug."""
    chain, replica = Chain(), Replica()
    for number in range(3):
        chain.put("k", str(number))
    replica.skip_to(2)
    with pytest.raises(InvariantViolation, match="1 filled into"):
        replica.fill(chain.entries[1])


def test_a_request_with_two_effects_on_one_key_fills_as_it_applies():
    """Effects of one request share their revision, and all of them count, in their order."""
    chain, replica = Chain(), Replica()
    chain.effects(Put(key="k", value="1", create=1, version=1), Delete(key="k"))
    chain.put("other", "1")
    replica.skip_to(0)
    replica.apply(chain.entries[1])
    replica.fill(chain.entries[0])

    assert chain.records == replica.records


@settings(max_examples=300, deadline=None)
@given(entries=ENTRIES, data=st.data())
def test_a_stale_replica_that_is_filled_is_like_any_other(entries: list, data: st.DataObject):
    """Apply some, miss some, several times, then fill: records, digest, hash, epoch, all of it (M3 to M6)."""
    chain, replica = chain_of(entries), Replica()
    index = 0
    while index < len(chain.entries):
        count = data.draw(st.integers(1, len(chain.entries) - index))
        if data.draw(st.booleans()):
            replica.skip_to(index + count - 1)
        else:
            replica.apply(*chain.entries[index : index + count])
        index += count
        assert digest_from_scratch(replica.records) == replica.position.digest
        if replica.position.gaps and data.draw(st.booleans()):  # filling may begin before all is there
            replica.fill(chain.entries[replica.position.gaps[0].first])
    while replica.position.gaps:
        before = replica.position
        replica.fill(chain.entries[before.gaps[0].first])
        assert before.revision <= replica.position.revision  # M2
        assert before.epoch <= replica.position.epoch

    assert chain.records == replica.records
    assert chain.position == replica.position
    assert replica.transaction.tombstones == {}
