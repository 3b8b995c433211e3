"""The watches of one node in single steps: what other threads do is done here, at any time and in any order."""

from __future__ import annotations

import json
from typing import TypeVar

from kvlog.errors import GapsInHistory, HistoryTrimmed, SlowReader, WatchEnded
from kvlog.memory_store import MemoryState, MemoryStore
from kvlog.watching import source, watcher
from kvlog.watching.feed import Feed
from kvlog.watching.frames import Frame
from kvlog.watching.source import Batch, Lookout, Piece, read_piece
from kvlog.watching.wanted import Wanted
from kvlog.watching.watcher import Watcher
from tests.past import Past, Write

Found = TypeVar("Found")

EVENT_BYTES = 1_200
"""No event of these tests has more."""

TURNS_MAX = 1_000
"""In far fewer turns all is done that is due."""

Told = tuple[int, dict[str, bool]]
"""The revision of an event, and for each key in it whether it was put."""


def told(frame: Frame) -> Told:
    event = json.loads(frame.data)
    assert event["revision"] == frame.revision
    assert frame.text == b"id: %d\nevent: change\ndata: %s\n\n" % (frame.revision, frame.data)
    return frame.revision, {change["key"]: change["op"] == "put" for change in event["changes"]}


def due(past: Past, wanted: Wanted, first: int, last: int) -> list[Told]:
    """What a watcher has to be told of the revisions ``first`` to ``last``."""
    found = []
    for revision in range(first, min(last, past.position.revision) + 1):
        keys = {
            key: key in past.states[revision]
            for key in past.changed(revision)
            if not key.startswith("\0") and (key == wanted.text if wanted.exact else key.startswith(wanted.text))
        }
        if keys:
            found.append((revision, keys))
    return found


class Client:
    """A watcher, and what it has been told."""

    def __init__(self, watcher: Watcher, start: int) -> None:
        self.watcher = watcher
        self.start = start
        self.told: list[Told] = []
        self.progress = start - 1
        self.ended: WatchEnded | None = None

    @property
    def takes(self) -> bool:
        """Whether there is anything to take, be it the end."""
        return not self.watcher.idle and self.ended is None

    def take(self, bytes_max: int = 100_000) -> None:
        if not self.takes:
            return
        try:
            self.told.extend(told(frame) for frame in self.watcher.take(bytes_max))
        except WatchEnded as ended:
            self.ended = ended

    def check(self, past: Past) -> None:
        """V1, V2, V4 and V5."""
        one = self.watcher
        assert self.told == due(past, one.wanted, self.start, one.delivered)
        waiting = [told(frame) for frame in one._frames]
        assert waiting == due(past, one.wanted, one.delivered + 1, one.through)
        assert one.delivered >= self.progress
        self.progress = one.delivered
        if self.ended is not None:
            assert self.ended.resume == one.delivered + 1
        most = max(source.BATCH_REVISIONS, source.PIECE_REVISIONS)
        assert len(waiting) <= watcher.EVENTS_MAX + most
        assert one._bytes == sum(len(frame.text) for frame in one._frames)
        assert one._bytes <= watcher.BYTES_MAX + most * EVENT_BYTES


def pick(found: list[Found], which: int) -> Found:
    return found.pop(which % len(found))


