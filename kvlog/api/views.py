"""The words in which the API says what the node knows."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from kvlog import __version__
from kvlog.config import Settings
from kvlog.core.role import Role
from kvlog.core.status import Status
from kvlog.core.values import Committed, Refused, Unknown
from kvlog.service import RETRY_HEADER, NoSnapshot, Read

View = tuple[dict[str, Any], int, dict[str, str]]
"""A JSON body, an HTTP status, and headers."""


def read(key: str, result: Read) -> View:
    """A read's answer; the value of a key that is not there is ""."""
    body: dict[str, Any] = {"key": key, "value": result.record.value if result.record else ""}
    if result.missed_entries:
        body |= {"stale": True, "missed_entries": result.missed_entries}
    headers = {
        "Kvlog-Revision": str(result.revision),
        "Kvlog-Applied-Index": str(result.applied_index),
        "Kvlog-Tail-Index": str(result.tail_index),
        "Kvlog-Staleness-Ms": "unknown" if result.staleness_ms is None else str(result.staleness_ms),
    }
    return body, HTTPStatus.OK, headers


def outcome(key: str, result: Committed | Refused | Unknown, *, node_id: str) -> View:
    """A write's answer: committed, refused or unknown."""
    match result:
        case Committed():
            body = {
                "status": "updated",
                "outcome": "committed",
                "key": key,
                "revision": result.revision,
                "index": result.index,
                "leader": node_id,
                "replicas": result.replicas,
            }
            return body, HTTPStatus.OK, {}
        case Refused():
            body = {
                "status": "refused",
                "outcome": "refused",
                "error": f"the write did not happen: {result.reason}; it is safe to try again",
            }
            headers = {"Retry-After": "1"} | ({RETRY_HEADER: "1"} if result.retry else {})
            return body, HTTPStatus.SERVICE_UNAVAILABLE, headers
        case Unknown():
            body = {
                "status": "unknown",
                "outcome": "unknown",
                "error": f"it is not known whether the write happened: {result.reason}; read the key to find out",
            }
            return body, HTTPStatus.GATEWAY_TIMEOUT, {}


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
        "digest": position.digest,
        "log_hash": position.hash,
        "cluster_id": position.identity.cluster_id if position.identity else None,
        "zookeeper": "connected" if found.connected else "disconnected",
        "ready": not found.not_ready,
        "reason": found.not_ready,
        "recovery": found.recovery,
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
