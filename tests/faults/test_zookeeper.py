"""ZooKeeper's servers fail, lag, refuse; what is on its way to them is late, or its answer is lost (F15 to F19k)."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import OPEN_ACL_UNSAFE, make_acl

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.entry import LogEntry
from kvlog.ensemble import LocalEnsemble
from kvlog.ensemble.local import LocalServer
from kvlog.errors import Unavailable
from kvlog.processes import ProcessKeeper, free_ports, wait_until
from tests.cluster.history import History, Writers
from tests.cluster.keys import get, put
from tests.faults.conftest import BRISK_S, Brisk
from tests.faults.proxy import STALLED, Door, Rules, Way
from tests.faults.servers import another_leads, expire, server_of, session_of, zookeeper

WAIT_S = 20.0


def goes_on(history: History, count: int = 20) -> None:
    """So many more writes are committed."""
    before = history.count("committed")
    assert wait_until(lambda: history.count("committed") >= before + count, 2 * WAIT_S), "writes do not go on"


@contextmanager
def paused(servers: list[LocalServer]) -> Iterator[None]:
    """These servers stand still."""
    for server in servers:
        server.pause()
    try:
        yield
    finally:
        for server in servers:
            server.resume()


# --- servers --------------------------------------------------------------------------------------------------


def test_a_leader_whose_server_dies_goes_on_at_another_one(
    fragile_ensemble: LocalEnsemble, standing: Cluster, leader: ClusterNode
):
    """F15: kill -9 of the ZooKeeper server that it is connected to, while nothing is under way: nobody is elected."""
    history, epoch = History(standing), leader.status()["epoch"]
    assert history.write(leader).outcome == "committed"
    server = server_of(fragile_ensemble, standing, leader)

    server.kill()
    assert wait_until(lambda: history.write(leader, timeout_s=1).outcome == "committed", WAIT_S)
    server.start()
    standing.wait_for_agreement()
    history.check()

    assert (standing.wait_until_settled(), leader.status()["epoch"]) == (leader, epoch)


def test_zookeeper_is_restarted_server_by_server_under_writes(fragile_ensemble: LocalEnsemble, standing: Cluster):
    """F17: with kill -9, its leader included: no write is lost or doubled, and all nodes take writes in between."""
    history = History(standing)

    with Writers(history, standing.nodes, threads=2, once=2):
        goes_on(history)
        for server in fragile_ensemble.servers:
            server.kill()
            server.start()
            goes_on(history)
    standing.wait_for_agreement()
    history.repeat()
    history.check()


async def write_at_once(node: ClusterNode, name: str, count: int, timeout_s: float) -> list[tuple[int, dict]]:
    """As many writes as connections, all at the same time: the status and the body of each answer."""

    async def write(number: int) -> tuple[int, dict]:
        body = json.dumps({"key": f"{name}-{number}", "value": "written"}).encode()
        head = (
            f"POST /update?ack=log&timeout_ms={timeout_s * 1000:.0f} HTTP/1.1\r\nHost: {node.address}\r\n"
            f"Content-Type: application/json\r\nIdempotency-Key: {name}-{number}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(head.encode() + body)
        try:
            said, _, content = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        return int(said.split()[1]), json.loads(content)

    return list(await asyncio.gather(*map(write, range(count))))


def test_five_hundred_writers_in_an_outage_are_all_answered(
    fragile_ensemble: LocalEnsemble, brisk: Cluster, key: str
):
    """F16, F19e: by their deadline, while the node answers others; what was refused is not there when it is over."""
    leader = brisk.wait_until_settled()
    begun_at = time.monotonic()
    with paused(fragile_ensemble.servers[:2]), ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: asyncio.run(write_at_once(leader, key, 500, 2.0)))
        assert leader.request("GET", "/healthz", timeout_s=2).status == 200
        answers = writing.result(WAIT_S)
        took_s = time.monotonic() - begun_at
        assert wait_until(lambda: leader.status()["zookeeper"] == "disconnected", WAIT_S)
        late = leader.update(f"{key}-late", "written", timeout_s=0.5, request_id=f"{key}-late")
        linearizable = get(leader, key, linearizable="true", timeout_ms=500)

    outcomes = Counter((status, body["outcome"]) for status, body in answers)
    assert set(outcomes) <= {(503, "refused"), (504, "unknown")}, outcomes
    assert outcomes[503, "refused"] > 0
    assert took_s < 2.0 + 2.0
    assert (late.status, late.body["outcome"]) == (503, "refused")
    assert linearizable.status == 503
    for node in brisk.nodes:
        assert wait_until(lambda node=node: node.update(key, "again").status == 200, WAIT_S), brisk.describe()
    brisk.wait_for_agreement()
    there = leader.request("GET", "/v1/kv", fields={"prefix": f"{key}-", "keys_only": "true", "limit": "1000"})
    refused = {f"{key}-{number}" for number, (status, _) in enumerate(answers) if status == 503}
    assert there.status == 200
    assert not refused & set(keys_in(there.body))
    assert f"{key}-late" not in keys_in(there.body)


def keys_in(page: dict) -> list[str]:
    return [item["key"] if isinstance(item, dict) else item for item in page["items"]]


def test_a_write_that_zookeeper_takes_late_is_unknown_and_then_there(
    fragile_ensemble: LocalEnsemble, standing: Cluster, leader: ClusterNode, key: str
):
    """F19d: its client has given up by the time that a quorum answers; sent again under its id, it is not doubled."""
    with paused(fragile_ensemble.servers):
        unknown = leader.update(key, "late", timeout_s=0.3, request_id=key)
    assert (unknown.status, unknown.body["outcome"]) == (504, "unknown")
    assert wait_until(lambda: leader.read(key).body["value"] == "late", WAIT_S)

    again = [node.update(key, "late", request_id=key) for node in standing.nodes]

    assert {answer.status for answer in again} == {200}
    assert {answer.headers["idempotent-replayed"] for answer in again} == {"true"}
    assert {get(node, key, linearizable="true").body["version"] for node in standing.nodes} == {1}


def test_a_node_that_starts_at_a_server_that_was_left_behind_catches_up(
    fragile_ensemble: LocalEnsemble, standing: Cluster, leader: ClusterNode, key: str
):
    """F19g: a server that stood still while the log grew is the only one that the node knows: it does not end."""
    node = next(node for node in standing.nodes if node is not leader)
    its = server_of(fragile_ensemble, standing, leader)
    behind = next(each for each in fragile_ensemble.servers if each is not its and each.mode() != "leader")
    node.kill()
    with paused([behind]):
        for number in range(30):
            revision = put(leader, key, f"value {number}", ack="log")
        said = node.log.read_text().count(" is ready on ")
        node.start(wait=False, flags=("--zk", f"127.0.0.1:{behind.client_port}"))
        assert wait_until(lambda: node.answers, WAIT_S)
    node.wait_until_up(said)

    answer = get(node, key, linearizable="true", timeout_ms=10_000)
    assert (answer.status, answer.body["revision"], answer.body["value"]) == (200, revision, "value 29")
    node.kill()  # the next test starts it with all servers


# --- sessions -------------------------------------------------------------------------------------------------


def test_a_leader_whose_session_ends_steps_down_and_stands_again(brisk: Cluster):
    """F19c: true expiry of a healthy node's session, under writes, twice: nothing is acknowledged in between."""
    history = History(brisk)
    with Writers(history, brisk.nodes, threads=2, once=2):
        for _ in range(2):
            old = brisk.wait_until_settled()
            epoch = old.status()["epoch"]
            goes_on(history)
            ended = expire(brisk, old)
            assert wait_until(lambda epoch=epoch: brisk.wait_for_leader().status()["epoch"] > epoch, WAIT_S)
            goes_on(history)
            brisk.wait_until_settled()
            with zookeeper(brisk.hosts) as client:
                assert session_of(client, brisk, old) not in (0, ended)
    brisk.wait_for_agreement()
    history.repeat()
    history.check()


