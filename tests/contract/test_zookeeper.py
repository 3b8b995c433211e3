"""What only the real ZooKeeper adapters promise: how the znodes look, and what happens when it does not answer."""

import dataclasses
import re
import time
import uuid
from itertools import pairwise

import msgspec
import pytest
from kazoo.client import KazooClient
from kazoo.protocol.serialization import CheckVersion, Delete, Transaction
from kazoo.security import make_acl

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import FORMAT, NO_HASH, SEGMENT_ENTRIES, Entry, Skip, encode_entry
from kvlog.core.machine import REQUEST_WINDOW, Identity
from kvlog.core.values import Checkpoint, Holding, Member, Replica
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import wait_until
from kvlog.zookeeper.layout import Layout, entry_index, last_entry, parse_candidate
from kvlog.zookeeper.multi import MULTI_BYTES_MAX, MULTI_DELETIONS_MAX, OPERATION_BYTES, batches
from kvlog.zookeeper.peek import Peek

from .conftest import SESSION_TIMEOUT_S, WAIT_S, ZooKeeperNode, ZooKeeperWorld, bytes_of

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
        "window": REQUEST_WINDOW,
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


@pytest.mark.parametrize("how", ["with all that belongs to it", "for reads"])
def test_a_confirmed_tail_has_passed_a_quorum(zookeeper_world: ZooKeeperWorld, how: str):
    """Each time: it stands behind a transaction of its own. A single server may lag, or be cut off (L1, Q1)."""
    node = zookeeper_world.node("n1")
    zxids = []
    for _ in range(5):
        zxids.append(node.client.last_zxid)
        if how == "for reads":
            node.log.confirm_tail(do.ConfirmTail(0))
            node.events.wait(ev.TailConfirmed)
        else:
            node.tail(confirm=True)

    assert all(earlier < later for earlier, later in pairwise(zxids)), zxids


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


# --- trimming, skips, marks -----------------------------------------------------------------------------------

SEGMENT_BYTES = bytes_of(SEGMENT_ENTRIES)


def test_sizes_and_the_logs_beginning_are_json_in_the_znodes_above_the_entries(zookeeper_world: ZooKeeperWorld):
    """An empty log has none; a segment says how much is before it, and the log where it begins."""
    node = zookeeper_world.node("n1")
    client, layout = node.client, node.layout
    assert [client.get(path)[0] for path in (layout.log, layout.segment(0))] == [b"", b""]
    fence = node.enrolled().name
    node.fill(SEGMENT_ENTRIES, fence)
    node.write_skip(SEGMENT_ENTRIES + 7, b"skip")
    node.trim(SEGMENT_ENTRIES, fence)
    node.publish(Replica("n1", "n1:80", 41, Holding.WHOLE))

    size = {"log_bytes": SEGMENT_BYTES}
    begin = {"first_index": SEGMENT_ENTRIES, "first_bytes": SEGMENT_BYTES}
    mark = {"address": "n1:80", "durable_index": 41, "holding": "whole"}
    for path, data in ((layout.segment(1), size), (layout.log, begin), (layout.replica("n1"), mark)):
        assert msgspec.json.decode(client.get(path)[0]) == data
    assert sorted(client.get_children(layout.log)) == ["0000000001", "skip-0000001007"]


def test_where_the_log_begins_is_noted_before_anything_is_deleted(zookeeper_world: ZooKeeperWorld):
    """If it may not be noted, nothing goes; if nothing may be deleted, it is noted all the same. Both are said."""
    node = zookeeper_world.node("n1")
    client, layout = node.client, node.layout
    fence = node.enrolled().name
    node.fill(SEGMENT_ENTRIES + 1, fence)
    everything, nothing_written = (
        make_acl("world", "anyone", **may) for may in ({"all": True}, {"read": True, "admin": True})
    )

    client.set_acls(layout.log, [nothing_written])
    assert isinstance(node.trim(SEGMENT_ENTRIES, fence), ev.Failed)
    assert "NoAuthError" in node.said.pop()
    assert (node.tail_read().first_index, node.read(0, 1)) == (0, (b"0",))

    client.set_acls(layout.log, [everything])
    client.set_acls(layout.segment(0), [nothing_written])
    assert isinstance(node.trim(SEGMENT_ENTRIES, fence), ev.Failed)
    assert "NoAuthError" in node.said.pop()
    assert (node.tail_read().first_index, node.read(0, 1)) == (SEGMENT_ENTRIES, (b"0",))

    client.set_acls(layout.segment(0), [everything])
    assert node.trim(SEGMENT_ENTRIES, fence) == ev.Trimmed(SEGMENT_ENTRIES, SEGMENT_BYTES, done=True)
    assert node.said == []


