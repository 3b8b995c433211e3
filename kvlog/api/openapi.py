"""GET /v1/openapi.json: the API's description (OpenAPI 3.1), made from the tables that the routes use."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Flask, Response

from kvlog import __version__
from kvlog.api import incoming
from kvlog.api.answers import JSON, encode
from kvlog.api.described import answers, bodies, node, node_operations, operations, problems
from kvlog.api.described.operation import AGE, EVERYWHERE, Answer, Given, Operation
from kvlog.api.described.shapes import INDEX, REVISION, Schema, a_count, a_text, one_of, ref
from kvlog.api.outcomes import REPLAYED
from kvlog.api.parameters import Parameter, parameters
from kvlog.peers import INSTANCE_HEADER
from kvlog.problems import KINDS, MEDIA_TYPE

OPENAPI = "3.1.0"
"""The version of the specification."""

ABOUT = """\
A replicated key-value store whose write-ahead log is ZooKeeper. Any node takes any request.

- A **revision** is the number of a committed request: what a key's `ETag` names, and a point in time to read at.
- Every error is a problem in the words of RFC 9457 (`application/problem+json`).
- Parameters and fields that are not known are refused, as are those that are given twice.
- Where there is GET there is HEAD, but for /v1/watch; any other method of a path is answered 405 with `Allow`.
"""

TAGS = {
    "keys": "Keys with their values: one by one, and in pages",
    "transactions": "Many keys at once",
    "leases": "Keys that go away together unless somebody keeps them alive",
    "watch": "What happens",
    "history": "The past",
    "requests": "What has become of a write",
    "log": "Why a read is as it is, and the log itself",
    "node": "The node that is asked",
    "operators": "For operators",
    "course": "The routes that kvlog has had since it was a course assignment",
}

OPERATIONS: tuple[Operation, ...] = (*operations.OPERATIONS, *node_operations.OPERATIONS)
"""All that is described."""

LEFT_OUT = {
    ("post", "/propagate"): "what a leader says to the other nodes",
    ("post", "/forward"): "what a node says to the leader",
    ("get", "/kill"): "with --demo only",
    ("post", "/kill"): "with --demo only",
    ("get", "/v1/failpoints"): "with --demo only",
    ("put", "/v1/failpoints"): "with --demo only",
}
"""The routes that are not described, each with the reason."""

SCHEMAS: dict[str, Schema] = {**answers.SCHEMAS, **bodies.SCHEMAS, **node.SCHEMAS, **problems.SCHEMAS}
"""All that have a name."""

_FLAG = one_of("true", "false")
_DECIMAL = {"type": "integer", "minimum": 0}

HEADERS: dict[str, tuple[str, Schema]] = {
    "Kvlog-Node": ("the node that has answered", a_text()),
    INSTANCE_HEADER: ("its process: another one after each start", a_text()),
    "Kvlog-Stale": ("whether its store has missed entries", _FLAG),
    "Kvlog-Missed-Entries": ("how many; only if there are any", _DECIMAL),
    "Kvlog-Halted": ("the entry that it cannot apply; only if there is one", _DECIMAL),
    "Kvlog-Revision": ("the revision of the state that was read, or of the write", REVISION),
    "Kvlog-Applied-Index": ("the last entry of the log that is applied here", INDEX),
    "Kvlog-Tail-Index": ("the last entry of the log that this node knows of", INDEX),
    "Kvlog-Staleness-Ms": (
        "for how long this node may have missed something; unknown if it never was up to date",
        {"type": "string", "pattern": "^([0-9]+|unknown)$"},
    ),
    "Kvlog-Read": ("what kind of read it was", one_of("local", "linearizable", "at")),
    "Kvlog-Create-Revision": ("the revision at which the key came to be", REVISION),
    "Kvlog-Version": ("how often it was written since", a_count()),
    "Kvlog-Lease": ("the lease that it is attached to; only if there is one", a_count()),
    REPLAYED: ("true, where this repeats the first answer to the same Idempotency-Key", one_of("true")),
    "ETag": ("the revision, in quotes; of the JSON form with -json at its end", a_text()),
    "Vary": ("what the form of the answer depends on", a_text()),
    "Retry-After": ("seconds after which to try again; only if that may help", _DECIMAL),
}
"""Headers of answers, by name: what they say, and their schema."""

ALWAYS = ("Kvlog-Node", INSTANCE_HEADER, "Kvlog-Stale", "Kvlog-Missed-Entries", "Kvlog-Halted")
"""Those of all answers."""

_SOMETIMES = {"Kvlog-Missed-Entries", "Kvlog-Halted", "Kvlog-Lease", REPLAYED, "Retry-After"}
"""Those that an answer need not have although it is listed with it."""


def add_routes(app: Flask) -> None:
    """/v1/openapi.json."""
    description = encode(document())

    @app.get("/v1/openapi.json")
    def openapi() -> Response:
        parameters(incoming.query())
        return Response(description, content_type=JSON)


def document() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, dict[str, Any]] = {}
    shared: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, shared)
    return {
        "openapi": OPENAPI,
        "info": {"title": "kvlog", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/", "description": "the node that this comes from"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": shared,
            "headers": {
                name: {"description": text, "schema": schema, "required": name not in _SOMETIMES}
                for name, (text, schema) in HEADERS.items()
            },
        },
    }


def _operation(operation: Operation, shared: dict[str, Any]) -> dict[str, Any]:
    """One route with one method. What it can be answered that others can be as well goes into ``shared``."""
    found: dict[str, Any] = {"operationId": operation.name, "summary": operation.text, "tags": [operation.tag]}
    described = [
        *(_given(given, "path") for given in operation.in_path),
        *(_parameter(parameter) for parameter in operation.query),
        *(_given(given, "header") for given in operation.headers),
    ]
    if described:
        found["parameters"] = described
    if operation.body:
        found["requestBody"] = {
            "required": True,
            **({"description": operation.body_text} if operation.body_text else {}),
            "content": _content(operation.body),
        }
    return found | {"responses": _responses(operation, shared)}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.text,
        "required": parameter.required,
        "schema": parameter.schema,
    }


def _given(given: Given, where: str) -> dict[str, Any]:
    return {
        "name": given.name,
        "in": where,
        "description": given.text,
        "required": where == "path",
        "schema": given.schema,
    }


def _content(content: dict[str, Schema]) -> dict[str, Any]:
    return {media_type: {"schema": schema} if schema else {} for media_type, schema in content.items()}


def _responses(operation: Operation, shared: dict[str, Any]) -> dict[str, Any]:
    found = {str(answer.status): _answer(answer) for answer in operation.answers}
    by_status: dict[int, list[str]] = {}
    if operation.method not in ("get", "head"):
        by_status[HTTPStatus.REQUEST_TIMEOUT] = []  # the body does not come; this problem has no type
    for kind in dict.fromkeys((*operation.problems, *EVERYWHERE)):
        by_status.setdefault(KINDS[kind].status, []).append(kind)
    for status, kinds in sorted(by_status.items()):
        response = _problem(status, kinds)
        if operation.method == "head":
            del response["content"]
        if (answer := found.get(str(status))) is not None:  # an answer that is no problem has the same status
            response["description"] = f"{answer['description']}; or {response['description']}"
            response["content"] |= answer["content"]
        elif operation.method != "head":
            name = "-or-".join(kinds) or str(status)
            shared[name] = response
            response = {"$ref": f"#/components/responses/{name}"}
        found[str(status)] = response
    return found


def _answer(answer: Answer) -> dict[str, Any]:
    found = {"description": answer.text, "headers": _headers((*answer.headers, *ALWAYS))}
    return found | ({"content": _content(answer.content)} if answer.content else {})


def _problem(status: int, kinds: list[str]) -> dict[str, Any]:
    """Types of problems that have the HTTP status in common; none: those that have no type."""
    schemas = [ref(problems.schema_name(kind)) for kind in kinds] or [ref("Problem")]
    again = ("Retry-After",) if status == HTTPStatus.SERVICE_UNAVAILABLE else ()
    aged = AGE if {"not-found", "no-such-request"} & set(kinds) else ()
    return {
        "description": "; ".join(f"{kind}: {KINDS[kind].title}" for kind in kinds) or HTTPStatus(status).phrase,
        "headers": _headers((*ALWAYS, *again, *aged)),
        "content": {MEDIA_TYPE: {"schema": schemas[0] if len(schemas) == 1 else {"oneOf": schemas}}},
    }


def _headers(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
