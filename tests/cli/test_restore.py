"""restore: a backup becomes the beginning of an empty cluster, or nothing is changed."""

import fcntl
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvlog.cli.backup import unpack
from kvlog.cli.restore import RESTORING, tell_log
from kvlog.core import events as ev
from kvlog.core.entry import FORMAT, SEGMENT_ENTRIES
from kvlog.core.machine import Identity, Position
from kvlog.errors import Unavailable
from kvlog.processes import free_ports
from kvlog.zookeeper import seed as seed_module
from kvlog.zookeeper.seed import Seed, connect
from tests.contract.conftest import ZooKeeperNode, member

from .conftest import Result, Zk, kvlog
from .stores import items_of, make_backup, make_store, position_of

COUNT = 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A backup of twenty entries."""
    make_backup(tmp_path / "backup", COUNT)
    return tmp_path / "backup"


def restore(zk: Zk, file: Path, data_dir: Path) -> Result:
    """The command."""
    return kvlog("restore", file, *zk.flags, "--data-dir", data_dir)


def test_a_backup_becomes_the_beginning_of_a_new_log(zk: Zk, file: Path, tmp_path: Path):
    """The log begins at the next segment, behind the store, which knows it and has lost nothing."""
    before = position_of_backup(file, tmp_path)
    result = restore(zk, file, tmp_path / "n1")
    position = position_of(tmp_path / "n1" / "store")
    log = zk.client.exists(f"{zk.root}/log")

    assert result.code == 0, result.err
    assert zk.data("cluster") | {"cluster_id": ""} == {
        "cluster_id": "",
        "format": FORMAT,
        "segment": SEGMENT_ENTRIES,
        "window": 500,
        "seed": f"{before.hash}-{COUNT - 1}",
    }
    assert zk.data("log") == {"first_index": 1_000, "first_bytes": before.log_bytes}
    assert zk.client.get_children(f"{zk.root}/log") == ["0000000001"]
    assert zk.data("log/0000000001") == {"log_bytes": before.log_bytes}
    assert sorted(zk.client.get_children(zk.root)) == ["cluster", "election", "log", "members", "replicas"]
    assert log is not None
    assert position.identity == Identity(zk.data("cluster")["cluster_id"], log.czxid, 500)
    assert position.applied_index == 999
    assert (position.epoch, position.leader) == (0, None)
    unchanged = ("hash", "revision", "digest", "log_bytes")
    assert [getattr(position, name) for name in unchanged] == [getattr(before, name) for name in unchanged]
    assert [path.name for path in (tmp_path / "n1").iterdir() if path.name != "lock"] == ["store"]
    assert f"python server.py --zk {zk.hosts} --root {zk.root} --data-dir {tmp_path / 'n1'}" in result.err


def test_as_json_it_says_what_was_restored(zk: Zk, file: Path, tmp_path: Path):
    """And how to go on is for people, on stderr."""
    result = kvlog("restore", file, *zk.flags, "--data-dir", tmp_path / "n1", "--json")
    position = position_of(tmp_path / "n1" / "store")

    assert json.loads(result.out) == {
        "restored": str(file),
        "into": str(tmp_path / "n1" / "store"),
        "cluster": zk.data("cluster")["cluster_id"],
        "index": 999,
        "revision": position.revision,
        "digest": position.digest,
    }
    assert "now start this node first" in result.err


def position_of_backup(file: Path, tmp_path: Path) -> Position:
    """Where the store in a backup stands."""
    return unpack(file, tmp_path / "looked-at").position


def test_the_new_log_goes_on_where_the_store_stands(zk: Zk, file: Path, tmp_path: Path):
    """A node takes it for its log: the tail is right before its beginning, and an append lands there."""
    restore(zk, file, tmp_path / "n1")
    position = position_of(tmp_path / "n1" / "store")
    me = member("n1")
    node = ZooKeeperNode(zk.hosts, zk.root, me, known=position.identity, window=500, session_timeout_s=4)
    try:
        connected = node.events.wait(ev.SessionConnected)
        tail = node.tail()
        appended = node.append(1_000, b"x", node.enrolled().name)
        after = node.tail()
    finally:
        node.close()

    assert connected.identity == position.identity
    assert (tail, after) == (999, 1_000)
    assert isinstance(appended, ev.Appended)
    assert appended.index == 1_000


@pytest.mark.parametrize(("applied", "first"), [(998, 1_000), (999, 1_000), (1_000, 2_000), (123_456, 124_000)])
def test_a_new_log_begins_with_a_segment_of_its_own(applied: int, first: int):
    """The old one has not begun it, so no index ever means two entries."""
    assert Seed("h", applied, 5, 9).first_index == first


# --- refusals -------------------------------------------------------------------------------------------------


def test_a_cluster_that_is_there_stays_as_it_is(zk: Zk, file: Path, tmp_path: Path):
    """Whether nodes have made it, or another backup."""
    other = tmp_path / "other"
    make_backup(other, COUNT - 1)
    assert restore(zk, other, tmp_path / "n0").code == 0
    before = zk.data("cluster")
    result = restore(zk, file, tmp_path / "n1")

    assert result.code == 1
    assert f"there is a cluster at {zk.root}" in result.err
    assert f"zkCli.sh deleteall {zk.root}" in result.err
    assert zk.data("cluster") == before
    assert [path.name for path in (tmp_path / "n1").iterdir()] == ["lock"]


def test_a_store_that_is_there_stays_as_it_is(zk: Zk, file: Path, tmp_path: Path):
    """No log is made for it either."""
    before = make_store(tmp_path / "n1" / "store", 3)
    result = restore(zk, file, tmp_path / "n1")

    assert result.code == 1
    assert f"`mv {tmp_path}/n1/store {tmp_path}/n1/store.before`" in result.err
    assert position_of(tmp_path / "n1" / "store") == before
    assert zk.client.exists(zk.root) is None


def test_a_running_node_is_left_alone(zk: Zk, file: Path, tmp_path: Path):
    """Its lock says that it runs."""
    (tmp_path / "n1").mkdir()
    with (tmp_path / "n1" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = restore(zk, file, tmp_path / "n1")

    assert (result.code, "a node runs in the data directory" in result.err) == (1, True)
    assert zk.client.exists(zk.root) is None


def test_a_damaged_backup_makes_no_log(zk: Zk, file: Path, tmp_path: Path):
    """It is checked before anything is made."""
    whole = file.read_bytes()
    file.write_bytes(whole[:5000] + b"X" + whole[5001:])
    result = restore(zk, file, tmp_path / "n1")
    file.write_bytes(whole)

    assert (result.code, f"{file} cannot be used" in result.err) == (1, True)
    assert zk.client.exists(zk.root) is None
    assert restore(zk, file, tmp_path / "n1").code == 0


def test_what_is_left_of_another_log_is_not_mixed_with_a_new_one(zk: Zk, file: Path, tmp_path: Path):
    """Something below the root, but no cluster: the transaction makes nothing."""
    zk.client.create(f"{zk.root}/members", makepath=True)
    result = restore(zk, file, tmp_path / "n1")

    assert (result.code, "no log was made: there is something below" in result.err) == (1, True)
    assert zk.client.get_children(zk.root) == ["members"]
    zk.client.delete(zk.root, recursive=True)
    assert restore(zk, file, tmp_path / "n1").code == 0


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"x", "was not made by kvlog"), (b'{"cluster_id":"c","format":9,"segment":1000}', "has format 9")],
)
def test_what_is_no_log_of_this_version_is_left_alone(zk: Zk, file: Path, tmp_path: Path, data: bytes, said: str):
    """Another program's znode, or a newer kvlog's."""
    zk.client.create(f"{zk.root}/cluster", data, makepath=True)
    result = restore(zk, file, tmp_path / "n1")

    assert (result.code, said in result.err) == (1, True)
    assert zk.client.get(f"{zk.root}/cluster")[0] == data


def test_half_a_log_is_said_to_be_one(zk: Zk, file: Path, tmp_path: Path):
    """ROOT/cluster without ROOT/log: somebody has removed a part."""
    assert restore(zk, file, tmp_path / "n1").code == 0
    zk.client.delete(f"{zk.root}/log", recursive=True)
    result = restore(zk, file, tmp_path / "n2")

    assert (result.code, "its log is not whole" in result.err) == (1, True)


def test_zookeeper_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch):
    """Within the time limit, with what to look at."""
    monkeypatch.setattr(seed_module, "ANSWER_S", 0.5)
    begin = time.monotonic()
    with (
        pytest.raises(Unavailable, match=r"is --zk right, and does a majority of its servers run\?"),
        connect(f"127.0.0.1:{free_ports(1)[0]}", "/kvlog"),
    ):
        pass

    assert time.monotonic() - begin < 5


# --- crashes --------------------------------------------------------------------------------------------------


def _nothing_but_a_lock(zk: Zk, file: Path, data_dir: Path) -> None:
    (data_dir / "lock").touch()


def _half_unpacked(zk: Zk, file: Path, data_dir: Path) -> None:
    (data_dir / RESTORING).mkdir()
    (data_dir / RESTORING / "data.mdb").write_bytes(file.read_bytes()[500:4000])


def _unpacked(zk: Zk, file: Path, data_dir: Path) -> None:
    unpack(file, data_dir / RESTORING)


def _log_made(zk: Zk, file: Path, data_dir: Path) -> None:
    position = unpack(file, data_dir / RESTORING).position
    with connect(zk.hosts, zk.root) as place:
        place.create(Seed.of(position))


def _log_told(zk: Zk, file: Path, data_dir: Path) -> None:
    _log_made(zk, file, data_dir)
    with connect(zk.hosts, zk.root) as place:
        found = place.find()
    assert found is not None
    tell_log(data_dir / RESTORING, found)


def _all_done(zk: Zk, file: Path, data_dir: Path) -> None:
    _log_told(zk, file, data_dir)
    (data_dir / RESTORING).rename(data_dir / "store")


CRASHES = [_nothing_but_a_lock, _half_unpacked, _unpacked, _log_made, _log_told, _all_done]


@pytest.mark.parametrize("crash", CRASHES)
def test_after_a_crash_the_same_command_completes(
    zk: Zk, file: Path, tmp_path: Path, crash: Callable[[Zk, Path, Path], None]
):
    """Whatever step was the last one: the same log, the same store, and twice changes nothing more."""
    expected = items_of_backup(file, tmp_path)
    data_dir = tmp_path / "n1"
    data_dir.mkdir()
    crash(zk, file, data_dir)
    made = zk.data("cluster") if zk.client.exists(f"{zk.root}/cluster") else None
    first = restore(zk, file, data_dir)
    position = position_of(data_dir / "store")
    second = restore(zk, file, data_dir)

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert zk.data("cluster") == (made or zk.data("cluster"))
    assert position.identity is not None
    assert position.identity.cluster_id == zk.data("cluster")["cluster_id"]
    assert (position.applied_index, position_of(data_dir / "store")) == (999, position)
    assert items_of(data_dir / "store") == expected
    assert not (data_dir / RESTORING).exists()
    assert "nothing was changed" in second.err


def items_of_backup(file: Path, tmp_path: Path) -> list:
    """What a backup holds."""
    unpack(file, tmp_path / "items")
    return items_of(tmp_path / "items")


def test_half_done_work_is_not_finished_with_another_backup(zk: Zk, file: Path, tmp_path: Path):
    """The log says what it was made from."""
    (tmp_path / "n1").mkdir()
    _log_made(zk, file, tmp_path / "n1")
    make_backup(tmp_path / "other", COUNT + 1)
    result = restore(zk, tmp_path / "other", tmp_path / "n1")

    assert (result.code, "there is a cluster at" in result.err) == (1, True)
    assert not (tmp_path / "n1" / "store").exists()


def test_a_log_in_use_is_not_joined_with_a_backup(zk: Zk, file: Path, tmp_path: Path):
    """Once a node has written to it, another one comes by its snapshot, and the sentence says how."""
    restore(zk, file, tmp_path / "n1")
    zk.client.create(f"{zk.root}/log/0000000001/entry-", b"x", sequence=True)
    result = restore(zk, file, tmp_path / "n2")

    assert (result.code, "was begun with this very backup, and nodes use it already" in result.err) == (1, True)
    assert f"--data-dir {tmp_path / 'n2'}`" in result.err
    assert not (tmp_path / "n2" / "store").exists()
