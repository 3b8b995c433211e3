"""Server-sent events: what a stream says, however its bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlog.client import sse
from kvlog.client.errors import BadAnswer
from kvlog.client.sse import ServerEvent, SseParser


def events(stream: bytes) -> list[ServerEvent]:
    return SseParser().feed(stream)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: one\n\n", [ServerEvent("message", "one", "")]),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [ServerEvent("message", "YHOO\n+2\n10", "")]),
        (b": a comment\n\ndata: one\nid: 1\n\n", [ServerEvent("message", "one", "1")]),
        (b"data:one\n\ndata:  two\n\n", [ServerEvent("message", "one", ""), ServerEvent("message", " two", "")]),
        (b"data\n\ndata\ndata\n\ndata:", [ServerEvent("message", "", ""), ServerEvent("message", "\n", "")]),
        (b"event: change\nid: 7\ndata: {}\n\n", [ServerEvent("change", "{}", "7")]),
        (b"event: change\n\ndata: x\n\n", [ServerEvent("message", "x", "")]),
        (
            b"id: 7\n\ndata: x\n\ndata: y\nid\n\n",
            [ServerEvent("message", "x", "7"), ServerEvent("message", "y", "")],
        ),
        (b"id: 1\0\ndata: x\n\n", [ServerEvent("message", "x", "")]),
        (b"nobody: knows\nretry: soon\ndata: x\n\n", [ServerEvent("message", "x", "")]),
        (b"\xef\xbb\xbfdata: x\n\n", [ServerEvent("message", "x", "")]),
        (b"data: \xff\n\n", [ServerEvent("message", "�", "")]),
        (b"data: it never ends\n", []),
    ],
)
def test_a_stream_says_what_the_standard_says(stream: bytes, expected: list[ServerEvent]):
    """The examples of the standard, and its corners."""
    assert events(stream) == expected


def test_the_time_to_wait_before_the_next_stream_is_kept():
    """retry: digits count, and nothing else."""
    parser = SseParser()
    parser.feed(b"retry: 1000\n\n")
    assert parser.retry_ms == 1000
    parser.feed(b"retry: -1\nretry: 1e3\nretry:\nretry: " + b"9" * 5000 + b"\n\n")
    assert parser.retry_ms == 1000


def test_a_stream_that_never_ends_a_line_or_an_event_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Before it fills the memory."""
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 100)

    with pytest.raises(BadAnswer, match="more than 100 bytes"):
        SseParser().feed(b"data: " + b"x" * 200)
    with pytest.raises(BadAnswer, match="more than 100 bytes"):
        SseParser().feed(b"data: x\n" * 50)
    assert len(events(b"data: x\n\n" * 50)) == 50


TEXT = st.text(st.sampled_from("ab:é€😀 \t"), max_size=6)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[ServerEvent]]:
    """A stream with line ends of all kinds, and what it says."""
    said, expected, last_id = "", [], ""

    def line(text: str) -> str:
        ends = ["\n", "\r", "\r\n"]
        if not text and said.endswith("\r"):
            ends.remove("\n")  # it would belong to the end of the line before
        return text + draw(st.sampled_from(ends))

    for _ in range(draw(st.integers(0, 4))):
        kind, data = draw(TEXT), draw(st.lists(TEXT, max_size=3))
        if draw(st.booleans()):
            said += line(":" + draw(TEXT))
        if draw(st.booleans()):
            last_id = draw(TEXT)
            said += line(f"id: {last_id}")
        said += line(f"event: {kind}")
        for text in data:
            said += line(f"data: {text}")
        said += line("")
        if data:
            expected.append(ServerEvent(kind or "message", "\n".join(data), last_id))
    return said.encode(), expected


@given(stream=streams(), cuts=st.lists(st.integers(0, 200), max_size=20))
def test_it_says_the_same_wherever_it_is_cut(stream: tuple[bytes, list[ServerEvent]], cuts: list[int]):
    """Between any two bytes: within a character, within CR LF, within a name; with any line ends, also mixed."""
    data, expected = stream

    for places in ([], sorted(cuts), range(len(data))):
        parser, found, before = SseParser(), [], 0
        for place in [*(place for place in places if place <= len(data)), len(data)]:
            found += parser.feed(data[before:place])
            before = place
        assert found == expected
