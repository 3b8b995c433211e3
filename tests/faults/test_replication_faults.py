"""F34 to F42: pushes that do not come as they were sent, peers that are slow or out of reach, copies of stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.entry import FORMAT, Entry, Leader, Put, Request, encode_entry, encode_request
from kvlog.core.values import PushAnswer, PushBody
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports, wait_until
from kvlog.snapshot import Decoder
from kvlog.zookeeper.peek import Peek
from tests.cluster.conftest import Stand, new_cluster
from tests.cluster.history import History, Writers
from tests.cluster.keys import get, put
from tests.faults.conftest import Brisk
from tests.faults.proxy import Network, Proxy
from tests.faults.rules import BLACKHOLE, Door, Pushes, Rules, Way

WAIT_S = 20.0
SESSION_S = 4.0

BY_THE_LOG_S = 2.0
"""How soon a replica that no push reaches has what was written: watch and poll, and some time to spare."""

ACK_WAIT_S = 1.0
"""How long a write waits for replicas at most (replicator.ACK_WAIT_S)."""


class ProxiedNode(ClusterNode):
    """A node that the others reach through a proxy, and tests directly."""

    def __init__(self, cluster: Cluster, number: int, port: int, proxy: Proxy) -> None:
        super().__init__(cluster, number, port)
        self.proxy = proxy
        self.advertised = proxy.address


class Proxied(Stand):
    """A standing cluster whose nodes reach each other through proxies."""

    def __init__(self, keeper: ProcessKeeper, ensemble: LocalEnsemble, network: Network) -> None:
        super().__init__(self._new)
        self._keeper, self._ensemble, self._network = keeper, ensemble, network
        self.nodes: list[ProxiedNode] = []

    def _new(self) -> Cluster:
        flags = ("--retain", "1000000")
        cluster = new_cluster(self._keeper, self._ensemble, session_timeout_s=SESSION_S, flags=flags)
        self.nodes = []
        for node in cluster.nodes:
            (port,) = free_ports(1)
            proxy = self._network.proxy(port=port, to_port=node.port)
            self.nodes.append(ProxiedNode(cluster, node.number, node.port, proxy))
        cluster.nodes = list(self.nodes)
        return cluster

    def well(self) -> Cluster:
        """See Stand."""
        for node in self.nodes:
            node.proxy.heal()
        return super().well()

    def count(self, what: str) -> int:
        """How often something has happened on the ways to all nodes; see Proxy.counts."""
        return sum(node.proxy.counts[what] for node in self.nodes)

    def of(self, node: ClusterNode) -> ProxiedNode:
        """The same node, with its proxy."""
        return next(each for each in self.nodes if each is node)

    def others(self, node: ClusterNode) -> list[ProxiedNode]:
        """All nodes but one."""
        return [each for each in self.nodes if each is not node]


@pytest.fixture(scope="module")
def proxied_stand(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Proxied]:
    """What the proxied cluster stands on."""
    with Network() as network, Proxied(keeper, ensemble, network) as stand:
        yield stand


@pytest.fixture
def proxied(proxied_stand: Proxied) -> Cluster:
    """Three nodes that reach each other through proxies, and agree."""
    return proxied_stand.well()


# --- F34: pushes ----------------------------------------------------------------------------------------------


def push(cluster: Cluster, node: ClusterNode, **changes: Any) -> tuple[int, PushAnswer | None]:
    """Send a push to a node, which is one of its leader's but for the changes; its status and answer."""
    state = node.status()
    leader = Leader(state["leader"]["address"], state["leader"]["address"])
    fields: dict[str, Any] = {
        "cluster_id": state["cluster_id"],
        "leader": leader,
        "epoch": state["epoch"],
        "tail_index": state["applied_index"],
        "first_index": state["applied_index"] + 1,
        "entries": (),
    }
    body = msgspec.msgpack.encode(PushBody(**fields | changes))
    answer = cluster.pool.request("POST", f"http://{node.address}/propagate", body=body, timeout=5)
    return answer.status, msgspec.msgpack.decode(answer.data, type=PushAnswer) if answer.status == 200 else None


