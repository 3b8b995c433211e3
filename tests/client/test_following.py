"""What a watch makes of what it hears: each change once and in order, and when it looks elsewhere."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlog.client.errors import BadAnswer, BadRequest, HistoryTrimmed, NoNodes
from kvlog.client.feed import EVENT_STREAM, Feed
from kvlog.client.following import Following
from kvlog.client.judging import judge
from kvlog.client.messages import Answer, Done
from kvlog.client.results import Change, Event, Item


def feed(start: int | None = None, *, seen: int = 0, heartbeat: float = 1.0, prefix: str = "p/") -> Feed:
    return Feed(prefix, None, start=start, seen=seen, heartbeat=heartbeat)


def progress(revision: int) -> bytes:
    return f"event: progress\nid: {revision}\ndata: {json.dumps({'revision': revision})}\n\n".encode()


def change(revision: int, *keys: str) -> bytes:
    changes = [{"op": "delete", "key": key} for key in keys or ("k",)]
    data = {"revision": revision, "index": revision, "time_ms": 1, "changes": changes}
    return f"id: {revision}\nevent: change\ndata: {json.dumps(data)}\n\n".encode()


def error(status: int, name: str, **members: Any) -> bytes:
    data = {"type": f"kvlog:{name}", "status": status, "detail": f"it is {name}", **members}
    return f"event: error\ndata: {json.dumps(data)}\n\n".encode()


def opened(feed: Feed, node: str = "a:1", kind: str = EVENT_STREAM) -> dict[str, str]:
    """Begin a stream at a node; returns what it was asked for, headers and parameters."""
    call = feed.call()
    request = call.build(1.0)
    assert isinstance(judge(call, Answer(node, 200, {"content-type": kind}, b"")), Done)
    query = parse_qs(urlsplit(request.target).query)
    return {**request.headers, **{name: value for name, (value,) in query.items()}}


def revisions(following: Following) -> list[int]:
    """What it hands out now."""
    found = []
    while (event := following.next()) is not None:
        found.append(event.revision)
    return found


def test_a_watch_asks_for_what_it_was_told():
    """A prefix or a key, from a revision on or from now."""
    assert opened(feed()) == {"Accept": EVENT_STREAM, "prefix": "p/", "heartbeat": "1"}
    one = Feed("", "k", start=7, seen=0, heartbeat=2.5)
    assert opened(one) == {"Accept": EVENT_STREAM, "key": "k", "from": "7", "heartbeat": "2.5"}
    assert one.silence == 7.5


@pytest.mark.parametrize(
    "settings",
    [
        {"prefix": "p", "key": "k", "start": None, "heartbeat": 1},
        {"prefix": "", "key": "", "start": None, "heartbeat": 1},
        {"prefix": "", "key": None, "start": 0, "heartbeat": 1},
        {"prefix": "", "key": None, "start": 1, "heartbeat": 0.5},
        {"prefix": "", "key": None, "start": 1, "heartbeat": 61},
        {"prefix": "\ud800", "key": None, "start": 1, "heartbeat": 1},
    ],
)
def test_what_cannot_be_watched_is_refused_before_anything_is_sent(settings: dict[str, Any]):
    """With a sentence that says what to do."""
    with pytest.raises(BadRequest):
        Feed(**settings, seen=0)


def test_an_event_tells_what_has_changed():
    """Puts with what the key holds since, deletes without."""
    item = {"key": "k", "value": "/w==", "encoding": "base64", "content_type": "x/y"}
    numbers = {"create_revision": 1, "revision": 7, "version": 2}
    changes = [{"op": "put", **item, **numbers, "lease": 5}, {"op": "delete", "key": "l"}]
    data = {"revision": 7, "index": 3, "time_ms": 99, "changes": changes}
    watched = feed(1)
    opened(watched)

    taken = watched.take(f"id: 7\nevent: change\ndata: {json.dumps(data)}\n\n".encode())

    put = Change("put", "k", Item("k", b"\xff", 7, 1, 2, "x/y", 5))
    assert taken.events == [Event(7, 3, 99, (put, Change("delete", "l")))]


def test_it_goes_on_behind_what_it_has_heard():
    """Last-Event-ID is the last revision of which everything has come; before that, it asks as at first."""
    watched = feed()
    assert "Last-Event-ID" not in opened(watched)
    watched.take(b"retry: 1000\n\n")
    assert "Last-Event-ID" not in opened(watched)
    watched.take(progress(8))
    assert opened(watched)["Last-Event-ID"] == "8"
    watched.take(change(9) + progress(12))
    assert opened(watched)["Last-Event-ID"] == "12"


def test_what_was_heard_at_one_node_is_not_heard_again_at_the_next():
    """A node that repeats, or stands further back, takes nothing back."""
    watched = feed(3)
    opened(watched)
    assert [event.revision for event in watched.take(change(3) + change(5) + progress(6)).events] == [3, 5]
    opened(watched)
    assert [event.revision for event in watched.take(progress(2) + change(5) + change(6) + change(7)).events] == [
        7
    ]
    assert watched.position == 7


def test_without_a_start_it_begins_behind_what_the_client_has_seen():
    """Also at a node that stands further back: the client's own writes of the past are no news."""
    watched = feed(seen=10)
    opened(watched)

    assert watched.position is None
    assert watched.take(progress(8) + change(9) + change(10)).events == []
    assert watched.position == 10
    assert [event.revision for event in watched.take(change(11)).events] == [11]


