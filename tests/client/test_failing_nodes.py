"""Both clients over real sockets, against nodes that fail in every way there is."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kvlog import Client
from kvlog.client import (
    BadAnswer,
    BatchStopped,
    Closed,
    ConditionFailed,
    Delete,
    NoNodes,
    Progress,
    Put,
    Refused,
    TooStale,
    Unknown,
    network,
)
from kvlog.processes import free_ports

from .scripted_node import CUT, HANG, Asked, Reply, ScriptedNode, committed, item, problem

MakeClient = Callable[..., Any]
MakeNode = Callable[..., ScriptedNode]


def dead() -> str:
    """An address at which nobody listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


def test_a_dead_node_costs_nothing(make_client: MakeClient, make_node: MakeNode):
    """The next one answers at once, and is asked first from then on."""
    node = make_node([item(b"v", 3)])
    client = make_client(dead(), node)

    began = time.monotonic()
    assert [client.get("k").text for _ in range(3)] == ["v"] * 3
    assert time.monotonic() - began < 1.0
    assert len(node.asked) == 3


def test_a_write_whose_connection_breaks_is_sent_again_elsewhere(make_client: MakeClient, make_node: MakeNode):
    """As it was, under the same id."""
    broken, whole = make_node([CUT]), make_node([committed(4)])
    client = make_client(broken, whole)

    written = client.put("k", "v" * 100_000, ttl=5)

    assert (written.revision, client.revision) == (4, 4)
    first, second = broken.asked[0], whole.asked[0]
    assert (first.path, first.body, first.query["ttl"]) == (second.path, second.body, second.query["ttl"])
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_an_answer_that_ends_in_its_middle_is_none(make_client: MakeClient, make_node: MakeNode):
    """Half a value is not the value."""
    client = make_client(
        make_node([Reply(200, b"v" * 100, item(b"", 3).headers, cut_after=50)]), make_node([item(b"w", 3)])
    )

    assert client.get("k").value == b"w"


def test_a_silent_node_costs_its_share_of_the_time(make_client: MakeClient, make_node: MakeNode):
    """With two nodes, half of it."""
    client = make_client(make_node([HANG]), make_node([committed(4)]), timeout=1.0)

    began = time.monotonic()
    assert client.put("k", "v").revision == 4
    assert 0.4 < time.monotonic() - began < 0.9


def test_a_write_to_silent_nodes_is_unknown_at_the_deadline(make_client: MakeClient, make_node: MakeNode):
    """Its id is that which the nodes have got; no node was asked to settle it."""
    nodes = [make_node([HANG]), make_node([HANG])]
    client = make_client(*nodes, timeout=0.6)

    began = time.monotonic()
    with pytest.raises(Unknown) as caught:
        client.put("k", "v")

    assert 0.5 < time.monotonic() - began < 1.0
    asked = [asked for node in nodes for asked in node.asked]
    assert {one.headers["idempotency-key"] for one in asked} == {caught.value.request_id}
    assert {one.method for one in asked} == {"PUT"}


def test_an_unknown_write_can_be_settled(make_client: MakeClient, make_node: MakeNode):
    """Under the id that the error names, at any node."""
    settled = {"id": "x", "outcome": "cancelled", "revision": 9, "index": 8}
    node = make_node([Reply(200, settled)])
    client = make_client(dead(), node)

    found = client.settle("some-id")

    assert (found.committed, found.revision, node.asked[0].path) == (False, 9, "/v1/requests/some-id")


def test_a_write_that_reached_nobody_is_refused(make_client: MakeClient):
    """Nothing has happened, and the error says why of each node."""
    client = make_client(dead(), dead(), timeout=0.3)

    with pytest.raises(Refused, match=r"connection refused.*connection refused") as caught:
        client.put("k", "v")

    assert isinstance(caught.value, NoNodes)


def test_an_answer_that_drips_is_not_waited_for(make_client: MakeClient, make_node: MakeNode):
    """Each byte comes in time, and the whole does not."""

    def drip() -> Iterator[bytes]:
        while not slow.closing.wait(0.05):
            yield b"x"

    slow = make_node(lambda _: Reply(200, headers=item(b"", 3).headers, stream=drip()))
    client = make_client(slow, make_node([item(b"v", 3)]), timeout=1.0)

    began = time.monotonic()
    assert client.get("k").value == b"v"
    assert time.monotonic() - began < 0.9


