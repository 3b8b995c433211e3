"""recover: the best of the stores that are left begins a new log, and nothing happens unasked."""

import fcntl
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kvlog.cli.recover import MOVED
from kvlog.cli.restore import tell_log
from kvlog.core.machine import Identity, Position
from kvlog.store.lmdb_store import LmdbStore
from kvlog.zookeeper.seed import Seed, connect
from tests.chain import Chain

from .conftest import Result, Zk, kvlog
from .stores import chain_of, items_of, make_store, position_of

GO = "--start-a-new-log"


def recover(zk: Zk, *data_dirs: Path, go: bool = True) -> Result:
    """The command."""
    flags = [text for data_dir in data_dirs for text in ("--data-dir", str(data_dir))]
    return kvlog("recover", *zk.flags, *flags, *([GO] if go else []))


@pytest.fixture
def left(tmp_path: Path) -> list[Path]:
    """The data directories of three nodes that have come to 12, 20 and 17 entries."""
    chain = chain_of(20)
    dirs = [tmp_path / name for name in ("n1", "n2", "n3")]
    for data_dir, count in zip(dirs, (12, 20, 17), strict=True):
        make_store(data_dir / "store", count, chain=chain)
    return dirs


def stale(data_dir: Path, chain: Chain, gap: tuple[int, int], last: int) -> None:
    """Make a store that has missed the entries of the gap."""
    make_store(data_dir / "store", gap[0], chain=chain)
    with closing(LmdbStore(data_dir / "store")) as store:
        store.skip_to(gap[1])
        store.apply(tuple(chain.entries[gap[1] + 1 : last + 1]), fill=False)


def everything(data_dirs: list[Path]) -> list[tuple[str, Position]]:
    """The stores below these directories, and where they stand."""
    stores = sorted(path for data_dir in data_dirs for path in data_dir.glob("store*"))
    return [(f"{path.parent.name}/{path.name}", position_of(path)) for path in stores]


def rows(text: str) -> dict[str, list[str]]:
    """The lines of a table by the last part of their first word."""
    return {line.split()[0].rsplit("/")[-1]: line.split()[1:] for line in text.splitlines()}


def test_the_store_with_the_most_begins_the_new_log(zk: Zk, left: list[Path]):
    """It knows the log, which begins behind it; the others are moved away, and come back with a snapshot."""
    before = position_of(left[1] / "store")
    items = items_of(left[1] / "store")
    result = recover(zk, *left)
    chosen = position_of(left[1] / "store")
    log = zk.client.exists(f"{zk.root}/log")

    assert result.code == 0, result.err
    assert log is not None
    assert chosen.identity == Identity(zk.data("cluster")["cluster_id"], log.czxid, 500)
    assert (chosen.applied_index, chosen.hash, chosen.digest) == (999, before.hash, before.digest)
    assert items_of(left[1] / "store") == items
    assert zk.data("log") == {"first_index": 1_000, "first_bytes": before.log_bytes}
    assert [name for name, _ in everything(left)] == [f"n1/{MOVED}", "n2/store", f"n3/{MOVED}"]
    assert position_of(left[0] / MOVED).applied_index == 11
    assert f"--data-dir {left[1]}`" in result.err


def test_without_the_flag_it_only_says_what_would_be(zk: Zk, left: list[Path]):
    """The table, the choice, and what would be lost; exit code 1, and nothing is changed."""
    before = everything(left)
    result = recover(zk, *left, go=False)
    found = rows(result.out)

    assert result.code == 1
    assert found["n1"] == ["c1", "11", "11", "0", "whole"]
    assert found["n2"] == ["c1", "19", "19", "0", "whole"]
    assert f"would begin at {zk.root} with the store in {left[1]}, index 19, revision 19" in result.err
    assert "acknowledged writes that came later, and were only in the lost log, would be gone" in result.err
    assert GO in result.err
    assert everything(left) == before
    assert zk.client.exists(zk.root) is None


