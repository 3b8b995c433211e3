"""Leases and locks for asyncio. The twin of lease."""

from __future__ import annotations

import asyncio
from typing import Self

from kvlog.client import reads, writes
from kvlog.client.aio_caller import AsyncCaller, wait
from kvlog.client.errors import ClientError, Closed, ConditionFailed, HistoryTrimmed, NoSuchLease, Unknown
from kvlog.client.holding import OVER, POLL_S, HeldLease, HeldLock
from kvlog.client.results import deletes
from kvlog.client.shared import clock
from kvlog.client.term import Term


class AsyncLease(HeldLease[asyncio.Event]):
    """Time that keys can be hung on; see Lease, and ``AsyncClient.lease``, which makes it.

    As a context manager it keeps itself alive in a task of its own. ``lost`` is an asyncio.Event.
    """

    def __init__(self, caller: AsyncCaller, lease: int, term: Term) -> None:
        super().__init__(lease, term, asyncio.Event)
        self._caller = caller
        self._keeper: asyncio.Task[None] | None = None

    async def keep_alive(self) -> None:
        """Its whole time anew.

        Raises:
            NoSuchLease: it has ended.
            NoNodes: no node could do it in time.
        """
        await self._keep_alive(self._caller.shared.timeout)

    def start(self) -> None:
        """Keep it alive from here on, until it is revoked or the client is closed."""
        if self._keeper is None:
            self._caller.adopt(self)
            self._keeper = asyncio.create_task(self._keep(), name=f"kvlog-lease-{self.id}")

    async def revoke(self) -> int:
        """End it, and its keys with it; returns how many they were. Without an answer it ends by itself, in time.

        Raises:
            NoSuchLease: it has ended before.
            Unknown: it was sent, and not answered.
            NoNodes: no node could be reached.
        """
        self._give_up()
        return await self._caller.do(writes.revoke(self.id, writes.new_id()))

    async def aclose(self) -> None:
        """What close does, for the client that is closed."""
        self.close()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self.leave(error)

    async def leave(self, error: BaseException | None) -> None:
        """The end of the ``with`` that it was held for, which may itself have ended by an error.

        Raises:
            LeaseLost: it was not held to the end.
            ClientError: it was, but could not be revoked; it ends by itself.
        """
        self.close()
        try:
            await self._end()
        except ClientError as at_end:
            if error is None:
                raise
            error.add_note(f"besides: {at_end}")

    async def _end(self) -> None:
        if not self.held:
            raise self._lose(OVER)
        try:
            await self.revoke()
        except NoSuchLease as gone:
            raise self._lose(str(gone)) from gone

    async def _keep(self) -> None:
        try:
            while True:
                await wait(self._ended, self._term.due(clock()))
                if self._ended.is_set():
                    return
                left = self.remaining
                if left <= 0:
                    return
                try:
                    await self._keep_alive(min(self._caller.shared.timeout, left))
                except NoSuchLease:
                    return
                except Closed:
                    self.close()
                    return
                except ClientError as error:
                    self._missed(error)
        finally:
            self._unkept()

    async def _keep_alive(self, limit: float) -> None:
        try:
            self._term.extend(await self._caller.do(writes.keep_alive(self.id), timeout=limit))
        except NoSuchLease as error:
            self._lose(str(error))
            raise


class AsyncLock(HeldLock[AsyncLease]):
    """A name that one client at a time can hold; see Lock, and ``AsyncClient.lock``, which makes it."""

    def __init__(self, caller: AsyncCaller, name: str, *, ttl: float, wait: float | None) -> None:
        super().__init__(name, ttl=ttl, wait=wait)
        self._caller = caller

    async def acquire(self) -> int:
        """Take it; returns the fencing token.

        Raises:
            LockHeld: somebody else has held it for all of the time that was to be waited.
            LeaseLost: its lease was lost before it was taken, and there is no time for another one.
            ClientError: it could not be asked for.
        """
        end = self._begin()
        while True:
            lease = await grant(self._caller, self.ttl)
            try:
                token = await self._take(lease, end)
            except BaseException as error:
                await _give_back(lease, error)
                raise
            if token:
                self._lease, self.token = lease, token
                return token
            self._again(lease, end)

    async def release(self) -> None:
        """Give it back.

        Raises:
            LeaseLost: it was not held to the end.
            ClientError: it could not be given back; it is free once its time is over.
        """
        await self._let_go().leave(None)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._let_go().leave(error)

    async def _take(self, lease: AsyncLease, end: float) -> int:
        """The token; 0 if the lease was lost before there was one."""
        lease.start()
        while True:
            try:
                taken = await self._caller.do(writes.take(self.name, lease.id))
            except NoSuchLease:
                return 0
            except Unknown as error:
                settled = await self._caller.do(writes.settle(error.request_id))
                if settled.committed:
                    return settled.revision if lease.held else 0
                if clock() >= end:
                    raise
            except ConditionFailed as error:
                if not await self._wait_until_free(lease, error.revision, end):
                    return 0
            else:
                return taken.revision if lease.held else 0

    async def _wait_until_free(self, lease: AsyncLease, since: int, end: float) -> bool:
        """Wait until the key is deleted after revision ``since``; False if the lease is lost before."""
        start = since + 1
        while not lease.lost.is_set():
            left = self._left(end)
            try:
                events, start = await self._caller.do(reads.poll(self.name, start, left), timeout=POLL_S)
            except HistoryTrimmed:
                return True  # so long ago that nobody remembers: see how it is now
            if deletes(events):
                return True
        return False


async def grant(caller: AsyncCaller, ttl: float) -> AsyncLease:
    """A new lease.

    Raises:
        BadRequest: its time makes no sense.
        ClientError: there is none.
    """
    call = writes.grant(ttl, writes.new_id())
    sent_at = clock()
    return AsyncLease(caller, await caller.do(call), Term(ttl, sent_at))


async def _give_back(lease: AsyncLease, error: BaseException) -> None:
    """A lease that was of no use; if it cannot be revoked, it ends by itself."""
    try:
        await lease.revoke()
    except ClientError as at_end:
        error.add_note(f"besides: {at_end}")
