"""Entries that nobody can apply: every replica halts at the same one, and a skip takes all of them past it."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from kazoo.client import KazooClient, TransactionRequest

from kvlog.cluster import Answer, Cluster, ClusterNode, server_command
from kvlog.core.entry import (
    FORMAT,
    SEGMENT_ENTRIES,
    Entry,
    LogEntry,
    Put,
    Request,
    decode_entry,
    encode_entry,
    encode_request,
)
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import Unavailable
from kvlog.processes import ProcessKeeper, free_ports, wait_until
from kvlog.zookeeper.layout import Layout
from kvlog.zookeeper.peek import Peek

from .by_hand import fill_segment, kvlog, move_store_away, others, wait_until_halted, zookeeper

WAIT_S = 20.0
PATIENCE_S = 30.0

BY_HAND = encode_request(Request(effects=(Put("by hand", "value", create=1, version=1),)))


@pytest.fixture(scope="module")
def keep_cluster(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Callable[[], Cluster]]:
    """The cluster of the tests before, if they have left it well; else another one."""
    made: list[Cluster] = []

    def well() -> Cluster:
        with suppress(IndexError, Unavailable, AssertionError):
            assert len(made[-1].running) == len(made[-1].nodes)
            made[-1].wait_until_settled(10)
            made[-1].wait_for_agreement(10)
            return made[-1]
        if made:
            end(made[-1])
        name = uuid.uuid4().hex[:8]
        cluster = Cluster(
            keeper,
            ensemble.hosts,
            ports=free_ports(3),
            root=f"/test-{name}",
            directory=keeper.directory / f"cluster-{name}",
        )
        made.append(cluster)
        cluster.start()
        return cluster

    def end(cluster: Cluster) -> None:
        for node in cluster.running:
            node.kill()

    yield well
    if made:
        end(made[-1])


@pytest.fixture
def shared(keep_cluster: Callable[[], Cluster]) -> Cluster:
    """Three nodes that agree; the log may hold what earlier tests have had skipped."""
    return keep_cluster()


@dataclass
class Tail:
    """The end of the log, and a transaction on it: what is added takes effect at once, or not at all."""

    root: str
    client: KazooClient
    entries: list[LogEntry]
    transaction: TransactionRequest

    @property
    def index(self) -> int:
        """Where the next entry will be."""
        return self.entries[-1].index + 1

    def header(self, **changes: object) -> Entry:
        """The next entry as a leader would write it; ``changes`` make it another one."""
        last = self.entries[-1]
        fields: dict[str, object] = {
            "format": FORMAT,
            "epoch": last.entry.epoch,
            "batch_id": f"by-hand-{uuid.uuid4().hex[:8]}",
            "prev_hash": last.hash,
            "first_revision": last.entry.last_revision + 1,
            "time_ms": 1,
        }
        return Entry(**(fields | changes))  # type: ignore[arg-type]

    def encoded(self, **changes: object) -> bytes:
        """The bytes of such an entry, with a checksum that is right."""
        return encode_entry(self.header(**changes), (BY_HAND,))

    def create(self, data: bytes, name: str = "entry-", *, sequence: bool = True) -> None:
        """A child of the segment, made by hand."""
        segment = self.index // SEGMENT_ENTRIES
        self.transaction.create(f"{Layout(self.root).segment(segment)}/{name}", data, sequence=sequence)

    def create_and_delete(self) -> None:
        """Two sound entries, the first of which is gone again: a hole in the middle."""
        first = self.encoded()
        self.create(first)
        after = decode_entry(self.index, first)
        revision = after.entry.last_revision + 1
        self.create(self.encoded(prev_hash=after.hash, first_revision=revision))
        self.transaction.delete(Layout(self.root).entry(self.index))


def truncated(tail: Tail) -> None:
    tail.create(tail.encoded()[:-20])


def altered(tail: Tail) -> None:
    tail.create(tail.encoded().replace(b'"value":"value"', b'"value":"other"'))


def of_an_unknown_format(tail: Tail) -> None:
    tail.create(tail.encoded(format=FORMAT + 1))


def chained_to_another(tail: Tail) -> None:
    tail.create(tail.encoded(prev_hash=tail.entries[-2].hash))


def of_a_later_revision(tail: Tail) -> None:
    tail.create(tail.encoded(first_revision=tail.header().first_revision + 5))


def of_a_revision_that_is_there(tail: Tail) -> None:
    tail.create(tail.encoded(first_revision=tail.header().first_revision - 1))


def of_an_earlier_epoch(tail: Tail) -> None:
    tail.create(tail.encoded(epoch=tail.header().epoch - 1))


def a_note(tail: Tail) -> None:
    tail.create(b"remember the milk")


def empty(tail: Tail) -> None:
    tail.create(b"")


def a_stray_child(tail: Tail) -> None:
    tail.create(b"", f"stranger-{tail.index}", sequence=False)


def a_stray_sequential_child(tail: Tail) -> None:
    tail.create(b"", "lock-")


def deleted_in_the_middle(tail: Tail) -> None:
    tail.create_and_delete()


BAD = {
    truncated: "do not match their own checksum",
    altered: "do not match their own checksum",
    of_an_unknown_format: f"written in format {FORMAT + 1}, this kvlog knows formats 1 and {FORMAT}",
    chained_to_another: "is chained to",
    of_a_later_revision: "starts at revision",
    of_a_revision_that_is_there: "starts at revision",
    of_an_earlier_epoch: "is of epoch",
    a_note: "do not match their own checksum",
    empty: "its 0 bytes do not match their own checksum",
    a_stray_child: "is missing, although the log goes on behind it",
    a_stray_sequential_child: "is missing, although the log goes on behind it",
    deleted_in_the_middle: "is missing, although the log goes on behind it",
}
"""What may be in the log, and what a node says of it."""


def spoil(cluster: Cluster, *kinds: Callable[[Tail], None]) -> int:
    """Put bad entries at the end of the log, where nobody has applied them; returns the first one's index.

    The log ends with two sound ones before, made by writes.
    """
    leader = cluster.wait_until_settled()
    for value in ("before", "sound"):
        assert leader.update("key", value).status == 200
    cluster.wait_for_agreement()
    entries = Peek(cluster.hosts, cluster.root).last_entries(2)
    with zookeeper(cluster.hosts) as client:
        tail = Tail(cluster.root, client, [stored.item for stored in entries], client.transaction())
        for kind in kinds:
            kind(tail)
        results = tail.transaction.commit()
        assert not any(isinstance(result, Exception) for result in results), results
    return tail.index


def skip(node: ClusterNode, index: int, reason: str = "made by hand") -> Answer:
    """POST /v1/admin/log/skip."""
    return node.request("POST", "/v1/admin/log/skip", body=json.dumps({"index": index, "reason": reason}).encode())


def writes_again(cluster: Cluster) -> None:
    """Through every node, and all of them have the same data."""
    cluster.wait_until_settled()
    for node in cluster.running:
        answer = node.update("key", f"by {node.number}")
        assert answer.status == 200, answer
    cluster.wait_for_agreement()


# --- halting, and going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD, ids=lambda kind: kind.__name__)
def test_all_halt_at_the_same_entry_and_a_skip_takes_all_past_it(shared: Cluster, kind: Callable[[Tail], None]):
    """N4: reads as of the entry before, and marked; no writes, and why; then on, with equal digests."""
    index = spoil(shared, kind)
    wait_until_halted(shared, shared.nodes, index)

    for node in shared.nodes:
        status, read, ready = node.status(), node.read("key"), node.request("GET", "/readyz")
        refused = node.update("key", "refused")
        assert (status["role"], status["ready"]) == ("halted", False)
        assert status["reason"].startswith(f"halted: log entry {index}: ")
        assert BAD[kind] in status["reason"]
        assert (ready.status, ready.body["reason"]) == (503, status["reason"])
        assert read.body == {"key": "key", "value": "sound", "halted_at": index}
        assert (read.headers["kvlog-halted"], read.headers["kvlog-applied-index"]) == (str(index), str(index - 1))
        assert (refused.status, refused.body["outcome"]) == (503, "refused")
        assert f"this node has halted: log entry {index}: " in refused.body["detail"]
    assert len({node.status()["digest"] for node in shared.nodes}) == 1

    assert skip(shared.nodes[0], index).status == 200
    writes_again(shared)
    assert all(index in node.status()["skipped"] for node in shared.nodes)
    assert not any("kvlog-halted" in node.read("key").headers for node in shared.nodes)


def test_two_bad_entries_in_a_row_are_skipped_by_the_command_line(shared: Cluster):
    """Each with a command of its own; who and why stand in ZooKeeper, for everybody to read."""
    index = spoil(shared, truncated, a_note)
    node = shared.nodes[1]
    instance = node.status()["instance"]

    for number in (index, index + 1):
        wait_until_halted(shared, shared.nodes, number)
        done = kvlog("log", "skip", number, "--reason", "a broken disk", "--node", node.address)
        assert (done.returncode, done.stdout) == (
            0,
            f"entry {number} is skipped; all 3 members have gone past it\n",
        ), done.stderr
    writes_again(shared)

    seen = {entry.index: entry for entry in Peek(shared.hosts, shared.root).last_entries(10)}
    writers = {shared.nodes[number].status()["instance"] for number in range(3)}
    for number in (index, index + 1):
        assert seen[number].path == f"{shared.root}/log/skip-{number:010d}"
        assert seen[number].says == ["skipped: a broken disk"]
        batch_id = seen[number].item.entry.batch_id
        assert batch_id.partition("-")[0] in writers
        assert batch_id.endswith(f"-skip-{number}")
    assert instance in writers


def test_only_the_entry_at_which_a_node_has_halted_is_skipped(shared: Cluster):
    """K1: nothing on a node that is well, and no other index; the sentence says where it has halted."""
    well = skip(shared.nodes[0], shared.nodes[0].status()["applied_index"])
    index = spoil(shared, empty)
    wait_until_halted(shared, shared.nodes, index)
    other = skip(shared.nodes[0], index - 1)
    command = kvlog("log", "skip", index - 1, "--reason", "x", "--node", shared.nodes[0].address)

    assert (well.status, well.body["detail"]) == (409, "this node has not halted: it needs no skip")
    assert (other.status, other.body["detail"]) == (
        409,
        f"this node has halted at entry {index}, not at {index - 1}",
    )
    assert command.returncode == 1
    assert "nothing was skipped" in command.stderr
    assert skip(shared.nodes[2], index).status == 200
    writes_again(shared)


# --- writes that were under way -------------------------------------------------------------------------------


class Writing(threading.Thread):
    """One write with an Idempotency-Key, and its answer."""

    def __init__(self, node: ClusterNode, key: str, *, timeout_s: float) -> None:
        super().__init__(daemon=True)
        self.id = f"id-{uuid.uuid4().hex}"
        self._node = node
        self._key = key
        self._timeout_s = timeout_s
        self._answers: list[tuple[Answer, float]] = []
        self.start()

    def run(self) -> None:
        path = f"/update?timeout_ms={round(self._timeout_s * 1000)}"
        body = json.dumps({"key": self._key, "value": "in flight"}).encode()
        headers = {"Idempotency-Key": self.id}
        begun_at = time.monotonic()
        answer = self._node.request("POST", path, body=body, headers=headers, timeout_s=self._timeout_s + WAIT_S)
        self._answers.append((answer, time.monotonic() - begun_at))

    @property
    def answer(self) -> tuple[Answer, float]:
        """What became of it, once that is known, and after how many seconds that was."""
        self.join(self._timeout_s + WAIT_S)
        return self._answers[0]


@pytest.mark.parametrize("late", [False, True])
def test_a_write_whose_place_was_taken_is_committed_behind_the_skip(shared: Cluster, late: bool):
    """It lands one place further, before the skip or after; its client is told so at once, and who asks later."""
    leader = shared.wait_until_settled()
    followers = others(shared, leader)
    arm(leader, "before_append:sleep:2000@1")
    write = Writing(leader, f"late {late}", timeout_s=PATIENCE_S)
    assert wait_until(lambda: not decides(leader), WAIT_S, every_s=0.01)
    index = take_place(shared)
    wait_until_halted(shared, followers if late else shared.nodes, index)
    refused = followers[1].update("refused", "value", timeout_s=1)

    assert skip(followers[0], index).status == 200
    answer, took_s = write.answer
    assert (answer.status, answer.body["index"]) == (200, index + 1)
    assert took_s < PATIENCE_S / 2
    assert (refused.status, refused.body["outcome"]) == (503, "refused")
    writes_again(shared)
    for node in shared.nodes:
        assert node.read(f"late {late}").body["value"] == "in flight"
        assert node.read("refused").body["value"] == ""
        found = node.request("GET", f"/v1/requests/{write.id}").body
        assert (found["outcome"], found["index"]) == ("committed", index + 1)


def test_a_write_whose_entry_is_skipped_did_not_happen_and_is_tried_again(shared: Cluster):
    """Its place was taken, and where it landed it was altered: the node that wrote it can lead again, too."""
    leader = shared.wait_until_settled()
    followers = others(shared, leader)
    arm(leader, "before_append:sleep:1000@1")
    write = Writing(leader, "again", timeout_s=PATIENCE_S)
    assert wait_until(lambda: not decides(leader), WAIT_S, every_s=0.01)
    index = take_place(shared)
    wait_until_halted(shared, shared.nodes, index)
    with zookeeper(shared.hosts) as client:
        client.set(Layout(shared.root).entry(index + 1), b"altered")
    assert skip(followers[0], index).status == 200
    wait_until_halted(shared, shared.nodes, index + 1)

    assert skip(followers[1], index + 1).status == 200
    answer, _ = write.answer
    assert answer.status == 200
    assert answer.body["index"] > index + 1
    for node in followers:  # so that the one that wrote it has to lead
        node.terminate()
    assert leader.update("key", "alone", timeout_s=WAIT_S).status == 200
    for node in followers:
        node.start()
    writes_again(shared)
    assert [node.read("again").body["value"] for node in shared.nodes] == ["in flight"] * 3


def arm(node: ClusterNode, spec: str) -> None:
    assert node.request("PUT", "/v1/failpoints", body=spec.encode()).status == 200


def decides(node: ClusterNode) -> bool:
    """Whether the node's deciding thread goes round; not while it is held up by a failpoint."""
    try:
        return node.request("GET", "/v1/status", timeout_s=0.2).status == 200
    except Unavailable:
        return False


