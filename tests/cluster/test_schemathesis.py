"""What nodes answer is what their description says, to requests that follow it and to requests that do not.

Schemathesis makes both from the description, always the same ones, and has the checks. The cluster is thrown away
afterwards: what operators ask is asked like anything else.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case

from kvlog.api.openapi import OPERATIONS, document
from kvlog.api.parameters import Parameter
from kvlog.cluster import Cluster
from kvlog.ensemble import LocalEnsemble
from kvlog.errors import InvalidInput
from kvlog.processes import ProcessKeeper, free_ports

EXAMPLES = 5
"""Requests that are drawn by lot for each operation, besides those that go through its description one by one."""

READ_MS = 100
WRITE_MS = 3_000
"""How long a request may wait at most."""

REVISIONS = 40
"""The revisions that are asked for: they are there soon, or waited for and not met."""

KEYS = ("text", "json/ÿ", "bytes")
"""Keys that are there from the beginning; requests may delete them."""

CONFIG: dict[str, Any] = {
    "seed": 1,
    "request-timeout": 20,
    "max-stream-events": 1,  # a watch has no end: the first event is read
    "generation": {"deterministic": True, "max-examples": EXAMPLES, "no-shrink": True},
    "phases": {
        # What is sent follows from the description alone, and not from what was answered before.
        "coverage": {"extra-data-sources": {"responses": False}, "generate-duplicate-query-parameters": True},
        "fuzzing": {"extra-data-sources": {"responses": False}, "error-feedback": {"enabled": False}},
    },
    "checks": {
        # 503 and 504 say what has become of a request as clearly as 200 does: that they come only where they are
        # described is what status_code_conformance checks. 500 is a bug anywhere.
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "504"]},
        # A request can make sense and not be met: there is no such key (404), the state is another one (409, 412),
        # that past is gone (410), its id belongs to another write (422). What must not come is 400, 405, 413, 415.
        "positive_data_acceptance": {
            "expected-statuses": ["2xx", "304", "404", "409", "410", "412", "422", "503", "504"]
        },
    },
}
"""All checks are on. Some have nothing to do here: there is no authentication, and no required header."""


def closed(part: Any) -> Any:
    """The same description, in which no object has fields that are not listed."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    found = {name: closed(each) for name, each in part.items()}
    if found.get("type") == "object" and found.get("properties"):
        found.setdefault("additionalProperties", False)
    return found


SCHEMA = schemathesis.openapi.from_dict(closed(document()), config=schemathesis.Config.from_dict(CONFIG))

_BY_LABEL = {f"{operation.method.upper()} {operation.path}": operation for operation in OPERATIONS}

_tags = st.lists(st.integers(1, REVISIONS).map(lambda revision: f'"{revision}"'), min_size=1, max_size=9)
schemathesis.openapi.format("entity-tags", st.just("*") | _tags.map(", ".join))


@schemathesis.serializer("application/x-ndjson")
def in_lines(_: Any, value: Any) -> bytes:
    """A list as lines of JSON."""
    return b"\n".join(json.dumps(line).encode() for line in (value if isinstance(value, list) else [value]))


@schemathesis.deserializer("application/x-ndjson")
def of_lines(_: Any, response: Any) -> list[Any]:
    """Lines of JSON as a list."""
    return [json.loads(line) for line in response.content.splitlines()]


# --- what requests are made up for, that a description cannot say ---------------------------------------------


def valid(parameter: Parameter, given: object) -> bool:
    """Whether a parameter may have this value."""
    try:
        parameter.read(parameter.name, str(given))
    except InvalidInput:
        return False
    return True


def bound(case: Case) -> None:
    """Let the request wait for a short time only, and ask for revisions that there may be."""
    operation, query = _BY_LABEL[case.operation.label], case.query
    known = {parameter.name: parameter for parameter in operation.query}
    given = {name for name in known if name in query and valid(known[name], query[name])}
    if "timeout_ms" in known and ("timeout_ms" in given or "timeout_ms" not in query):
        most = READ_MS if operation.method in ("get", "head") else WRITE_MS
        query["timeout_ms"] = min(int(query.get("timeout_ms", most)), most)
    if "wait" in given:
        query["wait"] = 0
    for name in given & {"min_revision", "at", "from", "to"}:
        schema = known[name].schema
        if schema["type"] == "integer" and operation.name != "getLog":
            query[name] = int(query[name]) % REVISIONS + schema["minimum"]


def make_sense(case: Case) -> None:
    """Put right what is wrong in a way that OpenAPI has no words for: two things that exclude each other."""
    query, body, name = case.query, case.body, _BY_LABEL[case.operation.label].name
    if query.get("linearizable") in (True, "true"):
        query.pop("at", None)
    if name == "putKey" and "ttl" in query:
        query.pop("lease", None)
    if name == "watch" and query.get("key"):
        query.pop("prefix", None)
    if name == "watch" and "wait" in query:
        query.pop("heartbeat", None)
    if name == "rollback":
        body["revision"] = int(body["revision"]) % REVISIONS
    if name == "transact":
        for branch in {"then", "else"} & set(body):
            writes = {operation["key"]: operation for operation in body[branch] if operation["op"] != "get"}
            body[branch] = [*writes.values(), *(each for each in body[branch] if each["op"] == "get")]


class Sender:
    """Sends requests to one node after the other. Every second one that makes sense is about what is there."""

    def __init__(self, cluster: Cluster) -> None:
        self._urls = [f"http://{node.address}" for node in cluster.nodes]
        self._numbers = itertools.count()
        self._session = requests.Session()

    def begin(self) -> None:
        """Put what is to be there."""
        for key, value in zip(KEYS, (b"text", b"{}", b"\x00\xff"), strict=True):
            self._session.put(f"{self._urls[0]}/v1/kv/{key}", value).raise_for_status()

    def send(self, case: Case) -> None:
        """Send a request, and check what is answered."""
        number = next(self._numbers)
        if case.meta is None or case.meta.generation.mode.is_positive:
            make_sense(case)
            if number % 2:
                self._make_hit(case, number)
        case.call_and_validate(base_url=self._urls[number % len(self._urls)], session=self._session)

    def _make_hit(self, case: Case, number: int) -> None:
        if "Idempotency-Key" in case.headers:
            case.headers["Idempotency-Key"] = f"{number}-{case.headers['Idempotency-Key']}"[:100]
        if "key" in case.path_parameters:
            case.path_parameters["key"] = KEYS[number % len(KEYS)]
            if number % 4 == 1:
                case.headers.pop("If-Match", None)
                case.query = {name: value for name, value in case.query.items() if name in ("linearizable", "ack")}
        if "lease" in case.path_parameters:
            granted = self._session.post(f"{self._urls[0]}/v1/leases", json={"ttl": 60})
            case.path_parameters["lease"] = granted.json()["lease"]

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


@pytest.fixture(scope="module")
def sender(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Sender]:
    """To three nodes, which are as well at the end as at the beginning, and hold the same."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(3), root="/described")
    cluster.start()
    sender = Sender(cluster)
    sender.begin()
    yield sender
    sender.close()
    cluster.wait_for_agreement()
    assert all("Traceback" not in node.log.read_text() for node in cluster.nodes)
    cluster.stop()


@SCHEMA.parametrize()
def test_every_answer_is_as_described(case: Case, sender: Sender):
    """Its status, headers, media type and schema; and what does not follow the description is refused."""
    bound(case)
    sender.send(case)