# --- the way to ZooKeeper -------------------------------------------------------------------------------------


def batches_of(log: list[LogEntry]) -> Counter[str]:
    return Counter(item.entry.batch_id for item in log)


def test_appends_whose_answers_are_lost_are_there_once(brisk: Cluster, brisk_stand: Brisk):
    """F18: every sixth write of each node to ZooKeeper is carried out, and its connection reset instead of an answer."""
    history = History(brisk)
    with Writers(history, brisk.nodes, threads=2, once=3):
        goes_on(history)
        for node in brisk.nodes:
            brisk_stand.set(node, Rules(lose_answer=6))
        assert wait_until(lambda: brisk_stand.count("answers lost") >= 5, 2 * WAIT_S)
        brisk_stand.heal()
        goes_on(history)
    brisk.wait_for_agreement()
    history.repeat()

    assert max(batches_of(history.check()).values()) == 1


@pytest.mark.parametrize("how", ["its session ends", "it is deposed"])
def test_an_append_that_comes_late_never_lands_behind_another_leaders_barrier(
    brisk: Cluster, brisk_stand: Brisk, key: str, how: str
):
    """F19: held back on its way until somebody else leads; it is not there, or once, by a later try of its node."""
    history, old = History(brisk), brisk.wait_until_settled()
    with ThreadPoolExecutor(1) as pool:
        count_hits(old)
        brisk_stand.set(old, Rules(to_server=STALLED))
        writing = pool.submit(history.write, old, timeout_s=8)
        assert wait_until(lambda: hits(old, "before_append") == 1, WAIT_S)
        if how == "it is deposed":
            depose(brisk, old)
        successor = another_leads(brisk, old)
        assert history.write(successor).outcome == "committed"
        brisk_stand.heal()
        writing.result(WAIT_S)
    brisk.wait_for_agreement()

    assert max(batches_of(history.check()).values()) == 1
    assert not old.status()["is_leader"]