def test_a_push_that_is_not_the_next_entries_changes_nothing(
    standing: Cluster, leader: ClusterNode, follower: ClusterNode, key: str
):
    """F34: what is there already, what comes too early, what is cut off or altered, what belongs elsewhere."""
    for value in ("one", "two", "three"):
        put(leader, key, value)
    standing.wait_for_agreement()
    before = follower.status()
    index, last = before["applied_index"], Peek(standing.hosts, standing.root).last_entries(3)
    head = Entry(
        format=FORMAT,
        epoch=before["epoch"],
        batch_id="by-hand",
        prev_hash=before["log_hash"],
        first_revision=before["revision"] + 1,
        time_ms=0,
    )
    request = encode_request(Request(effects=(Put(key=key, value="wrong", create=1, version=9),)))
    good = encode_entry(head, (request,))
    foreign = encode_entry(msgspec.structs.replace(head, prev_hash="0" * 32), (request,))
    known = tuple(stored.item.data for stored in last)

    said = {
        "again": push(standing, follower, first_index=index - 2, entries=known),
        "with others' data": push(standing, follower, first_index=index - 2, entries=(good, good)),
        "too early": push(standing, follower, first_index=index + 5, entries=(good,)),
        "cut off": push(standing, follower, entries=(good[:-40],)),
        "altered": push(standing, follower, entries=(good.replace(b'"wrong"', b'"other"'),)),
        "of another log": push(standing, follower, entries=(foreign,)),
        "of an earlier leader": push(standing, follower, epoch=before["epoch"] - 1, entries=(good,)),
        "of another cluster": push(standing, follower, cluster_id="another", entries=(good,)),
    }

    at_its_place = (200, PushAnswer(applied_index=index, epoch=before["epoch"]))
    assert said.pop("of another cluster") == (409, None)
    assert {what: answer for what, answer in said.items() if answer != at_its_place} == {}
    assert follower.status()["digest"] == before["digest"]
    assert follower.read(key).body["value"] == "three"
    assert follower.log.read_text().count("ignored a push from ") >= 3
    assert leader.update(key, "four").status == 200
    standing.wait_for_agreement()
    assert follower.read(key).body["value"] == "four"


def test_pushes_that_come_twice_late_again_and_in_another_order_change_nothing(
    proxied: Cluster, proxied_stand: Proxied
):
    """F34: each second one twice, each third one replayed, each fourth overtaken: the log is applied."""
    history = History(proxied)
    with Writers(history, proxied.nodes, threads=2, once=1):
        for node in proxied_stand.nodes:
            node.proxy.set(Rules(pushes=Pushes(delay_s=0.01, double=2, replay=3, overtake=4)))
        done = ("doubled", "replayed", "overtaken")
        assert wait_until(lambda: min(map(proxied_stand.count, done)) >= 15, WAIT_S), proxied.describe()
        for node in proxied_stand.nodes:
            node.proxy.heal()
    proxied.wait_for_agreement()

    assert len(history.check()) > 15


def test_a_replica_whose_pushes_come_much_too_late_has_everything_from_the_log(
    proxied: Cluster, proxied_stand: Proxied, key: str
):
    """F34: ten seconds late: nobody waits for them, and it reads the log; what comes then is old news."""
    leader = proxied.wait_until_settled()
    node = proxied_stand.others(leader)[0]
    node.proxy.set(Rules(pushes=Pushes(delay_s=10.0)))
    began = time.monotonic()

    revision = put(leader, key, "new")

    assert time.monotonic() - began < ACK_WAIT_S + 1.0
    assert wait_until(lambda: get(node, key).body.get("revision") == revision, BY_THE_LOG_S)
    node.proxy.heal()
    proxied.wait_until_settled()


# --- F35: a follower that is slow, or stands still -------------------------------------------------------------


def test_a_follower_that_stands_still_holds_nobody_up(
    standing: Cluster, leader: ClusterNode, follower: ClusterNode, key: str
):
    """F35: SIGSTOP: one write waits for it, for a second at most; the others do not; it comes back by itself."""
    put(leader, key, "before")
    follower.pause()
    try:
        took = []
        for number in range(6):
            began = time.monotonic()
            put(leader, key, str(number))
            took.append(time.monotonic() - began)
        members = {member["address"]: member.get("push") for member in leader.status()["members"]}
    finally:
        follower.resume()

    assert took[0] < ACK_WAIT_S + 0.5
    assert max(took[1:]) < ACK_WAIT_S / 2
    assert members[follower.address] == "behind"
    standing.wait_until_settled()
    standing.wait_for_agreement()
    assert get(follower, key).body["value"] == "5"


def test_a_follower_behind_a_thin_line_holds_nobody_up(proxied: Cluster, proxied_stand: Proxied, key: str):
    """F35: 2 KB a second for pushes of 20 KB each: what it does not get in time it reads from ZooKeeper."""
    leader = proxied.wait_until_settled()
    node = proxied_stand.others(leader)[0]
    node.proxy.set(Rules(to_server=Way(bytes_per_s=2_000)))
    took = []
    for number in range(10):
        began = time.monotonic()
        revision = put(leader, key, str(number) * 20_000)
        took.append(time.monotonic() - began)

    assert sorted(took)[-2] < ACK_WAIT_S / 2  # one may have waited for it
    assert max(took) < ACK_WAIT_S + 1.0
    assert wait_until(lambda: get(node, key).body.get("revision") == revision, BY_THE_LOG_S)
    node.proxy.heal()
    proxied.wait_until_settled()


# --- F36: cut off from peers, or from ZooKeeper ----------------------------------------------------------------


def test_a_follower_that_no_peer_reaches_works_from_the_log(proxied: Cluster, proxied_stand: Proxied, key: str):
    """F36: it has ZooKeeper: it reads all, takes writes and hands them on, and its linearizable reads are new."""
    leader = proxied.wait_until_settled()
    node = proxied_stand.others(leader)[0]
    node.proxy.set(BLACKHOLE)
    put(leader, key, "without it")

    began = time.monotonic()
    read = get(node, key, linearizable="true", timeout_ms=3_000)
    revision = put(node, key, "through it")

    assert (read.status, read.body["value"]) == (200, "without it")
    assert get(leader, key).body["revision"] == revision
    assert wait_until(lambda: get(node, key).body["revision"] == revision, BY_THE_LOG_S)
    assert time.monotonic() - began < WAIT_S / 2
    assert node.request("GET", "/readyz").status == 200
    node.proxy.heal()
    proxied.wait_until_settled()
    proxied.wait_for_agreement()


