"""When leases end. Only the leader keeps time, and only by its own monotonic clock.

That a lease exists, and for how long it lives, is in the store like any record (see ``evaluate``); how much of
that time is left is nowhere but here. Invariants (tests cite the numbers):

E1  A lease is ended by the leader only when its whole time has passed since it was granted, since the leader heard
    of its last keep-alive, and since this node began to lead.
E2  A keep-alive is confirmed only by an entry that lands behind it: so its sender can count the lease's time from
    when it sent the keep-alive, whoever leads by now.
"""

from __future__ import annotations

import heapq

from kvlog.core.entry import Delete, Entry
from kvlog.core.evaluate import lease_in, lease_number

ENDED_MAX = 64
"""Leases that are ended at a time, so that they leave room for other writes."""

RETRY_S = 1.0
"""Pause before it is tried again to end a lease, if it is still there."""


class Leases:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._ttl_s: dict[int, float] = {}
        self._deadlines: dict[int, float] = {}
        self._queue: list[tuple[float, int]] = []  # some of them outdated

    def __len__(self) -> int:
        return len(self._ttl_s)

    def clear(self) -> None:
        """This node begins to lead, or leads no more."""
        self._ttl_s.clear()
        self._deadlines.clear()
        self._queue.clear()

    def listed(self, leases: tuple[tuple[int, int], ...], now: float) -> None:
        """These are in the store: their whole time begins anew (E1)."""
        for lease, ttl_ms in leases:
            if lease not in self._ttl_s:
                self._granted(lease, ttl_ms, now)

    def seen(self, entry: Entry, now: float) -> None:
        """An entry has been appended: it may grant leases, or end them."""
        for request in entry.requests:
            for effect in request.effects:
                lease = lease_number(effect.key)
                if not lease:
                    continue
                if isinstance(effect, Delete):
                    self._ttl_s.pop(lease, None)
                    self._deadlines.pop(lease, None)
                else:
                    self._granted(lease, lease_in(effect.data).ttl_ms, now)

    def renew(self, lease: int, now: float) -> None:
        """The leader has heard of a keep-alive."""
        if lease in self._ttl_s:
            self._schedule(lease, now + self._ttl_s[lease])

    def due(self, now: float) -> list[int]:
        """The leases that are to be ended now."""
        ended: list[int] = []
        while self._queue and self._queue[0][0] <= now and len(ended) < ENDED_MAX:
            deadline, lease = heapq.heappop(self._queue)
            if self._deadlines.get(lease) == deadline:
                ended.append(lease)
                self._schedule(lease, now + RETRY_S)
        return ended

    def forget(self, lease: int) -> None:
        """There is no such lease: it ended between its listing and the moment at which that was told."""
        self._ttl_s.pop(lease, None)
        self._deadlines.pop(lease, None)

    def remaining_ms(self, lease: int, now: float) -> int | None:
        """What is left of a lease's time; None if this node does not keep it."""
        deadline = self._deadlines.get(lease)
        return None if deadline is None else max(0, round((deadline - now) * 1000))

    def _granted(self, lease: int, ttl_ms: int, now: float) -> None:
        self._ttl_s[lease] = ttl_ms / 1000
        self._schedule(lease, now + ttl_ms / 1000)

    def _schedule(self, lease: int, deadline: float) -> None:
        self._deadlines[lease] = deadline
        heapq.heappush(self._queue, (deadline, lease))
        if len(self._queue) > 2 * len(self._deadlines) + ENDED_MAX:  # most of them are outdated
            self._queue = [(at, number) for number, at in self._deadlines.items()]
            heapq.heapify(self._queue)
