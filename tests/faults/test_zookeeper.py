"""ZooKeeper's servers fail, lag, refuse; what is on its way to them is late, or its answer is lost (F15-F19k)."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from kazoo.security import OPEN_ACL_UNSAFE, make_acl

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.entry import LogEntry
from kvlog.ensemble import LocalEnsemble
from kvlog.ensemble.local import LocalServer
from kvlog.processes import ProcessKeeper, free_ports, wait_until
from tests.cluster.conftest import end, new_cluster
from tests.cluster.history import History, Writers
from tests.cluster.keys import get, put
from tests.faults.conftest import Brisk
from tests.faults.rules import STALLED, Door, Rules, Way
from tests.faults.servers import another_leads, arm, expire, hits, server_of, session_of, zookeeper

WAIT_S = 20.0


def goes_on(history: History, count: int = 10) -> None:
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
    """F15: kill -9 of the server that it is connected to, while nothing is under way: nobody is elected."""
    history, epoch = History(standing), leader.status()["epoch"]
    assert history.write(leader).outcome == "committed"
    server = server_of(fragile_ensemble, standing, leader)
    assert server is not None

    server.kill()
    assert wait_until(lambda: server_of(fragile_ensemble, standing, leader) not in (None, server), WAIT_S)
    assert wait_until(lambda: leader.status()["is_leader"], WAIT_S)
    assert history.write(leader).outcome == "committed"
    server.start()
    standing.wait_for_agreement()
    history.check()

    assert (standing.wait_until_settled(), leader.status()["epoch"]) == (leader, epoch)


def test_zookeeper_is_restarted_server_by_server_under_writes(fragile_ensemble: LocalEnsemble, standing: Cluster):
    """F17: with kill -9, its leader included: no write is lost or doubled, and writes go on in between."""
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
    """F16, F19e: by their deadline, while the node answers others; what was refused is not there afterwards."""
    leader = brisk.wait_until_settled()
    with paused(fragile_ensemble.servers[:2]), ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: asyncio.run(write_at_once(leader, key, 500, 2.0)))
        assert leader.request("GET", "/healthz", timeout_s=WAIT_S).status == 200
        answers = writing.result(WAIT_S)
        assert wait_until(lambda: leader.status()["zookeeper"] == "disconnected", WAIT_S)
        late = leader.update(f"{key}-late", "written", timeout_s=0.5, request_id=f"{key}-late")
        linearizable = get(leader, key, linearizable="true", timeout_ms=500)

    outcomes = Counter((status, body["outcome"]) for status, body in answers)
    assert set(outcomes) <= {(503, "refused"), (504, "unknown")}, outcomes
    assert outcomes[503, "refused"] > 0
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
    """F19d: its client has given up by the time that a quorum answers; sent again, it is not doubled."""
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
    """F18: every sixth write to ZooKeeper is carried out, and its connection reset instead of an answer."""
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
    """F19: held back until somebody else leads; it is not there, or once, by a later try of its node."""
    history, old = History(brisk), brisk.wait_until_settled()
    with ThreadPoolExecutor(1) as pool:
        arm(old, "mid_install:raise")  # it is not passed here, but now all are counted
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


def depose(cluster: Cluster, node: ClusterNode) -> None:
    """Delete a node's candidate, as another one does that takes it for dead."""
    with zookeeper(cluster.hosts) as client:
        for name in client.get_children(f"{cluster.root}/election"):
            if name.startswith(f"{node.address}_"):
                client.delete(f"{cluster.root}/election/{name}")


SILENT = {
    "nothing comes back": Rules(door=Door.SILENT, to_client=STALLED),
    "half open": Rules(door=Door.SILENT),
}


def test_a_leader_whose_server_hardly_answers_goes_to_another_one(brisk: Cluster, brisk_stand: Brisk, key: str):
    """F19b: a byte a second is no answer, although kazoo takes it for one; the other servers are as they were."""
    history, old = History(brisk), brisk.wait_until_settled()
    slow = brisk_stand.slow_down(old, Rules(to_client=Way(bytes_per_s=1)))

    assert wait_until(lambda: slow not in brisk_stand.in_use(old), WAIT_S), "it stays where it is"
    for node in brisk.nodes:
        assert wait_until(lambda node=node: history.write(node).outcome == "committed", WAIT_S), brisk.describe()
    brisk.wait_until_settled()
    brisk.wait_for_agreement()
    assert slow not in brisk_stand.in_use(old)
    history.check()


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
    assert wait_until(lambda: not old.status()["is_leader"], WAIT_S)
    brisk_stand.heal()

    assert wait_until(lambda: history.write(old).outcome == "committed", WAIT_S), brisk.describe()
    brisk.wait_for_agreement()
    history.check()


