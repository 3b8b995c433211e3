"""A replica's place in the log: whatever comes, in whichever order, leaves in the right one."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.core.cursor import APPLY_ENTRIES, READ_ENTRIES, READY_ENTRIES_MAX, Cursor
from kvlog.core.effects import Apply, ReadEntries
from kvlog.core.entry import Leader, LogEntry, encode_entry
from kvlog.core.machine import Position
from kvlog.errors import BadEntry
from kvlog.memory_store import MemoryStore
from tests.chain import Chain


def log(count: int) -> Chain:
    """A log of a barrier and ``count - 1`` puts."""
    chain = Chain()
    chain.barrier()
    for number in range(1, count):
        chain.put(f"key{number % 3}", str(number))
    return chain


def apply_all(cursor: Cursor, store: MemoryStore) -> list[int]:
    """Let the store do all that the cursor has for it; returns the indices in the order of their applying."""
    indices = []
    while (work := cursor.next_apply()) is not None:
        indices += [item.index for item in work.entries]
        cursor.applied(store.apply(work.entries, fill=work.fill))
    return indices


def at(chain: Chain, count: int) -> tuple[Cursor, MemoryStore]:
    """A cursor and its store that have applied the first ``count`` entries."""
    store = MemoryStore()
    store.apply(tuple(chain.entries[:count]), fill=False)
    return Cursor(store.position()), store


def offer(cursor: Cursor, *items: LogEntry) -> list[int]:
    """Offer entries; returns the indices of those that were taken."""
    return [taken.index for item in items if (taken := cursor.offer(item.index, item.data)) is not None]


# --- C1: in order, each once, without holes -------------------------------------------------------------------


def test_entries_in_order_are_taken():
    """The next one, and then its next one."""
    chain = log(3)
    cursor, store = at(chain, 0)

    assert offer(cursor, *chain.entries) == [0, 1, 2]
    assert apply_all(cursor, store) == [0, 1, 2]
    assert chain.position == cursor.position


@pytest.mark.parametrize("index", [0, 1, 3, 4])
def test_an_entry_out_of_turn_is_left_alone(index: int):
    """Early or known already: it is not taken, and does no harm (C1)."""
    chain = log(5)
    cursor, _ = at(chain, 2)

    assert offer(cursor, chain.entries[index]) == []
    assert offer(cursor, chain.entries[2]) == [2]


def test_bytes_of_a_known_entry_are_not_even_looked_at():
    """A late duplicate may be garbage: what counts is already here."""
    cursor, _ = at(log(2), 2)

    assert cursor.offer(1, b"garbage") is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 11), max_size=60))
def test_any_schedule_of_pushes_comes_out_in_order(schedule: list[int]):
    """Early, late, repeated or never: what leaves is 0, 1, 2, ..., and the rest is read at the end (C1)."""
    chain = log(12)
    cursor, store = at(chain, 0)
    applied: list[int] = []
    for place, index in enumerate(schedule):
        offer(cursor, chain.entries[index])
        if place % 3 == 0:
            applied += apply_all(cursor, store)
    cursor.observe(11, 1.0, confirmed=True)
    while (read := cursor.next_read()) is not None:
        cursor.read_done(read.first_index, chain.data(read.first_index, read.first_index + read.count - 1))
    applied += apply_all(cursor, store)

    assert applied == list(range(12))
    assert chain.position == cursor.position


# --- C2: chained, and never back to a lower epoch -------------------------------------------------------------


def altered(chain: Chain, **changes: object) -> bytes:
    """What would be the next entry, but for these fields."""
    return encode_entry(chain.header(**changes))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prev_hash": "f" * 32}, "log entry 3: .*chain|log entry 3: .*before"),
        ({"epoch": 1}, "log entry 3: is of epoch 1, after entries of epoch 2"),
        ({"first_revision": 9}, "log entry 3: starts at revision 9, but 2 was the last"),
    ],
    ids=["hash", "epoch", "revision"],
)
def test_an_entry_that_does_not_continue_the_log_is_refused(change: dict, reason: str):
    """Its hash, epoch and revision go on from the entry before (C2)."""
    chain = log(3)
    cursor, _ = at(chain, 3)
    with pytest.raises(BadEntry, match=reason):
        cursor.offer(3, altered(chain, **change))


def test_a_damaged_entry_is_refused():
    """Bytes that are no entry stop the cursor at their index."""
    chain = log(3)
    cursor, _ = at(chain, 2)
    with pytest.raises(BadEntry, match="log entry 2"):
        cursor.offer(2, chain.entries[2].data[:-1])

    assert cursor.next_index == 2


def test_an_entry_of_another_log_is_refused():
    """The same index of a log with another past has the right revision and epoch, but not the hash (C2)."""
    chain, other = log(4), Chain()
    other.barrier("n2")
    for number in range(1, 4):
        other.put(f"key{number % 3}", str(number))
    cursor, _ = at(chain, 3)
    with pytest.raises(BadEntry, match="log entry 3"):
        cursor.offer(3, other.entries[3].data)


def test_the_first_entry_after_a_gap_says_what_was_before():
    """Behind a gap the hash is not known; the chain is checked from the first entry on (C2)."""
    chain = log(6)
    store = MemoryStore()
    cursor = Cursor(store.position())
    assert cursor.hold()
    cursor.applied(store.skip_to(3))
    offer(cursor, chain.entries[4])
    chain.position = msgspec.structs.replace(chain.position, hash="f" * 32)
    with pytest.raises(BadEntry, match="log entry 5"):
        cursor.offer(5, altered(chain, first_revision=5))

    assert offer(cursor, chain.entries[5]) == [5]


# --- C3, C4: bounds -------------------------------------------------------------------------------------------


def test_one_batch_is_with_the_store_at_a_time():
    """What comes meanwhile gathers for the next one (C3)."""
    chain = log(4)
    cursor, store = at(chain, 0)
    offer(cursor, chain.entries[0])
    first = cursor.next_apply()
    offer(cursor, *chain.entries[1:])
    assert cursor.next_apply() is None
    assert not cursor.hold()

    assert first is not None
    cursor.applied(store.apply(first.entries, fill=False))

    assert Apply(entries=tuple(chain.entries[1:]), fill=False) == cursor.next_apply()


def test_a_batch_for_the_store_is_bounded():
    """No transaction is larger than APPLY_ENTRIES."""
    chain = log(APPLY_ENTRIES + 10)
    cursor, _ = at(chain, 0)
    offer(cursor, *chain.entries)
    work = cursor.next_apply()

    assert work is not None
    assert len(work.entries) == APPLY_ENTRIES


def test_reading_stops_when_the_store_does_not_keep_up():
    """What waits in memory is bounded, however long the log is (C4)."""
    chain = log(READY_ENTRIES_MAX + READ_ENTRIES + 10)
    cursor, store = at(chain, 0)
    cursor.observe(10_000, 1.0, confirmed=True)
    reads = 0
    while (read := cursor.next_read()) is not None:
        assert read.count <= READ_ENTRIES
        cursor.read_done(read.first_index, chain.data(read.first_index, read.first_index + read.count - 1))
        reads += 1

    assert reads == READY_ENTRIES_MAX // READ_ENTRIES
    work = cursor.next_apply()
    assert work is not None
    cursor.applied(store.apply(work.entries, fill=False))
    assert ReadEntries(first_index=READY_ENTRIES_MAX, count=READ_ENTRIES) == cursor.next_read()


def test_one_read_is_under_way_at_a_time():
    """The next one is asked for when the answer is there, or the failure."""
    cursor, _ = at(log(3), 0)
    cursor.saw(2)
    read = cursor.next_read()
    assert read == ReadEntries(first_index=0, count=3)
    assert cursor.next_read() is None

    cursor.read_failed()

    assert read == cursor.next_read()


# --- C5: freshness --------------------------------------------------------------------------------------------


def test_a_node_that_has_heard_of_no_tail_does_not_know_how_fresh_it_is():
    """No observation, no claim (C5)."""
    chain = log(3)
    cursor, store = at(chain, 0)
    offer(cursor, *chain.entries)
    apply_all(cursor, store)

    assert cursor.fresh_as_of is None


def test_freshness_is_the_moment_of_asking_once_all_is_applied():
    """Not of the answer, and not before everything up to the tail is applied (C5)."""
    chain = log(3)
    cursor, store = at(chain, 1)
    cursor.observe(2, 7.0, confirmed=False)
    offer(cursor, *chain.entries)
    assert cursor.fresh_as_of is None
    apply_all(cursor, store)

    assert cursor.fresh_as_of == 7.0


def test_freshness_never_goes_back():
    """An answer that was asked for earlier but came later changes nothing (C5)."""
    cursor, _ = at(log(3), 3)
    cursor.observe(2, 7.0, confirmed=False)
    cursor.observe(1, 6.0, confirmed=False)

    assert cursor.fresh_as_of == 7.0


def test_an_answer_of_a_lagging_server_is_no_freshness():
    """Behind a tail that is known and not applied, a lower one that was seen later proves nothing (C5)."""
    cursor, _ = at(log(3), 3)
    cursor.observe(9, 7.0, confirmed=True)
    cursor.observe(2, 8.0, confirmed=False)

    assert cursor.fresh_as_of is None
    assert cursor.behind == 7


def test_observations_in_memory_are_bounded_and_the_oldest_counts():
    """A node that is behind for long still gets fresh as of its first open observation."""
    chain = log(40)
    cursor, store = at(chain, 0)
    for number in range(1, 1_000):
        cursor.observe(min(number, 39), float(number), confirmed=False)
    offer(cursor, *chain.entries[:2])
    apply_all(cursor, store)
    assert cursor.fresh_as_of == 1.0
    offer(cursor, *chain.entries[2:])
    apply_all(cursor, store)

    assert cursor.fresh_as_of is not None
    assert cursor.fresh_as_of >= 16.0


# --- missing entries ------------------------------------------------------------------------------------------


def short_read(cursor: Cursor, chain: Chain, missing: int) -> None:
    """Answer the next read with what is there before ``missing``."""
    read = cursor.next_read()
    assert read is not None
    cursor.read_done(read.first_index, chain.data(read.first_index, missing - 1))


def test_an_entry_that_is_not_there_is_asked_for_after_a_confirmed_tail_only():
    """A server that lags behind a push is no damage: reading waits for a quorum, then goes on."""
    chain = log(4)
    cursor, _ = at(chain, 0)
    cursor.saw(3)
    short_read(cursor, chain, 2)
    assert cursor.missing == 2
    assert cursor.next_read() is None
    cursor.observe(3, 1.0, confirmed=False)
    assert cursor.next_read() is None

    cursor.observe(3, 2.0, confirmed=True)

    assert ReadEntries(first_index=2, count=2) == cursor.next_read()
    assert [item.index for item in cursor.read_done(2, chain.data(2, 3))] == [2, 3]


def test_an_entry_missing_behind_a_confirmed_tail_is_damage():
    """Not there although a quorum says that the log goes on behind it: somebody has tampered."""
    chain = log(4)
    cursor, _ = at(chain, 0)
    cursor.saw(3)
    short_read(cursor, chain, 2)
    cursor.observe(3, 1.0, confirmed=True)
    short_read(cursor, chain, 2)
    assert cursor.bad is None, "it may have been trimmed meanwhile"
    cursor.observe(3, 2.0, confirmed=True)

    assert "log entry 2: is missing" in str(cursor.bad)


def test_an_entry_that_is_trimmed_between_two_looks_is_no_damage():
    """Known to a quorum, then not there, then before the log's beginning: it has been trimmed (C6)."""
    chain = log(4)
    cursor, _ = at(chain, 0)
    cursor.saw(3)
    short_read(cursor, chain, 2)
    cursor.observe(3, 1.0, confirmed=True)
    short_read(cursor, chain, 2)
    cursor.observe(3, 2.0, confirmed=True, first_index=3)

    assert (cursor.bad, cursor.trimmed) == (None, True)


