"""The leader's pushes: which replica is sent what, and which of them an answer waits for.

A push is a hint. It makes replicas fast; that they get every entry is the log's business. Invariants:

P1  One push is in flight to a replica; it carries whatever has gathered for it.
P2  What is kept in memory for pushing is bounded (RING_BYTES_MAX, RING_ENTRIES_MAX), whatever replicas do.
P3  A write's answer waits only for replicas that keep up, and for none longer than ACK_WAIT_S.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kvlog.core.values import Member, PushAnswer, PushBody

RING_ENTRIES_MAX = 2_048
RING_BYTES_MAX = 8 * 1024 * 1024
"""Recent entries kept for replicas that lag a little. Those that lag more read the log."""

PUSH_BYTES_MAX = 1024 * 1024
"""Upper bound of the entries in one push; a single entry always fits."""

RETRY_S = 0.25
"""Time before a replica that did not answer, or could not use a push, is sent another."""

ACK_WAIT_S = 1.0
"""Upper bound of the time for which a write's answer waits for replicas. One that takes longer stops being
waited for until it has caught up."""


@dataclass(slots=True)
class Peer:
    """What the leader knows of one replica. ``acked``: all up to this index is applied there.

    A replica is taken to keep up until it turns out not to: a moment later its first answer says so, or that it
    does not answer.
    """

    member: Member
    acked: int = -1
    sent: int = -1
    greeted: bool = False
    keeping_up: bool = True
    in_flight: bool = False
    retry_at: float = 0.0
    waited_since: float | None = None

    def wants_push(self, tail_index: int, now: float) -> bool:
        """Whether it is to be sent what there is up to ``tail_index``, or greeted (P1)."""
        return not self.in_flight and now >= self.retry_at and not (self.greeted and self.acked >= tail_index)

    def has_applied(self, index: int | None) -> bool:
        """Whether it has said that it has applied ``index``; without one, whether it keeps up."""
        return self.greeted and (self.keeping_up if index is None else self.acked >= index)


class Replicator:
    """See the module's docstring."""

    def __init__(self, *, node_id: str) -> None:
        self._node_id = node_id
        self._peers: dict[str, Peer] = {}
        self._ring: deque[tuple[int, bytes]] = deque()
        self._ring_bytes = 0

    def reset(self) -> None:
        """Forget everything: a new epoch begins, or this node does not lead any more."""
        self._peers.clear()
        self._ring.clear()
        self._ring_bytes = 0

    def set_members(self, members: tuple[Member, ...]) -> None:
        """Push to these nodes from now on (but not to this one)."""
        known, self._peers = self._peers, {}
        for member in members:
            if member.node_id != self._node_id:
                before = known.get(member.node_id)
                same = before is not None and before.member == member
                self._peers[member.node_id] = before if same and before else Peer(member)

    def record(self, index: int, data: bytes) -> None:
        """An entry is in the log: it is to be pushed (P2)."""
        self._ring.append((index, data))
        self._ring_bytes += len(data)
        while len(self._ring) > RING_ENTRIES_MAX or self._ring_bytes > RING_BYTES_MAX:
            self._ring_bytes -= len(self._ring.popleft()[1])

    def wants_push(self, tail_index: int, now: float) -> bool:
        """Whether there is anybody to push to."""
        return any(peer.wants_push(tail_index, now) for peer in self._peers.values())

    def next_pushes(self, now: float, greeting: PushBody) -> list[tuple[Member, PushBody]]:
        """The pushes to send now (P1). ``greeting`` is a push without entries, with all else filled in."""
        pushes = []
        for peer in self._peers.values():
            if not peer.wants_push(greeting.tail_index, now):
                continue
            entries = self._entries_after(peer.acked) if peer.greeted else []
            first = entries[0][0] if entries else greeting.first_index
            peer.sent = entries[-1][0] if entries else greeting.tail_index
            peer.in_flight = True
            body = PushBody(
                cluster_id=greeting.cluster_id,
                leader=greeting.leader,
                epoch=greeting.epoch,
                tail_index=greeting.tail_index,
                first_index=first,
                entries=tuple(data for _, data in entries),
            )
            pushes.append((peer.member, body))
        return pushes

    def _entries_after(self, index: int) -> list[tuple[int, bytes]]:
        """Entries behind ``index``; none if the first of them is not kept (the replica reads the log)."""
        if not self._ring or index + 1 < self._ring[0][0]:
            return []
        entries: list[tuple[int, bytes]] = []
        size = 0
        for position in range(index + 1 - self._ring[0][0], len(self._ring)):
            item = self._ring[position]
            size += len(item[1])
            if entries and size > PUSH_BYTES_MAX:
                break
            entries.append(item)
        return entries

    def answered(self, node_id: str, answer: PushAnswer, now: float) -> None:
        """A replica has said where it stands."""
        peer = self._peers.get(node_id)
        if peer is None:
            return
        peer.in_flight = False
        moved = answer.applied_index > peer.acked or not peer.greeted
        if moved:
            peer.waited_since = None
        peer.greeted = True
        peer.acked = answer.applied_index
        peer.keeping_up = peer.acked >= peer.sent
        peer.retry_at = now if peer.keeping_up or moved else now + RETRY_S

    def failed(self, node_id: str, now: float) -> None:
        """A replica has not answered: nobody waits for it until it does (P3)."""
        peer = self._peers.get(node_id)
        if peer is None:
            return
        peer.in_flight = False
        peer.greeted = False
        peer.keeping_up = False
        peer.retry_at = now + RETRY_S

    def acked_index(self, limit: int, now: float) -> int:
        """The index up to which all replicas that keep up have applied, ``limit`` at most (P3)."""
        acked = limit
        for peer in self._peers.values():
            if not peer.keeping_up or peer.acked >= limit:
                peer.waited_since = None
                continue
            if peer.waited_since is None:
                peer.waited_since = now
            if now - peer.waited_since >= ACK_WAIT_S:
                peer.keeping_up = False
                peer.waited_since = None
                continue
            acked = min(acked, peer.acked)
        return acked

    def report(self, index: int | None = None) -> dict[str, str]:
        """For answers and status: which replicas have applied all up to ``index``, and which are behind.

        Without an index: which ones keep up.
        """
        return {
            node_id: "applied" if peer.has_applied(index) else "behind"
            for node_id, peer in sorted(self._peers.items())
        }
