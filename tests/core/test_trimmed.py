"""The cursor behind a log that has been trimmed, skipped in, or replaced by a snapshot (C6)."""

import msgspec
import pytest

from kvlog.core.cursor import Cursor
from kvlog.core.effects import ReadEntries
from kvlog.core.entry import LogEntry, decode_entry, encode_entry
from kvlog.core.machine import Position
from kvlog.memory_store import MemoryStore
from tests.chain import Chain
from tests.core.test_cursor import apply_all, at, heal, log, offer, short_read, since, stale


def state_of(chain: Chain, count: int) -> MemoryStore:
    """A store that has applied the first ``count`` entries: what a snapshot is made of."""
    return at(chain, count)[1]


def install(cursor: Cursor, position: Position) -> None:
    """A snapshot is put in the store's place."""
    assert cursor.hold()
    cursor.applied(position)


# --- what is missing ------------------------------------------------------------------------------------------


def test_an_entry_below_the_logs_beginning_is_trimmed_not_damaged():
    """The log says that it begins behind it: reading ends, and only a snapshot helps (C6)."""
    cursor, _ = at(log(8), 2)
    cursor.observe(7, 1.0, confirmed=True, first_index=5)

    assert cursor.trimmed
    assert (cursor.next_read(), cursor.bad) == (None, None)


@pytest.mark.parametrize("first_index", [0, 1, 2])
def test_a_log_that_begins_at_the_next_entry_or_before_is_replayed(first_index: int):
    """What was trimmed is applied here already (C6)."""
    cursor, _ = at(log(8), 2)
    cursor.observe(7, 1.0, confirmed=True, first_index=first_index)

    assert not cursor.trimmed
    assert cursor.next_read() == ReadEntries(2, 6)


def test_a_read_that_meets_the_trimming_is_no_damage():
    """The entries go while they are read; the next confirmed tail says that the log begins behind them (C6)."""
    chain = log(8)
    cursor, store = at(chain, 0)
    cursor.saw(7)
    short_read(cursor, chain, 2)
    apply_all(cursor, store)
    assert cursor.missing == 2
    cursor.observe(7, 1.0, confirmed=True, first_index=5)

    assert (cursor.trimmed, cursor.missing, cursor.bad) == (True, None, None)


def test_an_unconfirmed_beginning_counts_too():
    """The log's beginning only ever moves forward: any server that tells of it is right (C6)."""
    cursor, _ = at(log(8), 2)
    cursor.observe(7, 1.0, first_index=5)
    cursor.observe(7, 2.0, confirmed=True, first_index=0)

    assert (cursor.first_index, cursor.trimmed) == (5, True)


def test_an_answer_below_the_logs_beginning_is_no_damage():
    """A short read that was under way when the log's beginning became known (C6)."""
    chain = log(8)
    cursor, _ = at(chain, 2)
    cursor.saw(7)
    cursor.next_read()
    cursor.observe(7, 1.0, confirmed=True, first_index=5)

    assert cursor.read_done(2, ()) == []
    assert (cursor.missing, cursor.bad, cursor.trimmed) == (None, None, True)


def test_an_entry_that_came_otherwise_is_not_missed_by_a_late_answer():
    """A quorum has said that it must be there, and a push brings it before the read's empty answer (C6)."""
    chain = log(6)
    cursor, _ = at(chain, 2)
    cursor.saw(5)
    short_read(cursor, chain, 2)
    cursor.observe(5, 1.0, confirmed=True)
    cursor.next_read()
    offer(cursor, chain.entries[2])
    cursor.read_done(2, ())

    assert cursor.bad is None


def test_what_is_applied_by_the_time_is_not_trimmed():
    """Entries that wait for the store are here, whatever ZooKeeper has dropped."""
    chain = log(8)
    cursor, store = at(chain, 2)
    offer(cursor, *chain.entries[2:6])
    cursor.observe(7, 1.0, confirmed=True, first_index=5)

    assert not cursor.trimmed
    assert apply_all(cursor, store) == [2, 3, 4, 5]
    assert cursor.next_read() == ReadEntries(6, 2)


def test_a_trimmed_gap_needs_a_snapshot_only_when_it_is_to_be_filled():
    """A stale store stays as it is until somebody asks."""
    cursor, _ = stale(log(8), applied=2, missed=4)
    cursor.observe(7, 1.0, confirmed=True, first_index=4)
    assert not cursor.trimmed

    cursor.healing = True

    assert cursor.trimmed
    assert cursor.next_read() is None


