"""How long the log is kept: what each replica holds for certain, what may be trimmed, and when the log is full.

Invariants (tests cite the numbers):

R1  A replica says that it holds an index only once its store would survive a power cut there.
R2  Only whole stores count: not one that has missed entries, nor one that waits for a snapshot.
R3  Trimmed is what a majority of the registered replicas holds, in whole segments; the last ``retain_entries``
    stay. Of a log that has more than half of the bytes that it may have, only about a quarter of them stays, and
    if whole segments do not help, it is trimmed within one.
R4  Only a leader trims. ZooKeeper checks with each deletion that it still is one, and, when the log's beginning
    is moved, that the marks by which it may be moved, and the replicas that count, are still those.
R5  A log that has all the bytes that it may have takes no more entries, barriers and skips apart.
"""

from __future__ import annotations

from dataclasses import replace

from kvlog.core.agreement import Agreement
from kvlog.core.cursor import Cursor
from kvlog.core.effects import Effect, ListReplicas, Note, PublishMark, RemoveReplica, Reply, Sync, Trim
from kvlog.core.entry import Leader, first_of, segment_of
from kvlog.core.events import MarkPublished, RemovalRequested, ReplicaRemoved, ReplicasListed, Synced, Trimmed
from kvlog.core.machine import Position
from kvlog.core.questions import Questions
from kvlog.core.values import Done, Holding, Member, Refused, Replica

About = Synced | MarkPublished | ReplicasListed | ReplicaRemoved | Trimmed
"""The events that tell what is held, and what is kept."""

MARK_S = 2.0
"""How often a replica at most makes its store durable for the mark and publishes it: a small write to ZooKeeper,
and one fdatasync."""

ENTRY_OVERHEAD_BYTES = 400
"""What an entry costs ZooKeeper's heap beyond its bytes. Measured: 355 (live heap before and after 60,000 entries,
ZooKeeper 3.8.0)."""

REMOVALS_MAX = 16
"""Requests to remove a replica that may wait at a time."""


