"""The state machine: commands become effects, effects become state, in whichever order they have to."""

import dataclasses
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.core import applying
from kvlog.core.applying import DROPPED_MAX, apply_entry, fill_entry, open_gap
from kvlog.core.commands import update
from kvlog.core.entry import ENTRY_BYTES_MAX, NO_HASH, Delete, LogEntry, Put, Request
from kvlog.core.evaluate import evaluate
from kvlog.core.machine import (
    DIGEST_MODULUS,
    HISTORY_REVISIONS,
    Change,
    Changes,
    Gap,
    Identity,
    Position,
    Record,
    Remembered,
    digest_of,
    digest_of_request,
    record_after,
)
from kvlog.errors import InvariantViolation
from kvlog.memory_store import MemoryTransaction
from tests.chain import Chain
from tests.past import Past, Write

TIME_MS = 1_700_000_000_000  # that of every entry of a Chain


@dataclasses.dataclass
class Replica:
    """A store's data and position, moved by the functions under test."""

    transaction: MemoryTransaction = dataclasses.field(default_factory=lambda: MemoryTransaction({}, {}))
    position: Position = dataclasses.field(default_factory=Position)
    history: int = HISTORY_REVISIONS

    def apply(self, *items: LogEntry) -> None:
        for item in items:
            self.position = apply_entry(self.transaction, self.position, item, history=self.history)

    def fill(self, *items: LogEntry) -> None:
        for item in items:
            self.position = fill_entry(self.transaction, self.position, item)

    def skip_to(self, index: int) -> None:
        self.position = open_gap(self.transaction, self.position, index)

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

    @property
    def kept(self) -> dict[int, Changes]:
        return self.transaction.changes

    def check(self) -> None:
        """What has to hold in every state."""
        position, data = self.position, self.transaction
        assert digest_from_scratch(data.records, data.requests) == position.digest  # M4
        attached = {(record.lease, key) for key, record in data.records.items() if record.lease}
        assert attached == data.attached_keys  # M9
        if position.gaps:
            assert data.changes == {}  # M10
            return
        assert all(position.history < at <= position.revision for at in data.changes)
        present = dict(data.records)
        deleted: dict[str, int] = {}
        for at, kept in sorted(
            data.changes.items(), reverse=True
        ):  # back from the present, each leads to the next
            assert len({change.key for change in kept.changes}) == len(kept.changes) > 0
            for change in kept.changes:
                assert present.pop(change.key, None) == change.after
                assert deleted.pop(change.key, at) == at
                if change.after is None:
                    assert change.before is not None
                if change.before is not None:
                    present[change.key] = change.before
                elif change.deleted > position.history:
                    deleted[change.key] = change.deleted
        assert all(record.revision <= position.history for record in present.values())
        assert deleted == {}
        gone = {change.key: at for at, kept in sorted(data.changes.items()) for change in kept.changes}
        assert {key: at for key, at in gone.items() if key not in data.records} == data.tombstones  # M5


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
    before = MemoryTransaction({"k": Record(b"old", create=3, revision=5, version=2)}, {})
    put = Put(key="k", value="v", create=3, version=3)

    assert Request(effects=(put,)) == evaluate(before, update("k", "v"), 7)


def test_evaluating_changes_nothing():
    """Only entries change the state."""
    view = MemoryTransaction({}, {})
    evaluate(view, update("k", "v"), 1)

    assert MemoryTransaction({}, {}) == view


def test_effects_are_blind():
    """What a put leaves behind depends on the put and its revision alone."""
    put = Put("k", "/w==", 3, 4, "base64", "image/png", lease=7)

    assert Record(b"\xff", 3, 9, 4, "image/png", 7) == record_after(put, 9)
    assert record_after(Delete(key="k"), 9) is None


# --- apply ----------------------------------------------------------------------------------------------------


def test_a_replica_holds_the_last_put_of_each_key():
    """Values, create revisions, revisions and versions are those of the log (M3)."""
    chain, replica = Chain(), Replica()
    chain.barrier()
    chain.write(("a", "1"), ("b", "1"), ("a", "2"))
    chain.put("a", "3")
    replica.apply(*chain.entries)

    assert replica.records == {"a": Record(b"3", 1, 4, 3), "b": Record(b"1", 2, 2, 1)}
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

    assert replica.records == {"k": Record(b"3", create=4, revision=4, version=1)}


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
    [
        Record(b"w", 1, 2, 3),
        Record(b"v", 2, 2, 3),
        Record(b"v", 1, 3, 3),
        Record(b"v", 1, 2, 4),
        Record(b"v", 1, 2, 3, "text/plain"),
        Record(b"v", 1, 2, 3, lease=1),
    ],
    ids=["value", "create", "revision", "version", "content type", "lease"],
)
def test_the_digest_sees_every_field(other: Record):
    """Records that differ in anything, the key included, have different shares."""
    assert digest_of("k", Record(b"v", 1, 2, 3)) != digest_of("k", other)
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


