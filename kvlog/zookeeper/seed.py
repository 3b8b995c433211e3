"""Making a log that begins behind a store, for operators: after a restore, or after ZooKeeper has lost its data.

    with connect(hosts, "/kvlog") as place:
        found = place.find()
        if found is None:
            found = place.create(seed)

What a log was made from stands in its ROOT/cluster: a command that is run again after a crash knows its own work.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from kazoo.client import KazooClient
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    NodeExistsError,
    NoNodeError,
    OperationTimeoutError,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError

from kvlog.core.entry import FORMAT, SEGMENT_ENTRIES, segment_of
from kvlog.core.machine import REQUEST_WINDOW, Identity, Position
from kvlog.errors import CommandFailed, Unavailable, WrongLog, invariant
from kvlog.zookeeper.layout import Layout, last_segment

CONNECT_S = 15.0
"""How long connecting may take: a server that is down costs some of it."""

ANSWER_S = 10.0
"""How long ZooKeeper may take to answer a request."""

STOP_S = 2.0
"""How long closing the session is waited for."""

_NO_ANSWER = (
    ConnectionClosedError,
    ConnectionLoss,
    OperationTimeoutError,
    SessionExpiredError,
    KazooTimeoutError,
)
_SEQUENCE_MODULUS = 1 << 32

T = TypeVar("T")


class SeededCluster(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ROOT/cluster holds, of which nodes leave ``seed`` aside: the name of what the log was made from."""

    cluster_id: str
    format: int
    segment: int
    window: int = REQUEST_WINDOW
    seed: str = ""


class LogData(msgspec.Struct, frozen=True):
    """What ROOT/log holds if the log does not begin at 0: its first index, and the size of all before it."""

    first_index: int = 0
    first_bytes: int = 0


class SegmentData(msgspec.Struct, frozen=True):
    """What a segment holds: the size of all entries before it."""

    log_bytes: int


@dataclass(frozen=True, slots=True)
class Seed:
    """What a new log is made from: a whole store's place in the old one.

    Its first entry will be chained to ``hash``; it begins at ``first_index``, with a segment of its own.
    """

    hash: str
    applied_index: int
    log_bytes: int
    window: int

    @classmethod
    def of(cls, position: Position) -> Seed:
        """The seed that a store is."""
        invariant(not position.gaps, f"a store with gaps cannot begin a log: {position}")
        return cls(position.hash, position.applied_index, position.log_bytes, position.window)

    @property
    def name(self) -> str:
        """What ROOT/cluster says of it."""
        return f"{self.hash}-{self.applied_index}"

    @property
    def first_index(self) -> int:
        """Where the new log begins: at the first segment that the old one had not begun."""
        return (segment_of(self.applied_index) + 1) * SEGMENT_ENTRIES


@dataclass(frozen=True, slots=True)
class FoundLog:
    """A log that is there. ``seed`` is the name of what it was made from, empty if it began with nothing.

    ``empty``: nothing was ever appended to it.
    """

    identity: Identity
    seed: str
    first_index: int
    empty: bool


@contextmanager
def connect(hosts: str, root: str) -> Iterator[Place]:
    """A session with ZooKeeper for as long as the block lasts.

    Raises:
        Unavailable: no server gives a session in time.
    """
    logger = logging.getLogger("kvlog.kazoo")
    logger.setLevel(logging.CRITICAL)  # what matters of it arrives as exceptions
    client = KazooClient(hosts=hosts, timeout=ANSWER_S, logger=logger)
    try:
        client.start(timeout=CONNECT_S)
    except KazooTimeoutError as error:
        raise Unavailable(
            f"ZooKeeper at {hosts} does not answer within {CONNECT_S:g} s: is --zk right, and does a majority of "
            "its servers run?"
        ) from error
    try:
        yield Place(client, hosts, Layout(root))
    finally:
        closing = threading.Thread(target=_close, args=(client,), name="kvlog-zk-stop", daemon=True)
        closing.start()
        closing.join(STOP_S)


def _close(client: KazooClient) -> None:
    client.stop()
    client.close()