def test_a_leader_whose_port_is_closed_to_its_peers_is_replaced_once(
    proxied: Cluster, proxied_stand: Proxied, key: str
):
    """F36: for who probes it, its process is gone; it is not; what it appended meanwhile is there or not."""
    history, old = History(proxied), proxied_stand.of(proxied.wait_until_settled())
    others = proxied_stand.others(old)
    with Writers(history, others, threads=1, once=1):
        old.proxy.set(Rules(door=Door.REFUSED))
        old.proxy.reset()
        assert wait_until(lambda: any(node.status()["is_leader"] for node in others), WAIT_S)
        successor = next(node for node in others if node.status()["is_leader"])
        epoch = successor.status()["epoch"]
        assert wait_until(lambda: history.write(others[0]).outcome == "committed", WAIT_S)
        assert wait_until(lambda: old.status()["role"] == "follower", WAIT_S)
        old.proxy.heal()
    proxied.wait_until_settled()
    proxied.wait_for_agreement()
    history.check()

    assert successor.status()["epoch"] == epoch


def test_a_leader_that_no_peer_reaches_stays_and_writes_through_others_end_in_time(
    proxied: Cluster, proxied_stand: Proxied, key: str
):
    """F36: it is alive, and serves who asks it directly; nobody else's write hangs, or is done twice."""
    history, leader = History(proxied), proxied_stand.of(proxied.wait_until_settled())
    epoch = leader.status()["epoch"]
    leader.proxy.set(BLACKHOLE)
    began = time.monotonic()
    noted = [history.write(node, timeout_s=1.5) for node in proxied_stand.others(leader)]
    took_s = time.monotonic() - began
    put(leader, key, "directly")
    told = get(proxied_stand.others(leader)[0], key, linearizable="true", timeout_ms=3_000)
    leader.proxy.heal()
    proxied.wait_until_settled()
    assert history.write(proxied_stand.others(leader)[0]).outcome == "committed"
    proxied.wait_for_agreement()
    history.check()

    assert {each.outcome for each in noted} <= {"refused", "unknown"}
    assert took_s < 2 * (1.5 + 1.0)
    assert told.body["value"] == "directly"
    assert leader.status()["epoch"] == epoch


def test_a_follower_without_zookeeper_shows_what_it_has_and_says_how_old_that_is(
    brisk: Cluster, brisk_stand: Brisk, key: str
):
    """F36: its peers still reach it: it is not ready and promises nothing, and is back when ZooKeeper is."""
    leader = brisk.wait_until_settled()
    node = next(each for each in brisk.nodes if each is not leader)
    put(leader, key, "old")
    brisk_stand.set(node, BLACKHOLE)
    assert wait_until(lambda: node.request("GET", "/readyz").status == 503, WAIT_S)
    revision = put(leader, key, "new", ack="log")

    local = get(node, key)
    linearizable = get(node, key, linearizable="true", timeout_ms=300)

    assert (local.status, local.body["value"] in ("old", "new")) == (200, True)
    assert int(local.headers["kvlog-staleness-ms"]) > 500
    assert (linearizable.status, "value" in linearizable.body) == (503, False)
    brisk_stand.heal()
    assert wait_until(lambda: node.request("GET", "/readyz").status == 200, WAIT_S)
    assert get(node, key, linearizable="true").body["revision"] == revision
    brisk.wait_for_agreement()


# --- F40: many copies at once ---------------------------------------------------------------------------------


def test_twenty_who_copy_at_once_get_a_whole_copy_or_are_told_to_come_again(
    standing: Cluster, leader: ClusterNode, follower: ClusterNode, key: str
):
    """F40: under writes: each copy is one state of the store, two at a time at most; nobody else waits."""
    stopped = threading.Event()

    def copy(_: int) -> tuple[int, int]:
        answer = standing.pool.request("GET", f"http://{follower.address}/v1/snapshot", timeout=WAIT_S)
        if answer.status != 200:
            assert answer.headers["Retry-After"] == "1"
            return answer.status, 0
        decoder = Decoder(lambda _: None)
        decoder.feed(answer.data)
        return answer.status, decoder.finish().revision

    def write() -> list[int]:
        revisions = []
        while not stopped.is_set():
            revisions.append(put(leader, key, "v" * 1_000))
        return revisions

    with ThreadPoolExecutor(21) as pool:
        writing = pool.submit(write)
        before = put(leader, key, "first")
        copies = list(pool.map(copy, range(20)))
        stopped.set()
        revisions = writing.result(WAIT_S)

    made = [revision for status, revision in copies if status == 200]
    assert {status for status, _ in copies} <= {200, 503}
    assert made
    assert all(before <= revision <= max(revisions) for revision in made)
    standing.wait_for_agreement()
