"""F25 to F33: what may be wrong with the log itself.

Most of it is shown in tests/cluster/test_bad_entries.py, test_identity.py and test_trimming.py; here is what is
not: a batch that is there twice, very high indices, and a log that was never trimmed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core import entry
from kvlog.core.cursor import READ_ENTRIES, READY_ENTRIES_MAX, Cursor
from kvlog.core.machine import Position
from kvlog.errors import BadEntry
from kvlog.memory_store import MemoryStore
from kvlog.zookeeper.layout import Layout, children_ever, entry_index, last_entry, log_data
from tests.chain import Chain
from tests.cluster.by_hand import zookeeper

UNTRIMMED = 20_000
"""A fifth of what the fault asks for: what may wait in memory does not depend on it."""


# --- F29: a batch that is there twice -------------------------------------------------------------------------


def test_a_copy_of_the_last_entry_is_no_next_one():
    """F29: it is chained to what was before the first of them: nobody applies it twice, all halt there (C2)."""
    chain = Chain()
    chain.barrier()
    last = chain.put("counter", "1")
    cursor = Cursor(chain.position)

    with pytest.raises(BadEntry, match="is chained to"):
        cursor.offer(last.index + 1, last.data)
    assert (cursor.next_index, cursor.next_apply()) == (last.index + 1, None)


# --- F30: very high numbers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stat:
    """As much of a znode's stat as tells how many children it has had."""

    cversion: int
    numChildren: int  # noqa: N815 - ZooKeeper's name


@pytest.mark.parametrize("index", [2**30 - 1, 2**31 - 1, 2**31, 2**32, 2**40 + 999, 10**12])
def test_an_index_beyond_what_a_sequence_number_can_be_is_one_like_any_other(index: int):
    """F30: a segment has a sequence of its own, which ends at a thousand; indices are numbers, not names."""
    layout = Layout("/kvlog")
    segment, name = layout.entry(index).split("/")[-2:]

    assert entry_index(layout.entry(index)) == index
    assert int(segment) == entry.segment_of(index) == index // entry.SEGMENT_ENTRIES
    assert int(name.removeprefix("entry-")) < entry.SEGMENT_ENTRIES
    assert last_entry(entry.segment_of(index), [name]) == index
    assert len(segment) == 10  # in the order of their names, too
    assert log_data(json.dumps({"first_index": index}).encode()).first_index == index


def test_what_has_been_counted_beyond_an_integer_of_zookeepers_is_still_right():
    """F30: the stat of a znode counts creations and deletions in 32 bits, which may have gone round."""
    created, deleted = 2**30 + 5, 2**30
    cversion = created + deleted
    wrapped = (cversion + 2**31) % 2**32 - 2**31

    assert wrapped < 0
    assert children_ever(Stat(wrapped, created - deleted)) == created


# --- F31: a log that was never trimmed ------------------------------------------------------------------------


def test_replaying_a_long_log_takes_memory_for_a_few_hundred_entries():
    """F31: of 20,000 entries, never more than 512 and one read wait in memory, and each read asks for 128 (C4)."""
    chain = Chain()
    chain.barrier()
    for number in range(1, UNTRIMMED):
        chain.put(f"key{number % 100}", str(number))
    cursor, store = Cursor(Position()), MemoryStore(history=0)
    cursor.observe(UNTRIMMED - 1, 1.0, confirmed=True)
    most = asked = 0
    while cursor.position.applied_index < UNTRIMMED - 1:
        while (read := cursor.next_read()) is not None:
            asked = max(asked, read.count)
            cursor.read_done(read.first_index, chain.data(read.first_index, read.first_index + read.count - 1))
            most = max(most, cursor.next_index - 1 - cursor.position.applied_index)
        work = cursor.next_apply()
        assert work is not None
        cursor.applied(store.apply(work.entries, fill=False))

    assert chain.position.digest == store.position().digest
    assert asked == READ_ENTRIES
    assert most <= READY_ENTRIES_MAX + READ_ENTRIES


# --- F26: an entry that was altered after it was applied -------------------------------------------------------


def test_an_entry_that_was_altered_after_all_had_applied_it_harms_nobody_who_has_it(
    standing: Cluster, leader: ClusterNode, follower: ClusterNode, key: str
):
    """F26: nobody reads it again; all go on with what was written. It is put back, for those that come later."""
    index = leader.update(key, "written").body["index"]
    standing.wait_for_agreement()
    path = Layout(standing.root).entry(index)
    with zookeeper(standing.hosts) as client:
        whole, _ = client.get(path)
        client.set(path, whole.replace(b"written", b"altered"))
        try:
            follower.terminate()
            follower.start()
            assert leader.update(f"{key}-after", "more").status == 200
            standing.wait_for_agreement()
            assert {node.read(key).body["value"] for node in standing.nodes} == {"written"}
        finally:
            client.set(path, whole)
