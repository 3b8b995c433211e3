"""One call over several nodes, without a network: what each answer leads to, and how a call without one ends."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from kvlog.client import reads, writes
from kvlog.client.attempts import Pause
from kvlog.client.errors import (
    BadAnswer,
    BadRequest,
    Cancelled,
    ClientError,
    ConditionFailed,
    HistoryTrimmed,
    NoNodes,
    NoSuchLease,
    Refused,
    TooLarge,
    TooManyKeys,
    TooStale,
    Unknown,
)
from kvlog.client.messages import Answer, Call, Failure
from kvlog.client.reads import ReadOptions
from kvlog.client.results import Item, Written
from kvlog.client.shared import Shared
from kvlog.client.steps import Send, steps

NODES = ("a:1", "b:2", "c:3")

REFUSED = Failure("connection refused", sent=False)
LOST = Failure("no answer in time", sent=True)


def problem(status: int, name: str, headers: dict[str, str] | None = None, **members: Any) -> Answer:
    body = {"type": f"kvlog:{name}", "title": name, "status": status, "detail": f"it is {name}", **members}
    return Answer("", status, {"kvlog-revision": "5", **(headers or {})}, json.dumps(body).encode())


def committed(revision: int, status: int = 200, **headers: str) -> Answer:
    body = {"outcome": "committed", "key": "k", "revision": revision, "index": 3, "leader": "a:1", "replicas": {}}
    return Answer("", status, headers, json.dumps(body).encode())


def value(data: bytes, revision: int = 7, **headers: str) -> Answer:
    known = {"etag": f'"{revision}"', "kvlog-create-revision": "4", "kvlog-version": "2", "kvlog-revision": "9"}
    return Answer("", 200, {**known, "content-type": "text/plain", **headers}, data)


class Run:
    """A call that is answered by what is given, on a clock that only pauses and lost answers move."""

    def __init__(self, call: Call[Any], *replies: Answer | Failure, timeout: float = 6.0, **settings: Any) -> None:
        self.shared = Shared(NODES, timeout=timeout, read_your_writes=True, chance=lambda: 1.0)
        self.sent: list[Send] = []
        self.paused = 0.0
        self.now = 0.0
        self._call, self._replies, self._settings = call, list(replies), settings

    def result(self) -> Any:
        """The last reply is given again and again."""
        run = steps(self._call, self.shared, lambda: self.now, self.shared.timeout, **self._settings)
        try:
            step = next(run)
            while True:
                if isinstance(step, Pause):
                    self.now += step.seconds
                    self.paused += step.seconds
                    step = run.send(None)
                    continue
                self.sent.append(step)
                reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
                if isinstance(reply, Failure):
                    self.now += step.seconds if reply.sent else 0.0
                else:
                    reply = Answer(step.node, reply.status, reply.headers, reply.body)
                step = run.send(reply)
        except StopIteration as end:
            return end.value

    @property
    def asked(self) -> list[str]:
        return [step.node for step in self.sent]


def put(**settings: Any) -> Call[Written]:
    wanted = {"ttl": None, "lease": None, "if_revision": None, "content_type": None, "ack": "replicas"}
    return writes.put("k", "v", **{**wanted, "request_id": "id-1", **settings})


GET = reads.get("k", ReadOptions())


def error_of(call: Call[Any], *replies: Answer | Failure, **settings: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        Run(call, *replies, **settings).result()
    return caught.value


# --- asking again ---------------------------------------------------------------------------------------------


def test_a_write_that_got_no_answer_is_sent_again_under_the_same_id():
    """To the next node each time, whatever went wrong: refused, lost, unknown, unavailable."""
    replies = (REFUSED, LOST, problem(504, "unknown"), problem(503, "refused", outcome="refused"), committed(8))
    run = Run(put(), *replies, timeout=30)

    assert run.result().revision == 8

    assert run.asked == ["a:1", "b:2", "c:3", "a:1", "b:2"]
    assert {step.request.headers["Idempotency-Key"] for step in run.sent} == {"id-1"}
    assert {step.request.body for step in run.sent} == {b"v"}


def test_the_node_that_has_answered_is_asked_first_from_then_on():
    """Until it fails itself; a node that is asked on purpose does not become the first one by that."""
    run = Run(GET, REFUSED, value(b"v"))
    run.result()
    assert run.shared.first == 1

    shared = run.shared
    Run.__init__(run, reads.status(), Answer("", 200, {}, b"{}"), node="c:3")
    run.shared = shared
    run.result()
    assert run.asked == ["c:3"]
    assert shared.first == 1


def test_each_try_tells_the_node_a_time_that_ends_before_its_own():
    """So that the node can still say what has become of it."""
    run = Run(put(), LOST, LOST, committed(1), timeout=6.0)
    run.result()

    assert [step.seconds for step in run.sent] == [2.0, 2.0, 2.0]
    assert all("timeout_ms=1500" in step.request.target for step in run.sent)


def test_reads_go_on_to_another_node_whatever_the_node_says_is_wrong_with_it():
    """Behind, stale, unavailable, broken."""
    for answer in (
        problem(503, "behind"),
        problem(503, "stale-store"),
        problem(503, "unavailable"),
        Answer("", 502, {}, b"<html>"),
        Answer("", 500, {}, b""),
        Answer("", 408, {}, b'{"type": "about:blank", "status": 408, "detail": "too slow"}'),
        Answer("", 429, {}, b""),
    ):
        run = Run(GET, answer, value(b"v"))
        assert run.result().value == b"v"
        assert run.asked == ["a:1", "b:2"]


def test_a_node_that_asks_for_time_gets_it_while_the_others_are_asked():
    """Retry-After: 1 on all three: a second passes before the first is asked again."""
    busy = problem(503, "refused", {"retry-after": "1"}, outcome="refused")
    run = Run(put(), busy, busy, busy, committed(3))

    assert run.result().revision == 3
    assert run.asked == ["a:1", "b:2", "c:3", "a:1"]
    assert run.paused == pytest.approx(1.0)


def test_what_is_too_stale_everywhere_is_too_stale():
    """Each node is asked once; a fresher one ends it; one that is dead does not make it wait."""
    stale = problem(412, "too-stale")

    run = Run(GET, stale, value(b"v"))
    assert run.result().value == b"v"

    for replies in ((stale,), (REFUSED, stale, stale), (stale, REFUSED, stale)):
        run = Run(GET, *replies)
        with pytest.raises(TooStale, match="it is too-stale"):
            run.result()
        assert (run.asked, run.now) == (["a:1", "b:2", "c:3"], 0.0)


# --- definite answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "status"),
    [
        (problem(412, "condition-failed", revision=11), ConditionFailed, 412),
        (problem(410, "history-trimmed", floor=3), HistoryTrimmed, 410),
        (problem(410, "log-trimmed", first_index=3), HistoryTrimmed, 410),
        (problem(404, "no-such-lease"), NoSuchLease, 404),
        (problem(409, "cancelled"), Cancelled, 409),
        (problem(413, "too-large"), TooLarge, 413),
        (problem(422, "too-many-keys"), TooManyKeys, 422),
        (problem(422, "id-reused"), BadRequest, 422),
        (problem(400, "bad-request"), BadRequest, 400),
        (problem(404, "no-such-route"), BadRequest, 404),
        (problem(415, "unsupported-media-type"), BadRequest, 415),
        (problem(418, "invented-since"), BadRequest, 418),
    ],
)
def test_a_definite_answer_is_raised_at_once(answer: Answer, kind: type[ClientError], status: int):
    """Also after a try that is in doubt: it is the answer to all tries under that id."""
    for before in ((), (LOST,)):
        run = Run(put(), *before, answer)
        with pytest.raises(ClientError) as caught:
            run.result()

        assert type(caught.value) is kind
        assert caught.value.status == status
        assert caught.value.node == run.asked[-1]
        assert len(run.asked) == len(before) + 1
        assert "put 'k': " in str(caught.value)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [(404, {}, b"<html>"), (302, {"location": "http://elsewhere/"}, b""), (200, {}, b"<html>"), (200, {}, b"{}")],
)
def test_what_is_no_answer_of_kvlog_is_told_as_such(status: int, headers: dict[str, str], body: bytes):
    """At once, for somebody has to look at it; a write that may have happened by then is Unknown."""
    odd = Answer("", status, headers, body)

    assert type(error_of(GET, odd)) is BadAnswer
    assert type(error_of(GET, LOST, odd)) is BadAnswer
    assert type(error_of(put(), odd)) is (BadAnswer if status == 404 else Unknown)
    doubtful = error_of(put(), LOST, odd)
    assert type(doubtful) is Unknown
    assert isinstance(doubtful.__cause__, BadAnswer)


def test_errors_carry_what_the_node_has_said():
    """Its words, the revision at which a condition did not hold, the oldest revision that is known."""
    failed = error_of(put(if_revision=3), problem(412, "condition-failed", revision=11))
    trimmed = error_of(reads.get("k", ReadOptions(at=2)), problem(410, "history-trimmed", floor=3))

    assert isinstance(failed, ConditionFailed)
    assert (failed.revision, str(failed)) == (11, "put 'k': it is condition-failed")
    assert isinstance(trimmed, HistoryTrimmed)
    assert trimmed.floor == 3
    log = error_of(reads.log(0), problem(410, "log-trimmed", first_index=1000))
    assert isinstance(log, HistoryTrimmed)
    assert log.floor == 1000
    odd = error_of(GET, Answer("", 417, {}, b'{"type": "about:blank", "status": 417, "detail": "why that"}'))
    assert "why that" in str(odd)


def test_bad_requests_are_value_errors():
    """For those who do not know the client's own tree."""
    assert issubclass(BadRequest, ValueError)
    assert issubclass(TooLarge, BadRequest)


