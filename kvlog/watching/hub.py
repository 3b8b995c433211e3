"""What makes watches go: one thread that looks for what is new, a few that read the past, and the event loop.

The thread is woken when something has been applied, reads it from the store once for all watchers, encodes it once
for all who want the same of it, and hands it to the event loop, where everything else of a watch happens. It hands
out one batch at a time: when the loop has much to do, the next one is larger.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from kvlog.core.machine import Position
from kvlog.errors import GapsInHistory, HistoryTrimmed, Unavailable, invariant
from kvlog.ports import Store
from kvlog.watching.feed import Feed
from kvlog.watching.source import Batch, Lookout, Piece, read_piece
from kvlog.watching.wanted import Wanted
from kvlog.watching.watcher import Watcher

WATCHERS_MAX = 3_000
"""Watchers at a time. Each holds a connection (front.CONNECTIONS_MAX); reads and writes need some, too."""

READERS = 4
"""Threads that read the past: more would not be faster, as what they do is mostly Python's work."""


class WatchHub:
    """All watches of a node; see the module's docstring. ``open`` and ``close`` are for one event loop only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._feed = Feed(self._ask)
        self._lookout = Lookout(store, self._feed.interests)
        self._opened = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="kvlog-watch-read")
        self._thread = threading.Thread(target=self._run, name="kvlog-watch", daemon=True)
        self._wake = threading.Event()
        self._taken = threading.Event()
        self._stopping = False

    def start(self) -> None:
        """Begin to look for what is new."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End all threads."""
        self._stopping = True
        self._wake.set()
        self._taken.set()
        self._thread.join(timeout_s)
        self._readers.shutdown(wait=True, cancel_futures=True)  # each reads one more piece at most

    def applied(self, _: Position) -> None:
        """Something has been applied to the store; on any thread, and it costs nothing while nobody watches."""
        if self._opened:
            self._wake.set()

    # --- on the event loop --------------------------------------------------------------------------------

    async def open(self, wanted: Wanted, start: int | None) -> Watcher:
        """A watcher that gets what happens from the revision ``start`` on; if that is None, from the next one on.

        Whoever opens it closes it.

        Raises:
            Unavailable: there are as many watchers as may be.
            HistoryTrimmed, GapsInHistory: what happened from there on cannot be told.
        """
        if self._opened >= WATCHERS_MAX:
            raise Unavailable(f"{WATCHERS_MAX} watchers are connected to this node already")
        self._loop = asyncio.get_running_loop()
        self._opened += 1
        try:
            after = None if start is None else start - 1
            first = await self._loop.run_in_executor(self._readers, read_piece, self._store, after, wanted)
        except BaseException:
            self._opened -= 1
            raise
        watcher = self._feed.add(wanted, first)
        self._wake.set()
        return watcher

    def close(self, watcher: Watcher) -> None:
        """Nobody takes its events any longer."""
        self._feed.remove(watcher)
        self._opened -= 1

    def _ask(self, watcher: Watcher) -> None:
        """Have a piece of a watcher's past read."""
        read = asyncio.get_running_loop().run_in_executor(
            self._readers, read_piece, self._store, watcher.through, watcher.wanted
        )
        read.add_done_callback(partial(self._read, watcher))

    def _read(self, watcher: Watcher, read: asyncio.Future[Piece]) -> None:
        """A piece is there, or never will be; what else goes wrong is not the watcher's business."""
        if read.cancelled():  # the threads are told to end
            return
        try:
            piece = read.result()
        except (HistoryTrimmed, GapsInHistory) as reason:
            self._feed.no_piece(watcher, reason)
        else:
            self._feed.piece(watcher, piece)

    # --- on the thread that looks for what is new ---------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._look():
                pass
            if self._stopping:
                return

    def _look(self) -> bool:
        """Hand out what is new; whether there is more."""
        found, more = self._lookout.look()
        if isinstance(found, Batch):
            self._hand_over(partial(self._feed.batch, found))
        elif found is not None:
            self._hand_over(partial(self._feed.interrupt, found))
        return more and not self._stopping

    def _hand_over(self, work: Callable[[], None]) -> None:
        """Have the event loop do something, and wait until it is done."""

        def done() -> None:
            try:
                work()
            finally:
                self._taken.set()

        loop = self._loop
        invariant(loop is not None, "somebody watches without an event loop")
        self._taken.clear()
        if loop is None or loop.is_closed() or self._stopping:
            return
        try:
            loop.call_soon_threadsafe(done)
        except RuntimeError:  # it has been closed just now: the server has stopped
            if not loop.is_closed():
                raise
            return
        self._taken.wait()
