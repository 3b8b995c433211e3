"""The hub with its threads, on a real event loop: nothing is missed or doubled, nothing is done for nobody."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from kvlog.core.commands import update
from kvlog.core.events import Probed, WriteSubmitted
from kvlog.core.values import Ack, Committed, Reach
from kvlog.errors import GapsInHistory, HistoryTrimmed, StoreFailure, Unavailable, WatchEnded
from kvlog.memory_store import MemoryStore
from kvlog.ports import Kept
from kvlog.watching import hub as hubs
from kvlog.watching import source
from kvlog.watching.hub import WatchHub
from kvlog.watching.wanted import Wanted
from kvlog.watching.watcher import Watcher
from tests.memory_node import MemoryNode
from tests.past import Past

WAIT_S = 20.0
HEARTBEAT_S = 0.02
BYTES = 100_000
ALL = Wanted("")


class CountingStore(MemoryStore):
    """Counts who looks at what is new, and fails where it is told to."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.reads: list[str] = []
        self.fails_on = ""

    def kept(self, after: int, *, limit: int, bytes_max: int) -> Kept:
        thread = threading.current_thread().name
        self.reads.append(thread)
        if self.fails_on and thread.startswith(self.fails_on):
            raise StoreFailure("input/output error")
        return super().kept(after, limit=limit, bytes_max=bytes_max)


class Node:
    """A store, its log, and its hub."""

    def __init__(self, **settings: Any) -> None:
        self.past = Past()
        self.store = CountingStore(**settings)
        self.hub = WatchHub(self.store)

    def write(self, key: str, value: bytes | None = b"v") -> int:
        self.past.one((key, value))
        self.hub.applied(self.store.apply((self.past.entries[-1],), fill=False))
        return self.past.position.revision


@contextmanager
def running(node: Node) -> Iterator[Node]:
    node.hub.start()
    try:
        yield node
    finally:
        node.hub.stop(WAIT_S)
    assert not [
        each for each in threading.enumerate() if each.name.split("_")[0] in ("kvlog-watch", "kvlog-watch-read")
    ]


@pytest.fixture
def node() -> Iterator[Node]:
    with running(Node()) as node:
        yield node


