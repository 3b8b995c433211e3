"""The ports Log and Election without a ZooKeeper: for simulation, tests and trying things out.

``MemoryEnsemble`` is a model of what kvlog uses of ZooKeeper: sessions, ephemeral and sequential znodes, the
fenced append, one-shot watches. ``carry`` decides when and whether a request and its answer arrive; the default
carries both at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import first_of, segment_of
from kvlog.core.machine import Identity
from kvlog.core.values import Candidate, Member, Replica
from kvlog.ports import Clock, Post

Carry = Callable[[Callable[[], ev.Event], ev.Event], None]
"""Called with what the ensemble does when the request arrives (it returns the answer), and with the event that
stands for no answer."""


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self.now

    def wall_ms(self) -> int:
        """The same in milliseconds."""
        return round(self.now * 1000)


@dataclass(slots=True)
class _Znode:
    """An ephemeral znode of an election or membership."""

    session_id: int
    candidate: Candidate | None = None
    member: Member | None = None


@dataclass
class MemoryEnsemble:
    """The state of the ensemble; sessions of several nodes share it."""

    identity: Identity = field(default_factory=lambda: Identity("memory", 1))
    entries: list[bytes] = field(default_factory=list)  # all there ever were, for those who check
    first_index: int = 0  # where the log begins, as it says
    first_bytes: int = 0  # size of all entries before it
    kept_from: int = 0  # what is below has been deleted
    skips: dict[int, bytes] = field(default_factory=dict)  # all there ever were
    replicas: dict[str, Replica] = field(default_factory=dict)
    registry_version: int = 0
    sessions: set[int] = field(default_factory=set)
    candidates: dict[str, _Znode] = field(default_factory=dict)
    members: dict[str, _Znode] = field(default_factory=dict)
    zxid: int = 1
    sequence: int = 0
    removal_watches: dict[str, list[Callable[[], None]]] = field(default_factory=dict)
    segment_watches: dict[int, Callable[[int], None]] = field(default_factory=dict)  # by session
    member_watches: dict[int, Callable[[], None]] = field(default_factory=dict)  # by session

    @property
    def tail_index(self) -> int:
        """Index of the last entry, -1 if there is none."""
        return len(self.entries) - 1

    def entry(self, index: int) -> bytes | None:
        """What is at ``index``: a skip, an entry, or nothing any more."""
        if not self.kept_from <= index < len(self.entries):
            return None
        return self.skips.get(index, self.entries[index])

    def open_session(self) -> int:
        """A new session's id."""
        self.zxid += 1
        self.sessions.add(self.zxid)
        return self.zxid

    def end_session(self, session_id: int) -> None:
        """Expire or close a session: its ephemeral znodes go."""
        self.sessions.discard(session_id)
        self.segment_watches.pop(session_id, None)
        self.member_watches.pop(session_id, None)
        for name in [name for name, node in self.candidates.items() if node.session_id == session_id]:
            self.remove_candidate(name)
        for node_id in [node_id for node_id, node in self.members.items() if node.session_id == session_id]:
            del self.members[node_id]
            self.members_changed()

    def remove_candidate(self, name: str) -> None:
        """Delete a candidate's znode, if it is there."""
        self.zxid += 1
        if self.candidates.pop(name, None) is not None:
            for fire in self.removal_watches.pop(name, []):
                fire()

    def members_changed(self) -> None:
        """Fire the watches on the members."""
        watches, self.member_watches = self.member_watches, {}
        for fire in watches.values():
            fire()

    def append(self, fence: str, data: bytes) -> int | None:
        """The fenced append: the new entry's index, or None if the fence is gone."""
        self.zxid += 1
        if fence not in self.candidates:
            return None
        self.entries.append(data)
        for fire in list(self.segment_watches.values()):
            fire(self.tail_index)
        return self.tail_index

    def append_stranger(self, data: bytes) -> None:
        """What somebody else creates in the log, who knows nothing of fences."""
        self.zxid += 1
        self.entries.append(data)
        for fire in list(self.segment_watches.values()):
            fire(self.tail_index)


