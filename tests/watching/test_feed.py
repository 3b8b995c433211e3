"""Every watcher gets every event once, in whatever order batches, pieces, wishes and clients come (V1 to V6)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvlog.errors import GapsInHistory, HistoryTrimmed, SlowReader
from kvlog.watching import source, watcher
from kvlog.watching.wanted import Wanted
from kvlog.watching.watcher import Stage
from tests.past import Write

from .stepped import Client, SteppedNode

KEYS = ("a", "a/1", "a/2", "b", "\0lease/1")
WISHES = (Wanted(""), Wanted("a"), Wanted("a/"), Wanted("a/1", exact=True), Wanted("b", exact=True), Wanted("x"))
ALL = WISHES[0]

requests = st.lists(
    st.lists(
        st.tuples(st.sampled_from(KEYS), st.sampled_from([b"1", b"22", b"\xff", b"x" * 300, None])),
        min_size=1,
        max_size=3,
        unique_by=lambda write: write[0],
    ).map(tuple),
    min_size=1,
    max_size=3,
)
any_of = st.integers(0, 11)
"""Which one of a list, whose length the strategies do not know."""


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that every limit is met all the time; an event has about 130 bytes."""
    monkeypatch.setattr(watcher, "EVENTS_MAX", 4)
    monkeypatch.setattr(watcher, "BYTES_MAX", 1_200)
    monkeypatch.setattr(source, "BATCH_REVISIONS", 2)
    monkeypatch.setattr(source, "PIECE_REVISIONS", 3)


# --- any life -------------------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """Anything may happen next."""

    @initialize(history=st.sampled_from([3, 100, 100]), faults=st.sampled_from([False, False, True]))
    def begin(self, history: int, faults: bool) -> None:
        self.node = SteppedNode(history=history)
        self.faults = faults

    @rule(requests=requests)
    def write(self, requests: list[tuple[Write, ...]]) -> None:
        self.node.write(*requests)

    @precondition(lambda self: self.faults)
    @rule(requests=requests)
    def miss(self, requests: list[tuple[Write, ...]]) -> None:
        self.node.miss(*requests)

    @precondition(lambda self: self.node.store.position().gaps)
    @rule()
    def fill(self) -> None:
        self.node.fill()

    @precondition(lambda self: self.faults)
    @rule(history=st.sampled_from([1, 5]), requests=requests)
    def install(self, history: int, requests: list[tuple[Write, ...]]) -> None:
        self.node.install(history, *requests)

    @rule(wanted=st.sampled_from(WISHES), start=st.integers(-6, 4) | st.none())
    def open(self, wanted: Wanted, start: int | None) -> None:
        position = self.node.store.position()
        first = None if start is None else max(1, position.revision + start)
        try:
            self.node.open(wanted, first)
        except GapsInHistory:
            assert position.gaps
        except HistoryTrimmed:
            assert first is not None
            assert first <= position.history

    @precondition(lambda self: self.node.opening)
    @rule(which=any_of)
    def opened(self, which: int) -> None:
        self.node.opened(which)

    @precondition(lambda self: any(client.takes for client in self.node.clients))
    @rule(which=any_of, bytes_max=st.sampled_from([1, 300, 10_000]))
    def take(self, which: int, bytes_max: int) -> None:
        takers = [client for client in self.node.clients if client.takes]
        takers[which % len(takers)].take(bytes_max)

    @precondition(lambda self: len(self.node.clients) > 2)
    @rule(which=any_of)
    def close(self, which: int) -> None:
        self.node.close(which)

    @precondition(lambda self: self.node.asked)
    @rule(which=any_of)
    def read(self, which: int) -> None:
        self.node.read(which)

    @precondition(lambda self: self.node.pieces)
    @rule(which=any_of)
    def hand_over_piece(self, which: int) -> None:
        self.node.hand_over_piece(which)

    @precondition(lambda self: self.node.wake and self.node.found is None)
    @rule()
    def look(self) -> None:
        self.node.look()

    @precondition(lambda self: self.node.found is not None)
    @rule()
    def hand_over(self) -> None:
        self.node.hand_over()

    @invariant()
    def each_event_comes_once_and_in_order(self) -> None:
        if hasattr(self, "node"):
            self.node.check()

    def teardown(self) -> None:
        if hasattr(self, "node"):
            self.node.settle()


