"""Disks that are full, fail, lie, or are gone: a node ends rather than serve what is wrong; nothing is lost."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import Unavailable
from kvlog.processes import Child, ProcessKeeper, free_ports, wait_until
from kvlog.store.quarantine import inspect

from .history import History, Writers
from .ledger import WAIT_S, Ledger, Log, fill_until_trimmed, small_segments
from .small_segments import SEGMENT

SMALL_DISK, LARGE_DISK = "size=2m", "size=64m"


class Kept:
    """Three nodes with a log that is kept whole, and what was written to them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.history = History(cluster)

    def leader_and_follower(self) -> tuple[ClusterNode, ClusterNode]:
        leader = self.cluster.wait_until_settled()
        return leader, next(node for node in self.cluster.nodes if node is not leader)

    def check(self) -> None:
        """All nodes are up and agree; all that was written is in the log once, what was refused is not."""
        self.cluster.wait_until_settled()
        self.cluster.wait_for_agreement()
        self.history.check()


@pytest.fixture(scope="module")
def shared(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Kept]:
    """Three nodes; each test leaves all of them up and whole."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(3), root="/test-disks", session_timeout_s=4)
    cluster.start()
    yield Kept(cluster)
    for node in cluster.running:
        node.kill()


@pytest.fixture
def kept(shared: Kept) -> Iterator[Kept]:
    """The same; checked afterwards."""
    yield shared
    shared.check()


# --- a full disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def mount() -> Iterator[Callable[[Path, str], None]]:
    """Mounts a file system in memory with these options, or mounts it again; all are unmounted at the end."""
    mounted: list[Path] = []

    def mount(directory: Path, options: str) -> None:
        again = "remount," if directory in mounted else ""
        argv = ["mount", "-t", "tmpfs", "-o", again + options, "kvlog-test", str(directory)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            assert not again, done.stderr
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
        if not again:
            mounted.append(directory)

    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    yield mount
    for directory in mounted:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_full_disk_ends_the_node_and_nothing_else(
    mount: Callable[[Path, str], None], make_cluster: Callable[..., Cluster]
):
    """Exit code 5 and a sentence that says so; the others go on; with room again it starts and catches up."""
    cluster = make_cluster(session_timeout_s=4)
    full, ledger = cluster.nodes[0], Ledger()
    full.data_dir.mkdir()
    mount(full.data_dir, SMALL_DISK)
    try:
        cluster.start()
        other = cluster.nodes[1]
        while full.running and full.answers:  # its supervisor is there for a second longer
            ledger.write(other, size=60_000)
            assert len(ledger.acknowledged) < 100, "the disk does not fill up"

        assert full.child.wait(WAIT_S) == 5
        last_line = full.log.read_text().splitlines()[-1]
        assert "the disk is full (" in last_line
        assert "make room on it, then start the node again" in last_line
        assert wait_until(lambda: ledger.write(other) == "committed", WAIT_S)

        full.start(wait=False)  # a disk that is still full
        written = len(ledger.acknowledged)
        for _ in range(5):
            ledger.fill(other, 1, size=60_000)
        assert full.child.wait(WAIT_S) == 5
        assert "the disk is full" in full.log.read_text().splitlines()[-1]
        assert len(ledger.acknowledged) == written + 5

        mount(full.data_dir, LARGE_DISK)
        full.start()
        ledger.check_all(cluster)
    finally:
        if full.running:
            full.kill()


# --- a disk that fails ----------------------------------------------------------------------------------------


def worker_of(node: ClusterNode) -> int:
    assert node.child is not None
    return int(Path(f"/proc/{node.child.pid}/task/{node.child.pid}/children").read_text().split()[0])


@contextmanager
def failing(keeper: ProcessKeeper, node: ClusterNode, call: str, when: int) -> Iterator[None]:
    """The node's system call fails with EIO when it is made for this time, by each of its threads."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here: apt-get install strace")
    log = node.log.with_suffix(f".{call}.strace")
    log.unlink(missing_ok=True)
    inject = f"inject={call}:error=EIO:when={when}+"
    tracer: Child = keeper.start(
        ["strace", "-f", "-e", f"trace={call}", "-e", inject, "-p", str(worker_of(node))], name="strace", log=log
    )
    try:
        assert wait_until(lambda: "attached" in log.read_text() or not tracer.running, WAIT_S)
        if not tracer.running:
            pytest.skip(f"strace cannot attach to a process here: {tracer.log_tail(3)}")
        yield
    finally:
        tracer.kill()


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_an_error_of_the_disk_ends_the_node_and_loses_nothing(
    kept: Kept, keeper: ProcessKeeper, call: str, role: str
):
    """EIO from the third fdatasync or pwrite on: exit code 5; started again, it has each write, and each once."""
    leader, follower = kept.leader_and_follower()
    victim, through = (leader, follower) if role == "leader" else (follower, leader)
    with failing(keeper, victim, call, 3), Writers(kept.history, [victim, through]):
        assert wait_until(lambda: not victim.running, WAIT_S), "the disk's error is not noticed"

    assert victim.child.wait(WAIT_S) == 5
    assert f"the store in {victim.data_dir / 'store'} failed: " in victim.log.read_text().splitlines()[-1]
    assert wait_until(lambda: kept.history.write(through).outcome == "committed", WAIT_S)
    victim.start()


