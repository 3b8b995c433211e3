"""Writes that are handed on: a leader takes whatever a node has taken from its client, or says that it has not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest

from kvlog.api.incoming import BODY_BYTES_MAX
from kvlog.api.internal import FORWARD_BYTES_MAX, forward_of
from kvlog.api.txn import txn_of
from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.commands import Txn, update
from kvlog.core.entry import KEY_BYTES_MAX, OWN_ID, Leader, encode_entry
from kvlog.core.values import Ack, Member, Refused, Unknown
from kvlog.memory import MemorySession
from kvlog.memory_store import MemoryStore
from kvlog.peers import Forward, HttpPeers, NoAnswer
from kvlog.service.reads import Reads
from kvlog.service.writes import Write, Writes, plan_rollback
from tests.chain import Chain
from tests.memory_node import MemoryNode


def fail(code: int, reason: str) -> None:
    raise AssertionError(f"{code}: {reason}")


def handed_on(command: Txn) -> bytes:
    """What a node sends to the leader."""
    return msgspec.msgpack.encode(Forward("c1", "", Ack.LOG, 1_000, command))


@pytest.fixture
def reads() -> Iterator[Reads]:
    node = MemoryNode(watchdog_s=60.0, say=lambda _: None, fail=fail, store=MemoryStore())
    node.start()
    yield Reads(runtime=node.runtime, store=node.store, clock=node.clock)
    node.stop()


def test_a_rollback_of_any_key_can_be_handed_on(reads: Reads):
    """Also of the longest one, each of whose bytes is written with four characters."""
    key = "a" + "\1" * (KEY_BYTES_MAX - 1)

    plan = plan_rollback(reads, key=key, prefix="", revision=0, timeout_s=5.0)

    assert forward_of(handed_on(plan.txn)).command == plan.txn


def test_the_largest_transaction_can_be_handed_on():
    """Although it takes more room than in the client's words."""

    def body(last: int) -> bytes:
        sizes = [0] * 992 + [250_000] * 7 + [last]
        compare = [{"key": "k", "target": "value", "op": "=", "value": "v" * size} for size in sizes]
        put = [{"op": "put", "key": str(number), "value": ""} for number in range(1_000)]
        fields = {"compare": compare, "then": put, "else": put}
        return json.dumps(fields, separators=(",", ":")).encode()

    sent = body(BODY_BYTES_MAX - len(body(0)))
    wanted = txn_of(sent)[0]

    forward = handed_on(wanted)

    assert len(sent) == BODY_BYTES_MAX < len(forward) <= FORWARD_BYTES_MAX
    assert forward_of(forward).command == wanted


@contextmanager
def answering(status: int, heard: list[bytes] | None = None) -> Iterator[str]:
    """A server on a port of its own that answers everything with this status and nothing that is understood."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if heard is not None:
                heard.append(body)
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "kind"), [(400, Refused), (413, Refused), (200, NoAnswer), (500, NoAnswer)])
def test_what_a_leader_does_not_take_was_not_done(tmp_path: Path, status: int, kind: type):
    """Of anything else that is not understood, it is not known."""
    peers = HttpPeers(lambda _: None, incoming=tmp_path / "incoming", verify=lambda _: MemoryStore().position())
    with answering(status) as address:
        answer = peers.forward(address, Forward("c1", "a", Ack.LOG, 1_000, update("k", "v")), 5.0)
    peers.stop()

    assert isinstance(answer, kind), answer


def test_a_write_whose_answer_got_lost_is_asked_for_again_under_one_id(tmp_path: Path):
    """One that its client has given none has one of its node's: whoever leads by then does not do it once more."""
    node = MemoryNode(watchdog_s=60.0, say=lambda _: None, fail=fail)
    ensemble, events, heard = node.session._ensemble, [], []
    peers = HttpPeers(node.runtime.post, incoming=tmp_path / "incoming", verify=lambda _: MemoryStore().position())
    writes = Writes(
        node_id="n1", instance="a1", runtime=node.runtime, store=node.store, peers=peers, clock=node.clock
    )
    with answering(500, heard) as address:
        leader = MemorySession(ensemble, Member("n2", "a2", address, "catchup"), events.append, node.clock)
        leader.connect()
        leader.enrol(do.Enrol())
        (enrolled,) = (event for event in events if isinstance(event, ev.Enrolled))
        ensemble.append(enrolled.name, encode_entry(Chain(enrolled.epoch).header(leader=Leader("n2", address))))
        node.start()
        written = writes.write(Write(update("k", "v"), "", Ack.LOG, 1.0))
    node.stop()
    peers.stop()

    ids = {forward_of(body).request_id for body in heard}
    assert isinstance(written.outcome, Unknown)
    assert len(heard) > 1
    assert ids == {written.request_id}
    assert written.request_id.startswith(OWN_ID)
