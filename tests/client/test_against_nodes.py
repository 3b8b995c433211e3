"""Both clients with three real nodes: killed, paused, standing still."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kvlog import Client
from kvlog.client import (
    BatchStopped,
    ConditionFailed,
    Delete,
    HistoryTrimmed,
    LockHeld,
    NoNodes,
    NoSuchLease,
    Put,
    TooLarge,
    TooStale,
)
from kvlog.cluster import Cluster, ClusterNode
from kvlog.processes import wait_until

from .scripted_node import Asked, Reply, ScriptedNode, problem

MakeClient = Callable[..., Any]
MakeNode = Callable[..., ScriptedNode]

WAIT_S = 20.0


@pytest.fixture
def name() -> str:
    """A prefix that no other test has."""
    return f"{uuid.uuid4().hex[:8]}/"


@pytest.fixture
def client(make_client: MakeClient, nodes: list[ClusterNode]) -> Any:
    """A client that asks a follower first."""
    leader, *followers = nodes
    return make_client(*(node.address for node in (*followers, leader)))


def arm(node: ClusterNode, spec: str) -> None:
    assert node.request("PUT", "/v1/failpoints", body=spec.encode()).status == 200


# --- what each call does --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["plain", "a/b", "/", "//", ".", "..", "a/../b", "%2F", "ü ?#&+", "\t\n", "😀" * 127]
)
def test_every_key_is_taken_and_found(client: Any, name: str, key: str):
    """Alone, in a list, and in a transaction."""
    for used in (key, name + key):
        if len(used.encode()) > 511:
            continue
        written = client.put(used, used)
        assert client.get(used).text == used
        assert next(client.list(used)).key == used
        assert client.txn().when_revision(used, written.revision).get(used).commit().items[used].text == used
        assert client.delete(used).deleted
        assert client.get(used) is None


@pytest.mark.parametrize("value", [b"", b"\0", b"\xff\xfe", "text ü".encode(), bytes(range(256)) * 1024])
def test_every_value_is_kept_as_it_is(client: Any, name: str, value: bytes):
    """Whether it comes as a body, in a list, in a transaction or in a batch; up to 262,144 bytes."""
    client.put(name, value)
    client.txn().put(f"{name}txn", value).commit()
    client.batch([Put(f"{name}batch", value)])

    assert client.get(name).value == value
    assert [item.value for item in client.list(name)] == [value] * 3


def test_what_no_entry_can_hold_is_refused(client: Any, name: str):
    """A transaction of three of the largest values; none of them is written."""
    txn = client.txn()
    for number in range(3):
        txn.put(f"{name}{number}", "x" * 262_144)

    with pytest.raises(TooLarge):
        txn.commit()
    assert client.count(name) == 0


def test_what_is_known_of_a_key_is_the_same_everywhere(client: Any, name: str):
    """Read alone, listed, in a transaction, and in its history."""
    first = client.put(name, "1", content_type="text/x")
    second = client.put(name, "2", content_type="text/x")

    item = client.get(name)

    assert (item.create_revision, item.revision, item.version) == (first.revision, second.revision, 2)
    assert (first.created, second.created) == (True, False)
    assert list(client.list(name)) == [item]
    assert client.txn().get(name).commit().items == {name: item}
    assert next(client.history(name)).item == item
    assert [found.value for found in client.list(name, keys_only=True)] == [b""]


def test_conditions_hold_or_do_not(client: Any, name: str):
    """Not there, there at a revision, there at another one."""
    written = client.put(name, "1", if_revision=0)
    for wrong in (0, written.revision + 1, 1):
        with pytest.raises(ConditionFailed) as caught:
            client.put(name, "2", if_revision=wrong)
        assert caught.value.revision >= written.revision
    assert client.put(name, "2", if_revision=written.revision).revision > written.revision
    with pytest.raises(ConditionFailed):
        client.delete(name, if_revision=written.revision)
    assert client.get(name).text == "2"


def test_a_transaction_goes_one_way_or_the_other(client: Any, name: str):
    """All of it or nothing, at one revision."""
    seen = client.put(f"{name}a", b"\xff").revision

    done = (
        client.txn()
        .when_revision(f"{name}a", seen)
        .when_value(f"{name}a", b"\xff")
        .when_exists(f"{name}a")
        .when_absent(f"{name}b")
        .when_unchanged(name, seen)
        .put(f"{name}b", "new")
        .delete(f"{name}a")
        .get(f"{name}c")
        .commit()
    )
    not_done = client.txn().when_unchanged(name, seen).put(f"{name}c", "no").otherwise_get(f"{name}b").commit()

    assert done.succeeded
    assert [(result.op, result.key) for result in done.results] == [
        ("put", f"{name}b"),
        ("delete", f"{name}a"),
        ("get", f"{name}c"),
    ]
    assert not not_done.succeeded
    assert not_done.items[f"{name}b"].revision == done.revision
    assert [item.key for item in client.list(name)] == [f"{name}b"]


def test_a_long_list_is_of_one_revision(client: Any, name: str):
    """Over several pages, while it is written to."""
    client.batch(Put(f"{name}{number:04}", "old") for number in range(1200))

    listing = client.list(name)
    first = next(listing)
    client.batch(Put(f"{name}{number:04}", "new") for number in range(1200))
    rest = list(listing)

    assert [item.key for item in (first, *rest)] == [f"{name}{number:04}" for number in range(1200)]
    assert {item.text for item in (first, *rest)} == {"old"}
    assert {item.text for item in client.list(name)} == {"new"}
    assert client.count(name) == 1200
    assert len(list(client.list(name, start=f"{name}1000"))) == 200


def test_a_batch_stops_at_what_cannot_be(client: Any, name: str):
    """What stands before it is done."""
    operations = [Put(f"{name}1", "v"), Delete(f"{name}2"), Put(f"{name}3", "x" * 300_000), Put(f"{name}4", "v")]

    with pytest.raises(BatchStopped) as caught:
        client.batch(operations)

    assert caught.value.done <= 2
    assert client.count(name) in (0, 1)
    assert client.get(f"{name}4") is None


def test_the_past_can_be_seen_and_brought_back(client: Any, name: str):
    """Versions, the difference, the state at a revision, a rollback."""
    before = client.put(f"{name}a", "1").revision
    client.put(f"{name}a", "2")
    client.put(f"{name}b", "1")

    assert [version.item.text for version in client.history(f"{name}a")] == ["2", "1"]
    assert {found.key: (found.before, found.after) for found in client.diff(before, prefix=name)}.keys() == {
        f"{name}a",
        f"{name}b",
    }
    assert client.get(f"{name}a", at=before).text == "1"
    assert client.rollback(prefix=name, revision=before, dry_run=True).changes == 2
    assert client.count(name) == 2
    assert client.rollback(prefix=name, revision=before).changes == 2
    assert [(item.key, item.text) for item in client.list(name)] == [(f"{name}a", "1")]


def test_a_node_tells_about_itself_and_the_log(client: Any, nodes: list[ClusterNode], name: str):
    """Status of each, why a key is what it is, the entries of the log."""
    written = client.put(name, "v")

    assert {client.status(node.address)["node"] for node in nodes} == {node.address for node in nodes}
    assert client.explain(name)["key"] == name
    (entry,) = [entry for entry in client.log(written.index) if entry.index == written.index]
    assert entry.first_revision <= written.revision < entry.first_revision + len(entry.requests)
    assert client.settle(uuid.uuid4().hex).committed is False


# --- nodes that die -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_client", ["threads"], indirect=True)  # asyncio takes the same steps
def test_writes_go_on_while_nodes_are_killed(
    make_client: MakeClient, standing: Cluster, nodes: list[ClusterNode], name: str
):
    """Each happens once, whichever node dies with it, the leader first: a key's version counts its writes."""
    client = make_client(*(node.address for node in nodes), timeout=20.0)
    stop = threading.Event()

    def write(number: int) -> int:
        count = 0
        while not stop.is_set():
            client.put(f"{name}{number}", str(count))
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, number) for number in range(4)]
        try:
            for victim in nodes[:2]:
                before = client.revision
                victim.kill()
                assert wait_until(lambda before=before: client.revision > before + 40, WAIT_S)
                victim.start()
        finally:
            stop.set()
        counts = [each.result(WAIT_S) for each in writing]

    assert [client.get(f"{name}{number}").version for number in range(4)] == counts


