"""Clients that do not read, and many that wait: what a node holds for them is bounded, and the others do not notice."""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
VALUES = 60
"""Together far more than what may wait for a watcher, and what the sockets' buffers take."""

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
        assert "Traceback" not in cluster.nodes[0].log.read_text()
        cluster.stop()


def put(node: ClusterNode, key: str, value: bytes = b"v") -> int:
    answer = node.request("PUT", f"/v1/kv/{key}", body=value, headers={"Content-Type": "text/plain"})
    assert answer.status in (200, 201), answer
    return int(answer.body["revision"])


def put_all(node: ClusterNode) -> list[int]:
    return [put(node, "a", b"%d" % number + b"x" * VALUE_BYTES) for number in range(VALUES)]


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
    put(node, "warm", b"x" * VALUE_BYTES)
    worker = Worker(node)
    with ExitStack() as stack:
        other = stack.enter_context(EventStream(node.port))
        stuck = [stack.enter_context(EventStream(node.port, receive_buffer=4_096)) for _ in range(10)]
        connected, before = worker.connections, worker.memory
        with reading(other) as told:
            revisions = put_all(node)
            grown = worker.memory - before

            assert wait_until(lambda: told == revisions, WAIT_S)
            assert wait_until(lambda: worker.connections <= connected - len(stuck), WAIT_S)
        assert grown < len(stuck) * 2 * MEBIBYTE < len(stuck) * VALUES * VALUE_BYTES / 5
        for stream in stuck:
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                while stream.event() is not None:
                    pass


def test_who_falls_behind_is_told_where_to_go_on(start_node: StartNode):
    """The stream ends with a problem, slow-reader; from its `resume` on, nothing is missing and nothing doubled."""
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

        answer = node.request(
            "POST",
            "/v1/txn",
            body=b'{"then":[%b]}'
            % b",".join(b'{"op":"put","key":"all/%d","value":"v"}' % number for number in range(0, 1_000, 2)),
        )
        for number, stream in enumerate(streams):
            change = stream.change()
            assert change.data["revision"] == answer.body["revision"]
            assert len(change.keys) == (
                500 if number % 2 else sum(f"{n}".startswith(f"{number}") for n in range(0, 1_000, 2))
            )