def healed(position: Position) -> Position:
    """The position of a replica that had gaps there: nothing is kept of what came before (M10)."""
    return msgspec.structs.replace(position, history=position.revision)


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
    assert healed(chain.position) == replica.position


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
    assert healed(chain.position) == replica.position


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


WRITES = st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.sampled_from([b"", b"x"])), st.integers(0, 2))
LOGS = st.lists(
    st.one_of(
        st.just("barrier"),
        st.integers(0, 2),  # a skip that leaves so many revisions out
        st.lists(st.lists(WRITES, max_size=4).map(tuple), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=24,
)


def past_of(log: list[str | int | list[tuple[Write, ...]]]) -> Past:
    """The log with these entries."""
    past = Past()
    for entry in log:
        if isinstance(entry, str):
            past.barrier()
        elif isinstance(entry, int):
            past.leave_out(entry)
        else:
            past.many(*entry)
    return past


@settings(max_examples=300, deadline=None)
@given(log=LOGS, data=st.data(), history=st.sampled_from([0, 2, 100]))
def test_a_stale_replica_that_is_filled_is_like_any_other(log: list, data: st.DataObject, history: int):
    """Apply some, miss some, several times, then fill: records, leases, digest, hash, all of it (M3 to M6, M9)."""
    past, replica = past_of(log), Replica(history=history)
    index = 0
    while index < len(past.entries):
        count = data.draw(st.integers(1, len(past.entries) - index))
        if data.draw(st.booleans()):
            replica.skip_to(index + count - 1)
        else:
            replica.apply(*past.entries[index : index + count])
        index += count
        replica.check()
        if replica.position.gaps and data.draw(st.booleans()):  # filling may begin before all is there
            replica.fill(past.entries[replica.position.gaps[0].first])
            replica.check()
    while replica.position.gaps:
        before = replica.position
        replica.fill(past.entries[before.gaps[0].first])
        replica.check()
        assert before.revision <= replica.position.revision  # M2
        assert before.epoch <= replica.position.epoch

    floor = replica.position.history
    assert past.records == replica.records
    assert msgspec.structs.replace(past.position, history=floor) == replica.position
    assert past.states[floor] == state_at(replica, floor)


def state_at(replica: Replica, revision: int) -> dict[str, Record]:
    """The records at a revision, by undoing what has happened since."""
    records = dict(replica.records)
    for at, kept in sorted(replica.kept.items(), reverse=True):
        for change in kept.changes if at > revision else ():
            records.pop(change.key, None)
            if change.before is not None:
                records[change.key] = change.before
    return records


# --- the past -------------------------------------------------------------------------------------------------


def replica_of(past: Past, history: int = HISTORY_REVISIONS) -> Replica:
    """A replica that has applied all of a log."""
    replica = Replica(history=history)
    replica.apply(*past.entries)
    replica.check()
    return replica


def test_what_a_request_changes_is_kept():
    """Each key with its record before and after, under its revision; and with what entry, and when (M10)."""
    past = Past()
    past.barrier()
    past.one(("a", b"1"), ("b", b"1"))
    past.one(("a", b"2"), ("b", None))
    first = [Record(b"1", 1, 1, 1), Record(b"1", 1, 1, 1)]

    assert replica_of(past).kept == {
        1: Changes(1, TIME_MS, (Change("a", None, first[0]), Change("b", None, first[1]))),
        2: Changes(2, TIME_MS, (Change("a", first[0], Record(b"2", 1, 2, 2)), Change("b", first[1], None))),
    }


def test_a_change_of_a_key_that_comes_back_leads_to_its_deletion():
    """And the tombstone goes: the change has its revision now (M5, M10)."""
    past = Past()
    past.each(("k", b"1"), ("k", None), ("other", b"1"))
    assert replica_of(past).transaction.tombstones == {"k": 2}
    past.one(("k", b"2"))
    replica = replica_of(past)

    assert replica.kept[4].changes == (Change("k", None, Record(b"2", 4, 4, 1), deleted=2),)
    assert replica.transaction.tombstones == {}


@pytest.mark.parametrize(
    ("writes", "kept"),
    [
        ((("k", b"1"), ("k", b"2")), lambda old: Change("k", old, Record(b"2", 1, 2, 3))),
        ((("k", b"1"), ("k", None)), lambda old: Change("k", old, None)),
        ((("k", None), ("k", b"1")), lambda old: Change("k", old, Record(b"1", 2, 2, 1))),
        ((("new", b"1"), ("new", None)), None),
        ((("new", None), ("new", b"1")), lambda _: Change("new", None, Record(b"1", 2, 2, 1))),
    ],
    ids=["put twice", "put and deleted", "deleted and put", "there for a moment", "deleted before it was there"],
)
def test_a_key_that_a_request_has_twice_changes_once(
    writes: tuple[Write, ...], kept: Callable[[Record], Change] | None
):
    """At a revision there is one state before and one after. No leader writes such a request, but a log may."""
    past = Past()
    past.one(("k", b"0"))
    past.one(*writes)
    replica = replica_of(past)
    expected = () if kept is None else (kept(Record(b"0", 1, 1, 1)),)

    assert past.records == replica.records
    assert (replica.kept[2].changes if kept is not None else ()) == expected
    assert (2 in replica.kept) == (kept is not None)


def test_what_changes_nothing_is_not_kept():
    """A delete of what is not there, a request without effects, a barrier, a skip that leaves revisions out."""
    past = Past()
    past.one(("k", None))
    past.one()
    past.barrier()
    past.leave_out(5)
    replica = replica_of(past)

    assert (replica.kept, replica.transaction.tombstones) == ({}, {})
    assert (replica.position.revision, replica.position.history) == (7, 0)


def test_a_skip_that_leaves_revisions_out_counts_them():
    """The floor is so many revisions below the last one, whether something happened at them or not (M10)."""
    past = Past()
    past.each(("a", b"1"), ("a", b"2"))
    past.leave_out(4)
    past.each(("a", b"3"), ("a", b"4"))
    replica = replica_of(past, history=3)

    assert (replica.position.revision, replica.position.history) == (8, 5)
    assert list(replica.kept) == [7, 8]


@pytest.mark.parametrize("history", [0, 1, 2])
def test_only_so_many_revisions_are_kept(history: int):
    """And a deletion's tombstone as long as the deletion (M5)."""
    past, replica = Past(), Replica(history=history)
    for write in (("a", b"1"), ("b", b"1"), ("a", None), ("b", None)):
        past.one(write)
        replica.apply(past.entries[-1])
        replica.check()

    assert replica.position.history == 4 - history
    assert list(replica.kept) == list(range(5 - history, 5))
    assert replica.transaction.tombstones == {key: at for key, at in {"a": 3, "b": 4}.items() if at > 4 - history}


def test_a_deletion_that_is_dropped_leaves_a_later_tombstone_alone():
    """Deleted at 2, back at 3, deleted again at 4: when 2 is dropped, the tombstone is that of 4 (M5)."""
    past = Past()
    past.each(("k", b"1"), ("k", None), ("k", b"2"), ("k", None))

    assert replica_of(past, history=2).transaction.tombstones == {"k": 4}


def test_a_lowered_number_of_revisions_is_reached_step_by_step(monkeypatch: pytest.MonkeyPatch):
    """No entry drops more than DROPPED_MAX changes and a request's; the floor says how far it has come."""
    monkeypatch.setattr(applying, "DROPPED_MAX", 5)
    past = Past()
    for number in range(12):
        past.one(("a", b"%d" % number), ("b", b"%d" % number))
    replica = replica_of(past)
    replica.history = 2
    floors = []
    for number in range(8):
        past.one((f"c{number}", b"1"))
        replica.apply(past.entries[-1])
        replica.check()
        floors.append(replica.position.history)

    assert floors == [3, 6, 9, 12, 15, 16, 17, 18]


def test_an_entry_never_adds_more_changes_than_the_next_one_drops():
    """DROPPED_MAX is above what an entry can hold."""
    smallest = len(b'{"op":"delete","key":"k"},')

    assert ENTRY_BYTES_MAX // smallest < DROPPED_MAX


def test_nothing_is_kept_over_a_gap():
    """What is kept goes when a gap opens; when it is closed, the past begins with the present (M5, M10)."""
    past = Past()
    past.each(("a", b"1"), ("b", b"1"), ("b", None), ("a", b"2"), ("a", None), ("c", b"1"))
    replica = Replica()
    replica.apply(*past.entries[:3])
    assert (list(replica.kept), replica.transaction.tombstones) == ([1, 2, 3], {"b": 3})
    replica.skip_to(3)
    assert (replica.kept, replica.transaction.tombstones) == ({}, {})
    replica.apply(*past.entries[4:])
    assert (replica.kept, replica.transaction.tombstones) == ({}, {"a": 5})
    replica.fill(past.entries[3])

    assert (replica.kept, replica.transaction.tombstones, replica.position.history) == ({}, {}, 6)
    past.one(("a", b"3"))
    replica.apply(past.entries[-1])
    assert replica.kept == {7: Changes(6, TIME_MS, (Change("a", None, Record(b"3", 7, 7, 1)),))}


# --- leases ---------------------------------------------------------------------------------------------------


def test_a_key_is_listed_under_the_lease_that_its_record_has():
    """It moves with each put, and leaves with the last one, or with its deletion (M9)."""
    past, replica = Past(), Replica()
    listed = []
    for write in (("k", b"1", 7), ("j", b"1", 7), ("k", b"2", 7), ("k", b"3", 8), ("k", b"4"), ("j", None)):
        past.one(write)
        replica.apply(past.entries[-1])
        replica.check()
        listed.append(sorted(replica.transaction.attached_keys))

    assert listed == [
        [(7, "k")],
        [(7, "j"), (7, "k")],
        [(7, "j"), (7, "k")],
        [(7, "j"), (8, "k")],
        [(7, "j")],
        [],
    ]