def test_a_hint_beyond_the_confirmed_tail_is_dropped():
    """An entry exists before anybody is told of it: a quorum that does not know it ends the search."""
    chain = log(2)
    cursor, store = at(chain, 0)
    for moment in range(3):
        cursor.saw(3)
        short_read(cursor, chain, 2)
        apply_all(cursor, store)
        cursor.observe(1, float(moment), confirmed=True)

        assert (cursor.next_read(), cursor.behind, cursor.next_index) == (None, 0, 2)


def test_an_entry_that_arrives_otherwise_is_not_missing_any_more():
    """The leader's push may bring what a lagging server did not have."""
    chain = log(4)
    cursor, _ = at(chain, 0)
    cursor.saw(3)
    short_read(cursor, chain, 2)
    offer(cursor, chain.entries[2])

    assert cursor.missing is None
    assert ReadEntries(first_index=3, count=1) == cursor.next_read()


# --- gaps -----------------------------------------------------------------------------------------------------


def stale(chain: Chain, *, applied: int, missed: int) -> tuple[Cursor, MemoryStore]:
    """A cursor whose store has applied some entries and missed the next ones."""
    cursor, store = at(chain, applied)
    assert cursor.hold()
    cursor.applied(store.skip_to(applied + missed - 1))
    return cursor, store


