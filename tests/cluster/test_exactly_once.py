"""Every write has a definite outcome and happens once: under ids, with retries on any node, whoever is killed."""

from __future__ import annotations

import itertools
import signal
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from kvlog.cluster import Answer, Cluster, ClusterNode
from kvlog.core.entry import Put, Request
from kvlog.processes import wait_until

from .by_hand import fill_segment
from .history import History, Noted, Writers, applied_index, read_log

WAIT_S = 30.0
THREADS = 6

ON_LEADER = ("before_append", "after_append", "before_apply", "after_apply", "mid_push")
ON_FOLLOWER = ("before_apply", "after_apply")


@pytest.fixture
def name() -> str:
    """A word for keys and ids that no other test has."""
    return uuid.uuid4().hex[:8]


def arm(node: ClusterNode, spec: str) -> None:
    assert node.request("PUT", "/v1/failpoints", body=spec.encode()).status == 200


def outcome_of(answer: Answer) -> tuple[int, str, int, int]:
    body = answer.body
    return answer.status, body.get("outcome", ""), body.get("revision", 0), body.get("index", -1)


def same_everywhere(cluster: Cluster, request_id: str) -> dict:
    """What every running node remembers of a request; they agree, and so does a request to settle it."""
    cluster.wait_for_agreement()
    found = [node.remembered(request_id) for node in cluster.running]
    assert {answer.status for answer in found} == {200}
    assert all(answer.body == found[0].body for answer in found)
    for node in cluster.running:
        assert outcome_of(node.settle(request_id)) == outcome_of(found[0])
    return found[0].body


def puts_in(cluster: Cluster, since: int = 0) -> list[tuple[Request, Put]]:
    """What the log has put from an index on, each with the request that did."""
    return [
        (request, effect)
        for item in read_log(cluster, since)
        for request in item.entry.requests
        for effect in request.effects
        if isinstance(effect, Put)
    ]


def values_in(cluster: Cluster, since: int) -> list[str]:
    return [put.value for _, put in puts_in(cluster, since)]


# --- whoever is killed ----------------------------------------------------------------------------------------


def killed_under_writes(history: History, victim: ClusterNode, kill: Callable[[], object]) -> None:
    """Write under ids through all nodes while one of them is killed and comes back; each is committed once."""
    cluster = history.cluster
    with Writers(history, cluster.nodes, threads=0, once=THREADS):
        assert wait_until(lambda: history.count("committed") >= THREADS, WAIT_S)
        kill()
        assert wait_until(lambda: not victim.running, WAIT_S), "the failpoint is not hit"
        assert victim.child.wait(WAIT_S) == -signal.SIGKILL
        goes_on(history)
        victim.start()
        goes_on(history)
    assert any(noted.tries > 1 for noted in history.noted), "nobody had to try again"
    cluster.wait_for_agreement()
    history.repeat()
    history.check()


def goes_on(history: History) -> None:
    before = history.count("committed")
    assert wait_until(lambda: history.count("committed") >= before + 2 * THREADS, WAIT_S)


@pytest.mark.parametrize("place", ON_LEADER)
def test_a_leader_killed_at_a_failpoint_doubles_no_write(standing: Cluster, nodes: list[ClusterNode], place: str):
    """kill -9: every write that was under way is tried again, and is in the log once, with one answer."""
    leader = standing.wait_for_leader()

    killed_under_writes(History(standing), leader, lambda: arm(leader, f"{place}:kill@5"))


@pytest.mark.parametrize("place", ON_FOLLOWER)
def test_a_follower_killed_at_a_failpoint_doubles_no_write(
    standing: Cluster, nodes: list[ClusterNode], place: str
):
    """The writes that it was forwarding have lost their client's connection, and are tried elsewhere."""
    leader = standing.wait_for_leader()
    follower = next(node for node in nodes if node is not leader)

    killed_under_writes(History(standing), follower, lambda: arm(follower, f"{place}:kill@5"))


def test_a_leader_killed_after_it_has_handed_over_doubles_no_write(standing: Cluster, nodes: list[ClusterNode]):
    """after_handover: what it was still forwarding to its successor is tried again elsewhere."""
    leader = standing.wait_for_leader()

    def hand_over() -> None:
        arm(leader, "after_handover:kill")
        leader.terminate()

    killed_under_writes(History(standing), leader, hand_over)


