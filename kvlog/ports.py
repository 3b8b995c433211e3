"""What the runtime needs of the outside world: small interfaces, each with two implementations.

A method takes the effect that it carries out, returns at once, and later posts exactly one event (which one, the
effect's docstring says). Only the store answers directly: it runs on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kvlog.core import effects as do
from kvlog.core.entry import LogEntry
from kvlog.core.events import Event
from kvlog.core.machine import Identity, Position, Record, Remembered, View

Post = Callable[[Event], None]
"""How an adapter tells the runtime what has happened; callable from any thread, never blocks."""


class Log(Protocol):
    """The entries in ZooKeeper."""

    def read_tail(self, effect: do.ReadTail) -> None:
        """Post TailRead or Failed."""

    def read_entries(self, effect: do.ReadEntries) -> None:
        """Post EntriesRead or Failed."""

    def watch_segment(self, effect: do.WatchSegment) -> None:
        """Post SegmentChanged whenever there is more in the segment."""

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


class Store(View, Protocol):
    """The replica's data on disk. What reads may be called from any thread, what writes from one.

    Every method raises StoreFailure when the disk fails; the process ends then.
    """

    def position(self) -> Position:
        """Where the store stands."""

    def read(self, key: str) -> tuple[Record | None, Position]:
        """The record of a key, and the position of the very state that it was read from."""

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

    def close(self) -> None:
        """Give the files back."""


class Clock(Protocol):
    """Time, of which the core is told."""

    def monotonic(self) -> float:
        """Seconds that never go back; meaningless between machines."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970; for people only."""