def test_what_is_being_filled_is_not_trimmed_before_the_store_has_it():
    """Entries of a gap that have been read are filled in, though the log has dropped them since."""
    chain = log(8)
    cursor, store = stale(chain, applied=2, missed=4)
    cursor.healing = True
    read = cursor.next_read()
    assert read is not None
    cursor.read_done(read.first_index, chain.data(2, 5))
    cursor.observe(5, 1.0, confirmed=True, first_index=6)
    assert not cursor.trimmed
    apply_all(cursor, store)

    assert (cursor.trimmed, cursor.position.gaps) == (False, ())


# --- snapshots ------------------------------------------------------------------------------------------------


def test_the_cursor_goes_on_behind_an_installed_snapshot():
    """Hash, revision, epoch and log bytes are the snapshot's; the next entry is the one behind it (C2)."""
    chain = log(8)
    cursor, _ = at(chain, 2)
    cursor.observe(7, 1.0, confirmed=True, first_index=5)
    snapshot = state_of(chain, 6).position()
    install(cursor, snapshot)

    assert not cursor.trimmed
    assert (cursor.next_index, cursor.last_hash, cursor.revision, cursor.epoch, cursor.log_bytes) == (
        6,
        snapshot.hash,
        snapshot.revision,
        snapshot.epoch,
        snapshot.log_bytes,
    )
    assert cursor.next_read() == ReadEntries(6, 2)
    assert [item.index for item in cursor.read_done(6, chain.data(6, 7))] == [6, 7]


def test_entries_that_a_snapshot_holds_are_dropped_before_the_store_gets_them():
    """They waited while the snapshot came (C1)."""
    chain = log(8)
    cursor, _ = at(chain, 2)
    offer(cursor, *chain.entries[2:5])
    install(cursor, state_of(chain, 7).position())

    assert cursor.next_apply() is None
    assert (cursor.next_index, cursor.idle) == (7, True)


@pytest.mark.parametrize("snapshot_at", [2, 3, 4, 5, 6])
def test_entries_behind_a_snapshot_that_wait_already_are_kept(snapshot_at: int):
    """The store gets what the snapshot does not hold, and ends like any other (C1, C2)."""
    chain = log(8)
    cursor, _ = at(chain, 2)
    offer(cursor, *chain.entries[2:6])
    store = state_of(chain, snapshot_at)
    install(cursor, store.position())

    assert apply_all(cursor, store) == list(range(snapshot_at, 6))
    assert cursor.log_bytes == sum(len(item.data) for item in chain.entries[:6])
    assert offer(cursor, *chain.entries) == [6, 7]
    assert apply_all(cursor, store) == [6, 7]
    assert chain.position == cursor.position


def test_a_snapshot_in_place_of_a_gap_ends_the_healing():
    """The store is whole again, and what comes next is chained to the snapshot's last entry (C2, C5)."""
    chain = log(8)
    cursor, _ = stale(chain, applied=2, missed=4)
    cursor.healing = True
    cursor.observe(5, 7.0, confirmed=True, first_index=4)
    assert cursor.fresh_as_of is None
    install(cursor, state_of(chain, 6).position())

    assert (cursor.healing, cursor.trimmed, cursor.fresh_as_of) == (False, False, 7.0)
    assert chain.entries[5].hash == cursor.last_hash
    assert offer(cursor, chain.entries[6]) == [6]


def test_a_read_of_what_a_snapshot_holds_changes_nothing():
    """Its answer comes after the snapshot: all of it is known already (C1)."""
    chain = log(8)
    cursor, _ = at(chain, 2)
    cursor.saw(4)
    cursor.next_read()
    install(cursor, state_of(chain, 7).position())

    assert cursor.read_done(2, chain.data(2, 3)) == []
    assert (cursor.missing, cursor.bad, cursor.next_index) == (None, None, 7)


# --- the size of the log --------------------------------------------------------------------------------------


def test_the_log_bytes_run_ahead_of_the_store():
    """They are those of all entries that are known, applied or not: what the next append adds to (M8)."""
    chain = log(5)
    cursor, store = at(chain, 1)
    sizes = [len(item.data) for item in chain.entries]
    offer(cursor, *chain.entries[1:3])
    first = cursor.next_apply()
    assert first is not None
    offer(cursor, *chain.entries[3:])
    assert cursor.log_bytes == sum(sizes)

    cursor.applied(store.apply(first.entries, fill=False))

    assert cursor.log_bytes == sum(sizes)
    apply_all(cursor, store)
    assert cursor.log_bytes == cursor.position.log_bytes == sum(sizes)