@given(
    revisions=st.lists(st.integers(1, 30), unique=True).map(sorted),
    resumes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=6),
)
def test_every_change_comes_once_and_in_order(revisions: list[int], resumes: list[tuple[int, int]]):
    """However often the stream is cut, and however far back each node begins again."""
    watched, heard = feed(1), []

    for many, back in [*resumes, (100, 0)]:
        opened(watched)
        begin = max(0, (watched.position or 0) - back)
        for revision in [revision for revision in revisions if revision > begin][:many]:
            heard += [event.revision for event in watched.take(change(revision)).events]

    assert heard == revisions


def test_what_is_no_stream_of_events_is_no_watch():
    """A page of HTML, an event that is no JSON."""
    with pytest.raises(BadAnswer, match="text/html"):
        opened(feed(), kind="text/html; charset=utf-8")
    for data in (b"event: change\ndata: {\n\n", b"event: change\ndata: {}\n\n"):
        taken = feed(1).take(data)
        assert isinstance(taken.error, BadAnswer)


def test_what_came_before_an_error_is_handed_out_before_it_is_raised():
    """History that is trimmed under a slow watch ends it, behind the last event that it got."""
    state = Following(feed(1), 0.0, 5.0)
    state.begun(60.0)

    cut = state.heard(change(1) + change(2) + error(410, "history-trimmed", floor=8), 1.0, 0)

    assert cut == ""
    assert revisions(state) == [1, 2]
    assert isinstance(state.error, HistoryTrimmed)
    assert state.error.floor == 8


@pytest.mark.parametrize("said", [error(503, "unavailable"), error(503, "behind"), b"event: error\ndata: ?\n\n"])
def test_an_error_that_is_the_nodes_own_is_a_cut(said: bytes):
    """Another node may know better."""
    state = Following(feed(1), 0.0, 5.0)
    state.begun(60.0)

    assert state.heard(change(1) + said, 1.0, 0) != ""
    assert state.error is None


def test_the_node_behind_the_one_that_was_cut_is_asked_first():
    """It may have died, or be silent still."""
    state = Following(feed(1), 0.0, 5.0)
    assert state.first(("a:1", "b:2", "c:3")) is None
    state.opened("b:2", 0.0)
    assert state.first(("a:1", "b:2", "c:3")) == 2
    state.opened("c:3", 0.0)
    assert state.first(("a:1", "b:2", "c:3")) == 0


def test_streams_that_end_at_once_are_not_asked_for_without_a_pause():
    """One cut is made good at once; the second within the time that the nodes name is not."""
    state = Following(feed(1), 0.0, 5.0)
    state.begun(60.0)
    state.opened("a:1", 10.0)
    state.heard(b"retry: 800\n\n", 0.0, 0)

    assert state.cut("it is gone", 10.1) == 0.0
    state.opened("b:2", 10.2)
    state.heard(b"retry: 800\n\n", 0.0, 0)
    assert state.cut("it is gone", 10.3) == pytest.approx(0.7)
    state.opened("c:3", 11.0)
    state.heard(b"retry: 0\n\n", 0.0, 0)
    assert state.cut("it is gone", 11.0) == pytest.approx(0.1)
    state.opened("a:1", 11.2)
    state.heard(b"retry: 100000\n\n", 0.0, 0)
    assert state.cut("it is gone", 11.2) == pytest.approx(2.0)
    state.opened("b:2", 14.0)
    assert state.cut("it is gone", 20.0) == 0.0


def test_it_ends_when_no_node_has_told_anything_for_too_long():
    """Counted from the first cut; a word from any node begins it anew, a stream that says nothing does not."""
    state = Following(feed(1), 0.0, 5.0)
    assert state.time_left(2.0) == 3.0
    state.heard(progress(4), 0.0, 0)
    state.begun(60.0)
    state.opened("a:1", 3.0)
    assert state.time_left(1000.0) == 60.0
    state.cut("silence", 1000.0)
    state.opened("b:2", 1010.0)
    state.cut("silence", 1020.0)
    assert state.time_left(1030.0) == 30.0
    assert revisions(state) == []
    with pytest.raises(NoNodes, match=r"for 60 s \(the last one was b:2: silence\); watch\(start=5\)"):
        state.time_left(1060.0)
    state.opened("a:1", 1030.0)
    state.heard(progress(5), 0.0, 0)
    state.cut("silence", 1100.0)
    assert state.time_left(1101.0) == 59.0


def test_a_node_that_stays_behind_what_is_known_is_left():
    """It is cut off from the others: its heartbeats come, and what happens does not."""
    state = Following(feed(1), 0.0, 5.0)
    state.begun(60.0)
    state.opened("a:1", 0.0)

    assert [state.heard(progress(7), now, 7) for now in (1.0, 2.0)] == ["", ""]
    assert [state.heard(progress(7), now, 9) for now in (3.0, 4.0, 5.0)] == ["", "", ""]
    assert state.heard(change(8) + progress(9), 5.5, 9) == ""
    assert [state.heard(progress(9), now, 12) for now in (6.0, 7.0, 9.0)] == ["", "", ""]
    assert state.heard(progress(9), 9.5, 12) == "it stays at revision 9, and revision 12 is known"
    state.opened("b:2", 10.0)
    assert state.heard(progress(9), 10.0, 12) == ""


def test_its_revision_is_what_has_been_handed_out():
    """Of what waits to be handed out, nothing; once nothing waits, all that the node has told of."""
    state = Following(feed(1), 0.0, 5.0)
    state.begun(60.0)
    state.heard(change(2) + change(4) + progress(9), 0.0, 0)

    assert state.revision == 0
    assert state.next() is not None
    assert state.revision == 2
    assert revisions(state) == [4]
    assert state.revision == 9