def test_a_forwarded_write_without_an_id_is_not_left_unknown(standing: Cluster, nodes: list[ClusterNode]):
    """Its leader dies with it: the follower asks the next leader, under an id of its own, what became of it."""
    history = History(standing)
    for place in ("before_append", "after_append", "mid_push"):
        leader = standing.wait_until_settled()
        followers = [node for node in nodes if node is not leader]
        arm(leader, f"{place}:kill@3")
        with Writers(history, followers, threads=4, timeout_s=15):
            assert wait_until(lambda leader=leader: not leader.running, WAIT_S), "the failpoint is not hit"
            goes_on(history)
        leader.start()
    standing.wait_for_agreement()
    history.check()

    assert {noted.outcome for noted in history.noted} <= {"committed", "refused"}


# --- one key, many requests -----------------------------------------------------------------------------------


def test_twenty_requests_with_one_key_have_one_effect(standing: Cluster, nodes: list[ClusterNode], name: str):
    """Three nodes are asked at once: all answers are the same, and all but one are marked as repetitions."""
    together, begin = Barrier(20), applied_index(standing)

    def write(number: int, request_id: str) -> Answer:
        together.wait(WAIT_S)
        return nodes[number % 3].update(f"many-{name}", request_id, request_id=request_id)

    with ThreadPoolExecutor(20) as pool:
        for turn in range(5):
            asked = [pool.submit(write, number, f"{name}-{turn}") for number in range(20)]
            answers = [each.result(WAIT_S) for each in asked]

            assert {answer.status for answer in answers} == {200}
            bodies = [answer.body for answer in answers]
            replicas = [body.pop("replicas") for body in bodies]  # as they are now: one may have caught up
            assert all(set(each) == set(replicas[0]) for each in replicas)
            assert all(body == bodies[0] for body in bodies)
            replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
            assert sorted(replayed, key=str) == [None] + ["true"] * 19
    puts = [(request.id, put.version) for request, put in puts_in(standing, begin) if put.key == f"many-{name}"]
    assert puts == [(f"{name}-{turn}", turn + 1) for turn in range(5)]


def test_a_key_belongs_to_one_body(standing: Cluster, nodes: list[ClusterNode], name: str):
    """Another body, or another key in it, is 422 on every node, whoever leads and whatever was restarted."""
    first = nodes[0].update("owned", "mine", request_id=name)

    def refused_everywhere() -> str:
        digest = standing.wait_for_agreement()
        for node in standing.running:
            for key, value in (("owned", "other"), ("other", "mine")):
                answer = node.update(key, value, request_id=name)
                assert (answer.status, answer.body["outcome"]) == (422, "refused")
                assert "belongs to another request" in answer.body["detail"]
            again = node.update("owned", "mine", request_id=name)
            assert outcome_of(again) == outcome_of(first)
        assert standing.wait_for_agreement() == digest
        return digest

    digest = refused_everywhere()
    killed = standing.wait_for_leader()
    killed.kill()
    standing.wait_for_leader()
    assert refused_everywhere() == digest
    killed.start()
    for node in nodes:
        node.kill()
    standing.start()
    assert refused_everywhere() == digest
    assert {node.read("owned").body["value"] for node in nodes} == {"mine"}


def test_an_id_is_forgotten_everywhere_at_the_same_revision(make_cluster: Callable[..., Cluster]):
    """--request-window 100: after 99 more updates it is known, after 100 it is not, and digests agree."""
    cluster = make_cluster(flags=("--request-window", "100"))
    cluster.start()
    first = cluster.nodes[0].update("key", "value", request_id="remembered")
    revision = first.body["revision"]
    seen: set[tuple[ClusterNode, int]] = set()

    for written, node in zip(range(1, 101), itertools.cycle(cluster.nodes), strict=False):
        assert node.update(f"key{written % 7}", str(written)).body["revision"] == revision + written
        for each in cluster.nodes:
            answer = each.remembered("remembered")
            at = int(answer.headers["kvlog-revision"])
            assert answer.status == (200 if at < revision + 100 else 404), f"at {at}: {answer}"
            seen.add((each, answer.status))
        if written == 99:
            cluster.wait_for_agreement()
            assert outcome_of(node.update("key", "value", request_id="remembered")) == outcome_of(first)

    cluster.wait_for_agreement()
    assert {each.remembered("remembered").status for each in cluster.nodes} == {404}
    assert {node for node, status in seen if status == 200} == set(cluster.nodes)
    again = cluster.nodes[1].update("key", "value", request_id="remembered")
    assert (again.status, again.body["revision"]) == (200, revision + 101)
    assert "idempotent-replayed" not in again.headers
    cluster.wait_for_agreement()