def test_a_write_whose_node_dies_with_it_gets_its_first_answer(
    make_client: MakeClient, nodes: list[ClusterNode], name: str
):
    """after_append:kill: it is in the log, and nobody was told; the next node says where it is."""
    leader, follower, _ = nodes
    client = make_client(leader.address, follower.address, timeout=15.0)
    arm(leader, "after_append:kill@1")

    written = client.put(name, "v")

    assert written.replayed
    assert not leader.running or wait_until(lambda: not leader.running, WAIT_S)
    item = client.get(name)
    assert (item.version, item.revision) == (1, written.revision)


def test_a_write_under_an_id_of_ones_own_happens_once(
    client: Any, make_client: MakeClient, nodes: list[ClusterNode], name: str
):
    """From two clients; the second gets the first one's answer, conditions that do not hold included."""
    other = make_client(nodes[0].address)

    first = client.put(name, "v", request_id=f"a-{name[:-1]}")
    again = other.put(name, "v", request_id=f"a-{name[:-1]}")
    with pytest.raises(ConditionFailed):
        client.put(name, "w", if_revision=0, request_id=f"b-{name[:-1]}")
    other.delete(name)
    with pytest.raises(ConditionFailed):
        other.put(name, "w", if_revision=0, request_id=f"b-{name[:-1]}")

    assert (again.revision, again.replayed, first.replayed) == (first.revision, True, False)
    assert client.get(name) is None