# --- no answer ------------------------------------------------------------------------------------------------


def test_a_write_that_reached_nobody_did_not_happen():
    """NoNodes says why of each of them; it is a kind of Refused."""
    error = error_of(put(), REFUSED)

    assert type(error) is NoNodes
    assert isinstance(error, Refused)
    assert all(f"{node}: connection refused" in str(error) for node in NODES)


def test_a_write_that_was_refused_did_not_happen():
    """Where each try has ended for certain."""
    error = error_of(put(), REFUSED, problem(503, "refused", outcome="refused"))

    assert type(error) is Refused
    assert "it is safe to try again" in str(error)


@pytest.mark.parametrize(
    "doubtful",
    [LOST, problem(504, "unknown", outcome="unknown"), problem(503, "unavailable"), Answer("", 502, {}, b"")],
)
def test_a_write_with_one_try_in_doubt_is_unknown(doubtful: Answer | Failure):
    """Whatever the other tries have said; the error names the id and the way to settle it."""
    refused = problem(503, "refused", outcome="refused")

    for replies in ((doubtful,), (doubtful, refused), (REFUSED, doubtful, refused)):
        error = error_of(put(), *replies)
        assert isinstance(error, Unknown)
        assert error.request_id == "id-1"
        assert "client.settle('id-1')" in str(error)


