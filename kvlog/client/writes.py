"""The calls that change something: each has an id, under which it is done once, however often it is sent."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal, TypeVar

import msgspec

from kvlog.client.errors import BadRequest, TooLarge
from kvlog.client.judging import Problem, found_problem
from kvlog.client.messages import Again, Answer, Call, Done, Request, node_time_ms
from kvlog.client.operations import checked_ttl, content_type_of, expiry_of
from kvlog.client.reads import key_path, target
from kvlog.client.results import BatchResult, Deleted, RolledBack, Settled, TxnResult, Written
from kvlog.client.wire import BODY_BYTES_MAX, BatchLine, WireCommitted, as_bytes, checked_text, encoder

T = TypeVar("T")

Ack = Literal["replicas", "log"]
"""What the answer to a write waits for, once it is in the log: that the replicas which keep up have applied it, or
nothing more."""

OK = (HTTPStatus.OK, HTTPStatus.CREATED)

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}

_REQUEST_ID = re.compile(r"~?[A-Za-z0-9._:@=+-]{1,128}")


def new_id() -> str:
    """An id that no other write has."""
    return secrets.token_hex(16)


def checked_id(request_id: str) -> str:
    """An id as the nodes take it.

    Raises:
        BadRequest: it is none.
    """
    if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id) or request_id in {".", ".."}:
        raise BadRequest(
            f"request_id={request_id!r}: must be 1 to 128 of the characters A-Z a-z 0-9 . _ : @ = + -"
        )
    return request_id


def put(
    key: str,
    value: bytes | str,
    *,
    ttl: float | None,
    lease: int | None,
    if_revision: int | None,
    content_type: str | None,
    ack: Ack,
    request_id: str,
) -> Call[Written]:
    """Give a key a value."""
    path = key_path(key)
    kind = content_type_of(value, content_type)
    headers = {**_condition(if_revision), **({} if kind is None else {"Content-Type": kind})}

    def read(answer: Answer) -> Done[Written] | None:
        if answer.status not in OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireCommitted)
        written = Written(
            key=key,
            revision=found.revision,
            index=found.index,
            leader=found.leader,
            replicas=found.replicas,
            created=answer.status == HTTPStatus.CREATED,
            replayed=_replayed(answer),
        )
        return Done(written, found.revision)

    build = _builder("PUT", path, request_id, {**expiry_of(ttl, lease), "ack": ack}, headers, as_bytes(value))
    return Call(f"put {key!r}", build, read, request_id)


def delete(key: str, *, if_revision: int | None, ack: Ack, request_id: str) -> Call[Deleted]:
    """Take a key away."""
    path = key_path(key)
    if if_revision == 0:
        raise BadRequest(
            f"delete {key!r}: if_revision=0 says that it is not there, so that there is nothing to do"
        )

    def read(answer: Answer) -> Done[Deleted] | None:
        if answer.status not in OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireCommitted)
        deleted = Deleted(
            key=key,
            deleted=bool(found.deleted),
            revision=found.revision,
            index=found.index,
            leader=found.leader,
            replicas=found.replicas,
            replayed=_replayed(answer),
        )
        return Done(deleted, found.revision)

    build = _builder("DELETE", path, request_id, {"ack": ack}, _condition(if_revision))
    return Call(f"delete {key!r}", build, read, request_id)


def txn(body: Mapping[str, Any], *, ack: Ack, request_id: str) -> Call[TxnResult]:
    """A transaction.

    Raises:
        TooLarge: no node would read it.
    """
    data = encoder.encode(body)
    if len(data) > BODY_BYTES_MAX:
        raise TooLarge(f"a transaction of {len(data)} bytes: {BODY_BYTES_MAX} are the most that a node reads")

    def read(answer: Answer) -> Done[TxnResult] | None:
        if answer.status not in OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireCommitted)
        result = TxnResult(
            succeeded=found.succeeded,
            revision=found.revision,
            index=found.index,
            results=tuple(result.result() for result in found.results),
            leader=found.leader,
            replicas=found.replicas,
            replayed=_replayed(answer),
        )
        return Done(result, found.revision)

    build = _builder("POST", "/v1/txn", request_id, {"ack": ack}, JSON, data)
    return Call("transaction", build, read, request_id)


def batch(
    lines: Sequence[bytes], *, ack: Ack, request_id: str, committed: Callable[[int], None]
) -> Call[BatchResult]:
    """Operations, a line each. Sent again as a whole under the same id, it goes on where it has stopped.

    ``committed`` is told how many of them are committed whenever an answer says so.
    """
    what = f"batch of {len(lines)} operations"

    def read(answer: Answer) -> Done[BatchResult] | Again | None:
        if answer.status != HTTPStatus.OK:
            return None
        said = [msgspec.json.decode(line, type=BatchLine) for line in answer.body.splitlines() if line.strip()]
        end = said[-1] if said else BatchLine()
        done = max((line.done for line in said), default=0)
        revision = max((line.revision for line in said), default=0)
        committed(len(lines) if end.outcome == "committed" else done)
        if end.outcome == "committed":
            return Done(BatchResult(end.operations, revision), revision)
        if end.outcome:
            return found_problem(what, answer, end.status, Problem.of(msgspec.to_builtins(end)))
        return Again("its answer ends before it says what has become of all operations", in_doubt=True)

    build = _builder("POST", "/v1/batch", request_id, {"ack": ack}, LINES, b"\n".join(lines) + b"\n")
    return Call(
        what, build, read, request_id, if_unknown="send the operations again that are not known to be done"
    )


def rollback(
    key: str | None, prefix: str | None, revision: int, *, dry_run: bool, request_id: str
) -> Call[RolledBack]:
    """A key or a prefix as it was."""
    if (key is None) == (prefix is None):
        raise BadRequest("rollback: say which key or which prefix, and not both")
    name, which = ("prefix", prefix or "") if key is None else ("key", key)
    checked_text(name, which)

    def read(answer: Answer) -> Done[RolledBack] | None:
        if answer.status not in OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireCommitted)
        index = found.index if found.index >= 0 else None
        return Done(RolledBack(found.changes, found.revision, index, _replayed(answer)), found.revision)

    body = encoder.encode({name: which, "revision": revision, "dry_run": dry_run})
    build = _builder("POST", "/v1/rollback", request_id, {}, JSON, body)
    return Call(f"rollback of {which!r} to revision {revision}", build, read, request_id)


def take(lock: str, lease: int) -> Call[Written]:
    """Take a lock, which is its key, for as long as the lease lives. The value tells people who holds it."""
    return put(
        lock,
        f"{socket.gethostname()} {os.getpid()}",
        ttl=None,
        lease=lease,
        if_revision=0,
        content_type=None,
        ack="replicas",
        request_id=new_id(),
    )


def grant(ttl: float, request_id: str) -> Call[int]:
    """A new lease; its id.

    Raises:
        BadRequest: its time makes no sense.
    """
    body = encoder.encode({"ttl": round(checked_ttl(ttl), 3)})

    def read(answer: Answer) -> Done[int] | None:
        if answer.status not in OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireCommitted)
        return Done(found.lease, found.revision)

    build = _builder("POST", "/v1/leases", request_id, {}, JSON, body)
    return Call(f"lease of {ttl:g} s", build, read, request_id)


def keep_alive(lease: int) -> Call[float]:
    """A lease's whole time anew; the result is when that was sent. It is in no log: ask as often as you like."""

    def build(seconds: float) -> Request:
        return Request("POST", target(f"/v1/leases/{lease}/keep-alive", {"timeout_ms": node_time_ms(seconds)}))

    def read(answer: Answer) -> Done[float] | None:
        return Done(answer.sent_at) if answer.status == HTTPStatus.OK else None

    return Call(f"keep-alive of lease {lease}", build, read)


