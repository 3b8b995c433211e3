"""A replica that needs entries which the log does not hold any more: it copies another one's store.

So does one that began empty and has halted, if another one has applied the entry at which it did: an empty store
is how operators ask for a copy.

Invariants (tests cite the numbers):

I1  One copy is fetched at a time; the own store stays as it is until a whole, verified one is there.
I2  A copy that is behind the own store, or of another log, is never put in its place; a store with gaps stands
    still meanwhile.
I3  That nobody has what is needed is said only when every registered replica is up and has said that its store
    does not reach the log's beginning either. The store that a log was made from may not have registered yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvlog.core.cursor import Cursor
from kvlog.core.effects import Effect, Exit, FetchSnapshot, Install, Note
from kvlog.core.events import SnapshotFailed, SnapshotFetched, SnapshotProgress
from kvlog.core.machine import Position
from kvlog.core.values import Holding, Member, Replica
from kvlog.errors import WrongLog

About = SnapshotProgress | SnapshotFetched | SnapshotFailed
"""The events that tell how a copy is coming along."""

RETRY_S = 1.0
"""Pause before a replica that gave no snapshot is asked again."""

FRESH_S = 10.0
"""For how long it counts that a replica has said that its store is too short as well."""

LINGER_S = 3.0
"""For how long a node that knows the state to be lost still answers, so that the others hear it of it, too: three
times the pause between two questions."""

SAY_S = 2.0
"""How often the progress is said."""


@dataclass(slots=True)
class _Fetching:
    member: Member
    first_index: int  # where the log began when it was asked
    since: float
    said_at: float
    received: int = 0
    total: int = 0


class Installing:
    """See the module's docstring."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._fetching: _Fetching | None = None
        self._fetched: SnapshotFetched | None = None
        self._installing: tuple[Position, str, float] | None = None
        self._failed_at: dict[str, float] = {}
        # By node and instance: where its store ends, which is before the log begins.
        self._too_short: dict[tuple[str, str], int] = {}
        self._lost_since: float | None = None
        self.last: dict[str, object] | None = None

    def handle(self, event: About, now: float) -> list[Effect]:
        """Take news of the copy that is under way."""
        fetching = self._fetching
        if fetching is None:
            return []
        match event:
            case SnapshotProgress():
                fetching.received, fetching.total = event.received, event.total
                if now - fetching.said_at >= SAY_S:
                    fetching.said_at = now
                    return [Note(f"snapshot from {fetching.member.node_id}: {_share(fetching)}")]
            case SnapshotFetched():
                self._fetched = event
                self._too_short.pop((fetching.member.node_id, fetching.member.instance), None)
            case SnapshotFailed():
                self._fetching = None
                self._failed_at[event.node_id] = now
                asked = (event.node_id, fetching.member.instance)
                if event.applied_index is not None and event.applied_index + 1 < fetching.first_index:
                    self._too_short[asked] = event.applied_index
                else:
                    self._too_short.pop(asked, None)
                return [Note(f"no snapshot from {event.node_id}: {event.reason}")]
        return []

    def advance(
        self, cursor: Cursor, members: tuple[Member, ...], replicas: tuple[Replica, ...], leader: str, now: float
    ) -> list[Effect]:
        """Fetch a copy if one is needed, and install it once it is there (I1)."""
        if self._fetched is not None:
            return self._install(self._fetched, cursor, now)
        if self._fetching is not None or not cursor.trimmed:
            return []
        if self._lost(members, replicas, now):
            return [Exit(WrongLog.exit_code, all_lost(cursor.first_index, self._too_short))]
        if self._lost_since is not None:
            return []  # who has ended by it already would now seem not to have said so
        why = f"the log begins at entry {cursor.first_index}, and this store needs what was before"
        needed = max(cursor.first_index - 1, cursor.position.applied_index)
        return self._fetch(self._best(members, replicas, leader, now), needed, why, cursor.first_index, now)

    def past(
        self,
        bad_index: int,
        cursor: Cursor,
        members: tuple[Member, ...],
        replicas: tuple[Replica, ...],
        leader: str,
        now: float,
    ) -> list[Effect]:
        """Fetch a copy from a node that has applied the entry ``bad_index``, if there is one, and install it."""
        if self._fetched is not None:
            return self._install(self._fetched, cursor, now)
        if self.busy:
            return []
        past = {replica.node_id for replica in replicas if replica.durable_index >= bad_index}
        member = self._best(tuple(one for one in members if one.node_id in past), replicas, leader, now)
        why = f"this store began empty, and entry {bad_index} of the log cannot be applied"
        return self._fetch(member, bad_index, why, cursor.first_index, now)

    def _fetch(self, member: Member | None, needed: int, why: str, first_index: int, now: float) -> list[Effect]:
        if member is None:
            return []
        self._fetching = _Fetching(member, first_index, now, now)
        return [Note(f"{why}: copying the store of {member.node_id}"), FetchSnapshot(member, needed)]

    def _install(self, fetched: SnapshotFetched, cursor: Cursor, now: float) -> list[Effect]:
        fetching = self._fetching
        mine = cursor.position.identity
        if fetching is not None and mine not in (None, fetched.position.identity):
            self._fetching = self._fetched = None
            self._failed_at[fetching.member.node_id] = now
            return [
                Note(f"no snapshot from {fetching.member.node_id}: what it sent is a store of another cluster")
            ]
        ahead = fetched.position.applied_index - cursor.position.applied_index
        if fetching is None or ahead < 0 or (ahead == 0 and not cursor.position.gaps):
            self._fetching = self._fetched = None
            return [Note("the snapshot is not needed any more: the log was faster")]
        if not cursor.hold():
            return []
        self._installing = (fetched.position, fetching.member.node_id, fetching.since)
        self._fetching = self._fetched = None
        return [Install(fetched.source)]

    def installed(self, now: float) -> list[Effect]:
        """The store has carried out a change; says so if that was to put the copy in its place."""
        if self._installing is None:
            return []
        of, source, since = self._installing
        self._installing = None
        self.last = {
            "from": source,
            "index": of.applied_index,
            "revision": of.revision,
            "seconds": round(now - since, 3),
        }
        where = f"index {of.applied_index}, revision {of.revision}"
        return [Note(f"installed a snapshot of {source}: {where}, {now - since:.3f} s")]

    @property
    def busy(self) -> bool:
        """A copy is under way."""
        return self._fetching is not None or self._installing is not None

    def _best(
        self, members: tuple[Member, ...], replicas: tuple[Replica, ...], leader: str, now: float
    ) -> Member | None:
        """Whom to ask: who has not failed lately, is not the busy leader, and holds the most."""
        marks = {replica.node_id: replica for replica in replicas}
        unknown = Replica("", "", -1, Holding.WHOLE)
        others = [
            member
            for member in members
            if member.node_id != self._node_id
            and marks.get(member.node_id, unknown).holding is not Holding.STALE
            and now - self._failed_at.get(member.node_id, -RETRY_S) >= RETRY_S
        ]
        return min(
            others,
            key=lambda member: (
                self._failed_at.get(member.node_id, -RETRY_S),
                marks.get(member.node_id, unknown).holding is not Holding.WHOLE,
                member.node_id == leader,
                -marks.get(member.node_id, unknown).durable_index,
            ),
            default=None,
        )

    def _lost(self, members: tuple[Member, ...], replicas: tuple[Replica, ...], now: float) -> bool:
        """Whether it is time to say that nobody has what is needed (I3); others may have ended by it meanwhile."""
        others = [(one.node_id, one.instance) for one in members if one.node_id != self._node_id]
        if self._lost_since is None and self._hopeless(members, replicas, now):
            self._lost_since = now
        elif any(other not in self._too_short for other in others):
            self._lost_since = None  # somebody has come who may have it
        since = self._lost_since
        return since is not None and (now - since >= LINGER_S or not self._too_short)

    def _hopeless(self, members: tuple[Member, ...], replicas: tuple[Replica, ...], now: float) -> bool:
        up = {member.node_id: member.instance for member in members}
        registered = {replica.node_id for replica in replicas}
        others = (registered | set(up)) - {self._node_id}
        known = self._node_id in up and self._node_id in registered  # both lists have been read
        return known and all(
            node_id in up
            and (node_id, up[node_id]) in self._too_short
            # Its only way on is a copy of another one's, so what it has said lately is still so.
            and now - self._failed_at[node_id] <= FRESH_S
            for node_id in others
        )

    @property
    def report(self) -> dict[str, object]:
        """For the status: the copy under way, and the last one."""
        report: dict[str, object] = {}
        if self._fetching is not None:
            report["fetching"] = {
                "from": self._fetching.member.node_id,
                "received_bytes": self._fetching.received,
                "total_bytes": self._fetching.total,
            }
        if self.last is not None:
            report["installed"] = self.last
        return report


def all_lost(first_index: int, others: dict[tuple[str, str], int]) -> str:
    """Why nobody who is known can go on, and what to do."""
    ends = {node_id: index for (node_id, _), index in others.items()}
    stores = "".join(f", {node_id}'s up to {index}" for node_id, index in sorted(ends.items()))
    return (
        f"the log begins at entry {first_index}, and no store of a registered node holds what was before it "
        f"(this one is behind it{stores}); nothing was touched; if recover or restore made this log, start the "
        "node with the store that it named first, then this one again; if a data directory survives elsewhere, "
        "start a node on it; else the data before that entry is lost: restore the last backup into a new root: "
        "python -m kvlog restore FILE --zk HOSTS --root NEW_ROOT --data-dir DIR"
    )


def _share(fetching: _Fetching) -> str:
    received, total = fetching.received / 2**20, fetching.total / 2**20
    return f"{received:.1f} of about {total:.1f} MiB"