# --- a disk that lies -----------------------------------------------------------------------------------------


def flip(path: Path, chance: random.Random, *, count: int = 3) -> list[int]:
    """Flip a bit of these many bytes of a file, wherever in it; returns where."""
    places = sorted(chance.sample(range(path.stat().st_size), count))
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << chance.randrange(8)]))
    return places


def fill(kept: Kept, prefix: str, *, keys: int = 40) -> dict[str, str]:
    """Write so that the store has some pages; returns what is to be read."""
    leader, _ = kept.leader_and_follower()
    values = {f"{prefix}-{number}": f"{prefix}-{number}-".ljust(300, "x") for number in range(keys)}
    for key, value in values.items():
        assert leader.update(key, value).status == 200
    kept.cluster.wait_for_agreement()
    return values


def test_a_store_that_was_damaged_while_its_node_was_down_is_never_read(kept: Kept):
    """Three flipped bits in data.mdb, 21 times: it has the right data, or says that it was damaged and replays."""
    values = fill(kept, "down")
    digest = kept.cluster.wait_for_agreement()
    damaged = 0
    for round_ in range(7):
        for node in kept.cluster.nodes:
            node.terminate()
        said = {node: len(node.log.read_text()) for node in kept.cluster.nodes}
        for number, node in enumerate(kept.cluster.nodes):
            shutil.rmtree(node.data_dir / "store.damaged", ignore_errors=True)
            flip(node.data_dir / "store" / "data.mdb", random.Random(3 * round_ + number))
            node.start(wait=False)
        for node, start in said.items():
            assert wait_until(lambda node=node, start=start: "is ready on" in node.log.read_text()[start:], WAIT_S)
            put_aside = "the store is damaged (" in node.log.read_text()[start:]
            assert put_aside == (node.data_dir / "store.damaged" / "data.mdb").exists()
            damaged += put_aside
            assert node.status()["digest"] == digest
            assert {key: node.read(key).body["value"] for key in values} == values
    assert damaged > 0


def test_a_store_that_is_damaged_under_its_node_gives_no_wrong_value(kept: Kept):
    """Flipped bits in the values: each read is right, or the node ends with 5 or by a signal, and comes back."""
    values = fill(kept, "under")
    for seed in range(3):
        _, node = kept.leader_and_follower()
        node.terminate()
        node.start()  # what it was told before is in its memory no more: it has to read the file
        harm_values(node, values, random.Random(seed))
        ended = False
        for key, value in values.items():
            try:
                answer = node.read(key)
            except Unavailable:
                ended = True
                break
            assert (answer.status, answer.body["value"]) == (200, value)
        assert ended
        code = node.child.wait(WAIT_S)
        assert code == 5 or code < 0
        node.start()
        assert "the store is damaged (" in node.log.read_text()
        assert {key: node.read(key).body["value"] for key in values} == values
        kept.cluster.wait_for_agreement()


