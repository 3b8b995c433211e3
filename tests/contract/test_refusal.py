"""A node and a ZooKeeper that do not go together, or not any more: the process ends, and says what to do."""

import re
import resource
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import SEGMENT_ENTRIES
from kvlog.core.machine import Identity
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import Unavailable
from kvlog.processes import ProcessKeeper, wait_until
from kvlog.zookeeper import outage
from kvlog.zookeeper.layout import Layout
from kvlog.zookeeper.outage import Lookout, Sighting
from kvlog.zookeeper.refusal import Refusal

from .conftest import WAIT_S, ZooKeeperNode, ZooKeeperWorld

COMMANDS = (
    "python -m kvlog recover --zk {hosts} --root {root} --data-dir data/n1 [--data-dir DIR...] --start-a-new-log",
    "mv data/n1/store data/n1/store.before",
)


def says_what_to_do(failure: str, node: ZooKeeperNode, *, root: str = "") -> bool:
    """Whether it ends with the commands, for this very node, and with the exit code of WrongLog."""
    commands = (command.format(hosts=node.hosts, root=root or node.layout.root) for command in COMMANDS)
    return failure.startswith("exit 4: ") and all(command in failure for command in commands)


# --- at the start ---------------------------------------------------------------------------------------------


def test_a_log_that_is_not_there_is_refused_with_the_commands(zookeeper_world: ZooKeeperWorld):
    """The store's own cluster is named."""
    node = zookeeper_world.starting("n1", known=Identity("c1", 5))
    failure = node.events.wait_for_failure()

    assert f"there is no log below {zookeeper_world.root}" in failure
    assert "cluster c1 (log 0x5)" in failure
    assert says_what_to_do(failure, node)


def test_a_cluster_without_its_log_is_refused(zookeeper_world: ZooKeeperWorld):
    """Somebody has deleted it: no node makes another one in its place."""
    first = zookeeper_world.node("n1")
    first.session.stop()
    client = zookeeper_world.node("n2").client
    client.delete(first.layout.log, recursive=True)
    node = zookeeper_world.starting("n1")
    failure = node.events.wait_for_failure()

    assert f"{node.layout.cluster} is there, but {node.layout.log} is not" in failure
    assert says_what_to_do(failure, node)


def test_something_else_at_the_root_is_refused(zookeeper_world: ZooKeeperWorld):
    """Another program's znode is not touched."""
    client = KazooClient(hosts=zookeeper_world.ensemble.hosts)
    client.start(timeout=WAIT_S)
    client.create(f"{zookeeper_world.root}/cluster", b"mine", makepath=True)
    client.stop()
    client.close()
    failure = zookeeper_world.starting("n1").events.wait_for_failure()

    assert failure.startswith(f"exit 4: {zookeeper_world.root}/cluster in ZooKeeper at ")
    assert failure.endswith("was not made by kvlog. Choose another --root")


def test_what_is_left_of_a_log_is_not_built_upon(zookeeper_world: ZooKeeperWorld):
    """A node with an empty store neither takes it over nor deletes it."""
    first = zookeeper_world.node("n1")
    first.client.delete(first.layout.cluster)
    failure = zookeeper_world.starting("n2").events.wait_for_failure()

    assert failure.startswith(f"exit 4: there are znodes of a log below {zookeeper_world.root}")
    assert failure.endswith("Delete what is left of it, or choose another --root")
    assert first.client.exists(first.layout.cluster) is None


def test_commands_can_be_pasted_whatever_the_paths():
    """A shell takes them as they are meant."""
    refusal = Refusal("h:1", "/kv log", Path("/var/lib/my data"))
    text = refusal.no_log(Identity("c1", 5))

    assert "--root '/kv log' --data-dir '/var/lib/my data' " in text
    assert "mv '/var/lib/my data/store' '/var/lib/my data/store.before'" in text


# --- the log is harmed under a running node -------------------------------------------------------------------


