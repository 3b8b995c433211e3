"""Leases that are kept alive by a thread, and locks that hang on them."""

from __future__ import annotations

import math
import threading
from typing import Self

from kvlog.client import reads, writes
from kvlog.client.caller import Caller
from kvlog.client.errors import (
    BadRequest,
    ClientError,
    Closed,
    ConditionFailed,
    HistoryTrimmed,
    LeaseLost,
    LockHeld,
    NoNodes,
    NoSuchLease,
    Unknown,
)
from kvlog.client.operations import check_key
from kvlog.client.results import deletes
from kvlog.client.shared import clock
from kvlog.client.term import Term

OVER = "no keep-alive was answered within its time"

POLL_S = 15.0
"""How long a lock waits for its key's next change before it asks again, all nodes taken together."""


class Lease:
    """Time that keys can be hung on: when it is over, they go away; see ``Client.lease``, which makes it.

    As a context manager it keeps itself alive, every third of its time, on a thread of its own, and revokes itself
    in the end. If it is lost in between, ``lost`` is set, and the end of the ``with`` raises LeaseLost.

    Attributes:
        id: its id, for ``put(..., lease=lease.id)``.
        ttl: its time in seconds.
        lost: set when it has ended, or may have, without having been revoked here.
        reason: why it is lost; "" as long as it is not.
    """

    def __init__(self, caller: Caller, lease: int, term: Term) -> None:
        self.id = lease
        self.ttl = term.ttl
        self.lost = threading.Event()
        self.reason = ""
        self._caller = caller
        self._term = term
        self._ended = threading.Event()
        self._failed = ""
        self._keeper: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether it certainly lives: less than ttl ago, a keep-alive was sent that has been answered."""
        return not self.lost.is_set() and self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds for which it certainly lives on if nobody keeps it alive."""
        return self._term.left(clock())

    def keep_alive(self) -> None:
        """Its whole time anew.

        Raises:
            NoSuchLease: it has ended.
            NoNodes: no node could do it in time.
        """
        self._keep_alive(self._caller.shared.timeout)

    def start(self) -> None:
        """Keep it alive from here on, until it is revoked or the client is closed."""
        if self._keeper is None:
            self._caller.adopt(self)
            self._keeper = threading.Thread(target=self._keep, name=f"kvlog-lease-{self.id}", daemon=True)
            self._keeper.start()

    def revoke(self) -> int:
        """End it, and its keys with it; returns how many they were. Without an answer it ends by itself, in time.

        Raises:
            NoSuchLease: it has ended before.
            Unknown: it was sent, and not answered.
            NoNodes: no node could be reached.
        """
        self.close()
        self._term.end()
        return self._caller.do(writes.revoke(self.id, writes.new_id()))

    def close(self) -> None:
        """Keep it alive no longer: it ends by itself when its time is over."""
        self._ended.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.leave(error)

    def leave(self, error: BaseException | None) -> None:
        """The end of the ``with`` that it was held for, which may itself have ended by an error.

        Raises:
            LeaseLost: it was not held to the end.
            ClientError: it was, but could not be revoked; it ends by itself.
        """
        self.close()
        try:
            self._end()
        except ClientError as at_end:
            if error is None:
                raise
            error.add_note(f"besides: {at_end}")

    def __repr__(self) -> str:
        state = f"lost: {self.reason}" if self.lost.is_set() else f"{self.remaining:.1f} s left"
        return f"<Lease {self.id}: {self.ttl:g} s, {state}>"

    def _end(self) -> None:
        if not self.held:
            self._lose(OVER)
            raise LeaseLost(f"lease {self.id} was lost: {self.reason}")
        try:
            self.revoke()
        except NoSuchLease as gone:
            self._lose(str(gone))
            raise LeaseLost(f"lease {self.id} was lost: {self.reason}") from gone

    def _keep(self) -> None:
        try:
            while not self._ended.wait(self._term.due(clock())):
                left = self.remaining
                if left <= 0:
                    return
                try:
                    self._keep_alive(min(self._caller.shared.timeout, left))
                except NoSuchLease:
                    return
                except Closed:
                    self.close()
                    return
                except ClientError as error:
                    if not (self._failed and isinstance(error, NoNodes)):  # what a node has said tells more
                        self._failed = str(error)
                    self._term.postpone(clock())
        finally:
            if not self._ended.is_set():
                self._lose(f"{OVER}: {self._failed}" if self._failed else OVER)

    def _keep_alive(self, timeout: float) -> None:
        try:
            self._term.extend(self._caller.do(writes.keep_alive(self.id), timeout=timeout))
        except NoSuchLease as error:
            self._lose(str(error))
            raise

    def _lose(self, reason: str) -> None:
        self._term.end()
        self.reason = self.reason or reason
        self.lost.set()


