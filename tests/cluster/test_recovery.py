"""A node that was away: it replays what it missed, or keeps its stale store and says so."""

from collections.abc import Callable

from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.entry import SEGMENT_ENTRIES
from kvlog.errors import Unavailable
from kvlog.processes import free_ports, wait_until

from .by_hand import fill_segment


def _write(cluster: Cluster, key: str, value: str) -> dict:
    answer = cluster.running[0].update(key, value)
    assert answer.status == 200, answer
    return answer.body


def _miss_some(cluster: Cluster, key: str) -> tuple[ClusterNode, int]:
    """Kill the leader, and update ``key``0 while it is down; returns it and the number of entries it missed."""
    leader = cluster.wait_until_settled()
    for number in range(3):
        _write(cluster, f"{key}{number}", "old")
    cluster.wait_for_agreement()
    last = leader.status()["applied_index"]
    leader.kill()
    _write(cluster, f"{key}0", "new")
    return leader, _write(cluster, f"{key}3", "new")["index"] - last


def test_a_restarted_node_replays_exactly_what_it_missed(standing: Cluster, key: str):
    """--recover catchup starts at the store's applied index."""
    node, missed = _miss_some(standing, key)

    node.start(recover="catchup")

    assert node.status()["recovery"]["replayed_entries"] == missed
    assert node.read(f"{key}0").body == {"key": f"{key}0", "value": "new"}
    standing.wait_for_agreement()


def test_a_stale_node_says_so_everywhere(standing: Cluster, key: str):
    """--recover stale keeps the old values, marked in every response, and the node is not ready."""
    node, missed = _miss_some(standing, key)

    node.start(recover="stale")
    read = node.read(f"{key}0")
    status = node.status()
    ready = node.request("GET", "/readyz")

    assert read.body == {"key": f"{key}0", "value": "old", "stale": True, "missed_entries": missed}
    assert read.headers["kvlog-stale"] == "true"
    assert read.headers["kvlog-missed-entries"] == str(missed)
    assert (status["stale"], status["missed_entries"], status["ready"]) == (True, missed, False)
    assert status["missed"] == [{"first": status["tail_index"] - missed + 1, "last": status["tail_index"]}]
    assert (ready.status, ready.body["ready"]) == (503, False)
    assert "stale" in ready.body["reason"]
    assert "is ready on" in node.log.read_text()
    assert f"stale store: it has missed {missed} entries" in node.log.read_text()


def test_a_stale_node_takes_what_is_new(standing: Cluster, key: str):
    """New entries are applied behind the gap, deletes and rewrites of what it missed included."""
    node, missed = _miss_some(standing, key)
    node.start(recover="stale")
    standing.wait_until_settled()

    _write(standing, f"{key}0", "newer")

    assert node.read(f"{key}0").body["value"] == "newer"
    assert node.read(f"{key}3").body["value"] == ""
    assert node.status()["missed_entries"] == missed


def test_a_healed_node_has_the_digest_of_the_others(standing: Cluster, key: str):
    """POST /v1/admin/catchup fills the gap under what came later."""
    node, missed = _miss_some(standing, key)
    node.start(recover="stale")
    standing.wait_until_settled()
    _write(standing, f"{key}0", "newer")
    _write(standing, f"{key}1", "newer")

    healed = node.catch_up()

    assert healed.status == 200
    assert f"filled in {missed} missed entries" in healed.body["result"]
    standing.wait_for_agreement()
    assert node.read(f"{key}0").body == {"key": f"{key}0", "value": "newer"}
    assert node.read(f"{key}3").body == {"key": f"{key}3", "value": "new"}
    assert node.status()["ready"]
    assert node.catch_up().body["result"] == "nothing is missing"


def test_a_stale_node_restarted_with_catchup_fills_its_gap(standing: Cluster, key: str):
    """The gap is part of the store, and outlives the process."""
    node, _ = _miss_some(standing, key)
    node.start(recover="stale")
    standing.wait_until_settled()
    _write(standing, f"{key}1", "newer")
    node.kill()

    node.start(recover="catchup")

    standing.wait_for_agreement()
    assert node.read(f"{key}3").body == {"key": f"{key}3", "value": "new"}


def test_a_stale_node_never_leads(standing: Cluster, key: str):
    """N3: with nobody else left there is no leader; writes are refused, and healing makes it electable."""
    node, _ = _miss_some(standing, key)
    node.start(recover="stale")
    for other in standing.nodes:
        if other is not node:
            other.kill()

    refused = node.update(f"{key}0", "x", timeout_s=1)
    healed = node.catch_up()

    assert (refused.status, refused.body["outcome"]) == (503, "refused")
    assert refused.headers["retry-after"] == "1"
    assert healed.status == 200
    assert wait_until(lambda: node.status()["is_leader"], 15)
    assert node.update(f"{key}0", "x").status == 200