def test_a_trim_goes_on_where_another_one_has_ended_within_a_segment(zookeeper_world: ZooKeeperWorld):
    """Whatever is left of the segment is deleted."""
    node = zookeeper_world.node("n1")
    fence = node.enrolled().name
    node.fill(SEGMENT_ENTRIES + 1, fence)
    for index in (0, 1, 50, SEGMENT_ENTRIES - 1):
        node.client.delete(node.layout.entry(index))

    assert node.trim(SEGMENT_ENTRIES, fence) == ev.Trimmed(SEGMENT_ENTRIES, SEGMENT_BYTES, done=True)
    assert node.client.get_children(node.layout.log) == ["0000000001"]
    assert node.tail() == SEGMENT_ENTRIES


def test_stray_znodes_in_a_segment_go_with_it(zookeeper_world: ZooKeeperWorld):
    """With all that is below them; strays beside the segments stay."""
    node = zookeeper_world.node("n1")
    fence = node.enrolled().name
    node.fill(SEGMENT_ENTRIES, fence)
    node.client.create(f"{node.layout.segment(0)}/notes/of/mine", b"x", makepath=True)
    node.client.create(f"{node.layout.log}/notes", b"x")

    assert node.trim(SEGMENT_ENTRIES, fence) == ev.Trimmed(SEGMENT_ENTRIES, SEGMENT_BYTES, done=True)
    assert sorted(node.client.get_children(node.layout.log)) == ["0000000001", "notes"]


def test_a_segment_that_does_not_say_its_size_is_no_beginning(zookeeper_world: ZooKeeperWorld):
    """What is before it would be counted wrong for ever: refused, and said."""
    node = zookeeper_world.node("n1")
    fence = node.enrolled().name
    node.fill(SEGMENT_ENTRIES, fence)
    node.client.set(node.layout.segment(1), b"")

    assert isinstance(node.trim(SEGMENT_ENTRIES, fence), ev.Failed)
    assert node.layout.segment(1) in node.said.pop()
    assert (node.tail_read().first_index, node.read(0, 1)) == (0, (b"0",))


def test_a_trim_below_a_long_root_fits_into_zookeepers_packets(ensemble: LocalEnsemble):
    """200 of these paths are more than ZooKeeper takes at a time: it would drop the connection."""
    world = ZooKeeperWorld(ensemble, root=f"/contract-{uuid.uuid4().hex[:8]}{'x' * 6_000}")
    try:
        node = world.node("n1")
        fence = node.enrolled().name
        node.fill(SEGMENT_ENTRIES, fence)

        assert node.trim(SEGMENT_ENTRIES, fence) == ev.Trimmed(SEGMENT_ENTRIES, SEGMENT_BYTES, done=True)
        assert node.events.count(ev.SessionSuspended) == 0
    finally:
        world.close()


@pytest.mark.parametrize("length", [1, 40, 2_500, 6_000, 300_000])
def test_a_multi_is_bounded_in_bytes_and_in_deletions(length: int):
    """All paths are deleted, in order, and a path beyond all bounds goes alone."""
    paths = [f"/{number:03d}{'ä' * (length // 2)}" for number in range(450)]
    fence = f"{paths[0]}/fence"

    def size(batch: list[str]) -> int:
        operations = [CheckVersion(fence, -1), *(Delete(path, -1) for path in batch)]
        return len(Transaction(operations).serialize())

    found = list(batches(fence, paths))

    assert [path for batch in found for path in batch] == paths
    assert max(map(len, found)) <= MULTI_DELETIONS_MAX
    assert all(size(batch) <= MULTI_BYTES_MAX for batch in found if len(batch) > 1)
    for batch, following in pairwise(found):  # none is smaller than it has to be
        slack = (len(batch) + 2) * OPERATION_BYTES
        assert len(batch) == MULTI_DELETIONS_MAX or size([*batch, following[0]]) > MULTI_BYTES_MAX - slack


