"""The log is trimmed to what a majority holds for certain, and by nobody but the leader."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable

import pytest

from kvlog.cluster import Cluster, ClusterNode, server_command
from kvlog.processes import wait_until

from .ledger import (
    WAIT_S,
    Ledger,
    Log,
    arm,
    fill_until_trimmed,
    first_index,
    mark,
    small_segments,
    wait_until_held,
)
from .small_segments import SEGMENT


def others(cluster: Cluster, *nodes: ClusterNode) -> list[ClusterNode]:
    return [node for node in cluster.nodes if node not in nodes]


def test_the_log_in_zookeeper_stays_as_long_as_is_asked_for(make_cluster: Callable[..., Cluster]):
    """R3: --retain 50: whole segments go, however much is written; the last 50 entries never do."""
    retain = 50
    cluster = make_cluster(command=small_segments("--retain", str(retain)))
    leader, ledger = cluster.start(), Ledger()
    with Log(cluster) as log:
        for _ in range(3):
            ledger.fill(leader, 4 * SEGMENT)
            assert log.entries >= retain
            assert wait_until(lambda: log.entries < retain + SEGMENT, WAIT_S), leader.status()

        segments, first = log.segments(), log.first_index
        tail = leader.status()["tail_index"]

    assert tail >= 12 * SEGMENT
    assert first % SEGMENT == 0
    assert first == first_index(leader)
    assert sorted(segments) == list(range(first // SEGMENT, (tail + 1) // SEGMENT + 1))
    assert all(count == SEGMENT for number, count in segments.items() if number != max(segments))
    assert tail + 1 - first >= retain
    ledger.check_all(cluster)


def test_only_whole_stores_license_trimming(make_cluster: Callable[..., Cluster]):
    """R2, R3: not a node that is down, nor a stale one, nor an empty one; a replica less lets it go on."""
    cluster = make_cluster(command=small_segments("--retain", "0"), session_timeout_s=2)
    leader, ledger = cluster.start(), Ledger()
    first, second = others(cluster, leader)
    wait_until_held(leader, *cluster.nodes)  # from now on all three are counted on

    second.kill()  # two of three hold what is written now
    fill_until_trimmed(ledger, leader, leader.status()["tail_index"])

    first.kill()  # and now only one of three
    with Log(cluster) as log:  # the leader may not have heard yet what it published last
        held = log.durable_index(first)
    stays_at(leader, ledger, held)

    first.start(recover="stale")
    assert wait_until(lambda: mark(leader, first)["holding"] == "stale", WAIT_S)
    assert first.status()["missed_entries"] > SEGMENT
    stays_at(leader, ledger, held)

    first.kill()
    shutil.rmtree(first.data_dir / "store")
    arm(leader, "mid_snapshot:sleep:20000")
    first.start(wait=False)
    assert wait_until(lambda: mark(leader, first)["holding"] == "installing", WAIT_S)
    stays_at(leader, ledger, held)

    first.kill()
    for gone in (first, second):
        path = f"/v1/admin/replicas/{gone.address}/remove"
        assert wait_until(lambda path=path: leader.request("POST", path).status == 200, WAIT_S)
    fill_until_trimmed(ledger, leader, leader.status()["tail_index"])
    assert [replica["node"] for replica in leader.status()["replicas"]] == [leader.address]

    arm(leader, "")
    first.start()
    second.start()
    ledger.check_all(cluster)


def stays_at(leader: ClusterNode, ledger: Ledger, held: int) -> None:
    """More is written, and held by the leader alone: nothing is trimmed of what only it holds."""
    ledger.fill(leader, SEGMENT + 5)
    wait_until_held(leader, leader)
    assert first_index(leader) <= held + 1
    assert leader.status()["log"]["held_by_majority"] <= held


def test_trimming_goes_on_where_a_killed_leader_left_it(make_cluster: Callable[..., Cluster]):
    """kill -9 when one of several segments is deleted: the log is whole, and the next leader deletes the rest."""
    cluster = make_cluster(command=small_segments("--retain", "0"))
    leader, ledger = cluster.start(), Ledger()
    first, second = others(cluster, leader)
    wait_until_held(leader, *cluster.nodes)  # from now on all three are counted on
    first.kill()
    second.kill()
    ledger.fill(leader, 4 * SEGMENT)
    wait_until_held(leader, leader)
    arm(leader, "before_trim:kill@2")
    with Log(cluster) as log:
        begin = log.first_index

        first.start(wait=False)  # which holds it all soon, so that it may go

        assert leader.child.wait(WAIT_S) == -signal.SIGKILL
        assert log.first_index > begin
        assert min(log.segments()) * SEGMENT < log.first_index  # half way
        second.start(wait=False)
        cluster.wait_for_leader()
        assert wait_until(lambda: min(log.segments()) * SEGMENT == log.first_index, WAIT_S)

    successor = cluster.wait_for_leader()
    leader.start()
    fill_until_trimmed(ledger, successor, successor.status()["tail_index"])
    ledger.check_all(cluster)


@pytest.mark.parametrize("how", ["stopped", "deposed"])
def test_a_former_leader_trims_nothing(make_cluster: Callable[..., Cluster], how: str):
    """R4: held up right before it trims, until another one leads: what it does then comes to nothing.

    Stopped (SIGSTOP), its session is over; deposed, it has a session still, and ZooKeeper refuses the trim.

    The others keep everything, so that whatever is missing afterwards was trimmed by the former leader.
    """
    eager, keeping = small_segments("--retain", "0"), small_segments("--retain", "1000000")
    cluster = make_cluster(command=lambda number: (keeping if number else eager)(number), session_timeout_s=2)
    former, ledger = cluster.nodes[0], Ledger()
    former.start()
    arm(former, "before_trim:sleep:3000@1")
    for node in cluster.nodes[1:]:
        node.start(wait=False)
    for node in cluster.nodes[1:]:
        node.wait_until_up()
    while "failpoint before_trim" not in former.log.read_text():
        ledger.write(former)

    with Log(cluster) as log:
        if how == "stopped":
            former.pause()
        else:
            log.depose(former)
        assert wait_until(lambda: leads_another(cluster, former), WAIT_S)
        former.resume()
        cluster.wait_until_settled()
        ledger.fill(former, 3 * SEGMENT)
        wait_until_held(former, *cluster.nodes)

        assert log.first_index == 0
        segments = log.segments()
        assert sorted(segments) == list(range(len(segments)))
        assert log.entries == former.status()["tail_index"] + 1
    ledger.check_all(cluster)


def leads_another(cluster: Cluster, former: ClusterNode) -> bool:
    return any(node.status()["is_leader"] for node in cluster.nodes if node is not former)


def test_a_full_log_refuses_writes_until_it_can_be_trimmed(make_cluster: Callable[..., Cluster]):
    """R5: --log-limit-mb 1 with two of three nodes down: 503 with the reason; reads go on; one back is enough."""
    cluster = make_cluster(command=small_segments("--retain", "1000", "--log-limit-mb", "1"))
    leader, ledger = cluster.start(), Ledger()
    first, second = others(cluster, leader)
    wait_until_held(leader, *cluster.nodes)  # from now on all three are counted on
    first.kill()
    second.kill()
    while ledger.write(leader, size=16_000) == "committed":
        assert len(ledger.acknowledged) < 100

    refused = leader.update("refused", "value")
    assert refused.status == 503
    assert refused.body["outcome"] == "refused"
    assert int(refused.headers["retry-after"]) >= 1
    for words in (
        "the log takes 1 MiB of ZooKeeper's memory, the limit is 1",
        "a majority of the replicas holds those up to ",
        f"{first.address} (whole) up to ",
        f"{second.address} (whole) up to ",
        "start those that are behind, or, if one is gone for good, POST /v1/admin/replicas/<id>/remove",
    ):
        assert words in refused.body["detail"]
    ledger.check(leader)
    assert leader.status()["ready"]

    first.start()

    assert wait_until(lambda: ledger.write(leader) == "committed", WAIT_S), leader.status()
    assert first_index(leader) > 0
    assert leader.status()["log"]["memory_bytes"] < 2**20
    second.start()
    cluster.wait_for_agreement()
    assert second.read("refused").body["value"] == ""
    ledger.check_all(cluster)


def test_a_log_of_large_entries_never_fills_up_while_all_nodes_hold_it(make_cluster: Callable[..., Cluster]):
    """R3: with segments of 1,000, three times --log-limit-mb goes into the first one; it is trimmed within."""
    cluster = make_cluster(command=lambda number: [*server_command(number), "--log-limit-mb", "1"])
    leader, ledger = cluster.start(), Ledger()

    while len(ledger.acknowledged) < 24:
        assert wait_until(lambda: ledger.write(leader, size=128_000) == "committed", WAIT_S), leader.status()

    assert 0 < first_index(leader) < leader.status()["tail_index"] < 1_000
    ledger.check_all(cluster)