# --- what ZooKeeper holds against a node ----------------------------------------------------------------------


def said_since(node: ClusterNode, begin: int) -> str:
    return node.log.read_text()[begin:]


def first_in_line(cluster: Cluster, address: str) -> str:
    """Put a candidate that nobody owns before all others, who have to stand again; returns its path."""
    data = json.dumps({"address": address, "node_id": "ghost"}).encode()
    with zookeeper(cluster.hosts) as client:
        path = client.create(f"{cluster.root}/election/ghost_ab_", data, sequence=True)
        for name in client.get_children(f"{cluster.root}/election"):
            if not name.startswith("ghost_"):
                client.delete(f"{cluster.root}/election/{name}")
    return str(path)


def test_a_candidate_that_nobody_owns_is_named_with_the_command_that_clears_it(brisk: Cluster):
    """F19h: its address takes connections and is silent, as a stopped node's is: nobody leads until it is gone."""
    sizes = {node: len(node.log.read_text()) for node in brisk.nodes}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        path = first_in_line(brisk, address)
        refused = [node.update("key", "value", timeout_s=0.5) for node in brisk.nodes]
        command = f" delete {path}\n"
        assert wait_until(lambda: all(command in said_since(node, sizes[node]) for node in brisk.nodes), WAIT_S)
        with zookeeper(brisk.hosts) as client:
            client.delete(path)
        assert wait_until(lambda: brisk.nodes[0].update("key", "value").status == 200, WAIT_S)

    assert {(answer.status, answer.body["outcome"]) for answer in refused} == {(503, "refused")}
    assert all(f"ghost at {address} is to be next" in answer.body["detail"] for answer in refused)
    assert all(said_since(node, size).count(command) == 1 for node, size in sizes.items())


def test_a_candidate_whose_process_is_gone_is_cleared_by_the_next_one(brisk: Cluster):
    """F19h: the same znode, with an address at which nobody listens: it is removed, and that is said."""
    (port,) = free_ports(1)
    path = first_in_line(brisk, f"127.0.0.1:{port}")

    assert wait_until(lambda: brisk.nodes[0].update("key", "value").status == 200, WAIT_S)
    assert any("the process of ghost is gone" in node.log.read_text() for node in brisk.nodes)
    with zookeeper(brisk.hosts) as client:
        assert client.exists(path) is None


RIGHTS = ("read", "write", "create", "delete", "admin")


def test_a_node_that_zookeeper_refuses_says_what_and_goes_on_once_it_may(
    standing: Cluster, leader: ClusterNode, follower: ClusterNode, key: str
):
    """F19i: it may not read who it is, be a member, read the log, stand for election; one after the other."""
    forbidden = {"cluster": "read", "members": "create", "log": "read", "election": "create"}
    expected = {"cluster": f"refuses {standing.root}", "members": "Join", "log": "ReadTail", "election": "Enrol"}
    follower.kill()
    begin, started_at = len(follower.log.read_text()), time.monotonic()
    with zookeeper(standing.hosts) as client:
        try:
            for where, right in forbidden.items():
                acl = make_acl("world", "anyone", **{each: each != right for each in RIGHTS})
                client.set_acls(f"{standing.root}/{where}", [acl])
            follower.start(wait=False)
            for where in forbidden:
                what = expected[where]
                assert wait_until(lambda what=what: what in said_since(follower, begin), WAIT_S), what
                assert put(leader, key, where, ack="log")  # the others go on
                client.set_acls(f"{standing.root}/{where}", OPEN_ACL_UNSAFE)
        finally:
            for where in forbidden:
                client.set_acls(f"{standing.root}/{where}", OPEN_ACL_UNSAFE)
    took_s = time.monotonic() - started_at
    refusals = [line for line in said_since(follower, begin).splitlines() if "NoAuthError" in line]

    assert wait_until(lambda: follower.request("GET", "/readyz").status == 200, WAIT_S)
    standing.wait_until_settled()
    assert get(follower, key).body["value"] == "election"
    assert len(refusals) < 4 + 2 * took_s, "it fills its log with refusals"


