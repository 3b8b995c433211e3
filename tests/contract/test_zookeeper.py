"""What only the real ZooKeeper adapters promise: how the znodes look, and what happens when it does not answer."""

import re
import time

import msgspec
import pytest
from kazoo.client import KazooClient

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import FORMAT, SEGMENT_ENTRIES
from kvlog.core.machine import Identity
from kvlog.core.values import Member
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import wait_until
from kvlog.zookeeper.layout import Layout, entry_index, last_entry, parse_candidate

from .conftest import SESSION_TIMEOUT_S, WAIT_S, ZooKeeperNode, ZooKeeperWorld

# --- the znodes -----------------------------------------------------------------------------------------------


def test_entries_are_persistent_and_named_by_their_numbers(zookeeper_world: ZooKeeperWorld):
    """log/<segment>/entry-NNNNNNNNNN, 1,000 at most in a segment, none of them ephemeral."""
    node = zookeeper_world.node("n1")
    node.fill(SEGMENT_ENTRIES + 2, node.enrolled().name)
    client, layout = node.client, node.layout
    segments = sorted(client.get_children(layout.log))
    names = [sorted(client.get_children(f"{layout.log}/{segment}")) for segment in segments]

    assert segments == ["0000000000", "0000000001"]
    assert [len(entries) for entries in names] == [SEGMENT_ENTRIES, 2]
    assert [f"entry-{number:010d}" for number in range(SEGMENT_ENTRIES)] == names[0]
    for index in (0, SEGMENT_ENTRIES - 1, SEGMENT_ENTRIES):
        stat = client.exists(layout.entry(index))
        assert stat is not None
        assert stat.ephemeralOwner == 0


def test_the_cluster_is_described_once(zookeeper_world: ZooKeeperWorld):
    """Whoever comes first writes the identity; all later nodes, and later sessions, find the same one."""
    first, second = zookeeper_world.node("n1"), zookeeper_world.node("n2")
    data, _ = first.client.get(first.layout.cluster)
    log = first.client.exists(first.layout.log)

    assert {name: value for name, value in msgspec.json.decode(data).items() if name != "cluster_id"} == {
        "format": FORMAT,
        "segment": SEGMENT_ENTRIES,
    }
    assert first.connected.identity == second.connected.identity
    assert log is not None
    assert log.czxid == first.connected.identity.log_czxid


def test_an_epoch_is_the_czxid_of_the_candidates_znode(zookeeper_world: ZooKeeperWorld):
    """ZooKeeper's own order of transactions is the order of epochs."""
    node = zookeeper_world.node("n1")
    enrolled = node.enrolled()
    stat = node.client.exists(node.layout.candidate(enrolled.name))

    assert stat is not None
    assert (stat.czxid, stat.ephemeralOwner) == (enrolled.epoch, node.session_id)


def test_the_tail_is_right_whatever_came_and_went(zookeeper_world: ZooKeeperWorld):
    """It is told by one znode's counters: failed multis and deleted entries do not disturb it."""
    node, other = zookeeper_world.node("n1"), zookeeper_world.node("n2")
    fence = node.enrolled().name
    node.fill(5, fence)
    for _ in range(3):
        assert isinstance(other.append(5, b"x", "n9_abc_0000000009"), ev.AppendFenced)
    for index in (0, 1):
        node.client.delete(node.layout.entry(index))
    node.client.create(f"{node.layout.root}/elsewhere", b"x")
    node.client.delete(f"{node.layout.root}/elsewhere")
    assert (node.tail(), other.tail()) == (4, 4)
    node.fill(6, fence)

    assert (node.tail(), other.tail()) == (5, 5)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("n1_abc_0000000007", ("n1", "abc", 7)),
        ("a_b:80_0f_0000000000", ("a_b:80", "0f", 0)),
        ("n1_abc_007", None),
        ("n1__0000000007", None),
        ("lock-0000000007", None),
    ],
)
def test_a_candidates_name_says_who_it_is(name: str, parts: tuple[str, str, int] | None):
    """Node, instance and sequence number; what is none is not taken for one."""
    assert parts == parse_candidate(name)


@pytest.mark.parametrize("index", [0, 999, 1_000, 123_456_789])
def test_an_index_is_a_path_and_a_path_an_index(index: int):
    """There and back."""
    layout = Layout("/some/root")

    assert index == entry_index(layout.entry(index))
    assert re.fullmatch(r"/some/root/log/\d{10}/entry-0000000\d{3}", layout.entry(index))


def test_a_stray_child_is_no_entry():
    """What is not named like an entry is not counted as one."""
    assert last_entry(2, ["entry-0000000003", "lock", "entry-4"]) == 2_003
    assert last_entry(2, ["lock"]) is None


def test_a_stray_znode_beside_the_segments_does_not_break_the_tail(zookeeper_world: ZooKeeperWorld):
    """An operator's leftover under the log is not an entry, nor a bug of kvlog."""
    node = zookeeper_world.node("n1")
    node.fill(2, node.enrolled().name)
    node.client.create(f"{node.layout.log}/note-to-self", b"")

    assert node.tail() == 1