# --- settling -------------------------------------------------------------------------------------------------


def test_a_cancelled_request_is_refused_for_good(standing: Cluster, nodes: list[ClusterNode], name: str):
    """DELETE of an id that nobody has used: the write that comes later is 409 on every node; so it stays."""
    begin = applied_index(standing)
    cancelled = nodes[1].settle(name)

    for node in nodes:
        late = node.update("cancelled", name, request_id=name)
        assert (late.status, late.body["outcome"]) == (409, "refused")
        assert f"was cancelled at revision {cancelled.body['revision']}" in late.body["detail"]
        assert node.read("cancelled").body["value"] != name
    assert outcome_of(cancelled)[:2] == (200, "cancelled")
    assert same_everywhere(standing, name)["outcome"] == "cancelled"
    assert name not in values_in(standing, begin)


def test_settling_a_committed_request_says_where_it_is(standing: Cluster, nodes: list[ClusterNode], name: str):
    """DELETE of its id: committed, at its revision, on every node; nothing is written by that."""
    committed = nodes[0].update("committed", name, request_id=name)
    before = nodes[0].status()["revision"]

    for node in nodes:
        settled = node.settle(name)
        assert settled.body == {
            "id": name,
            "outcome": "committed",
            "revision": committed.body["revision"],
            "index": committed.body["index"],
        }
    same_everywhere(standing, name)
    assert nodes[0].status()["revision"] == before


def test_a_write_and_its_cancellation_at_once_have_one_outcome(
    standing: Cluster, nodes: list[ClusterNode], name: str
):
    """Thirty times, on two nodes: both say committed, or both say cancelled, and the log bears them out."""
    together, begin = Barrier(2), applied_index(standing)

    def at_once(act: Callable[[], Answer]) -> Answer:
        together.wait(WAIT_S)
        return act()

    ids = [f"{name}-{number}" for number in range(30)]
    found = {}
    with ThreadPoolExecutor(2) as pool:
        for number, each in enumerate(ids):
            writer, settler = nodes[number % 3], nodes[(number + 1 + number % 2) % 3]
            writing = pool.submit(
                at_once, lambda writer=writer, each=each: writer.update("race", each, request_id=each)
            )
            settling = pool.submit(at_once, lambda settler=settler, each=each: settler.settle(each))
            written, settled = writing.result(WAIT_S), settling.result(WAIT_S)
            assert settled.status == 200
            if settled.body["outcome"] == "committed":
                assert outcome_of(written) == outcome_of(settled)
            else:
                assert written.status == 409
            found[each] = settled.body
    standing.wait_for_agreement()

    for node in nodes:
        for each in ids:
            assert node.remembered(each).body == found[each]
    values = values_in(standing, begin)
    for each in ids:
        assert values.count(each) == (1 if found[each]["outcome"] == "committed" else 0)


def test_what_is_settled_outlives_the_leader(standing: Cluster, nodes: list[ClusterNode], name: str):
    """kill -9 of the leader right after its answer: cancelled is cancelled and committed is committed."""
    leader = standing.wait_for_leader()
    committed = leader.update("settled", name, request_id=f"{name}-written")
    cancelled = leader.settle(f"{name}-never")
    leader.kill()
    standing.wait_for_leader()

    for node in standing.running:
        assert node.update("settled", "late", request_id=f"{name}-never").status == 409
    leader.start()
    assert leader.update("settled", "late", request_id=f"{name}-never").status == 409
    assert same_everywhere(standing, f"{name}-never") == cancelled.body
    again = same_everywhere(standing, f"{name}-written")
    assert (again["outcome"], again["revision"]) == ("committed", committed.body["revision"])
    assert {node.read("settled").body["value"] for node in nodes} == {name}


def test_settling_while_the_leader_dies_has_one_outcome(standing: Cluster, nodes: list[ClusterNode], name: str):
    """after_append:kill takes the write's answer along: settling says committed, on every node, for good."""
    leader = standing.wait_for_leader()
    follower = next(node for node in nodes if node is not leader)
    begin = applied_index(standing)
    arm(leader, "after_append:kill@1")

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(follower.update, "dying", name, timeout_s=15, request_id=name)
        assert wait_until(lambda: not leader.running, WAIT_S)
        settled = follower.settle(name)
        written = writing.result(WAIT_S)
    leader.start()

    assert outcome_of(settled)[:2] == (200, "committed")
    assert outcome_of(written) == outcome_of(settled)
    assert same_everywhere(standing, name) == settled.body
    assert values_in(standing, begin).count(name) == 1


