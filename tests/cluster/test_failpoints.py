"""A leader dies, or breaks, at each place where it can be made to: nothing is lost, and the cluster goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from kvlog.cluster import Answer, Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import Unavailable
from kvlog.processes import ProcessKeeper, wait_until

from .conftest import new_cluster
from .history import History

PLACES = ("before_append", "after_append", "before_apply", "after_apply", "mid_push")
WAIT_S = 20.0


@pytest.fixture(scope="module", autouse=True)
def hung(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> tuple[ClusterNode, Answer]:
    """A node alone that decides no more, and what it answered to a write; what comes of it takes ten seconds."""
    (node,) = new_cluster(keeper, ensemble, 1).nodes
    node.start()
    arm(node, "before_append:sleep:30000@1")
    return node, node.update("key", "value", timeout_s=1)


def arm(node: ClusterNode, spec: str) -> None:
    assert node.request("PUT", "/v1/failpoints", body=spec.encode()).status == 200


def write_until_it_ends(history: History, through: ClusterNode, victim: ClusterNode) -> int:
    """Write until the node is gone; returns its exit code."""
    end = time.monotonic() + WAIT_S
    while victim.running:
        assert time.monotonic() < end, "the failpoint is not hit"
        history.write(through)
    return victim.child.wait(WAIT_S)


def goes_on(history: History, cluster: Cluster, victim: ClusterNode) -> None:
    """The others take writes; the node that died comes back; all agree, and the log bears the writers out."""
    survivors = cluster.running
    assert len(survivors) == len(cluster.nodes) - 1
    assert wait_until(lambda: history.write(survivors[0]).outcome == "committed", WAIT_S)
    victim.start()
    assert wait_until(lambda: history.write(victim).outcome == "committed", WAIT_S)
    cluster.wait_until_settled()
    cluster.wait_for_agreement()
    history.check()


@pytest.mark.parametrize("place", PLACES)
def test_a_leader_killed_at_a_failpoint_loses_nothing(standing: Cluster, place: str):
    """kill@2: kill -9 of both processes; a write that was under way is in the log once or never."""
    history = History(standing)
    leader = standing.wait_until_settled()
    follower = next(node for node in standing.nodes if node is not leader)
    arm(leader, f"{place}:kill@2")

    assert write_until_it_ends(history, follower, leader) == -signal.SIGKILL
    assert not leader.answers
    goes_on(history, standing, leader)


def test_an_entry_confirmed_but_not_acted_on_is_not_lost(standing: Cluster):
    """after_append: the leader dies before it acts; its entry is in the log, and all replicas come to have it."""
    leader = standing.wait_until_settled()
    follower = next(node for node in standing.nodes if node is not leader)
    arm(leader, "after_append:kill@1")
    tail = leader.status()["tail_index"]

    try:
        answer = leader.update("key", "written")
    except Unavailable:
        answer = None

    assert answer is None
    assert leader.child.wait(WAIT_S) == -signal.SIGKILL
    standing.wait_for_leader()
    standing.wait_for_agreement()
    assert follower.read("key").body["value"] == "written"
    assert follower.status()["tail_index"] == tail + 2  # the entry, and the successor's barrier


def test_a_bug_anywhere_ends_the_node(standing: Cluster):
    """raise: an exception that nobody expects, at each place in turn, on whichever thread: exit code 70."""
    history = History(standing)
    for place in PLACES:
        leader = standing.wait_until_settled()
        follower = next(node for node in standing.nodes if node is not leader)
        arm(leader, f"{place}:raise@2")

        assert write_until_it_ends(history, follower, leader) == 70, standing.describe()
        assert f"server.py: failpoint {place}: an exception was asked for" in leader.log.read_text()
        goes_on(history, standing, leader)


@pytest.mark.parametrize(("action", "code"), [("kill", -signal.SIGKILL), ("raise", 70), ("sleep:500", 0)])
def test_a_node_may_fail_right_after_it_has_handed_over(standing: Cluster, action: str, code: int):
    """after_handover: the leadership is with another node already, however this one ends."""
    history = History(standing)
    leader = standing.wait_until_settled()
    arm(leader, f"after_handover:{action}")

    assert leader.terminate() == code
    goes_on(history, standing, leader)


def test_a_node_that_does_not_decide_any_more_ends(hung: tuple[ClusterNode, Answer]):
    """A deciding thread that hangs for 30 s: exit code 6 after 10 s, the stacks and the reason in the log."""
    node, answer = hung

    assert answer.status == 504
    assert node.child.wait(WAIT_S) == 6
    log = node.log.read_text()
    assert "\nkvlog-decide:\n" in log
    assert "in _act" in log.partition("\nkvlog-decide:\n")[2].partition(":\n")[0]
    assert "server.py: the deciding thread has stood still for 10 s" in log


def test_a_failpoint_can_be_armed_from_the_start(make_cluster: Callable[..., Cluster]):
    """--failpoint: a node that dies by its first entry, each time; without it the same store is whole."""
    cluster = make_cluster(1)
    (node,) = cluster.nodes

    for _ in range(2):
        node.start(wait=False, flags=("--failpoint", "before_apply:kill"))
        assert node.child.wait(WAIT_S) == -signal.SIGKILL
    node.start()

    assert node.update("key", "value").status == 200
