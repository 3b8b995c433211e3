"""GET /v1/watch on a real node: streams, polls, what is refused, and what is not kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports
from tests.event_stream import EventStream

from .wire import Answer, call, exchange, get, refused

Name = Callable[[str], str]


def put(node: ClusterNode, key: str, value: bytes = b"v", query: str = "", **headers: str) -> int:
    answer = call(node, "PUT", f"/v1/kv/{quote(key, safe='')}{query}", value, **headers)
    assert answer.status in (200, 201), answer
    return answer.body["revision"]


def delete(node: ClusterNode, key: str) -> int:
    return call(node, "DELETE", f"/v1/kv/{quote(key, safe='')}").body["revision"]


def txn(node: ClusterNode, *operations: dict[str, Any]) -> int:
    return call(node, "POST", "/v1/txn", {"then": list(operations)}).body["revision"]


def query(**parameters: str | int) -> str:
    pairs = {name.rstrip("_"): value for name, value in parameters.items()}
    return "?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in pairs.items())


def poll(node: ClusterNode, wait: float = 0, **parameters: str | int) -> Answer:
    return call(node, "GET", "/v1/watch" + query(wait=wait, **parameters))


# --- streams --------------------------------------------------------------------------------------------------


def test_a_stream_begins_with_where_it_stands(solo: ClusterNode):
    """When to come again, and up to where there is nothing to be told: what is applied now."""
    now = solo.status()["revision"]
    with EventStream(solo.port) as stream:
        first = stream.event()

        assert (stream.status, stream.retry_ms) == (200, 1000)
        assert first is not None
        assert (first.id, first.kind, first.data) == (str(now), "progress", {"revision": now})
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["kvlog-node"] == solo.address
        assert len(stream.headers["kvlog-instance"]) == 16
        assert stream.headers["kvlog-stale"] == "false"


def test_what_happens_is_told_as_the_items_are_shown(solo: ClusterNode, name: Name):
    """A put has the fields of the item, a deletion the key alone; each with revision, index and time."""
    key = name("ü/1")
    with EventStream(solo.port, query(prefix=name(""))) as stream:
        lease = call(solo, "POST", "/v1/leases", {"ttl": 600}).body["lease"]
        before_ms = time.time_ns() // 1_000_000
        revisions = [put(solo, key, "wert ü".encode(), f"?lease={lease}", Content_Type="text/plain")]
        first_item = call(solo, "GET", "/v1/kv" + query(prefix=key)).body["items"][0]
        revisions.append(put(solo, key, b"\xff\x00"))
        second_item = call(solo, "GET", "/v1/kv" + query(prefix=key)).body["items"][0]
        revisions.append(delete(solo, key))
        events = [stream.change() for _ in revisions]

    assert [event.data["revision"] for event in events] == revisions
    assert [event.data["changes"] for event in events] == [
        [{"op": "put", **first_item}],
        [{"op": "put", **second_item}],
        [{"op": "delete", "key": key}],
    ]
    assert first_item["lease"] == lease
    assert second_item["encoding"] == "base64"
    indices = [event.data["index"] for event in events]
    assert indices == sorted(set(indices))
    assert all(before_ms <= event.data["time_ms"] <= time.time_ns() // 1_000_000 for event in events)


def test_a_transaction_is_one_event(solo: ClusterNode, name: Name):
    """All of it at once, and only those of its keys that are watched."""
    with EventStream(solo.port, query(prefix=name("a"))) as stream:
        keys = [name("a1"), name("b"), name("a2")]
        revision = txn(solo, *({"op": "put", "key": key, "value": key} for key in keys))
        event = stream.change()

        assert event.data["revision"] == revision
        assert list(event.keys.items()) == [(name("a1"), "put"), (name("a2"), "put")]


def test_one_key_is_watched_or_all_that_begin_alike(solo: ClusterNode, name: Name):
    """key= takes the key alone, prefix= all that begin with it, and without both it is all keys."""
    with (
        EventStream(solo.port, query(key=name("a"))) as one,
        EventStream(solo.port, query(prefix=name("a"))) as some,
        EventStream(solo.port) as all_of_them,
    ):
        keys = [name("b"), name("ab"), name("a")]
        for key in keys:
            put(solo, key)

        assert [one.change().keys for _ in range(1)] == [{keys[2]: "put"}]
        assert [some.change().keys for _ in range(2)] == [{keys[1]: "put"}, {keys[2]: "put"}]
        assert [all_of_them.change().keys for _ in keys] == [{key: "put"} for key in keys]


def test_what_is_kvlogs_own_is_never_told(solo: ClusterNode, name: Name):
    """A lease is a record among others in the store; of its keys' deletion one is told."""
    with EventStream(solo.port, query(heartbeat=1)) as stream:
        granted = call(solo, "POST", "/v1/leases", {"ttl": 600}).body
        put(solo, name("a"), query=f"?lease={granted['lease']}")
        assert stream.change().keys == {name("a"): "put"}
        call(solo, "DELETE", f"/v1/leases/{granted['lease']}")
        assert stream.change().keys == {name("a"): "delete"}


