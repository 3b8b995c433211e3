"""What can happen to a node."""

from __future__ import annotations

from dataclasses import dataclass

from kvlog.core.commands import Command
from kvlog.core.effects import Effect
from kvlog.core.machine import Identity, Position
from kvlog.core.values import Ack, Candidate, Member, PushAnswer, PushBody, Reach, Replica


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Woken:
    """The time has come for which the node wanted to be woken."""


@dataclass(frozen=True, slots=True)
class Failed:
    """What ``effect`` asked for came to nothing, or nothing is known of it. Asking again is safe."""

    effect: Effect


@dataclass(frozen=True, slots=True)
class SessionConnected:
    """ZooKeeper is connected; the identity of the log has been read, or the log has just been made."""

    session_id: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class SessionSuspended:
    """The connection is gone; the session may live on."""


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The session has ended, and with it this node's ephemeral znodes."""


@dataclass(frozen=True, slots=True)
class Joined:
    """This node's member znode belongs to session ``session_id``."""

    session_id: int


@dataclass(frozen=True, slots=True)
class JoinBlocked:
    """A member znode with this node's id exists already, of another session."""

    holder: Member


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """The members have to be read again."""


@dataclass(frozen=True, slots=True)
class MembersListed:
    """The members, in order of their ids."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """This node's candidate znode exists and belongs to session ``session_id``."""

    name: str
    epoch: int
    session_id: int


@dataclass(frozen=True, slots=True)
class CandidatesListed:
    """The candidates in order of their sequence numbers."""

    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class CandidatesChanged:
    """Candidate ``name`` is gone, or may be: the list has to be read again."""

    name: str


@dataclass(frozen=True, slots=True)
class TailRead:
    """The log's last index was ``tail_index``, or more, at a moment after ``asked_at`` (monotonic seconds).

    ``confirmed``: a quorum operation came before the reading, so no earlier acknowledged entry is missing.
    ``first_index``: where the log begins; what was before it has been trimmed, ``first_bytes`` in all.
    ``skips``: the entries that were ever skipped, ascending, be they trimmed since.
    """

    tail_index: int
    asked_at: float
    confirmed: bool
    first_index: int = 0
    first_bytes: int = 0
    skips: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TailConfirmed:
    """A quorum has confirmed that the log ended at ``tail_index`` or later at ``asked_at`` (monotonic seconds)."""

    tail_index: int
    asked_at: float


@dataclass(frozen=True, slots=True)
class SegmentChanged:
    """The watch on a segment has seen entries up to ``tail_index``."""

    tail_index: int


@dataclass(frozen=True, slots=True)
class EntriesRead:
    """The entries from ``first_index`` on, as many as there were; fewer than asked for if some are missing."""

    first_index: int
    entries: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Appended:
    """The append ``batch_id`` is in the log, at ``index``."""

    batch_id: str
    index: int


@dataclass(frozen=True, slots=True)
class AppendFenced:
    """The append ``batch_id`` was refused because the writer's candidate is gone: it can never land."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class AppendRefused:
    """The append ``batch_id`` was refused for another reason than the fence: it can never land either."""

    batch_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class AppendUnknown:
    """The append ``batch_id`` may have landed, or may still land."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class Applied:
    """The store has carried out what it was asked to, and stands at ``position`` now."""

    position: Position


@dataclass(frozen=True, slots=True)
class Synced:
    """The store would survive a power cut at ``position``."""

    position: Position


@dataclass(frozen=True, slots=True)
class SnapshotProgress:
    """``received`` of about ``total`` bytes are here."""

    received: int
    total: int


@dataclass(frozen=True, slots=True)
class SnapshotFetched:
    """A whole, verified copy of another node's store, which stood at ``position``, is at ``source``."""

    source: str
    position: Position


@dataclass(frozen=True, slots=True)
class SnapshotFailed:
    """Nothing usable came from ``node_id``.

    ``applied_index``: where that node stands, if it said so: it has no snapshot that would do.
    """

    node_id: str
    reason: str
    applied_index: int | None = None


