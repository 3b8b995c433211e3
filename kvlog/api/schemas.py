"""JSON schemas (2020-12, as OpenAPI 3.1 has them) of what goes in and comes out, by name.

What a client sends is described as strictly as it is read. Answers may gain fields one day: theirs leave room.
"""

from __future__ import annotations

from typing import Any

from kvlog.api.parameters import NUMBER_MAX
from kvlog.api.problems import KINDS, TYPE
from kvlog.core.entry import KEY_BYTES_MAX, REASON_CHARACTERS_MAX
from kvlog.core.role import Role
from kvlog.core.values import Holding, Path

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """One of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def an_object(text: str, required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with these fields, and maybe others."""
    schema: Schema = {"type": "object", "description": text} if text else {"type": "object"}
    if required:
        schema["required"] = list(required)
    return schema | {"properties": {**required, **(optional or {})}}


def only(schema: Schema) -> Schema:
    """The same object, without any other field."""
    return schema | {"additionalProperties": False}


def a_list(of: Schema, text: str = "", **limits: int) -> Schema:
    """A list of things that are alike."""
    return {"type": "array", "items": of, **({"description": text} if text else {}), **limits}


def a_text(text: str = "") -> Schema:
    """A string."""
    return {"type": "string", "description": text} if text else {"type": "string"}


def one_of(*values: str) -> Schema:
    """One of some strings."""
    return {"type": "string", "enum": list(values)}


def a_count(text: str = "") -> Schema:
    """A whole number, not below 0."""
    schema: Schema = {"type": "integer", "minimum": 0, "maximum": NUMBER_MAX}
    return schema | {"description": text} if text else schema


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    if "$ref" in schema:
        return {"oneOf": [schema, {"type": "null"}]}
    return schema | {"type": [schema["type"], "null"]}


NUMBER: Schema = {"type": "integer"}
TRUE_OR_FALSE: Schema = {"type": "boolean"}
REVISION = a_count("a revision: the number of the committed request")
INDEX = a_count("an index of the log: the number of the entry")
MS = a_count("milliseconds")
CLOCK_MS = a_count("milliseconds since 1970, by the clock of the machine that says so")
STALENESS_MS = or_null(
    a_count("for how long this node may have missed something; null if it never was up to date")
)
KEY: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": KEY_BYTES_MAX,
    "pattern": "^[^\\u0000]",
    "description": f"1 to {KEY_BYTES_MAX} bytes of UTF-8, not beginning with U+0000",
}
LEADER = an_object("", {"node": a_text(), "address": a_text()})
REPLICAS: Schema = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "description": "what is known of the other members, by node: whether they have applied the write",
}
MARKS: dict[str, Schema] = {
    "stale": {"const": True, "description": "this node's store has missed entries"},
    "missed_entries": a_count("how many entries it has missed"),
    "halted_at": a_count("the entry that this node cannot apply: it stands at the one before"),
}
"""What bodies say of a node whose data is known to be old."""

VALUE: dict[str, Schema] = {"value": a_text("text; base64 where encoding says so")}
ENCODING: dict[str, Schema] = {"encoding": {"const": "base64", "description": "only where the value is no UTF-8"}}
NUMBERS: dict[str, Schema] = {
    "create_revision": a_count("the revision at which the key came to be"),
    "revision": a_count("the revision at which it was written last"),
    "version": a_count("how often it was written since it came to be"),
}
LEASE: dict[str, Schema] = {"lease": a_count("the lease that the key is attached to")}
CONTENT_TYPE: dict[str, Schema] = {"content_type": a_text("the media type of the value")}

_MEMBERS: dict[str, Schema] = {
    "revision": REVISION,
    "id": a_text("the request that was asked for"),
    "outcome": one_of("refused", "unknown"),
    "leader": LEADER,
    "floor": a_count("the lowest revision for which it can still be told"),
    "request": a_text("the id under which the write can be settled: DELETE /v1/requests/<id>"),
    "applied_index": INDEX,
}
"""The members that problems add, by name."""

_MAYBE = {"unknown": {"request"}}
"""Those that a problem need not have."""

_MORE = {"conflict": ("applied_index",), "no-such-request": tuple(MARKS)}
"""Those that it has on some routes only."""

PROBLEM = {
    "type": a_text("kvlog:<name>, or about:blank where the HTTP status says it all"),
    "title": a_text("what the type means"),
    "status": {"type": "integer", "minimum": 400, "maximum": 599},
    "detail": a_text("what happened, what it means, and what to do"),
}
"""The members of all problems (RFC 9457)."""


def problem_name(kind: str) -> str:
    """The schema of a type of problem: ConditionFailed for condition-failed."""
    return "".join(word.capitalize() for word in kind.split("-"))


