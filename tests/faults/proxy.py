"""TCP proxies that do to connections what networks do, and worse; many of them on one thread.

    with Network() as network:
        proxy = network.proxy(port=3181, to_port=2181, talk=ZooKeeperTalk)
        proxy.set(Rules(to_client=Way(stalled=True)))
        proxy.heal()

Nothing is lost on a connection that stays, and nothing comes in another order: it is TCP. What a rule keeps back
is bounded; beyond that nothing more is read, and the sender has to wait.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar

from tests.faults.connection import HOST, PIECE_BYTES, Connection, Cut, reset
from tests.faults.rules import PASS, Door, Pushes, Rules
from tests.faults.wire import Talk, Turns

CONNECTIONS_MAX = 2048
CALL_S = 10.0

GONE_S = 0.02
"""How often a server is looked for that has gone; until it is back, the proxy's port refuses, as its own does."""

PUSHES_KEPT = 8
BEHIND_S = 0.02
"""How long after the next push a push comes that it has overtaken."""

ASIDE_S = 2.0
ASIDE_MAX = 16
"""Pushes that go beside those of the client: how long they wait for an answer, and how many go at a time."""

T = TypeVar("T")


class Network:
    """The thread on which proxies run. Leaving it ends them all, and raises what went wrong in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxies", daemon=True)
        self._proxies: list[Proxy] = []
        self.errors: list[BaseException] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._proxies:
            self.call(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)
        self._loop.close()
        if self.errors:
            raise self.errors[0]

    def proxy(self, *, port: int, to_port: int, talk: Callable[[], Talk] = Turns) -> Proxy:
        """A proxy at a port of this machine, for a server at another one, which need not be there yet.

        Raises:
            OSError: the port is taken.
        """
        proxy = Proxy(self, self._loop, port, to_port, talk)
        self._proxies.append(proxy)
        self.call(proxy.start_up())
        return proxy

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Have the thread do something, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)


class Proxy:
    """One proxy; Network makes it.

    Attributes:
        address: where it is, ``host:port``.
        counts: what has happened so far: connections ``taken``, ``bytes`` passed, and what the rules have done:
            ``reset`` at the door, ``cut``, ``answers lost``, pushes ``doubled``, ``replayed``, ``overtaken``.
    """

    def __init__(
        self, network: Network, loop: asyncio.AbstractEventLoop, port: int, to_port: int, talk: Callable[[], Talk]
    ) -> None:
        self.port = port
        self.to_port = to_port
        self.address = f"{HOST}:{port}"
        self.counts: Counter[str] = Counter()
        self.loop = loop
        self.talk = talk
        self.changed = asyncio.Event()
        self.pushes = _PushesMet(self)
        self._network = network
        self._rules = PASS
        self._of: Callable[[int], bool] | None = None
        self._listener: socket.socket | None = None
        self._served: dict[Connection, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked = 0

    # --- for any thread -----------------------------------------------------------------------------------

    def set(self, rules: Rules, *, of: Callable[[int], bool] | None = None) -> None:
        """From now on these rules, for the connections that there are and for new ones.

        ``of`` says of a client's port whether they are for its connection; all others pass.
        """
        self._network.call(self._set(rules, of))

    def heal(self) -> None:
        """Everything passes, and what was kept back goes on; what was abandoned is reset."""
        self._network.call(self._heal())

    def reset(self) -> None:
        """Reset every connection."""
        self._network.call(self._reset(lambda _: True))

    def abandon(self) -> None:
        """Leave every connection half open: the server has lost it, the client hears nothing until `heal`."""
        self._network.call(self._abandon())

    @property
    def clients(self) -> list[int]:
        """The ports of the clients whose connections have reached the server, the latest last."""
        return self._network.call(self._clients())

    @property
    def last_taken(self) -> float:
        """When the latest of them has come, on a clock that all proxies of a network share; 0 if there is none."""
        return self._network.call(self._last_taken())

    # --- for connections ----------------------------------------------------------------------------------

    def rules(self, client_port: int) -> Rules:
        """What holds for a client's connection."""
        return self._rules if self._of is None or self._of(client_port) else PASS

    def is_lost(self, every: int) -> bool:
        """Whether the answer to a request that counts is to be lost, if that of every k-th is."""
        self._asked += 1
        return every > 0 and self._asked % every == 0

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have something done beside; it ends with the proxy at the latest."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- on the thread of the proxies ---------------------------------------------------------------------

    async def start_up(self) -> None:
        """Begin to listen."""
        self._open()

    def _open(self) -> None:
        """Listen, unless the port is to be closed."""
        if self._listener is None and self._rules.door is not Door.REFUSED:
            self._listener = socket.create_server((HOST, self.port), backlog=512)
            self._listener.setblocking(False)
            self.loop.add_reader(self._listener, self._take)

    async def close(self) -> None:
        """End it, with all connections."""
        self._shut()
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _shut(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self.loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _set(self, rules: Rules, of: Callable[[int], bool] | None) -> None:
        self._rules, self._of = rules, of
        for connection in self._served:
            connection.look()
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
        if rules.door is Door.REFUSED:
            self._shut()
        else:
            self._open()

    async def _heal(self) -> None:
        await self._reset(lambda connection: connection.abandoned)
        await self._set(PASS, None)
        self.pushes.release()

    async def _reset(self, which: Callable[[Connection], bool]) -> None:
        ending = [task for connection, task in self._served.items() if which(connection)]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)

    async def _abandon(self) -> None:
        for connection in self._served:
            connection.abandon()

    async def _clients(self) -> list[int]:
        return [connection.client_port for connection in self._served if connection.live]

    async def _last_taken(self) -> float:
        return max((connection.taken_at for connection in self._served if connection.live), default=0.0)

    def _take(self) -> None:
        """Take what has come to the port."""
        while self._listener is not None:
            try:
                client, (_, port) = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return  # no more of them, for now
            client.setblocking(False)
            self.counts["taken"] += 1
            if self.rules(port).door is Door.RESET or len(self._served) >= CONNECTIONS_MAX:
                self.counts["reset"] += 1
                reset(client)
                continue
            connection = Connection(self, client, port)
            task = self._served[connection] = self.start(self._serve(connection))
            task.add_done_callback(partial(self._forget, connection))

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        except (OSError, Cut):
            pass  # its client has left, or it was reset, before there was a way to the server
        except Exception as error:  # noqa: BLE001 - told when the network ends
            self._network.errors.append(error)

    def _forget(self, connection: Connection, _: asyncio.Task[None]) -> None:
        connection.end(whole=False)
        del self._served[connection]

    def follow(self) -> None:
        """The server's port is closed: so is this one until that is open again."""
        if self._listener is not None:
            self._shut()
            self.start(self._open_with_server())

    async def _open_with_server(self) -> None:
        reached = False
        while not reached:
            await asyncio.sleep(GONE_S)
            with socket.socket() as probe:
                probe.setblocking(False)
                with suppress(OSError):  # it is still gone
                    await self.loop.sock_connect(probe, (HOST, self.to_port))
                    reached = True
        self._open()