@pytest.mark.parametrize("confirm", [True, False])
@pytest.mark.parametrize("what", ["the root", "the log", "the cluster"])
def test_a_log_that_disappears_ends_the_node(zookeeper_world: ZooKeeperWorld, what: str, confirm: bool):
    """At the next look at its tail, and with a sentence that says so."""
    node = zookeeper_world.node("n1")
    gone = {"the root": node.layout.root, "the log": node.layout.log, "the cluster": node.layout.cluster}[what]
    node.client.delete(gone, recursive=True)
    if (what, confirm) == ("the cluster", False):
        assert node.tail(confirm=False) == -1  # the log is whole; who confirms its tail finds out
        return
    node.log.read_tail(do.ReadTail(confirm))
    failure = node.events.wait_for_failure()

    assert f"there is no log below {zookeeper_world.root} in ZooKeeper at {node.hosts}" in failure
    assert says_what_to_do(failure, node)


def test_a_log_that_is_made_anew_ends_the_node(zookeeper_world: ZooKeeperWorld):
    """It has the same name, but it is another one."""
    node = zookeeper_world.node("n1")
    node.client.delete(node.layout.log, recursive=True)
    node.client.create(node.layout.segment(0), makepath=True)
    node.log.read_tail(do.ReadTail(confirm=False))
    failure = node.events.wait_for_failure()

    assert "a log that was made anew" in failure
    assert says_what_to_do(failure, node, root="NEW_ROOT")


def test_a_segment_that_was_deleted_by_hand_is_a_hole(zookeeper_world: ZooKeeperWorld):
    """The tail is right, and reading stops there: the core concludes from both that an entry is missing."""
    node = zookeeper_world.node("n1")
    node.fill(2 * SEGMENT_ENTRIES + 3, node.enrolled().name)
    for first in range(SEGMENT_ENTRIES, 2 * SEGMENT_ENTRIES, 50):
        transaction = node.client.transaction()
        for index in range(first, first + 50):
            transaction.delete(node.layout.entry(index))
        transaction.commit()
    node.client.delete(node.layout.segment(1))
    found = node.tail_read()

    assert (found.tail_index, found.first_index) == (2 * SEGMENT_ENTRIES + 2, 0)
    assert node.read(SEGMENT_ENTRIES - 2, 5) == tuple(
        b"%d" % index for index in (SEGMENT_ENTRIES - 2, SEGMENT_ENTRIES - 1)
    )


@pytest.mark.parametrize("trimmed", [False, True])
def test_a_log_without_the_segment_at_which_it_begins_ends_the_node(
    zookeeper_world: ZooKeeperWorld, trimmed: bool
):
    """All segments from there on were deleted by hand: there is no tail to speak of."""
    node = zookeeper_world.node("n1")
    if trimmed:
        fence = node.enrolled().name
        node.fill(SEGMENT_ENTRIES, fence)
        node.trim(SEGMENT_ENTRIES, fence)
    for segment in node.client.get_children(node.layout.log):
        node.client.delete(f"{node.layout.log}/{segment}", recursive=True)
    node.log.read_tail(do.ReadTail(confirm=True))
    failure = node.events.wait_for_failure()

    assert f"the log has no segment {int(trimmed)}: it was deleted or changed by hand" in failure
    assert says_what_to_do(failure, node)


def test_a_log_that_does_not_say_where_it_begins_ends_the_node(zookeeper_world: ZooKeeperWorld):
    """Whatever was written there by hand, no node guesses."""
    node = zookeeper_world.node("n1")
    node.client.set(node.layout.log, b"127.0.0.1")
    assert isinstance(node.trim(SEGMENT_ENTRIES, node.enrolled().name), ev.Failed)
    node.log.read_tail(do.ReadTail(confirm=False))
    failure = node.events.wait_for_failure()

    assert f"{node.layout.log} does not say where the log begins" in failure
    assert says_what_to_do(failure, node)


# --- ZooKeeper is another one when it is back -----------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is without a connection looks soon, and often."""
    monkeypatch.setattr(outage, "LOOK_AFTER_S", 0.0)
    monkeypatch.setattr(outage, "LOOK_EVERY_S", 0.3)
    monkeypatch.setattr(outage, "ANSWER_S", 1.0)


@pytest.fixture
def lone_ensemble(keeper: ProcessKeeper) -> Iterator[LocalEnsemble]:
    """A ZooKeeper of one server, whose data may be taken away."""
    reason = LocalEnsemble.why_not()
    if reason is not None:
        pytest.skip(reason)
    with LocalEnsemble(keeper, size=1) as ensemble:
        yield ensemble