def test_a_skip_stands_for_an_entry_that_is_not_there(zookeeper_world: ZooKeeperWorld):
    """Somebody has deleted it; what is behind it is read again."""
    node = zookeeper_world.node("n1")
    node.fill(4, node.enrolled().name)
    node.client.delete(node.layout.entry(2))
    assert node.read(0, 4) == (b"0", b"1")
    node.write_skip(2, b"skip")

    assert node.read(0, 4) == (b"0", b"1", b"skip", b"3")


def test_a_mark_of_an_earlier_life_never_covers_a_later_one(zookeeper_world: ZooKeeperWorld):
    """What a dead process sent last may arrive late: its store may be lost, and its mark would license a trim."""
    before, after = zookeeper_world.node("n1"), zookeeper_world.node("n1")
    before.publish(Replica("n1", "n1:80", 8, Holding.WHOLE))
    after.publish(Replica("n1", "n1:80", -1, Holding.INSTALLING))
    late = do.PublishMark(Replica("n1", "n1:80", 9, Holding.WHOLE))
    before.election.publish_mark(late)

    assert before.events.wait(ev.Failed).effect == late
    assert after.replicas() == (Replica("n1", "n1:80", -1, Holding.INSTALLING, 1),)
    after.publish(Replica("n1", "n1:80", 3, Holding.WHOLE))


def test_a_foreign_znode_among_the_replicas_is_none(zookeeper_world: ZooKeeperWorld):
    """Whatever it holds: nobody counts on it, and those that are replicas are listed."""
    node = zookeeper_world.node("n1")
    mark = Replica("n1", "n1:80", 3, Holding.WHOLE)
    node.publish(mark)
    for name, data in (("a", b""), ("b", b"{}"), ("z", b'{"address":"z:80","durable_index":1,"holding":"?"}')):
        node.client.create(f"{node.layout.replicas}/{name}", data)

    assert node.replicas() == (mark,)


def test_a_mark_of_a_node_that_publishes_no_checkpoints_is_one(zookeeper_world: ZooKeeperWorld):
    """As earlier versions wrote it; and they read what this one writes, as far as they know it."""
    node = zookeeper_world.node("n1")
    mark = Replica("n1", "n1:80", 3, Holding.WHOLE)
    earlier = b'{"address":"n1:80","durable_index":3,"holding":"whole"}'
    node.client.create(f"{node.layout.replicas}/n1", earlier)

    assert node.replicas() == (mark,)
    assert node.replicas()[0].checkpoints == ()
    node.publish(dataclasses.replace(mark, checkpoints=(Checkpoint(3, "a", "1.b"),)))
    data, _ = node.client.get(f"{node.layout.replicas}/n1")
    assert data == earlier.replace(b"}", b',"checkpoints":[{"index":3,"hash":"a","digest":"1.b"}]}')


def test_a_log_that_was_made_without_replicas_gets_them(zookeeper_world: ZooKeeperWorld):
    """The first mark makes their znode; until then there is nobody."""
    node = zookeeper_world.node("n1")
    node.client.delete(node.layout.replicas)
    assert node.replicas() == ()
    marks = tuple(Replica(name, f"{name}:80", 3, Holding.WHOLE) for name in ("n1", "n2"))
    for mark in marks:
        node.publish(mark)

    assert node.replicas() == marks


def test_a_mark_is_persistent(zookeeper_world: ZooKeeperWorld):
    """It licenses trimming, so it must outlive the session."""
    node = zookeeper_world.node("n1")
    node.publish(Replica("n1", "n1:80", 3, Holding.WHOLE))
    stat = node.client.exists(node.layout.replica("n1"))

    assert stat is not None
    assert stat.ephemeralOwner == 0