# --- asking ---------------------------------------------------------------------------------------------------


def test_a_request_that_is_not_known_can_be_settled(nodes: list[ClusterNode], name: str):
    """404 says how, and how old the answer can be, in the headers that reads have."""
    read = nodes[0].read("any")
    unknown = nodes[0].remembered(name)
    known = nodes[0].remembered(nodes[0].update("any", name, request_id=name) and name)

    assert unknown.status == 404
    assert (unknown.body["type"], unknown.body["id"]) == ("kvlog:no-such-request", name)
    assert f"DELETE /v1/requests/{name} finds out for good" in unknown.body["detail"]
    assert known.status == 200
    marks = {header for header in read.headers if header.startswith("kvlog-")}
    assert {"kvlog-revision", "kvlog-applied-index", "kvlog-tail-index", "kvlog-staleness-ms"} <= marks
    for answer in (unknown, known):
        assert {header for header in answer.headers if header.startswith("kvlog-")} == marks


def test_a_stale_node_does_not_know_what_it_has_missed(standing: Cluster, nodes: list[ClusterNode], name: str):
    """Its 404 is marked as stale, body and headers; what it settles is the cluster's; healed, it knows."""
    stale = next(node for node in nodes if node is not standing.wait_for_leader())
    stale.kill()
    written = standing.running[0].update("missed", name, request_id=name)
    stale.start(recover="stale")

    missed = stale.status()["missed_entries"]
    asked = stale.remembered(name)
    settled = stale.settle(name)
    repeated = stale.update("missed", name, request_id=name)
    healed = stale.catch_up()

    assert asked.status == 404
    assert (asked.body["stale"], asked.body["missed_entries"]) == (True, missed)
    assert (asked.headers["kvlog-stale"], asked.headers["kvlog-missed-entries"]) == ("true", str(missed))
    assert missed > 0
    assert outcome_of(settled) == outcome_of(repeated) == outcome_of(written)
    assert healed.status == 200
    assert outcome_of(stale.remembered(name)) == outcome_of(written)
    same_everywhere(standing, name)


# --- a trimmed log --------------------------------------------------------------------------------------------


def counted(history: History, key: str) -> list[Noted]:
    """Write a key ten times under ids, through all nodes."""
    noted = [history.write_once(history.cluster.running, key=key) for _ in range(10)]
    assert len({each.revision for each in noted}) == 10
    return noted


def first_index(cluster: Cluster) -> int:
    return cluster.wait_for_leader().status()["log"]["first_index"]


def version_of(cluster: Cluster, key: str) -> int:
    return max(put.version for _, put in puts_in(cluster) if put.key == key)


def test_trimming_and_installing_double_no_write(make_cluster: Callable[..., Cluster]):
    """A leader dies at before_trim, a node behind the trimmed log at mid_install: each key counts right."""
    cluster = make_cluster(flags=("--retain", "0"))
    leader = cluster.start()
    behind = next(node for node in cluster.nodes if node is not leader)
    history = History(cluster)
    counted(history, "counted")
    behind.terminate()
    fill_segment(cluster, leader, left=20)
    arm(leader, "before_trim:kill")

    with Writers(history, [node for node in cluster.nodes if node is not behind], threads=0, once=2):
        assert wait_until(lambda: not leader.running, WAIT_S), "nothing was trimmed"
        assert leader.child.wait(WAIT_S) == -signal.SIGKILL
        leader.start()
        assert wait_until(lambda: first_index(cluster) > 0, WAIT_S), cluster.describe()
        behind.start(wait=False, flags=("--failpoint", "mid_install:kill"))
        assert behind.child.wait(WAIT_S) == -signal.SIGKILL
        behind.start()
    counted(history, "counted")

    cluster.wait_for_agreement()
    history.repeat(5)
    first = next(noted for noted in history.noted if noted.key == "counted")
    assert same_everywhere(cluster, first.request_id)["revision"] == first.revision
    assert version_of(cluster, "counted") == 20
    assert history.check()[0].index > 0