def test_an_answer_without_end_is_not_kept(
    make_client: MakeClient, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
):
    """It is given up at its bound, long before the deadline."""
    monkeypatch.setattr(network, "ANSWER_BYTES_MAX", 100_000)
    endless = make_node(
        lambda _: Reply(200, headers=item(b"", 3).headers, stream=iter(lambda: b"x" * 10_000, None))
    )
    client = make_client(endless, make_node([item(b"v", 3)]))

    began = time.monotonic()
    assert client.get("k").value == b"v"
    assert time.monotonic() - began < 1.0


def test_a_restarted_node_is_connected_to_anew(make_client: MakeClient, make_node: MakeNode):
    """A kept connection that it has closed leaves no write in doubt."""
    node = make_node([committed(1)])
    client = make_client(node, timeout=0.5)
    client.put("k", "v")
    node.close()

    with pytest.raises(NoNodes):
        client.put("k", "v")
    again = make_node([committed(2)], port=node.port)
    assert client.put("k", "v").revision == 2
    assert len(again.asked) == 1


def test_redirects_and_proxies_are_not_followed(
    make_client: MakeClient, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
):
    """A client speaks with the nodes that it was given, and with nobody else."""
    elsewhere = make_node([item(b"wrong", 3)])
    monkeypatch.setenv("HTTP_PROXY", f"http://{elsewhere.address}")
    monkeypatch.setenv("ALL_PROXY", f"http://{elsewhere.address}")
    client = make_client(
        make_node([Reply(307, headers={"Location": f"http://{elsewhere.address}/"}), item(b"v", 3)])
    )

    with pytest.raises(BadAnswer, match="307"):
        client.get("k")
    assert client.get("k").value == b"v"
    assert elsewhere.asked == []


def test_a_listing_goes_on_at_another_node(make_client: MakeClient, make_node: MakeNode):
    """Where the first one has died between two pages; at the revision of the first page."""

    def page(asked: Asked) -> Reply:
        names = ["a", "b"] if "from" not in asked.query else ["c"]
        numbers = {"create_revision": 1, "revision": 1, "version": 1, "content_type": "x/y"}
        items = [{"key": name, "value": name, **numbers} for name in names]
        more = {} if "from" in asked.query else {"next": "c"}
        return Reply(200, {"revision": 7, "items": items, **more}, {"Kvlog-Revision": "7"})

    first, second = make_node(page), make_node(page)
    client = make_client(first, second)

    listing = client.list("")
    found = [next(listing), next(listing)]
    first.close()
    found += list(listing)

    assert [each.text for each in found] == ["a", "b", "c"]
    assert (listing.revision, second.asked[0].query["at"], second.asked[0].query["from"]) == (7, "7", "c")


def test_reads_wait_for_what_the_client_has_written(make_client: MakeClient, make_node: MakeNode):
    """min_revision is the revision of its last write; a node that is behind is passed by."""

    def answer(asked: Asked) -> Reply:
        if asked.method == "PUT":
            return committed(12)
        return problem(503, "behind") if "min_revision" in asked.query else item(b"old", 3)

    behind, whole = make_node(answer), make_node([item(b"new", 12)])
    client = make_client(behind, whole)

    assert client.get("k").value == b"old"
    client.put("k", "new")
    assert client.get("k").value == b"new"
    assert [asked.query.get("min_revision") for asked in behind.asked] == [None, None, "12"]


def test_bounded_reads_ask_every_node_once(make_client: MakeClient, make_node: MakeNode):
    """And then say that none can show it, at once."""
    nodes = [make_node([problem(412, "too-stale")]) for _ in range(3)]
    client = make_client(*nodes)

    began = time.monotonic()
    with pytest.raises(TooStale):
        client.get("k", max_stale_ms=10)

    assert time.monotonic() - began < 1.0
    assert [len(node.asked) for node in nodes] == [1, 1, 1]


def test_a_condition_that_does_not_hold_is_told_at_once(make_client: MakeClient, make_node: MakeNode):
    """And the next read sees at least the state in which it did not."""
    node = make_node([problem(412, "condition-failed", revision=30), item(b"v", 31)])
    client = make_client(node)

    with pytest.raises(ConditionFailed) as caught:
        client.put("k", "v", if_revision=7)
    client.get("k")

    assert caught.value.revision == 30
    assert node.asked[1].query["min_revision"] == "30"