class Place:
    """The place below one root where a log is, or may be made."""

    def __init__(self, client: KazooClient, hosts: str, layout: Layout) -> None:
        self._client = client
        self._hosts = hosts
        self._layout = layout

    def find(self) -> FoundLog | None:
        """The log that is there, as a quorum knows it; None if there is none.

        Raises:
            WrongLog: what is there is no log that this version knows.
            CommandFailed: only a part of a log is there.
            Unavailable: ZooKeeper does not answer, or refuses.
        """
        layout = self._layout
        try:
            self._pass_quorum()
            data, _ = self._call(self._client.get_async(layout.cluster))
        except NoNodeError:
            return None
        cluster = _decode(data, SeededCluster, layout.cluster)
        if (cluster.format, cluster.segment) != (FORMAT, SEGMENT_ENTRIES):
            raise WrongLog(
                f"the log at {layout.root} has format {cluster.format} with segments of {cluster.segment} "
                "entries; "
                f"this kvlog knows format {FORMAT} with {SEGMENT_ENTRIES}: use the version that made it"
            )
        try:
            data, stat = self._call(self._client.get_async(layout.log))
            last = last_segment(self._call(self._client.get_children_async(layout.log)))
            _, segment = self._call(self._client.get_async(layout.segment(last or 0)))
        except NoNodeError as error:
            raise CommandFailed(
                f"{layout.cluster} is there, but its log is not whole ({layout.log} or its segments are missing): "
                f"somebody has removed a part of it; if nothing of it is needed, stop all nodes, remove the rest "
                f"with ZooKeeper's `zkCli.sh deleteall {layout.root}`, and run this command again"
            ) from error
        log = _decode(data, LogData, layout.log) if data else LogData()
        # The number of children ever created, as kvlog.zookeeper.log reads it off the znode's counters.
        created = ((segment.cversion % _SEQUENCE_MODULUS) + segment.numChildren) // 2
        empty = (last or 0) * SEGMENT_ENTRIES + created == log.first_index
        identity = Identity(cluster.cluster_id, stat.czxid, cluster.window)
        return FoundLog(identity, cluster.seed, log.first_index, empty)

    def create(self, seed: Seed) -> FoundLog:
        """Make a log that begins behind ``seed``, whole or not at all.

        Raises:
            CommandFailed: something is there already.
            Unavailable: ZooKeeper does not answer, or refuses; the log may have been made all the same: ``find``
                tells.
        """
        layout, first = self._layout, seed.first_index
        cluster = SeededCluster(uuid.uuid4().hex, FORMAT, SEGMENT_ENTRIES, seed.window, seed.name)
        self._call(self._client.ensure_path_async(layout.root))
        transaction = self._client.transaction()
        transaction.create(layout.cluster, msgspec.json.encode(cluster))
        for path in (layout.election, layout.members, f"{layout.root}/replicas"):
            transaction.create(path)
        transaction.create(layout.log, msgspec.json.encode(LogData(first, seed.log_bytes)))
        transaction.create(
            layout.segment(segment_of(first)), msgspec.json.encode(SegmentData(log_bytes=seed.log_bytes))
        )
        results = self._call(transaction.commit_async())
        failed = [result for result in results if isinstance(result, Exception)]
        if any(isinstance(result, NodeExistsError) for result in failed):
            raise CommandFailed(
                f"no log was made: there is something below {layout.root} already, perhaps from a node that was "
                "started meanwhile, or left over from a log that was removed in part; choose another --root, or, "
                f"if nothing of it is needed, stop all nodes, remove it with ZooKeeper's `zkCli.sh deleteall "
                f"{layout.root}`, and run this command again"
            )
        if failed:
            raise Unavailable(f"ZooKeeper at {self._hosts} refuses to make a log at {layout.root}: {failed!r}")
        found = self.find()
        if found is None or found.identity.cluster_id != cluster.cluster_id:
            raise CommandFailed(
                f"the log at {layout.root} was removed as soon as it was made; run this command again"
            )
        return found

    def _pass_quorum(self) -> None:
        """Have a quorum agree that there is a cluster: then this session sees all that was agreed on before.

        Raises:
            NoNodeError: they agree that there is none.
        """
        transaction = self._client.transaction()
        transaction.check(self._layout.cluster, version=-1)
        for result in self._call(transaction.commit_async()):
            if isinstance(result, Exception):
                raise result

    def _call(self, pending: Any) -> Any:
        """The result of an asynchronous request; NoNodeError is for the caller."""
        try:
            return pending.get(timeout=ANSWER_S)
        except NoNodeError:
            raise
        except _NO_ANSWER as error:
            raise Unavailable(
                f"ZooKeeper at {self._hosts} did not answer: {error!r}; once it works, run the same command again"
            ) from error
        except KazooException as error:
            raise Unavailable(f"ZooKeeper at {self._hosts} refuses: {error!r}") from error


def _decode(data: bytes, kind: type[T], path: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise WrongLog(f"{path} was not made by kvlog ({error}): choose another --root") from error