class MemorySession:
    """The ports Log and Election over a MemoryEnsemble, for one node."""

    def __init__(
        self,
        ensemble: MemoryEnsemble,
        me: Member,
        post: Post,
        clock: Clock,
        carry: Carry | None = None,
        deliver: Callable[[ev.Event], None] | None = None,
        up_to_date: Callable[[], bool] = lambda: True,
    ) -> None:
        self._ensemble = ensemble
        self._me = me
        self._post = post
        self._clock = clock
        self._carry = carry or (lambda request, _: post(request()))
        self._deliver = deliver or post  # how notifications of watches travel
        self._up_to_date = up_to_date  # whether the server that is asked has caught up with the others
        self._seen_entries = 0
        self._seen_candidates: dict[str, _Znode] = {}
        self.session_id = 0

    def connect(self) -> None:
        """Connect, with a new session if there was none or it has ended."""
        if self.session_id not in self._ensemble.sessions:
            if self.session_id:
                self._post(ev.SessionLost())
            self.session_id = self._ensemble.open_session()
        self._post(ev.SessionConnected(self.session_id, self._ensemble.identity))

    def _look(self, *, confirm: bool = False) -> None:
        """See the ensemble as the server does that this session is connected to.

        A server may lag behind the others. It never goes back, it knows what this session itself has written,
        and once it has taken part in an agreement it knows all that was agreed on before.
        """
        if confirm or self._up_to_date():
            self._seen_entries = len(self._ensemble.entries)
            self._seen_candidates = dict(self._ensemble.candidates)

    # --- Log ----------------------------------------------------------------------------------------------

    def read_tail(self, effect: do.ReadTail) -> None:
        """See ports.Log."""
        asked_at = self._clock.monotonic()

        def request() -> ev.Event:
            self._look(confirm=effect.confirm)
            ensemble = self._ensemble
            return ev.TailRead(
                self._seen_entries - 1,
                asked_at,
                effect.confirm,
                ensemble.first_index,
                ensemble.first_bytes,
                tuple(sorted(ensemble.skips)),
            )

        self._carry(request, ev.Failed(effect))

    def confirm_tail(self, effect: do.ConfirmTail) -> None:
        """See ports.Log."""
        asked_at = self._clock.monotonic()

        def request() -> ev.Event:
            self._look(confirm=True)
            if segment_of(self._seen_entries) != effect.segment:
                return ev.Failed(effect)
            return ev.TailConfirmed(self._seen_entries - 1, asked_at)

        self._carry(request, ev.Failed(effect))

    def read_entries(self, effect: do.ReadEntries) -> None:
        """See ports.Log."""
        first, last = effect.first_index, effect.first_index + effect.count

        def request() -> ev.Event:
            self._look()
            found: list[bytes] = []
            for index in range(first, min(last, self._seen_entries)):
                data = self._ensemble.entry(index)
                if data is None:
                    break
                found.append(data)
            return ev.EntriesRead(first, tuple(found))

        self._carry(request, ev.Failed(effect))

    def watch_segment(self, effect: do.WatchSegment) -> None:
        """See ports.Log."""
        session_id, segment = self.session_id, effect.segment
        self._ensemble.segment_watches.pop(session_id, None)
        if segment is None or session_id not in self._ensemble.sessions:
            return

        def fire(tail_index: int) -> None:
            if segment_of(tail_index) == segment:
                self._deliver(ev.SegmentChanged(tail_index))

        self._ensemble.segment_watches[session_id] = fire
        fire(self._ensemble.tail_index)

    def append(self, effect: do.Append) -> None:
        """See ports.Log."""

        def request() -> ev.Event:
            index = self._ensemble.append(effect.fence, effect.data)
            self._look(confirm=True)
            return ev.AppendFenced(effect.batch_id) if index is None else ev.Appended(effect.batch_id, index)

        self._carry(request, ev.AppendUnknown(effect.batch_id))

    def trim(self, effect: do.Trim) -> None:
        """See ports.Log."""

        def request() -> ev.Event:
            ensemble = self._ensemble
            if effect.fence not in ensemble.candidates:
                return ev.Failed(effect)
            first = effect.first_index
            if first > ensemble.first_index:
                if segment_of(first) > segment_of(len(ensemble.entries)):
                    return ev.Failed(effect)  # there is no such segment
                changed = effect.registry_version != ensemble.registry_version
                if effect.holders and changed:
                    return ev.Failed(effect)
                if any(ensemble.replicas.get(mark.node_id) != mark for mark in effect.holders):
                    return ev.Failed(effect)
                begins, ensemble.first_index = ensemble.first_index, first
                ensemble.first_bytes += sum(len(data) for data in ensemble.entries[begins:first])
            ensemble.kept_from = min(ensemble.first_index, first_of(segment_of(ensemble.kept_from) + 1))
            done = ensemble.kept_from == ensemble.first_index
            return ev.Trimmed(ensemble.first_index, ensemble.first_bytes, done)

        self._carry(request, ev.Failed(effect))

    def write_skip(self, effect: do.WriteSkip) -> None:
        """See ports.Log."""

        def request() -> ev.Event:
            self._ensemble.skips.setdefault(effect.index, effect.data)
            return ev.SkipWritten(effect.index)

        self._carry(request, ev.Failed(effect))

    # --- Election -----------------------------------------------------------------------------------------

    def publish_mark(self, effect: do.PublishMark) -> None:
        """See ports.Election."""

        def request() -> ev.Event:
            before = self._ensemble.replicas.get(effect.mark.node_id)
            version = before.version + 1 if before is not None else 0
            self._ensemble.registry_version += before is None
            mark = dataclasses.replace(effect.mark, version=version)
            self._ensemble.replicas[effect.mark.node_id] = mark
            return ev.MarkPublished(effect.mark)

        self._carry(request, ev.Failed(effect))

    def list_replicas(self, effect: do.ListReplicas) -> None:
        """See ports.Election."""

        def request() -> ev.Event:
            replicas = self._ensemble.replicas
            listed = tuple(replicas[node_id] for node_id in sorted(replicas))
            return ev.ReplicasListed(listed, self._ensemble.registry_version)

        self._carry(request, ev.Failed(effect))

    def remove_replica(self, effect: do.RemoveReplica) -> None:
        """See ports.Election."""

        def request() -> ev.Event:
            if self._ensemble.replicas.pop(effect.node_id, None) is not None:
                self._ensemble.registry_version += 1
            return ev.ReplicaRemoved(effect.node_id)

        self._carry(request, ev.Failed(effect))

    def join(self, effect: do.Join) -> None:
        """See ports.Election."""
        session_id = self.session_id
        me = Member(self._me.node_id, self._me.instance, self._me.address, effect.mode)

        def request() -> ev.Event:
            held = self._ensemble.members.get(me.node_id)
            if held is not None and held.session_id != session_id and held.member is not None:
                return ev.JoinBlocked(held.member)
            if session_id not in self._ensemble.sessions:
                return ev.Failed(effect)
            self._ensemble.members[me.node_id] = _Znode(session_id, member=me)
            self._ensemble.members_changed()
            return ev.Joined(session_id)

        self._carry(request, ev.Failed(effect))

    def remove_member(self, effect: do.RemoveMember) -> None:
        """See ports.Election."""

        def request() -> ev.Event:
            held = self._ensemble.members.get(effect.holder.node_id)
            if held is not None and held.member == effect.holder:
                del self._ensemble.members[effect.holder.node_id]
                self._ensemble.members_changed()
            return ev.MembersChanged()

        self._carry(request, ev.Failed(effect))

    def list_members(self, effect: do.ListMembers) -> None:
        """See ports.Election."""

        def request() -> ev.Event:
            self._ensemble.member_watches[self.session_id] = lambda: self._deliver(ev.MembersChanged())
            members = (node.member for node in self._ensemble.members.values())
            return ev.MembersListed(tuple(sorted((m for m in members if m), key=lambda m: m.node_id)))

        self._carry(request, ev.Failed(effect))

    def enrol(self, effect: do.Enrol) -> None:
        """See ports.Election."""
        session_id, me = self.session_id, self._me

        def request() -> ev.Event:
            ensemble = self._ensemble
            if session_id not in ensemble.sessions:
                return ev.Failed(effect)
            for name, node in ensemble.candidates.items():
                if node.candidate is not None and node.session_id == session_id:
                    return ev.Enrolled(name, node.candidate.epoch, session_id)
            ensemble.zxid += 1
            name = f"{me.node_id}_{me.instance}_{ensemble.sequence:010d}"
            candidate = Candidate(name, ensemble.sequence, me.node_id, me.instance, me.address, ensemble.zxid)
            ensemble.candidates[name] = _Znode(session_id, candidate=candidate)
            ensemble.sequence += 1
            self._look(confirm=True)
            return ev.Enrolled(name, candidate.epoch, session_id)

        self._carry(request, ev.Failed(effect))

    def list_candidates(self, effect: do.ListCandidates) -> None:
        """See ports.Election."""

        def request() -> ev.Event:
            self._look()
            candidates = (node.candidate for node in self._seen_candidates.values())
            return ev.CandidatesListed(tuple(sorted((c for c in candidates if c), key=lambda c: c.sequence)))

        self._carry(request, ev.Failed(effect))

    def watch_candidate(self, effect: do.WatchCandidate) -> None:
        """See ports.Election."""
        changed = ev.CandidatesChanged(effect.name)
        if effect.name in self._ensemble.candidates:
            watches = self._ensemble.removal_watches.setdefault(effect.name, [])
            watches.append(lambda: self._deliver(changed))
        else:
            self._deliver(changed)

    def remove_candidate(self, effect: do.RemoveCandidate) -> None:
        """See ports.Election."""

        def request() -> ev.Event:
            self._ensemble.remove_candidate(effect.name)
            self._look(confirm=True)
            return ev.CandidatesChanged(effect.name)

        self._carry(request, ev.Failed(effect))
