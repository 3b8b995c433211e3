"""Processes that die, stand still, start again and again, or have nothing left to work with (F1 to F14)."""

from __future__ import annotations

import json
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from kazoo.client import KazooClient

from kvlog.cluster import Answer, Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import Unavailable
from kvlog.processes import wait_until
from tests.cluster.history import History, Writers, applied_index, read_log
from tests.cluster.keys import get, put
from tests.faults.servers import another_leads, arm, count_of_sessions, hits, session_of, zookeeper

WAIT_S = 20.0
JSON = {"Accept": "application/json"}


def worker_of(node: ClusterNode) -> int:
    assert node.child is not None
    return int(Path(f"/proc/{node.child.pid}/task/{node.child.pid}/children").read_text().split()[0])


def epoch(cluster: Cluster) -> int:
    return int(cluster.wait_until_settled().status()["epoch"])


# --- killed in the middle of a group --------------------------------------------------------------------------


def test_a_group_whose_leader_dies_with_it_is_there_as_a_whole(
    standing: Cluster, leader: ClusterNode, follower: ClusterNode, key: str
):
    """F4: twenty clients in one entry, nobody is answered; each that asks again gets its place in that entry."""
    begin, ids = applied_index(standing), [f"{key}-{number}" for number in range(20)]
    arm(leader, "before_append:sleep:1500@1,after_append:kill@2")

    def write(node: ClusterNode, request_id: str) -> Answer | None:
        try:
            return node.update(request_id, "value", timeout_s=WAIT_S, request_id=request_id)
        except Unavailable:
            return None

    with ThreadPoolExecutor(21) as pool:
        pool.submit(write, leader, f"{key}-first")
        assert wait_until(
            lambda: hits(leader, "before_append") == 1, WAIT_S
        )  # while it is held up, the others gather
        lost = list(pool.map(lambda each: write(leader, each), ids))
        assert leader.child.wait(WAIT_S) == -signal.SIGKILL
        again = [answer for answer in pool.map(lambda each: write(follower, each), ids) if answer]
    leader.start()
    standing.wait_for_agreement()

    assert lost.count(None) >= 10, "there was no group"
    assert {answer.status for answer in again} == {200}
    places = {item.index: {request.id for request in item.entry.requests} for item in read_log(standing, begin)}
    groups = [found & set(ids) for found in places.values()]
    assert max(map(len, groups)) >= 10, "there was no group"
    assert sum(map(len, groups)) == 20
    assert all(each in places[answer.body["index"]] for each, answer in zip(ids, again, strict=True))


# --- stopped for a while --------------------------------------------------------------------------------------


@contextmanager
def kept_connections(node: ClusterNode, count: int) -> Iterator[list[HTTPConnection]]:
    """Connections on which the node has answered before."""
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = HTTPConnection("127.0.0.1", node.port, timeout=WAIT_S)
            stack.callback(connection.close)
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            connections.append(connection)
        yield connections


def test_no_read_of_a_leader_that_was_stopped_is_old(brisk: Cluster, key: str):
    """F6: linearizable reads that wait for it, and those that hammer it when it goes on, show what others did."""
    old = brisk.wait_until_settled()
    put(old, key, "old")
    target = f"/v1/kv/{key}?linearizable=true&timeout_ms=5000"
    with kept_connections(old, 16) as connections, ThreadPoolExecutor(6) as pool:
        old.pause()
        try:
            for connection in connections[:8]:
                connection.request("GET", target, headers=JSON)  # what comes of it is of any time since
            revision = put(another_leads(brisk, old), key, "new", ack="log")
            for connection in connections[8:]:
                connection.request("GET", target, headers=JSON)
        finally:
            old.resume()
        hammered = [pool.submit(hammer, old, key, revision) for _ in range(6)]
        for connection in connections[:8]:
            assert connection.getresponse().status in (200, 503)
        for connection in connections[8:]:
            response = connection.getresponse()
            body = json.loads(response.read())
            assert response.status == 503 or body["revision"] >= revision, body
        assert sum(each.result(WAIT_S) for each in hammered) > 0
    brisk.wait_for_agreement()


def hammer(node: ClusterNode, key: str, revision: int) -> int:
    """Read for half a second; returns how many reads were answered, all of which show this revision."""
    end, count = time.monotonic() + 0.5, 0
    while time.monotonic() < end:
        answer = get(node, key, linearizable="true", timeout_ms=2_000)
        assert answer.status == 503 or answer.body["revision"] >= revision, answer
        count += answer.status == 200
    return count


def test_a_leader_that_stumbles_goes_on_leading(standing: Cluster, leader: ClusterNode):
    """F7: 300 ms stopped, 300 ms not, again and again: all is slower, no write fails, and nobody is elected."""
    history, before = History(standing), epoch(standing)

    with Writers(history, standing.nodes, threads=2, once=1):
        for _ in range(6):
            leader.pause()
            time.sleep(0.3)
            leader.resume()
            time.sleep(0.3)
        count = history.count("committed")
        assert wait_until(lambda: history.count("committed") >= count + 20, WAIT_S)
    standing.wait_for_agreement()
    history.check()

    assert {noted.outcome for noted in history.noted} == {"committed"}
    assert epoch(standing) == before


# --- again and again ------------------------------------------------------------------------------------------


def znodes(client: KazooClient, cluster: Cluster) -> Counter[str]:
    """How many members, candidates and replicas there are."""
    return Counter({each: len(client.get_children(f"{cluster.root}/{each}")) for each in ROLL})


ROLL = ("members", "election", "replicas")


