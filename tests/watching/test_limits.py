"""Clients that do not read, and many that wait: a node holds little for them, and the others do not notice."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports, wait_until
from tests.event_stream import EventStream

PROGRAM = Path(__file__).with_name("hasty_server.py")
MEBIBYTE = 1024 * 1024
WAIT_S = 20.0

VALUE_BYTES = 200_000
VALUES = 40
"""Together far more than what may wait for a watcher, and what the sockets' buffers take."""

STUCK = 10
KEYS = ["/".join("abcdefghij"[: number + 1]) for number in range(STUCK)]
"""Each begins as the one before: whoever watches one as a prefix wants another part of a transaction."""

StartNode = Callable[..., ClusterNode]


@pytest.fixture
def start_node(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[StartNode]:
    """Starts a node of its own, with other limits."""
    made: list[Cluster] = []

    def start(*, send_s: float = 30, watchers_max: int = 3_000) -> ClusterNode:
        port = free_ports(1)
        command = [sys.executable, str(PROGRAM), str(send_s), str(watchers_max)]
        cluster = Cluster(keeper, ensemble.hosts, ports=port, root=f"/limits-{port[0]}", command=lambda _: command)
        made.append(cluster)
        return cluster.start()

    yield start
    for cluster in made:
        for node in cluster.running:
            assert "Traceback" not in node.log.read_text()
        cluster.stop()


def put(node: ClusterNode, key: str, value: bytes = b"v") -> int:
    answer = node.request("PUT", f"/v1/kv/{key}", body=value, headers={"Content-Type": "text/plain"})
    assert answer.status in (200, 201), answer
    return int(answer.body["revision"])


def put_all(node: ClusterNode) -> list[int]:
    """Write more than a watcher may have waiting; returns the revisions, in order."""
    values = (b"%d" % number + b"x" * VALUE_BYTES for number in range(VALUES))
    with ThreadPoolExecutor(4) as pool:
        return sorted(pool.map(lambda value: put(node, "a", value), values))


def put_nested(node: ClusterNode) -> list[int]:
    """Write a large value to the last of KEYS, and something to the others, as often; returns the revisions."""
    operations = [{"op": "put", "key": key, "value": "v"} for key in KEYS[:-1]]
    large = {"op": "put", "key": KEYS[-1], "value": "x" * VALUE_BYTES}
    body = json.dumps({"then": [*operations, large]}).encode()
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: node.request("POST", "/v1/txn", body=body).body["revision"], range(VALUES))
        return sorted(answers)


