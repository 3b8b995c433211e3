"""What the runtime needs of the outside world: small interfaces, each with two implementations.

A method takes the effect that it carries out, returns at once, and later posts exactly one event (which one, the
effect's docstring says). Only the store answers directly: it runs on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kvlog.core import effects as do
from kvlog.core.entry import LogEntry
from kvlog.core.evaluate import View
from kvlog.core.events import Event
from kvlog.core.machine import Changes, Identity, Position, Record, Remembered

Post = Callable[[Event], None]
"""How an adapter tells the runtime what has happened; callable from any thread, never blocks."""


class Log(Protocol):
    """The entries in ZooKeeper."""

    def read_tail(self, effect: do.ReadTail) -> None:
        """Post TailRead or Failed."""

    def confirm_tail(self, effect: do.ConfirmTail) -> None:
        """Answered by ev.TailConfirmed or ev.Failed."""

    def read_entries(self, effect: do.ReadEntries) -> None:
        """Post EntriesRead or Failed."""

    def watch_segment(self, effect: do.WatchSegment) -> None:
        """Post SegmentChanged if there is anything in the segment, and once more when there is more."""

    def append(self, effect: do.Append) -> None:
        """Post Appended, AppendFenced, AppendRefused or AppendUnknown."""

    def trim(self, effect: do.Trim) -> None:
        """Post Trimmed or Failed."""

    def write_skip(self, effect: do.WriteSkip) -> None:
        """Post SkipWritten or Failed."""


class Election(Protocol):
    """Who is there, and who may lead. Its implementation also posts the session's events."""

    def join(self, effect: do.Join) -> None:
        """Post Joined, JoinBlocked or Failed."""

    def remove_member(self, effect: do.RemoveMember) -> None:
        """Post MembersChanged or Failed."""

    def list_members(self, effect: do.ListMembers) -> None:
        """Post MembersListed or Failed; later MembersChanged when it is outdated."""

    def enrol(self, effect: do.Enrol) -> None:
        """Post Enrolled or Failed."""

    def list_candidates(self, effect: do.ListCandidates) -> None:
        """Post CandidatesListed or Failed."""

    def watch_candidate(self, effect: do.WatchCandidate) -> None:
        """Post CandidatesChanged once the candidate is gone, or may be."""

    def remove_candidate(self, effect: do.RemoveCandidate) -> None:
        """Post CandidatesChanged or Failed."""

    def publish_mark(self, effect: do.PublishMark) -> None:
        """Post MarkPublished or Failed."""

    def list_replicas(self, effect: do.ListReplicas) -> None:
        """Post ReplicasListed or Failed."""

    def remove_replica(self, effect: do.RemoveReplica) -> None:
        """Post ReplicaRemoved or Failed."""


class Peers(Protocol):
    """The other nodes."""

    def push(self, effect: do.Push) -> None:
        """Post PushAnswered or PushFailed."""

    def probe(self, effect: do.Probe) -> None:
        """Post Probed."""

    def fetch_snapshot(self, effect: do.FetchSnapshot) -> None:
        """Post SnapshotFetched or SnapshotFailed, and SnapshotProgress now and then."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records in the order of their keys' bytes, all of one state: that of ``position``, or an earlier one.

    ``next`` is the key of the record that would have followed, None behind the last one. ``count``, where it was
    asked for, is how many keys have the prefix in that state, on this page or not.
    """

    items: tuple[tuple[str, Record], ...]
    next: str | None
    position: Position
    count: int | None = None


def bytes_of(changes: Changes) -> int:
    """What the changes at one revision count for, where a number of bytes is the limit: their keys and values."""
    return sum(
        len(change.key.encode())
        + (len(change.before.value) if change.before else 0)
        + (len(change.after.value) if change.after else 0)
        for change in changes.changes
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of the revisions after one, in order, each with its revision.

    ``through``: nothing else happened up to this revision.
    """

    changes: tuple[tuple[int, Changes], ...]
    through: int
    position: Position


@dataclass(frozen=True, slots=True)
class Version:
    """What became of a key at a revision; ``record`` is None where it was deleted."""

    revision: int
    index: int
    time_ms: int
    record: Record | None


@dataclass(frozen=True, slots=True)
class Versions:
    """What is kept of one key's past, the latest first.

    ``next`` is the revision of what would have followed, None if nothing is kept of it.
    """

    versions: tuple[Version, ...]
    next: int | None
    position: Position


class Store(View, Protocol):
    """The replica's data on disk. What reads may be called from any thread, what writes from one.

    Every method raises StoreFailure when the disk fails; the process ends then. What tells of the past raises
    HistoryTrimmed where that is not kept any more, and GapsInHistory while entries are missing (M10).
    """

    def position(self) -> Position:
        """Where the store stands."""

    def read(self, key: str, *, at: int | None = None) -> tuple[Record | None, Position]:
        """The record of a key, and the position of the very state that it was read from.

        ``at``: as of this revision, which has been applied.
        """

    def page(  # noqa: D417 - the rest speaks for itself
        self,
        prefix: str,
        *,
        start: str = "",
        limit: int,
        bytes_max: int,
        at: int | None = None,
        count: bool = False,
    ) -> Page:
        """The records whose keys begin with ``prefix``, from the key ``start`` on.

        kvlog's own ones are among them only if the prefix begins with SYSTEM, here and in ``count``. Both may be
        any text, of any length.

        Args:
            limit: how many records at most.
            bytes_max: the page ends with the record that goes beyond this many bytes of keys and values.
            at: as of this revision, which has been applied.
            count: whether all keys with the prefix are to be counted.
        """

    def count(self, prefix: str, *, at: int | None = None) -> tuple[int, Position]:
        """How many keys begin with ``prefix``."""

    def kept(self, after: int, *, limit: int, bytes_max: int) -> Kept:
        """What is kept of the revisions after ``after``, the oldest first, ``limit`` of them at most.

        It ends with the revision that goes beyond ``bytes_max`` (see ``bytes_of``).
        """

    def versions(self, key: str, *, before: int | None = None, limit: int) -> Versions:
        """What is kept of a key's past, before a revision, the latest first."""

    def read_request(self, request_id: str) -> tuple[Remembered | None, Position]:
        """What became of a request, and the position of the very state that says so."""

    def apply(self, entries: tuple[LogEntry, ...], *, fill: bool) -> Position:
        """Apply entries in one transaction; returns the position after them.

        Raises:
            BadEntry: an entry does not continue this store; nothing was changed.
        """

    def skip_to(self, index: int) -> Position:
        """Declare everything up to ``index`` missed."""

    def adopt(self, identity: Identity) -> Position:
        """Note which log the store belongs to."""

    def sync(self) -> Position:
        """Make everything survive a power cut; returns the position that would."""

    def install(self, source: str) -> Position:
        """Put a fetched snapshot in this store's place, whole or not at all; returns its position."""

    def distrust(self, reason: str) -> None:
        """Note for good that this store must not be opened again; from any thread."""

    def close(self) -> None:
        """Give the files back."""


class EntryReader(Protocol):
    """The log, for whoever wants to look at it; decides nothing."""

    def fetch(self, first_index: int, count: int) -> tuple[bytes, ...]:
        """The entries from an index on, up to one that is not there; ``count`` of them at most (128).

        Callable from any thread, which waits for them.

        Raises:
            Unavailable: ZooKeeper did not answer.
        """


class Clock(Protocol):
    """Time, of which the core is told."""

    def monotonic(self) -> float:
        """Seconds that never go back; meaningless between machines."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970; for people only."""