def test_a_paused_node_costs_its_share(make_client: MakeClient, nodes: list[ClusterNode], name: str):
    """A follower under SIGSTOP: reads and writes go on at another node, within their time."""
    _, paused, other = nodes
    client = make_client(paused.address, other.address, timeout=3.0)
    client.put(name, "v")
    paused.pause()

    try:
        began = time.monotonic()
        assert client.get(name).text == "v"
        client.put(name, "w")
        assert time.monotonic() - began < 4.5
    finally:
        paused.resume()


def test_without_nodes_a_call_says_so_in_time(
    make_client: MakeClient, standing: Cluster, nodes: list[ClusterNode], name: str
):
    """And goes on once they are back."""
    client = make_client(*(node.address for node in nodes), timeout=1.0)
    client.put(name, "v")
    for node in nodes:
        node.kill()

    began = time.monotonic()
    with pytest.raises(NoNodes):
        client.put(name, "w")
    assert time.monotonic() - began < 1.5
    standing.start()
    assert client.get(name).text == "v"


# --- what is read ---------------------------------------------------------------------------------------------


@pytest.fixture
def standing_still(nodes: list[ClusterNode]) -> Iterator[ClusterNode]:
    """A follower whose applying stands still from the next entry on; it is killed afterwards."""
    follower = nodes[1]
    arm(follower, "before_apply:sleep:60000")
    yield follower
    follower.kill()


def test_a_client_reads_its_own_writes_through_a_replica_that_lags(
    make_client: MakeClient, nodes: list[ClusterNode], standing_still: ClusterNode, name: str
):
    """It waits for its share of the time, and asks another node; without the promise it sees the past."""
    without = make_client(standing_still.address, read_your_writes=False)
    without.put(name, "v", ack="log")
    assert without.get(name) is None

    for ask in (
        lambda client, _: client.get(name).text,
        lambda client, _: client.count(name),
        lambda client, _: next(client.list(name)).text,
        lambda client, _: next(client.history(name)).item.text,
        lambda client, written: next(client.diff(written - 1)).after.text,
    ):
        client = make_client(standing_still.address, nodes[2].address, timeout=1.0)
        written = client.put(name, "v", ack="log").revision
        assert ask(client, written) in ("v", 1)


