"""What leases and locks know of themselves, on threads and with asyncio alike: are they held, and why not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from kvlog.client.errors import BadRequest, ClientError, LeaseLost, LockHeld, NoNodes
from kvlog.client.operations import check_key
from kvlog.client.shared import clock
from kvlog.client.term import Term

OVER = "no keep-alive was answered within its time"

POLL_S = 15.0
"""How long a lock waits for its key's next change before it asks again, all nodes taken together."""


class Flag(Protocol):
    """What can be waited for: threading.Event or asyncio.Event."""

    def is_set(self) -> bool:
        """Whether it has happened."""
        ...

    def set(self) -> None:
        """It has happened."""
        ...


FlagT = TypeVar("FlagT", bound=Flag)


class HeldLease(Generic[FlagT]):
    """A lease's time, and how it came to its end; who sends its keep-alives is left to Lease and AsyncLease.

    Args:
        lease: its id.
        term: its time.
        flag: makes what can be waited for.
    """

    def __init__(self, lease: int, term: Term, flag: Callable[[], FlagT]) -> None:
        self.id = lease
        self.ttl = term.ttl
        self.lost = flag()
        self.reason = ""
        self._term = term
        self._ended = flag()
        self._failed = ""

    @property
    def held(self) -> bool:
        """Whether it certainly lives: less than ttl ago, a keep-alive was sent that has been answered."""
        return not self.lost.is_set() and self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds for which it certainly lives on if nobody keeps it alive."""
        return self._term.left(clock())

    def close(self) -> None:
        """Keep it alive no longer: it ends by itself when its time is over."""
        self._ended.set()

    def __repr__(self) -> str:
        state = f"lost: {self.reason}" if self.lost.is_set() else f"{self.remaining:.1f} s left"
        return f"<{type(self).__name__} {self.id}: {self.ttl:g} s, {state}>"

    def _give_up(self) -> None:
        """It is going to be revoked: from here on nobody may count on it."""
        self.close()
        self._term.end()

    def _missed(self, error: ClientError) -> None:
        """A keep-alive has failed; there is time for another one."""
        if not (self._failed and isinstance(error, NoNodes)):  # what a node has said tells more
            self._failed = str(error)
        self._term.postpone(clock())

    def _unkept(self) -> None:
        """Nobody keeps it alive any more: unless that was wanted, it is lost."""
        if not self._ended.is_set():
            self._lose(f"{OVER}: {self._failed}" if self._failed else OVER)

    def _lose(self, reason: str) -> LeaseLost:
        """It has ended, or may have; returns the error that says so, with the reason that was given first."""
        self._term.end()
        self.reason = self.reason or reason
        self.lost.set()
        return LeaseLost(f"lease {self.id} was lost: {self.reason}")


LeaseT = TypeVar("LeaseT", bound=HeldLease[Any])


class HeldLock(Generic[LeaseT]):
    """Whether a lock is held, and by which lease; who takes it and waits for it is left to Lock and AsyncLock.

    Args:
        name: the key that stands for it.
        ttl: seconds after which it is free again if its holder is not heard of.
        wait: seconds for which somebody else may hold it before it is given up; None: for as long as they like.
    """

    def __init__(self, name: str, *, ttl: float, wait: float | None) -> None:
        check_key(name)
        self.name = name
        self.ttl = ttl
        self.token = 0
        self._wait = wait
        self._lease: LeaseT | None = None

    @property
    def lease(self) -> LeaseT | None:
        """What it hangs on while it is held: ``lock.lease.lost`` tells as soon as it may be gone."""
        return self._lease

    @property
    def held(self) -> bool:
        """Whether it certainly is held: less than ttl ago, a keep-alive was sent that has been answered."""
        return self._lease is not None and self.token > 0 and self._lease.held

    def __repr__(self) -> str:
        state = f"held with token {self.token}" if self.held else "not held"
        return f"<{type(self).__name__} {self.name!r}: {state}>"

    def _begin(self) -> float:
        """When the wait for it is over, on the client's clock.

        Raises:
            BadRequest: it is held already.
        """
        if self._lease is not None:
            raise BadRequest(f"lock {self.name!r}: it is held already, and cannot be taken twice")
        return math.inf if self._wait is None else clock() + self._wait

    def _again(self, lease: LeaseT, end: float) -> None:
        """The lease was lost before the lock was taken: is there time for another one?

        Raises:
            LeaseLost: there is none.
        """
        lease.close()
        if clock() >= end:
            raise LeaseLost(f"lock {self.name!r}: its lease was lost before it was taken: {lease.reason or OVER}")

    def _left(self, end: float) -> float:
        """Seconds for which somebody else may still hold it.

        Raises:
            LockHeld: none.
        """
        left = end - clock()
        if left <= 0:
            raise LockHeld(f"lock {self.name!r}: somebody else has held it for {self._wait:g} s")
        return left

    def _let_go(self) -> LeaseT:
        """The lease that it was held by, which is still to be ended.

        Raises:
            BadRequest: it is not held.
        """
        lease, self._lease, self.token = self._lease, None, 0
        if lease is None:
            raise BadRequest(f"lock {self.name!r}: it is not held")
        return lease