def count_hits(node: ClusterNode) -> None:
    """From now on the node counts how often each failpoint is passed; the one that is armed is not."""
    assert node.request("PUT", "/v1/failpoints", body=b"mid_install:raise").status == 200


def hits(node: ClusterNode, place: str) -> int:
    points = node.request("GET", "/v1/failpoints").body["failpoints"]
    return int(next(point["hits"] for point in points if point["name"] == place))


def depose(cluster: Cluster, node: ClusterNode) -> None:
    """Delete a node's candidate, as another one does that takes it for dead."""
    with zookeeper(cluster.hosts) as client:
        for name in client.get_children(f"{cluster.root}/election"):
            if name.startswith(f"{node.address}_"):
                client.delete(f"{cluster.root}/election/{name}")


SILENT = {
    "nothing comes back": Rules(door=Door.SILENT, to_client=STALLED),
    "it drips": Rules(to_client=Way(bytes_per_s=1)),
    "half open": Rules(door=Door.SILENT),
}


@pytest.mark.parametrize("how", SILENT)
def test_a_leader_that_hears_nothing_of_zookeeper_is_replaced(
    brisk: Cluster, brisk_stand: Brisk, key: str, how: str
):
    """F19b: without a reset that would tell it. It shows nothing old meanwhile, and comes back by itself."""
    history, old = History(brisk), brisk.wait_until_settled()
    put(old, key, "old")
    brisk_stand.set(old, SILENT[how])
    if how == "half open":
        brisk_stand.abandon(old)
    successor = another_leads(brisk, old)
    revision = put(successor, key, "new", ack="log")
    read = get(old, key, linearizable="true", timeout_ms=300)
    assert read.status == 503 or read.body["revision"] >= revision
    assert wait_until(lambda: not old.status()["is_leader"], BRISK_S)
    brisk_stand.heal()

    assert wait_until(lambda: history.write(old).outcome == "committed", WAIT_S), brisk.describe()
    brisk.wait_for_agreement()
    history.check()