class Lock:
    """A name that one client at a time can hold; see ``Client.lock``, which makes it. It cannot be taken twice.

    Attributes:
        name: the key that stands for it.
        ttl: seconds after which it is free again if its holder is not heard of.
        token: the fencing token while it is held, 0 else: the revision at which it was taken. Later holders have
            higher ones. Let what is protected refuse a token that is lower than one that it has seen.
    """

    def __init__(self, caller: Caller, name: str, *, ttl: float, wait: float | None) -> None:
        check_key(name)
        self.name = name
        self.ttl = ttl
        self.token = 0
        self._caller = caller
        self._wait = wait
        self._lease: Lease | None = None

    @property
    def lease(self) -> Lease | None:
        """What it hangs on while it is held: ``lock.lease.lost`` tells as soon as it may be gone."""
        return self._lease

    @property
    def held(self) -> bool:
        """Whether it certainly is held: less than ttl ago, a keep-alive was sent that has been answered."""
        return self._lease is not None and self.token > 0 and self._lease.held

    def acquire(self) -> int:
        """Take it; returns the fencing token.

        Raises:
            LockHeld: somebody else has held it for all of the time that was to be waited.
            LeaseLost: its lease was lost before it was taken, and there is no time for another one.
            ClientError: it could not be asked for.
        """
        if self._lease is not None:
            raise BadRequest(f"lock {self.name!r}: it is held already, and cannot be taken twice")
        end = math.inf if self._wait is None else clock() + self._wait
        while True:
            lease = grant(self._caller, self.ttl)
            try:
                token = self._take(lease, end)
            except BaseException as error:
                _give_back(lease, error)
                raise
            if token:
                self._lease, self.token = lease, token
                return token
            lease.close()
            if clock() >= end:
                raise LeaseLost(
                    f"lock {self.name!r}: its lease was lost before it was taken: {lease.reason or OVER}"
                )

    def release(self) -> None:
        """Give it back.

        Raises:
            LeaseLost: it was not held to the end.
            ClientError: it could not be given back; it is free once its time is over.
        """
        self._leave(None)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._leave(error)

    def __repr__(self) -> str:
        return f"<Lock {self.name!r}: {f'held with token {self.token}' if self.held else 'not held'}>"

    def _leave(self, error: BaseException | None) -> None:
        lease, self._lease, self.token = self._lease, None, 0
        if lease is None:
            raise BadRequest(f"lock {self.name!r}: it is not held")
        lease.leave(error)

    def _take(self, lease: Lease, end: float) -> int:
        """The token; 0 if the lease was lost before there was one."""
        lease.start()
        while True:
            try:
                taken = self._caller.do(writes.take(self.name, lease.id))
            except NoSuchLease:
                return 0
            except Unknown as error:
                settled = self._caller.do(writes.settle(error.request_id))
                if settled.committed:
                    return settled.revision if lease.held else 0
                if clock() >= end:
                    raise
            except ConditionFailed as error:
                if not self._wait_until_free(lease, error.revision, end):
                    return 0
            else:
                return taken.revision if lease.held else 0

    def _wait_until_free(self, lease: Lease, since: int, end: float) -> bool:
        """Wait until the key is deleted after revision ``since``; False if the lease is lost before."""
        start = since + 1
        while not lease.lost.is_set():
            left = end - clock()
            if left <= 0:
                raise LockHeld(f"lock {self.name!r}: somebody else has held it for {self._wait:g} s")
            try:
                events, start = self._caller.do(reads.poll(self.name, start, left), timeout=POLL_S)
            except HistoryTrimmed:
                return True  # so long ago that nobody remembers: see how it is now
            if deletes(events):
                return True
        return False


def grant(caller: Caller, ttl: float) -> Lease:
    """A new lease.

    Raises:
        BadRequest: its time makes no sense.
        ClientError: there is none.
    """
    call = writes.grant(ttl, writes.new_id())
    sent_at = clock()
    return Lease(caller, caller.do(call), Term(ttl, sent_at))


def _give_back(lease: Lease, error: BaseException) -> None:
    """A lease that was of no use; if it cannot be revoked, it ends by itself."""
    try:
        lease.revoke()
    except ClientError as at_end:
        error.add_note(f"besides: {at_end}")
