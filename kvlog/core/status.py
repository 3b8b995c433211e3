"""What a node says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from kvlog.core.cursor import Cursor
from kvlog.core.entry import Leader
from kvlog.core.installing import Installing
from kvlog.core.machine import Position
from kvlog.core.recovery import Recovery
from kvlog.core.retention import Retention
from kvlog.core.role import Role
from kvlog.core.standing import Standing
from kvlog.core.values import Arrival, Member, Replica
from kvlog.errors import BadEntry

READY_STALENESS_MS = 3_000
"""A node that cannot show that it was up to date within this time is not ready: three times the poll."""


@dataclass(frozen=True, slots=True)
class Status:
    """A node's state at one moment; see ``api.views`` for the words in which the API says it.

    ``leader`` and ``epoch`` are None and 0 while no leader is known. ``staleness_ms`` is the time since this
    node last had everything up to a tail that it had seen, None if it never had. ``halted_at`` is the index of the
    entry that could not be applied. ``first_index`` is where the log begins, ``log_weight`` about what it takes of
    ZooKeeper's memory in bytes, ``registered`` whom the cluster counts on, ``held_index`` what a majority of them
    holds for certain. ``last_arrival`` is how the last entry has come here, ``leases`` how many leases this node
    keeps the time of. ``not_ready`` is the reason why the node is not ready, empty if it is.
    """

    role: Role
    leader: Leader | None
    epoch: int
    position: Position
    tail_index: int
    staleness_ms: int | None
    members: tuple[Member, ...]
    replicas: dict[str, str]
    connected: bool
    recovery: dict[str, object]
    halted_at: int | None
    first_index: int
    log_weight: int
    registered: tuple[Replica, ...]
    held_index: int
    last_arrival: Arrival | None
    leases: int
    not_ready: str


def status_of(
    *,
    role: Role,
    halted: BadEntry | None,
    standing: Standing,
    cursor: Cursor,
    recovery: Recovery,
    installing: Installing,
    retention: Retention,
    replicas: dict[str, str],
    last_arrival: Arrival | None,
    leases: int,
    now: float,
) -> Status:
    """Put together what the parts of a node know at the monotonic time ``now``."""
    fresh_as_of = cursor.fresh_as_of
    staleness_ms = None if fresh_as_of is None else max(0, round((now - fresh_as_of) * 1000))
    leader, epoch = standing.leader or (None, 0)
    return Status(
        role=role,
        leader=leader,
        epoch=epoch,
        position=cursor.position,
        tail_index=cursor.tail_index,
        staleness_ms=staleness_ms,
        members=standing.members,
        replicas=replicas,
        connected=standing.connected,
        recovery=recovery.report() | installing.report,
        halted_at=halted.index if halted is not None else None,
        first_index=retention.first_index,
        log_weight=retention.log_weight(cursor),
        registered=retention.replicas,
        held_index=retention.held_by_majority,
        last_arrival=last_arrival,
        leases=leases,
        not_ready=why_not_ready(
            role,
            halted=str(halted or ""),
            trimmed=cursor.first_index if cursor.trimmed or installing.busy else None,
            connected=standing.connected,
            recovered=recovery.finished,
            behind=cursor.behind,
            missed=cursor.position.missed_entries,
            staleness_ms=staleness_ms,
        ),
    )


def why_not_ready(
    role: Role,
    *,
    halted: str,
    trimmed: int | None,
    connected: bool,
    recovered: bool,
    behind: int,
    missed: int,
    staleness_ms: int | None,
) -> str:
    """Why a node should get no reads from a load balancer; empty if it should."""
    if role is Role.HALTED:
        return f"halted: {halted}"
    if role is Role.STOPPING:
        return "stopping"
    if not connected:
        return "no connection to ZooKeeper: what is read here may be old, and writes may not go through"
    if trimmed is not None:
        return (
            f"the log begins at entry {trimmed} and this store is behind that: it needs a snapshot of another node"
        )
    if not recovered:
        return f"replaying the log: {behind} entries to go"
    if missed:
        return f"the store is stale: it has missed {missed} entries; POST /v1/admin/catchup fills them in"
    if staleness_ms is None or staleness_ms > READY_STALENESS_MS:
        return f"behind: {behind} entries are not applied, last up to date {staleness_ms} ms ago"
    return ""