class Worker:
    """A node's process, as the kernel knows it."""

    def __init__(self, node: ClusterNode) -> None:
        assert node.child is not None
        children = Path(f"/proc/{node.child.pid}/task/{node.child.pid}/children")
        self._directory = Path("/proc", children.read_text().split()[0])
        self._port = node.port

    def status(self, name: str) -> int:
        return int((self._directory / "status").read_text().split(f"{name}:")[1].split()[0])

    @property
    def memory(self) -> int:
        """Bytes of its own, without the store's file."""
        return self.status("RssAnon") * 1024

    @property
    def threads(self) -> int:
        return self.status("Threads")

    @property
    def connections(self) -> int:
        """How many clients are connected to it."""
        rows = [line.split() for line in (self._directory / "net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(f":{self._port:04X}") and row[3] == "01" for row in rows)


@contextmanager
def reading(stream: EventStream) -> Iterator[list[int]]:
    """The revisions that a client which reads as fast as it can is told of meanwhile."""
    told: list[int] = []

    def read() -> None:
        while (event := stream.event()) is not None:
            if event.kind == "change":
                told.append(int(event.id))

    thread = threading.Thread(target=read)
    thread.start()
    yield told
    stream.shut()
    thread.join()


def test_who_never_reads_is_cut_off_and_the_others_are_told_everything(start_node: StartNode):
    """Its connection is closed after SEND_S, and a node's memory does not grow with what it does not read."""
    node = start_node(send_s=1)
    put_nested(node)  # what a node holds of the last entries anyway, it holds from now on
    worker = Worker(node)
    with ExitStack() as stack:
        other = stack.enter_context(EventStream(node.port))
        stuck = [
            stack.enter_context(EventStream(node.port, f"?prefix={key}", receive_buffer=4_096)) for key in KEYS
        ]
        connected, before = worker.connections, worker.memory
        with reading(other) as told:
            revisions = put_nested(node)
            grown = worker.memory - before

            assert wait_until(lambda: told == revisions, WAIT_S)
            assert wait_until(lambda: worker.connections <= connected - STUCK, WAIT_S)
        print(f"\n{grown / MEBIBYTE:.1f} MiB more with {STUCK} clients that do not read")
        assert grown < STUCK * 3 * MEBIBYTE < STUCK * VALUES * VALUE_BYTES / 2
        assert all(breaks_off(stream) for stream in stuck)


def breaks_off(stream: EventStream) -> bool:
    """Whether a stream ends where no event does, or its connection is reset."""
    try:
        while stream.event() is not None:
            pass
    except (http.client.HTTPException, ConnectionError):
        return True
    return False


def test_who_falls_behind_is_told_where_to_go_on(start_node: StartNode):
    """The stream ends with a problem, slow-reader; from `resume` on, nothing is missing and nothing doubled."""
    node = start_node()
    with EventStream(node.port) as other, EventStream(node.port, receive_buffer=4_096) as slow:
        with reading(other) as told:
            revisions = put_all(node)
            assert wait_until(lambda: told == revisions, WAIT_S)
        found = []
        while (event := slow.event()) is not None:
            if event.kind == "error":
                break
            if event.kind == "change":
                found.append(int(event.id))
    assert event is not None
    assert (event.data["type"], event.data["status"]) == ("kvlog:slow-reader", 503)
    assert event.id == ""

    assert 0 < len(found) < VALUES
    assert found[-1] < event.data["resume"] <= found[-1] + 1
    with EventStream(node.port, f"?from={event.data['resume']}") as stream:
        found += [stream.change().data["revision"] for _ in range(VALUES - len(found))]
    assert found == revisions


def test_who_is_far_behind_is_not_cut_off_as_long_as_it_reads(start_node: StartNode):
    """The past is read as the client takes it, however much there is, and whatever happens meanwhile."""
    node = start_node()
    revisions = put_all(node)
    with EventStream(node.port, "?from=1", receive_buffer=4_096) as stream:
        assert stream.change().data["revision"] == revisions[0]
        revisions += put_all(node)

        assert [stream.change().data["revision"] for _ in revisions[1:]] == revisions[1:]


def test_more_watchers_than_there_is_room_for_are_refused(start_node: StartNode):
    """503 with Retry-After, for polls as well; who leaves makes room."""
    node = start_node(watchers_max=2)
    with EventStream(node.port) as first, EventStream(node.port) as second:
        assert (first.status, second.status) == (200, 200)
        for target in ("", "?wait=0"):
            with EventStream(node.port, target) as refused:
                problem = refused.problem()
                assert (refused.status, problem["type"]) == (503, "kvlog:unavailable")
                assert refused.headers["retry-after"] == "1"
                assert "2 watchers are connected to this node already" in problem["detail"]
        second.close()

        assert wait_until(lambda: opens(node), WAIT_S)


def opens(node: ClusterNode) -> bool:
    with EventStream(node.port) as stream:
        return stream.status == 200


def test_a_thousand_watchers_cost_little_and_are_all_told(start_node: StartNode):
    """No thread and some 30 KiB each; reads and writes go on; and one write reaches all of them at once."""
    node = start_node()
    put(node, "warm")
    worker = Worker(node)
    memory, threads = worker.memory, worker.threads
    with ExitStack() as stack:
        streams = [
            stack.enter_context(EventStream(node.port, f"?prefix={'all' if number % 2 else f'all/{number}'}"))
            for number in range(1_000)
        ]
        for stream in streams:
            assert stream.event() is not None
        print(f"\n{(worker.memory - memory) / 1_000:,.0f} bytes each, {worker.threads - threads} threads more")
        assert worker.memory - memory < 60 * MEBIBYTE
        assert worker.threads - threads <= 8

        for number in range(50):
            began = time.monotonic()
            put(node, f"other/{number}")
            assert node.read(f"other/{number}").body["value"] == "v"
            assert time.monotonic() - began < 2

        operations = [{"op": "put", "key": f"all/{number}", "value": "v"} for number in range(0, 1_000, 2)]
        body = json.dumps({"then": operations}).encode()
        revision = node.request("POST", "/v1/txn", body=body).body["revision"]
        for number, stream in enumerate(streams):
            change = stream.change()
            assert change.data["revision"] == revision
            assert change.keys == dict.fromkeys(told_to(number), "put")


def told_to(number: int) -> list[str]:
    """Which of the keys the watcher with this number wants."""
    keys = [f"all/{even}" for even in range(0, 1_000, 2)]
    return keys if number % 2 else [key for key in keys if key.startswith(f"all/{number}")]


def test_a_node_stops_in_order_although_a_client_does_not_read(start_node: StartNode):
    """The end of its stream cannot be sent: its connection is closed, and nothing is waited for."""
    node = start_node()
    with EventStream(node.port, receive_buffer=4_096) as stream:
        put_all(node)
        began = time.monotonic()
        assert node.terminate() == 0

        assert time.monotonic() - began < 8
        assert breaks_off(stream)


def test_a_node_stops_in_order_when_a_thousand_watchers_leave_at_that_moment(start_node: StartNode):
    """The event loop, woken by all of them, may lose the signal to stop: it is told again, and not killed."""
    node = start_node()
    with ExitStack() as stack:
        streams = [stack.enter_context(EventStream(node.port)) for _ in range(1_000)]
        for stream in streams:
            assert stream.event() is not None
        node.pause()
    assert node.child is not None
    os.kill(node.child.pid, signal.SIGTERM)
    began = time.monotonic()
    node.resume()

    assert node.terminate() == 0
    assert time.monotonic() - began < 8