def test_as_json_it_says_of_each_store_what_it_is_worth(zk: Zk, left: list[Path], tmp_path: Path):
    """One document, also when nothing was done: then there is no new log, and the reason is on stderr."""
    (tmp_path / "n4").mkdir()
    flags = [flag for data_dir in (left[1], tmp_path / "n4") for flag in ("--data-dir", data_dir)]
    looked = kvlog("recover", *zk.flags, *flags, "--json")
    done = kvlog("recover", *zk.flags, *flags, "--json", GO)
    found, new = json.loads(looked.out), json.loads(done.out)

    assert (looked.code, done.code, GO in looked.err) == (1, 0, True)
    names = ("cluster", "index", "revision", "missed", "verdict")
    assert [[store[name] for name in names] for store in found["stores"]] == [
        ["c1", 19, 19, 0, "whole"],
        [None, None, None, None, "no store"],
    ]
    assert (found["chosen"], found["new_log"]) == (str(left[1]), None)
    assert new | {"new_log": None} == found
    assert new["new_log"] == {
        "root": zk.root,
        "cluster": zk.data("cluster")["cluster_id"],
        "from": str(left[1]),
        "index": 999,
        "revision": 19,
        "digest": position_of(left[1] / "store").digest,
    }


def test_a_store_with_gaps_begins_no_log(zk: Zk, left: list[Path], tmp_path: Path):
    """However far it has come; that it may have had more is said."""
    stale(tmp_path / "n4", chain_of(30), (5, 8), 29)
    result = recover(zk, *left, tmp_path / "n4", go=False)

    assert rows(result.out)["n4"] == ["c1", "29", "29", "4", "stale"]
    assert f"with the store in {left[1]}" in result.err
    assert f"{tmp_path / 'n4'} (stale, index 29)" in result.err


def test_a_damaged_store_begins_no_log(zk: Zk, left: list[Path]):
    """It is found by reading all of it, and named."""
    data = bytearray((left[1] / "store" / "data.mdb").read_bytes())
    at = data.rindex(b"value 19")
    data[at] ^= 1
    (left[1] / "store" / "data.mdb").write_bytes(data)
    result = recover(zk, *left)

    assert result.code == 0, result.err
    assert rows(result.out)["n2"][4] == "damaged:"
    assert position_of(left[2] / "store").applied_index == 999
    assert (left[1] / MOVED).exists()


