"""What can be asked of a node about itself, and by operators; the routes of the course assignment."""

from __future__ import annotations

from kvlog.api import course, explain, status
from kvlog.api.answers import JSON
from kvlog.api.described.operation import (
    AGE,
    BODY,
    BYTES,
    ID,
    ID_PATTERN,
    NAMED,
    NO_DOTS,
    READING,
    WRITING,
    WRITTEN,
    Answer,
    Given,
    Operation,
    json_of,
)
from kvlog.core.entry import OWN_ID
from kvlog.snapshot import MEDIA_TYPE as SNAPSHOT

_REQUEST = Given(
    "id",
    "the Idempotency-Key, or the id that an answer names",
    {"type": "string", "pattern": f"^{NO_DOTS}{OWN_ID}?{ID_PATTERN}$"},
)
_NODE = Given("id", "the node's id, as GET /v1/status has it", {"type": "string", "pattern": "^[^/]+$"})

_REQUESTS = (
    Operation(
        "getRequest",
        "get",
        "/v1/requests/{id}",
        "requests",
        "What this node remembers of a write",
        (Answer(200, "it was committed or cancelled", json_of("Settled"), AGE),),
        in_path=(_REQUEST,),
        problems=("no-such-request",),
    ),
    Operation(
        "settleRequest",
        "delete",
        "/v1/requests/{id}",
        "requests",
        "Settle a write whose outcome is not known: committed, or cancelled for good",
        (Answer(200, "it was committed, or can never happen any more", json_of("Settled")),),
        query=status.SETTLE,
        in_path=(_REQUEST,),
        problems=WRITING,
    ),
)

_LOOKING = (
    Operation(
        "explain",
        "get",
        "/v1/explain",
        "log",
        "Why a read of a key is here as it is",
        (Answer(200, "what this node knows of the key, and what it does not", json_of("Explanation")),),
        query=explain.EXPLAIN,
    ),
    Operation(
        "getLog",
        "get",
        "/v1/log",
        "log",
        "Entries of the log as they are in ZooKeeper",
        (Answer(200, "those that there are", json_of("Log")),),
        query=explain.LOG,
        problems=("log-trimmed",),
    ),
    Operation(
        "getStatus",
        "get",
        "/v1/status",
        "node",
        "What this node says of itself",
        (Answer(200, "its role, its place in the log, its members", json_of("Status")),),
    ),
    Operation(
        "getHealth",
        "get",
        "/healthz",
        "node",
        "Whether the process answers",
        (Answer(200, "it does", json_of("Health")),),
    ),
    Operation(
        "getReadiness",
        "get",
        "/readyz",
        "node",
        "Whether this replica is up to date, so that clients should be sent here",
        (Answer(200, "it is", json_of("Readiness")), Answer(503, "it is not", json_of("Readiness"))),
    ),
    Operation(
        "getSnapshot",
        "get",
        "/v1/snapshot",
        "node",
        "A consistent copy of the store, while it is written",
        (Answer(200, "the copy, with a checksum at its end", {SNAPSHOT: BYTES}),),
        query=status.SNAPSHOT,
        problems=("conflict",),
    ),
    Operation(
        "getDescription",
        "get",
        "/v1/openapi.json",
        "node",
        "This description",
        (Answer(200, "an OpenAPI document", {JSON: {"type": "object"}}),),
    ),
)

_DONE = (
    Answer(200, "it is done", json_of("Done")),
    Answer(202, "it is not done yet; GET /v1/status shows how far it has come", json_of("Running")),
)

_ADMIN = (
    Operation(
        "catchUp",
        "post",
        "/v1/admin/catchup",
        "operators",
        "Fill in what a stale store has missed",
        _DONE,
        problems=("conflict", *BODY),
    ),
    Operation(
        "transfer",
        "post",
        "/v1/admin/transfer",
        "operators",
        "Let another node lead",
        _DONE,
        problems=("not-leader", "refused", *BODY),
    ),
    Operation(
        "removeReplica",
        "post",
        "/v1/admin/replicas/{id}/remove",
        "operators",
        "Do not count on a node any more that is gone for good",
        _DONE,
        in_path=(_NODE,),
        problems=("conflict", *BODY),
    ),
    Operation(
        "skipEntry",
        "post",
        "/v1/admin/log/skip",
        "operators",
        "Go past an entry that nobody can apply; better with kvlog log skip, which asks all nodes first",
        _DONE,
        body=json_of("Skip"),
        problems=("conflict", *BODY),
    ),
)

_COURSE = (
    Operation(
        "read",
        "get",
        "/read",
        "course",
        "A key's value as text",
        (Answer(200, 'the value; "" if there is no such key', json_of("CourseItem"), AGE),),
        query=course.READ_KEY,
        problems=READING,
    ),
    Operation(
        "update",
        "post",
        "/update",
        "course",
        "Put a text",
        (Answer(200, "the key has the value", json_of("Updated"), WRITTEN),),
        query=course.UPDATE,
        headers=(ID,),
        body=json_of("Update"),
        problems=(*NAMED, *WRITING),
    ),
)

OPERATIONS = (*_REQUESTS, *_LOOKING, *_ADMIN, *_COURSE)
"""Those of operators, of whoever is curious, and of the course."""