def _problem(kind: str) -> Schema:
    status, title, members = KINDS[kind]
    known = _MEMBERS | MARKS | {"outcome": {"const": "unknown" if kind == "unknown" else "refused"}}
    maybe = _MAYBE.get(kind, set())
    fixed: dict[str, Schema] = {
        "type": {"const": TYPE + kind},
        "title": {"const": title},
        "status": {"const": status.value},
    }
    return an_object(
        title,
        {**PROBLEM, **fixed, **{name: known[name] for name in members if name not in maybe}},
        {name: known[name] for name in (*(name for name in members if name in maybe), *_MORE.get(kind, ()))},
    )


def committed(**more: Schema) -> Schema:
    """The answer to a write that is in the log."""
    return an_object(
        "the write is in the log",
        {
            "outcome": {"const": "committed"},
            **more,
            "revision": REVISION,
            "index": INDEX,
            "leader": a_text("the node that led"),
            "replicas": REPLICAS,
        },
    )


ARRIVED: dict[str, Schema] = {
    "path": one_of(*Path),
    "arrived_after_ms": NUMBER | {"description": "between the clocks of two machines: it may be negative"},
    "applied_after_ms": or_null(NUMBER | {"description": "null as long as it is not applied"}),
}

_EFFECT = {
    "oneOf": [
        an_object(
            "",
            {"op": {"const": "put"}, "key": a_text(), "value": a_text(), "create": REVISION, "version": a_count()},
            {**ENCODING, **CONTENT_TYPE, **LEASE},
        ),
        an_object("", {"op": {"const": "delete"}, "key": a_text()}),
    ]
}
_LOG_REQUEST = an_object(
    "one client's request: one revision",
    {},
    {
        "id": a_text("its Idempotency-Key"),
        "fingerprint": a_text("what tells another request with this id from a repetition"),
        "cancels": {"const": True, "description": "no request with this id will ever be committed"},
        "failed": one_of("condition", "lease"),
        "effects": a_list(_EFFECT),
    },
)

