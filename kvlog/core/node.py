"""One node's decisions: ``step`` takes an event and returns what is to be done, in order.

A node is the sum of its parts (``standing``: among the others; ``cursor``: in the log; ``writer`` and
``replicator``: as a leader) and of its role. After each event ``_advance`` lets every part move on as far as it
can, so that no order of events can leave one waiting. Invariants (tests cite the numbers):

N1  Only the lowest candidate appends: its barrier when elected, other entries as a leader (see leadership).
N2  Each epoch begins with one barrier.
N3  A node that missed entries (a stale store) neither stands for election nor counts as ready.
N4  An entry of the log that cannot be applied halts the node at the index before it.
N5  The store never stands behind the log's confirmed tail: if it does, this is another log, and the node exits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.cursor import Cursor
from kvlog.core.entry import Leader, LogEntry
from kvlog.core.leadership import Leadership
from kvlog.core.machine import Position, View
from kvlog.core.parking import Parking
from kvlog.core.pushes import Pushes
from kvlog.core.recovery import Recovery, short_log, wrong_log
from kvlog.core.role import Input, Role, next_role
from kvlog.core.standing import RETRY_S, About, Questions, Standing
from kvlog.core.status import Status, status_of
from kvlog.core.values import Done, Member, NodeSettings, Refused
from kvlog.errors import BadEntry, WrongLog

POLL_S = 1.0
"""How often the tail, the candidates and the members are read, whatever watches and pushes said: the net
below both, and what bounds the staleness that an idle node reports."""


class Node:
    """See the module's docstring."""

    def __init__(self, settings: NodeSettings, store: View, position: Position) -> None:
        me = Member(settings.node_id, settings.instance, settings.address, settings.recover)
        self._questions = Questions()
        self._me = Leader(settings.node_id, settings.address)
        self.role = Role.OFFLINE
        self.halted = ""
        self.standing = Standing(me, self._questions, hold_timeout_s=1.5 * settings.session_timeout_s)
        self.cursor = Cursor(position)
        self.leadership = Leadership(self._me, store, instance=settings.instance)
        self.recovery = Recovery(settings.recover, position)
        self._pushes = Pushes()
        self._parking = Parking(self._me)
        self._applied_when_asked = -1
        self._watched_segment: int | None = None
        self._poll_at = 0.0
        self._read_at = 0.0
        self._handover: int | None = None  # token of the request to stop
        self._now = 0.0
        self._wall_ms = 0
        self._out: list[do.Effect] = []
        if position.leader is not None:
            self.standing.learn_leader(position.leader, position.epoch)
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.Tick: self._on_tick,
            ev.Failed: self._on_failed,
            ev.SessionConnected: self._on_connected,
            ev.SessionSuspended: self._on_disconnected,
            ev.SessionLost: self._on_disconnected,
            ev.TailRead: self._on_tail_read,
            ev.SegmentChanged: lambda event: self.cursor.saw(event.tail_index),
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
            ev.CatchupRequested: self._on_catchup_requested,
            ev.HandoverRequested: self._on_handover_requested,
            **dict.fromkeys(get_args(About), self._on_standing),
        }

    def step(self, event: ev.Event, now: float, wall_ms: int) -> list[do.Effect]:
        """Decide what follows from ``event`` at the monotonic time ``now`` (seconds)."""
        self._now, self._wall_ms, self._out = now, wall_ms, []
        self._questions.now = now
        try:
            self._handlers[type(event)](event)
            self._advance()
        except BadEntry as error:
            self._halt(str(error))
        return self._out

    # --- session, membership, candidacy -------------------------------------------------------------------

    def _on_tick(self, _: ev.Tick) -> None:
        self._out += self.standing.tick(self._now)
        self._out += self.leadership.expire(self._now, self.cursor)
        self._out += self._parking.expire(self._now, self.standing.why_nobody_leads)
        self._out += self._pushes.expire(self._now, self.cursor)
        if self.standing.connected and self._now >= self._poll_at:
            self._poll_at = self._now + POLL_S
            self._out += self.standing.refresh()
            self._ask_tail(confirm=not self.recovery.decided)

    def _on_failed(self, event: ev.Failed) -> None:
        effect = event.effect
        if isinstance(effect, do.ReadEntries):
            self.cursor.read_failed()
            self._read_at = self._now + RETRY_S
        elif isinstance(effect, do.RemoveCandidate):
            self._questions.failed(do.RemoveCandidate, effect.name)
            self._handed_over()
        elif isinstance(effect, do.WatchCandidate):
            self.standing.watch_failed()
        else:
            self._questions.failed(type(effect))

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
        self._become(Input.DISCONNECTED)
        self._handed_over()

    def _on_standing(self, event: About) -> None:
        self._out += self.standing.handle(event, self._now)
        if isinstance(event, ev.MembersListed):
            self.leadership.replicator.set_members(event.members)
        if isinstance(event, ev.CandidatesChanged):
            self._handed_over()

    # --- the log ------------------------------------------------------------------------------------------

    def _on_tail_read(self, event: ev.TailRead) -> None:
        self._questions.answered(do.ReadTail)
        applied = self._applied_when_asked
        if event.confirmed and event.tail_index < applied:
            self._out.append(do.Exit(WrongLog.exit_code, short_log(event.tail_index, applied)))
            return
        self.cursor.observe(event.tail_index, event.asked_at, confirmed=event.confirmed)
        if not event.confirmed:
            return
        self.recovery.decide(event.tail_index)
        self.leadership.tail_confirmed(event.tail_index, event.asked_at)

    def _on_entries_read(self, event: ev.EntriesRead) -> None:
        for item in self.cursor.read_done(event.first_index, event.entries):
            self._entry_seen(item)

    def _on_appended(self, event: ev.Appended) -> None:
        item = self.leadership.appended(event, self.cursor)
        if item is not None:
            self._entry_seen(item)

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
        self.cursor.applied(event.position)
        self.leadership.writer.applied(event.position.applied_index)

    def _entry_seen(self, item: LogEntry) -> None:
        """The next entry of the log is known, by whichever way it came."""
        self._out += self.leadership.writer.entry_seen(item)
        if item.entry.leader is not None:
            self.standing.learn_leader(item.entry.leader, item.entry.epoch)
        if self.role in (Role.ELECTED, Role.LEADER):
            self.leadership.replicator.record(item.index, item.data)
            if item.entry.epoch > self._epoch:
                self._resign(f"epoch {item.entry.epoch} has begun")

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
            for item in items:
                self._entry_seen(item)
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

    def _on_catchup_requested(self, event: ev.CatchupRequested) -> None:
        if self.role is Role.HALTED:
            self._out.append(do.Reply(event.token, Refused(f"this node has halted: {self.halted}")))
        else:
            self._out += self.recovery.heal(event.token, self._now)

    def _on_handover_requested(self, event: ev.HandoverRequested) -> None:
        self._handover = event.token

    # --- moving on ----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Let every part move on as far as it can."""
        if self.role is not Role.HALTED:
            self._recover()
            self._stand()
            self._take_over()
            self._work()
        self._route_writes()
        self._lead()
        self._stop()
        if self.role is Role.HALTED:
            self._out += self.standing.resign()
        self._out += self._pushes.applied(self.cursor)

    def _recover(self) -> None:
        """The first thing a started node does: replay, or declare what it missed."""
        before, skip_to = self.recovery.finished, self.recovery.skip_to(self.cursor)
        if skip_to is not None and self.cursor.hold():
            self._out.append(do.SkipTo(skip_to))
        self._out += self.recovery.progress(self.cursor, self._now)
        if self.recovery.finished and not before:
            self._become_noted()
        if self.recovery.healed:
            self.recovery.healed = False
            self._out += self.standing.change_mode("catchup")

    def _stand(self) -> None:
        """Follow the candidacy with the role."""
        rank = self.standing.rank
        if self.role in (Role.FOLLOWER, Role.ELECTED, Role.LEADER) and self.standing.candidate is None:
            self._resign("its candidate znode is gone")
        if self.role is Role.OBSERVER and rank is not None:
            self._become(Input.ENROLLED)
        if self.role is Role.FOLLOWER and rank == 0:
            self._become(Input.LOWEST)
        self._out += self.standing.enrol(eligible=self.role is Role.OBSERVER and self._electable)

    @property
    def _electable(self) -> bool:
        return self.recovery.finished and not self.cursor.position.gaps and self._handover is None

    def _take_over(self) -> None:
        candidate = self.standing.candidate
        if self.role is not Role.ELECTED or candidate is None:
            return
        if self.leadership.needs_tail:
            self._ask_tail(confirm=True)
        takeover = self.leadership.take_over(self.cursor, candidate, self._now, self._wall_ms)
        self._out += takeover.effects
        if takeover.change is Input.RESIGNED:
            self._resign(takeover.reason)
        elif takeover.change is not None:
            self._become(takeover.change)

    def _work(self) -> None:
        """Feed the store, and read what is missing."""
        if (apply := self.cursor.next_apply()) is not None:
            self._out.append(apply)
        if not self.standing.connected:
            return
        if self.cursor.missing is not None:
            self._ask_tail(confirm=True)
        may_read = self._may_read and self._now >= self._read_at
        if may_read and (read := self.cursor.next_read()) is not None:
            self._out.append(read)
        segment = None if self.role is Role.LEADER else self.cursor.segment
        if segment != self._watched_segment:
            self._watched_segment = segment
            self._out.append(do.WatchSegment(segment))

    @property
    def _may_read(self) -> bool:
        """A stale store takes nothing in before it has declared what it missed."""
        return self.recovery.mode == "catchup" or self.recovery.finished

    def _lead(self) -> None:
        """Append what is waiting, push what is appended, answer what is acknowledged."""
        candidate = self.standing.candidate
        if self.role is not Role.LEADER or candidate is None:
            return
        if self._handover is None:
            self._out += self.leadership.append(self.cursor, candidate, self._now, self._wall_ms)
        self._out += self.leadership.replicate(self.cursor, candidate, self._now)

    def _stop(self) -> None:
        """Hand the leadership over once nothing is under way."""
        if self._handover is None or self.role is Role.STOPPING:
            return
        writer = self.leadership.writer
        if self.role is Role.LEADER and (writer.in_flight or writer.acking):
            return
        removal = self.standing.resign()
        self._out += removal
        self._become(Input.STOP)
        if not removal:
            self._handed_over()

    def _handed_over(self) -> None:
        if self.role is Role.STOPPING and self._handover:
            token, self._handover = self._handover, 0
            self._out.append(do.Reply(token, Done("leads no more")))

    def _route_writes(self) -> None:
        """Send each waiting write where it can be done."""
        accepting = self.role is Role.LEADER and self._handover is None
        replies, here = self._parking.route(
            self.role, self.standing.leader, accepting=accepting, halted=self.halted
        )
        self._out += replies
        for write in here:
            self._out += self.leadership.writer.submit(write)

    # --- roles --------------------------------------------------------------------------------------------

    @property
    def _epoch(self) -> int:
        return self.standing.candidate.epoch if self.standing.candidate else 0

    def _ask_tail(self, *, confirm: bool) -> None:
        asked = self._questions.ask(do.ReadTail(confirm=confirm))
        if asked:
            self._applied_when_asked = self.cursor.position.applied_index
        self._out += asked

    def _resign(self, reason: str) -> None:
        self._out += self.standing.resign()
        if self.role in (Role.FOLLOWER, Role.ELECTED, Role.LEADER):
            self._become(Input.RESIGNED, reason)

    def _become(self, event: Input, reason: str = "") -> None:
        """Change the role, and do what belongs to leaving one and entering another."""
        before, self.role = self.role, next_role(self.role, event)
        if before is Role.LEADER and self.role is not Role.LEADER:
            self._parking.take_back(self.leadership.writer.take_queue())
            self._out += self.leadership.writer.acknowledge(self.cursor.next_index - 1, {})
        if self.role is Role.ELECTED:
            self.leadership.elected(self._now, self.standing.members)
        if before is not self.role:
            self._become_noted(before, reason)

    def _become_noted(self, before: Role | None = None, reason: str = "") -> None:
        if self.recovery.finished or self.role in (Role.OFFLINE, Role.HALTED):
            was = f" (was {before})" if before else ""
            why = f": {reason}" if reason else ""
            where = f"epoch {self.cursor.epoch}, index {self.cursor.next_index - 1}"
            self._out.append(do.Note(f"{self.role}{was}, {where}{why}"))

    def _halt(self, reason: str) -> None:
        """Stop applying for good; go on answering reads, and saying why (N4)."""
        self.halted = reason
        self._out += self.standing.resign()
        if self.role is not Role.HALTED:
            self._become(Input.HALT, reason)

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
            replicas=self.leadership.replicator.report() if self.role is Role.LEADER else {},
            now=now,
        )
