"""Making a log that begins behind a store, for operators: after a restore, or after ZooKeeper has lost its data.

    with connect(hosts, "/kvlog") as place:
        found = place.find()
        if found is None:
            found = place.create(seed)

What a log was made from stands in its ROOT/cluster: a command that is run again after a crash knows its own work.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError, NoNodeError

from kvlog.core.entry import FORMAT, SEGMENT_ENTRIES, UNREADABLE, segment_of
from kvlog.core.machine import Identity, Position
from kvlog.errors import CommandFailed, Unavailable, WrongLog, invariant
from kvlog.zookeeper.layout import ClusterData, Layout, LogData, SegmentData, children_ever, segments_in
from kvlog.zookeeper.multi import add_log, failure_in
from kvlog.zookeeper.visit import visit

ANSWER_S = 15.0
"""How long connecting may take, and how long ZooKeeper may take to answer a request."""

T = TypeVar("T")


class SeededCluster(ClusterData, frozen=True):
    """What ROOT/cluster holds, and the name of what the log was made from, which nodes leave aside."""

    seed: str = ""


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
        Unavailable: no server gives a session in time, or one does not answer, or refuses.
    """
    try:
        with visit(hosts, answer_s=ANSWER_S) as client:
            yield Place(client, hosts, Layout(root))
    except Unavailable as error:
        raise Unavailable(
            f"{error}; is --zk right, and does a majority of its servers run? Once it works, run the same command "
            "again"
        ) from error


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
            KazooException: ZooKeeper does not answer, or refuses; ``connect`` makes Unavailable of it.
        """
        layout = self._layout
        if not self._quorum_knows_cluster():
            return None
        data, _ = self._call(self._client.get_async(layout.cluster))
        cluster = _decode(data, SeededCluster, layout.cluster)
        if (cluster.format, cluster.segment) != (FORMAT, SEGMENT_ENTRIES):
            raise WrongLog(
                f"the log at {layout.root} has format {cluster.format} with segments of {cluster.segment} "
                f"entries; this kvlog knows format {FORMAT} with {SEGMENT_ENTRIES}: use the version that made it"
            )
        try:
            data, stat = self._call(self._client.get_async(layout.log))
            last = max(segments_in(self._call(self._client.get_children_async(layout.log))), default=0)
            _, segment = self._call(self._client.get_async(layout.segment(last)))
        except NoNodeError as error:
            raise CommandFailed(
                f"{layout.cluster} is there, but its log is not whole ({layout.log} or its segments are missing): "
                f"somebody has removed a part of it; if nothing of it is needed, stop all nodes, remove the rest "
                f"with ZooKeeper's `zkCli.sh deleteall {layout.root}`, and run this command again"
            ) from error
        log = _decode(data, LogData, layout.log) if data else LogData()
        empty = last * SEGMENT_ENTRIES + children_ever(segment) == log.first_index
        identity = Identity(cluster.cluster_id, stat.czxid, cluster.window)
        return FoundLog(identity, cluster.seed, log.first_index, empty)

    def create(self, seed: Seed) -> FoundLog:
        """Make a log that begins behind ``seed``, whole or not at all.

        Raises:
            CommandFailed: something is there already.
            KazooException: ZooKeeper does not answer, or refuses; ``connect`` makes Unavailable of it. The log
                may have been made all the same: ``find`` tells.
        """
        layout, first = self._layout, seed.first_index
        cluster = SeededCluster(uuid.uuid4().hex, FORMAT, SEGMENT_ENTRIES, seed.window, seed.name)
        self._call(self._client.ensure_path_async(layout.root))
        transaction = self._client.transaction()
        add_log(
            transaction,
            layout,
            msgspec.json.encode(cluster),
            log=msgspec.json.encode(LogData(first, seed.log_bytes)),
            first_segment=segment_of(first),
            segment=msgspec.json.encode(SegmentData(log_bytes=seed.log_bytes)),
        )
        failure = failure_in(self._call(transaction.commit_async()))
        if isinstance(failure, NodeExistsError):
            raise CommandFailed(
                f"no log was made: there is something below {layout.root} already, perhaps from a node that was "
                "started meanwhile, or left over from a log that was removed in part; choose another --root, or, "
                f"if nothing of it is needed, stop all nodes, remove it with ZooKeeper's `zkCli.sh deleteall "
                f"{layout.root}`, and run this command again"
            )
        if failure is not None:
            raise failure
        found = self.find()
        if found is None or found.identity.cluster_id != cluster.cluster_id:
            raise CommandFailed(
                f"the log at {layout.root} was removed as soon as it was made; run this command again"
            )
        return found

    def _quorum_knows_cluster(self) -> bool:
        """Whether there is a cluster. A quorum says it: then this session sees all that was agreed on before."""
        transaction = self._client.transaction()
        transaction.check(self._layout.cluster, version=-1)
        failure = failure_in(self._call(transaction.commit_async()))
        if failure is not None and not isinstance(failure, NoNodeError):
            raise failure
        return failure is None

    @staticmethod
    def _call(pending: Any) -> Any:
        """The result of a request. kazoo's exceptions end the visit, but for those that are caught."""
        return pending.get(timeout=ANSWER_S)


def _decode(data: bytes, kind: type[T], path: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise WrongLog(f"{path} was not made by kvlog ({error}): choose another --root") from error
