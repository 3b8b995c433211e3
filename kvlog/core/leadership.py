"""What only the lowest candidate does: taking over, appending, pushing.

Invariants (tests cite the numbers):

L1  A leader appends only behind everything that was in the log when it was elected: the tail is confirmed by
    a quorum after its election, and replayed, before its barrier is written.
L2  It serves once its own barrier is applied here.
L3  An append of unknown fate of the present candidacy that is not in the replayed log ends the candidacy:
    without the znode it can never land, and the next epoch's barrier, its own or another's, tells everybody so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kvlog.core.commands import KeepAlive, Revoke
from kvlog.core.cursor import Cursor
from kvlog.core.effects import Effect, ListLeases, Note, Push, Reply
from kvlog.core.entry import Leader, LogEntry
from kvlog.core.evaluate import View, lease_key
from kvlog.core.events import Appended, AppendRefused, Enrolled, WriteSubmitted
from kvlog.core.gathering import Gathering
from kvlog.core.leases import Leases
from kvlog.core.replicator import Replicator
from kvlog.core.role import Input
from kvlog.core.values import Ack, Member, PushBody, Refused
from kvlog.core.writer import NOBODY, Writer
from kvlog.errors import BadEntry

ENDING_S = 10.0
"""How long the request that ends a lease may wait before it is made anew."""

REFUSED_PAUSE_S = 1.0
"""Pause before something is appended again after ZooKeeper has refused it."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """How far a takeover has come: a change of role with its reason, or effects, or (neither) still waiting."""

    change: Input | None = None
    reason: str = ""
    effects: list[Effect] = field(default_factory=list)


class Leadership:
    """See the module's docstring."""

    def __init__(self, me: Leader, store: View, *, instance: str) -> None:
        self._me = me
        self.writer = Writer(store, instance=instance)
        self.replicator = Replicator(node_id=me.node_id)
        self.leases = Leases()
        self.gathering = Gathering()
        self._elected_at = 0.0
        self._tail: int | None = None
        self._pause_until = 0.0
        self._settling = False  # after a refusal: what is pending is known again once all is applied (W5)

    def elected(self, now: float, members: tuple[Member, ...]) -> None:
        """This node's candidate is the lowest, or its leadership has to be proven anew."""
        self._elected_at = now
        self._tail = None
        self.replicator.reset()
        self.replicator.set_members(members)

    def tail_confirmed(self, tail_index: int, asked_at: float) -> None:
        """A quorum has told the tail; it counts if it was asked after the election (L1)."""
        if asked_at >= self._elected_at:
            self._tail = tail_index

    @property
    def needs_tail(self) -> bool:
        """The tail has not been confirmed since the election."""
        return self._tail is None

    def take_over(self, cursor: Cursor, candidate: Enrolled, now: float, wall_ms: int) -> Takeover:
        """From elected to leader: confirmed tail, replay, fate of an own lost append, barrier (L1 to L3)."""
        position = cursor.position
        if self._tail is None or position.applied_index < self._tail or not cursor.idle or self.writer.in_flight:
            return Takeover()
        if any(lost.epoch == candidate.epoch for lost in self.writer.unresolved):
            return Takeover(Input.RESIGNED, "an append got no answer and is not in the log")
        if cursor.epoch > candidate.epoch:
            return Takeover(Input.RESIGNED, f"epoch {cursor.epoch} has begun")
        if position.epoch == candidate.epoch:
            return Takeover(Input.SERVING)
        if now < self._pause_until:
            return Takeover()
        barrier = self.writer.barrier(leader=self._me, **_next_entry(cursor, candidate, wall_ms))
        return Takeover(effects=[barrier])

    def serve(self) -> list[Effect]:
        """This node leads from now on: the time of all leases begins anew (E1)."""
        self.leases.clear()
        return [ListLeases()]

    def submit(self, write: WriteSubmitted, full: str, now: float) -> list[Effect]:
        """Take a write; if the log is ``full``, only one for which nothing more is appended."""
        if isinstance(write.command, KeepAlive):  # E1: heard of is heard of, whether it can be confirmed or not
            self.leases.renew(write.command.lease, now)
        if full and not self.writer.knows(write):
            return [Reply(write.token, Refused(full))]
        return [*self.writer.submit(write)]

    def end_leases(self, now: float) -> None:
        """Delete the keys of the leases whose time is over: a few at a time, the next when those are appended."""
        if self._settling or self.writer.has_own:
            return
        for lease in self.leases.due(now):
            if self.writer.holds(lease_key(lease)):
                self.writer.submit(WriteSubmitted(NOBODY, Revoke(lease), Ack.LOG, now + ENDING_S))
            else:
                self.leases.forget(lease)

    def append(self, cursor: Cursor, candidate: Enrolled, now: float, wall_ms: int) -> list[Effect]:
        """The next entry, if writes are waiting and none is under way."""
        if now < self._pause_until or (self._settling and not cursor.idle):
            return []
        self._settling = False
        if self.writer.busy or not self.gathering.complete(len(self.writer.queue), now):
            return []
        effects = self.writer.next_append(**_next_entry(cursor, candidate, wall_ms))
        if self.writer.in_flight is not None:
            self.gathering.gone(len(self.writer.in_flight.landings), now)
        return effects

    def awaits(self, batch_id: str) -> bool:
        """Whether the answer to this append is still of interest: its entry has not been read from the log yet."""
        return self.writer.in_flight is not None and self.writer.in_flight.batch_id == batch_id

    def appended(self, event: Appended, cursor: Cursor, now: float) -> LogEntry | None:
        """ZooKeeper has confirmed an append; returns its entry, or None if it has been read from the log before.

        Raises:
            BadEntry: it has another index than it must have.
        """
        batch = self.writer.in_flight
        if batch is None or batch.batch_id != event.batch_id:
            return None
        if event.index not in (batch.index, cursor.next_index):
            raise BadEntry(
                batch.index, f"was appended at {event.index}: something else than entries is in its segment"
            )
        self.gathering.done(now)
        return cursor.offer(event.index, batch.data)

    def replicate(self, cursor: Cursor, candidate: Enrolled, now: float) -> list[Effect]:
        """Push what is appended, and answer what is acknowledged."""
        identity = cursor.position.identity
        greeting = PushBody(
            cluster_id=identity.cluster_id if identity else "",
            leader=self._me,
            epoch=candidate.epoch,
            tail_index=cursor.next_index - 1,
            first_index=cursor.next_index,
            entries=(),
        )
        pushes = [Push(member, body) for member, body in self.replicator.next_pushes(now, greeting)]
        acked = self.replicator.acked_index(cursor.position.applied_index, now)
        return [*pushes, *self.writer.acknowledge(acked, self.replicator.report(acked))]

    def refused(self, event: AppendRefused, now: float) -> list[Effect]:
        """ZooKeeper does not take the entry, and not because of the fence (an ACL, say): go on after a pause."""
        self._pause_until = now + REFUSED_PAUSE_S
        self._settling = True
        return [Note(event.reason), *self.writer.refused(event.batch_id, event.reason)]

    def expire(self, now: float, cursor: Cursor) -> list[Reply]:
        """Answer the writes whose time is over."""
        return self.writer.expire(now, self.replicator.report(cursor.next_index - 1))


def _next_entry(cursor: Cursor, candidate: Enrolled, wall_ms: int) -> dict[str, Any]:
    return {
        "index": cursor.next_index,
        "prev_hash": cursor.last_hash,
        "revision": cursor.revision,
        "epoch": candidate.epoch,
        "fence": candidate.name,
        "wall_ms": wall_ms,
        "log_bytes": cursor.log_bytes,
    }