def revoke(lease: int, request_id: str) -> Call[int]:
    """The end of a lease and its keys; how many they were."""

    def read(answer: Answer) -> Done[int] | None:
        if answer.status not in OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireCommitted)
        return Done(int(found.deleted), found.revision)

    build = _builder("DELETE", f"/v1/leases/{lease}", request_id)
    return Call(f"revoke of lease {lease}", build, read, request_id)


def settle(request_id: str) -> Call[Settled]:
    """What has become of a write; if nothing has, nothing ever will."""
    path = "/v1/requests/" + checked_id(request_id)

    def build(seconds: float) -> Request:
        return Request("DELETE", target(path, {"timeout_ms": node_time_ms(seconds)}))

    def read(answer: Answer) -> Done[Settled] | None:
        if answer.status != HTTPStatus.OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireCommitted)
        settled = Settled(request_id, found.outcome == "committed", found.revision, found.index)
        return Done(settled, found.revision)

    return Call(f"settle {request_id}", build, read, request_id)


def _condition(if_revision: int | None) -> dict[str, str]:
    if if_revision is None:
        return {}
    return {"If-None-Match": "*"} if if_revision == 0 else {"If-Match": f'"{if_revision}"'}


def _replayed(answer: Answer) -> bool:
    return answer.headers.get("idempotent-replayed") == "true"


def _builder(
    method: str,
    path: str,
    request_id: str,
    query: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Callable[[float], Request]:
    all_headers = {**(headers or {}), "Idempotency-Key": checked_id(request_id)}

    def build(seconds: float) -> Request:
        return Request(
            method, target(path, {**(query or {}), "timeout_ms": node_time_ms(seconds)}), all_headers, body
        )

    return build