@contextmanager
def troubled_disks(keeper: ProcessKeeper, servers: list[LocalServer], trouble: str) -> Iterator[None]:
    """What becomes of each fdatasync and fsync of these servers, in strace's words."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here: apt-get install strace")
    calls, tracers = "fdatasync,fsync", []
    try:
        for server in servers:
            log = server.log.with_suffix(".strace")
            log.unlink(missing_ok=True)
            inject = f"inject={calls}:{trouble}"
            argv = ["strace", "-f", "-e", f"trace={calls}", "-e", inject, "-p", str(server.pid)]
            tracers.append(tracer := keeper.start(argv, name="strace", log=log))
            assert wait_until(
                lambda tracer=tracer, log=log: "attached" in log.read_text() or not tracer.running, WAIT_S
            )
            if not tracer.running:
                pytest.skip(f"strace cannot attach to a process here: {tracer.log_tail(3)}")
        yield
    finally:
        for tracer in tracers:
            tracer.kill()


def test_slow_disks_of_zookeeper_make_writes_slow_and_nothing_else(
    fragile_ensemble: LocalEnsemble, keeper: ProcessKeeper, standing: Cluster, leader: ClusterNode
):
    """F19j: each fdatasync takes 0.15 s longer on all servers: no write fails, reads are as quick as ever."""
    history, epoch = History(standing), leader.status()["epoch"]
    with troubled_disks(keeper, fragile_ensemble.servers, "delay_enter=150000"):
        begun_at = time.monotonic()
        for node in standing.nodes * 2:
            assert history.write(node).outcome == "committed"
        took_s = time.monotonic() - begun_at
        begun_at = time.monotonic()
        for node in standing.nodes * 2:
            assert node.read("key0").status == 200
        reads_s = time.monotonic() - begun_at
    history.check()

    assert took_s > 6 * 0.15 > reads_s
    assert leader.status()["epoch"] == epoch


def test_a_full_disk_of_a_server_of_zookeeper_holds_nobody_up(
    fragile_ensemble: LocalEnsemble, keeper: ProcessKeeper, standing: Cluster
):
    """F19j: one that follows can write no more; the others are a quorum, and its nodes go to them."""
    history = History(standing)
    full = next(server for server in fragile_ensemble.servers if server.mode() == "follower")
    with Writers(history, standing.nodes, threads=2, once=3):
        with troubled_disks(keeper, [full], "error=ENOSPC"):
            goes_on(history)
            goes_on(history)
        full.kill()
        full.start()
        goes_on(history)
    standing.wait_for_agreement()
    history.repeat()
    history.check()


class NarrowEnsemble(LocalEnsemble):
    """One server that takes one connection from each address."""

    def _configure(self, java: str, class_path: str) -> None:
        super()._configure(java, class_path)
        for server in self.servers:
            config = server.log.parent / "zoo.cfg"
            config.write_text(config.read_text().replace("maxClientCnxns=0", "maxClientCnxns=1"))


def test_a_node_that_is_one_connection_too_many_says_so_and_waits(keeper: ProcessKeeper):
    """F19k: two nodes of one address, ZooKeeper takes one connection; when the first goes, the other comes."""
    reason = LocalEnsemble.why_not()
    if reason is not None:
        pytest.skip(reason)
    with NarrowEnsemble(keeper, size=1) as narrow:
        cluster = new_cluster(keeper, narrow, 2, session_timeout_s=2)
        first, second = cluster.nodes
        try:
            first.start()
            second.start(wait=False)
            assert wait_until(lambda: "no connection to ZooKeeper" in second.child.log_tail(), WAIT_S)
            assert second.request("GET", "/readyz").status == 503
            assert first.update("key", "value").status == 200
            first.terminate()

            assert wait_until(lambda: second.update("key", "again", timeout_s=1).status == 200, WAIT_S)
            assert second.child.log_tail(100).count("no connection to ZooKeeper") == 1
        finally:
            end(cluster)
