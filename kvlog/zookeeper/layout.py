"""Where kvlog keeps what in ZooKeeper, and how the znodes are named.

ROOT/cluster                               identity, and what is fixed for the cluster: written once
ROOT/election/<node-id>_<instance>_NNNNNNNNNN   candidates: ephemeral, sequential
ROOT/members/<node-id>                     nodes that are up: ephemeral
ROOT/replicas/<node-id>                    nodes that are counted on, with what they hold durably: persistent
ROOT/log                                   where the log begins; empty: at entry 0
ROOT/log/<segment>                         the size of all entries before the segment; empty in the first one
ROOT/log/<segment>/entry-NNNNNNNNNN        the entries: persistent, sequential, 1,000 to a segment
ROOT/log/skip-NNNNNNNNNN                   stands for the entry of that index: persistent

All data but that of the entries is a JSON object.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kvlog.core.entry import SEGMENT_ENTRIES, segment_of
from kvlog.core.machine import REQUEST_WINDOW
from kvlog.core.values import Checkpoint, Holding

_CANDIDATE = re.compile(r"(?P<node_id>.+)_(?P<instance>[0-9a-f]+)_(?P<sequence>-?[0-9]{10})")
_SEGMENT = re.compile(r"[0-9]{10}")
_ENTRY = re.compile(r"entry-([0-9]{10})")
_SEQUENCE_MODULUS = 1 << 32
_SKIP = re.compile(r"skip-([0-9]{10,})")


class ClusterData(msgspec.Struct, frozen=True):
    """What ROOT/cluster holds: a random id, the format of the log, and its segments' size in entries.

    ``window``: for how many revisions requests are remembered.
    """

    cluster_id: str
    format: int
    segment: int
    window: int = REQUEST_WINDOW


class LogData(msgspec.Struct, frozen=True):
    """What ROOT/log holds: where the log begins, and the size of all entries before."""

    first_index: int = 0
    first_bytes: int = 0


class SegmentData(msgspec.Struct, frozen=True):
    """What a segment's znode holds: the size of all entries before it, those that were trimmed included."""

    log_bytes: int


class ReplicaData(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a replica's znode holds: see values.Replica."""

    address: str
    durable_index: int
    holding: Holding
    checkpoints: tuple[Checkpoint, ...] = ()


class MemberData(msgspec.Struct, frozen=True):
    """What a member's znode holds. ``started_ms``: wall clock at its process's start, for people."""

    address: str
    instance: str
    mode: str
    started_ms: int


class CandidateData(msgspec.Struct, frozen=True):
    """What a candidate's znode holds."""

    address: str
    node_id: str


class Layout:
    """Paths below one root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.cluster = f"{root}/cluster"
        self.election = f"{root}/election"
        self.members = f"{root}/members"
        self.replicas = f"{root}/replicas"
        self.log = f"{root}/log"

    def segment(self, number: int) -> str:
        """Path of a segment."""
        return f"{self.log}/{number:010d}"

    def entry(self, index: int) -> str:
        """Path of the entry at ``index``."""
        return f"{self.segment(segment_of(index))}/entry-{index % SEGMENT_ENTRIES:010d}"

    def entry_prefix(self, segment: int) -> str:
        """What ZooKeeper appends the sequence number to. Never ends in a slash: kazoo would drop it."""
        return f"{self.segment(segment)}/entry-"

    def skip(self, index: int) -> str:
        """Path of what stands for the entry at ``index``."""
        return f"{self.log}/skip-{index:010d}"

    def candidate(self, name: str) -> str:
        """Path of a candidate."""
        return f"{self.election}/{name}"

    def candidate_prefix(self, node_id: str, instance: str) -> str:
        """What ZooKeeper appends the sequence number to."""
        return f"{self.election}/{node_id}_{instance}_"

    def member(self, node_id: str) -> str:
        """Path of a member."""
        return f"{self.members}/{node_id}"

    def replica(self, node_id: str) -> str:
        """Path of a replica."""
        return f"{self.replicas}/{node_id}"


def entry_index(path: str) -> int:
    """The index of the entry at ``path``."""
    segment, name = path.rsplit("/", 2)[1:]
    return int(segment) * SEGMENT_ENTRIES + int(name.removeprefix("entry-"))


def is_entry(name: str) -> bool:
    """Whether a child of a segment is an entry."""
    return _ENTRY.fullmatch(name) is not None


def segments_in(children: list[str]) -> list[int]:
    """The segments among the log's children, ascending."""
    return sorted(int(name) for name in children if _SEGMENT.fullmatch(name))


def skips_in(children: list[str]) -> tuple[int, ...]:
    """The indices of the skips among the log's children, ascending."""
    return tuple(sorted(int(match[1]) for match in map(_SKIP.fullmatch, children) if match))


def log_data(data: bytes) -> LogData:
    """What the data of ROOT/log says.

    Raises:
        UNREADABLE: kvlog did not write it.
    """
    return msgspec.json.decode(data, type=LogData) if data else LogData()


def log_bytes_before(segment: int, data: bytes) -> int:
    """What the data of a segment's znode says: the size of all entries before it.

    Raises:
        UNREADABLE: nothing, or kvlog did not write it.
    """
    return 0 if segment == 0 else msgspec.json.decode(data, type=SegmentData).log_bytes


def last_entry(segment: int, children: list[str]) -> int | None:
    """The highest index among a segment's children; None if there is no entry."""
    numbers = [int(match[1]) for match in map(_ENTRY.fullmatch, children) if match]
    return segment * SEGMENT_ENTRIES + max(numbers) if numbers else None


def parse_candidate(name: str) -> tuple[str, str, int] | None:
    """Node id, instance and sequence number of a candidate's name; None if it is not one."""
    match = _CANDIDATE.fullmatch(name)
    return (match["node_id"], match["instance"], int(match["sequence"])) if match else None


def children_ever(stat: Any) -> int:
    """How many children a znode has ever had, from its stat: what the next sequence number below it will be.

    ZooKeeper shows cversion as creations plus deletions, and numChildren is their difference. Neither failed
    multis nor deletions disturb it (PrepRequestProcessor, DataNode.copyStat; measured).
    """
    return int((stat.cversion % _SEQUENCE_MODULUS) + stat.numChildren) // 2
