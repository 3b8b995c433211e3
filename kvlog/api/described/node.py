"""Schemas of what a node says of itself, of the log, and of what it has not applied, by name."""

from __future__ import annotations

from kvlog.api.described.shapes import (
    CLOCK_MS,
    CONTENT_TYPE,
    ENCODING,
    INDEX,
    KEY,
    LEADER,
    LEASE,
    REVISION,
    VALUE,
    Schema,
    a_count,
    a_list,
    a_text,
    an_object,
    either,
    just,
    one_of,
    or_null,
    ref,
    true_or_false,
)
from kvlog.core.commands import Failure
from kvlog.core.role import Role
from kvlog.core.values import Holding, Path

_STALENESS_MS = or_null(
    a_count("for how long this node may have missed something; null if it never was up to date")
)
_NUMBER: Schema = {"type": "integer", "description": "between the clocks of two machines: it may be negative"}
_LATE: dict[str, Schema] = {"arrived_after_ms": _NUMBER, "applied_after_ms": or_null(_NUMBER)}
_RANGE = an_object({"first": INDEX, "last": INDEX}, text="both ends included")

_EXPLANATION: dict[str, Schema] = {
    "key": KEY,
    "summary": a_list(a_text(), "all of it in sentences"),
    "present": true_or_false(),
    "revision": REVISION,
    "applied_index": INDEX,
    "tail_index": INDEX,
    "staleness_ms": _STALENESS_MS,
    "missed_entries": a_count(),
    "leader": or_null(LEADER),
    "epoch": a_count(),
    "last_change": or_null(
        an_object(
            {"revision": REVISION, "path": one_of(*Path, "unknown")},
            {"index": INDEX, **_LATE},
            "the last change that is applied here, and how it has come",
        )
    ),
    "not_applied": a_list(
        an_object(
            {
                "index": INDEX,
                "revision": REVISION,
                "op": one_of("put", "delete"),
                "written_ms": CLOCK_MS,
                "age_ms": a_count(),
            },
            {**VALUE, **ENCODING, "request": a_text("its Idempotency-Key")},
            "a committed change of the key that this node has not applied",
        )
    ),
    "entries_not_applied": a_list(_RANGE),
    "looked_at": an_object({"entries": a_count(), "why_not_all": a_text()}),
}

_EFFECT = either(
    an_object(
        {"op": just("put"), "key": a_text(), "value": a_text(), "create": REVISION, "version": a_count()},
        {**ENCODING, **CONTENT_TYPE, **LEASE},
    ),
    an_object({"op": just("delete"), "key": a_text()}),
)
_ENTRY: dict[str, Schema] = {
    "format": a_count(),
    "epoch": a_count("the zxid at which its leader was elected"),
    "batch_id": a_text(),
    "prev_hash": a_text("the hash of the entry before"),
    "first_revision": REVISION,
    "time_ms": CLOCK_MS,
    "requests": a_list(
        an_object(
            {},
            {
                "id": a_text("its Idempotency-Key"),
                "fingerprint": a_text("what tells another request with this id from a repetition"),
                "cancels": {"const": True, "description": "no request with this id will ever be committed"},
                "failed": one_of(*Failure),
                "effects": a_list(_EFFECT),
            },
            "one client's request: one revision",
        )
    ),
    "leader": an_object({"node_id": a_text(), "address": a_text()}, text="in the first entry of an epoch"),
    "skip": an_object(
        {"reason": a_text(), "hash": a_text()}, text="in the place of an entry that nobody can apply"
    ),
    "path": one_of(*Path),
    **_LATE,
    "error": a_text("why the entry cannot be read; nothing else is said of it then"),
}

_STATUS: dict[str, Schema] = {
    "node": a_text(),
    "address": a_text(),
    "instance": a_text("the process: another one after each start"),
    "version": a_text(),
    "role": one_of(*Role),
    "is_leader": true_or_false(),
    "leader": or_null(LEADER),
    "epoch": a_count(),
    "revision": REVISION,
    "applied_index": INDEX,
    "tail_index": INDEX,
    "staleness_ms": _STALENESS_MS,
    "stale": true_or_false(),
    "missed_entries": a_count(),
    "missed": a_list(_RANGE),
    "halted_at": or_null(INDEX),
    "skipped": a_list(INDEX),
    "digest": a_text("equal digests at equal indices mean equal data"),
    "log_hash": a_text(),
    "cluster_id": or_null(a_text()),
    "zookeeper": one_of("connected", "disconnected"),
    "ready": true_or_false(),
    "reason": a_text("why it is not ready"),
    "recovery": an_object({}, text="how the node has caught up, or how far it is"),
    "log": an_object(
        {
            "first_index": INDEX,
            "held_by_majority": INDEX,
            "memory_bytes": a_count("about what it takes of ZooKeeper"),
        }
    ),
    "history": an_object({"first_revision": REVISION, "revisions": a_count("how many are kept at most")}),
    "last_entry": or_null(
        an_object(
            {
                "index": INDEX,
                "revision": REVISION,
                "path": one_of(*Path),
                "written_ms": CLOCK_MS,
                "came_ms": CLOCK_MS,
                "applied_ms": or_null(CLOCK_MS),
            },
            text="how the last entry has come here",
        )
    ),
    "leases": a_count("how many leases this node keeps the time of"),
    "replicas": a_list(
        an_object(
            {
                "node": a_text(),
                "address": a_text(),
                "durable_index": INDEX,
                "holding": one_of(*Holding),
                "up": true_or_false(),
            }
        ),
        "the nodes that the cluster counts on",
    ),
    "members": a_list(
        an_object(
            {"node": a_text(), "address": a_text(), "mode": one_of("catchup", "stale"), "leader": true_or_false()},
            {"push": a_text("what the leader knows of its pushes to it")},
        ),
        "the nodes that are up",
    ),
}

SCHEMAS: dict[str, Schema] = {
    "Explanation": an_object(_EXPLANATION, text="what this node knows of a key, and what it does not"),
    "LogEntry": an_object(
        {"index": INDEX}, _ENTRY, "an entry of the log as it is in ZooKeeper, and how it has come to this node"
    ),
    "Log": an_object(
        {
            "first_index": a_count("where the log begins"),
            "tail_index": a_count("the last entry that is known of"),
            "entries": a_list(ref("LogEntry")),
            "next": a_count("from of the next page"),
        }
    ),
    "Status": an_object(_STATUS, text="what a node says of itself"),
    "Health": an_object({"status": just("ok"), "node": a_text()}),
    "Readiness": an_object({"ready": true_or_false(), "reason": a_text("why not")}),
    "Done": an_object({"status": just("done"), "result": a_text()}),
    "Running": an_object({"status": just("running"), "result": a_text()}),
}
"""All of them."""