def data_of(ensemble: LocalEnsemble) -> Path:
    """Where its one server keeps its data."""
    return ensemble.servers[0].log.parent / "data" / "version-2"


def replaced(ensemble: LocalEnsemble, change: Callable[[Path], object]) -> None:
    """Stop the server, change its data, start it again."""
    ensemble.servers[0].kill()
    change(data_of(ensemble))
    ensemble.servers[0].start()


@contextmanager
def closing(world: ZooKeeperWorld) -> Iterator[ZooKeeperWorld]:
    try:
        yield world
    finally:
        world.close()


def connected(world: ZooKeeperWorld) -> ZooKeeperNode:
    """A node with a short session, so that it does not wait for long before it looks."""
    node = world.starting("n1", session_timeout_s=2.0)
    node.connected = node.events.wait(ev.SessionConnected)
    return node


def write(node: ZooKeeperNode, count: int) -> None:
    """Move ZooKeeper, and what the node has seen of it, ahead."""
    for _ in range(count):
        node.client.create(f"{node.layout.root}/x-", sequence=True)


@pytest.mark.usefixtures("impatient")
def test_a_zookeeper_that_was_wiped_ends_who_is_connected(lone_ensemble: LocalEnsemble):
    """It refuses whoever has seen newer data, without a word; a fresh client finds no log."""
    with closing(ZooKeeperWorld(lone_ensemble)) as world:
        node = connected(world)
        write(node, 20)
        replaced(lone_ensemble, shutil.rmtree)
        failure = node.events.wait_for_failure()

        assert f"there is no log below {world.root}" in failure
        assert node.connected.identity.cluster_id in failure
        assert says_what_to_do(failure, node)


@pytest.mark.usefixtures("impatient")
def test_another_log_in_a_wiped_zookeeper_ends_who_is_connected(lone_ensemble: LocalEnsemble):
    """A node with an empty store has made it meanwhile."""
    with closing(ZooKeeperWorld(lone_ensemble)) as world:
        node = connected(world)
        write(node, 40)
        lone_ensemble.servers[0].kill()
        shutil.rmtree(data_of(lone_ensemble))
        other = world.starting("n2")
        lone_ensemble.servers[0].start()
        failure = node.events.wait_for_failure()
        made = other.events.wait(ev.SessionConnected).identity

        came_first = "there is no log" in failure
        if not came_first:
            assert f"cluster {made.cluster_id}, but the store in data/n1 belongs to" in failure
        assert says_what_to_do(failure, node, root="" if came_first else "NEW_ROOT")


@pytest.mark.usefixtures("impatient")
def test_a_zookeeper_that_was_restored_from_an_older_copy_ends_who_is_connected(
    lone_ensemble: LocalEnsemble, tmp_path: Path
):
    """It has the same log, but refuses who has seen more of it."""
    with closing(ZooKeeperWorld(lone_ensemble)) as world:
        node = connected(world)
        replaced(lone_ensemble, lambda data: shutil.copytree(data, tmp_path / "older"))
        node.events.wait(ev.SessionSuspended)
        node.events.wait(ev.SessionConnected)
        write(node, 200)

        def restore(data: Path) -> None:
            shutil.rmtree(data)
            shutil.copytree(tmp_path / "older", data)

        replaced(lone_ensemble, restore)
        failure = node.events.wait_for_failure()

        assert "answers others, but refuses this node, which has seen newer data: it was restored" in failure
        assert says_what_to_do(failure, node, root="NEW_ROOT")


@pytest.mark.usefixtures("impatient")
def test_an_outage_ends_nobody(lone_ensemble: LocalEnsemble):
    """Many looks find nobody; when ZooKeeper is back, with what it had, so is the node."""
    with closing(ZooKeeperWorld(lone_ensemble)) as world:
        node = connected(world)
        server = lone_ensemble.servers[0]
        server.kill()
        node.events.wait(ev.SessionSuspended)
        looks: set[threading.Thread] = set()
        assert wait_until(lambda: looks.update(looking()) or len(looks) >= 2, WAIT_S)
        server.start()
        node.events.wait(ev.SessionConnected)

        assert node.tail() == -1
        assert node.events.failures == []


