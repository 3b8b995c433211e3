"""backup and verify: a file is either whole, or it is not there."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kvlog.processes import free_ports, wait_until
from kvlog.snapshot import encode, header_of

from .conftest import ROOT, NodeStandIn, Reply, kvlog
from .stores import make_backup, make_store, position_of, snapshot_of

MakeNodes = Callable[..., list[NodeStandIn]]
SNAPSHOT = "GET /v1/snapshot"


@pytest.fixture
def snapshot(tmp_path: Path) -> bytes:
    """A node's snapshot of twenty entries."""
    make_store(tmp_path / "node" / "store", 20)
    return snapshot_of(tmp_path / "node" / "store")


@pytest.fixture
def node(make_nodes: MakeNodes, snapshot: bytes) -> NodeStandIn:
    """A node that gives it to whoever asks."""
    (node,) = make_nodes("n1")
    node.routes[SNAPSHOT] = lambda _: (200, snapshot)
    return node


def shown(text: str) -> dict[str, str]:
    """The names and values that a command has printed."""
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines() if "  " in line}


def test_a_backup_is_the_snapshot_and_says_what_it_holds(node: NodeStandIn, snapshot: bytes, tmp_path: Path):
    """Index, revision, digest, size, seconds; the file can be verified without any node."""
    file = tmp_path / "backup"
    made = kvlog("backup", file, "--node", node.url)
    node.stop()
    verified = kvlog("verify", file)
    said = shown(made.out)

    assert (made.code, made.err) == (0, "")
    assert file.read_bytes() == snapshot
    assert (said["index"], said["revision"], said["cluster"]) == ("19", "19", "c1")
    assert len(said["digest"]) == 32
    assert "KiB" in said["size"]
    assert float(said["seconds"]) < 30
    assert verified.code == 0, verified.err
    assert (shown(verified.out)["keys"], shown(verified.out)["requests"]) == ("7", "0")
    assert shown(verified.out)["history"] == "19 revisions, back to the state at 0"
    assert verified.out.endswith("the backup is whole\n")
    assert not [path for path in tmp_path.iterdir() if path.name not in ("backup", "node")]


def test_as_json_backup_and_verify_say_the_same(node: NodeStandIn, snapshot: bytes, tmp_path: Path):
    """Bytes and seconds are numbers; what was passed over is a list."""
    file = tmp_path / "backup"
    down = f"http://127.0.0.1:{free_ports(1)[0]}"
    made = json.loads(kvlog("backup", file, "--json", "--node", f"{down},{node.url}").out)
    verified = json.loads(kvlog("verify", file, "--json").out)

    assert {name: made.pop(name) for name in ("file", "bytes")} == {"file": str(file), "bytes": len(snapshot)}
    assert made.pop("seconds") < 30
    assert made.pop("passed_over") == [f"{down} does not answer: connection refused"]
    assert (made["index"], made["revision"], made["cluster"], made["node"]) == (19, 19, "c1", "n1")
    holds = {"keys": 7, "requests": 0, "kept_revisions": 19, "told_from": 0}
    assert verified == made | holds | {"file": str(file), "whole": True}


def test_a_file_is_not_overwritten_without_force(node: NodeStandIn, snapshot: bytes, tmp_path: Path):
    """It stays as it is, and no node is asked."""
    file = tmp_path / "backup"
    file.write_bytes(b"of yesterday")
    refused = kvlog("backup", file, "--node", node.url)

    assert (refused.code, file.read_bytes(), node.asked) == (1, b"of yesterday", [])
    assert "say --force to replace it" in refused.err
    assert kvlog("backup", file, "--force", "--node", node.url).code == 0
    assert file.read_bytes() == snapshot


def test_a_file_that_has_come_meanwhile_is_not_overwritten(node: NodeStandIn, snapshot: bytes, tmp_path: Path):
    """Downloading takes its time; who has written the file in that time keeps it."""
    file = tmp_path / "backup"

    def meanwhile(_: bytes) -> Reply:
        file.write_bytes(b"somebody's")
        return 200, snapshot

    node.routes[SNAPSHOT] = meanwhile
    result = kvlog("backup", file, "--node", node.url)

    assert (result.code, file.read_bytes()) == (1, b"somebody's")
    assert list(tmp_path.glob("backup*")) == [file]


def test_the_next_node_is_asked_if_one_fails_or_is_stale(node: NodeStandIn, make_nodes: MakeNodes, tmp_path: Path):
    """Down, stale, refusing, sending damaged or half snapshots: passed over, each with its reason."""
    down, stale, refusing, damaged, half = make_nodes("down", "stale", "refusing", "damaged", "half")
    down.stop()
    stale.state |= {"stale": True, "missed_entries": 3}
    refusing.routes[SNAPSHOT] = lambda _: (503, {"detail": "two snapshots are on their way"})
    whole = node.routes[SNAPSHOT](b"")[1]
    assert isinstance(whole, bytes)
    damaged.routes[SNAPSHOT] = lambda _: (200, whole[:2000] + b"X" + whole[2001:])
    half.routes[SNAPSHOT] = lambda _: (200, whole[:5000])
    file = tmp_path / "backup"
    before = [one.url for one in (down, stale, refusing, damaged, half)]
    result = kvlog("backup", file, "--node", ",".join([*before, node.url]))
    failed = kvlog("backup", tmp_path / "other", "--node", ",".join(before))

    assert (result.code, file.read_bytes()) == (0, whole)
    for said in (result.err, failed.err):
        assert f"{down.url} does not answer: connection refused" in said
        assert f"{stale.url} is stale: it has missed 3 entries" in said
        assert f"{refusing.url} gives no snapshot (503): two snapshots are on their way" in said
        assert f"{damaged.url} sent no usable snapshot: the snapshot is damaged" in said
        assert f"{half.url} sent no usable snapshot: the snapshot is cut off after 5000 bytes" in said
    assert SNAPSHOT not in "".join(stale.asked)
    assert (failed.code, "no backup was made" in failed.err) == (1, True)
    assert not list(tmp_path.glob("other*"))