def harm_values(node: ClusterNode, values: dict[str, str], chance: random.Random) -> None:
    """Flip a bit in every copy of one value in the store's file, as it lies under the running node."""
    value = values[chance.choice(sorted(values))].encode()
    path = node.data_dir / "store" / "data.mdb"
    content, start = path.read_bytes(), 0
    with path.open("r+b") as file:
        while (start := content.find(value, start)) >= 0:
            place = start + chance.randrange(len(value))
            file.seek(place)
            file.write(bytes([content[place] ^ 1 << chance.randrange(7)]))
            start += len(value)
        assert file.tell(), "the value is not in the file"


# --- a disk that is gone --------------------------------------------------------------------------------------


def test_a_node_whose_store_was_deleted_replays_the_whole_log(kept: Kept):
    """The log is whole: nothing else is needed."""
    values = fill(kept, "deleted", keys=5)
    _, node = kept.leader_and_follower()
    node.terminate()
    shutil.rmtree(node.data_dir)

    node.start()

    recovery = node.status()["recovery"]
    assert recovery["replayed_entries"] >= len(values)
    assert "installed" not in recovery
    assert {key: node.read(key).body["value"] for key in values} == values


def test_a_trimmed_log_without_a_store_is_refused_and_one_store_is_enough(make_cluster: Callable[..., Cluster]):
    """All stores gone: exit code 4, and the command that restores a backup; with one back, all come back."""
    cluster = make_cluster(command=small_segments("--retain", "0"), session_timeout_s=4)
    leader, ledger = cluster.start(), Ledger()
    fill_until_trimmed(ledger, leader, 2 * SEGMENT)
    digest = cluster.wait_for_agreement()
    cluster.stop()
    for node in cluster.nodes:
        (node.data_dir / "store").rename(node.data_dir / "kept")

    for node in cluster.nodes:
        node.start(wait=False)
    for node in cluster.nodes:
        assert node.child.wait(WAIT_S) == 4, cluster.describe()
        last_line = node.log.read_text().splitlines()[-1]
        assert "no store of a registered node holds what was before it" in last_line
        assert f"python -m kvlog restore FILE --zk {cluster.hosts} --root NEW_ROOT --data-dir DIR" in last_line

    survivor = cluster.nodes[1]
    shutil.rmtree(survivor.data_dir / "store")
    (survivor.data_dir / "kept").rename(survivor.data_dir / "store")
    for node in cluster.nodes:
        node.start(wait=False)
    for node in cluster.nodes:
        assert wait_until(lambda node=node: node.answers and node.status()["ready"], WAIT_S), cluster.describe()
    assert cluster.wait_for_agreement() == digest
    ledger.check_all(cluster)


# --- what a node promises about its disk ----------------------------------------------------------------------


def test_no_node_promises_more_than_its_store_holds(kept: Kept):
    """R1: kill -9 while it writes, three times: the published mark is not above what the store holds then."""
    chance = random.Random(4)
    with Log(kept.cluster) as log:
        for _ in range(3):
            _, node = kept.leader_and_follower()
            published = log.durable_index(node)
            end = time.monotonic() + chance.uniform(0.0, 0.5)
            with Writers(kept.history, kept.cluster.nodes):
                assert wait_until(
                    lambda published=published, node=node: log.durable_index(node) > published, WAIT_S
                )
                assert wait_until(lambda end=end: time.monotonic() >= end, WAIT_S, every_s=0.01)
                node.kill()
                assert log.durable_index(node) <= inspect(node.data_dir / "store").position.applied_index
            node.start()
