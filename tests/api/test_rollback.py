"""Rolling back over HTTP: a repetition gets the first answer, whatever has become of the keys since."""

from __future__ import annotations

import json
from collections.abc import Callable

from kvlog.cluster import ClusterNode
from kvlog.core.commands import OPERATIONS_MAX
from tests.api.wire import Said, post

JSON = b"Content-Type: application/json"


def put_many(node: ClusterNode, keys: list[str]) -> int:
    """The revision at which all of them are there."""
    operations = [{"op": "put", "key": key, "value": "v"} for key in keys]
    said = post(node, b"/v1/txn", json.dumps({"then": operations}).encode(), JSON)
    assert said.status == 200
    return int(said.body["revision"])


def roll_back(node: ClusterNode, prefix: str, revision: int, request_id: str) -> Said:
    body = json.dumps({"prefix": prefix, "revision": revision}).encode()
    return post(node, b"/v1/rollback", body, JSON, b"Idempotency-Key: " + request_id.encode())


def test_a_rollback_that_can_be_planned_no_more_still_has_its_answer(
    solo: ClusterNode, name: Callable[[str], str]
):
    """More keys have been changed since than one transaction may change; under another id it is refused."""
    revision = put_many(solo, [name("a")])
    put_many(solo, [name("a"), name("b")])
    first = roll_back(solo, name(""), revision, "rollback-1")
    for half in range(2):
        put_many(solo, [name(f"{half}-{number}") for number in range(OPERATIONS_MAX // 2 + 1)])

    again, other = (roll_back(solo, name(""), revision, each) for each in ("rollback-1", "rollback-2"))

    assert (first.status, first.body["changes"]) == (200, 2)
    assert (again.status, again.headers.get("idempotent-replayed")) == (200, "true")
    assert again.body == first.body
    assert (other.status, other.body["type"]) == (422, "kvlog:too-many-keys")


def test_the_id_of_a_rollback_stands_for_that_rollback(solo: ClusterNode, name: Callable[[str], str]):
    """Another one under the same id is refused, also where it cannot be planned."""
    revision = put_many(solo, [name("a")])
    roll_back(solo, name(""), revision, "rollback-3")

    assert roll_back(solo, name(""), 10**12, "rollback-3").body["type"] == "kvlog:id-reused"