def test_what_a_node_finds_before_it_begins_is_no_doubt():
    """It is behind, or its store is stale: nothing was written by that try."""
    for name in ("behind", "stale-store"):
        assert type(error_of(put(), problem(503, name))) is NoNodes


def test_a_read_is_never_unknown():
    """Nothing depends on it: it can be asked again."""
    for reply in (LOST, problem(503, "behind"), Answer("", 500, {}, b"")):
        assert type(error_of(GET, reply)) is NoNodes


def test_a_call_without_an_answer_ends_at_its_deadline():
    """Not before, and not after."""
    for reply in (LOST, REFUSED, problem(503, "behind")):
        run = Run(GET, reply, timeout=4.0)
        with pytest.raises(NoNodes):
            run.result()
        assert 3.0 <= run.now <= 4.0


# --- what the client learns -----------------------------------------------------------------------------------


def test_the_revision_rises_with_every_answer_and_never_falls():
    """Of writes, of reads, of keys that are not there, and of conditions that do not hold."""
    for call, answer, revision in (
        (put(), committed(8), 8),
        (GET, value(b"v"), 9),
        (GET, problem(404, "not-found"), 5),
        (put(if_revision=1), problem(412, "condition-failed", revision=12), 12),
    ):
        run = Run(call, answer)
        with suppress(ConditionFailed):
            run.result()
        assert run.shared.revision == revision
        run.shared.saw(revision - 1)
        assert run.shared.revision == revision


def test_reads_wait_for_what_the_client_has_seen():
    """Unless they say themselves how far, or the client does without."""
    shared = Shared(NODES, timeout=1, read_your_writes=True)
    assert shared.at_least(None) is None
    shared.saw(8)
    assert (shared.at_least(None), shared.at_least(3), shared.at_least(0)) == (8, 3, 0)
    without = Shared(NODES, timeout=1, read_your_writes=False)
    without.saw(8)
    assert without.at_least(None) is None


def test_an_item_is_read_from_the_headers():
    """The value is the body as it is; a lease only where there is one."""
    assert Run(GET, value(b"\xff")).result() == Item("k", b"\xff", 7, 4, 2, "text/plain", None)
    assert Run(GET, value(b"", **{"kvlog-lease": "6"})).result().lease == 6
    assert Run(GET, problem(404, "not-found")).result() is None
    assert isinstance(error_of(GET, Answer("", 200, {}, b"v")), BadAnswer)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("127.0.0.1:5000", ("127.0.0.1:5000",)),
        (" a:1, http://b:2/ ,[::1]:3", ("a:1", "b:2", "[::1]:3")),
        (["a:1", "b:2"], ("a:1", "b:2")),
        ("", None),
        ("a", None),
        ("a:0", None),
        ("a:65536", None),
        ("a:1,a:1", None),
        ("https://a:1", None),
        ("a:1/path", None),
        ([], None),
    ],
)
def test_addresses_are_checked_before_anything_is_sent(nodes: Any, expected: tuple[str, ...] | None):
    """HOST:PORT, in a list or with commas, each once."""
    if expected is None:
        with pytest.raises(BadRequest):
            Shared(nodes, timeout=1, read_your_writes=True)
    else:
        assert Shared(nodes, timeout=1, read_your_writes=True).nodes == expected


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_number_of_seconds(timeout: float):
    """Nothing waits for ever."""
    with pytest.raises(BadRequest, match="timeout="):
        Shared(NODES, timeout=timeout, read_your_writes=True)