def looking() -> list[threading.Thread]:
    """The look that is under way, if there is one."""
    looks = [thread for thread in threading.enumerate() if thread.name == "kvlog-zk-look"]
    assert len(looks) <= 1
    return looks


def test_a_look_without_descriptors_finds_nothing():
    """It is no reason for the process to end: the next look may have some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(Unavailable, match="cannot be visited"):
            outage.look("127.0.0.1:1", Layout("/nowhere"), answer_s=WAIT_S)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


MINE = Identity("c1", 5)


def test_a_refused_multi_has_passed_a_quorum_too(zookeeper_world: ZooKeeperWorld):
    """It is a transaction, with a zxid of its own: that there is no log is not the word of one server alone."""
    node = zookeeper_world.node("n1")
    sightings = [outage.look(node.hosts, Layout("/nowhere"), answer_s=WAIT_S) for _ in range(2)]
    node.catch_up()
    seen = node.client.last_zxid
    transaction = node.client.transaction()
    transaction.check("/nowhere", version=-1)
    transaction.commit()

    assert [sighting.identity for sighting in sightings] == [None, None]
    assert node.client.last_zxid == seen + 1
    assert outage.look(node.hosts, node.layout, answer_s=WAIT_S).identity == node.connected.identity


@pytest.mark.parametrize(
    ("seen", "zxids", "verdict"),
    [
        (None, [90], "there is no log below"),
        (Identity("c2", 9), [90], "is cluster c2, but"),
        (Identity("c1", 9), [110], "a log that was made anew"),
        (MINE, [99], None),  # once may be a server that lags
        (MINE, [99, 99], "restored from an older copy"),
        (MINE, [99, 101, 99], None),
        (MINE, [101, 102, 103, 104], None),  # others are answered, so the way to them is blocked for this node
    ],
)
def test_a_look_proves_only_what_it_shows(seen: Identity | None, zxids: list[int], verdict: str | None):
    """A zxid below one that was seen, after a quorum has agreed on it, means that data was lost."""
    client = KazooClient(hosts="127.0.0.1:1")
    client.last_zxid = 100
    refusal = Refusal("h:1", "/kvlog", Path("data/n1"))
    lookout = Lookout(client, refusal, known=lambda: MINE, patience_s=1, give_up=lambda _: None)
    found = [lookout.judge(Sighting(seen, zxid)) for zxid in zxids]

    assert found[:-1] == [None] * (len(zxids) - 1)
    assert found[-1] is None if verdict is None else re.search(verdict, found[-1] or "")


# --- kazoo itself ends ----------------------------------------------------------------------------------------


@contextmanager
def confusing_server() -> Iterator[str]:
    """A ZooKeeper that opens a session, and answers the first request with an error that nobody knows."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def packet(connection: socket.socket) -> bytes:
            (length,) = struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))
            return connection.recv(length, socket.MSG_WAITALL)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                packet(connection)
                opened = struct.pack("!iiqi16s?", 0, 4000, 1, 16, b"x" * 16, False)
                connection.sendall(struct.pack("!i", len(opened)) + opened)
                xid = packet(connection)[:4]
                connection.sendall(struct.pack("!i4sqi", 16, xid, 1, -12345))
                connection.recv(1)  # until the client hangs up

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(WAIT_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_connection_thread_that_dies_ends_the_process(zookeeper_world: ZooKeeperWorld):
    """kazoo would never connect again, and never say so: exit code 6, start it again."""
    with confusing_server() as hosts:
        node = zookeeper_world.starting("n1", hosts=hosts)
        failure = node.events.wait_for_failure()

    assert failure.startswith(f"exit 6: the connection to ZooKeeper at {hosts} has ended for good")
    assert failure.endswith("start this node again")


def test_a_session_that_is_stopped_is_not_taken_for_one_that_died(zookeeper_world: ZooKeeperWorld):
    """The watchdog ends with it, and nobody ends the process."""
    node = zookeeper_world.node("n1")
    node.session.stop()
    watchdogs = [thread for thread in threading.enumerate() if thread.name == "kvlog-zk-watchdog"]
    for thread in watchdogs:
        thread.join(2)

    assert node.events.failures == []