def test_a_connection_that_breaks_leaves_nothing(node: NodeStandIn, tmp_path: Path):
    """What has come until then is no backup."""
    node.broken_off = 70
    result = kvlog("backup", tmp_path / "backup", "--node", node.url)

    assert (result.code, "did not send all of its snapshot" in result.err) == (1, True)
    assert not list(tmp_path.glob("backup*"))


def test_a_ready_node_is_preferred(node: NodeStandIn, make_nodes: MakeNodes, snapshot: bytes, tmp_path: Path):
    """One that may be behind is asked last, and then it is said; when ZooKeeper is gone there are no others."""
    (behind,) = make_nodes("n2")
    behind.state |= {"ready": False, "reason": "no connection to ZooKeeper"}
    behind.routes[SNAPSHOT] = lambda _: (200, snapshot)
    both = kvlog("backup", tmp_path / "b1", "--node", f"{behind.url},{node.url}")
    one = kvlog("backup", tmp_path / "b2", "--node", behind.url)

    assert (both.code, both.err) == (0, "")
    assert (one.code, one.err) == (
        0,
        f"{behind.url} is not ready (no connection to ZooKeeper): its data may be older than what others have\n",
    )


def test_a_killed_backup_leaves_the_old_file(node: NodeStandIn, snapshot: bytes, tmp_path: Path):
    """kill -9 in the middle: only FILE.partial is there, which the next backup takes over."""
    file, begun = tmp_path / "backup", tmp_path / "backup.partial"
    file.write_bytes(b"of yesterday")
    release = threading.Event()

    def late(_: bytes) -> Reply:
        release.wait(30)
        return 200, snapshot

    node.routes[SNAPSHOT] = late
    command = [sys.executable, "-m", "kvlog", "backup", str(file), "--force", "--node", node.url]
    with subprocess.Popen(command, cwd=ROOT) as process:
        assert wait_until(begun.exists, 20)
        second = kvlog("backup", file, "--force", "--node", node.url)
        os.kill(process.pid, signal.SIGKILL)
    release.set()

    assert (second.code, "another backup is being written" in second.err) == (1, True)
    assert file.read_bytes() == b"of yesterday"
    assert begun.exists()
    assert kvlog("backup", file, "--force", "--node", node.url).code == 0
    assert (file.read_bytes(), begun.exists()) == (snapshot, False)


def test_a_backup_that_cannot_be_written_is_said(node: NodeStandIn, tmp_path: Path):
    """The directory is not there: a sentence, no traceback."""
    result = kvlog("backup", tmp_path / "nowhere" / "backup", "--node", node.url)

    assert result.code == 1
    assert "No such file or directory" in result.err


# --- verify ---------------------------------------------------------------------------------------------------


def test_a_changed_backup_is_not_whole(tmp_path: Path):
    """Any byte, or its end: the sentence says what is wrong and what to do; nothing is left behind."""
    file = tmp_path / "backup"
    make_backup(file)
    whole = file.read_bytes()
    for damaged in (
        whole[:3000] + b"X" + whole[3001:],
        whole[:-1],
        whole + b"x",
        whole[:100],
        b"",
        b"text\n" * 9999,
    ):
        file.write_bytes(damaged)
        result = kvlog("verify", file)
        assert result.code == 1
        assert f"{file} cannot be used: " in result.err
        assert "make a new one with `python -m kvlog backup`" in result.err
    assert list(tmp_path.iterdir()) == [file]


def test_a_backup_that_lies_is_not_whole(tmp_path: Path):
    """Its checksum is right, but what it says is not what it holds."""
    file = tmp_path / "backup"
    make_store(tmp_path / "n" / "store", 20)
    data = (tmp_path / "n" / "store" / "data.mdb").read_bytes()
    make_store(tmp_path / "m" / "store", 21)
    header = header_of(position_of(tmp_path / "m" / "store"), size=len(data), created_ms=0, node_id="n1")
    file.write_bytes(b"".join(encode(header, [data])))
    result = kvlog("verify", file)

    assert (result.code, "it says that it holds" in result.err) == (1, True)


def test_a_backup_of_a_damaged_store_is_not_whole(tmp_path: Path):
    """Its checksum is right, and so is what it says; but a value is not what was once written."""
    file = tmp_path / "backup"
    make_store(tmp_path / "n" / "store", 20)
    data = bytearray((tmp_path / "n" / "store" / "data.mdb").read_bytes())
    data[data.rindex(b"value 19")] ^= 1
    header = header_of(position_of(tmp_path / "n" / "store"), size=len(data), created_ms=0, node_id="n1")
    file.write_bytes(b"".join(encode(header, [bytes(data)])))
    result = kvlog("verify", file)

    assert (result.code, "is damaged: " in result.err) == (1, True)


def test_a_backup_that_is_not_there_is_said(tmp_path: Path):
    """A sentence."""
    result = kvlog("verify", tmp_path / "backup")

    assert (result.code, "No such file or directory" in result.err) == (1, True)
