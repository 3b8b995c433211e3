"""A node's parts, its role, and all that it does by itself once something has changed.

``advance`` lets every part move on as far as it can, after each event, so that no order of events can leave one
waiting. What events change at first, and the invariants, is in ``node``.
"""

from __future__ import annotations

from kvlog.core import effects as do
from kvlog.core.agreement import Agreement
from kvlog.core.arrivals import Arrivals
from kvlog.core.cursor import Cursor
from kvlog.core.entry import Leader, segment_of
from kvlog.core.evaluate import View
from kvlog.core.events import TailRead
from kvlog.core.gathering import Gathering
from kvlog.core.installing import Installing
from kvlog.core.leadership import Leadership
from kvlog.core.machine import Position
from kvlog.core.parking import Parking
from kvlog.core.pushes import Pushes
from kvlog.core.questions import Questions
from kvlog.core.reads import Reads
from kvlog.core.recovery import Recovery
from kvlog.core.retention import Retention
from kvlog.core.role import Input, Role, next_role
from kvlog.core.skipping import Skipping
from kvlog.core.standing import Standing
from kvlog.core.values import Done, Member, NodeSettings, Refused, Replica
from kvlog.errors import BadEntry

PUSH_GRACE_S = 0.04
"""How long an entry that the log is known to have is not read from there, while pushes come: this one is probably
on its way, and would be read, sent and decoded for nothing."""

WATCH_PAUSE_S = 0.1
"""Pause after a watch has told of an entry: to list a segment for every one of hundreds a second, which are pushed
anyway, would take more than to apply them."""

TRANSFER_S = 8.0
"""How long letting another node lead may take."""

ALONE_S = 1.5
"""For how long a leader that is to let another one lead looks for one that stands for election."""