def test_a_batch_goes_on_where_it_was_cut(make_client: MakeClient, make_node: MakeNode):
    """The piece that was under way is sent again as a whole, under its id; progress is told of each piece."""
    end = b'{"outcome": "committed", "operations": 2000, "revision": 9}\n'
    broken, whole = make_node([Reply(200, end), CUT]), make_node([Reply(200, end)])
    client = make_client(broken, whole)
    told: list[Progress] = []

    result = client.batch((Put(f"k{number}", "v") for number in range(4000)), on_progress=told.append)

    assert (result.operations, result.revision) == (4000, 9)
    assert told == [Progress(2000, 9), Progress(4000, 9)]
    one, two, again = *broken.asked, *whole.asked
    assert two.headers["idempotency-key"] == again.headers["idempotency-key"] != one.headers["idempotency-key"]
    assert two.body == again.body != one.body


def test_a_batch_that_stops_says_how_much_is_done(make_client: MakeClient, make_node: MakeNode):
    """All pieces before, and what the last one has told."""
    end = b'{"outcome": "committed", "operations": 2000, "revision": 9}\n'
    stop = b'{"outcome": "refused", "done": 1000, "status": 503, "detail": "no leader"}\n'
    half = b'{"done": 1000, "revision": 10}\n' + stop
    client = make_client(make_node([Reply(200, end), Reply(200, half)]), timeout=0.4)

    with pytest.raises(
        BatchStopped,
        match="3000 operations of the batch are committed; then, in the piece that begins with operation 2001",
    ) as caught:
        client.batch(Delete(f"k{number}") for number in range(4000))

    assert caught.value.done == 3000
    assert isinstance(caught.value.__cause__, Refused)


def test_a_status_is_asked_of_the_node_that_is_named(make_client: MakeClient, make_node: MakeNode):
    """And of no other one."""
    one, two = make_node([Reply(200, {"node": "one"})]), make_node([Reply(200, {"node": "two"})])
    client = make_client(one, two, timeout=0.4)

    assert client.status()["node"] == "one"
    assert client.status(two.address)["node"] == "two"
    assert client.status()["node"] == "one"
    two.close()
    with pytest.raises(NoNodes):
        client.status(two.address)


def test_a_closed_client_asks_nothing(make_client: MakeClient, make_node: MakeNode):
    """It says so; closing it twice is fine."""
    node = make_node([item(b"v", 3)])
    client = make_client(node)
    client.close()
    client.close()

    with pytest.raises(Closed):
        client.get("k")
    assert node.asked == []


def test_closing_a_client_ends_the_calls_that_pause(make_client: MakeClient, make_node: MakeNode):
    """Nobody waits for a deadline that means nothing any more."""
    busy = problem(503, "unavailable")
    node = make_node([Reply(503, busy.body, busy.headers | {"Retry-After": "2"})])
    client = make_client(node, timeout=20.0)

    with ThreadPoolExecutor(1) as pool:
        getting = pool.submit(client.get, "k")
        node.wait_for(1)
        time.sleep(0.2)  # it has its answer, and pauses for two seconds
        began = time.monotonic()
        client.close()
        with pytest.raises(Closed):
            getting.result(5)
    assert time.monotonic() - began < 1.0


def test_many_threads_share_a_bounded_number_of_connections(make_node: MakeNode):
    """Those that find none free wait for one; all are answered."""
    busy, most, lock = [0], [0], threading.Lock()

    def answer(_: Asked) -> Reply:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.02)
        with lock:
            busy[0] -= 1
        return item(b"v", 3)

    with Client(make_node(answer).address) as client, ThreadPoolExecutor(64) as pool:
        assert {found.value for found in pool.map(lambda _: client.get("k"), range(200))} == {b"v"}
    assert most[0] <= network.CONNECTIONS_MAX


def test_a_node_imports_no_client():
    """httpx is loaded when the client is asked for, and not before."""
    code = (
        "import sys, kvlog, kvlog.assembly; assert 'httpx' not in sys.modules;"
        "from kvlog import AsyncClient, Client; assert 'httpx' in sys.modules; print(Client.__name__)"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert (ended.stdout, ended.stderr) == ("Client\n", "")