def test_reads_can_be_asked_to_be_recent(
    make_client: MakeClient, nodes: list[ClusterNode], standing_still: ClusterNode, name: str
):
    """Linearizable, bounded, from a revision on: never the old value from the replica that lags."""
    writer = make_client(nodes[0].address)
    reader = make_client(standing_still.address, nodes[2].address, timeout=3.0)
    revision = writer.put(name, "v", ack="log").revision

    assert make_client(standing_still.address).get(name) is None
    assert reader.get(name, linearizable=True).text == "v"
    behind = make_client(standing_still.address, timeout=1.0)
    with pytest.raises(TooStale):
        behind.get(name, max_lag=0)
    with pytest.raises(NoNodes, match=r"behind|revision"):
        behind.get(name, min_revision=revision)


# --- watches --------------------------------------------------------------------------------------------------


def says_no(_: Asked) -> Reply:
    """A node that is of no use, after a while."""
    time.sleep(0.5)
    return problem(503, "unavailable")


@pytest.mark.parametrize("make_client", ["threads"], indirect=True)  # asyncio takes the same steps
def test_a_watch_hears_every_change_once_over_dying_nodes(
    make_client: MakeClient, make_node: MakeNode, nodes: list[ClusterNode], name: str
):
    """Every node is killed in turn, the one that is heard among them: nothing is missing, nothing comes twice.

    Between any two nodes there is one that takes its time to say no, so that much happens while nobody is heard.
    """
    between = [make_node(says_no) for _ in nodes]
    client = make_client(
        *(each.address for pair in zip(nodes, between, strict=True) for each in pair), timeout=20.0
    )
    writer = Client([node.address for node in nodes], timeout=20.0)
    heard: list[tuple[int, str]] = []
    watch = client.watch(name, heartbeat=1)
    stop, written = threading.Event(), []

    def hear() -> None:
        for event in watch:
            heard.extend((event.revision, change.item.text) for change in event.changes)

    def write() -> None:
        while not stop.is_set():
            text = str(len(written))
            written.append((writer.put(f"{name}{len(written) % 5}", text).revision, text))

    with ThreadPoolExecutor(2) as pool, watch:
        hearing, writing = pool.submit(hear), pool.submit(write)
        try:
            for node in nodes:
                count = len(written)
                node.kill()
                assert wait_until(lambda count=count: len(written) > count + 20, WAIT_S)
                node.start()
        finally:
            stop.set()
        writing.result(WAIT_S)
        wait_until(lambda: len(heard) >= len(written), WAIT_S)
        watch.close()
        hearing.result(WAIT_S)
    writer.close()

    assert heard == written


def test_a_watch_leaves_a_node_that_is_paused(make_client: MakeClient, nodes: list[ClusterNode], name: str):
    """SIGSTOP: no heartbeat for three of them, and another node is heard."""
    _, paused, other = nodes
    client = make_client(paused.address, other.address)
    writer = make_client(other.address)
    watch = client.watch(name, heartbeat=1)
    paused.pause()

    try:
        written = writer.put(f"{name}a", "v")
        began = time.monotonic()
        assert next(watch).revision == written.revision
        assert time.monotonic() - began < 7.0
    finally:
        paused.resume()
        watch.close()


def test_a_watch_begins_behind_a_list(client: Any, name: str):
    """What was written between the two is heard, and what was listed is not."""
    client.put(f"{name}a", "1")
    listing = client.list(name)
    assert [item.text for item in listing] == ["1"]
    client.put(f"{name}b", "2")

    with client.watch(name, start=listing.revision + 1) as watch:
        client.delete(f"{name}a")
        events = [next(watch), next(watch)]

    assert [(event.changes[0].op, event.changes[0].key) for event in events] == [
        ("put", f"{name}b"),
        ("delete", f"{name}a"),
    ]


def test_one_key_can_be_watched(client: Any, name: str):
    """Longer keys with the same beginning are others."""
    with client.watch(key=f"{name}a") as watch:
        client.put(f"{name}ab", "no")
        written = client.put(f"{name}a", "yes")
        assert next(watch).revision == written.revision