# --- sessions -------------------------------------------------------------------------------------------------


def test_an_expired_session_is_reported_as_suspended_lost_and_connected_anew(zookeeper_world: ZooKeeperWorld):
    """In this order; the new session has another id."""
    node = zookeeper_world.node("n1")
    before = node.session_id
    node.joined()
    node.expire()
    node.events.wait(ev.SessionSuspended)
    node.events.wait(ev.SessionLost)
    connected = node.events.wait(ev.SessionConnected, lambda event: event.session_id != before)

    assert connected.session_id == node.session_id
    assert node.connected.identity == connected.identity
    assert node.members() == ()


def test_a_stopped_session_leaves_nothing(zookeeper_world: ZooKeeperWorld):
    """Closing removes the ephemeral znodes at once, not after the session timeout."""
    node, other = zookeeper_world.node("n1"), zookeeper_world.node("n2")
    node.joined()
    node.enrolled()
    begin = time.monotonic()
    node.session.stop()

    assert wait_until(lambda: other.members() == () == other.candidates(), SESSION_TIMEOUT_S / 2)
    assert time.monotonic() - begin < SESSION_TIMEOUT_S / 2


def test_every_request_is_answered_while_zookeeper_is_away(
    zookeeper_world: ZooKeeperWorld, ensemble: LocalEnsemble
):
    """All servers stand still: within the call timeout each request fails; afterwards everything works."""
    node = zookeeper_world.node("n1")
    fence = node.enrolled().name
    node.fill(1, fence)
    me = Member("n9", "dead", "n9:80", "catchup")
    requests: list[tuple] = [
        (node.log.read_tail, do.ReadTail(confirm=True)),
        (node.log.read_tail, do.ReadTail(confirm=False)),
        (node.log.read_entries, do.ReadEntries(0, 100)),
        (node.election.join, do.Join("catchup")),
        (node.election.remove_member, do.RemoveMember(me)),
        (node.election.list_members, do.ListMembers()),
        (node.election.enrol, do.Enrol()),
        (node.election.list_candidates, do.ListCandidates()),
        (node.election.watch_candidate, do.WatchCandidate("n9_abc_0000000009")),
        (node.election.remove_candidate, do.RemoveCandidate("n9_abc_0000000009")),
    ]
    for server in ensemble.servers:
        server.pause()
    try:
        begin = time.monotonic()
        node.log.append(do.Append(fence, "lost", 1, b"x"))
        for carry_out, effect in requests:
            carry_out(effect)
        for _, effect in requests:
            node.events.wait(ev.Failed, lambda event, effect=effect: event.effect == effect)  # type: ignore[misc]
        node.events.wait(ev.AppendUnknown)
        seconds = time.monotonic() - begin
        node.events.wait(ev.SessionSuspended)
        node.log.append(do.Append(fence, "not even sent", 1, b"x"))  # without a connection: at once
        node.events.wait(ev.AppendUnknown, timeout_s=1)
    finally:
        for server in ensemble.servers:
            server.resume()
        assert wait_until(lambda: all(server.mode() for server in ensemble.servers), 60)

    assert seconds < SESSION_TIMEOUT_S + 1
    node.events.wait(ev.SessionConnected, timeout_s=30)
    assert wait_until(lambda: _answers(node), WAIT_S)


def _answers(node: ZooKeeperNode) -> bool:
    node.log.read_tail(do.ReadTail(confirm=True))
    found = node.events.wait(ev.TailRead | ev.Failed)  # type: ignore[arg-type]
    return isinstance(found, ev.TailRead) and found.tail_index in (0, 1)


def test_a_log_of_another_format_is_refused(zookeeper_world: ZooKeeperWorld, ensemble: LocalEnsemble):
    """A newer kvlog's log is not touched: the process ends with code 4."""
    client = KazooClient(hosts=ensemble.hosts)
    client.start(timeout=WAIT_S)
    layout = Layout(zookeeper_world.root)
    client.create(layout.cluster, b'{"cluster_id":"c","format":9,"segment":1000}', makepath=True)
    client.create(layout.log)
    client.stop()
    client.close()
    failure = zookeeper_world.starting("n1").events.wait_for_failure()

    assert failure.startswith("exit 4: the log at")
    assert "has format 9 with segments of 1000 entries" in failure


def test_who_knows_its_log_makes_no_new_one(zookeeper_world: ZooKeeperWorld, ensemble: LocalEnsemble):
    """A store of a log that is not there: nothing is made in its place, the process ends with code 4."""
    node = zookeeper_world.starting("n1", known=Identity("c1", 5))
    failure = node.events.wait_for_failure()

    assert failure.startswith("exit 4: ")
    assert "nothing was" in failure
    assert node.client.exists(zookeeper_world.root) is None
