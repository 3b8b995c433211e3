"""One connection through a proxy: two directions, each of which keeps the order, and keeps back only so much."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.faults.rules import Door, Pushes, Way
from tests.faults.wire import PUSH, request_bytes

if TYPE_CHECKING:
    from tests.faults.proxy import Proxy

PIECE_BYTES = 64 * 1024
WAITING_BYTES_MAX = 1024 * 1024
"""What a direction keeps back before nothing more is read."""

SLICES = 20
"""A limited rate comes in so many slices a second."""

HOST = "127.0.0.1"

_PLAIN = Way()
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


Look = Callable[[bytes], Awaitable[tuple[bytes, bool]]]
"""What of some bytes goes on, and whether a reset comes behind it."""


class Cut(Exception):
    """The connection is to be reset, on both sides."""


class Connection:
    """A client's connection, and the one to the server that stands for it."""

    def __init__(self, proxy: Proxy, client: socket.socket, client_port: int) -> None:
        self.proxy = proxy
        self.client_port = client_port
        self.taken_at = proxy.loop.time()
        self.live = False
        self.abandoned = False
        self.rules = proxy.rules(client_port)
        self._client = client
        self._server = socket.socket()
        self._server.setblocking(False)
        self._talk = proxy.talk()
        self._lost: set[int] = set()
        self._to_server = Direction(proxy, client, self._server)
        self._to_client = Direction(proxy, self._server, client)
        self._pumps: asyncio.Task[None] | None = None

    def look(self) -> None:
        """The rules are other ones."""
        self.rules = self.proxy.rules(self.client_port)
        self._to_server.obey(self.rules.to_server)
        self._to_client.obey(self.rules.to_client)

    async def run(self) -> None:
        """Serve the client to the end.

        Raises:
            OSError, Cut: the server or the client was not there.
        """
        whole = False
        try:
            await self._reach_server()
            self.live = True
            self._pumps = self.proxy.start(self._pump())
            await asyncio.wait([self._pumps])
            if self.abandoned:
                reset(self._server)
                await asyncio.Event().wait()  # for its reset
            whole = self._came_to_its_end(self._pumps)
        finally:
            self.live = False
            if self._pumps is not None:
                self._pumps.cancel()
                await asyncio.wait([self._pumps])
            self.end(whole=whole)

    def end(self, *, whole: bool) -> None:
        """Close both connections; with a reset, unless each has come to its end by itself."""
        for end in (self._client, self._server):
            if whole:
                end.close()
            elif end.fileno() >= 0:
                reset(end)

    @staticmethod
    def _came_to_its_end(pumps: asyncio.Task[None]) -> bool:
        if pumps.cancelled():
            return False
        error = pumps.exception()
        if isinstance(error, BaseExceptionGroup):
            error = error.split(Cut)[1]
            if error is None:
                return False
        if error is not None:
            raise error
        return True

    def abandon(self) -> None:
        """The server takes the connection for reset; the client hears nothing."""
        if self._pumps is not None:
            self.abandoned = True
            self._pumps.cancel()

    async def _reach_server(self) -> None:
        while self.rules.door is Door.SILENT:
            await self.proxy.changed.wait()
            if _has_left(self._client):
                raise Cut
        try:
            await self.proxy.loop.sock_connect(self._server, (HOST, self.proxy.to_port))
        except ConnectionRefusedError:
            self.proxy.follow()  # before the client hears of it, who may ask again at once
            raise
        for end in (self._client, self._server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.look()

    async def _pump(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._to_server.pump(group, self._asked))
            group.create_task(self._to_client.pump(group, self._answered))

    async def _asked(self, data: bytes) -> tuple[bytes, bool]:
        if self.rules.pushes != Pushes() and data.startswith(PUSH):
            data = await self._whole(data)
            if not await self.proxy.pushes.meet(self.rules.pushes, data):
                return b"", True
        data, requests = self._talk.asked(data)
        self._lost.update(request for request in requests if self.proxy.is_lost(self.rules.lose_answer))
        return data, False

    async def _whole(self, data: bytes) -> bytes:
        while (length := request_bytes(data)) is not None and (length == 0 or len(data) < length):
            more = await self.proxy.loop.sock_recv(self._client, PIECE_BYTES)
            if not more:
                break
            data += more
        return data

    async def _answered(self, data: bytes) -> tuple[bytes, bool]:
        data, lost = self._talk.answered(data, self._lost)
        self.proxy.counts["answers lost"] += lost
        return data, lost


class Direction:
    """What comes from one end goes to the other: at once, or when its rules allow it."""

    def __init__(self, proxy: Proxy, source: socket.socket, sink: socket.socket) -> None:
        self._proxy = proxy
        self._source = source
        self._sink = sink
        self._way = _PLAIN
        self._passed = 0  # bytes, under these rules
        self._waiting: deque[tuple[float, bytes | None]] = deque()  # when it is due, and what; see _deliver
        self._waiting_bytes = 0
        self._room = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._sink_gone = False

    def obey(self, way: Way) -> None:
        """Other rules, or the same."""
        if way != self._way:
            self._way, self._passed = way, 0

    async def pump(self, group: asyncio.TaskGroup, look: Look) -> None:
        """Until the source has ended, or nobody is there any more to whom it could be told."""
        while not self._sink_gone:
            try:
                read = await self._proxy.loop.sock_recv(self._source, PIECE_BYTES)
                data, cut = await look(read) if read else (b"", False)
            except OSError:
                read, data, cut = b"", b"", True  # it was reset, and so is the other end
            if data:
                await self._deliver(group, data)
            if cut or not read:
                await self._deliver(group, None if cut else b"")
                return

    async def _deliver(self, group: asyncio.TaskGroup, data: bytes | None) -> None:
        """Bytes; b"" is the end, None a reset."""
        if data and not self._waiting and self._way == _PLAIN:
            await self._send(data)
            return
        while self._waiting_bytes >= WAITING_BYTES_MAX and not self._sink_gone:
            self._room.clear()
            await self._room.wait()
        self._waiting.append((self._proxy.loop.time() + self._way.delay_s, data))
        self._waiting_bytes += len(data or b"")
        if self._writer is None or self._writer.done():
            self._writer = group.create_task(self._write())

    async def _write(self) -> None:
        while self._waiting:
            due, data = self._waiting[0]
            while (way := self._way).stalled or (way.delay_s and self._proxy.loop.time() < due):
                await self._pause(None if way.stalled else due - self._proxy.loop.time())
            if data is None:
                raise Cut
            if data:
                await self._send(data)
            else:
                with suppress(OSError):  # it has gone already
                    self._sink.shutdown(socket.SHUT_WR)
            self._waiting.popleft()
            self._waiting_bytes -= len(data)
            self._room.set()

    async def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left and not self._sink_gone:
            way, part = self._way, left
            if way.bytes_per_s:
                part = part[: max(1, way.bytes_per_s // SLICES)]
            if way.cut_after >= 0:
                part = part[: max(0, way.cut_after - self._passed)]
            try:
                await self._proxy.loop.sock_sendall(self._sink, part)
            except OSError:
                self._sink_gone = True  # the other direction learns it as well, and tells whom it concerns
                return
            self._passed += len(part)
            self._proxy.counts["bytes"] += len(part)
            left = left[len(part) :]
            if 0 <= way.cut_after <= self._passed and way == self._way:
                self._proxy.counts["cut"] += 1
                raise Cut
            if way.bytes_per_s:
                await self._pause(len(part) / way.bytes_per_s)

    async def _pause(self, timeout_s: float | None) -> None:
        """Wait so long, or until the rules are other ones."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._proxy.changed.wait(), timeout_s)


def reset(end: socket.socket) -> None:
    """Close a connection so that its other end is told of a reset."""
    with suppress(OSError):  # it is closed already
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    end.close()


def _has_left(client: socket.socket) -> bool:
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))