def test_a_stream_begins_at_any_kept_revision(solo: ClusterNode, name: Name):
    """from= is the first revision that is wanted: what came before is not told, what came since is, in order."""
    revisions = [put(solo, name("a"), b"%d" % number) for number in range(5)]
    with EventStream(solo.port, query(prefix=name(""), from_=revisions[2])) as stream:
        first = stream.event()
        assert first is not None
        assert (first.kind, int(first.id)) == ("progress", revisions[2] - 1)
        revisions.append(put(solo, name("a")))

        assert [stream.change().data["revision"] for _ in range(4)] == revisions[2:]


def test_the_last_event_id_wins_over_from(solo: ClusterNode, name: Name):
    """What a client has seen, be it a change or progress, is not told again when it comes back."""
    revisions = [put(solo, name("a"), b"%d" % number) for number in range(4)]
    with EventStream(solo.port, query(prefix=name(""), from_=revisions[0])) as stream:
        seen = [stream.change().id for _ in range(2)]
    with EventStream(solo.port, query(prefix=name(""), from_=revisions[0]), last_event_id=seen[-1]) as stream:
        assert [stream.change().data["revision"] for _ in range(2)] == revisions[2:]


def test_who_has_caught_up_is_told_so(solo: ClusterNode, name: Name):
    """Behind the last event of the past comes progress, up to what is applied: from now on it is live."""
    wanted = put(solo, name("a"))
    last = put(solo, name("b"))
    began = time.monotonic()
    with EventStream(solo.port, query(key=name("a"), from_=wanted)) as stream:
        assert stream.change().data["revision"] == wanted
        stream.progress(last)

    assert time.monotonic() - began < 5  # long before the first heartbeat


def test_a_watch_of_the_future_waits(solo: ClusterNode, name: Name):
    """What is written before the revision that it begins with is not told."""
    now = solo.status()["revision"]
    with EventStream(solo.port, query(from_=now + 3)) as stream:
        for number in range(4):
            put(solo, name(str(number)))

        assert [stream.change().data["revision"] for _ in range(2)] == [now + 3, now + 4]


def test_a_heartbeat_tells_how_far_everything_is_told(solo: ClusterNode, name: Name):
    """Also where nothing is watched that has changed: from there on a client that is cut off has to go on."""
    with EventStream(solo.port, query(key=name("quiet"), heartbeat=1)) as stream:
        revision = put(solo, name("loud"))
        began = time.monotonic()
        stream.progress(revision)

        assert time.monotonic() - began < 3


