"""What events and effects speak of: candidates, members, pushes, and the answers to requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from kvlog.core.entry import Leader

RETAIN_ENTRIES = 10_000
"""Entries that stay in the log although everybody has them, if the settings do not say: a replica that was away
for fewer comes back by replay."""

LOG_BYTES_MAX = 256 * 1024 * 1024
"""How much of ZooKeeper's memory the log may take, if the settings do not say: a quarter of the heap that
ZooKeeper's own scripts give it."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the core needs to know of the settings. ``recover`` is ``catchup`` or ``stale``."""

    node_id: str
    address: str
    instance: str
    recover: str
    session_timeout_s: float
    retain_entries: int = RETAIN_ENTRIES
    log_bytes_max: int = LOG_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Candidate:
    """An election znode. The lowest ``sequence`` leads; ``epoch`` is the czxid, known for the lowest one."""

    name: str
    sequence: int
    node_id: str
    instance: str
    address: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Member:
    """A node that is up, from its ephemeral znode; ``mode`` is ``catchup`` or ``stale``."""

    node_id: str
    instance: str
    address: str
    mode: str


@dataclass(frozen=True, slots=True)
class PushBody:
    """What a leader sends to a replica: its epoch, the tail, and entries in order (none: only a greeting)."""

    cluster_id: str
    leader: Leader
    epoch: int
    tail_index: int
    first_index: int
    entries: tuple[bytes, ...]


class Holding(StrEnum):
    """What a replica's store is worth to the others."""

    WHOLE = "whole"
    STALE = "stale"  # it has missed entries
    INSTALLING = "installing"  # it is empty or behind the log, and waits for a snapshot


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a store held behind the entry of this index and hash: its digest, with how that is made before it."""

    index: int
    hash: str
    digest: str


@dataclass(frozen=True, slots=True)
class Replica:
    """A node that the cluster counts on, from its persistent znode.

    ``durable_index``: everything up to there would survive a power cut on that node. ``version`` counts the
    changes of the znode, where it has been read. ``checkpoints`` tell what the store holds (see agreement): they
    follow from the log and the rest, so that they make no other mark of one.
    """

    node_id: str
    address: str
    durable_index: int
    holding: Holding
    version: int = 0
    checkpoints: tuple[Checkpoint, ...] = field(default=(), compare=False, repr=False)


class Ack(StrEnum):
    """What an answer to a write waits for, once it is committed in ZooKeeper."""

    LOG = "log"
    REPLICAS = "replicas"


class Reach(StrEnum):
    """What a probe of an address found."""

    ANSWERS = "answers"
    REFUSED = "refused"  # nothing listens there: the process is gone
    UNKNOWN = "unknown"  # no answer in time: paused, cut off, or slow


@dataclass(frozen=True, slots=True)
class Committed:
    """The request is in the log. ``replicas`` maps the members that keep up or lagged to what is known.

    ``repeated``: an earlier request with the same id put it there. ``failed``: as of ``revision`` it could not be
    carried out as wanted, one of the values of commands.Failure; for the rest see machine.Remembered.
    """

    revision: int
    index: int
    replicas: dict[str, str]
    repeated: bool = False
    failed: str = ""
    created: bool = False
    changes: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """What has become of a request, for good: committed or ``cancelled`` at ``revision``."""

    cancelled: bool
    revision: int
    index: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The write did not happen and never will: trying again is safe.

    ``retry``: the reason is one that passes within moments (a change of leader), so try again at once.
    """

    reason: str
    retry: bool = False


class Clash(StrEnum):
    """Why a request cannot go with the earlier one that has its id."""

    REUSED = "reused"  # the earlier one was another request
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Rejected:
    """The write did not happen and never will, under this id."""

    clash: Clash
    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The write may have happened or may still happen."""

    reason: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """Not the leader: try there. Nothing was done here."""

    leader: Leader
    epoch: int


@dataclass(frozen=True, slots=True)
class PushAnswer:
    """A replica's answer to a push: where it stands now, and the epoch that it knows."""

    applied_index: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Reached:
    """What a read has waited for is applied here."""

    applied_index: int


class Path(StrEnum):
    """How an entry has come to a node."""

    APPEND = "append"  # it has written the entry itself
    PUSH = "push"  # the leader has pushed it
    WATCH = "watch"  # the watch on the segment has told of it
    POLL = "poll"  # the poll has, because neither push nor watch did
    REPLAY = "replay"  # it was there before the node


@dataclass(frozen=True, slots=True)
class Arrival:
    """How and when an entry came to this node.

    ``written_ms`` is the wall clock of the leader that wrote it, ``came_ms`` and ``applied_ms`` are this
    machine's. The last one is None as long as the entry is not applied.
    """

    index: int
    first_revision: int
    last_revision: int
    path: Path
    written_ms: int
    came_ms: int
    applied_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """An operator's request has been carried out."""

    text: str


Outcome = Committed | Settled | Rejected | Refused | Unknown
Answer = Outcome | Redirect | PushAnswer | Reached | Done
