"""Watches of real nodes, against the log itself: what is told is what was committed, once and in order."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.entry import LogEntry, Put
from kvlog.processes import wait_until
from tests.event_stream import EventStream, Sent

from .history import History, Writers

CUTS = 100
WAIT_S = 30.0


class Follower(threading.Thread):
    """A client that follows all changes, and is cut off again and again: it goes on at another node each time.

    ``told`` is what it has been told, in the order in which that came.
    """

    def __init__(self, nodes: Sequence[ClusterNode], target: str) -> None:
        super().__init__(daemon=True)
        self.told: list[Sent] = []
        self.cuts = 0
        self.reached = 0  # everything up to there has come
        self.stopped = threading.Event()
        self.failed: BaseException | None = None
        self._nodes = itertools.cycle(nodes)
        self._target = target
        self._chance = random.Random(7)

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                self._follow(next(self._nodes))
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for it
            self.failed = error

    def _follow(self, node: ClusterNode) -> None:
        """One stream, which is cut after a few events."""
        try:
            with EventStream(node.port, self._target, last_event_id=self.reached) as stream:
                assert stream.status == 200, stream.problem()
                for _ in range(self._chance.randrange(1, 12)):
                    event = stream.event()
                    if event is None or self.stopped.is_set():
                        return  # the node is stopping
                    assert event.kind in ("change", "progress"), event
                    if event.kind == "change":
                        self.told.append(event)
                    self.reached = int(event.id)
        except (OSError, http.client.HTTPException):
            self.stopped.wait(0.02)  # nobody is there, or it has just died
        self.cuts += 1

    def wait(self, done: Callable[[], bool]) -> None:
        """Until it has come so far."""
        assert wait_until(lambda: done() or self.failed is not None, WAIT_S), f"{self.cuts} cuts, {self.reached}"
        if self.failed is not None:
            raise self.failed


@pytest.fixture
def follow() -> Iterator[Callable[..., Follower]]:
    """Starts followers, and ends them."""
    started: list[Follower] = []

    def start(nodes: Sequence[ClusterNode], target: str) -> Follower:
        started.append(Follower(nodes, target))
        started[-1].start()
        return started[-1]

    yield start
    for follower in started:
        follower.stopped.set()
        follower.join(WAIT_S)


def committed(log: Sequence[LogEntry], prefix: str) -> list[tuple[int, int, list[tuple[str, str]]]]:
    """Revision, index, and what was put of the keys with a prefix, as the log has it."""
    found = []
    for item in log:
        for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
            puts = [effect for effect in request.effects if isinstance(effect, Put)]
            if wanted := [(put.key, put.value) for put in puts if put.key.startswith(prefix)]:
                found.append((revision, item.index, wanted))
    return found


def told(events: Sequence[Sent]) -> list[tuple[int, int, list[tuple[str, str]]]]:
    """The same, as a watcher was told."""
    return [
        (
            event.data["revision"],
            event.data["index"],
            [(change["key"], change["value"]) for change in event.data["changes"]],
        )
        for event in events
    ]


def test_a_watcher_cut_off_a_hundred_times_is_told_every_change_once_and_in_order(
    cluster: Cluster, follow: Callable[..., Follower]
):
    """V1 across nodes: it goes on where it was, each time elsewhere, also when the leader is killed with -9."""
    history = History(cluster)
    everything = follow(cluster.nodes, "?heartbeat=1")
    some = follow(cluster.nodes[1:] + cluster.nodes[:1], "?prefix=key3&heartbeat=1")

    with Writers(history, cluster.nodes, threads=2, once=2):
        everything.wait(lambda: everything.cuts >= CUTS // 3)
        leader = cluster.wait_until_settled()
        leader.kill()
        everything.wait(lambda: everything.cuts >= 2 * CUTS // 3 and history.count("committed") >= 100)
        cluster.wait_for_leader()
        leader.start()
        everything.wait(lambda: everything.cuts >= CUTS)
    cluster.wait_for_agreement()
    last = cluster.nodes[0].status()["revision"]
    everything.wait(lambda: everything.reached >= last)
    some.wait(lambda: some.reached >= last)
    log = history.check()

    assert told(everything.told) == committed(log, "")
    assert told(some.told) == committed(log, "key3")
    assert len(everything.told) >= 100
    for node in cluster.nodes:
        assert [json.dumps(event.data) for event in everything.told] == list(polled(node))


def polled(node: ClusterNode) -> Iterator[str]:
    """All events that a node tells of in polls."""
    start = 1
    while True:
        answer = node.request("GET", f"/v1/watch?from={start}&wait=0").body
        if not answer["events"]:
            return
        yield from (json.dumps(event) for event in answer["events"])
        start = answer["next"]


def test_a_watcher_of_a_paused_node_is_told_all_it_has_missed(standing: Cluster):
    """A node that is behind tells late, and leaves nothing out."""
    leader = standing.wait_until_settled()
    behind = next(node for node in standing.nodes if node is not leader)
    with EventStream(behind.port) as stream:
        assert stream.event() is not None
        behind.pause()
        revisions = [leader.update(f"key{n}", "v", ack="log").body["revision"] for n in range(20)]
        behind.resume()

        assert [stream.change().data["revision"] for _ in revisions] == revisions


def test_a_watcher_is_told_within_moments_on_every_node(standing: Cluster, capsys: pytest.CaptureFixture[str]):
    """What one node has acknowledged, the watchers of all nodes hear of at once: it is pushed, not polled for."""
    leader = standing.wait_until_settled()
    streams = [EventStream(node.port) for node in standing.nodes]
    for stream in streams:
        assert stream.event() is not None
    waits = []
    for number in range(20):
        revision = leader.update("key", str(number)).body["revision"]
        acknowledged_at = time.monotonic()
        for stream in streams:
            assert stream.change().data["revision"] == revision
        waits.append(time.monotonic() - acknowledged_at)
    for stream in streams:
        stream.close()

    waits.sort()
    with capsys.disabled():
        print(f"\nwatchers of three nodes told {waits[10] * 1000:.1f} ms after the acknowledgement (median)")
    assert waits[10] < 0.5