def test_what_is_forgotten_is_told_as_such(make_client: MakeClient, nodes: list[ClusterNode], name: str):
    """Below the floor: a watch, a read and a list of that time say what the oldest one is that is known."""
    forgetful = nodes[1]
    forgetful.terminate()
    forgetful.start(flags=("--history", "10"))
    client = make_client(forgetful.address)
    revision = client.put(name, "first").revision
    for number in range(30):
        client.put(name, str(number))

    for ask in (
        lambda: client.watch(name, start=revision),
        lambda: client.get(name, at=revision),
        lambda: next(client.list(name, at=revision)),
        lambda: next(client.diff(revision)),
    ):
        with pytest.raises(HistoryTrimmed) as caught:
            ask()
        assert revision < caught.value.floor <= client.revision
    with client.watch(name, start=caught.value.floor + 1) as watch:
        assert next(watch).revision == caught.value.floor + 1
    versions = client.history(name)
    assert len(list(versions)) < 15
    assert versions.trimmed
    forgetful.terminate()


# --- leases and locks -----------------------------------------------------------------------------------------


def test_keys_live_as_long_as_their_lease(client: Any, name: str):
    """Kept alive beyond its time, they are there; revoked, they are gone."""
    with client.lease(1.0) as lease:
        client.put(name, "v", lease=lease.id)
        time.sleep(2.5)  # two and a half of its lives
        assert lease.held
        assert client.get(name).lease == lease.id
    assert client.get(name) is None
    with pytest.raises(NoSuchLease):
        client.put(name, "v", lease=lease.id)


def test_a_lease_that_expires_is_lost(client: Any, name: str):
    """Whoever keeps it alive too late is told."""
    lease = client.lease(1.0)
    client.put(name, "v", lease=lease.id)

    assert wait_until(lambda: client.get(name) is None, WAIT_S)
    with pytest.raises(NoSuchLease):
        lease.keep_alive()
    assert lease.lost.is_set()
    assert not lease.held


def test_a_lock_has_one_holder_and_rising_tokens(make_client: MakeClient, nodes: list[ClusterNode], name: str):
    """Four clients, three times each: nobody comes in while somebody holds it."""
    holding, tokens, together = threading.Lock(), [], []

    def work(number: int) -> None:
        client = make_client(*(node.address for node in nodes[number % 3 :] + nodes[: number % 3]))
        for _ in range(3):
            with client.lock(f"{name}lock", ttl=5, wait=60) as lock:
                together.append(holding.acquire(blocking=False))
                tokens.append(lock.token)
                assert lock.held
                time.sleep(0.01)
                holding.release()

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(work, number) for number in range(4)]:
            each.result(60)

    assert all(together)
    assert len(tokens) == 12
    assert tokens == sorted(set(tokens))


def test_a_lock_of_a_holder_that_is_gone_becomes_free(
    make_client: MakeClient, nodes: list[ClusterNode], name: str
):
    """Its lease ends; who waits for it gets it, with a higher token; the old one can be told by its own."""
    dying, waiting = (make_client(nodes[number].address) for number in (0, 1))
    old = dying.lock(f"{name}lock", ttl=1.0)
    old.acquire()
    with pytest.raises(LockHeld):
        waiting.lock(f"{name}lock", wait=0).acquire()
    dying.close()

    began = time.monotonic()
    with waiting.lock(f"{name}lock", ttl=5, wait=WAIT_S) as lock:
        assert not old.held
        assert lock.token > old.token
    assert time.monotonic() - began < 5.0


def test_a_lock_outlives_the_leader(
    make_client: MakeClient, standing: Cluster, nodes: list[ClusterNode], name: str
):
    """Its lease is kept alive at the next leader; nobody else gets in."""
    client = make_client(*(node.address for node in nodes), timeout=10.0)
    other = make_client(*(node.address for node in nodes[1:]), timeout=10.0)

    with client.lock(f"{name}lock", ttl=6) as lock:
        nodes[0].kill()
        standing.wait_for_leader()
        with pytest.raises(LockHeld):
            other.lock(f"{name}lock", wait=3).acquire()
        assert lock.held
    with other.lock(f"{name}lock", wait=5) as second:
        assert second.token > 0
