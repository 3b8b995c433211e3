"""The leader dies, is stopped for a while, or hands over: nothing is lost, nothing is doubled."""

import itertools
import statistics
import time
from collections.abc import Callable

import pytest

from kvlog.cluster import Cluster
from kvlog.processes import wait_until

from .history import History, Writers

KILLS = 10
WRITES = 200


def test_ten_leaders_killed_lose_and_double_nothing(cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    """After kill -9 of the leader the survivors take over long before the session times out."""
    history = History(cluster)
    takeovers = []

    with Writers(history, cluster.nodes, threads=2, once=2):
        for _ in range(KILLS):
            leader = cluster.wait_until_settled()
            survivor = next(node for node in cluster.nodes if node is not leader)
            killed_at = time.monotonic()
            leader.kill()
            while history.write(survivor).outcome != "committed":
                assert time.monotonic() - killed_at < 8, cluster.describe()
            takeovers.append(time.monotonic() - killed_at)
            leader.start()
        assert wait_until(lambda: history.count("committed") >= WRITES, 30)
    cluster.wait_for_agreement()
    history.repeat()
    history.check()

    median = statistics.median(takeovers)
    with capsys.disabled():
        print(
            f"\n{KILLS} leaders killed with -9, {history.count('committed')} writes acknowledged; "
            f"next acknowledged write after {median * 1000:.0f} ms (median), "
            f"{max(takeovers) * 1000:.0f} ms (longest); session timeout {cluster.session_timeout_s} s"
        )
    assert median < 1 < cluster.session_timeout_s


def test_a_leader_that_was_stopped_past_its_session_changes_nothing(make_cluster: Callable[..., Cluster]):
    """F5: what the paused leader had under way never lands behind its successor's barrier; it steps down."""
    cluster = make_cluster(session_timeout_s=2)
    old = cluster.start()
    others = [node for node in cluster.nodes if node is not old]
    history = History(cluster)

    with Writers(history, [old], threads=4, timeout_s=2):
        assert wait_until(lambda: history.count("committed") >= 20, 10)
        old.pause()
        paused = set(cluster.running) - {old}
        assert wait_until(lambda: any(node.status()["is_leader"] for node in paused), 15)
        for node in others:
            assert history.write(node).outcome == "committed"
        epoch_of_successor = others[0].status()["epoch"]
        old.resume()
        assert wait_until(lambda: old.status()["role"] == "follower", 15)
    cluster.wait_for_agreement()
    log = history.check()

    assert not old.status()["is_leader"]
    barrier = next(item.index for item in log if item.entry.epoch == epoch_of_successor)
    assert all(item.entry.epoch >= epoch_of_successor for item in log[barrier:])


def test_a_push_of_a_former_leader_changes_nothing(standing: Cluster):
    """P, C2: what a replaced leader still pushes is answered with the newer epoch, and not applied."""
    import msgspec  # noqa: PLC0415

    from kvlog.core.entry import Entry, Leader, Put, Request, encode_entry, encode_request  # noqa: PLC0415
    from kvlog.core.values import PushAnswer, PushBody  # noqa: PLC0415

    old = standing.wait_until_settled()
    old_epoch = old.status()["epoch"]
    old.kill()
    leader = standing.wait_for_leader()
    leader.update("key", "right")
    standing.wait_for_agreement()
    follower = next(node for node in standing.running if node is not leader)
    before = follower.status()
    late = Entry(
        format=1,
        epoch=old_epoch,
        batch_id="late",
        prev_hash=before["log_hash"],
        first_revision=before["revision"] + 1,
        time_ms=0,
    )
    request = encode_request(Request(effects=(Put(key="key", value="wrong", create=1, version=9),)))
    body = PushBody(
        cluster_id=before["cluster_id"],
        leader=Leader(old.address, old.address),
        epoch=old_epoch,
        tail_index=before["applied_index"] + 1,
        first_index=before["applied_index"] + 1,
        entries=(encode_entry(late, (request,)),),
    )

    response = standing.pool.request(
        "POST", f"http://{follower.address}/propagate", body=msgspec.msgpack.encode(body), timeout=5
    )
    answer = msgspec.msgpack.decode(response.data, type=PushAnswer)

    assert answer == PushAnswer(applied_index=before["applied_index"], epoch=before["epoch"])
    assert follower.read("key").body["value"] == "right"
    assert follower.status()["digest"] == before["digest"]


def test_handing_over_fails_no_write(standing: Cluster):
    """SIGTERM to each leader in turn, under writes through the others: every write is committed."""
    history = History(standing)

    for _ in range(3):
        leader = standing.wait_until_settled()
        others = [node for node in standing.nodes if node is not leader]
        with Writers(history, others, threads=2, once=1):
            before = history.count("committed")
            assert wait_until(lambda before=before: history.count("committed") >= before + 20, 10)
            assert leader.terminate() == 0
            before = history.count("committed")
            assert wait_until(lambda before=before: history.count("committed") >= before + 20, 10)
        leader.start()
    standing.wait_for_agreement()
    history.check()

    assert {noted.outcome for noted in history.noted} == {"committed"}


def test_all_nodes_killed_at_once_come_back_with_everything(standing: Cluster):
    """F8: what was acknowledged is in the log, and every store finds its way to it."""
    history = History(standing)
    for node in itertools.islice(itertools.cycle(standing.nodes), 30):
        assert history.write(node).outcome == "committed"

    for node in standing.nodes:
        node.kill()
    standing.start()
    for node in standing.nodes:
        assert history.write(node).outcome == "committed"
    standing.wait_for_agreement()

    history.check()
