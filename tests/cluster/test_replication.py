"""Writes and reads on every port of a cluster in which nothing goes wrong."""

import os
import signal
import subprocess
from collections.abc import Callable

from kvlog.cluster import Cluster, server_command
from kvlog.processes import wait_until

from .history import read_log


def test_a_read_on_any_port_sees_an_acknowledged_write(standing: Cluster):
    """P3: whoever is named as "applied" in the answer reads the value, whichever node took the write."""
    leader = standing.wait_until_settled()
    seen = 0

    for number in range(60):
        answer = standing.nodes[number % 3].update("key", str(number)).body
        applied = [node_id for node_id, state in answer["replicas"].items() if state == "applied"]
        for address in (leader.address, *applied):
            assert standing.node(address).read("key").body["value"] == str(number)
        seen += len(applied)

    assert seen > 60, "the replicas hardly ever kept up"


def test_a_write_through_a_follower_is_carried_out_by_the_leader(standing: Cluster):
    """The follower forwards it, and hands the leader's answer on."""
    leader = standing.wait_until_settled()
    follower = next(node for node in standing.nodes if node is not leader)

    answer = follower.update("key", "value")

    assert (answer.status, answer.body["status"], answer.body["leader"]) == (200, "updated", leader.address)
    assert answer.headers["kvlog-node"] == follower.address


def test_the_log_is_what_every_node_has_applied(cluster: Cluster):
    """Persistent, dense, chained, in segments; a barrier first, then each update an entry or part of one."""
    for number in range(20):
        assert cluster.nodes[number % 3].update(f"key{number % 4}", str(number), ack="log").status == 200
    cluster.wait_for_agreement()

    log = read_log(cluster)
    status = cluster.nodes[0].status()

    assert log[0].entry.leader is not None
    assert sum(len(item.entry.requests) for item in log) == status["revision"] == 20
    assert (log[-1].index, log[-1].hash) == (status["applied_index"], status["log_hash"])


def test_a_reads_age_stays_below_what_the_poll_allows(standing: Cluster):
    """C5: an idle node looks at the tail once a second, and its reads say so."""
    standing.wait_for_agreement()

    for node in standing.nodes:
        assert wait_until(lambda node=node: int(node.read("key").headers["kvlog-staleness-ms"]) < 2_000, 5)


def test_a_node_prints_one_line_when_it_is_up_and_exits_with_0_on_sigterm(make_cluster: Callable[..., Cluster]):
    """Whoever starts it can wait for that line; everything else goes to stderr."""
    cluster = make_cluster(1)
    node = cluster.nodes[0]
    argv = [*server_command(0), "--port", str(node.port), "--zk", cluster.hosts, "--root", cluster.root]

    process = subprocess.Popen(
        [*argv, "--data-dir", str(node.data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        line = process.stdout.readline()
        assert node.answers
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=15)
    finally:
        process.kill()
        process.wait()

    assert line.startswith(f"kvlog {node.address} is ready on http://{node.address}: leader")
    assert rest == ""
    assert process.returncode == 0
