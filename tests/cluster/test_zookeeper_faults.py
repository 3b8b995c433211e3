"""ZooKeeper loses a server, or its quorum: nothing is lost, and all goes on when it is back."""

import time

from kvlog.cluster import Cluster
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import wait_until

from .history import History, Writers


def test_losing_one_server_loses_nothing(fragile_ensemble: LocalEnsemble, standing: Cluster):
    """F15: kill -9 of ZooKeeper's own leader, under writes."""
    history = History(standing)
    server = next(server for server in fragile_ensemble.servers if server.mode() == "leader")

    with Writers(history, standing.nodes):
        assert wait_until(lambda: history.count("committed") >= 20, 10)
        server.kill()
        before = history.count("committed")
        assert wait_until(lambda: history.count("committed") >= before + 20, 30), standing.describe()
        server.start()
    standing.wait_for_agreement()

    history.check()


def test_losing_the_quorum_refuses_writes_and_keeps_reads(fragile_ensemble: LocalEnsemble, standing: Cluster):
    """F16: each write is answered by its deadline, reads go on with their age, and all of it comes back."""
    history = History(standing)
    node = standing.nodes[0]
    assert node.update("key", "value").status == 200
    standing.wait_for_agreement()

    for server in fragile_ensemble.servers[:2]:
        server.pause()
    assert wait_until(lambda: node.request("GET", "/readyz").status == 503, 15)
    started_at = time.monotonic()
    outcomes = {history.write(node, timeout_s=1).outcome for node in standing.nodes}
    took = time.monotonic() - started_at
    read = node.read("key")
    for server in fragile_ensemble.servers[:2]:
        server.resume()

    assert outcomes <= {"refused", "unknown"}
    assert took < 3 * (1 + 1.5)
    assert read.body["value"] == "value"
    assert int(read.headers["kvlog-staleness-ms"]) > 0
    for node in standing.nodes:
        assert wait_until(lambda node=node: history.write(node).outcome == "committed", 30), standing.describe()
    standing.wait_for_agreement()
    history.check()


def test_a_node_starts_before_zookeeper_and_serves_what_it_has(fragile_ensemble: LocalEnsemble, standing: Cluster):
    """Without ZooKeeper a restarted node answers reads from its store, is not ready, and joins later."""
    node = standing.nodes[0]
    assert node.update("key", "value").status == 200
    standing.wait_for_agreement()
    node.kill()
    for server in fragile_ensemble.servers:
        server.pause()

    node.start(wait=False)
    assert wait_until(lambda: node.answers, 10)
    read, ready = node.read("key"), node.request("GET", "/readyz")
    for server in fragile_ensemble.servers:
        server.resume()

    assert read.body["value"] == "value"
    assert read.headers["kvlog-staleness-ms"] == "unknown"
    assert ready.status == 503
    assert wait_until(lambda: node.request("GET", "/readyz").status == 200, 30), standing.describe()
