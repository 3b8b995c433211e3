"""A watch: an iterator of changes that outlives the nodes it hears them from."""

from __future__ import annotations

import threading
from typing import Self

from kvlog.client.caller import Caller, Stream
from kvlog.client.errors import ClientError
from kvlog.client.feed import Feed
from kvlog.client.following import Following
from kvlog.client.messages import Failure
from kvlog.client.results import Event
from kvlog.client.shared import clock
from kvlog.client.steps import steps

CLOSE_S = 1.0
"""How long ``close`` waits for the thread that reads."""


class Watch:
    """Every change, each once and in order; see ``Client.watch``, which makes it.

    A connection that breaks, a node that dies, and one that says nothing for three heartbeats are no end: it goes
    on at another node, right behind what has come last.

    Iterate over it in one thread; ``close`` it from any. As a context manager it closes itself.

    Args:
        caller: asks the nodes.
        feed: what to watch, and from where on.
        patience: seconds for which all nodes may be out of reach before it raises NoNodes.
    """

    def __init__(self, caller: Caller, feed: Feed, *, patience: float) -> None:
        self._caller = caller
        self._stream = Stream(feed.silence)
        self._reading = threading.Lock()
        self._state = Following(feed, clock(), caller.shared.timeout)
        caller.adopt(self)
        try:
            self._begin()
            self._state.begun(patience)
        except BaseException:
            self.close()
            raise

    @property
    def revision(self) -> int:
        """Everything up to it has been handed out; a watch with ``start=revision + 1`` goes on behind it."""
        return self._state.revision

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """The next event, as soon as there is one.

        Raises:
            StopIteration: it has been closed.
            HistoryTrimmed: what comes next is not remembered any more: it was out of reach for too long.
            NoNodes: all nodes have been out of reach for too long.
            ClientError: it cannot go on for another reason.
        """
        with self._reading:
            while (event := self._state.next()) is None:
                if self._stream.closing.is_set():
                    self._stream.close()
                    raise StopIteration
                if self._state.error is not None:
                    self._stream.closing.set()
                    self._stream.close()
                    raise self._state.error
                self._advance()
        self._caller.shared.saw(event.revision)
        return event

    def close(self) -> None:
        """End it: whoever waits for the next event waits no longer."""
        self._stream.closing.set()
        self._stream.interrupt()
        if self._reading.acquire(timeout=CLOSE_S):
            try:
                self._stream.close()
            finally:
                self._reading.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._stream.closing.is_set() else f"at {self._state.node}"
        return f"<Watch: {self._state.feed.what}, revision {self.revision}, {state}>"

    def _begin(self) -> None:
        """Have a node say where it begins, within the client's time."""
        limit = threading.Timer(self._caller.shared.timeout, self._stream.interrupt)
        limit.daemon = True
        limit.start()
        try:
            self._open()
            while self._state.beginning:
                self._advance()
        finally:
            limit.cancel()

    def _advance(self) -> None:
        """Wait for more, or for a node to hear it from."""
        try:
            if not self._stream.is_open:
                self._open()
                return
            piece = self._stream.read()
            cut = piece.reason if isinstance(piece, Failure) else self._heard(piece)
            if cut:
                self._stream.release()
                self._stream.closing.wait(self._state.cut(cut, clock()))
        except ClientError as error:
            self._state.error = error

    def _heard(self, piece: bytes) -> str:
        return self._state.heard(piece, clock(), self._caller.shared.revision)

    def _open(self) -> None:
        shared = self._caller.shared
        left, first = self._state.time_left(clock()), self._state.first(shared.nodes)
        run = steps(self._state.feed.call(), shared, clock, left, first=first)
        self._state.opened(self._caller.drive(run, self._stream), clock())