class SteppedNode:
    """See the module's docstring.

    What is under way: ``opening`` (first pieces that were read), ``asked`` (watchers whose next piece has not been
    read), ``pieces`` (read, and not handed over), ``found`` (what the lookout has, not handed over), ``wake`` (the
    lookout has something to look at).
    """

    def __init__(self, *, history: int = 100) -> None:
        self.past = Past()
        self.snapshots: dict[str, MemoryState] = {}
        self.store = MemoryStore(self.snapshots, history=history)
        self.asked: list[Watcher] = []
        self.opening: list[tuple[Wanted, Piece]] = []
        self.pieces: list[tuple[Watcher, Piece | GapsInHistory | HistoryTrimmed]] = []
        self.found: Batch | GapsInHistory | None = None
        self.wake = False
        self.feed = Feed(self.asked.append)
        self.lookout = Lookout(self.store, self.feed.interests)
        self.clients: list[Client] = []

    # --- the store ----------------------------------------------------------------------------------------

    def write(self, *requests: tuple[Write, ...]) -> None:
        """Apply an entry with these requests."""
        self.past.many(*requests)
        self.store.apply((self.past.entries[-1],), fill=False)
        self.wake = True

    def miss(self, *requests: tuple[Write, ...]) -> None:
        """An entry of which the store is told that it has missed it."""
        self.past.many(*requests)
        self.store.skip_to(len(self.past.entries) - 1)
        self.wake = True

    def fill(self) -> None:
        """Fill the gaps, all of them."""
        while gaps := self.store.position().gaps:
            self.store.apply((self.past.entries[gaps[0].first],), fill=True)
            self.wake = True

    def install(self, history: int, *requests: tuple[Write, ...]) -> None:
        """A copy of another node's store takes this one's place: it has one entry more, and keeps less."""
        self.past.many(*requests)
        other = MemoryStore(history=history)
        other.apply(tuple(self.past.entries), fill=False)
        self.snapshots["other"] = other.state
        self.store.install("other")
        self.wake = True

    # --- watchers -----------------------------------------------------------------------------------------

    def open(self, wanted: Wanted, start: int | None) -> None:
        """Read the first piece for a watcher; raises if there is none."""
        after = None if start is None else start - 1
        self.opening.append((wanted, read_piece(self.store, after, wanted)))

    def opened(self, which: int = 0) -> Client:
        """A watcher whose first piece was read begins."""
        wanted, first = pick(self.opening, which)
        client = Client(self.feed.add(wanted, first), first.after + 1)
        self.clients.append(client)
        self.wake = True
        return client

    def close(self, which: int) -> None:
        """A client leaves."""
        self.feed.remove(pick(self.clients, which).watcher)

    # --- the threads, and what they hand over -------------------------------------------------------------

    def read(self, which: int = 0) -> None:
        """A thread reads a piece that was asked for."""
        one = pick(self.asked, which)
        try:
            self.pieces.append((one, read_piece(self.store, one.through, one.wanted)))
        except (GapsInHistory, HistoryTrimmed) as reason:
            self.pieces.append((one, reason))

    def hand_over_piece(self, which: int = 0) -> None:
        """A piece that was read reaches the event loop."""
        one, piece = pick(self.pieces, which)
        if isinstance(piece, Piece):
            self.feed.piece(one, piece)
        else:
            self.feed.no_piece(one, piece)

    def look(self) -> None:
        """The lookout finds what is new; what it has found before has been handed over."""
        self.found, self.wake = self.lookout.look()

    def hand_over(self) -> None:
        """What the lookout has found reaches the event loop."""
        found, self.found = self.found, None
        if isinstance(found, Batch):
            self.feed.batch(found)
        elif found is not None:
            self.feed.interrupt(found)

    # --- what holds always, and what does once everything has come to rest --------------------------------

    def check(self) -> None:
        """What holds always."""
        for client in self.clients:
            client.check(self.past)

    def settle(self) -> None:
        """V3: once all that is due is done, every watcher has everything, or has been told why not."""
        turns = 0
        while self._busy():
            turns += 1
            assert turns < TURNS_MAX, "what is due comes to no end"
            for _ in range(len(self.asked)):
                self.read()
            for _ in range(len(self.pieces)):
                self.hand_over_piece()
            self.hand_over()
            if self.wake:
                self.look()
            for client in self.clients:
                client.take()
            self.check()
        position = self.store.position()
        for client in self.clients:
            if client.ended is not None:
                assert isinstance(client.ended.reason, SlowReader | GapsInHistory | HistoryTrimmed)
                continue
            assert client.watcher.in_step
            assert not position.gaps
            assert client.told == due(self.past, client.watcher.wanted, client.start, position.revision)
            assert client.watcher.delivered == max(client.start - 1, position.revision)

    def _busy(self) -> bool:
        takes = any(client.takes for client in self.clients)
        return bool(self.wake or self.found or self.asked or self.pieces or takes)