def test_a_stopping_node_ends_its_streams(keeper: ProcessKeeper, ensemble: LocalEnsemble):
    """Nobody has to be thrown out for it to stop: the streams end at once, and polls are refused."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(1), root="/watch-stop")
    node = cluster.start()
    with EventStream(node.port) as stream, ThreadPoolExecutor(2) as pool:
        polled = pool.submit(poll, node, 30)
        assert stream.event() is not None
        ended = pool.submit(stream.event)
        assert node.terminate() == 0

        assert ended.result() is None
        assert polled.result().status == 503
    assert "Traceback" not in node.log.read_text()


# --- polls ----------------------------------------------------------------------------------------------------


def test_a_poll_is_answered_as_soon_as_there_is_an_event(solo: ClusterNode, name: Name):
    """The same events as in a stream, and where to go on."""
    with ThreadPoolExecutor(1) as pool, EventStream(solo.port, query(key=name("a"))) as stream:
        polled = pool.submit(poll, solo, 30, key=name("a"), from_=solo.status()["revision"] + 1)
        revision = put(solo, name("a"))
        found = polled.result(5).body

        assert found == {"revision": revision, "events": [stream.change().data], "next": revision + 1}


def test_a_poll_without_events_ends_after_its_time(solo: ClusterNode, name: Name):
    """It says up to where nothing has happened, which may be behind what was asked for."""
    revision = put(solo, name("a"))
    began = time.monotonic()
    found = poll(solo, 0.5, key=name("b")).body
    took_s = time.monotonic() - began

    assert found == {"revision": revision, "events": [], "next": revision + 1}
    assert 0.5 <= took_s < 3
    assert poll(solo, 0, key=name("b"), from_=revision + 7).body["next"] == revision + 7


def test_polls_go_through_the_past(solo: ClusterNode, name: Name):
    """One after the other, each from where the one before has ended, whatever has happened in between."""
    first = put(solo, name("a"), b"0")
    revisions = [first, *(put(solo, name("a"), b"x" * 60_000) for _ in range(12))]
    put(solo, name("b"))

    found, polls, start = [], 0, first
    while start <= solo.status()["revision"]:
        answer = poll(solo, 0, key=name("a"), from_=start).body
        found += [event["revision"] for event in answer["events"]]
        polls, start = polls + 1, answer["next"]

    assert found == revisions
    assert polls > 1  # no answer holds everything, however much there is


def test_a_poll_finds_what_is_far_behind(solo: ClusterNode, name: Name):
    """wait=0 is no reason to give up while there is something to be looked through."""
    first = put(solo, name("needle"))
    for _ in range(8):  # about as many pieces as it takes to look through them
        put(solo, name("hay"), b"x" * 100_000, "?ack=log")
    last = put(solo, name("needle"))

    found = poll(solo, 0, key=name("needle"), from_=first + 1).body
    assert [event["revision"] for event in found["events"]] == [last]


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("?from=0", "from='0': must be a whole number from 1"),
        ("?from=-1", "from='-1'"),
        ("?from=1e3", "from='1e3'"),
        ("?from=99999999999999999999", "from='99999999999999999999'"),
        ("?from=", "from=''"),
        ("?from=1&from=2", "the parameter 'from' is given twice"),
        ("?wait=61", "wait='61': must be a number of seconds from 0 to 60"),
        ("?wait=-1", "wait='-1'"),
        ("?wait=nan", "wait='nan'"),
        ("?heartbeat=0", "heartbeat='0': must be a number of seconds from 1 to 60"),
        ("?heartbeat=61", "heartbeat='61'"),
        ("?wait=1&heartbeat=2", "a poll is answered once"),
        ("?key=a&prefix=a", "say one of them"),
        ("?key=", "the key is empty"),
        ("?key=%00a", "NUL"),
        ("?prefix=%00", "NUL"),
        ("?prefix=" + "x" * 512, "more bytes in UTF-8 than a key may"),
        ("?key=%ff", "not UTF-8"),
        ("?since=1", "unknown parameter 'since'; there is prefix, key, from, wait, heartbeat"),
    ],
)
def test_what_makes_no_sense_is_refused(solo: ClusterNode, target: str, reason: str):
    """400 with the parameter and what it should be, in a stream as in a poll."""
    assert refused(get(solo, b"/v1/watch" + target.encode()), 400, reason, "bad-request")


@pytest.mark.parametrize("sent", [b"", b"-1", b"a", b"1, 2", b"\xc3\xbc", b"9" * 30, b"%d" % (2**63 - 1)])
def test_a_last_event_id_that_is_no_revision_is_refused(solo: ClusterNode, sent: bytes):
    """No node of kvlog has given it, and behind the last one there could be no other: to begin anywhere else would
    lose events without a word."""
    head = b"GET /v1/watch HTTP/1.1\r\nHost: x\r\nLast-Event-ID: " + sent + b"\r\n\r\n"

    assert refused(exchange(solo, head), 400, "Last-Event-ID", "bad-request")


def test_a_key_may_stand_in_the_query_as_it_is(solo: ClusterNode):
    """In UTF-8, where a client does not percent-encode it."""
    revision = put(solo, "ü")

    found = get(solo, b"/v1/watch?wait=0&key=\xc3\xbc&from=%d" % revision)
    assert [change["key"] for event in found.body["events"] for change in event["changes"]] == ["ü"]


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_get_watches(solo: ClusterNode, method: str):
    """405 with what there is."""
    answer = call(solo, method, "/v1/watch", b"{}" if method in ("POST", "PUT", "PATCH") else None)

    assert (answer.status, answer.headers["allow"]) == (405, "GET")
    assert answer.headers["kvlog-node"] == solo.address
    assert answer.data == b"" if method == "HEAD" else answer.refused(405, "method-not-allowed")


# --- what is not kept, and stale stores -----------------------------------------------------------------------


def test_what_is_not_kept_is_gone_and_the_floor_says_what_is(keeper: ProcessKeeper, ensemble: LocalEnsemble):
    """410 below the floor, for streams and polls; from floor + 1 on everything comes."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(1), root="/watch-floor", flags=("--history", "5"))
    node = cluster.start()
    revisions = [put(node, "a", b"%d" % number) for number in range(12)]

    with EventStream(node.port, "?from=1") as stream:
        gone = stream.problem()
    floor = gone["floor"]
    assert (gone["type"], gone["status"]) == ("kvlog:history-trimmed", 410)
    assert floor == revisions[-1] - 5
    assert poll(node, from_=floor).refused(410, "history-trimmed")["floor"] == floor
    with EventStream(node.port, last_event_id=floor - 1) as stream:
        assert stream.problem()["floor"] == floor
    with EventStream(node.port, query(from_=floor + 1)) as stream:
        assert [stream.change().data["revision"] for _ in range(5)] == revisions[-5:]
    assert node.terminate() == 0


def test_a_stale_store_is_not_watched_until_it_is_filled(make_stale: tuple[ClusterNode, ClusterNode]):
    """503 while entries are missing; once they are filled in, what comes is told, and the past is gone."""
    leader, stale = make_stale
    for target in ("", "?from=1", "?wait=0", "?from=999999"):
        with EventStream(stale.port, target) as stream:
            problem = stream.problem()
            assert (stream.status, problem["type"]) == (503, "kvlog:stale-store")
            assert stream.headers["kvlog-stale"] == "true"
            assert int(stream.headers["kvlog-missed-entries"]) > 0

    assert stale.catch_up().status == 200
    with EventStream(stale.port) as stream:
        revision = put(leader, "after")
        assert stream.change().data["revision"] == revision
    with EventStream(stale.port, "?from=1") as stream:
        assert stream.problem()["type"] == "kvlog:history-trimmed"


@pytest.fixture
def make_stale(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Any:
    """A leader, and a node with a stale store."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(2), root="/watch-stale")
    leader = cluster.start()
    other = next(node for node in cluster.nodes if node is not leader)
    put(leader, "before")
    assert other.terminate() == 0
    put(leader, "missed")
    other.start(recover="stale")
    yield leader, other
    cluster.stop()