def take_place(cluster: Cluster) -> int:
    """Put something in the place of the next entry; returns its index."""
    last = Peek(cluster.hosts, cluster.root).last_entries(1)[0].index
    with zookeeper(cluster.hosts) as client:
        path = client.create(f"{Layout(cluster.root).segment(0)}/entry-", b"taken", sequence=True)
    assert path == Layout(cluster.root).entry(last + 1)
    return last + 1


# --- some have it, some do not --------------------------------------------------------------------------------


def applied_by_one(cluster: Cluster) -> tuple[ClusterNode, int]:
    """An entry that one node has applied, and that was altered afterwards; all nodes are stopped."""
    one = cluster.nodes[0]
    cluster.wait_until_settled()
    for node in others(cluster, one):
        node.terminate()
    cluster.wait_for_leader()
    answer = one.update("key", "had by one", ack="log")
    assert answer.status == 200, answer
    index = answer.body["index"]
    one.terminate()
    with zookeeper(cluster.hosts) as client:
        path = Layout(cluster.root).entry(index)
        data, _ = client.get(path)
        client.set(path, data.replace(b"had by one", b"had by two"))
    return one, index


def test_who_has_applied_an_entry_keeps_it_from_being_skipped(shared: Cluster):
    """The others halt, it goes on; the refusal names it, and the way out that is named loses nothing."""
    one, index = applied_by_one(shared)
    one.start()
    halted = others(shared, one)
    for node in halted:
        node.start(wait=False)
        assert wait_until(lambda node=node: node.answers, WAIT_S)
    wait_until_halted(shared, halted, index)
    assert wait_until(lambda: one.status()["is_leader"], WAIT_S), shared.describe()
    assert one.update("later", "value").status == 200
    refused = kvlog("log", "skip", index, "--reason", "altered", "--node", halted[0].address)

    assert refused.returncode == 1
    assert f"nothing was skipped: {one.address} has applied entry {index}, so nothing is lost" in refused.stderr
    assert "stop each of them, `mv DIR/store DIR/store.before` in its data directory, and start" in refused.stderr
    for node in halted:
        node.terminate()
        move_store_away(node)
        node.start()
        assert node.read("key").body["value"] == "had by one"
        assert node.status()["recovery"]["installed"]["index"] >= index
    writes_again(shared)