# --- skips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hashed", [True, False])
def test_a_skip_is_taken_in_place_of_its_entry(hashed: bool):
    """It may leave revisions out; what comes behind is chained to what it says (C2)."""
    chain = log(3)
    chain.skip(left_out=4, hashed=hashed)
    chain.put("k", "behind")
    cursor, store = at(chain, 3)

    assert offer(cursor, *chain.entries) == [3, 4]
    assert cursor.revision == 7
    apply_all(cursor, store)
    assert chain.position == cursor.position


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prev_hash": "f" * 32}, "log entry 3: is chained to"),
        ({"epoch": 1}, "log entry 3: is of epoch 1"),
        ({"first_revision": 2}, "log entry 3: starts at revision 2, but 2 was the last"),
    ],
    ids=["hash", "epoch", "revision"],
)
def test_a_skip_continues_the_log_like_any_entry(change: dict[str, object], reason: str):
    """But for the revisions that it leaves out (C2)."""
    chain = log(3)
    skip = chain.skip()
    cursor, _ = at(chain, 3)
    cursor.read_done(3, (rewritten(skip, **change),))

    assert str(cursor.bad).startswith(reason)


def rewritten(item: LogEntry, **changes: object) -> bytes:
    """An entry with other fields, under its own checksum."""
    return encode_entry(msgspec.structs.replace(item.entry, **changes))


def test_two_skips_in_a_row_are_taken():
    """The first did not know what the next was chained to: that one is chained to it."""
    chain = log(3)
    chain.skip(left_out=1, hashed=False)
    chain.skip(left_out=1, hashed=True)
    chain.put("k", "behind")
    cursor, store = at(chain, 3)

    assert offer(cursor, *chain.entries) == [3, 4, 5]
    apply_all(cursor, store)
    assert cursor.position.skipped == (3, 4)


def test_skips_in_a_gap_are_filled_like_entries():
    """The chain through the gap goes over what the skips say; it ends at the entry behind (C2)."""
    chain = log(3)
    chain.skip(left_out=2)
    chain.put("k", "1")
    chain.skip(left_out=1)
    chain.put("k", "2")
    cursor, store = stale(chain, applied=2, missed=4)
    offer(cursor, chain.entries[6])
    apply_all(cursor, store)
    heal(cursor, store, chain.data)

    assert since(7, chain.position) == cursor.position


def test_what_comes_before_a_bad_entry_is_taken():
    """One read with a bad entry in the middle: all before it is let through, and nothing behind it (C1, N4)."""
    chain = log(6)
    cursor, store = at(chain, 1)
    cursor.saw(5)
    cursor.next_read()
    data = list(chain.data(1, 5))
    data[2] = data[2][:-1]

    assert [item.index for item in cursor.read_done(1, tuple(data))] == [1, 2]
    assert "log entry 3" in str(cursor.bad)
    assert apply_all(cursor, store) == [1, 2]


def test_a_cursor_that_resumes_reads_what_was_bad():
    """What stands in the place of the bad entry by then is taken."""
    chain = log(3)
    skip = chain.skip()
    cursor, _ = at(chain, 3)
    cursor.saw(3)
    cursor.next_read()
    cursor.read_done(3, (b"garbage",))
    assert cursor.bad is not None
    cursor.resume()

    assert cursor.bad is None
    assert cursor.next_read() == ReadEntries(3, 1)
    assert [item.hash for item in cursor.read_done(3, (skip.data,))] == [decode_entry(3, skip.data).hash]


def test_a_cursor_that_resumes_behind_a_missing_entry_asks_a_quorum_again_about_the_next():
    """Each missing entry is confirmed by itself (C6)."""
    chain = log(6)
    cursor, _ = at(chain, 3)
    cursor.saw(5)
    for _ in range(2):
        short_read(cursor, chain, 3)
        cursor.observe(5, 1.0, confirmed=True)
    assert "log entry 3: is missing" in str(cursor.bad)
    cursor.resume()
    assert cursor.next_read() == ReadEntries(3, 3)
    cursor.read_done(3, ())

    assert (cursor.missing, cursor.bad) == (3, None)


def test_what_comes_before_a_bad_entry_in_a_gap_is_filled_in():
    """Only then has everything before it been applied, and it can be skipped (N4, K1)."""
    chain = log(8)
    cursor, store = stale(chain, applied=2, missed=4)
    offer(cursor, chain.entries[6])
    apply_all(cursor, store)
    cursor.healing = True
    cursor.next_read()
    cursor.read_done(2, (*chain.data(2, 3), b"garbage", *chain.data(5, 5)))
    assert "log entry 4" in str(cursor.bad)

    assert apply_all(cursor, store) == [2, 3]
    assert [(gap.first, gap.last) for gap in cursor.position.gaps] == [(4, 5)]