def test_a_node_that_dies_at_each_start_leaves_nothing_behind(brisk: Cluster, ensemble: LocalEnsemble, key: str):
    """F10: three times. Nobody else is disturbed, and its sessions and znodes end with it."""
    leader = brisk.wait_until_settled()
    victim = next(node for node in brisk.nodes if node is not leader)
    before = epoch(brisk)
    with zookeeper(brisk.hosts) as client:
        sessions = count_of_sessions(ensemble)
        victim.kill()
        for number in range(3):
            put(leader, key, f"value {number}")  # it has something to apply, and dies by that
            victim.start(wait=False, flags=("--failpoint", "before_apply:kill"))
            assert victim.child.wait(WAIT_S) == -signal.SIGKILL
        put(leader, key, "last")
        assert epoch(brisk) == before
        victim.start()
        brisk.wait_until_settled()

        assert wait_until(lambda: set(znodes(client, brisk).values()) == {3}, WAIT_S), znodes(client, brisk)
        assert wait_until(lambda: count_of_sessions(ensemble) <= sessions, WAIT_S)
    assert epoch(brisk) == before
    assert get(victim, key).body["value"] == "last"


# --- nothing left to work with --------------------------------------------------------------------------------


@contextmanager
def limited(node: ClusterNode, what: int, more: int) -> Iterator[None]:
    """The node's worker gets this much more of a resource than it has now, and not more (setrlimit(2))."""
    worker = worker_of(node)
    if what == resource.RLIMIT_NOFILE:
        used = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    else:
        size = next(line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if "VmSize" in line)
        used = int(size.split()[1]) * 1024
    soft, hard = resource.prlimit(worker, what)
    resource.prlimit(worker, what, (used + more, hard))
    try:
        yield
    finally:
        if node.running:
            resource.prlimit(worker, what, (soft, hard))


def test_a_leader_without_descriptors_is_replaced_and_comes_back(brisk: Cluster, key: str):
    """F13: it has none left for a while, for clients, peers or ZooKeeper. The others go on; it is never old."""
    history, old = History(brisk), brisk.wait_until_settled()
    put(old, key, "old")
    with limited(old, resource.RLIMIT_NOFILE, 0), ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", old.port), timeout=WAIT_S))
        revision = put(another_leads(brisk, old), key, "new", ack="log")
        for _ in range(5):
            try:
                answer = get(old, key, linearizable="true", timeout_ms=300)
            except Unavailable:
                continue
            assert answer.status == 503 or answer.body["revision"] >= revision, answer
    if not old.running:
        assert old.child.wait(WAIT_S) == 6, old.child.log_tail()
        old.start(wait=False)

    assert wait_until(lambda: history.write(old).outcome == "committed", WAIT_S), brisk.describe()
    brisk.wait_for_agreement()
    history.check()


def test_a_node_without_memory_ends_and_loses_nothing(
    standing: Cluster, leader: ClusterNode, follower: ClusterNode, key: str
):
    """F13: exit code 6 and a sentence that says so, or 5 if it was the store; nothing acknowledged is lost."""
    value = "x" * 100_000  # more than is read without a thread

    def write(number: int) -> bool:
        try:
            return leader.update(f"{key}-{number}", value, timeout_s=3).status == 200
        except Unavailable:
            return False

    with limited(leader, resource.RLIMIT_AS, 2**20), ThreadPoolExecutor(32) as pool:
        acknowledged = [number for number, done in enumerate(pool.map(write, range(64))) if done]
        assert wait_until(lambda: not leader.running, WAIT_S), "it does without"
    code, said = leader.child.wait(WAIT_S), leader.child.log_tail(1)
    assert (code == 6 and "left for this process" in said) or (code == 5 and "the store in" in said), said
    assert wait_until(lambda: follower.update(key, "value").status == 200, WAIT_S)
    leader.start()
    standing.wait_for_agreement()
    assert all(leader.read(f"{key}-{number}").body["value"] == value for number in acknowledged)


def test_a_node_that_may_have_too_few_descriptors_does_not_start(standing: Cluster, follower: ClusterNode):
    """F13: exit code 2 and how many it needs, rather than failing later, when clients come."""
    follower.kill()
    command = standing.command
    standing.command = lambda number: ["prlimit", "--nofile=64:64", *command(number)]
    try:
        follower.start(wait=False)
        assert follower.child.wait(WAIT_S) == 2
    finally:
        standing.command = command

    assert "may have 64 open files and connections, and a node needs 256" in follower.child.log_tail(1)


def test_the_largest_requests_cost_no_session(standing: Cluster, leader: ClusterNode, key: str):
    """F14: useless bodies of two megabytes, and transactions of a thousand keys, eight of them at a time."""
    thousand = [{"op": "put", "key": f"{key}/{number}", "value": "v" * 300} for number in range(1_000)]
    requests = [
        (400, "/v1/txn", b"[" * (2 * 2**20)),
        (400, "/v1/batch", b'{"op":"put","key":"' + b"\\u00e4" * 300_000),
        (200, "/v1/txn", json.dumps({"then": thousand}).encode()),
    ]
    before = epoch(standing)
    with zookeeper(standing.hosts) as client:
        session = session_of(client, standing, leader)

        def send(number: int) -> tuple[int, int]:
            expected, path, body = requests[number % len(requests)]
            return expected, leader.request("POST", path, body=body, timeout_s=WAIT_S).status

        with ThreadPoolExecutor(8) as pool:
            for expected, status in pool.map(send, range(24)):
                assert status == expected

        assert session_of(client, standing, leader) == session
    assert epoch(standing) == before
