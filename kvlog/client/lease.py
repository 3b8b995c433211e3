"""Leases that are kept alive by a thread, and locks that hang on them."""

from __future__ import annotations

import threading
from typing import Self

from kvlog.client import reads, writes
from kvlog.client.caller import Caller
from kvlog.client.errors import ClientError, Closed, ConditionFailed, HistoryTrimmed, NoSuchLease, Unknown
from kvlog.client.holding import OVER, POLL_S, HeldLease, HeldLock
from kvlog.client.results import deletes
from kvlog.client.shared import clock
from kvlog.client.term import Term


class Lease(HeldLease[threading.Event]):
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
        super().__init__(lease, term, threading.Event)
        self._caller = caller
        self._keeper: threading.Thread | None = None

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
        self._give_up()
        return self._caller.do(writes.revoke(self.id, writes.new_id()))

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

    def _end(self) -> None:
        if not self.held:
            raise self._lose(OVER)
        try:
            self.revoke()
        except NoSuchLease as gone:
            raise self._lose(str(gone)) from gone

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
                    self._missed(error)
        finally:
            self._unkept()

    def _keep_alive(self, timeout: float) -> None:
        try:
            self._term.extend(self._caller.do(writes.keep_alive(self.id), timeout=timeout))
        except NoSuchLease as error:
            self._lose(str(error))
            raise


class Lock(HeldLock[Lease]):
    """A name that one client at a time can hold; see ``Client.lock``, which makes it. It cannot be taken twice.

    Attributes:
        name: the key that stands for it.
        ttl: seconds after which it is free again if its holder is not heard of.
        token: the fencing token while it is held, 0 else: the revision at which it was taken. Later holders have
            higher ones. Let what is protected refuse a token that is lower than one that it has seen.
    """

    def __init__(self, caller: Caller, name: str, *, ttl: float, wait: float | None) -> None:
        super().__init__(name, ttl=ttl, wait=wait)
        self._caller = caller

    def acquire(self) -> int:
        """Take it; returns the fencing token.

        Raises:
            LockHeld: somebody else has held it for all of the time that was to be waited.
            LeaseLost: its lease was lost before it was taken, and there is no time for another one.
            ClientError: it could not be asked for.
        """
        end = self._begin()
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
            self._again(lease, end)

    def release(self) -> None:
        """Give it back.

        Raises:
            LeaseLost: it was not held to the end.
            ClientError: it could not be given back; it is free once its time is over.
        """
        self._let_go().leave(None)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._let_go().leave(error)

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
            left = self._left(end)
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
