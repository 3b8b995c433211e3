"""Watches of both clients over real sockets: cut, silent, refused, closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kvlog import Client
from kvlog.client import Closed, HistoryTrimmed, NoNodes
from kvlog.client.caller import Stream
from kvlog.client.messages import Failure, Request
from kvlog.client.steps import Send
from kvlog.processes import free_ports, wait_until

from .scripted_node import HANG, Asked, Reply, ScriptedNode, committed, problem
from .test_following import change, error, progress

MakeClient = Callable[..., Any]
MakeNode = Callable[..., ScriptedNode]

WAIT_S = 10.0


def stream(node: list[ScriptedNode], *pieces: bytes, keep: bool = True) -> Reply:
    """A stream of events; ``keep``: open until the node is closed, else it ends behind its last piece."""

    def told() -> Iterator[bytes]:
        yield from pieces
        if keep:
            node[0].closing.wait(60)

    return Reply(200, headers={"Content-Type": "text/event-stream"}, stream=told())


def streaming(make_node: MakeNode, *pieces: bytes, keep: bool = True) -> ScriptedNode:
    """A node that tells the same to everybody who watches."""
    node: list[ScriptedNode] = []
    node.append(make_node(lambda _: stream(node, *pieces, keep=keep)))
    return node[0]


def revisions(watch: Any, count: int) -> list[int]:
    return [next(watch).revision for _ in range(count)]


def test_a_watch_has_begun_when_it_is_there(make_client: MakeClient, make_node: MakeNode):
    """The node has said where it begins, before anybody asks for an event."""
    node = streaming(make_node, progress(8), change(9))

    with make_client(node).watch("p/") as watch:
        assert watch.revision == 8
        assert next(watch).revision == 9
        assert watch.revision == 9
    assert (node.asked[0].path, node.asked[0].query["prefix"]) == ("/v1/watch", "p/")
    assert list(watch) == []


def test_a_cut_watch_goes_on_at_the_next_node(make_client: MakeClient, make_node: MakeNode):
    """Behind what it has heard; what the next node repeats is not handed out again."""
    first = streaming(make_node, progress(8), change(9), change(11))
    second = streaming(make_node, progress(7), change(9), change(11), change(12), change(15))

    with make_client(first, second).watch("p/") as watch:
        found = revisions(watch, 2)
        first.close()
        found += revisions(watch, 2)

    assert found == [9, 11, 12, 15]
    assert second.asked[0].headers["last-event-id"] == "11"


def test_a_stream_that_is_cut_within_an_event_loses_nothing(make_client: MakeClient, make_node: MakeNode):
    """Half an event is none: it comes again, as a whole."""
    half = streaming(make_node, progress(8), change(9), change(10)[:40], keep=False)
    whole = streaming(make_node, progress(9), change(10))

    with make_client(half, whole).watch("p/", start=9) as watch:
        assert revisions(watch, 2) == [9, 10]


def test_a_node_that_is_silent_for_three_heartbeats_is_left(make_client: MakeClient, make_node: MakeNode):
    """Its connection is whole; the next one is asked all the same."""
    silent = streaming(make_node, progress(8))
    talking = streaming(make_node, progress(8), change(9))

    with make_client(silent, talking, timeout=30.0).watch("p/", heartbeat=1) as watch:
        began = time.monotonic()
        assert next(watch).revision == 9
        assert 2.5 < time.monotonic() - began < 4.5


def test_a_node_that_stays_behind_what_the_client_has_seen_is_left(make_client: MakeClient, make_node: MakeNode):
    """Its heartbeats come, and what happens does not: three of them, and the next one is asked."""
    node: list[ScriptedNode] = []

    def beats() -> Iterator[bytes]:
        while not node[0].closing.wait(0.2):
            yield progress(8)

    def answer(asked: Asked) -> Reply:
        if asked.method == "PUT":
            return committed(12)
        return Reply(200, headers={"Content-Type": "text/event-stream"}, stream=beats())

    node.append(make_node(answer))
    client = make_client(node[0], streaming(make_node, progress(12), change(13)))

    with client.watch("p/", heartbeat=1) as watch:
        client.put("elsewhere", "v")
        began = time.monotonic()
        assert next(watch).revision == 13
        assert 2.5 < time.monotonic() - began < 5.0


def test_a_stream_may_pause_for_longer_than_a_call_may_take(make_client: MakeClient, make_node: MakeNode):
    """Three heartbeats are its bound, and not the client's time."""
    node: list[ScriptedNode] = []

    def told() -> Iterator[bytes]:
        yield progress(8)
        node[0].closing.wait(1.2)
        yield change(9)
        node[0].closing.wait(60)

    node.append(make_node(lambda _: Reply(200, headers={"Content-Type": "text/event-stream"}, stream=told())))

    with make_client(node[0], timeout=0.4).watch("p/", heartbeat=2) as watch:
        assert next(watch).revision == 9
    assert len(node[0].asked) == 1


def test_a_node_that_does_not_even_begin_costs_its_share(make_client: MakeClient, make_node: MakeNode):
    """Headers are waited for as long as any answer, not as long as a heartbeat."""
    talking = streaming(make_node, progress(8), change(9))

    began = time.monotonic()
    with make_client(make_node([HANG]), talking, timeout=1.0).watch("p/", heartbeat=10) as watch:
        assert next(watch).revision == 9
    assert time.monotonic() - began < 2.0