class _PushesMet:
    """The pushes that a proxy has met, and what becomes of them."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._number = 0
        self._kept: deque[bytes] = deque(maxlen=PUSHES_KEPT)
        self._held = b""  # the one that is to be overtaken
        self._aside = 0

    async def meet(self, rules: Pushes, push: bytes) -> bool:
        """A push has come: whether it goes on."""
        if push == self._held:
            return False
        self._number += 1
        if not self._held and self._is_one(rules.overtake, "overtaken"):
            self._held = push
            return False
        self.release()
        if self._is_one(rules.double, "doubled"):
            self._send_aside(push, 0.0)
        if self._kept and self._is_one(rules.replay, "replayed"):
            self._send_aside(self._kept[0], BEHIND_S)
        self._kept.append(push)
        await asyncio.sleep(rules.delay_s)
        return True

    def release(self) -> None:
        """What was kept back comes now."""
        if self._held:
            held, self._held = self._held, b""
            self._send_aside(held, BEHIND_S)

    def _is_one(self, every: int, what: str) -> bool:
        it_is = every > 0 and self._number % every == 0
        self._proxy.counts[what] += it_is
        return it_is

    def _send_aside(self, push: bytes, after_s: float) -> None:
        if self._aside < ASIDE_MAX:
            self._proxy.start(self._on_its_own(push, after_s))

    async def _on_its_own(self, push: bytes, after_s: float) -> None:
        self._aside += 1
        loop = self._proxy.loop
        try:
            await asyncio.sleep(after_s)
            async with asyncio.timeout(ASIDE_S):
                with socket.socket() as server:
                    server.setblocking(False)
                    await loop.sock_connect(server, (HOST, self._proxy.to_port))
                    await loop.sock_sendall(server, push)
                    await loop.sock_recv(server, PIECE_BYTES)
        except (OSError, TimeoutError):
            self._proxy.counts["aside without an answer"] += 1
        finally:
            self._aside -= 1
