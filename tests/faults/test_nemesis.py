"""Each kind of fault on a real arena: it is injected and healed, and the cluster gets over it in its time.

Some run always, and are healed soon; with KVLOG_FAULTS=all, all do. KVLOG_SEED=n draws them in another way.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, wait_until
from tests.cluster.ledger import Ledger, small_segments
from tests.faults.arena import Arena
from tests.faults.nemesis import FAULTS
from tests.faults.nemesis.zookeeper import close_session, password
from tests.faults.rules import BLACKHOLE

QUICK = (
    "kill-leader",
    "restart-stale",
    "kill-zk-of-leader",
    "expire-session",
    "zk-reply-lost",
    "zk-hold",
    "forward-reply-lost",
    "push-duplicate",
    "push-reorder",
    "isolate-peers",
    "snapshot-cut",
    "disk-full",
)
SEED = os.environ.get("KVLOG_SEED", "1")
ALL = os.environ.get("KVLOG_FAULTS") == "all"
WAIT_S = 20.0


@pytest.fixture(scope="module")
def arena(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Arena]:
    """With a log that is trimmed soon, and stores on small disks."""
    command = small_segments("--retain", "100")
    with Arena(keeper=keeper, ensemble=ensemble, command=command, disk_mib=64) as arena:
        yield arena


@pytest.fixture
def well(arena: Arena) -> Iterator[Arena]:
    """The same, well; whatever a test leaves of its fault is healed afterwards."""
    arena.wait_until_well()
    yield arena
    arena.heal_all()


@pytest.mark.parametrize("name", list(FAULTS) if ALL else QUICK)
def test_a_cluster_gets_over_a_fault(well: Arena, name: str):
    """Writers go on while it lasts; soon after it was healed, each node takes a write; what was promised holds."""
    kind = FAULTS[name]
    if reason := kind.why_not(well):
        pytest.skip(reason)
    fault, ledger, draw = kind(), Ledger(name), random.Random(f"{SEED} {name}")
    exits, counts = len(well.exits), sum((proxy.counts for proxy in well.proxies), Counter())
    with ledger.writing(well.cluster):
        what = fault.inject(well, draw)
        print(what)
        threading.Event().wait(draw.uniform(*fault.lasts_s) if ALL else fault.lasts_s[0])
        for _ in range(2):  # the second time there is nothing left to do
            fault.heal(well)
        well.wait_until_well(fault.settles_s)
        for node in well.nodes:
            assert ledger.write(node) == "committed", f"{what}: {node.address} takes no write afterwards"
    ledger.check_all(well.cluster)
    print(f"{len(ledger.acknowledged)} acknowledged, {len(ledger.refused)} refused; {well.exits[exits:]}")
    print(sum((proxy.counts for proxy in well.proxies), Counter()) - counts)


# --- what faults stand on -------------------------------------------------------------------------------------


def test_all_that_nodes_say_goes_through_the_proxies(well: Arena):
    """Pushes and forwarded writes come through the doors, the log through the ways; clients ask the nodes."""
    before = {proxy: proxy.counts["bytes"] for proxy in well.proxies}
    leader, *_ = [well.wait_until_well()]
    for node in well.nodes:
        assert node.update("key", "value").status == 200
    carried = {proxy for proxy in well.proxies if proxy.counts["bytes"] > before[proxy]}

    assert carried >= set(well.doors.values())
    assert carried & set(well.ways[leader])
    assert all(well.server_of(node) in well.servers for node in well.nodes)


def test_a_nodes_connections_are_told_from_those_of_others(well: Arena):
    """What the leader says to a follower does not come; what the other one says does."""
    leader = well.wait_until_well()
    follower, other = well.followers()
    well.doors[follower].set(BLACKHOLE, of=well.comes_from(leader))

    def is_pushed_to() -> bool:
        assert leader.update("key", "value", ack="log").status == 200
        members = leader.status()["members"]
        return any(each["address"] == follower.advertised and each.get("push") == "applied" for each in members)

    assert wait_until(lambda: not is_pushed_to(), WAIT_S)
    well.doors[follower].set(BLACKHOLE, of=well.comes_from(other))
    assert wait_until(is_pushed_to, WAIT_S)


def test_the_password_of_a_session_is_known(well: Arena):
    """As ZooKeeper makes it; with it, a session is ended that is in use."""
    with well.zookeeper() as client:
        session_id, told = client.client_id
        assert password(session_id) == told
        lost = threading.Event()
        client.add_listener(lambda state: lost.set() if state == "LOST" else None)
        assert any(close_session(server, session_id) for server in well.servers)
        assert lost.wait(WAIT_S)


def test_what_an_arena_holds_is_counted(well: Arena):
    """Threads, descriptors, memory, sessions and znodes, of all nodes and servers."""
    first, second = well.resources(), well.resources()

    assert [each.name for each in first.nodes] == [node.address for node in well.nodes]
    assert all(each.processes == 2 and each.threads > 10 and each.rss_kib > 10_000 for each in first.nodes)
    assert len(first.servers) == 3
    assert first.sessions >= first.connections >= 3
    assert first.znodes > 10
    assert first.watches > 3
    assert first.ephemerals >= 6
    assert [each.descriptors for each in first.nodes] == [each.descriptors for each in second.nodes]
