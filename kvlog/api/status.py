"""What a node says of itself, what it remembers of requests, and the copy of its store."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Flask, Response

from kvlog import __version__
from kvlog.api import incoming
from kvlog.api.answers import View, respond
from kvlog.api.ids import any_request_id
from kvlog.api.outcomes import not_committed, settled
from kvlog.api.parameters import WRITE, a_number, parameters
from kvlog.api.problems import problem
from kvlog.api.reading import age, marks
from kvlog.api.writing import write
from kvlog.config import Settings
from kvlog.core.commands import Settle
from kvlog.core.machine import Remembered
from kvlog.core.role import Role
from kvlog.core.status import Status
from kvlog.core.values import Arrival, Settled
from kvlog.errors import InvalidInput
from kvlog.service.copies import NoSnapshot
from kvlog.service.reads import Read
from kvlog.service.service import Service
from kvlog.snapshot import MEDIA_TYPE

SETTLE = WRITE
SNAPSHOT = (a_number("min_index", "the index of the log that the copy has to reach"),)


def add_routes(app: Flask, service: Service) -> None:
    """Status, health, requests, snapshot."""

    @app.get("/v1/status")
    def status() -> Response:
        parameters(incoming.query())
        return respond(View(status_view(service.settings, service.instance, service.status())))

    @app.get("/healthz")
    def healthz() -> Response:
        """Whether the process answers; its instance shows other nodes that it is still the same one."""
        parameters(incoming.query())
        return respond(View({"status": "ok", "node": service.settings.node_id}))

    @app.get("/readyz")
    def readyz() -> Response:
        parameters(incoming.query())
        reason = service.status().not_ready
        code = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
        return respond(View({"ready": not reason, "reason": reason}, code))

    @app.get("/v1/requests/<request_id>")
    def remembered(request_id: str) -> Response:
        parameters(incoming.query())
        request_id = any_request_id(request_id)
        return respond(_remembered(request_id, *service.reads.request(request_id)))

    @app.delete("/v1/requests/<request_id>")
    def settle(request_id: str) -> Response:
        given = parameters(incoming.query(), SETTLE)
        request_id = any_request_id(request_id)
        if incoming.body():
            raise InvalidInput("DELETE /v1/requests/<id> takes no body: its path says it all")
        return respond(not_committed(write(service, Settle(), given, request_id)))

    @app.get("/v1/snapshot")
    def snapshot() -> Response:
        given = parameters(incoming.query(), SNAPSHOT)
        result = service.copies.snapshot(given["min_index"] or 0)
        if isinstance(result, NoSnapshot):
            return respond(problem("conflict", result.reason, applied_index=result.applied_index))
        return Response(result, mimetype=MEDIA_TYPE, direct_passthrough=True)


def _remembered(request_id: str, outcome: Remembered | None, window: int, at: Read) -> View:
    """GET /v1/requests/<id>."""
    if outcome is None:
        what = (
            f"this node, which stands at revision {at.revision}, does not know the request {request_id}; it "
            f"remembers those of the last {window} revisions; DELETE /v1/requests/{request_id} finds out for good"
        )
        return problem("no-such-request", what, age(at), id=request_id, revision=at.revision, **marks(at))
    found = Settled(outcome.cancelled, outcome.revision, outcome.index)
    return View({**settled(request_id, found), **marks(at)}, headers=age(at))


def status_view(settings: Settings, instance: str, found: Status) -> dict[str, Any]:
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
        "history": {"first_revision": position.history, "revisions": settings.history},
        "last_entry": _last_entry(found.last_arrival),
        "leases": found.leases,
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


def _last_entry(arrival: Arrival | None) -> dict[str, Any] | None:
    """How the last entry has come to this node, None if none has since its process started."""
    if arrival is None:
        return None
    return {
        "index": arrival.index,
        "revision": arrival.last_revision,
        "path": arrival.path.value,
        "written_ms": arrival.written_ms,
        "came_ms": arrival.came_ms,
        "applied_ms": arrival.applied_ms,
    }
