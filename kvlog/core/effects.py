"""What a node can want done.

Effects are carried out in the order in which ``Node.step`` returns them. None of them blocks: its result, if it
has one, comes back later as an event. Every request to ZooKeeper or to a peer is answered by exactly one event,
within the time that the adapter sets for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvlog.core.entry import LogEntry
from kvlog.core.machine import Identity
from kvlog.core.values import Answer, Member, PushBody, Replica


@dataclass(frozen=True, slots=True)
class Join:
    """Make this node's member znode. Answered by Joined, JoinBlocked or Failed."""

    mode: str


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """Remove the member znode of an instance that is known to be dead. Answered by MembersChanged."""

    holder: Member


@dataclass(frozen=True, slots=True)
class ListMembers:
    """Answered by MembersListed or Failed."""


@dataclass(frozen=True, slots=True)
class Enrol:
    """Make this node's candidate znode, or find it again. Answered by Enrolled or Failed."""


@dataclass(frozen=True, slots=True)
class ListCandidates:
    """Answered by CandidatesListed or Failed."""


@dataclass(frozen=True, slots=True)
class WatchCandidate:
    """Answered by CandidatesChanged once candidate ``name`` is gone, or may be."""

    name: str


@dataclass(frozen=True, slots=True)
class RemoveCandidate:
    """Remove candidate ``name``: this node's own, or one whose process is gone. Answered by CandidatesChanged."""

    name: str


@dataclass(frozen=True, slots=True)
class ReadTail:
    """Answered by TailRead or Failed; ``confirm`` puts a quorum operation before the reading."""

    confirm: bool


@dataclass(frozen=True, slots=True)
class ConfirmTail:
    """Find out where the log ends, as a quorum knows it: what ReadTail does, for reads, and nothing beside.

    ``segment`` is the one in which the end is expected. Answered by TailConfirmed, or by Failed: also if the log
    goes on behind that segment, or is not as it should be, which ReadTail is to find out about.
    """

    segment: int


@dataclass(frozen=True, slots=True)
class ReadEntries:
    """Answered by EntriesRead or Failed."""

    first_index: int
    count: int


@dataclass(frozen=True, slots=True)
class WatchSegment:
    """Watch this segment's children from now on, and no other's; None: no segment's at all.

    Answered by SegmentChanged if there are any, and when there is a new one: with that the watch has ended.
    """

    segment: int | None


@dataclass(frozen=True, slots=True)
class Append:
    """Append an entry, at ``index`` and only while candidate ``fence`` exists.

    ``log_bytes``: the size of all entries ever appended, this one included; kept with the segment that may
    begin behind it. Answered by Appended, AppendFenced, AppendRefused or AppendUnknown.
    """

    fence: str
    batch_id: str
    index: int
    data: bytes
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply entries in one transaction: after the store's position, or (``fill``) into its first gap."""

    entries: tuple[LogEntry, ...]
    fill: bool


@dataclass(frozen=True, slots=True)
class SkipTo:
    """Declare everything up to ``index`` missed (``--recover stale``). Answered by Applied."""

    index: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """Note that the (new) store belongs to this log. Answered by Applied."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Sync:
    """Make what the store holds survive a power cut. Answered by Synced."""


@dataclass(frozen=True, slots=True)
class ListLeases:
    """Read the leases that are in the store. Answered by LeasesListed."""


@dataclass(frozen=True, slots=True)
class Install:
    """Put the snapshot that was fetched to ``source`` in the store's place. Answered by Applied."""

    source: str


@dataclass(frozen=True, slots=True)
class FetchSnapshot:
    """Copy the store of ``member``, which must stand at ``min_index`` or later.

    Answered by SnapshotFetched or SnapshotFailed, with any number of SnapshotProgress before.
    """

    member: Member
    min_index: int


@dataclass(frozen=True, slots=True)
class PublishMark:
    """Tell the others, for good, what this node's store holds durably. Answered by MarkPublished or Failed."""

    mark: Replica


@dataclass(frozen=True, slots=True)
class ListReplicas:
    """Answered by ReplicasListed or Failed."""


@dataclass(frozen=True, slots=True)
class RemoveReplica:
    """Stop counting on a node. Answered by ReplicaRemoved or Failed."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Trim:
    """Drop the first segment that is left of those below ``first_index``, while candidate ``fence`` exists.

    That the log begins at ``first_index`` is noted before anything is deleted, in one transaction which checks
    that the fence is there, that the marks of ``holders`` are of the versions by which they license it, and that
    nobody has been registered or removed since ``registry_version``. Answered by Trimmed or Failed.
    """

    fence: str
    first_index: int
    holders: tuple[Replica, ...] = ()
    registry_version: int = 0


@dataclass(frozen=True, slots=True)
class WriteSkip:
    """Put a skip in the place of the entry at ``index``. Answered by SkipWritten or Failed."""

    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Push:
    """Send entries to a replica. Answered by PushAnswered or PushFailed."""

    member: Member
    body: PushBody


@dataclass(frozen=True, slots=True)
class Probe:
    """See whether a kvlog node answers at ``address``. Answered by Probed."""

    address: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the request that carried ``token``."""

    token: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Note:
    """Something that people want to know: a change of role, a recovery, a refusal. One line in the log."""

    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The node cannot go on: stop the process with this exit code and this last line."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Distrust:
    """The store holds something else than the log gives: it is never opened again. Stop, with this last line."""

    reason: str


Effect = (
    Join | RemoveMember | ListMembers | Enrol | ListCandidates | WatchCandidate | RemoveCandidate
    | ReadTail | ConfirmTail | ReadEntries | WatchSegment | Append | Apply | SkipTo | Adopt | Sync | ListLeases
    | Install | FetchSnapshot
    | PublishMark | ListReplicas | RemoveReplica | Trim | WriteSkip | Push | Probe | Reply | Note | Exit | Distrust
)  # fmt: skip