@dataclass(frozen=True, slots=True)
class MarkPublished:
    """The others can see ``mark``."""

    mark: Replica


@dataclass(frozen=True, slots=True)
class ReplicasListed:
    """The nodes that the cluster counts on, in order of their ids.

    ``version`` changes whenever one is registered or removed.
    """

    replicas: tuple[Replica, ...]
    version: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaRemoved:
    """The cluster does not count on ``node_id`` any more."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The log begins at ``first_index``, with ``first_bytes`` before it; ``done`` if nothing of that is left."""

    first_index: int
    first_bytes: int
    done: bool


@dataclass(frozen=True, slots=True)
class SkipWritten:
    """There is a skip in the place of the entry at ``index``."""

    index: int


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found at ``address``; ``instance`` names the process that answered."""

    address: str
    reach: Reach
    instance: str


@dataclass(frozen=True, slots=True)
class PushArrived:
    """A leader has pushed entries to this replica."""

    token: int
    body: PushBody


@dataclass(frozen=True, slots=True)
class PushAnswered:
    """Replica ``node_id`` has answered a push."""

    node_id: str
    answer: PushAnswer


@dataclass(frozen=True, slots=True)
class PushFailed:
    """Replica ``node_id`` has not answered a push."""

    node_id: str


@dataclass(frozen=True, slots=True)
class WriteSubmitted:
    """A client's write. Answered at the latest at ``deadline`` (monotonic seconds).

    ``forwarded``: another node sent it here; if this one does not lead, it says so at once.
    ``not_epoch``: the leader of this epoch has been tried already and did not take it.
    ``request_id``: under which the outcome is remembered; empty if it is not.
    """

    token: int
    command: Command
    ack: Ack
    deadline: float
    forwarded: bool = False
    not_epoch: int = 0
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ReadSubmitted:
    """A read that has to wait. Answered by Reached or Refused, at the latest at ``deadline`` (monotonic seconds).

    ``min_revision``, ``min_index``: once these are applied here. ``linearizable``: once everything is that was in
    the log, as a quorum knows it, when this was submitted.
    """

    token: int
    deadline: float
    min_revision: int = 0
    min_index: int = -1
    linearizable: bool = False


@dataclass(frozen=True, slots=True)
class Gathered:
    """Reads and writes that have come while the node was busy, in their order: one step does for all."""

    requests: tuple[WriteSubmitted | ReadSubmitted, ...]


@dataclass(frozen=True, slots=True)
class LeasesListed:
    """The leases that are in the store, each with its time to live in milliseconds."""

    leases: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TransferRequested:
    """An operator wants another node to lead."""

    token: int


@dataclass(frozen=True, slots=True)
class CatchupRequested:
    """An operator wants a stale store to be filled up."""

    token: int


@dataclass(frozen=True, slots=True)
class RemovalRequested:
    """An operator says that a replica is gone for good."""

    token: int
    node_id: str


@dataclass(frozen=True, slots=True)
class SkipRequested:
    """An operator wants the entry at ``index``, at which this node has halted, to be skipped."""

    token: int
    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class HandoverRequested:
    """The node is about to stop: finish what is under way, then let another one lead."""

    token: int


Event = (
    Tick | Woken | Failed | SessionConnected | SessionSuspended | SessionLost | Joined | JoinBlocked
    | MembersChanged | MembersListed | Enrolled | CandidatesListed | CandidatesChanged | TailRead | TailConfirmed | SegmentChanged
    | EntriesRead | Appended | AppendFenced | AppendRefused | AppendUnknown | Applied | Synced
    | SnapshotProgress | SnapshotFetched | SnapshotFailed | MarkPublished | ReplicasListed | ReplicaRemoved
    | Trimmed | SkipWritten | Probed | PushArrived | PushAnswered | PushFailed | WriteSubmitted | ReadSubmitted
    | Gathered | LeasesListed | TransferRequested | CatchupRequested | RemovalRequested | SkipRequested
    | HandoverRequested
)  # fmt: skip
