"""PUT and GET /v1/failpoints: there only with --demo, and strict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvlog.cluster import Answer, Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.failpoints import PLACES
from kvlog.processes import ProcessKeeper, free_ports


@pytest.fixture(scope="module")
def node(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[ClusterNode]:
    """A node that is started with a failpoint which it never comes by."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(1), root="/failpoints-api")
    (node,) = cluster.nodes
    node.start(flags=("--failpoint", "before_trim:raise@9"))
    yield node
    assert node.terminate() == 0


def put(node: ClusterNode, spec: bytes, query: str = "") -> Answer:
    return node.request("PUT", "/v1/failpoints" + query, body=spec)


def points(answer: Answer) -> dict[str, dict]:
    assert answer.status == 200, answer
    return {point["name"]: point for point in answer.body["failpoints"]}


def armed(answer: Answer) -> dict[str, str]:
    return {name: point["armed"] for name, point in points(answer).items() if point["armed"]}


def test_what_the_flag_arms_is_shown_and_replaced(node: ClusterNode):
    """GET lists every place; PUT arms what it says and nothing else; an empty body disarms all."""
    first = node.request("GET", "/v1/failpoints")
    second = put(node, b"before_append:sleep:1,mid_push:raise@5")
    third = put(node, b"")

    assert armed(first) == {"before_trim": "raise@9"}
    assert {name: point["where"] for name, point in points(first).items()} == PLACES
    assert armed(second) == {"before_append": "sleep:1", "mid_push": "raise@5"}
    assert armed(third) == {}


def test_hits_are_counted_while_something_is_armed(node: ClusterNode):
    """Each write of this leader is appended and applied once."""
    put(node, b"mid_push:raise@1000000")
    for _ in range(3):
        assert node.update("key", "value").status == 200
    found = points(node.request("GET", "/v1/failpoints"))
    put(node, b"")

    assert {name: found[name]["hits"] for name in found if found[name]["hits"]} == {
        "before_append": 3,
        "after_append": 3,
        "before_apply": 3,
        "after_apply": 3,
    }


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (b"nowhere:kill", "there is no 'nowhere'; there are before_append"),
        (b"after_append:explode", "the action must be kill, raise or sleep:MS"),
        (b"after_append:sleep:60001", "from 1 to 60000"),
        (b"after_append:kill\n", "the action must be"),
        ("after_append:kill\u00e4".encode(), "the spec must be ASCII"),
        (b"," * 1_001, "the spec has more than 1000 bytes"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(node: ClusterNode, spec: bytes, reason: str):
    """400, with the reason; what was armed stays."""
    put(node, b"before_trim:raise@7")

    refused = put(node, spec)

    assert refused.status == 400
    assert reason in refused.body["detail"]
    assert armed(node.request("GET", "/v1/failpoints")) == {"before_trim": "raise@7"}


def test_parameters_and_other_methods_are_refused(node: ClusterNode):
    """What to arm is the body of a PUT, and nothing else."""
    put(node, b"")

    assert put(node, b"after_append:kill", "?spec=mid_push:kill").status == 400
    assert node.request("GET", "/v1/failpoints?all=1").status == 400
    assert node.request("POST", "/v1/failpoints", body=b"after_append:kill").status == 405
    assert armed(node.request("GET", "/v1/failpoints")) == {}


def test_without_demo_the_routes_do_not_exist(keeper: ProcessKeeper, ensemble: LocalEnsemble):
    """404 for both; and the flag is refused with the reason, exit code 2."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(1), root="/failpoints-none")
    (node,) = cluster.nodes

    node.start(wait=False, flags=("--demo", "0", "--failpoint", "after_append:kill"))
    assert node.child.wait(10) == 2
    assert "--failpoint 'after_append:kill': makes a node fail on purpose" in node.log.read_text()
    node.start(wait=False, flags=("--failpoint", "nowhere:kill"))
    assert node.child.wait(10) == 2
    assert "there is no 'nowhere'" in node.log.read_text()
    node.start(flags=("--demo", "0"))

    assert node.request("GET", "/v1/failpoints").status == 404
    assert put(node, b"after_append:kill").status == 404
    assert node.update("key", "value").status == 200
    assert node.terminate() == 0