def test_a_replay_of_several_segments_comes_out_equal(cluster: Cluster):
    """More entries than one segment holds: the follower moves on to the next segment, and so does the replay."""
    node = cluster.nodes[0]
    node.kill()
    leader = cluster.wait_for_leader()
    fill_segment(cluster, leader)
    for number in range(50):
        assert leader.update(f"key{number}", str(number), ack="log").status == 200

    node.start(recover="catchup")

    assert node.status()["recovery"]["replayed_entries"] >= SEGMENT_ENTRIES
    cluster.wait_for_agreement()
    assert cluster.wait_until_settled().status()["tail_index"] > SEGMENT_ENTRIES


def one_more(cluster: Cluster) -> ClusterNode:
    """Another node of the cluster, which nobody counts on."""
    return ClusterNode(cluster, len(cluster.nodes), *free_ports(1))


def test_a_second_node_on_the_same_data_directory_is_refused(standing: Cluster):
    """F12: one process per data directory, said in one sentence, exit code 3."""
    first, second = standing.nodes[0], one_more(standing)

    second.start(wait=False, flags=("--data-dir", str(first.data_dir)))

    assert second.child.wait(10) == 3
    assert f"data directory {first.data_dir} is in use" in second.log.read_text()


def test_a_second_node_with_the_same_id_is_refused(standing: Cluster):
    """F11, S4: the first keeps running, the second says who has the id, exit code 3."""
    first, second = standing.nodes[0], one_more(standing)

    second.start(wait=False, flags=("--id", first.address))

    assert second.child.wait(10) == 3
    assert f"the id {first.address} is in use by the node at {first.address}" in second.log.read_text()
    assert first.status()["ready"]


def test_a_second_process_on_the_same_port_is_refused(standing: Cluster):
    """Granian would share the port; kvlog does not."""
    first, second = standing.nodes[0], one_more(standing)

    second.start(wait=False, flags=("--port", str(first.port)))

    assert second.child.wait(10) == 3
    assert f"cannot listen on 127.0.0.1:{first.port}" in second.log.read_text()


def test_a_node_killed_and_restarted_at_once_does_not_wait_for_its_old_session(cluster: Cluster):
    """Its former member znode lives on for a session timeout; the new process takes the id over."""
    node = next(node for node in cluster.nodes if not node.status()["is_leader"])

    node.kill()
    node.start()

    cluster.wait_until_settled(timeout_s=5)
    cluster.wait_for_agreement()


def test_the_worker_dies_with_its_supervisor(standing: Cluster):
    """kill -9 of the supervisor leaves nothing behind that still answers."""
    node = standing.nodes[0]

    node.kill()

    assert not node.answers


def test_kill_answers_who_led_and_kills(standing: Cluster):
    """/kill, as in the course: GET and POST, for demonstrations only."""
    leader = standing.wait_until_settled()
    follower = next(node for node in standing.nodes if node is not leader)

    of_follower = follower.request("GET", "/kill")
    of_leader = leader.request("POST", "/kill")

    assert of_follower.body == {"is_leader": False}
    assert of_leader.body == {"is_leader": True}
    assert wait_until(lambda: not (leader.running or follower.running), 10)


def test_a_store_of_another_log_is_refused(make_cluster: Callable[..., Cluster]):
    """The store knows its log: under another root it is not touched, exit code 4."""
    cluster = make_cluster(1)
    node = cluster.nodes[0]
    node.start()
    node.update("key", "value")
    node.terminate()

    node.start(wait=False, flags=("--root", f"{cluster.root}-other"))

    assert node.child.wait(10) == 4
    assert f"there is no log below {cluster.root}-other" in node.log.read_text()
    node.start()
    assert node.read("key").body["value"] == "value"


def test_a_store_is_refused_by_a_log_that_others_made(make_cluster: Callable[..., Cluster]):
    """The same, where the other root holds another cluster's log."""
    cluster = make_cluster(2)
    node, other = cluster.nodes
    node.start()
    node.terminate()
    other.start(flags=("--root", f"{cluster.root}-other"))

    node.start(wait=False, flags=("--root", f"{cluster.root}-other"))

    assert node.child.wait(10) == 4
    assert "but ZooKeeper holds cluster" in node.log.read_text()


def test_writes_through_a_follower_while_nobody_leads_are_refused_in_time(
    leader: ClusterNode, follower: ClusterNode
):
    """A write waits for a leader up to its deadline, then says that it did not happen."""
    leader.pause()
    try:
        answer = follower.update("key", "value", timeout_s=1)
    except Unavailable as error:
        raise AssertionError(f"no answer at all: {error}") from error

    assert answer.status in (503, 504)
    assert answer.body["outcome"] in ("refused", "unknown")
