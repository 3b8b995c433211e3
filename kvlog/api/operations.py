"""What can be asked of a node: each route with all that goes in and comes out, for its description in openapi."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kvlog.api import course, explain, keys, status
from kvlog.api.answers import JSON
from kvlog.api.ids import CHARACTERS
from kvlog.api.outcomes import REPLAYED
from kvlog.api.parameters import Parameter
from kvlog.api.reading import READ
from kvlog.api.schemas import KEY, Schema, ref
from kvlog.api.writing import IDEMPOTENCY_KEY
from kvlog.core.entry import CONTENT_TYPE_MAX, OWN_ID, REQUEST_ID_BYTES_MAX, VALUE_BYTES_MAX
from kvlog.snapshot import MEDIA_TYPE as SNAPSHOT

ANYTHING = "*/*"

BYTES: Schema = {}
"""Bytes that are no JSON (OpenAPI 3.1, 4.8.14.3)."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a request has in its path or its headers."""

    name: str
    text: str
    schema: Schema


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request can be answered where nothing is wrong; ``headers`` are names of HEADERS in openapi."""

    status: int
    text: str
    content: dict[str, Schema] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """A route with one method.

    ``problems`` are types of problems; those which every route has are left out here. ``blank`` are HTTP statuses
    of problems that have no type.
    """

    name: str
    method: str
    path: str
    tag: str
    text: str
    answers: tuple[Answer, ...]
    query: tuple[Parameter, ...] = ()
    in_path: tuple[Given, ...] = ()
    headers: tuple[Given, ...] = ()
    body: dict[str, Schema] = field(default_factory=dict)
    body_text: str = ""
    problems: tuple[str, ...] = ()
    blank: tuple[int, ...] = ()


EVERYWHERE = ("bad-request", "internal-error", "unavailable")
"""What any route can answer: the last one also because a node has more to do than it can."""

READING = ("too-stale", "stale-store", "behind", "history-trimmed")
"""What reads with parameters can answer."""

WRITING = ("cancelled", "id-reused", "too-large", "unsupported-media-type", "refused", "unknown")
"""What writes can answer."""

BODY = ("too-large", "unsupported-media-type")
"""What is wrong with a body before it is read."""

AGE = ("Kvlog-Revision", "Kvlog-Applied-Index", "Kvlog-Tail-Index", "Kvlog-Staleness-Ms", "Kvlog-Read")

_ID_PATTERN = rf"[{CHARACTERS}]{{1,{REQUEST_ID_BYTES_MAX}}}"
_NO_DOTS = r"(?!\.\.?$)"  # they mean a step within a path
_TAG = r'"[!#-~]*"'
_TAGS = rf"^(\*|{_TAG}( *, *{_TAG})*)$"
_WEAK_TAGS = rf"^(\*|(W/)?{_TAG}( *, *(W/)?{_TAG})*)$"

_KEY = Given("key", "the key, percent-encoded; / may stand as it is or as %2F", KEY)
_REQUEST = Given(
    "id",
    "the Idempotency-Key, or the id that an answer names",
    {"type": "string", "pattern": f"^{_NO_DOTS}{OWN_ID}?{_ID_PATTERN}$"},
)
_NODE = Given("id", "the node's id, as GET /v1/status has it", {"type": "string", "pattern": "^[^/]+$"})

_ID = Given(
    IDEMPOTENCY_KEY,
    "names the write, so that it can be sent again: it is done once, and every repetition gets the first answer",
    {"type": "string", "pattern": f"^{_NO_DOTS}{_ID_PATTERN}$"},
)
_IF_MATCH = Given(
    "If-Match",
    'only if the key is there (*), or was written last at one of these revisions ("7", "8")',
    {"type": "string", "pattern": _TAGS},
)
_IF_NONE_MATCH = Given(
    "If-None-Match",
    'only if the key is not there (*), or was written last at none of these revisions ("7", "8")',
    {"type": "string", "pattern": _WEAK_TAGS},
)
_ACCEPT = Given(
    "Accept",
    "application/json, if the key is wanted as an item: it has to be preferred to the value's own type",
    {},
)

_WRITE_HEADERS = (REPLAYED,)


def _json(name: str) -> dict[str, Schema]:
    """A body that is one of schemas.SCHEMAS."""
    return {JSON: ref(name)}


_GET_KEY = Operation(
    "getKey",
    "get",
    "/v1/kv/{key}",
    "keys",
    "The value of a key as it was put, or the key as a JSON item",
    (
        Answer(
            200,
            "the value, with the Content-Type that it was put with; or the item, where that is preferred",
            {JSON: ref("Item"), ANYTHING: BYTES},
            ("ETag", "Vary", "Kvlog-Create-Revision", "Kvlog-Version", "Kvlog-Lease", *AGE),
        ),
        Answer(304, "the client has it already: If-None-Match names it", {}, ("ETag", "Vary", *AGE)),
    ),
    query=READ,
    in_path=(_KEY,),
    headers=(_ACCEPT, _IF_MATCH, _IF_NONE_MATCH),
    problems=("not-found", "condition-failed", *READING),
)

_KEYS = (
    _GET_KEY,
    replace(
        _GET_KEY,
        name="headKey",
        method="head",
        text="What getKey says of a key, without its value",
        answers=tuple(replace(answer, content={}) for answer in _GET_KEY.answers),
    ),
    Operation(
        "putKey",
        "put",
        "/v1/kv/{key}",
        "keys",
        "Put a value",
        (
            Answer(201, "the key is new", _json("Put"), ("ETag", "Kvlog-Revision", *_WRITE_HEADERS)),
            Answer(200, "the key has a new value", _json("Put"), ("ETag", "Kvlog-Revision", *_WRITE_HEADERS)),
        ),
        query=keys.PUT,
        in_path=(_KEY,),
        headers=(_ID, _IF_MATCH, _IF_NONE_MATCH),
        body={ANYTHING: BYTES},
        body_text=f"the value, at most {VALUE_BYTES_MAX} bytes; its Content-Type is kept, of at most "
        f"{CONTENT_TYPE_MAX} characters",
        problems=("no-such-lease", "condition-failed", *WRITING),
    ),
    Operation(
        "deleteKey",
        "delete",
        "/v1/kv/{key}",
        "keys",
        "Delete a key",
        (Answer(200, "the key is not there any more", _json("Deleted"), ("Kvlog-Revision", *_WRITE_HEADERS)),),
        query=keys.DELETE,
        in_path=(_KEY,),
        headers=(_ID, _IF_MATCH, _IF_NONE_MATCH),
        problems=("condition-failed", *WRITING),
    ),
    Operation(
        "listKeys",
        "get",
        "/v1/kv",
        "keys",
        "Keys in order, page by page; all pages of one revision",
        (Answer(200, "a page", _json("Page"), AGE),),
        query=keys.LIST,
        problems=READING,
    ),
)

_COURSE = (
    Operation(
        "read",
        "get",
        "/read",
        "course",
        "A key's value as text",
        (Answer(200, 'the value; "" if there is no such key', _json("CourseItem"), AGE),),
        query=course.READ_KEY,
        problems=READING,
    ),
    Operation(
        "update",
        "post",
        "/update",
        "course",
        "Put a text",
        (Answer(200, "the key has the value", _json("Updated"), _WRITE_HEADERS),),
        query=course.UPDATE,
        headers=(_ID,),
        body=_json("Update"),
        problems=WRITING,
    ),
)

_REQUESTS = (
    Operation(
        "getRequest",
        "get",
        "/v1/requests/{id}",
        "requests",
        "What this node remembers of a write",
        (Answer(200, "it was committed or cancelled", _json("Settled"), AGE),),
        in_path=(_REQUEST,),
        problems=("no-such-request",),
    ),
    Operation(
        "settleRequest",
        "delete",
        "/v1/requests/{id}",
        "requests",
        "Settle a write whose outcome is not known: committed, or cancelled for good",
        (Answer(200, "it was committed, or can never happen any more", _json("Settled")),),
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
        (Answer(200, "what this node knows of the key, and what it does not", _json("Explanation")),),
        query=explain.EXPLAIN,
    ),
    Operation(
        "getLog",
        "get",
        "/v1/log",
        "log",
        "Entries of the log as they are in ZooKeeper",
        (Answer(200, "the entries that there are", _json("Log")),),
        query=explain.LOG,
        blank=(410,),
    ),
    Operation(
        "getStatus",
        "get",
        "/v1/status",
        "node",
        "What this node says of itself",
        (Answer(200, "its role, its place in the log, its members", _json("Status")),),
    ),
    Operation(
        "getHealth",
        "get",
        "/healthz",
        "node",
        "Whether the process answers",
        (Answer(200, "it does", _json("Health")),),
    ),
    Operation(
        "getReadiness",
        "get",
        "/readyz",
        "node",
        "Whether this replica is up to date, so that clients should be sent here",
        (Answer(200, "it is", _json("Readiness")), Answer(503, "it is not", _json("Readiness"))),
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
    Answer(200, "it is done", _json("Done")),
    Answer(202, "it is not done yet; GET /v1/status shows how far it has come", _json("Running")),
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
        problems=("conflict", "not-leader", "refused", *BODY),
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
        body=_json("Skip"),
        problems=("conflict", *BODY),
    ),
)

OPERATIONS = (*_KEYS, *_REQUESTS, *_LOOKING, *_ADMIN, *_COURSE)
"""All that is described."""

LEFT_OUT = {
    ("post", "/propagate"): "what a leader says to the other nodes",
    ("post", "/forward"): "what a node says to the leader",
    ("get", "/kill"): "with --demo only",
    ("post", "/kill"): "with --demo only",
    ("get", "/v1/failpoints"): "with --demo only",
    ("put", "/v1/failpoints"): "with --demo only",
}
"""The routes that are not described, each with the reason. HEAD goes where GET goes."""
