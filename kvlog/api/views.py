"""The words in which the API says what the node knows."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from kvlog import __version__
from kvlog.config import Settings
from kvlog.core.commands import Command, SetKey, Txn
from kvlog.core.entry import OWN_ID, encode_value
from kvlog.core.machine import Record, Remembered
from kvlog.core.role import Role
from kvlog.core.status import Status
from kvlog.core.values import (
    Answer,
    Clash,
    Committed,
    Done,
    Refused,
    Rejected,
    Settled,
    Unknown,
)
from kvlog.service.copies import NoSnapshot
from kvlog.service.reads import Read
from kvlog.service.writes import Written

REPLAYED_HEADER = "Idempotent-Replayed"
"""In an answer that repeats the first one to a request with the same Idempotency-Key."""

View = tuple[dict[str, Any], int, dict[str, str]]
"""A JSON body, an HTTP status, and headers."""


def read(key: str, record: Record | None, at: Read) -> View:
    """A read's answer; the value of a key that is not there is ""."""
    return (
        {"key": key, "value": encode_value(record.value)[0] if record else "", **_marks(at)},
        HTTPStatus.OK,
        _age(at),
    )


def remembered(request_id: str, outcome: Remembered | None, window: int, at: Read) -> View:
    """GET /v1/requests/<id>."""
    if outcome is None:
        reason = (
            f"this node, which stands at revision {at.revision}, does not know the request {request_id}; it "
            f"remembers those of the last {window} revisions; DELETE /v1/requests/{request_id} finds out for good"
        )
        return {"id": request_id, "error": reason, **_marks(at)}, HTTPStatus.NOT_FOUND, _age(at)
    settled = Settled(outcome.cancelled, outcome.revision, outcome.index)
    return {**_settled(request_id, settled), **_marks(at)}, HTTPStatus.OK, _age(at)


def _marks(at: Read) -> dict[str, Any]:
    """What a body says of a node whose data is known to be old."""
    marks: dict[str, Any] = {"stale": True, "missed_entries": at.missed_entries} if at.missed_entries else {}
    return marks | ({"halted_at": at.halted_at} if at.halted_at is not None else {})


def _age(at: Read) -> dict[str, str]:
    return {
        "Kvlog-Revision": str(at.revision),
        "Kvlog-Applied-Index": str(at.applied_index),
        "Kvlog-Tail-Index": str(at.tail_index),
        "Kvlog-Staleness-Ms": "unknown" if at.staleness_ms is None else str(at.staleness_ms),
    }


def _settled(request_id: str, settled: Settled) -> dict[str, Any]:
    outcome = "cancelled" if settled.cancelled else "committed"
    return {"id": request_id, "outcome": outcome, "revision": settled.revision, "index": settled.index}


def outcome(command: Command, written: Written) -> View:
    """A write's answer: committed, refused or unknown; what a request to settle has found."""
    result, request_id = written.outcome, written.request_id
    key = command.then[0].key if isinstance(command, Txn) and isinstance(command.then[0], SetKey) else ""
    match result:
        case Committed():
            body: dict[str, Any] = {
                "status": "updated",
                "outcome": "committed",
                **({"key": key} if key else {}),
                "revision": result.revision,
                "index": result.index,
                "leader": written.leader,
                "replicas": result.replicas,
            }
            repeated = result.repeated and not request_id.startswith(OWN_ID)
            return body, HTTPStatus.OK, {REPLAYED_HEADER: "true"} if repeated else {}
        case Settled():
            return _settled(request_id, result), HTTPStatus.OK, {}
        case Rejected():
            status = HTTPStatus.CONFLICT if result.clash is Clash.CANCELLED else HTTPStatus.UNPROCESSABLE_ENTITY
            what = f"this write did not happen: {result.reason}; give it an Idempotency-Key of its own"
            return {"status": "refused", "outcome": "refused", "error": what}, status, {}
        case Refused():
            what, again = "the write did not happen", "it is safe to try again"
            if request_id and not request_id.startswith(OWN_ID):
                what, again = "this try did nothing", "try again with the same Idempotency-Key"
            body = {"status": "refused", "outcome": "refused", "error": f"{what}: {result.reason}; {again}"}
            headers = {"Retry-After": "1"}
            return body, HTTPStatus.SERVICE_UNAVAILABLE, headers
        case Unknown():
            find_out = "read the key to find out"
            if request_id:
                find_out = f"DELETE /v1/requests/{request_id} finds out, and sees to it that it stays so"
            body = {
                "status": "unknown",
                "outcome": "unknown",
                **({"request": request_id} if request_id else {}),
                "error": f"it is not known whether the write happened: {result.reason}; {find_out}",
            }
            return body, HTTPStatus.GATEWAY_TIMEOUT, {}


def done(answer: Answer) -> View:
    """An operator's request: done, refused, or still under way."""
    if isinstance(answer, Done):
        return {"status": "done", "result": answer.text}, HTTPStatus.OK, {}
    if isinstance(answer, Refused):
        return {"status": "refused", "error": answer.reason}, HTTPStatus.CONFLICT, {}
    running = "not done yet; GET /v1/status shows how far it has come"
    return {"status": "running", "result": running}, HTTPStatus.ACCEPTED, {}


def no_snapshot(result: NoSnapshot) -> View:
    """Why this node sends no copy of its store, and where it stands."""
    body = {"error": result.reason, "applied_index": result.applied_index}
    return body, HTTPStatus.CONFLICT, {}


def status(settings: Settings, instance: str, found: Status) -> dict[str, Any]:
    """GET /v1/status."""
    position = found.position
    return {
        "node": settings.node_id,
        "address": settings.advertise,
        "instance": instance,
        "version": __version__,
        "role": found.role.value,
        "is_leader": found.role is Role.LEADER,
        "leader": {"node": found.leader.node_id, "address": found.leader.address} if found.leader else None,
        "epoch": found.epoch,
        "revision": position.revision,
        "applied_index": position.applied_index,
        "tail_index": found.tail_index,
        "staleness_ms": found.staleness_ms,
        "stale": bool(position.gaps),
        "missed_entries": position.missed_entries,
        "missed": [{"first": gap.first, "last": gap.last} for gap in position.gaps],
        "halted_at": found.halted_at,
        "skipped": list(position.skipped),
        "digest": position.digest,
        "log_hash": position.hash,
        "cluster_id": position.identity.cluster_id if position.identity else None,
        "zookeeper": "connected" if found.connected else "disconnected",
        "ready": not found.not_ready,
        "reason": found.not_ready,
        "recovery": found.recovery,
        "log": {
            "first_index": found.first_index,
            "held_by_majority": found.held_index,
            "memory_bytes": found.log_weight,
        },
        "replicas": [
            {
                "node": replica.node_id,
                "address": replica.address,
                "durable_index": replica.durable_index,
                "holding": replica.holding.value,
                "up": any(member.node_id == replica.node_id for member in found.members),
            }
            for replica in found.registered
        ],
        "members": [
            {
                "node": member.node_id,
                "address": member.address,
                "mode": member.mode,
                "leader": found.leader is not None and member.node_id == found.leader.node_id,
                **({"push": found.replicas[member.node_id]} if member.node_id in found.replicas else {}),
            }
            for member in found.members
        ],
    }