@pytest.mark.usefixtures("limits")
class TestLife(Life.TestCase):  # type: ignore[name-defined,misc]
    """V1 to V5 hold whatever happens, and once all that is due is done, nobody lacks anything."""

    settings = settings(max_examples=80, stateful_step_count=60, deadline=None)


# --- every order of a few steps -------------------------------------------------------------------------------


class Scene:
    """A watcher begins in the past while somebody else watches already, and others write."""

    def __init__(self, writes: int) -> None:
        self.node = SteppedNode()
        self.node.write((("a", b"1"),), (("b", b"1"),))
        self.node.open(ALL, None)
        self.node.opened()
        self.node.look()
        self.node.hand_over()
        self.writes = writes
        self.begun = 0

    def steps(self) -> list[str]:
        """What can happen next."""
        node = self.node
        possible = {
            "write": self.writes > 0,
            "open": self.begun == 0,
            "opened": bool(node.opening),
            "read": bool(node.asked),
            "hand_over_piece": bool(node.pieces),
            "look": node.wake and node.found is None,
            "hand_over": node.found is not None,
            "take": self.begun > 0 and len(node.clients) > 1 and node.clients[1].takes,
        }
        return [name for name, can in possible.items() if can]

    def do(self, step: str) -> None:
        match step:
            case "write":
                self.writes -= 1
                self.node.write((("a", b"%d" % self.writes), ("b", None)))
            case "open":
                self.begun += 1
                self.node.open(Wanted("a", exact=True), 1)
            case "take":
                self.node.clients[1].take()
            case _:
                getattr(self.node, step)()


def orders(writes: int, way: tuple[str, ...] = ()) -> Iterator[Scene]:
    """The scene at the end of each order in which its steps can happen, checked after each of them."""
    scene = Scene(writes)
    for step in way:
        scene.do(step)
    scene.node.check()
    steps = scene.steps()
    for step in steps:
        yield from orders(writes, (*way, step))
    if not steps:
        yield scene


@pytest.mark.usefixtures("limits")
def test_a_watcher_that_begins_in_the_past_joins_without_a_hole_or_a_repetition_in_every_order():
    """V1 to V4, in all 1,982 orders of two writes, a beginning, what is read for it, and what is found for all."""
    scenes = 0
    for scene in orders(writes=2):
        scenes += 1
        scene.node.settle()

    assert scenes == 1_982


# --- one fact each --------------------------------------------------------------------------------------------


def begin(node: SteppedNode, wanted: Wanted, start: int | None = None) -> Client:
    node.open(wanted, start)
    return node.opened()


def watching(wanted: Wanted = ALL) -> tuple[SteppedNode, Client]:
    """A node with a live watcher."""
    node = SteppedNode()
    client = begin(node, wanted)
    node.settle()
    assert client.watcher.stage is Stage.LIVE
    return node, client


def test_all_that_a_request_does_is_one_event():
    """V1: the changes of a transaction come together, those that are not wanted left out."""
    node, client = watching(Wanted("a"))

    node.write((("a", b"1"), ("b", b"1"), ("a/1", b"1")), (("b", b"2"),), (("a", None), ("\0a", b"")))
    node.settle()

    assert client.told == [(1, {"a": True, "a/1": True}), (3, {"a": False})]


def test_progress_moves_where_nothing_is_wanted():
    """V2: what happens to other keys is behind a watcher as well, though it is not told of it."""
    node, client = watching(Wanted("x"))

    node.write((("a", b"1"),), (("b", b"1"),))
    node.settle()

    assert (client.told, client.watcher.delivered) == ([], 2)


def test_progress_does_not_tell_of_what_waits():
    """V4: what was handed out, and has not been taken, may be lost with the connection."""
    node, client = watching()
    node.write((("a", b"1"),), (("b", b"1"),))
    node.look()
    node.hand_over()

    assert (client.watcher.delivered, client.watcher.through) == (0, 2)
    client.take(1)
    assert client.watcher.delivered == 1
    client.take()
    assert client.watcher.delivered == 2


def test_a_watch_may_begin_in_the_future():
    """It waits for its first revision; what comes before is not for it."""
    node = SteppedNode()
    client = begin(node, ALL, 3)

    node.write((("a", b"1"),), (("a", b"2"),))
    node.settle()
    assert (client.told, client.watcher.delivered) == ([], 2)
    node.write((("a", b"3"),))
    node.settle()
    assert client.told == [(3, {"a": True})]