class Retention:
    """See the module's docstring."""

    def __init__(self, me: Leader, questions: Questions, *, retain_entries: int, log_bytes_max: int) -> None:
        self._me = me
        self._questions = questions
        self._retain_entries = retain_entries
        self._log_bytes_max = log_bytes_max
        self._synced: Position | None = None
        self._published: Replica | None = None
        self._sync_at = 0.0
        self._removals: list[tuple[int, str]] = []
        self._first_index = 0
        self._first_bytes = 0
        self._clean = False  # nothing is left below the log's beginning
        self._full = False
        self.replicas: tuple[Replica, ...] = ()
        self._registry_version = 0

    # --- what happens -------------------------------------------------------------------------------------

    def handle(self, event: About) -> list[Effect]:
        """Take an answer."""
        answered = self._questions.answered
        match event:
            case Synced():
                answered(Sync)
                self._synced = event.position
            case MarkPublished():
                answered(PublishMark)
                self._published = event.mark
            case ReplicasListed():
                answered(ListReplicas)
                self.replicas, self._registry_version = event.replicas, event.version
                mine = next((mark for mark in event.replicas if mark.node_id == self._me.node_id), None)
                if mine is None or replace(mine, version=0) != self._published:
                    # An operator has removed this node, but here it is; or somebody else has spoken in its name.
                    self._published = None
            case ReplicaRemoved():
                answered(RemoveReplica, event.node_id)
                return self._removed(event.node_id)
            case Trimmed():
                answered(Trim)
                self._clean = event.done
                if event.first_index > self._first_index:
                    self._first_index, self._first_bytes = event.first_index, event.first_bytes
                    return [Note(f"trimmed the log: it begins at entry {event.first_index} now")]
        return []

    def log_begins(self, first_index: int, first_bytes: int) -> None:
        """The log's beginning has been read."""
        if first_index > self._first_index:
            self._first_index, self._first_bytes = first_index, first_bytes

    def elected(self) -> None:
        """What a former leader has left half trimmed is this node's to finish."""
        self._clean = False

    # --- the own mark -------------------------------------------------------------------------------------

    def mark(self, cursor: Cursor, agreement: Agreement, now: float) -> list[Effect]:
        """Publish what this replica holds, if that has changed (R1); remove who is to be removed."""
        effects: list[Effect] = []
        effects += [
            effect
            for _, node_id in self._removals
            for effect in self._questions.ask(RemoveReplica(node_id), node_id)
        ]
        synced = self._synced
        if synced is None or (now >= self._sync_at and synced != cursor.position):
            asked = self._questions.ask(Sync())
            if asked:
                self._sync_at = now + MARK_S
            effects += asked
        if synced is not None:
            mark = self._mark_of(synced, cursor)
            if mark != self._published:
                mark = replace(mark, checkpoints=agreement.published(synced))
                effects += self._questions.ask(PublishMark(mark))
        return effects

    def _mark_of(self, synced: Position, cursor: Cursor) -> Replica:
        holding, held = Holding.WHOLE, synced.applied_index
        if synced.gaps or cursor.position.gaps:
            holding = Holding.STALE
            held = min((gap.first - 1 for gap in synced.gaps), default=held)
        elif synced.applied_index + 1 < self._first_index:
            holding = Holding.INSTALLING
        return Replica(self._me.node_id, self._me.address, held, holding)

    # --- the replicas -------------------------------------------------------------------------------------

    def refresh(self) -> list[Effect]:
        """Read again which replicas the cluster counts on."""
        return self._questions.ask(ListReplicas())

    def remove(self, event: RemovalRequested, members: tuple[Member, ...]) -> list[Effect]:
        """An operator says that a replica is gone for good."""
        if any(member.node_id == event.node_id for member in members):
            return [Reply(event.token, Refused(f"{event.node_id} is up: stop it first"))]
        if not any(replica.node_id == event.node_id for replica in self.replicas):
            known = ", ".join(replica.node_id for replica in self.replicas) or "none"
            return [Reply(event.token, Refused(f"there is no replica {event.node_id}; there is {known}"))]
        if len(self._removals) >= REMOVALS_MAX:
            return [Reply(event.token, Refused(f"{REMOVALS_MAX} removals are waiting already"))]
        self._removals.append((event.token, event.node_id))
        return []

    def _removed(self, node_id: str) -> list[Effect]:
        text = f"{node_id} is not counted on any more"
        self.replicas = tuple(replica for replica in self.replicas if replica.node_id != node_id)
        done = [token for token, removed in self._removals if removed == node_id]
        self._removals = [pair for pair in self._removals if pair[1] != node_id]
        return [Note(text), *(Reply(token, Done(text)) for token in done), *self.refresh()]

    # --- trimming -----------------------------------------------------------------------------------------

    @property
    def _holders(self) -> list[Replica]:
        """A majority of the registered replicas: those that hold the most; empty if too few hold anything."""
        whole = (replica for replica in self.replicas if replica.holding is Holding.WHOLE)
        best = sorted(whole, key=lambda replica: -replica.durable_index)
        majority = len(self.replicas) // 2 + 1
        return best[:majority] if len(best) >= majority else []

    @property
    def held_by_majority(self) -> int:
        """The highest index that a majority of the registered replicas holds for certain; -1 if there is none."""
        return min((replica.durable_index for replica in self._holders), default=-1)

    def log_weight(self, cursor: Cursor) -> int:
        """About how many bytes of ZooKeeper's memory the log takes."""
        entries = cursor.next_index - self._first_index
        return cursor.log_bytes - self._first_bytes + entries * ENTRY_OVERHEAD_BYTES

    def trim(self, cursor: Cursor, fence: str) -> list[Effect]:
        """Drop what need not be kept any longer (R3, R4)."""
        weight, entries = self.log_weight(cursor), cursor.next_index - self._first_index
        heavy = weight > self._log_bytes_max // 2
        # A quarter stays also then: who is just copying a store finds behind it what it needs next.
        quarter = entries * self._log_bytes_max // 4 // max(1, weight)
        retain = min(self._retain_entries, quarter) if heavy else self._retain_entries
        keep_from = max(0, min(cursor.next_index - retain, self.held_by_majority + 1))
        first = first_of(segment_of(keep_from))
        if heavy and first <= self._first_index:
            first = keep_from
        first = max(first, self._first_index)
        if first == self._first_index and (self._clean or first == 0):
            return []
        return self._questions.ask(Trim(fence, first, tuple(self._holders), self._registry_version))

    @property
    def first_index(self) -> int:
        """Where the log begins."""
        return self._first_index

    def why_full(self, cursor: Cursor) -> str:
        """Why no more may be appended; empty if it may (R5)."""
        weight = self.log_weight(cursor)
        # Once full, writes begin again only when there is room for more than one of them.
        limit = self._log_bytes_max * (0.9 if self._full else 1.0)
        self._full = weight > limit
        if not self._full:
            return ""
        held = self.held_by_majority
        marks = [f"{mark.node_id} ({mark.holding}) up to {mark.durable_index}" for mark in self.replicas]
        return (
            f"the log takes {weight >> 20} MiB of ZooKeeper's memory, the limit is {self._log_bytes_max >> 20}; "
            f"of its entries up to {cursor.next_index - 1}, a majority of the replicas holds those up to {held}: "
            f"{', '.join(marks) or 'who holds what is not known yet'}; start those that are behind, or, if one is "
            "gone for good, POST /v1/admin/replicas/<id>/remove"
        )