def heal(cursor: Cursor, store: MemoryStore, answer: Callable[[int, int], tuple[bytes, ...]]) -> None:
    """Read and fill until nothing is asked for any more; raises what is bad."""
    cursor.healing = True
    for _ in range(20):
        read = cursor.next_read()
        if read is None:
            return
        cursor.read_done(read.first_index, answer(read.first_index, read.first_index + read.count - 1))
        if cursor.bad is not None:
            raise cursor.bad
        apply_all(cursor, store)
    raise AssertionError("still reading after 20 reads")


def test_a_gap_is_not_read_unless_asked_to():
    """A stale store stays as it is."""
    cursor, _ = stale(log(6), applied=2, missed=3)

    assert cursor.next_index == 5
    assert cursor.next_read() is None


def since(revision: int, position: Position) -> Position:
    """The position of a store that keeps nothing of what was up to a revision (M10)."""
    return msgspec.structs.replace(position, history=revision)


def test_a_healed_gap_leaves_the_same_position_as_no_gap():
    """What was missed is read, checked against the chain, and filled in."""
    chain = log(6)
    cursor, store = stale(chain, applied=2, missed=3)
    offer(cursor, chain.entries[5])
    apply_all(cursor, store)
    heal(cursor, store, chain.data)

    assert since(5, chain.position) == cursor.position
    assert (False, chain.entries[5].hash) == (cursor.healing, cursor.last_hash)