@pytest.mark.usefixtures("limits")
def test_who_does_not_take_its_events_is_ended_and_what_waits_is_dropped():
    """V5: the error says where to go on, which is behind what was taken, and the others get everything."""
    node, slow = watching()
    other = begin(node, Wanted("a"))
    node.settle()
    node.write((("a", b"1"),))
    node.settle()

    for value in (b"2", b"3", b"4", b"5", b"6", b"7"):
        node.write((("a", value),))
        node.look()
        node.hand_over()
        other.take()

    assert slow.watcher.empty
    slow.take()
    assert slow.ended is not None
    assert isinstance(slow.ended.reason, SlowReader)
    assert slow.ended.resume == 2
    assert [revision for revision, _ in other.told] == [1, 2, 3, 4, 5, 6, 7]
    again = begin(node, ALL, slow.ended.resume)
    node.settle()
    assert [revision for revision, _ in again.told] == [2, 3, 4, 5, 6, 7]


@pytest.mark.usefixtures("limits")
def test_the_past_is_read_as_it_is_taken():
    """V5: who begins far behind and takes nothing has one piece waiting, and none is read for it."""
    node = SteppedNode()
    node.write(*((("a", b"%d" % number),) for number in range(20)))
    client = begin(node, ALL, 1)

    assert [frame.revision for frame in client.watcher._frames] == [1, 2, 3]
    assert not node.asked
    client.take()
    assert node.asked == [client.watcher]
    node.settle()
    assert [revision for revision, _ in client.told] == list(range(1, 21))


def test_a_gap_ends_every_watch_once_it_has_taken_what_waits():
    """Also one that begins in the future: this node cannot tell what comes. The error says where to go on."""
    node, client = watching()
    later = begin(node, ALL, 10)
    node.settle()
    node.write((("a", b"1"),))
    node.look()
    node.hand_over()
    node.miss((("a", b"2"),))
    node.look()
    node.hand_over()

    client.take()
    assert client.told == [(1, {"a": True})]
    for one, resume in ((client, 2), (later, 10)):
        one.take()
        assert one.ended is not None
        assert isinstance(one.ended.reason, GapsInHistory)
        assert one.ended.resume == resume


def test_a_gap_that_was_filled_before_anybody_looked_ends_the_watches_that_missed_something():
    """They are told that this part of the past is not kept here; who waits for what comes later goes on."""
    node, client = watching()
    later = begin(node, ALL, 3)
    node.settle()
    node.miss((("a", b"1"),))
    node.fill()
    node.settle()

    assert client.ended is not None
    assert isinstance(client.ended.reason, HistoryTrimmed)
    assert client.ended.resume == 1
    node.write((("a", b"2"),), (("a", b"3"),))
    node.settle()
    assert later.told == [(3, {"a": True})]


def test_a_copy_that_keeps_what_was_missed_ends_no_watch():
    """The store was replaced as a whole, and every event comes from it as if nothing had happened."""
    node, client = watching()
    node.install(100, (("a", b"1"),), (("a", b"2"),))
    node.settle()

    assert client.told == [(1, {"a": True}), (2, {"a": True})]


def test_a_copy_that_does_not_keep_what_was_missed_ends_the_watch():
    """It is told so, and where it stands: another node may keep it."""
    node, client = watching()
    node.install(1, (("a", b"1"),), (("a", b"2"),))
    node.settle()

    assert client.ended is not None
    assert isinstance(client.ended.reason, HistoryTrimmed)
    assert (client.ended.reason.floor, client.ended.resume) == (1, 1)


def test_those_who_want_the_same_changes_share_one_frame():
    """V6: what many wait for is encoded and held once, whatever they have asked for."""
    node, _ = watching(Wanted(""))
    clients = [begin(node, wanted) for wanted in (Wanted("a"), Wanted("a"), Wanted("a/1", exact=True))]
    node.settle()

    node.write((("a/1", b"1"),))
    node.look()
    node.hand_over()

    assert len({id(client.watcher._frames[0].text) for client in (*clients, node.clients[0])}) == 1


def test_a_closed_watcher_gets_nothing_more():
    """Whatever was under way for it; and its wish is looked at no longer."""
    node, _ = watching(Wanted("b"))
    node.write((("a", b"1"),))
    client = begin(node, Wanted("a"))
    node.write((("a", b"2"),))
    node.look()
    node.close(1)
    node.hand_over()
    node.settle()

    assert client.watcher.empty
    assert client.watcher.wanted not in node.lookout.look()[0].frames
    assert len(node.feed) == 1
