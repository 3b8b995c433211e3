"""Where a node stands among the others: its session, its membership, its candidacy, who leads.

Invariants (tests cite the numbers):

S1  A node has a candidate znode only while it could lead: joined, answering on its own address, its store
    without gaps, its first recovery done.
S2  Being the lowest candidate in any view of ZooKeeper, however old, is proof of being the lowest: names are
    given in order and one that is gone never comes back.
S3  Another's candidate or member znode is removed only when its process is known to be gone: nothing listens
    on its address, or another process does. The fence (see ``effects.Append``), not this rule, keeps the log
    safe if the removed one is alive after all.
S4  A node id is used by one process at a time.
"""

from __future__ import annotations

import dataclasses

from kvlog.core.effects import (
    Effect,
    Enrol,
    Exit,
    Join,
    ListCandidates,
    ListMembers,
    Note,
    Probe,
    RemoveCandidate,
    RemoveMember,
    WatchCandidate,
)
from kvlog.core.entry import Leader
from kvlog.core.events import (
    CandidatesChanged,
    CandidatesListed,
    Enrolled,
    JoinBlocked,
    Joined,
    MembersChanged,
    MembersListed,
    Probed,
)
from kvlog.core.questions import Questions
from kvlog.core.values import Candidate, Member, Reach
from kvlog.errors import InUse

About = (
    Joined
    | JoinBlocked
    | MembersChanged
    | MembersListed
    | Enrolled
    | CandidatesListed
    | CandidatesChanged
    | Probed
)
"""The events that tell who is there."""

AGAIN_S = 1.0
"""Pause before an own candidate of an earlier life is removed again, if it is still shown."""

PROBE_INTERVAL_S = 0.15
"""How often a candidate looks whether its predecessor's process is still there. Bounds the takeover time
after a crash from below; a probe is one small request on a kept connection."""