SCHEMAS: dict[str, Schema] = {
    "Problem": an_object("problem details (RFC 9457)", PROBLEM),
    **{problem_name(kind): _problem(kind) for kind in KINDS},
    "Item": an_object(
        "a key with its value", {"key": KEY, **VALUE, **CONTENT_TYPE, **NUMBERS}, {**ENCODING, **LEASE}
    ),
    "KeyOnly": an_object("a key without its value", {"key": KEY, **NUMBERS}, LEASE),
    "Page": an_object(
        "keys in the order of their UTF-8 bytes, as of one revision",
        {
            "revision": REVISION,
            "items": {
                "oneOf": [
                    a_list(ref("Item")),
                    a_list(ref("KeyOnly") | {"not": {"required": ["value"]}}, "with keys_only", minItems=1),
                ]
            },
        },
        {
            "next": KEY | {"description": "there is more: ask again with from=<next>&at=<revision>"},
            "count": a_count("how many keys have the prefix"),
        },
    ),
    "Put": committed(key=KEY),
    "Deleted": committed(key=KEY, deleted=TRUE_OR_FALSE | {"description": "whether the key was there"}),
    "CourseItem": an_object("", {"key": KEY, "value": a_text('the value, "" if there is no such key')}, MARKS),
    "Update": only(an_object("", {"key": KEY, "value": a_text("at most 262,144 bytes of UTF-8")})),
    "Updated": (updated := committed(key=KEY))
    | {
        "required": ["status", *updated["required"]],
        "properties": {"status": {"const": "updated"}, **updated["properties"]},
    },
    "Settled": an_object(
        "what has become of a request, for good",
        {"id": a_text(), "outcome": one_of("committed", "cancelled"), "revision": REVISION, "index": INDEX},
        MARKS,
    ),
    "Explanation": an_object(
        "what this node knows of a key, and what it does not",
        {
            "key": KEY,
            "summary": a_list(a_text(), "the same in sentences"),
            "present": TRUE_OR_FALSE,
            "revision": REVISION,
            "applied_index": INDEX,
            "tail_index": INDEX,
            "staleness_ms": STALENESS_MS,
            "missed_entries": a_count(),
            "leader": or_null(LEADER),
            "epoch": a_count(),
            "last_change": or_null(
                an_object(
                    "the last change that is applied here",
                    {"revision": REVISION, "path": one_of(*Path, "unknown")},
                    {"index": INDEX, **{name: ARRIVED[name] for name in ("arrived_after_ms", "applied_after_ms")}},
                )
            ),
            "not_applied": a_list(
                an_object(
                    "a committed change that this node has not applied",
                    {
                        "index": INDEX,
                        "revision": REVISION,
                        "op": one_of("put", "delete"),
                        "written_ms": CLOCK_MS,
                        "age_ms": MS,
                    },
                    {**VALUE, **ENCODING, "request": a_text("its Idempotency-Key")},
                )
            ),
            "entries_not_applied": a_list(an_object("both ends included", {"first": INDEX, "last": INDEX})),
            "looked_at": an_object("", {"entries": a_count(), "why_not_all": a_text()}),
        },
    ),
    "LogEntry": an_object(
        "an entry of the log as it is in ZooKeeper, and how it has come to this node",
        {"index": INDEX},
        {
            "format": a_count(),
            "epoch": a_count("the zxid at which its leader was elected"),
            "batch_id": a_text(),
            "prev_hash": a_text("the hash of the entry before"),
            "first_revision": REVISION,
            "time_ms": CLOCK_MS,
            "requests": a_list(_LOG_REQUEST),
            "leader": an_object("in the first entry of an epoch", {"node_id": a_text(), "address": a_text()}),
            "skip": an_object(
                "in the place of an entry that nobody can apply", {"reason": a_text(), "hash": a_text()}
            ),
            **ARRIVED,
            "error": a_text("why it cannot be read; then it has no other field but the index"),
        },
    ),
    "Log": an_object(
        "entries of the log, applied here or not",
        {
            "first_index": a_count("where the log begins"),
            "tail_index": a_count("the last entry that is known of"),
            "entries": a_list(ref("LogEntry")),
            "next": a_count("from of the next page"),
        },
    ),
    "Health": an_object("", {"status": {"const": "ok"}, "node": a_text()}),
    "Readiness": an_object("", {"ready": TRUE_OR_FALSE, "reason": a_text("why not")}),
    "Skip": only(
        an_object(
            "",
            {
                "index": a_count("the entry at which the nodes have halted"),
                "reason": {"type": "string", "minLength": 1, "maxLength": REASON_CHARACTERS_MAX},
            },
        )
    ),
    "Done": an_object("", {"status": {"const": "done"}, "result": a_text()}),
    "Running": an_object("", {"status": {"const": "running"}, "result": a_text()}),
    "Status": an_object(
        "what a node says of itself",
        {
            "node": a_text(),
            "address": a_text(),
            "instance": a_text("the process: another one after each start"),
            "version": a_text(),
            "role": one_of(*Role),
            "is_leader": TRUE_OR_FALSE,
            "leader": or_null(LEADER),
            "epoch": a_count(),
            "revision": REVISION,
            "applied_index": INDEX,
            "tail_index": INDEX,
            "staleness_ms": STALENESS_MS,
            "stale": TRUE_OR_FALSE,
            "missed_entries": a_count(),
            "missed": a_list(an_object("both ends included", {"first": INDEX, "last": INDEX})),
            "halted_at": or_null(INDEX),
            "skipped": a_list(INDEX),
            "digest": a_text("equal digests at equal indices mean equal data"),
            "log_hash": a_text(),
            "cluster_id": or_null(a_text()),
            "zookeeper": one_of("connected", "disconnected"),
            "ready": TRUE_OR_FALSE,
            "reason": a_text("why it is not ready"),
            "recovery": an_object("how the node caught up, or how far it is", {}),
            "log": an_object(
                "", {"first_index": INDEX, "held_by_majority": INDEX, "memory_bytes": a_count("ZooKeeper's")}
            ),
            "history": an_object("", {"first_revision": REVISION, "revisions": a_count()}),
            "last_entry": or_null(
                an_object(
                    "how the last entry has come here",
                    {
                        "index": INDEX,
                        "revision": REVISION,
                        "path": one_of(*Path),
                        "written_ms": CLOCK_MS,
                        "came_ms": CLOCK_MS,
                        "applied_ms": or_null(CLOCK_MS),
                    },
                )
            ),
            "leases": a_count("how many leases this node keeps the time of"),
            "replicas": a_list(
                an_object(
                    "a node that the cluster counts on",
                    {
                        "node": a_text(),
                        "address": a_text(),
                        "durable_index": INDEX,
                        "holding": one_of(*Holding),
                        "up": TRUE_OR_FALSE,
                    },
                )
            ),
            "members": a_list(
                an_object(
                    "a node that is up",
                    {
                        "node": a_text(),
                        "address": a_text(),
                        "mode": one_of("catchup", "stale"),
                        "leader": TRUE_OR_FALSE,
                    },
                    {"push": a_text("what the leader knows of its pushes to it")},
                )
            ),
        },
    ),
}
"""All that have a name."""