def test_a_gap_at_the_head_is_healed_up_to_the_head():
    """Nothing came after the gap: its last entry is the head, and what comes next is chained to it (C2)."""
    chain = log(5)
    cursor, store = stale(chain, applied=2, missed=3)
    heal(cursor, store, chain.data)
    item = chain.put("k", "after")

    assert cursor.last_hash == item.entry.prev_hash
    assert Leader("n1", "n1:80") == cursor.position.leader
    assert offer(cursor, item) == [5]
    with pytest.raises(BadEntry):
        cursor.offer(6, altered(chain, prev_hash="f" * 32))


def test_new_entries_come_before_missed_ones():
    """A stale node that heals stays as fresh as it was."""
    chain = log(6)
    cursor, _ = stale(chain, applied=2, missed=3)
    cursor.healing = True
    cursor.saw(5)

    assert ReadEntries(first_index=5, count=1) == cursor.next_read()


def test_a_missed_entry_that_is_not_of_this_chain_is_refused():
    """What fills a gap is chained to the entry before the gap (C2)."""
    chain, other = log(6), Chain()
    other.barrier("n2")
    for number in range(1, 6):
        other.put("k", str(number))
    cursor, store = stale(chain, applied=2, missed=3)
    with pytest.raises(BadEntry, match="log entry 2"):
        heal(cursor, store, other.data)


def test_a_gap_is_closed_against_the_entry_behind_it():
    """The last missed entry is the one that the entry behind the gap is chained to (C2)."""
    chain, other = log(6), log(4)
    other.put("k", "something else")
    cursor, store = stale(chain, applied=4, missed=1)
    offer(cursor, chain.entries[5])
    apply_all(cursor, store)
    with pytest.raises(BadEntry, match=r"log entry [45]"):
        heal(cursor, store, other.data)


def test_a_missed_entry_that_is_not_there_any_more_is_found():
    """A gap whose entries are gone is damage like any other, once a quorum says that the log goes on behind it."""
    chain = log(6)
    cursor, store = stale(chain, applied=2, missed=3)
    offer(cursor, chain.entries[5])
    apply_all(cursor, store)
    cursor.healing = True
    short_read(cursor, chain, 3)
    apply_all(cursor, store)
    assert cursor.missing == 3
    assert cursor.next_read() is None
    cursor.observe(5, 1.0, confirmed=True)
    short_read(cursor, chain, 3)
    cursor.observe(5, 2.0, confirmed=True)

    assert "log entry 3: is missing" in str(cursor.bad)


def test_a_store_with_gaps_is_not_fresh():
    """What it misses may be older than anything that was ever observed (C5)."""
    chain = log(6)
    cursor, store = stale(chain, applied=2, missed=3)
    offer(cursor, chain.entries[5])
    apply_all(cursor, store)
    cursor.observe(5, 7.0, confirmed=True)
    assert cursor.fresh_as_of is None
    heal(cursor, store, chain.data)

    assert cursor.fresh_as_of == 7.0


def test_an_empty_store_starts_at_the_first_entry():
    """Position() is before everything."""
    cursor = Cursor(Position())

    assert (cursor.next_index, cursor.segment, cursor.behind, cursor.idle) == (0, 0, 0, True)