def test_a_store_that_kills_its_reader_begins_no_log(zk: Zk, left: list[Path]):
    """A file that is cut off ends whoever reads it (SIGBUS); the command goes on."""
    file = left[1] / "store" / "data.mdb"
    with file.open("r+b") as data:
        data.truncate(file.stat().st_size // 2)
    result = recover(zk, *left, go=False)

    assert result.code == 1
    assert rows(result.out)["n2"][4] == "damaged:"
    assert f"with the store in {left[2]}" in result.err
    assert f"{left[1]} (damaged)" in result.err


def test_stores_of_different_clusters_are_not_mixed(zk: Zk, left: list[Path], tmp_path: Path):
    """It says which is of which."""
    make_store(tmp_path / "n4" / "store", 3, identity=Identity("c2", 9))
    result = recover(zk, *left, tmp_path / "n4")

    assert result.code == 1
    assert f"cluster c2: {tmp_path / 'n4'}" in result.err
    assert zk.client.exists(zk.root) is None


def test_stores_that_contradict_each_other_begin_no_log(zk: Zk, left: list[Path], tmp_path: Path):
    """The same cluster and index, but other data: one of them is wrong, and no program knows which."""
    other = Chain()
    other.barrier()
    for number in range(1, 20):
        other.put("key", f"another {number}")
    make_store(tmp_path / "n4" / "store", 20, chain=other)
    result = recover(zk, *left, tmp_path / "n4")

    assert (result.code, "stand at the same index 19, but their data differs" in result.err) == (1, True)
    assert zk.client.exists(zk.root) is None


def test_where_no_store_is_usable_it_says_so(zk: Zk, tmp_path: Path):
    """No store, an empty one, a stale one."""
    (tmp_path / "n1").mkdir()
    (tmp_path / "n2").mkdir()
    LmdbStore(tmp_path / "n2" / "store").close()
    stale(tmp_path / "n3", chain_of(9), (5, 6), 8)
    result = recover(zk, *(tmp_path / name for name in ("n1", "n2", "n3")))
    found = rows(result.out)

    assert (result.code, "none of the stores can begin a log" in result.err) == (1, True)
    assert [found[name][4:] for name in ("n1", "n2", "n3")] == [["no", "store"], ["empty"], ["stale"]]


def test_a_directory_that_is_not_there_is_no_data_directory(zk: Zk, left: list[Path], tmp_path: Path):
    """A typing error does not silently leave a store out."""
    result = recover(zk, *left, tmp_path / "n9")

    assert (result.code, f"there is no directory {tmp_path / 'n9'}" in result.err) == (1, True)
    assert zk.client.exists(zk.root) is None


def test_a_running_node_is_left_alone(zk: Zk, left: list[Path]):
    """All of them have to be stopped."""
    with (left[2] / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = recover(zk, *left)

    assert (result.code, f"a node runs in the data directory {left[2]}" in result.err) == (1, True)
    assert zk.client.exists(zk.root) is None


def test_a_log_that_is_there_stays_as_it_is(zk: Zk, left: list[Path], tmp_path: Path):
    """Of nodes that use it, or seeded by something else: the stores stay, too."""
    make_store(tmp_path / "m1" / "store", 5, identity=Identity("c5", 5))
    assert recover(zk, tmp_path / "m1").code == 0
    before = everything(left), zk.data("cluster")
    other_seed = recover(zk, *left)
    zk.client.create(f"{zk.root}/log/0000000001/entry-", b"x", sequence=True)
    in_use = recover(zk, *left)
    own = recover(zk, tmp_path / "m1")

    assert [result.code for result in (other_seed, in_use, own)] == [1, 1, 1]
    assert f"it was not made from {left[1]}" in other_seed.err
    assert "nodes have used it" in in_use.err
    assert "a node whose store is of that cluster only has to be started" in own.err
    assert (everything(left), zk.data("cluster")) == before


def test_what_a_crashed_install_has_left_is_settled_first(zk: Zk, left: list[Path]):
    """A node was killed while it put a snapshot in its store's place: its store is still called store.old."""
    (left[1] / "store").rename(left[1] / "store.old")
    result = recover(zk, *left)

    assert result.code == 0, result.err
    assert position_of(left[1] / "store").applied_index == 999


# --- crashes --------------------------------------------------------------------------------------------------


def _log_made(zk: Zk, left: list[Path]) -> None:
    with connect(zk.hosts, zk.root) as place:
        place.create(Seed.of(position_of(left[1] / "store")))


def _log_told(zk: Zk, left: list[Path]) -> None:
    _log_made(zk, left)
    with connect(zk.hosts, zk.root) as place:
        found = place.find()
    assert found is not None
    tell_log(left[1] / "store", found)


def _one_moved(zk: Zk, left: list[Path]) -> None:
    _log_told(zk, left)
    (left[0] / "store").rename(left[0] / MOVED)


def _all_moved(zk: Zk, left: list[Path]) -> None:
    _one_moved(zk, left)
    (left[2] / "store").rename(left[2] / MOVED)


@pytest.mark.parametrize("crash", [_log_made, _log_told, _one_moved, _all_moved])
def test_after_a_crash_the_same_command_completes(
    zk: Zk, left: list[Path], crash: Callable[[Zk, list[Path]], None]
):
    """Whatever step was the last one: the same log, the same stores, and twice changes nothing more."""
    crash(zk, left)
    made = zk.data("cluster")
    first = recover(zk, *left)
    after = everything(left)
    second = recover(zk, *left)

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert zk.data("cluster") == made
    assert [name for name, _ in after] == [f"n1/{MOVED}", "n2/store", f"n3/{MOVED}"]
    assert (after[1][1].applied_index, after[0][1].applied_index) == (999, 11)
    assert after[1][1].identity is not None
    assert after[1][1].identity.cluster_id == made["cluster_id"]
    assert everything(left) == after


def test_a_second_recovery_keeps_the_stores_of_the_first(zk: Zk, left: list[Path], tmp_path: Path):
    """ZooKeeper is lost again: nothing that was moved away is overwritten."""
    (left[0] / MOVED).mkdir()
    (left[0] / MOVED / "of-before").touch()
    result = recover(zk, *left)

    assert result.code == 0, result.err
    assert (left[0] / MOVED / "of-before").exists()
    assert position_of(left[0] / f"{MOVED}-2").applied_index == 11
