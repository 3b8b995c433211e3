"""POST /v1/batch: in order, in chunks, however many; what is counted is committed."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.api.batch import Numbered, chunks, numbered_lines
from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.commands import DeleteKey, SetKey, Txn
from kvlog.core.evaluate import check_command
from kvlog.errors import InvalidInput
from kvlog.processes import wait_until

from .wire import ANSWER_S, Answer, call

Name = Callable[[str], str]
NDJSON = "application/x-ndjson"


def put(key: str, value: str = "v", **more: Any) -> dict[str, Any]:
    return {"op": "put", "key": key, "value": value, **more}


def delete(key: str) -> dict[str, Any]:
    return {"op": "delete", "key": key}


def batch(node: ClusterNode, operations: list[Any], query: str = "", **headers: str) -> Answer:
    lines = b"".join(json.dumps(operation).encode() + b"\n" for operation in operations)
    return call(node, "POST", f"/v1/batch{query}", lines, Content_Type=NDJSON, timeout_s=30, **headers)


def count(node: ClusterNode, prefix: str) -> int:
    return call(node, "GET", f"/v1/kv?limit=0&count=true&prefix={prefix}").body["count"]


def test_a_batch_is_carried_out_in_order_and_says_how_far_it_has_come(solo: ClusterNode, name: Name):
    """A line for each chunk of a thousand, and one for the end; each chunk is one revision."""
    before = solo.status()["revision"]
    answer = batch(solo, [put(name(str(number)), str(number)) for number in range(2_500)])

    *progress, last = answer.lines
    assert answer.status == 200
    assert [set(line) for line in progress] == [{"done", "revision", "index"}] * 3
    assert [(line["done"], line["revision"]) for line in progress] == [
        (1_000, before + 1),
        (2_000, before + 2),
        (2_500, before + 3),
    ]
    assert last == {"outcome": "committed", "operations": 2_500, "revision": before + 3}
    assert count(solo, name("")) == 2_500
    assert call(solo, "GET", f"/v1/kv/{name('1234')}").data == b"1234"


def test_a_batch_may_be_an_array(solo: ClusterNode, name: Name):
    """Of JSON, as a whole; the answer is the same."""
    answer = call(solo, "POST", "/v1/batch", [put(name("a")), put(name("b")), delete(name("a"))])

    assert [line.get("done") for line in answer.lines] == [2, 3, None]
    assert answer.lines[-1]["outcome"] == "committed"
    assert (count(solo, name("")), call(solo, "GET", f"/v1/kv/{name('b')}").data) == (1, b"v")


@pytest.mark.parametrize(("body", "kind"), [(b"", NDJSON), (b"\n \n\r\n", NDJSON), (b"[]", "application/json")])
def test_a_batch_may_be_empty(solo: ClusterNode, body: bytes, kind: str):
    """Then there is nothing to do, and nothing is written."""
    before = solo.status()["revision"]

    assert call(solo, "POST", "/v1/batch", body, Content_Type=kind).lines == [
        {"outcome": "committed", "operations": 0, "revision": before}
    ]
    assert solo.status()["revision"] == before


def test_the_last_of_several_writes_of_a_key_counts(solo: ClusterNode, key: str):
    """They are in chunks of their own, because a transaction writes a key once."""
    answer = batch(solo, [put(key, "1"), put(key, "2"), delete(key), put(key, "3")])

    assert [line.get("done") for line in answer.lines] == [1, 2, 3, 4, None]
    assert call(solo, "GET", f"/v1/kv/{key}").data == b"3"
    assert len(call(solo, "GET", f"/v1/history?key={key}").body["versions"]) == 4


def test_a_batch_under_an_id_may_be_sent_again_as_a_whole(solo: ClusterNode, name: Name):
    """Chunk n is remembered as K:n: what is done is not done again, and what is not is."""
    operations = [put(name(str(number))) for number in range(1_500)]
    identity = name("batch").replace("/", ":")
    part = batch(solo, operations[:1_000], Idempotency_Key=identity)
    revision = part.lines[0]["revision"]
    call(solo, "PUT", f"/v1/kv/{name('0')}", b"changed since")
    whole = batch(solo, operations, Idempotency_Key=identity)
    again = batch(solo, operations, Idempotency_Key=identity)

    assert [line["revision"] for line in whole.lines] == [revision, revision + 2, revision + 2]
    assert again.lines == whole.lines
    assert call(solo, "GET", f"/v1/kv/{name('0')}").data == b"changed since"
    assert solo.remembered(f"{identity}:2").body["revision"] == revision + 2
    another = batch(solo, [put(name("other"))], Idempotency_Key=identity)
    assert another.refused(422, "id-reused")["done"] == 0


def test_what_makes_no_sense_before_the_first_chunk_is_an_ordinary_problem(solo: ClusterNode, name: Name):
    """400 with the line; nothing is written of what stands before it."""
    before = solo.status()["revision"]
    answer = batch(solo, [put(name("a")), {}, {"op": "get", "key": "k"}])

    problem = answer.refused(400, "bad-request", 'operation 2: the field "op" must be "put" or "delete"')
    assert (problem["line"], problem["done"], problem["outcome"]) == (2, 0, "refused")
    assert answer.headers["connection"] == "close"
    in_array = call(solo, "POST", "/v1/batch", [put(name("a")), delete("")])
    in_array.refused(400, "bad-request", "operation 2: the key is empty")
    assert solo.status()["revision"] == before


def test_what_makes_no_sense_later_ends_the_batch_there(solo: ClusterNode, name: Name):
    """200, since some is done; the last line says how much, and where it ended. The chunk it is in is left out."""
    operations = [put(name(str(number))) for number in range(1_100)]
    answer = batch(solo, [*operations, "nonsense", put(name("behind"))])

    progress, last = answer.lines
    assert (answer.status, progress["done"]) == (200, 1_000)
    assert last["outcome"] == "refused"
    assert (last["done"], last["line"], last["status"], last["type"]) == (1_000, 1_101, 400, "kvlog:bad-request")
    assert "operation 1101: must be a JSON object, not a string" in last["detail"]
    assert count(solo, name("")) == 1_000


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"{", 400, "line 1 is not JSON"),
        (b'{"op":"put"}', 400, 'operation 1: the field "key" is missing'),
        (b"\xff", 400, "line 1 is not UTF-8"),
        (b"[" * 100_000, 400, "line 1 is nested too deeply"),
        (b'{"op":"put","key":"k","value":"' + b"v" * 262_145 + b'"}', 413, "the value has 262145 bytes"),
        (b'{"op":"put","key":"k","value":"' + rb"\u0001" * 90_000 + b'"}', 413, "once encoded as JSON"),
        (b" " * (2 * 2**20 + 100), 413, "line 1 has more than 2097152 bytes"),
        (b'{"op":"put","key":"k","value":"v","lease":999}', 404, "the lease is not there"),
    ],
    ids=range(8),
)
def test_a_line_that_cannot_be_carried_out_is_refused(solo: ClusterNode, line: bytes, status: int, reason: str):
    """4xx, and why."""
    answer = call(solo, "POST", "/v1/batch", line + b"\n", Content_Type=NDJSON)

    assert answer.status == status, answer
    assert reason in answer.body["detail"]
    assert (answer.body["outcome"], answer.body["done"]) == ("refused", 0)


@pytest.mark.parametrize(
    ("headers", "query", "status", "reason"),
    [
        ({}, "", 415, "Content-Type: application/json or application/x-ndjson"),
        ({"Content-Type": "text/plain"}, "", 415, "Content-Type: application/json or application/x-ndjson"),
        ({"Content-Type": NDJSON, "Idempotency-Key": "k" * 101}, "", 400, "has 100 characters at most"),
        ({"Content-Type": NDJSON}, "?chunk=5", 400, "unknown parameter 'chunk'"),
        ({"Content-Type": "application/json"}, "", 400, "must be a JSON array of operations, not an object"),
    ],
)
def test_a_batch_that_cannot_be_read_is_refused(
    solo: ClusterNode, headers: dict[str, str], query: str, status: int, reason: str
):
    """4xx, before anything is done."""
    answer = call(solo, "POST", f"/v1/batch{query}", b"{}", **headers)

    assert (answer.status, reason in answer.body["detail"]) == (status, True), answer


class Sending:
    """A batch that is sent piece by piece, and its answer read meanwhile."""

    def __init__(self, node: ClusterNode) -> None:
        self.connection = socket.create_connection(("127.0.0.1", node.port), timeout=ANSWER_S)
        self.file = self.connection.makefile("rb")
        self.connection.sendall(
            b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )

    def send(self, data: bytes) -> None:
        self.connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self.connection.sendall(b"0\r\n\r\n")

    def head(self) -> bytes:
        """The status line; the headers are read over."""
        status = self.file.readline()
        while self.file.readline().strip():
            pass
        return status

    def line(self) -> dict[str, Any]:
        """The next line of the answer, a chunk each."""
        size = int(self.file.readline(), 16)
        return json.loads(self.file.read(size + 2)) if size else {}


def lines_of(operations: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(operation).encode() + b"\n" for operation in operations)


def test_progress_is_told_while_the_batch_is_still_being_sent(solo: ClusterNode, name: Name):
    """Nothing is gathered: a chunk that is full is carried out and answered at once."""
    sending = Sending(solo)
    with closing(sending.connection):
        sending.send(lines_of([put(name(str(number))) for number in range(1_001)]))
        assert b"200" in sending.head()
        assert sending.line()["done"] == 1_000
        assert count(solo, name("")) == 1_000
        sending.send(lines_of([put(name(str(number))) for number in range(1_001, 1_100)]))
        sending.end()
        assert [sending.line().get("done"), sending.line()["operations"]] == [1_100, 1_100]


def test_a_client_that_leaves_ends_its_batch(solo: ClusterNode, name: Name):
    """What was answered is committed, the rest is not; and others find room."""
    for _ in range(40):  # more than may be under way at a time
        sending = Sending(solo)
        with closing(sending.connection):
            sending.send(lines_of([put(name(str(number))) for number in range(1_001)]))
            assert b"200" in sending.head()
    assert wait_until(lambda: batch(solo, [put(name("last"))]).status == 200, ANSWER_S)
    assert count(solo, name("")) == 1_001


def test_a_batch_through_any_node_is_seen_on_all(trio: Cluster, name: Name):
    """It is forwarded chunk by chunk."""
    for node in trio.nodes:
        answer = batch(node, [put(name(f"{node.port}/{number}")) for number in range(1_200)])
        assert answer.lines[-1]["operations"] == 1_200
    for node in trio.nodes:
        assert count(node, name("")) == 3_600


# --- without a node -------------------------------------------------------------------------------------------

OPERATIONS = st.lists(
    st.builds(
        SetKey,
        key=st.text("abcd\x01", min_size=1, max_size=3),
        value=st.binary(max_size=3).map(lambda data: data * 40_000) | st.binary(max_size=10),
        ttl_ms=st.sampled_from([0, 5_000]),
    )
    | st.builds(DeleteKey, key=st.text("abcd", min_size=1, max_size=3)),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(OPERATIONS, st.integers(1, 20))
def test_chunks_are_all_of_it_in_order_and_fit(operations: list[SetKey | DeleteKey], repeat: int):
    """Each has a thousand operations at most, no key twice, and fits into an entry unless it is one alone."""
    numbered = [Numbered(each, number) for number, each in enumerate(operations * repeat, start=1)]

    found = list(chunks(iter(numbered)))

    assert [each for chunk in found for each in chunk] == numbered
    for chunk in found:
        keys = [each.operation.key for each in chunk]
        assert len(keys) == len(set(keys)) <= 1_000
        if len(chunk) > 1:
            check_command(Txn(tuple(each.operation for each in chunk)), request_id_bytes=128)
            size = sum(len(each.operation.value) for each in chunk if isinstance(each.operation, SetKey))
            assert size <= 256 * 1024
    assert found == list(chunks(iter(numbered))), "the same operations make the same chunks"


def test_a_thousand_small_operations_are_one_chunk():
    """However they are made: with leases, with the longest keys."""
    for length in (4, 60):
        numbered = [Numbered(SetKey(f"{n:0{length}}", b"v", ttl_ms=5_000), n) for n in range(1_000)]
        assert len(list(chunks(iter(numbered)))) == 1


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(1, 20))
def test_no_bytes_break_the_reading_of_lines(data: bytes, size: int):
    """They are operations or refused, in whichever pieces they come."""

    def read(pieces: Iterator[bytes]) -> object:
        try:
            return list(numbered_lines(pieces))
        except InvalidInput as refusal:
            return str(refusal)

    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert read(iter(pieces)) == read(iter([data]))


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=8), st.integers(1, 9), st.booleans())
def test_lines_are_numbered_as_an_editor_does(keys: list[str], size: int, ended: bool):
    """Empty ones count, and the last one needs no line feed."""
    text = "\n\n".join(json.dumps(delete(key)) for key in keys) + ("\n" if ended else "")
    data = text.encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]

    found = list(numbered_lines(iter(pieces)))

    assert found == [Numbered(DeleteKey(key), 2 * at + 1) for at, key in enumerate(keys)]
