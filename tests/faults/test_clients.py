"""What clients of a run make of answers, and of none; what they send; on a node made of prepared answers."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from kvlog.processes import free_ports
from tests.faults import clients
from tests.faults.answers import Reply, Verdict, of_all_tries, read_one, read_page, settled, written
from tests.faults.clients import LINEARIZABLE, LOCAL, Client, Lives
from tests.faults.operations import History, Kind, Outcome, read_history

OK, FAILED, REFUSED, UNKNOWN = Outcome.OK, Outcome.FAILED, Outcome.REFUSED, Outcome.UNKNOWN


def reply(status: int, *, headers: dict[str, str] | None = None, **body: object) -> Reply:
    return Reply(status, headers or {}, json.dumps(body).encode())


COMMITTED = {"outcome": "committed", "revision": 7, "index": 5}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (reply(200, **COMMITTED), OK),
        (reply(201, **COMMITTED), OK),
        (reply(200, **COMMITTED, succeeded=True), OK),
        (reply(200, **COMMITTED, succeeded=False), FAILED),
        (reply(412, type="kvlog:condition-failed", revision=7), FAILED),
        (reply(503, type="kvlog:refused", outcome="refused"), REFUSED),
        (reply(409, type="kvlog:cancelled", outcome="refused"), REFUSED),
        (reply(422, type="kvlog:id-reused", outcome="refused"), REFUSED),
        (reply(400, type="kvlog:bad-request"), REFUSED),
        (reply(504, type="kvlog:unknown", outcome="unknown"), UNKNOWN),
        (reply(503, type="kvlog:unavailable"), UNKNOWN),
        (reply(500, type="kvlog:internal-error"), UNKNOWN),
        (Reply(200, {}, b'{"outcome": "commi'), UNKNOWN),
        (Reply(502, {}, b"<html>"), UNKNOWN),
    ],
)
def test_only_what_the_api_calls_definite_is_taken_for_it(answer, outcome):
    """A write has happened, or has not, where the answer says just that; else nobody knows."""
    found = written(answer)

    assert found.outcome is outcome
    assert (found.revision == 7) == (outcome in (OK, FAILED))
    assert bool(found.error) == (outcome in (REFUSED, UNKNOWN))


def test_a_settled_write_is_one_or_the_other():
    """DELETE /v1/requests/<id>: committed where it says, or never; any other answer settles nothing."""
    assert settled(reply(200, **COMMITTED)) == Verdict(OK, 7, 5, final=True)
    assert settled(reply(200, outcome="cancelled", revision=8)).outcome is REFUSED
    assert settled(reply(503, outcome="refused")).outcome is UNKNOWN
    assert settled(reply(504, outcome="unknown")).outcome is UNKNOWN


@pytest.mark.parametrize(
    ("outcomes", "together"),
    [
        ([(REFUSED, False), (REFUSED, False)], REFUSED),
        ([(UNKNOWN, False), (REFUSED, False)], UNKNOWN),
        ([(REFUSED, False), (UNKNOWN, False)], UNKNOWN),
        ([(UNKNOWN, False), (OK, True)], OK),
        ([(UNKNOWN, False), (UNKNOWN, False), (REFUSED, True)], REFUSED),
    ],
)
def test_a_refusal_says_nothing_of_an_earlier_try(outcomes, together):
    """What was sent twice under an id is refused only if both were, or if it was cancelled for good."""
    tries = [Verdict(outcome, final=final) for outcome, final in outcomes]

    assert of_all_tries(tries).outcome is together


def test_a_read_is_answered_as_text_or_as_an_item_or_by_nothing_there():
    """Each with the revision and the index of the state that was read."""
    marks = {"kvlog-revision": "9", "kvlog-applied-index": "4"}
    item = {**marks, "content-type": "application/json"}

    assert read_one(Reply(200, marks, b"blue")) == Verdict(OK, 9, 4, "blue")
    assert read_one(reply(200, headers=item, key="color", value="blue")) == Verdict(OK, 9, 4, "blue")
    assert read_one(reply(404, headers=marks, type="kvlog:not-found")) == Verdict(OK, 9, 4, None)
    assert read_one(reply(404, type="kvlog:no-such-route")).outcome is REFUSED
    assert read_one(reply(503, type="kvlog:behind")).outcome is REFUSED


def test_what_a_stale_store_shows_is_no_state_of_the_log():
    """It says so in a header; such a read is no answer."""
    stale = {"kvlog-stale": "true", "kvlog-revision": "9"}

    assert read_one(Reply(200, stale, b"blue")).outcome is REFUSED
    assert read_page(reply(200, headers=stale, revision=9, items=[])).outcome is REFUSED


# --- what is sent ---------------------------------------------------------------------------------------------


class Prepared:
    """A node that gives prepared answers: the bytes to send, or None to close the connection without a word."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.answers: list[bytes | None] = []
        self.heads: list[str] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        for end in (self.listener, *self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._thread.join(5)

    def _run(self) -> None:
        with suppress(OSError, ValueError):
            while True:
                connection, _ = self.listener.accept()
                self._open.append(connection)
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            while head := _head(file.readline):
                file.read(next((int(line[15:]) for line in head.split("\r\n") if "Content-Length" in line), 0))
                self.heads.append(head)
                answer = self.answers.pop(0)
                if answer is None:
                    return
                connection.sendall(answer)


def _head(read_line: Callable[[], bytes]) -> str:
    lines = []
    while (line := read_line()).strip():
        lines.append(line.decode())
    return "".join(lines)


def http(status: int, *, headers: dict[str, str] | None = None, **body: object) -> bytes:
    content = json.dumps(body).encode()
    lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
    head = "\r\n".join([f"HTTP/1.1 {status} x", f"Content-Length: {len(content)}", *lines])
    return head.encode() + b"\r\n\r\n" + content


@pytest.fixture
def prepared() -> Iterator[Prepared]:
    node = Prepared()
    yield node
    node.close()


@pytest.fixture
def history(tmp_path) -> Iterator[History]:
    history = History(tmp_path / "history.jsonl")
    yield history
    history.close()


@pytest.fixture
def make_client(history, monkeypatch) -> Iterator[Callable[..., Client]]:
    monkeypatch.setattr(clients, "AGAIN_S", 0.0)
    made: list[Client] = []

    def make(*addresses: str, once: float = 0.0, seed: int = 1) -> Client:
        made.append(Client(3, "register", addresses, history, random.Random(seed), once=once))
        return made[-1]

    yield make
    for client in made:
        client.close()


def test_where_nobody_listens_nothing_has_happened(make_client, prepared):
    """A refused connection is a refused write, and the client turns to the next node."""
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    client = make_client(nobody, prepared.address)

    done = client.write("k", "v")

    assert (done.outcome, done.node, client.node) == (REFUSED, nobody, prepared.address)
    assert done.returned_ns is not None


def test_a_connection_that_ends_without_an_answer_leaves_a_write_unknown_and_a_read_unanswered(
    make_client, prepared
):
    """The write may have been carried out; it is sent once only."""
    prepared.answers = [None, None]
    client = make_client(prepared.address)

    wrote, read = client.write("k", "v"), client.read("k", LOCAL)

    assert (wrote.outcome, wrote.returned_ns, wrote.tries) == (UNKNOWN, None, 1)
    assert read.outcome is REFUSED
    assert len(prepared.heads) == 2


def test_a_node_that_does_not_answer_is_left_in_time(make_client, prepared, monkeypatch):
    """Then the client knows nothing, and goes on."""
    prepared.answers = [b""]
    client = make_client(prepared.address)
    monkeypatch.setattr(client._lines[0], "_answer_s", 0.1)

    done = client.delete("k")

    assert done.outcome is UNKNOWN
    assert "TimeoutError" in done.error


def test_a_write_under_an_id_is_sent_again_elsewhere_under_the_same_id(make_client, prepared):
    """Until its outcome is known; the operation is one, with the number of its tries."""
    other = Prepared()
    try:
        prepared.answers = [http(504, outcome="unknown")]
        other.answers = [http(200, **COMMITTED)]
        client = make_client(prepared.address, other.address, once=1.0)

        done = client.cas("k", "1", "2")
    finally:
        other.close()

    assert (done.outcome, done.tries, done.revision, done.index) == (OK, 2, 7, 5)
    ids = {
        line for head in (*prepared.heads, *other.heads) for line in head.split("\r\n") if "Idempotency" in line
    }
    assert ids == {f"Idempotency-Key: {done.request_id}"}
    assert len(prepared.heads) == len(other.heads) == 1


def test_what_stays_unknown_may_be_settled_with_the_last_try(make_client, prepared):
    """Once it is cancelled, it is known never to happen."""
    prepared.answers = [http(504, outcome="unknown"), None, http(200, outcome="cancelled", revision=9, index=8)]
    seed = next(each for each in range(99) if _settles(each))
    client = make_client(prepared.address, once=1.0, seed=seed)

    done = client.write("k", "v")

    assert (done.outcome, done.tries) == (REFUSED, 3)
    assert prepared.heads[-1].startswith(f"DELETE /v1/requests/{done.request_id}?")


def _settles(seed: int) -> bool:
    draw = random.Random(seed)
    return [draw.random() for _ in range(3)][-1] < clients.SETTLE_SHARE


def test_reads_ask_for_what_they_have_to_show(make_client, prepared, monkeypatch):
    """A linearizable one for that; a local one for what its client has seen, or for nothing."""
    marks = {"kvlog-revision": "12", "kvlog-applied-index": "3"}
    prepared.answers = [http(200, headers=marks)] * 4
    client = make_client(prepared.address)

    monkeypatch.setattr(clients, "SEEN_SHARE", 1.0)
    least = [client.read("a b", mode).min_revision for mode in (LOCAL, LOCAL, LINEARIZABLE)]
    monkeypatch.setattr(clients, "SEEN_SHARE", 0.0)
    least.append(client.read("a b", LOCAL).min_revision)

    targets = [head.split(" ")[1] for head in prepared.heads]
    assert targets == [
        "/v1/kv/a%20b",
        "/v1/kv/a%20b?min_revision=12&timeout_ms=2000",
        "/v1/kv/a%20b?linearizable=true&timeout_ms=2000",
        "/v1/kv/a%20b",
    ]
    assert least == [0, 12, 0, 0]


def test_a_node_has_another_life_once_its_store_may_be_gone():
    """That is a process which is first seen while stores are taken away; any other goes on with what there was."""
    lives = Lives()
    before = [lives.of("n1", "a"), lives.of("n1", "b"), lives.of("n2", "c")]
    lives.losing = True
    during = [lives.of("n1", "b"), lives.of("n1", "d")]
    lives.losing = False
    after = [lives.of("n1", "d"), lives.of("n1", "e"), lives.of("n2", "c")]

    assert (before, during, after) == ([0, 0, 0], [0, 1], [1, 1, 0])


def test_pages_are_read_at_the_revision_of_the_first(make_client, prepared):
    """Whatever is written meanwhile; a page that does not come leaves no answer."""
    marks = {"kvlog-applied-index": "3"}
    first = http(200, headers=marks, revision=12, items=[{"key": "a", "value": "1"}], next="b")
    prepared.answers = [first, http(200, revision=12, items=[{"key": "b", "value": "2"}]), first, None]
    client = make_client(prepared.address)

    whole, half = client.read_all("", LOCAL), client.read_all("", LOCAL)

    assert (whole.result, whole.revision, whole.index) == ({"a": "1", "b": "2"}, 12, 3)
    assert (half.outcome, half.result) == (REFUSED, None)
    assert prepared.heads[1].split(" ")[1] == "/v1/kv?prefix=&limit=1000&from=b&at=12"


def test_a_history_is_the_same_read_from_its_file(make_client, prepared, history, tmp_path):
    """But that tuples are lists there."""
    prepared.answers = [http(200, **COMMITTED, succeeded=False), None]
    client = make_client(prepared.address)
    client.cas("k", None, "1")
    client.transfer({"a": ("1", "2"), "b": (None, "3")})
    history.close()

    found = list(read_history(tmp_path / "history.jsonl"))

    assert [(each.kind, each.outcome, each.number) for each in found] == [
        (Kind.CAS, FAILED, 1),
        (Kind.TRANSFER, UNKNOWN, 2),
    ]
    assert found[0].argument == [None, "1"]
    assert found[1].argument == {"a": ["1", "2"], "b": [None, "3"]}