def test_whoever_makes_the_log_says_for_how_long_requests_are_remembered(zookeeper_world: ZooKeeperWorld):
    """All others take it from there, whatever they are set to."""
    first = zookeeper_world.starting("n1", window=7).events.wait(ev.SessionConnected)
    second = zookeeper_world.starting("n2", window=8).events.wait(ev.SessionConnected)

    assert first.identity == second.identity
    assert first.identity.window == 7


def test_a_log_that_does_not_say_for_how_long_has_the_usual_window(zookeeper_world: ZooKeeperWorld):
    """It was made before there was one."""
    node = zookeeper_world.node("n1")
    cluster = msgspec.json.decode(node.client.get(node.layout.cluster)[0])
    del cluster["window"]
    node.client.set(node.layout.cluster, msgspec.json.encode(cluster))

    assert zookeeper_world.node("n2").connected.identity == node.connected.identity


# --- a look for people ----------------------------------------------------------------------------------------


def _entry(index: int, skip: Skip | None = None) -> bytes:
    return encode_entry(Entry(FORMAT, 1, f"b-{index}", NO_HASH, 1, 0, skip=skip))


def test_the_last_entries_are_shown_of_a_log_that_was_trimmed_and_has_skips(zookeeper_world: ZooKeeperWorld):
    """None from before its beginning, across segments, and a skip instead of its entry."""
    node = zookeeper_world.node("n1")
    fence = node.enrolled().name
    node.fill(SEGMENT_ENTRIES - 2, fence)
    for index in range(SEGMENT_ENTRIES - 2, SEGMENT_ENTRIES + 3):
        node.append(index, _entry(index), fence)
    node.write_skip(SEGMENT_ENTRIES + 1, _entry(0, Skip("damaged", "")))
    node.client.create(f"{node.layout.log}/notes", b"x")
    peek = Peek(node.hosts, zookeeper_world.root)
    across = peek.last_entries(4)
    node.trim(SEGMENT_ENTRIES, fence)
    trimmed = peek.last_entries(4)

    assert [entry.index for entry in across] == list(range(SEGMENT_ENTRIES - 1, SEGMENT_ENTRIES + 3))
    assert [entry.index for entry in trimmed] == list(range(SEGMENT_ENTRIES, SEGMENT_ENTRIES + 3))
    assert trimmed[1].says == ["skipped: damaged"]
    assert trimmed[1].path == node.layout.skip(SEGMENT_ENTRIES + 1)


def test_a_log_that_was_trimmed_to_its_end_shows_nothing(zookeeper_world: ZooKeeperWorld):
    """Nor does one half of which is still to be deleted show what is not of the log any more."""
    node = zookeeper_world.node("n1")
    fence = node.enrolled().name
    node.fill(2 * SEGMENT_ENTRIES, fence)
    node.trim(2 * SEGMENT_ENTRIES, fence)

    assert Peek(node.hosts, zookeeper_world.root).last_entries(5) == []


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
        (node.election.publish_mark, do.PublishMark(Replica("n1", "n1:80", 0, Holding.WHOLE))),
        (node.election.list_replicas, do.ListReplicas()),
        (node.election.remove_replica, do.RemoveReplica("n9")),
        (node.log.trim, do.Trim(fence, 0)),
        (node.log.write_skip, do.WriteSkip(0, b"x")),
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


def test_a_refusal_that_goes_on_is_not_said_each_time(zookeeper_world: ZooKeeperWorld):
    """What is refused is tried again and again: the log of a node is not filled with that."""
    node = zookeeper_world.node("n1")
    node.client.set_acls(node.layout.election, [make_acl("world", "anyone", read=True, admin=True)])
    for _ in range(20):
        node.election.enrol(do.Enrol())
        node.events.wait(ev.Failed)

    assert node.said == ["ZooKeeper refused Enrol: NoAuthError()"] * 3


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
    assert "Nothing was touched" in failure
    assert node.client.exists(zookeeper_world.root) is None