class Conduct:
    """See the module's docstring; ``_out`` gathers the effects of the present step."""

    def __init__(self, settings: NodeSettings, store: View, position: Position) -> None:
        me = Member(settings.node_id, settings.instance, settings.address, settings.recover)
        self._questions = Questions()
        self._me = Leader(settings.node_id, settings.address)
        self.role = Role.OFFLINE
        self.halted: BadEntry | None = None
        self.standing = Standing(me, self._questions, hold_timeout_s=1.5 * settings.session_timeout_s)
        self.cursor = Cursor(position)
        self.leadership = Leadership(self._me, store, instance=settings.instance)
        self.recovery = Recovery(settings.recover, position)
        self.installing = Installing(settings.node_id)
        self.retention = Retention(
            self._me,
            self._questions,
            retain_entries=settings.retain_entries,
            log_bytes_max=settings.log_bytes_max,
        )
        self.agreement = Agreement(settings.node_id)
        self._skipping = Skipping(self._questions, node_id=settings.node_id, instance=settings.instance)
        self.arrivals = Arrivals()
        self._pushes = Pushes()
        self._reads = Reads()
        self._parking = Parking(self._me)
        self._applied_when_asked = self._applied_when_confirmed = -1
        self._confirming = Gathering()
        self._look_closely = False  # the quick way to the tail has come to nothing
        self._watched_segment: int | None = None
        self._watch_at = 0.0
        self._poll_at = 0.0
        self._read_at = 0.0
        self._handover: int | None = None  # token of the request to stop
        self._transfer: tuple[int, float] | None = (
            None  # token and deadline of the request to let another one lead
        )
        self._now = 0.0
        self._wall_ms = 0
        self._hurry = False  # in this step, what can wait for the next tick does
        self._out: list[do.Effect] = []
        if position.leader is not None:
            self.standing.learn_leader(position.leader, position.epoch)

    # --- moving on ----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Let every part move on as far as it can; in a hurry, those that a request may concern."""
        self._hurry = self._hurry and self._settled
        if self.role is not Role.HALTED and not self._hurry:
            self._recover()
            self._stand()
            self._take_over()
        standing_still = self.installing.busy and self.cursor.position.gaps  # I2
        if not standing_still and (apply := self.cursor.next_apply()) is not None:
            self._out.append(apply)
        if self.standing.connected:
            self._confirm_tail()
            if self.role is Role.HALTED and self._skipping.needs_tail:
                self._ask_tail(confirm=True)
            if not (self._hurry and self.role is Role.LEADER):  # a leader has written all that there is
                self._out += self._get_past() if self.role is Role.HALTED else self._read()
            # Before it is decided, the store may turn out not to go with this log (N5, K4).
            if self.recovery.decided and not self._hurry:
                self._out += self.retention.mark(self.cursor, self.agreement, self._now)
        self._route_writes()
        self._lead()
        if not self._hurry:
            self._let_another_lead()
            self._stop()
            if self.role is Role.HALTED:
                self._out += self.standing.resign()
        self._out += self._pushes.applied(self.cursor)
        self._out += self._reads.ready(self.cursor)

    @property
    def _settled(self) -> bool:
        """The node leads or follows, and is about to do nothing else."""
        leads_or_follows = self.role is Role.LEADER or self.role is Role.FOLLOWER
        staying = self._handover is None and self._transfer is None
        return leads_or_follows and staying and self.recovery.finished

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
        if self.role in (Role.FOLLOWER, Role.ELECTED) and self.cursor.trimmed:
            self._resign("the log has been trimmed beyond its store")
        if self.role is Role.OBSERVER and rank is not None:
            self._become(Input.ENROLLED)
        if self.role is Role.FOLLOWER and rank == 0:
            self._become(Input.LOWEST)
        self._out += self.standing.enrol(eligible=self.role is Role.OBSERVER and self._electable)

    @property
    def _electable(self) -> bool:
        whole = not self.cursor.position.gaps and not self.cursor.trimmed
        return self.recovery.finished and whole and self._handover is None

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

    def _read(self) -> list[do.Effect]:
        """Read what is missing, or copy it where the log has it no more."""
        if self.cursor.missing is not None:
            self._ask_tail(confirm=True)
        effects: list[do.Effect] = []
        if self._may_read:
            if self._now >= self._read_at and (read := self.cursor.next_read()) is not None:
                effects.append(read)
            effects += self.installing.advance(self.cursor, *self._others, self._now)
        segment = None if self.role is Role.LEADER else self.cursor.segment
        if segment != self._watched_segment and (segment is None or self._now >= self._watch_at):
            self._watched_segment = segment
            effects.append(do.WatchSegment(segment))
        return effects

    def _get_past(self) -> list[do.Effect]:
        """Past the entry that cannot be applied: by a skip, or with the store of a node that has applied it."""
        effects = self._skipping.work()
        if self.halted is not None and self.recovery.began_empty and not self.cursor.position.gaps:
            effects += self.installing.past(self.halted.index, self.cursor, *self._others, self._now)
        return effects

    @property
    def _others(self) -> tuple[tuple[Member, ...], tuple[Replica, ...], str]:
        """Who is up, whom the cluster counts on, and the leader's id."""
        leader = self.standing.leader[0].node_id if self.standing.leader else ""
        return self.standing.members, self.retention.replicas, leader

    @property
    def _may_read(self) -> bool:
        """A stale store takes nothing in before it has declared what it missed."""
        return self.recovery.mode == "catchup" or self.recovery.finished

    def _lead(self) -> None:
        """Append what is waiting, push what is appended, answer what is acknowledged."""
        candidate = self.standing.candidate
        if self.role is not Role.LEADER or candidate is None:
            return
        if self._handover is None and not self._yields:
            if not self._hurry and not self.retention.why_full(self.cursor):
                self.leadership.end_leases(self._now)
            self._out += self.leadership.append(self.cursor, candidate, self._now, self._wall_ms)
            if not self._hurry:
                self._out += self.retention.trim(self.cursor, candidate.name)
        self._out += self.leadership.replicate(self.cursor, candidate, self._now)

    def _let_another_lead(self) -> None:
        """Give the candidacy up once nothing is under way, and stand again behind the others."""
        if self._transfer is None:
            return
        token, deadline = self._transfer
        leader = self.standing.leader
        writer = self.leadership.writer
        if self.role is Role.LEADER and not self._yields:
            if self._now >= deadline - TRANSFER_S + ALONE_S:
                self._transfer = None
                reason = "no other node stands for election: none is up, or none is ready; see /v1/status"
                self._out.append(do.Reply(token, Refused(reason)))
            return
        if self.role is Role.LEADER:
            if not (writer.in_flight or writer.acking):
                self._resign("an operator wants another node to lead")
        elif leader is not None and leader[0] != self._me:
            self._transfer = None
            self._out.append(do.Reply(token, Done(f"{leader[0].node_id} leads")))
            return
        if self._now >= deadline:
            self._transfer = None
            self._out.append(do.Reply(token, Refused("no other node has begun to lead in time; see /v1/status")))

    @property
    def _yields(self) -> bool:
        """Another node is to lead, and there is one that can."""
        return self._transfer is not None and len(self.standing.candidates) > 1

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
        if self._parking.empty:
            return
        accepting = self.role is Role.LEADER and self._handover is None and not self._yields
        replies, here = self._parking.route(
            self.role, self.standing.leader, accepting=accepting, halted=str(self.halted or "")
        )
        self._out += replies
        full = self.retention.why_full(self.cursor) if here else ""
        for write in here:
            self._out += self.leadership.submit(write, full, self._now)

    # --- roles --------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float | None:
        """When the node wants to be woken, if nothing happens before; monotonic seconds."""
        appending = self.leadership.gathering.wake_at if self.role is Role.LEADER else None
        confirming = self._confirming.wake_at
        if appending is None or confirming is None:
            return appending or confirming
        return min(appending, confirming)

    @property
    def _epoch(self) -> int:
        return self.standing.candidate.epoch if self.standing.candidate else 0

    def _ask_tail(self, *, confirm: bool) -> None:
        asked = self._questions.ask(do.ReadTail(confirm=confirm))
        if asked:
            self._applied_when_asked = self.cursor.position.applied_index
        self._out += asked

    def _confirm_tail(self) -> None:
        """Have the tail confirmed for reads: in the quick way, if that does."""
        reads = self._reads.unconfirmed
        if reads and (self._look_closely or self.role is Role.HALTED or not self.recovery.decided):
            self._ask_tail(confirm=True)
            return
        if self._questions.is_open(do.ConfirmTail) or not self._confirming.complete(reads, self._now):
            return
        asked = self._questions.ask(do.ConfirmTail(segment_of(self.cursor.tail_index + 1)))
        if asked:
            self._applied_when_confirmed = self.cursor.position.applied_index
            self._confirming.gone(reads, self._now)
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
            self.leadership.leases.clear()
        if self.role is Role.LEADER and before is not Role.LEADER:
            self._out += self.leadership.serve()
        if self.role is Role.ELECTED:
            self.leadership.elected(self._now, self.standing.members)
            self.retention.elected()
        if before is not self.role:
            self._become_noted(before, reason)

    def _become_noted(self, before: Role | None = None, reason: str = "") -> None:
        if self.recovery.finished or self.role in (Role.OFFLINE, Role.HALTED):
            was = f" (was {before})" if before else ""
            why = f": {reason}" if reason else ""
            where = f"epoch {self.cursor.epoch}, index {self.cursor.next_index - 1}"
            self._out.append(do.Note(f"{self.role}{was}, {where}{why}"))

    def _halt(self, error: BadEntry) -> None:
        """Go no further; go on answering reads, and saying why (N4)."""
        self.halted = error
        self.leadership.writer.lost()  # its place may be taken; the log tells what has become of it (W4)
        self._out += self.standing.resign()
        if self.role is not Role.HALTED:
            self._become(Input.HALT, str(error))

    def _resume_behind(self, index: int, log: TailRead) -> None:
        """Go on if the entry at which this node has halted is skipped, or is not in the log any more."""
        if index in log.skips:
            self._resume(index, "which was skipped")
        elif index < log.first_index:
            self._resume(index, "which has been trimmed")

    def _resume(self, index: int, how: str) -> None:
        """The entry at which this node has halted is out of the way."""
        self.halted = None
        self.cursor.resume()
        self._out += self._skipping.resumed(index, how)
        self._become(Input.RESUMED)
