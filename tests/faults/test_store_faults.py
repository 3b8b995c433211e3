"""F20 to F24: what may happen to a node's own store.

Full and failing disks and flipped bits are in tests/cluster/test_disks.py; here is what is not: what a power cut
takes back, and a store that holds something else than the others', with everything about it in order.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.machine import DIGEST_MODULUS, Position, Record, digest_of
from kvlog.processes import wait_until
from kvlog.store.directories import DAMAGED, STORE
from kvlog.store.lmdb_store import LmdbStore
from kvlog.store.lmdb_transaction import LmdbTransaction
from kvlog.store.quarantine import check_store, inspect
from tests.cluster.keys import get, put

WAIT_S = 20.0

LOST = 5
"""Writes that come between two marks."""

NOTICED_S = 40.0
"""Marks are published every 2 s, and read every second; the rest is to start, on a machine that may be busy."""

STORE_FAILURE = 5

STRAY = "nobody wrote this"


def durable_index(leader: ClusterNode, node: ClusterNode) -> int:
    """What the replica has promised to hold."""
    marks = leader.status()["replicas"]
    return int(next((mark["durable_index"] for mark in marks if mark["node"] == node.address), -1))


# --- F22: a power cut -----------------------------------------------------------------------------------------


def test_what_a_power_cut_takes_back_is_replayed_and_was_never_promised(
    standing: Cluster, leader: ClusterNode, follower: ClusterNode, key: str
):
    """F22: kill -9, and the file as it was at the last mark: the node starts there and replays the rest."""
    put(leader, key, "durable")
    standing.wait_for_agreement()
    index = follower.status()["applied_index"]
    assert wait_until(lambda: durable_index(leader, follower) == index, WAIT_S)
    file = follower.data_dir / STORE / "data.mdb"
    shutil.copy(file, follower.data_dir / "at-the-mark")
    promised = []
    for number in range(LOST):
        put(leader, key, f"lost {number}")
        promised.append(durable_index(leader, follower))
    follower.kill()
    promised.append(durable_index(leader, follower))
    if max(promised) > index:
        pytest.skip("it was so slow that a mark was published meanwhile: that is not what the file holds")

    (follower.data_dir / "at-the-mark").replace(file)
    assert inspect(follower.data_dir / STORE).position.applied_index == index
    follower.start()

    assert follower.status()["recovery"]["replayed_entries"] >= LOST
    assert get(follower, key).body["value"] == f"lost {LOST - 1}"
    standing.wait_for_agreement()


# --- F24: another value, and nothing that tells -----------------------------------------------------------------


def add_a_record(store: LmdbStore, key: str) -> Position:
    """A record that is in no log, with its checksum, its share in the digest, and a digest that goes with it.

    It is of revision 0, below everything of which the past has to be kept: so everything about the store is right.
    """
    stray = Record(STRAY.encode(), create=0, revision=0, version=1)

    def added(transaction: LmdbTransaction, position: Position) -> Position:
        transaction.put(key, stray)
        transaction.added_to_digest()
        digest = (int(position.digest, 16) + digest_of(key, stray)) % DIGEST_MODULUS
        return msgspec.structs.replace(position, digest=f"{digest:032x}")

    return store._change(added)


@pytest.fixture
def diverged(standing: Cluster, follower: ClusterNode, key: str) -> ClusterNode:
    """A follower that is down, in whose store there is a record that nobody wrote."""
    shutil.rmtree(follower.data_dir / DAMAGED, ignore_errors=True)
    follower.terminate()
    with closing(LmdbStore(follower.data_dir / STORE)) as store:
        add_a_record(store, key)
    inspect(follower.data_dir / STORE)  # nothing is found
    return follower


def test_a_store_that_holds_what_others_do_not_is_found_and_copied_anew(
    standing: Cluster, leader: ClusterNode, diverged: ClusterNode, key: str
):
    """F24: behind the same entry the digests differ, two against one: it ends with 5, then starts anew."""
    said = len(diverged.log.read_text())
    diverged.start(wait=False)
    assert diverged.child is not None

    assert diverged.child.wait(NOTICED_S) == STORE_FAILURE, standing.describe()
    last_line = diverged.log.read_text()[said:].splitlines()[-1]
    assert "this store holds something else than those of " in last_line
    assert "start this node again" in last_line
    assert leader.update(key, "others go on").status == 200

    diverged.start()
    assert "the store is damaged (this store holds something else than " in diverged.log.read_text()[said:]
    assert (diverged.data_dir / DAMAGED / "data.mdb").exists()
    assert get(diverged, key).body["value"] == "others go on"
    standing.wait_for_agreement()


# --- what is not to be trusted any more -------------------------------------------------------------------------


def test_a_store_that_is_not_to_be_trusted_is_put_aside_at_the_next_start(tmp_path: Path):
    """With the reason that was noted; nothing about the files is wrong."""
    with closing(LmdbStore(tmp_path / STORE)) as store:
        store.distrust("it holds something else")
    assert check_store(tmp_path, print) == "it holds something else"
    assert (tmp_path / DAMAGED / "data.mdb").exists()

    with closing(LmdbStore(tmp_path / STORE)) as store:
        assert store.position() == Position()
    assert check_store(tmp_path, print) == ""


def test_a_copy_that_takes_the_place_of_such_a_store_is_trusted(tmp_path: Path):
    """The note is about the files beside which it lies."""
    with closing(LmdbStore(tmp_path / "store.incoming")):
        pass
    with closing(LmdbStore(tmp_path / STORE)) as store:
        store.distrust("it holds something else")
        store.install(str(tmp_path / "store.incoming"))

    assert check_store(tmp_path, print) == ""