def test_who_has_applied_what_was_skipped_refuses_to_go_on(shared: Cluster):
    """K2: exit code 4, with what to do as commands; done as it says, it takes over the others' data."""
    one, index = applied_by_one(shared)
    rest = others(shared, one)
    for node in rest:
        node.start(wait=False)
        assert wait_until(lambda node=node: node.answers, WAIT_S)
    wait_until_halted(shared, rest, index)
    assert skip(rest[0], index).status == 200
    shared.wait_until_settled()
    one.start(wait=False)
    code = one.child.wait(WAIT_S)
    said = one.child.log_tail(1)

    assert code == 4
    assert f"this store has applied log entry {index}, which was skipped on every other node" in said
    store = one.data_dir / "store"
    assert f"mv {store} {store}.before" in said
    for moved in one.data_dir.glob("store.before*"):
        moved.rename(one.data_dir / f"earlier-{uuid.uuid4().hex}")
    move_store_away(one)
    one.start()
    writes_again(shared)


# --- who was not there ----------------------------------------------------------------------------------------


def test_a_skip_holds_for_who_was_down_who_restarts_and_who_comes_by_snapshot(
    make_cluster: Callable[..., Cluster],
):
    """Each of them goes past it, whether it finds the skip in the log or in another one's store."""
    cluster = make_cluster(command=lambda number: [*server_command(number), "--retain", "0"])
    cluster.start()
    away, stays, restarts = cluster.nodes
    away.terminate()
    index = spoil(cluster, altered)
    wait_until_halted(cluster, cluster.running, index)
    restarts.terminate()
    restarts.start(wait=False)
    wait_until_halted(cluster, cluster.running, index)
    assert skip(stays, index).status == 200
    writes_again(cluster)
    away.start()
    restarts.terminate()
    restarts.start()
    writes_again(cluster)

    away.terminate()
    move_store_away(away)
    fill_segment(cluster, cluster.wait_until_settled())
    assert wait_until(lambda: stays.status()["log"]["first_index"] == SEGMENT_ENTRIES, WAIT_S), cluster.describe()
    away.start()
    assert away.status()["recovery"]["installed"]["index"] >= SEGMENT_ENTRIES - 1
    writes_again(cluster)
    assert [node.status()["skipped"] for node in cluster.nodes] == [[index]] * 3
