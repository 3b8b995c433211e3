"""F43, F44: wall clocks that jump, and monotonic clocks that are apart: only what people read is odd."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvlog.cluster import Cluster, ClusterNode, server_command
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports, wait_until
from tests.cluster.history import History, Writers
from tests.cluster.keys import get, put
from tests.faults.odd_clocks import DAY_S

WAIT_S = 20.0
TTL_S = 1.5
ODD_CLOCKS = Path(__file__).with_name("odd_clocks.py")

APART_S = 100_000
"""What the third node's monotonic clocks show more than those of the others."""

ELSEWHERE = ("unshare", "-T", "--boottime", str(APART_S), "--monotonic", str(APART_S))


def command(number: int) -> list[str]:
    """An ordinary node, one whose wall clock jumps, and one in a time namespace of its own."""
    ordinary = server_command(number)
    return [ordinary, [sys.executable, str(ODD_CLOCKS)], [*ELSEWHERE, *ordinary]][number]


@pytest.fixture(scope="module")
def odd(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Cluster]:
    """Three nodes whose clocks have little in common."""
    clock = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME))"
    argv = [*ELSEWHERE, sys.executable, "-c", clock]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=WAIT_S)
    except FileNotFoundError:
        pytest.skip("there is no unshare here: apt-get install util-linux")
    if done.returncode:
        pytest.skip(f"no time namespace can be made here: {done.stderr.strip()}")
    assert float(done.stdout) > time.clock_gettime(time.CLOCK_BOOTTIME) + APART_S / 2
    cluster = Cluster(
        keeper, ensemble.hosts, ports=free_ports(3), root="/test-clocks", session_timeout_s=4, command=command
    )
    cluster.start()
    yield cluster
    for node in cluster.running:
        node.kill()


def make_leader(cluster: Cluster, wanted: ClusterNode) -> None:
    """Let one leader after the other step down until it is this one's turn."""
    for _ in cluster.nodes:
        leader = cluster.wait_until_settled()
        if leader is wanted:
            return
        assert leader.request("POST", "/v1/admin/transfer", timeout_s=WAIT_S).status == 200
    assert cluster.wait_until_settled() is wanted


@pytest.mark.parametrize("number", [1, 2])
def test_clocks_that_jump_or_are_apart_break_no_promise(odd: Cluster, number: int, key: str):
    """F43, F44: led by that node, then by another one: writes, linearizable reads, a lease's whole time."""
    history, leader = History(odd), odd.nodes[number]
    make_leader(odd, leader)
    with Writers(history, odd.nodes, threads=1, once=1):
        before = history.count("committed")
        for round_ in range(10):
            revision = put(odd.nodes[round_ % 3], key, str(round_))
            for node in odd.nodes:
                read = get(node, key, linearizable="true")
                assert (read.status, read.body["revision"]) == (200, revision)
        began = time.monotonic()
        put(odd.nodes[0], f"{key}-lease", "ends", ttl=TTL_S)
        assert wait_until(lambda: get(odd.nodes[0], f"{key}-lease").status == 404, WAIT_S)
        assert TTL_S - 0.1 < time.monotonic() - began < TTL_S + 3.0
        make_leader(odd, odd.nodes[0])
        assert wait_until(lambda: history.count("committed") >= before + 20, WAIT_S)
    odd.wait_for_agreement()

    log = history.check()
    assert all(0 <= node.read(key).body.get("staleness_ms", 0) < 10_000 for node in odd.nodes)
    assert all(int(get(node, key).headers["kvlog-staleness-ms"]) < 10_000 for node in odd.nodes)
    if number == 1:  # the clock was odd, and can be seen to have been
        times = [item.entry.time_ms for item in log]
        assert max(times) - min(times) > DAY_S * 1_000