def test_a_watch_that_cannot_begin_says_so_in_time(make_client: MakeClient, make_node: MakeNode):
    """Nobody listens, nobody answers, or nobody says where it begins."""
    for node in (f"127.0.0.1:{free_ports(1)[0]}", make_node([HANG]), streaming(make_node, b"retry: 1000\n\n")):
        client = make_client(node, timeout=0.5)
        began = time.monotonic()
        with pytest.raises(NoNodes):
            client.watch("p/", heartbeat=60)
        assert time.monotonic() - began < 1.0


def test_what_is_not_remembered_any_more_is_told_at_once(make_client: MakeClient, make_node: MakeNode):
    """When it begins, or on the way: behind the last event that came."""
    trimmed = problem(410, "history-trimmed", floor=20)
    with pytest.raises(HistoryTrimmed) as caught:
        make_client(make_node([trimmed])).watch("p/", start=3)
    assert caught.value.floor == 20

    on_the_way = streaming(make_node, progress(8), change(9) + error(410, "history-trimmed", floor=30))
    with make_client(on_the_way).watch("p/") as watch:
        assert next(watch).revision == 9
        with pytest.raises(HistoryTrimmed) as caught:
            next(watch)
        assert caught.value.floor == 30
        assert list(watch) == []


def test_nodes_that_cannot_serve_a_watch_are_passed_by(make_client: MakeClient, make_node: MakeNode):
    """Stale, unavailable, or ending it by an error of their own."""
    nodes = [
        make_node([problem(503, "stale-store")]),
        make_node([problem(503, "unavailable")]),
        streaming(make_node, progress(8), error(503, "unavailable"), keep=False),
        streaming(make_node, progress(8), change(9)),
    ]

    with make_client(*nodes).watch("p/") as watch:
        assert next(watch).revision == 9


def test_streams_that_end_at_once_are_asked_for_with_pauses(make_client: MakeClient, make_node: MakeNode):
    """A node that ends each of them is not asked a thousand times a second."""
    ending = streaming(make_node, b"retry: 400\n\n", progress(8), keep=False)
    client = make_client(ending)
    watch = client.watch("p/")

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, watch)
        time.sleep(1.5)
        watch.close()
        assert waiting.result(WAIT_S) == []
    assert 3 <= len(ending.asked) <= 6


def test_a_watch_ends_when_all_nodes_are_gone_for_too_long(make_client: MakeClient, make_node: MakeNode):
    """It says where to go on, which another watch does."""
    node = streaming(make_node, progress(8), change(9))
    client = make_client(node, timeout=1.0)
    watch = client.watch("p/", patience=0.5)
    assert next(watch).revision == 9
    node.close()

    began = time.monotonic()
    with pytest.raises(NoNodes):
        next(watch)
    assert time.monotonic() - began < 1.5
    streaming_again: list[ScriptedNode] = []
    streaming_again.append(make_node(lambda _: stream(streaming_again, progress(9), change(10)), port=node.port))
    with client.watch("p/", start=watch.revision + 1) as again:
        assert next(again).revision == 10
    assert streaming_again[0].asked[0].query["from"] == "10"


def test_a_watch_raises_what_the_client_has_seen(make_client: MakeClient, make_node: MakeNode):
    """A read behind an event sees what the event has told; own writes before the watch are no news to it."""
    node: list[ScriptedNode] = []

    def answer(asked: Asked) -> Reply:
        return (
            committed(9) if asked.method == "PUT" else stream(node, progress(7), change(8), change(9), change(12))
        )

    node.append(make_node(answer))
    client = make_client(node[0])
    client.put("k", "v")

    with client.watch("p/") as watch:
        assert 9 <= watch.revision < 12
        assert next(watch).revision == 12
        assert client.revision == 12


@pytest.mark.parametrize("where", ["reading", "connecting", "pausing"])
def test_closing_a_watch_ends_a_blocked_iterator_within_a_second(
    make_client: MakeClient, make_node: MakeNode, where: str
):
    """Wherever it is: waiting for the next event, for a silent node to begin, or for nodes to come back."""
    node = streaming(make_node, progress(8))
    silent = make_node([HANG])
    client = make_client(node, silent) if where == "connecting" else make_client(node)
    watch = client.watch("p/")

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, watch)
        if where != "reading":
            node.close()
        if where == "connecting":
            silent.wait_for(1)
        else:
            time.sleep(0.3)  # until it blocks
        assert not waiting.done()
        began = time.monotonic()
        watch.close()
        assert waiting.result(WAIT_S) == []
        assert time.monotonic() - began < 1.0


def test_a_stream_that_is_closed_before_it_is_connected_is_not_waited_for(make_node: MakeNode):
    """Whoever closes it may come in just before its connection is there to be ended."""
    stream = Stream(3.0)
    stream.closing.set()

    began = time.monotonic()
    found = stream.open(Send(make_node([HANG]).address, Request("GET", "/v1/watch"), 5.0))
    stream.close()

    assert isinstance(found, Failure)
    assert time.monotonic() - began < 1.0


def test_closing_the_client_ends_its_watches(make_client: MakeClient, make_node: MakeNode):
    """Also one that somebody waits for; a new one is refused."""
    client = make_client(streaming(make_node, progress(8)))
    watch = client.watch("p/")

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, watch)
        time.sleep(0.2)  # until it blocks
        client.close()
        assert waiting.result(WAIT_S) == []
    with pytest.raises(Closed):
        client.watch("p/")


def test_a_closed_watch_leaves_nothing_behind(make_node: MakeNode):
    """No thread, and no connection."""
    node = streaming(make_node, progress(8))
    before = threading.active_count()
    with Client(node.address) as client:
        for _ in range(5):
            client.watch("p/").close()
        served = len(node.asked)
    assert served == 5
    node.closing.set()
    assert wait_until(lambda: threading.active_count() <= before, WAIT_S), threading.enumerate()
