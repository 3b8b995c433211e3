"""What nodes send each other. Anybody who reaches the port can send it too: it is read as strictly as the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.api.commands import ASKED_CHARACTERS_MAX
from kvlog.api.internal import forward_of
from kvlog.cluster import Cluster, ClusterNode
from kvlog.core.commands import (
    AnyOf,
    Compare,
    DeleteKey,
    Grant,
    KeepAlive,
    Relation,
    Revoke,
    SetKey,
    Target,
    Txn,
    Unchanged,
    update,
)
from kvlog.core.values import Ack, Committed, Refused
from kvlog.errors import InvalidInput
from kvlog.peers import Forward, ForwardAnswer

from .wire import Answer, call

MSGPACK = "application/msgpack"
GOOD = Forward("c", "~abc-1", Ack.LOG, 1_000, update("k", "v"))
BAD_BYTES = [
    b"",
    b"\xc1",
    b"hello",
    b"[]",
    b"\x91" * 100_000,
    b"\x81\xa1x" + b"\x91" * 100_000 + b"\xc0",
    msgspec.msgpack.encode(GOOD)[:-1],
    msgspec.msgpack.encode(GOOD) + b"\x00",
    msgspec.msgpack.encode({"cluster_id": "c", "command": "all"}),
    msgspec.msgpack.encode(GOOD).replace(b"~abc-1", b"~abc\xff\xff"),
    b"\x81\xaacluster_id\xa2\xff\xfe",
    b"\x81\xa2\xff\xfe\xc0",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc7\x08\xff" + b"\xff" * 8,
    b"\xd6\xff\x00\x00\x00\x00",
]


def send(node: ClusterNode, path: str, body: bytes) -> Answer:
    return call(node, "POST", path, body, Content_Type=MSGPACK)


@pytest.mark.parametrize("body", BAD_BYTES, ids=range(len(BAD_BYTES)))
@pytest.mark.parametrize("path", ["/forward", "/propagate"])
def test_garbage_is_refused(solo: ClusterNode, path: str, body: bytes):
    """400, whatever is wrong with it: bad UTF-8 and endless nesting are errors of their own kinds below."""
    send(solo, path, body).refused(400, "bad-request", "this is not a")


def forward(**changes: Any) -> bytes:
    """A write that is handed on, all of it plausible but the changes."""
    return msgspec.msgpack.encode(replace(GOOD, **changes))


BAD_FORWARDS = [
    ({"request_id": "a b"}, "the request's id"),
    ({"request_id": "~" + "a" * 129}, "the request's id"),
    ({"timeout_ms": 0}, "timeout_ms 0: must be from 1 to 60000"),
    ({"timeout_ms": -1}, "timeout_ms -1: must be from 1"),
    ({"timeout_ms": 10**12}, "must be from 1 to 60000"),
    ({"command": Txn((SetKey("", b"v"),))}, "the key is empty"),
    ({"command": Txn((SetKey("k" * 512, b"v"),))}, "the key has 512 bytes"),
    ({"command": Txn((SetKey("\0lease/1", b"{}"),))}, "begins with the character NUL"),
    ({"command": Txn((DeleteKey("\0lease/1"),))}, "begins with the character NUL"),
    ({"command": Txn((), (), (DeleteKey(""),))}, "the key is empty"),
    ({"command": Txn((SetKey("k", b"v"), DeleteKey("k")))}, "then writes the key 'k' twice"),
    ({"command": Txn((SetKey("k", b"v", content_type="x\r\nY: z"),))}, "the content type"),
    ({"command": Txn((SetKey("k", b"v", lease=-1),))}, "lease -1: must be from 0"),
    ({"command": Txn((SetKey("k", b"v", lease=2**63),))}, "must be from 0 to"),
    ({"command": Txn((SetKey("k", b"v", ttl_ms=-5),))}, "a ttl of -5 ms"),
    ({"command": Txn((SetKey("k", b"v", ttl_ms=5_000, lease=1),))}, "not both"),
    ({"command": Txn(tuple(DeleteKey(str(n)) for n in range(1_001)))}, "then has 1001 operations"),
    ({"command": Txn((), tuple(AnyOf("k", (1,)) for _ in range(1_001)))}, "there are 1001 conditions"),
    ({"command": Txn((), (AnyOf("k", tuple(range(1_001))),))}, "there are 1001 revisions"),
    ({"command": Txn((), (AnyOf("k", (-1,)),))}, "revision -1"),
    ({"command": Txn((), (Compare("\0", Target.VERSION, Relation.EQUAL, 0),))}, "begins with the character NUL"),
    ({"command": Txn((), (Compare("k", Target.VERSION, Relation.EQUAL, 2**64 - 1),))}, "must be from 0 to"),
    ({"command": Txn((), (Unchanged("\0", 0),))}, "begins with NUL"),
    ({"command": Txn(asked="x" * (ASKED_CHARACTERS_MAX + 1))}, f"the limit is {ASKED_CHARACTERS_MAX}"),
    ({"command": Grant(0)}, "a ttl of 0 ms"),
    ({"command": Grant(2**62)}, "a ttl of"),
    ({"command": KeepAlive(-1)}, "lease -1"),
    ({"command": Revoke(2**64 - 1)}, "lease 18446744073709551615"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD_FORWARDS, ids=range(len(BAD_FORWARDS)))
def test_a_write_that_no_node_would_hand_on_is_refused(solo: ClusterNode, changes: dict[str, Any], reason: str):
    """400: no client could have sent it, and it would be written, or end the leader."""
    before = solo.status()["revision"]
    named = {"cluster_id": solo.status()["cluster_id"]} | changes

    send(solo, "/forward", forward(**named)).refused(400, "bad-request", reason)
    assert solo.status()["revision"] == before


def test_what_is_too_large_to_be_written_is_refused(solo: ClusterNode):
    """413: it would not fit into an entry."""
    cluster_id = solo.status()["cluster_id"]
    for value in (b"v" * 262_145, b"\x01" * 90_000):
        body = forward(cluster_id=cluster_id, command=Txn((SetKey("k", value),)))
        send(solo, "/forward", body).refused(413, "too-large")


def test_a_write_of_another_cluster_is_refused(solo: ClusterNode, key: str):
    """Its leader had this address before: a write that landed here would be acknowledged there, and be lost."""
    answer = send(solo, "/forward", forward(cluster_id="another", command=update(key, "v")))

    outcome = msgspec.msgpack.decode(answer.data, type=ForwardAnswer).outcome()
    assert (answer.status, answer.headers["content-type"]) == (200, MSGPACK)
    assert isinstance(outcome, Refused)
    assert "another cluster" in outcome.reason
    assert call(solo, "GET", f"/v1/kv/{key}").status == 404


def test_a_leader_carries_out_what_is_handed_on_and_others_do_not(trio: Cluster, key: str):
    """A node that does not lead says so, and does not hand it on once more."""
    for node in trio.nodes:
        status = node.status()
        body = forward(cluster_id=status["cluster_id"], request_id="", command=update(f"{key}-{node.port}", "v"))
        outcome = msgspec.msgpack.decode(send(node, "/forward", body).data, type=ForwardAnswer).outcome()
        assert isinstance(outcome, Committed if status["is_leader"] else Refused), outcome


@settings(deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=20).map(lambda data: msgspec.msgpack.encode(GOOD)[:60] + data))
def test_no_bytes_break_the_reading_of_a_forwarded_write(data: bytes):
    """They are one, or refused."""
    try:
        found = forward_of(data)
    except InvalidInput:
        return
    assert isinstance(found, Forward)
