"""The port Election: candidates and members as ephemeral znodes, replicas as persistent ones."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import UNREADABLE
from kvlog.core.values import Candidate, Member, Replica
from kvlog.zookeeper.layout import CandidateData, MemberData, ReplicaData, parse_candidate
from kvlog.zookeeper.multi import failure_in
from kvlog.zookeeper.session import ZooKeeperSession


class ZooKeeperElection:
    """See the module's docstring. ``me`` is this node; its mode comes with each Join."""

    def __init__(self, session: ZooKeeperSession, me: Member) -> None:
        self._session = session
        self._layout = session.layout
        self._client = session.client
        self._me = me
        self._started_ms = session.clock.wall_ms()
        self._mark_version: int | None = None  # of the own mark; used on the session's thread only

    # --- members ------------------------------------------------------------------------------------------

    def join(self, effect: do.Join) -> None:
        """See ports.Election."""
        self._session.run(effect, lambda: self._join(effect))

    def _join(self, effect: do.Join) -> ev.Event:
        me, path = self._me, self._layout.member(self._me.node_id)
        data = msgspec.json.encode(MemberData(me.address, me.instance, effect.mode, self._started_ms))
        try:
            _, stat = self._session.call(self._client.create_async(path, data, ephemeral=True, include_data=True))
        except NodeExistsError:
            held, stat = self._session.call(self._client.get_async(path))
            if stat.ephemeralOwner != self._session.session_id:
                holder = _member(me.node_id, held)
                if holder is None:
                    self._session.say(f"{path} was not made by kvlog, and this node needs it: delete it")
                    return ev.Failed(effect)
                return ev.JoinBlocked(holder)
            if held != data:
                self._session.call(self._client.set_async(path, data))
        return ev.Joined(stat.ephemeralOwner)

    def remove_member(self, effect: do.RemoveMember) -> None:
        """See ports.Election."""
        self._session.run(effect, lambda: self._remove_member(effect.holder))

    def _remove_member(self, holder: Member) -> ev.Event:
        path = self._layout.member(holder.node_id)
        try:
            data, stat = self._session.call(self._client.get_async(path))
            if _member(holder.node_id, data) == holder and stat.ephemeralOwner != self._session.session_id:
                self._session.call(self._client.delete_async(path, version=stat.version))
        except NoNodeError:
            pass  # it has gone by itself
        return ev.MembersChanged()

    def list_members(self, effect: do.ListMembers) -> None:
        """See ports.Election."""
        self._session.run(effect, self._list_members)

    def _list_members(self) -> ev.Event:
        names = self._session.call(
            self._client.get_children_async(self._layout.members, watch=self._members_changed)
        )
        found = self._read_all({name: self._layout.member(name) for name in names})
        members = (_member(name, data) for name, (data, _) in sorted(found.items()))
        return ev.MembersListed(tuple(member for member in members if member is not None))

    def _members_changed(self, _: Any) -> None:
        """On kazoo's watch thread: only enqueues."""
        self._session.post(ev.MembersChanged())

    # --- candidates ---------------------------------------------------------------------------------------

    def enrol(self, effect: do.Enrol) -> None:
        """See ports.Election."""
        self._session.run(effect, self._enrol)

    def _enrol(self) -> ev.Event:
        me = self._me
        for candidate, owner in self._candidates():
            # The reply to an earlier creation may have been lost: the instance in the name finds it again.
            if candidate.instance == me.instance and owner == self._session.session_id:
                return ev.Enrolled(candidate.name, candidate.epoch, owner)
        path, stat = self._session.call(
            self._client.create_async(
                self._layout.candidate_prefix(me.node_id, me.instance),
                msgspec.json.encode(CandidateData(me.address, me.node_id)),
                ephemeral=True,
                sequence=True,
                include_data=True,
            )
        )
        return ev.Enrolled(path.rsplit("/", 1)[1], stat.czxid, stat.ephemeralOwner)

    def list_candidates(self, effect: do.ListCandidates) -> None:
        """See ports.Election."""
        self._session.run(
            effect, lambda: ev.CandidatesListed(tuple(candidate for candidate, _ in self._candidates()))
        )

    def _candidates(self) -> list[tuple[Candidate, int]]:
        """The candidates in the order of their sequence numbers, each with the session that owns it."""
        names = self._session.call(self._client.get_children_async(self._layout.election))
        parsed = {name: parts for name in names if (parts := parse_candidate(name))}
        found = self._read_all({name: self._layout.candidate(name) for name in parsed})
        candidates = []
        for name, (data, stat) in found.items():
            node_id, instance, sequence = parsed[name]
            try:
                address = msgspec.json.decode(data, type=CandidateData).address
            except UNREADABLE:
                continue  # not made by kvlog
            candidate = Candidate(name, sequence, node_id, instance, address, stat.czxid)
            candidates.append((candidate, stat.ephemeralOwner))
        return sorted(candidates, key=lambda pair: pair[0].sequence)

    def watch_candidate(self, effect: do.WatchCandidate) -> None:
        """See ports.Election. One znode is watched, so that a change wakes one node, not all of them."""
        changed = ev.CandidatesChanged(effect.name)

        def work() -> ev.Event | None:
            path = self._layout.candidate(effect.name)
            stat = self._session.call(self._client.exists_async(path, watch=lambda _: self._session.post(changed)))
            return changed if stat is None else None

        self._session.run(effect, work)

    def remove_candidate(self, effect: do.RemoveCandidate) -> None:
        """See ports.Election."""

        def work() -> ev.Event:
            with suppress(NoNodeError):  # it may have gone by itself
                self._session.call(self._client.delete_async(self._layout.candidate(effect.name)))
            return ev.CandidatesChanged(effect.name)

        self._session.run(effect, work)

    # --- replicas -----------------------------------------------------------------------------------------

    def publish_mark(self, effect: do.PublishMark) -> None:
        """See ports.Election.

        The version is a fence: what a process that is dead by now has sent last may arrive after its successor's
        first mark, and must not promise what only the dead one's store held.
        """
        self._session.run(effect, lambda: self._publish_mark(effect))

    def _publish_mark(self, effect: do.PublishMark) -> ev.Event:
        mark, call, path = effect.mark, self._session.call, self._layout.replica(effect.mark.node_id)
        data = msgspec.json.encode(ReplicaData(mark.address, mark.durable_index, mark.holding, mark.checkpoints))
        version, self._mark_version = self._mark_version, None  # not known if there is no answer
        try:
            if version is None:
                _, before = call(self._client.get_async(path))
                version = before.version
            stat = call(self._client.set_async(path, data, version=version))
        except NoNodeError:
            with suppress(NodeExistsError):  # only a log that was made before there were marks has none
                call(self._client.create_async(self._layout.replicas))
            if not self._register(path, data):
                return ev.Failed(effect)
            stat = call(self._client.exists_async(path))
            if stat is None:
                return ev.Failed(effect)
        except BadVersionError:
            return ev.Failed(effect)  # it is read again before the next try
        self._mark_version = stat.version
        return ev.MarkPublished(mark)

    def _register(self, path: str, data: bytes) -> bool:
        """Make a mark's znode, and note that there is one more: trims that were licensed before are void."""
        transaction = self._client.transaction()
        transaction.set_data(self._layout.replicas, b"")
        transaction.create(path, data)
        return failure_in(self._session.call(transaction.commit_async())) is None

    def list_replicas(self, effect: do.ListReplicas) -> None:
        """See ports.Election."""
        self._session.run(effect, self._list_replicas)

    def _list_replicas(self) -> ev.Event:
        # Answered in this order: whoever is registered after the version was read is noted by a later one.
        registry = self._client.exists_async(self._layout.replicas)
        children = self._client.get_children_async(self._layout.replicas)
        stat = self._session.call(registry)
        if stat is None:
            return ev.ReplicasListed(())
        names = self._session.call(children)
        found = self._read_all({name: self._layout.replica(name) for name in names})
        replicas = (_replica(name, data, stat.version) for name, (data, stat) in sorted(found.items()))
        return ev.ReplicasListed(tuple(replica for replica in replicas if replica is not None), stat.version)

    def remove_replica(self, effect: do.RemoveReplica) -> None:
        """See ports.Election."""

        def work() -> ev.Event:
            transaction = self._client.transaction()
            transaction.set_data(self._layout.replicas, b"")
            transaction.delete(self._layout.replica(effect.node_id))
            failure = failure_in(self._session.call(transaction.commit_async()))
            if failure is not None and not isinstance(failure, NoNodeError):  # it may be gone already
                raise failure
            return ev.ReplicaRemoved(effect.node_id)

        self._session.run(effect, work)

    def _read_all(self, paths: dict[str, str]) -> dict[str, tuple[bytes, Any]]:
        """Data and stat of each path that exists, requested all at once."""
        pending = {name: self._client.get_async(path) for name, path in paths.items()}
        found = {}
        for name, request in pending.items():
            try:
                found[name] = self._session.call(request)
            except NoNodeError:
                continue  # gone since the names were read
        return found


def _member(node_id: str, data: bytes) -> Member | None:
    """The member in a znode; None if kvlog did not make it."""
    try:
        held = msgspec.json.decode(data, type=MemberData)
    except UNREADABLE:
        return None
    return Member(node_id, held.instance, held.address, held.mode)


def _replica(node_id: str, data: bytes, version: int) -> Replica | None:
    """The replica in a znode; None if kvlog did not make it."""
    try:
        held = msgspec.json.decode(data, type=ReplicaData)
    except UNREADABLE:
        return None
    return Replica(node_id, held.address, held.durable_index, held.holding, version, held.checkpoints)
