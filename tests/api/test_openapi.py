"""The API's description: valid, complete, and true of what the routes take."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import jsonschema_rs
import pytest
import schemathesis

from kvlog import assembly
from kvlog.api.app import create_app
from kvlog.api.described.problems import schema_name
from kvlog.api.openapi import LEFT_OUT, OPERATIONS, SCHEMAS, document
from kvlog.cluster import ClusterNode
from kvlog.problems import KINDS
from kvlog.service.service import Service
from tests.event_stream import EventStream

from .wire import call

NAMES = {"progress": "Progress", "change": "Event"}
"""The schemas of what the events of a watch say."""

Route = tuple[str, str]
"""A method, and a path whose parts that vary have no name."""


def anonymous(path: str) -> str:
    """A path as Flask or OpenAPI writes it, without the names in it."""
    return re.sub(r"<[^>]*>|\{[^}]*\}", "{}", path)


def routes() -> set[Route]:
    """What a node with --demo answers; nothing of it is called."""
    app = create_app(cast(Service, SimpleNamespace(settings=SimpleNamespace(demo=True))))
    found = {
        (method.lower(), anonymous(rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"}  # they come with every GET, and with everything
    }
    return found | {("get", path) for path in handled()}


def handled() -> set[str]:
    """The paths that the front keeps from the application: those that the assembly names as its handlers."""
    found = {
        eval(ast.unparse(path), vars(assembly))
        for node in ast.walk(ast.parse(inspect.getsource(assembly)))
        if isinstance(node, ast.keyword) and node.arg == "handlers" and isinstance(node.value, ast.Dict)
        for path in node.value.keys
        if path is not None
    }
    assert found
    return found


def references(part: object) -> Iterator[str]:
    """Everything that a part of the description refers to."""
    if isinstance(part, dict):
        if isinstance(target := part.get("$ref"), str):
            yield target
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def conforms(data: object, name: str) -> bool:
    """Whether something is as the schema with this name says."""
    schema = {**SCHEMAS[name], "components": {"schemas": SCHEMAS}}
    return jsonschema_rs.validator_for(schema).is_valid(data)


def test_the_description_is_valid():
    """By the meta-schema of OpenAPI 3.1, which schemathesis has."""
    schemathesis.openapi.from_dict(document()).validate()


def test_what_is_served_is_the_description(solo: ClusterNode):
    """GET /v1/openapi.json, whatever else the node does."""
    answer = call(solo, "GET", "/v1/openapi.json")

    assert answer.status == 200
    assert answer.body == json.loads(json.dumps(document()))


def test_every_route_is_described_or_left_out_with_a_reason():
    """And nothing is described, or left out, that is not there."""
    described = {(operation.method, anonymous(operation.path)) for operation in OPERATIONS} - {
        ("head", "/v1/kv/{}")
    }
    left_out = {(method, anonymous(path)) for method, path in LEFT_OUT}

    assert not described & left_out
    assert described | left_out == routes()


def test_every_name_is_used_once_and_everything_that_is_named_is_used():
    """Each reference leads somewhere, and no schema, header or answer is there for nothing."""
    whole = document()
    used = set(references(whole))
    there = {f"#/components/{kind}/{name}" for kind, named in whole["components"].items() for name in named}
    # Problems of requests that no route has taken: they are described, so that clients know them.
    unreached = {f"#/components/schemas/{schema_name(name)}" for name in ("no-such-route", "method-not-allowed")}

    assert max(Counter(operation.name for operation in OPERATIONS).values()) == 1
    assert used <= there
    assert there - used - unreached == set()


def test_the_events_of_a_stream_are_as_described(solo: ClusterNode, key: str):
    """Progress, a put and a deletion: what schemathesis does not look into, because it is text in the stream."""
    revision = call(solo, "PUT", f"/v1/kv/{key}", b"\xff").body["revision"]
    call(solo, "DELETE", f"/v1/kv/{key}")
    with EventStream(solo.port, f"?key={key}&from={revision}") as stream:
        events = [stream.event() for _ in range(3)]

    kinds = [event.kind for event in events if event is not None]
    assert kinds == ["progress", "change", "change"]
    assert set(kinds) <= set(SCHEMAS["StreamEvent"]["properties"]["event"]["enum"])
    assert all(conforms(event.data, NAMES[event.kind]) for event in events if event is not None)
    assert not conforms({"revision": 1, "index": 1, "time_ms": 1, "changes": [{"op": "put"}]}, "Event")


def test_every_type_of_problem_is_described():
    """With its status and with the members that it adds."""
    for kind, (status, title, members) in KINDS.items():
        schema = SCHEMAS[schema_name(kind)]
        assert schema["properties"]["type"] == {"const": f"kvlog:{kind}"}
        assert schema["properties"]["status"] == {"const": status.value}
        assert schema["properties"]["title"] == {"const": title}
        assert set(members) <= set(schema["properties"])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_route_takes_the_parameters_that_are_described_and_no_others(solo: ClusterNode, operation: Any):
    """An unknown one is refused by a sentence that lists those that there are."""
    path = operation.path.replace("{key}", "key").replace("{id}", "1")
    answer = call(solo, operation.method.upper(), f"{path}?no-such=1")
    if operation.method == "head":
        assert answer.status == 400
        return

    known = ", ".join(parameter.name for parameter in operation.query) or "none"
    problem = answer.refused(400, "bad-request")
    assert problem["detail"] == f"unknown parameter 'no-such'; there is {known}"