def run(work: Coroutine[Any, Any, None]) -> None:
    """On an event loop of its own; what goes wrong behind its back fails the test, and nothing takes for ever."""
    unexpected: list[dict[str, Any]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
        async with asyncio.timeout(WAIT_S):
            await work

    asyncio.run(bounded())
    assert unexpected == []


@asynccontextmanager
async def watching(node: Node, wanted: Wanted = ALL, start: int | None = None) -> AsyncIterator[Watcher]:
    watcher = await node.hub.open(wanted, start)
    try:
        yield watcher
    finally:
        node.hub.close(watcher)


async def told(watcher: Watcher, last: int) -> list[int]:
    """The revisions that it is told of, up to this one."""
    found: list[int] = []
    while watcher.delivered < last:
        await watcher.ready(HEARTBEAT_S)  # nobody is woken because there is nothing to be told
        found += [frame.revision for frame in watcher.take(BYTES)]
    return found


# --- nothing is missed or doubled -----------------------------------------------------------------------------


def test_watchers_that_come_and_go_while_others_write_are_told_everything(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    """V1 on real threads: each from its start on, wherever that is, until it leaves."""
    monkeypatch.setattr(source, "BATCH_REVISIONS", 3)
    monkeypatch.setattr(source, "PIECE_REVISIONS", 7)
    writes = 1_500
    chance = random.Random(1)
    begun = threading.Event()

    def write() -> None:
        assert begun.wait(WAIT_S)
        for number in range(writes):
            node.write("ab"[number % 2] + str(number % 5), b"%d" % number)

    async def one(key: str) -> tuple[int, list[int]]:
        now = node.store.position().revision
        start = chance.choice([None, 1, now + 1, now + 20, max(1, now - chance.randrange(100))])
        wanted = chance.choice([ALL, Wanted("a"), Wanted(key, exact=True)])
        async with watching(node, wanted, start) as watcher:
            first = watcher.delivered + 1 if start is None else start
            last = min(writes, first + chance.randrange(300))
            found = await told(watcher, last)
            last = max(last, watcher.delivered)
        due = [at for at in range(first, last + 1) if any(map(wanted._has, node.past.changed(at)))]
        assert found == due
        return len(found)

    async def clients() -> None:
        begun.set()
        told_of = [sum(await asyncio.gather(*(one(f"b{n}") for n in range(10)))) for _ in range(20)]
        print(f"{sum(told_of)} events")

    writer = threading.Thread(target=write)
    writer.start()
    run(clients())
    writer.join()


def test_what_is_committed_reaches_the_watchers():
    """The runtime tells of what it has applied, on the thread that applies."""
    store = MemoryStore()
    hub = WatchHub(store)
    node = MemoryNode(
        watchdog_s=WAIT_S, say=lambda _: None, fail=lambda *_: None, store=store, on_applied=hub.applied
    )

    node.peers.probe = lambda effect: node.runtime.post(Probed(effect.address, Reach.ANSWERS, "a1"))

    async def client() -> None:
        watcher = await hub.open(ALL, None)
        answer = await asyncio.to_thread(
            node.runtime.ask,
            lambda token: WriteSubmitted(
                token, update("a", "1"), Ack.LOG, node.clock.monotonic() + WAIT_S, forwarded=False
            ),
            WAIT_S,
        )
        assert isinstance(answer, Committed)
        await watcher.ready(WAIT_S)
        (frame,) = watcher.take(BYTES)
        event = json.loads(frame.data)
        assert (event["revision"], event["index"]) == (answer.revision, answer.index)
        hub.close(watcher)

    node.start()
    hub.start()
    run(client())
    hub.stop(WAIT_S)
    node.stop()


# --- nothing is done for nobody -------------------------------------------------------------------------------


def test_nothing_is_looked_at_while_nobody_watches(node: Node):
    """And no longer once the last watcher has left."""

    async def client() -> None:
        node.write("a")
        async with watching(node) as watcher:
            last = node.write("a")
            assert await told(watcher, last) == [last]
        node.store.reads.clear()
        for _ in range(20):
            node.write("a")
        async with watching(node, start=node.store.position().revision):
            pass

    run(client())
    # Whoever comes again is read a first piece; the lookout may see it before it has left.
    lookout = node.store.reads.count("kvlog-watch")
    assert (len(node.store.reads) - lookout, lookout) in ((1, 0), (1, 1))


def test_what_is_new_is_read_once_for_all(node: Node):
    """However many there are: the store is asked about as often as something was applied, at most."""

    async def client() -> None:
        watchers = [await node.hub.open(Wanted(text), None) for text in ("", "a", "b", "c") for _ in range(50)]
        await told(watchers[0], node.write("warm"))
        node.store.reads.clear()
        for number in range(10):
            last = node.write("abc"[number % 3])
        for watcher in watchers:
            await told(watcher, last)
            node.hub.close(watcher)

    run(client())
    assert 1 <= len(node.store.reads) <= 12  # one or two were due before


# --- limits, and what goes wrong ------------------------------------------------------------------------------


def test_there_is_room_for_so_many_watchers(node: Node, monkeypatch: pytest.MonkeyPatch):
    """Unavailable beyond; one that could not begin, or has left, takes none."""
    monkeypatch.setattr(hubs, "WATCHERS_MAX", 2)

    async def clients() -> None:
        for _ in range(3):
            with pytest.raises(HistoryTrimmed):
                await node.hub.open(ALL, 0)
        first, second = await node.hub.open(ALL, None), await node.hub.open(ALL, None)
        with pytest.raises(Unavailable, match="2 watchers are connected"):
            await node.hub.open(ALL, None)
        node.hub.close(first)
        node.hub.close(await node.hub.open(ALL, None))
        node.hub.close(second)

    run(clients())


def test_a_store_with_gaps_is_not_watched(node: Node):
    """GapsInHistory, for one that begins and for one that is there."""

    async def clients() -> None:
        async with watching(node) as watcher:
            last = node.write("a")
            node.past.one(("a", b"missed"))
            node.hub.applied(node.store.skip_to(1))
            found = await told_until_ended(watcher)
            assert found in ([last], [])  # it may have been looked at only after the gap was there
            with pytest.raises(WatchEnded) as ended:
                watcher.take(BYTES)
            assert isinstance(ended.value.reason, GapsInHistory)
            assert ended.value.resume == (found or [0])[-1] + 1
        with pytest.raises(GapsInHistory):
            await node.hub.open(ALL, None)

    run(clients())


async def told_until_ended(watcher: Watcher) -> list[int]:
    found: list[int] = []
    while True:
        await watcher.ready(WAIT_S)
        try:
            found += [frame.revision for frame in watcher.take(BYTES)]
        except WatchEnded:
            return found


def test_a_store_that_fails_under_the_lookout_ends_the_process(monkeypatch: pytest.MonkeyPatch):
    """The exception leaves its thread, where the guard waits for it."""
    ended: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: ended.append(arguments.exc_value))
    with running(Node()) as node:
        node.store.fails_on = "kvlog-watch"

        async def client() -> None:
            node.store.fails_on = ""
            await node.hub.open(ALL, None)
            await asyncio.to_thread(wait_for_lookout, node)
            node.store.fails_on = "kvlog-watch"
            node.write("a")
            await asyncio.to_thread(node.hub._thread.join, WAIT_S)

        run(client())
    assert [type(error) for error in ended] == [StoreFailure]


def wait_for_lookout(node: Node) -> None:
    condition = threading.Event()
    while "kvlog-watch" not in node.store.reads:
        condition.wait(0.01)


def test_a_store_that_fails_under_a_piece_is_heard_of(node: Node, monkeypatch: pytest.MonkeyPatch):
    """By who opens the watch, and later by the event loop, whose owner ends the process."""
    monkeypatch.setattr(source, "PIECE_REVISIONS", 2)
    heard: list[Any] = []

    async def client() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(6):
            node.write("a")
        watcher = await node.hub.open(ALL, 1)
        node.store.fails_on = "kvlog-watch-read"
        with pytest.raises(StoreFailure):
            await node.hub.open(ALL, 1)
        told_of = asyncio.Event()
        loop.set_exception_handler(lambda _, context: (heard.append(context["exception"]), told_of.set()))
        watcher.take(BYTES)
        await told_of.wait()

    run(client())
    assert [type(error) for error in heard] == [StoreFailure]


def test_the_hub_stops_whenever_it_is_told_to():
    """Before anybody watches, while somebody does, and after the event loop has ended under it."""
    with running(Node()):
        pass

    with running(Node()) as node:

        async def open_and_leave() -> None:
            await node.hub.open(ALL, None)

        run(open_and_leave())
        for _ in range(3):  # the loop is closed: there is nobody left to tell
            node.write("a")

    async def stop_while_watching() -> None:
        node = Node()
        node.hub.start()
        await node.hub.open(ALL, None)
        node.write("a")
        node.hub.stop(WAIT_S)

    run(stop_while_watching())