class Standing:
    """See the module's docstring."""

    def __init__(self, me: Member, questions: Questions, *, hold_timeout_s: float) -> None:
        self.me = me
        self.session_id: int | None = None
        self.connected = False
        self.joined = False
        self.reachable = False
        self.candidate: Enrolled | None = None
        self.candidates: tuple[Candidate, ...] = ()
        self.members: tuple[Member, ...] = ()
        self.told: tuple[Leader, int] | None = None  # who leads, by the latest barrier or push
        self._questions = questions
        self._hold_timeout_s = hold_timeout_s
        self._holder: Member | None = None
        self._held_since: float | None = None
        self._removed: dict[str, str] = {}  # by instance: its candidate that this node has removed
        self._blocked_since: dict[str, float] = {}  # by instance, where it has this node's address
        self._asked_to_go: dict[str, float] = {}  # candidates of earlier lives: removed again not before
        self._watched = ""
        self._probe_at = 0.0
        self._waits_for = ""  # the first candidate, as long as it does not lead
        self._waits_since: float | None = None  # None: that has been said

    def handle(self, event: About, now: float) -> list[Effect]:
        """Take an answer, or news, about who is there."""
        answered = self._questions.answered
        match event:
            case Joined():
                answered(Join)
                return self.joined_as(event.session_id)
            case JoinBlocked():
                answered(Join)
                return self.join_blocked(event, now)
            case MembersChanged():
                answered(RemoveMember)
                return [*self.join(), *self._questions.ask(ListMembers())]
            case MembersListed():
                answered(ListMembers)
                return self.members_listed(event.members)
            case Enrolled():
                answered(Enrol)
                return self.enrolled(event)
            case CandidatesListed():
                answered(ListCandidates)
                return self.candidates_listed(event.candidates)
            case CandidatesChanged():
                answered(RemoveCandidate, event.name)
                return self.watch_fired()
            case Probed():
                answered(Probe, event.address)
                return self.probed(event)

    # --- session ------------------------------------------------------------------------------------------

    def session_connected(self, session_id: int, now: float) -> list[Effect]:
        """ZooKeeper is connected. A new session starts from nothing: its ephemeral znodes are to be made."""
        self.connected = True
        self._watched = ""
        self._waits_for = ""
        if session_id != self.session_id:
            self.session_id = session_id
            self.joined = False
            self.candidate = None
        return [*self.join(), *self.refresh(), *self._probe_self(now)]

    def session_suspended(self) -> None:
        """The connection is gone; the znodes may live on."""
        self.connected = False

    def session_lost(self) -> None:
        """The session has ended, and its znodes with it."""
        self.connected = False
        self.session_id = None
        self.joined = False
        self.candidate = None
        self.candidates = ()

    def refresh(self) -> list[Effect]:
        """Read who is there, again."""
        return [*self._questions.ask(ListCandidates()), *self._questions.ask(ListMembers())]

    # --- membership ---------------------------------------------------------------------------------------

    def join(self) -> list[Effect]:
        """Become a member, unless this node is one already."""
        if not self.connected or self.joined:
            return []
        return self._questions.ask(Join(self.me.mode))

    def change_mode(self, mode: str) -> list[Effect]:
        """Tell the others of another recovery mode (a stale store has been healed)."""
        self.me = dataclasses.replace(self.me, mode=mode)
        self.joined = False
        return self.join()

    def joined_as(self, session_id: int) -> list[Effect]:
        """The member znode exists; it counts if it is of the present session."""
        self._holder, self._held_since = None, None
        if session_id == self.session_id:
            self.joined = True
            return self.refresh()
        return []

    def members_listed(self, members: tuple[Member, ...]) -> list[Effect]:
        """The list has been read; if this node's own znode is not in it, somebody has removed it."""
        self.members = members
        if self.joined and not any(member.instance == self.me.instance for member in members):
            self.joined = False
            return self.join()
        return []

    def join_blocked(self, event: JoinBlocked, now: float) -> list[Effect]:
        """Somebody has this id: an earlier life of this node (then it is removed), or another node (S4)."""
        holder = event.holder
        if holder.instance == self.me.instance:  # this very process, in an earlier session
            return self._questions.ask(RemoveMember(holder))
        if holder.address == self.me.address:  # mostly a process that had this address before
            since = self._blocked_since.setdefault(holder.instance, now)
            if now - since > self._hold_timeout_s:  # a dead one's znode would be gone for good by now
                how = "is up, although this node has the same address: say --advertise"
                return [self._id_in_use(holder, how)]
            return self._questions.ask(RemoveMember(holder))
        if self._holder != holder:
            self._holder, self._held_since = holder, now
        if self._held_since is not None and now - self._held_since > self._hold_timeout_s:
            return [self._id_in_use(holder, "does not answer, but its ZooKeeper session lives")]
        return self._questions.ask(Probe(holder.address), holder.address)

    def _id_in_use(self, holder: Member, how: str) -> Exit:
        return Exit(
            InUse.exit_code,
            f"the id {self.me.node_id} is in use by the node at {holder.address}, which {how}; "
            "give this node another --id, or stop that one first",
        )

    # --- candidacy ----------------------------------------------------------------------------------------

    def enrol(self, *, eligible: bool) -> list[Effect]:
        """Stand for election, if this node could lead (S1)."""
        if not (eligible and self.connected and self.joined and self.reachable) or self.candidate:
            return []
        return self._questions.ask(Enrol())

    def enrolled(self, event: Enrolled) -> list[Effect]:
        """The candidate znode exists; it counts if it is of the present session."""
        if event.session_id == self.session_id:
            self.candidate = event
        return self._questions.ask(ListCandidates())

    def resign(self) -> list[Effect]:
        """Give up the candidacy; a new one may follow."""
        mine = self.candidate
        if mine is None:
            return []
        self.candidate = None
        self.candidates = tuple(other for other in self.candidates if other.name != mine.name)
        return self._questions.ask(RemoveCandidate(mine.name), mine.name)

    def candidates_listed(self, candidates: tuple[Candidate, ...]) -> list[Effect]:
        """The list has been read: remove what an earlier life left behind, watch the predecessor."""
        self.candidates = candidates
        if self.rank is None:
            # This session's requests are answered in order, so the list was read after the candidate was made,
            # and a session never sees ZooKeeper go back in time: it was removed.
            self.candidate = None
        effects: list[Effect] = []
        for other in candidates:
            mine = self.candidate is not None and other.name == self.candidate.name
            left_behind = other.node_id == self.me.node_id and not mine
            if left_behind and self.joined:  # this process has the id, so that one is of another life (S3, S4)
                effects += self._remove_left_behind(other)
        watched = self.predecessor or (candidates[0] if candidates and not self.candidate else None)
        name = watched.name if watched else ""
        if name and name != self._watched:
            effects.append(WatchCandidate(name))
        self._watched = name
        return effects

    def _remove_left_behind(self, other: Candidate) -> list[Effect]:
        """Remove a candidate of an earlier life of this node; not too often.

        A server of ZooKeeper may go on showing an ephemeral znode whose session has ended everywhere
        (ZOOKEEPER-4837, 5010): then removing it changes nothing, and is answered at once.
        """
        now = self._questions.now
        if now < self._asked_to_go.get(other.name, 0.0):
            return []
        self._asked_to_go = {other.name: now + AGAIN_S} | {
            name: until for name, until in self._asked_to_go.items() if until > now
        }
        return self._questions.ask(RemoveCandidate(other.name), other.name)

    def watch_failed(self) -> None:
        """Nothing is watched: the next reading of the list tries again."""
        self._watched = ""

    def watch_fired(self) -> list[Effect]:
        """The watched candidate is gone, or may be."""
        self._watched = ""
        return self._questions.ask(ListCandidates())

    @property
    def rank(self) -> int | None:
        """The place of the own candidate in the list, 0 for the lowest; None if it is not there."""
        for place, other in enumerate(self.candidates):
            if self.candidate is not None and other.name == self.candidate.name:
                return place
        return None

    @property
    def predecessor(self) -> Candidate | None:
        """The candidate right before this node's."""
        rank = self.rank
        return self.candidates[rank - 1] if rank else None

    def learn_leader(self, leader: Leader, epoch: int) -> None:
        """A barrier in the log, or a push, has told who leads."""
        if self.told is None or epoch > self.told[1]:
            self.told = (leader, epoch)

    @property
    def leader(self) -> tuple[Leader, int] | None:
        """Who leads and since which epoch, as far as this node knows; None during an election."""
        if self.told is None or (self.connected and not self.candidates):
            return None
        if self.candidates and self.candidates[0].epoch > self.told[1]:
            return None  # elected, but its barrier has not been seen here
        return self.told

    @property
    def why_nobody_leads(self) -> str:
        """Why a write has waited in vain."""
        if not self.connected:
            return "no connection to ZooKeeper"
        if self.leader:
            return f"the leader at {self.leader[0].address} cannot be reached from here"
        if not self.candidates:
            return "no node leads, and none stands for election"
        first = self.candidates[0]
        return f"no node leads: {first.node_id} at {first.address} is to be next, and has not begun"

    # --- probes -------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Probe what has to be probed."""
        if not self.connected or now < self._probe_at:
            return []
        self._probe_at = now + PROBE_INTERVAL_S
        effects = [*self.join(), *self._say_who_holds_up(now)]
        if not self.reachable:
            effects += self._probe_self(now)
        if (before := self.predecessor) is not None:
            effects += self._questions.ask(Probe(before.address), before.address)
        return effects

    def _say_who_holds_up(self, now: float) -> list[Effect]:
        """Say it once if the first candidate does not begin in a time in which a dead one's session would end."""
        first = self.candidates[0] if self.rank and self.leader is None else None
        name = first.name if first else ""
        if name != self._waits_for:
            self._waits_for, self._waits_since = name, now
        since = self._waits_since
        if first is None or since is None or now - since <= self._hold_timeout_s:
            return []
        self._waits_since = None
        return [
            Note(
                f"nobody has led for {now - since:.0f} s: {first.node_id} at {first.address} is to be next, and "
                "has not begun. If no such node runs, ZooKeeper keeps a znode whose owner is gone: delete it with "
                f"zkCli.sh -server HOSTS delete ELECTION/{first.name}"
            )
        ]

    def hurry(self) -> None:
        """Somebody has found the leader gone: probe at the next tick."""
        self._probe_at = 0.0

    def _probe_self(self, now: float) -> list[Effect]:
        self._probe_at = now + PROBE_INTERVAL_S
        return [] if self.reachable else self._questions.ask(Probe(self.me.address), self.me.address)

    def probed(self, event: Probed) -> list[Effect]:
        """What a probe has found, for whichever reason it was sent."""
        effects: list[Effect] = []
        if event.address == self.me.address and event.reach is Reach.ANSWERS:
            if event.instance != self.me.instance:
                return [Exit(InUse.exit_code, f"another process answers on {self.me.address}")]
            self.reachable = True
        before = self.predecessor
        if before is not None and before.address == event.address and _is_gone(before.instance, event):
            effects += self._remove_predecessor(before)
        holder = self._holder
        if holder is not None and holder.address == event.address:
            if _is_gone(holder.instance, event):
                effects += self._questions.ask(RemoveMember(holder))
            elif event.reach is Reach.ANSWERS:
                effects.append(self._id_in_use(holder, "is up"))
        return effects

    def _remove_predecessor(self, before: Candidate) -> list[Effect]:
        """Remove the znode of a process that is gone; but only once.

        If it stands for election again, it is alive: two nodes that advertise one address, or that cannot reach
        each other, would otherwise depose each other for ever. Then the session timeout decides.
        """
        if self._removed.setdefault(before.instance, before.name) != before.name:
            return []
        note = Note(f"the process of {before.node_id} is gone: removing its candidate znode")
        return [note, *self._questions.ask(RemoveCandidate(before.name), before.name)]


def _is_gone(instance: str, event: Probed) -> bool:
    """Whether the probe has shown that the process ``instance`` does not run at that address any more (S3)."""
    return event.reach is Reach.REFUSED or (event.reach is Reach.ANSWERS and event.instance != instance)
