"""One node's decisions: ``step`` takes an event and returns what is to be done, in order.

Here is what each event changes at first; what then follows by itself is in ``conduct``. Invariants (tests cite the
numbers):

N1  Only the lowest candidate appends: its barrier when elected, other entries as a leader (see leadership).
N2  Each epoch begins with one barrier.
N3  A node that missed entries (a stale store) neither stands for election nor counts as ready.
N4  An entry of the log that cannot be applied halts the node there, with all before it applied, until the
    entry is skipped for everybody.
N5  The store never stands behind the log's confirmed tail: if it does, this is another log, and the node exits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core import installing, retention
from kvlog.core.conduct import PUSH_GRACE_S, TRANSFER_S, WATCH_PAUSE_S, Conduct
from kvlog.core.entry import LogEntry
from kvlog.core.evaluate import View
from kvlog.core.machine import Position
from kvlog.core.questions import RETRY_S
from kvlog.core.recovery import short_log, wrong_log
from kvlog.core.role import Input, Role
from kvlog.core.skipping import has_applied_what_was_skipped, skipped_elsewhere
from kvlog.core.standing import About
from kvlog.core.status import Status, status_of
from kvlog.core.values import NodeSettings, Path, Redirect, Refused
from kvlog.errors import BadEntry, WrongLog

POLL_S = 1.0
"""How often the tail, the candidates and the members are read, whatever watches and pushes said: the net
below both, and what bounds the staleness that an idle node reports."""


FREQUENT = frozenset(
    (
        ev.Woken,
        ev.WriteSubmitted,
        ev.ReadSubmitted,
        ev.Gathered,
        ev.Appended,
        ev.Applied,
        ev.PushArrived,
        ev.PushAnswered,
    )
)
"""Events of which there are hundreds a second: leases, marks and trimming wait for another one, or a tick."""


class Node(Conduct):
    """See the module's docstring."""

    def __init__(self, settings: NodeSettings, store: View, position: Position) -> None:
        super().__init__(settings, store, position)
        self._read_because = Path.POLL
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.Tick: self._on_tick,
            ev.Woken: lambda _: None,
            ev.Failed: self._on_failed,
            ev.SessionConnected: self._on_connected,
            ev.SessionSuspended: self._on_disconnected,
            ev.SessionLost: self._on_disconnected,
            ev.TailRead: self._on_tail_read,
            ev.TailConfirmed: self._on_tail_confirmed,
            ev.SegmentChanged: self._on_segment_changed,
            ev.EntriesRead: self._on_entries_read,
            ev.Appended: self._on_appended,
            ev.AppendFenced: self._on_append_fenced,
            ev.AppendRefused: self._on_append_refused,
            ev.AppendUnknown: self._on_append_unknown,
            ev.Applied: self._on_applied,
            ev.PushArrived: self._on_push_arrived,
            ev.PushAnswered: self._on_push_answered,
            ev.PushFailed: lambda event: self.leadership.replicator.failed(event.node_id, self._now),
            ev.WriteSubmitted: self._on_write_submitted,
            ev.ReadSubmitted: self._on_read_submitted,
            ev.Gathered: self._on_gathered,
            ev.LeasesListed: self._on_leases_listed,
            ev.TransferRequested: self._on_transfer_requested,
            ev.CatchupRequested: self._on_catchup_requested,
            ev.RemovalRequested: self._on_removal_requested,
            ev.SkipRequested: self._on_skip_requested,
            ev.SkipWritten: self._on_skip_written,
            ev.HandoverRequested: self._on_handover_requested,
            **dict.fromkeys(get_args(About), self._on_standing),
            **dict.fromkeys(get_args(retention.About), self._on_retention),
            **dict.fromkeys(get_args(installing.About), self._on_installing),
        }

    def step(self, event: ev.Event, now: float, wall_ms: int) -> list[do.Effect]:
        """Decide what follows from ``event`` at the monotonic time ``now`` (seconds)."""
        self._now, self._wall_ms, self._out = now, wall_ms, []
        self._hurry = type(event) in FREQUENT and self._settled
        self._questions.now = now
        try:
            self._handlers[type(event)](event)
            self._advance()
        except BadEntry as error:
            self._halt(error)
            self._advance()
        return self._out

    # --- session, membership, candidacy -------------------------------------------------------------------

    def _on_tick(self, _: ev.Tick) -> None:
        self._out += self.standing.tick(self._now)
        self._out += self.leadership.expire(self._now, self.cursor)
        self._out += self._parking.expire(self._now, self.standing.why_nobody_leads)
        self._out += self._pushes.expire(self._now, self.cursor)
        connected, halted = self.standing.connected, str(self.halted or "")
        self._out += self._reads.expire(self._now, self.cursor, connected=connected, halted=halted)
        if self.standing.connected and self._now >= self._poll_at:
            self._poll_at = self._now + POLL_S
            self._out += self.standing.refresh()
            self._out += self.retention.refresh()
            self._ask_tail(confirm=not self.recovery.decided)

    def _on_failed(self, event: ev.Failed) -> None:
        match event.effect:
            case do.ReadEntries():
                self.cursor.read_failed()
                self._questions.failed(do.ReadEntries)
                self._read_at = self._now + RETRY_S
            case do.RemoveCandidate(name=name):
                self._questions.failed(do.RemoveCandidate, name)
                self._handed_over()
            case do.RemoveReplica(node_id=node_id):
                self._questions.failed(do.RemoveReplica, node_id)
            case do.Trim():
                self._questions.failed(do.Trim)
                self._out += self.retention.refresh()
            case do.WatchCandidate():
                self.standing.watch_failed()
            case do.ConfirmTail():
                self._questions.failed(do.ConfirmTail)
                self._look_closely = True
            case other:
                self._questions.failed(type(other))

    def _on_connected(self, event: ev.SessionConnected) -> None:
        identity = self.cursor.position.identity
        if identity is None and self.cursor.hold():
            self._out.append(do.Adopt(event.identity))
        elif identity is not None and identity != event.identity:
            self._out.append(do.Exit(WrongLog.exit_code, wrong_log(identity, event.identity)))
            return
        self._become(Input.CONNECTED)
        self.recovery.begin(self._now)
        self._watched_segment = None
        self._poll_at = self._now + POLL_S
        self._out += self.standing.session_connected(event.session_id, self._now)
        self._ask_tail(confirm=True)

    def _on_disconnected(self, event: ev.SessionSuspended | ev.SessionLost) -> None:
        if isinstance(event, ev.SessionLost):
            self.standing.session_lost()
        else:
            self.standing.session_suspended()
        self._skipping.disconnected()
        self._become(Input.DISCONNECTED)
        self._handed_over()

    def _on_standing(self, event: About) -> None:
        self._out += self.standing.handle(event, self._now)
        if isinstance(event, ev.MembersListed):
            self.leadership.replicator.set_members(event.members)
        if isinstance(event, ev.CandidatesChanged):
            self._handed_over()

    def _on_retention(self, event: retention.About) -> None:
        self._out += self.retention.handle(event)
        if isinstance(event, ev.ReplicasListed):
            self._out += self.agreement.compare(event.replicas, self.cursor.position)

    def _on_installing(self, event: installing.About) -> None:
        self._out += self.installing.handle(event, self._now)

    # --- the log ------------------------------------------------------------------------------------------

    def _on_tail_read(self, event: ev.TailRead) -> None:
        self._questions.answered(do.ReadTail)
        applied = self._applied_when_asked
        if event.confirmed and event.tail_index < applied:
            self._out.append(do.Exit(WrongLog.exit_code, short_log(event.tail_index, applied)))
            return
        if (skipped := has_applied_what_was_skipped(self.cursor.position, event.skips)) is not None:
            self._out.append(do.Exit(WrongLog.exit_code, skipped_elsewhere(skipped)))
            return
        self._told(event.tail_index, Path.POLL)
        self.cursor.observe(
            event.tail_index, event.asked_at, confirmed=event.confirmed, first_index=event.first_index
        )
        self.retention.log_begins(event.first_index, event.first_bytes)
        if self.role is Role.HALTED and self.halted is not None:
            self._resume_behind(self.halted.index, event)
        if self.cursor.bad is not None and self.halted is None:
            raise self.cursor.bad
        if not event.confirmed:
            return
        self._look_closely = False
        self._skipping.tail_confirmed(event.asked_at)
        self._reads.tail_confirmed(event.tail_index, event.asked_at)
        self.recovery.decide(event.tail_index)
        self.leadership.tail_confirmed(event.tail_index, event.asked_at)

    def _on_segment_changed(self, event: ev.SegmentChanged) -> None:
        self._told(event.tail_index, Path.WATCH)
        if not event.watching:
            self._watched_segment, self._watch_at = None, self._now + WATCH_PAUSE_S

    def _on_tail_confirmed(self, event: ev.TailConfirmed) -> None:
        self._questions.answered(do.ConfirmTail)
        if event.tail_index < self._applied_when_confirmed:
            self._look_closely = True  # another log, perhaps (N5)
            return
        self._told(event.tail_index, Path.POLL)
        self.cursor.observe(event.tail_index, event.asked_at)
        self._reads.tail_confirmed(event.tail_index, event.asked_at)
        self._confirming.done(self._reads.unconfirmed, self._now)

    def _told(self, tail_index: int, by: Path) -> None:
        """The log goes on up to ``tail_index``, as has become known in this way."""
        if tail_index > self.cursor.tail_index:
            self._read_because = by
            last = self.arrivals.last
            nothing_missing = self.cursor.tail_index < self.cursor.next_index  # else the time is running already
            if nothing_missing and last is not None and last.path is Path.PUSH:
                self._expect_push()
        self.cursor.saw(tail_index)

    def _expect_push(self) -> None:
        """What is missing is on its way: it is not read for a moment."""
        self._read_at = max(self._read_at, self._now + PUSH_GRACE_S)

    def _on_entries_read(self, event: ev.EntriesRead) -> None:
        self._questions.answered(do.ReadEntries)  # skipping may have asked
        if self.role is Role.HALTED:
            self.cursor.read_failed()  # it may have been asked for before the node halted
            self._skipping.read(event, self.cursor, self._wall_ms)
            return
        path = self._read_because if self.recovery.finished else Path.REPLAY
        for item in self.cursor.read_done(event.first_index, event.entries):
            self._entry_seen(item, path)
        if self.cursor.bad is not None:
            raise self.cursor.bad

    def _on_appended(self, event: ev.Appended) -> None:
        item = self.leadership.appended(event, self.cursor, self._now)
        if item is not None:
            self._entry_seen(item, Path.APPEND)

    def _on_append_fenced(self, event: ev.AppendFenced) -> None:
        if not self.leadership.awaits(event.batch_id):
            return
        self._out += self.leadership.writer.fenced(event.batch_id)
        self._resign("its candidate znode is gone: another node may lead")

    def _on_append_refused(self, event: ev.AppendRefused) -> None:
        self._out += self.leadership.refused(event, self._now)

    def _on_append_unknown(self, event: ev.AppendUnknown) -> None:
        if not self.leadership.awaits(event.batch_id):
            return
        self.leadership.writer.lost()
        if self.role in (Role.ELECTED, Role.LEADER):
            self._become(Input.UNSURE)

    def _on_applied(self, event: ev.Applied) -> None:
        position = event.position
        installed = self.installing.installed(self._now)
        self.cursor.applied(position)
        self.agreement.applied(position)
        self.arrivals.applied(position.applied_index, self._wall_ms)
        self.leadership.writer.applied(position.applied_index)
        if installed:
            self._out += installed
            self._out += self.leadership.writer.installed(position)
            self.recovery.installed(position)
            if position.leader is not None:
                self.standing.learn_leader(position.leader, position.epoch)
            if (
                self.role is Role.HALTED
                and self.halted is not None
                and self.halted.index <= position.applied_index
            ):
                self._resume(self.halted.index, "which the node has applied whose store this is now")

    def _entry_seen(self, item: LogEntry, path: Path) -> None:
        """The next entry of the log is known, by whichever way it came."""
        self.arrivals.came(item, path, self._wall_ms)
        if self.role is Role.LEADER:
            self.leadership.leases.seen(item.entry, self._now)
        self._out += self.leadership.writer.entry_seen(item)
        if item.entry.leader is not None:
            self.standing.learn_leader(item.entry.leader, item.entry.epoch)
        if self.role in (Role.ELECTED, Role.LEADER):
            self.leadership.replicator.record(item.index, item.data)
            if item.entry.epoch > self._epoch:
                self._resign(f"epoch {item.entry.epoch} has begun")
        else:  # who does not push to the replicas never learns what they have applied
            self._out += self.leadership.writer.acknowledge(item.index, {})

    # --- replication --------------------------------------------------------------------------------------

    def _on_push_arrived(self, event: ev.PushArrived) -> None:
        body, identity = event.body, self.cursor.position.identity
        if identity is None or body.cluster_id != identity.cluster_id:
            reason = "this node belongs to another cluster, or does not know yet to which one"
            self._out.append(do.Reply(event.token, Refused(reason)))
            return
        last = self.cursor.position.applied_index
        if body.epoch >= self.cursor.epoch and self.role is not Role.HALTED and self._may_read:
            self.standing.learn_leader(body.leader, body.epoch)
            items, last, complaint = self._pushes.take(body, self.cursor)
            if complaint:
                self._out.append(do.Note(complaint))
            if items and self._now < self._read_at:
                self._expect_push()  # they keep coming
            for item in items:
                self._entry_seen(item, Path.PUSH)
        self._out += self._pushes.answer_when_applied(event.token, last, self._now, self.cursor)

    def _on_push_answered(self, event: ev.PushAnswered) -> None:
        self.leadership.replicator.answered(event.node_id, event.answer, self._now)
        if self.role is Role.LEADER and event.answer.epoch > self._epoch:
            self._ask_tail(confirm=False)
            self._out += self.standing.refresh()

    # --- requests -----------------------------------------------------------------------------------------

    def _on_write_submitted(self, event: ev.WriteSubmitted) -> None:
        if event.not_epoch and self.standing.connected:  # its leader was found to be gone
            self.standing.hurry()
            self._out += self.standing.refresh()
        self._out += self._parking.park(event)

    def _on_read_submitted(self, event: ev.ReadSubmitted) -> None:
        self._out += self._reads.submit(event, self.cursor, self._now)

    def _on_gathered(self, event: ev.Gathered) -> None:
        for request in event.requests:
            self._handlers[type(request)](request)

    def _on_leases_listed(self, event: ev.LeasesListed) -> None:
        if self.role is Role.LEADER:
            self.leadership.leases.listed(event.leases, self._now)

    def _on_transfer_requested(self, event: ev.TransferRequested) -> None:
        leader = self.standing.leader
        if self.role is not Role.LEADER:
            answer = Redirect(*leader) if leader else Refused("no node leads; see /v1/status")
            self._out.append(do.Reply(event.token, answer))
        elif self._transfer is not None:
            self._out.append(do.Reply(event.token, Refused("another node is being made the leader already")))
        else:  # a leader does not follow who else stands: the next list tells
            self._transfer = (event.token, self._now + TRANSFER_S)
            self._out += self.standing.refresh()

    def _on_catchup_requested(self, event: ev.CatchupRequested) -> None:
        if self.role is Role.HALTED:
            self._out.append(do.Reply(event.token, Refused(f"this node has halted: {self.halted}")))
        elif self.installing.busy:
            self._out.append(do.Reply(event.token, Refused("this node is copying another one's store already")))
        else:
            self._out += self.recovery.heal(event.token, self._now)

    def _on_removal_requested(self, event: ev.RemovalRequested) -> None:
        self._out += self.retention.remove(event, self.standing.members)

    def _on_skip_requested(self, event: ev.SkipRequested) -> None:
        halted_at = self.halted.index if self.halted is not None else None
        replicas = self.retention.replicas
        self._out += self._skipping.request(event, self.cursor, halted_at, replicas, self._now)

    def _on_skip_written(self, event: ev.SkipWritten) -> None:
        self._questions.answered(do.WriteSkip)
        self._skipping.written = self.halted is not None and event.index == self.halted.index
        self._ask_tail(confirm=True)

    def _on_handover_requested(self, event: ev.HandoverRequested) -> None:
        self._handover = event.token

    # --- what others see ----------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """The first recovery is done, the own address answers, and the role is what it is going to be."""
        settled = self.role in (Role.FOLLOWER, Role.LEADER) or bool(self.cursor.position.gaps)
        return self.recovery.finished and self.standing.reachable and settled

    def status(self, now: float) -> Status:
        """What this node knows of itself and of the others at the monotonic time ``now``."""
        return status_of(
            role=self.role,
            halted=self.halted,
            standing=self.standing,
            cursor=self.cursor,
            recovery=self.recovery,
            installing=self.installing,
            retention=self.retention,
            replicas=self.leadership.replicator.report() if self.role is Role.LEADER else {},
            last_arrival=self.arrivals.last,
            leases=len(self.leadership.leases),
            now=now,
        )
