"""What a route with one method is described by, and what many of them have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvlog.api.answers import JSON
from kvlog.api.described.shapes import KEY, Schema, ref
from kvlog.api.ids import CHARACTERS
from kvlog.api.outcomes import REPLAYED
from kvlog.api.parameters import Parameter
from kvlog.api.writing import IDEMPOTENCY_KEY
from kvlog.core.entry import REQUEST_ID_BYTES_MAX

ANYTHING = "*/*"

BYTES: Schema = {}
"""Bytes: what is no JSON has no schema (OpenAPI 3.1, "Considerations for File Uploads")."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a request has in its path or its headers."""

    name: str
    text: str
    schema: Schema


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered where nothing is wrong; ``headers`` are names in openapi.HEADERS."""

    status: int
    text: str
    content: dict[str, Schema] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """A route with one method.

    ``problems`` are types of problems, but for those which every route has.
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


EVERYWHERE = ("bad-request", "internal-error", "unavailable")
"""Problems of any route. The last one also comes from a node that has more to do than it can."""

BODY = ("too-large", "unsupported-media-type")
"""What can be wrong with a body before it is read, also one that should not be there."""

READING = ("too-stale", "stale-store", "behind", "history-trimmed")
"""Problems of reads that say how old their answer may be."""

WRITING = ("refused", "unknown", *BODY)
"""Problems of writes."""

NAMED = ("cancelled", "id-reused")
"""Problems of writes that have an Idempotency-Key."""

AGE = ("Kvlog-Revision", "Kvlog-Applied-Index", "Kvlog-Tail-Index", "Kvlog-Staleness-Ms", "Kvlog-Read")
"""What every read says of its age."""

WRITTEN = (REPLAYED,)

ID_PATTERN = rf"[{CHARACTERS}]{{1,{REQUEST_ID_BYTES_MAX}}}"
NO_DOTS = r"(?!\.\.?$)"
"""Where it stands, there is neither . nor .. alone: they mean a step within a path."""

_TAG = r'"[!#-~]*"'

THE_KEY = Given("key", "the key, percent-encoded; / may stand as it is or as %2F", KEY)
ID = Given(
    IDEMPOTENCY_KEY,
    "names the write, so that it can be sent again: it is done once, and every repetition gets the first answer",
    {"type": "string", "pattern": f"^{NO_DOTS}{ID_PATTERN}$"},
)
IF_MATCH = Given(
    "If-Match",
    'only if the key is there (*), or was written last at one of these revisions ("7", "8")',
    {"type": "string", "format": "entity-tags", "pattern": rf"^(\*|{_TAG}( *, *{_TAG})*)$"},
)
IF_NONE_MATCH = Given(
    "If-None-Match",
    'only if the key is not there (*), or was written last at none of these revisions ("7", "8")',
    {"type": "string", "format": "entity-tags", "pattern": rf"^(\*|(W/)?{_TAG}( *, *(W/)?{_TAG})*)$"},
)


def json_of(*names: str) -> dict[str, Schema]:
    """A body in JSON that has one of these schemas."""
    schemas = [ref(name) for name in names]
    return {JSON: schemas[0] if len(schemas) == 1 else {"oneOf": schemas}}
