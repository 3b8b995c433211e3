"""A watch for asyncio. The twin of watch."""

from __future__ import annotations

import asyncio
from typing import Self

from kvlog.client.aio_caller import AsyncCaller, AsyncStream, wait
from kvlog.client.errors import ClientError, NoNodes
from kvlog.client.feed import Feed
from kvlog.client.following import Following
from kvlog.client.messages import Failure
from kvlog.client.results import Event
from kvlog.client.shared import clock
from kvlog.client.steps import steps


class AsyncWatch:
    """Every change, each once and in order; see Watch, and ``AsyncClient.watch``, which makes it.

    Iterate over it in one task; ``aclose`` it from any. As a context manager it closes itself. A task that is
    cancelled while it waits for the next event loses none: whoever asks next gets it.
    """

    def __init__(self, caller: AsyncCaller, feed: Feed) -> None:
        self._caller = caller
        self._stream = AsyncStream(feed.silence)
        self._reading = asyncio.Lock()
        self._state = Following(feed, clock(), caller.shared.timeout)

    async def begin(self, patience: float) -> Self:
        """Have a node say where it begins; then all nodes may be out of reach for so many seconds."""
        self._caller.adopt(self)
        try:
            async with asyncio.timeout(self._caller.shared.timeout):
                await self._open()
                while self._state.beginning:
                    await self._advance()
            self._state.begun(patience)
        except TimeoutError:
            await self.aclose()
            raise NoNodes(f"{self._state.feed.what}: no node could begin in time") from None
        except BaseException:
            await self.aclose()
            raise
        return self

    @property
    def revision(self) -> int:
        """Everything up to it has been handed out; a watch with ``start=revision + 1`` goes on behind it."""
        return self._state.revision

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event, as soon as there is one; see Watch."""
        async with self._reading:
            while (event := self._state.next()) is None:
                if self._stream.closing.is_set():
                    await self._stream.aclose()
                    raise StopAsyncIteration
                if self._state.error is not None:
                    self._stream.closing.set()
                    await self._stream.aclose()
                    raise self._state.error
                await self._advance()
        self._caller.shared.saw(event.revision)
        return event

    async def aclose(self) -> None:
        """End it: whoever waits for the next event waits no longer."""
        self._stream.closing.set()
        self._stream.interrupt()
        async with self._reading:
            await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._stream.closing.is_set() else f"at {self._state.node}"
        return f"<AsyncWatch: {self._state.feed.what}, revision {self.revision}, {state}>"

    async def _advance(self) -> None:
        try:
            if not self._stream.is_open:
                await self._open()
                return
            piece = await self._stream.read()
            cut = piece.reason if isinstance(piece, Failure) else self._heard(piece)
            if cut:
                await self._stream.release()
                await wait(self._stream.closing, self._state.cut(cut, clock()))
        except ClientError as error:
            self._state.error = error

    def _heard(self, piece: bytes) -> str:
        return self._state.heard(piece, clock(), self._caller.shared.revision)

    async def _open(self) -> None:
        shared = self._caller.shared
        left, first = self._state.time_left(clock()), self._state.first(shared.nodes)
        run = steps(self._state.feed.call(), shared, clock, left, first=first)
        self._state.opened(await self._caller.drive(run, self._stream), clock())
