"""Ids of writes, and what operators ask for: strict, in JSON, and what is refused changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from kvlog.cluster import Answer, Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports, wait_until

from .wire import Said, get, post, refused

BODY = b'{"key":"before","value":"x"}'
JSON = b"Content-Type: application/json"
WAIT_S = 20.0
CHARACTERS = "must be 1 to 128 of the characters A-Z a-z 0-9 . _ : @ = + -"


@pytest.fixture(scope="module")
def node(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[ClusterNode]:
    """A cluster of one node."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(1), root="/requests-api")
    (node,) = cluster.nodes
    node.start()
    assert node.update("before", "1", request_id="known").status == 200
    yield node
    cluster.stop()


@pytest.fixture
def unchanged(node: ClusterNode) -> Iterator[ClusterNode]:
    """The node, which has written nothing and removed nobody afterwards."""
    names = ("revision", "applied_index", "digest", "skipped", "role", "halted_at")
    before, read = node.status(), node.read("before").body
    assert wait_until(lambda: len(node.status()["replicas"]) == 1, WAIT_S)
    yield node
    after = node.status()
    assert {name: after[name] for name in names} == {name: before[name] for name in names}
    assert [replica["node"] for replica in after["replicas"]] == [node.address]
    assert node.read("before").body == read


def delete(node: ClusterNode, path: str, body: bytes | None = None) -> Said:
    answer = node.request("DELETE", path, body=body)
    return Said(answer.status, answer.headers, answer.body)


# --- the header Idempotency-Key -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'""',
        b'"',
        b'"a',
        b'a"',
        b"'a'",
        b'""a""',
        b"a b",
        b"a,b",
        b"a/b",
        b"a%20b",
        b"a?b",
        b"a#b",
        b"~own",
        b'"~own"',
        b"a" * 129,
        b'"' + b"a" * 129 + b'"',
        b"\xff",
        "ключ".encode(),
        b"a\tb",
        b'"a";p=1',
    ],
    ids=range(21),
)
def test_a_bad_idempotency_key_is_refused(unchanged: ClusterNode, value: bytes):
    """400, and what it may be made of."""
    said = post(unchanged, b"/update", BODY, b"Idempotency-Key: " + value)

    assert refused(said, 400, "Idempotency-Key")
    assert CHARACTERS in said.body["detail"]


def test_an_idempotency_key_that_is_given_twice_is_refused(unchanged: ClusterNode):
    """400, whether the two are the same or not: which one is meant is not known."""
    for other in (b"twice-1", b"twice-2"):
        said = post(unchanged, b"/update", BODY, b"Idempotency-Key: twice-1", b"Idempotency-Key: " + other)

        assert refused(said, 400, "Idempotency-Key")
    assert unchanged.remembered("twice-1").status == 404


@pytest.mark.parametrize("dots", ["..", "."])
def test_an_id_that_is_a_step_in_a_path_is_refused(unchanged: ClusterNode, dots: str):
    """400: nobody could ask for it, because clients take /v1/requests/.. for /v1/."""
    said = post(unchanged, b"/update", BODY, b"Idempotency-Key: " + dots.encode())

    assert refused(said, 400, "Idempotency-Key")
    for target in (dots, dots.replace(".", "%2E")):
        for method in (b"GET", b"DELETE"):
            assert get(unchanged, f"/v1/requests/{target}".encode(), method).status in (400, 404)


def test_a_quoted_idempotency_key_is_the_same_as_the_bare_one(node: ClusterNode):
    """The IETF's draft has it in quotes; 128 characters, all that there may be among them."""
    longest = "azAZ09._:@=+-".ljust(128, "x")
    body = json.dumps({"key": "quoted", "value": "x"}).encode()

    bare = post(node, b"/update", body, b"Idempotency-Key: " + longest.encode())
    quoted = post(node, b"/update", body, b'idempotency-key:   "' + longest.encode() + b'"  ')

    assert (bare.status, quoted.status) == (200, 200)
    assert bare.body == quoted.body
    assert quoted.headers["idempotent-replayed"] == "true"
    assert node.remembered(longest).body["revision"] == bare.body["revision"]
    assert node.settle(longest).body["revision"] == bare.body["revision"]


# --- /v1/requests/<id> ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [b"GET", b"DELETE"])
@pytest.mark.parametrize(
    "name",
    [
        b"a%20b",
        b"a%0A",
        b"%22a%22",
        b"a,b",
        b"a%25",
        b"a%3F",
        b"~",
        b"~~a",
        b"a~",
        b"%ff",
        b"a" * 129,
        b"~" + b"a" * 129,
    ],
    ids=range(12),
)
def test_an_id_that_cannot_be_one_is_not_looked_for(unchanged: ClusterNode, method: bytes, name: bytes):
    """400, and what it may be made of; nothing is cancelled."""
    said = get(unchanged, b"/v1/requests/" + name, method)

    assert refused(said, 400, "the request's id")
    assert CHARACTERS in said.body["detail"]


@pytest.mark.parametrize("path", [b"/v1/requests", b"/v1/requests/", b"/v1/requests/a/b", b"/v1/requests/a%2Fb"])
@pytest.mark.parametrize("method", [b"GET", b"DELETE"])
def test_requests_are_not_listed(unchanged: ClusterNode, method: bytes, path: bytes):
    """404: there is no such path."""
    assert refused(get(unchanged, path, method), 404, "there is no such path")


@pytest.mark.parametrize(
    ("method", "query", "reason"),
    [
        (b"GET", b"verbose=1", "unknown parameter 'verbose'; there is none"),
        (b"GET", b"ack=log", "unknown parameter 'ack'; there is none"),
        (b"GET", b"%ff=1", "not UTF-8"),
        (b"DELETE", b"force=1", "unknown parameter 'force'; there is ack, timeout_ms"),
        (b"DELETE", b"ack=none", "must be log or replicas"),
        (b"DELETE", b"ack=log&ack=log", "given twice"),
        (b"DELETE", b"timeout_ms=0", "must be a whole number from 1 to 60000"),
    ],
)
def test_unknown_parameters_are_refused(unchanged: ClusterNode, method: bytes, query: bytes, reason: str):
    """400; nothing is cancelled."""
    assert refused(get(unchanged, b"/v1/requests/unknown?" + query, method), 400, reason)
    assert unchanged.remembered("unknown").status == 404


@pytest.mark.parametrize("body", [b"{}", b" ", BODY])
def test_settling_takes_no_body(unchanged: ClusterNode, body: bytes):
    """400: who sends one means something else; nothing is cancelled."""
    assert refused(delete(unchanged, "/v1/requests/unknown", body), 400, "takes no body")
    assert unchanged.remembered("unknown").status == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        (b"POST", b"/v1/requests/known", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        (b"PUT", b"/v1/requests/known", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        (b"GET", b"/v1/admin/replicas/n1/remove", {"POST", "OPTIONS"}),
        (b"DELETE", b"/v1/admin/replicas/n1/remove", {"POST", "OPTIONS"}),
        (b"GET", b"/v1/admin/log/skip", {"POST", "OPTIONS"}),
        (b"PUT", b"/v1/admin/log/skip", {"POST", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_refused(unchanged: ClusterNode, method: bytes, path: bytes, allowed: set[str]):
    """405, and which ones there are."""
    said = get(unchanged, path, method)

    assert refused(said, 405, "method")
    assert allowed == set(said.headers["allow"].split(", "))


def test_settling_can_be_asked_for_with_options(node: ClusterNode):
    """ack and timeout_ms are those of a write."""
    said = delete(node, "/v1/requests/with-options?ack=log&timeout_ms=5000")

    assert (said.status, said.body["outcome"]) == (200, "cancelled")
    assert wait_until(lambda: node.remembered("with-options").status == 200, WAIT_S)  # ack=log: not applied yet
    assert node.remembered("with-options").body == said.body


# --- operators ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON"),
        (b"7", "must be a JSON object, not a number"),
        (b"{}", 'the field "index" is missing'),
        (b'{"index":1}', 'the field "reason" is missing'),
        (b'{"reason":"r"}', 'the field "index" is missing'),
        (b'{"index":1,"reason":"r","force":true}', "unknown field 'force'; there is index, reason"),
        (b'{"index":1,"index":2,"reason":"r"}', "given twice"),
        (b'{"index":-1,"reason":"r"}', 'the field "index" must be'),
        (b'{"index":1.5,"reason":"r"}', 'the field "index" must be'),
        (b'{"index":"1","reason":"r"}', 'the field "index" must be'),
        (b'{"index":true,"reason":"r"}', 'the field "index" must be'),
        (b'{"index":null,"reason":"r"}', 'the field "index" must be'),
        (b'{"index":9223372036854775808,"reason":"r"}', 'the field "index" must be'),
        (b'{"index":1' + b"0" * 5_000 + b',"reason":"r"}', "the body is not JSON"),
        (b'{"index":NaN,"reason":"r"}', "NaN is not JSON"),
        (b'{"index":1,"reason":""}', 'the field "reason" must be'),
        (b'{"index":1,"reason":7}', 'the field "reason" must be'),
        (b'{"index":1,"reason":"' + b"r" * 501 + b'"}', 'the field "reason" must be'),
        (rb'{"index":1,"reason":"\ud800"}', "half of a surrogate pair"),
        (b'{"index":1,"reason":"\xff"}', "not UTF-8"),
    ],
    ids=range(20),
)
def test_a_bad_skip_is_refused(unchanged: ClusterNode, body: bytes, reason: str):
    """400, and why; nothing is skipped."""
    assert refused(post(unchanged, b"/v1/admin/log/skip", body, JSON), 400, reason)


def test_a_node_that_has_not_halted_skips_nothing(unchanged: ClusterNode):
    """409: an entry that can be applied is nobody's to skip."""
    said = post(unchanged, b"/v1/admin/log/skip", b'{"index":1,"reason":"because"}', JSON)

    assert refused(said, 409, "this node has not halted: it needs no skip", "conflict")


@pytest.mark.parametrize("path", ["/v1/admin/log/skip", "/v1/admin/replicas/gone/remove", "/v1/admin/catchup"])
def test_operators_requests_take_no_parameters(unchanged: ClusterNode, path: str):
    """400: what is asked for would not be what is done."""
    body = b'{"index":1,"reason":"because"}' if path.endswith("skip") else b""

    for query in ("force=1", "dry_run=true", "%ff"):
        said = post(unchanged, f"{path}?{query}".encode(), body)
        assert refused(said, 400, "unknown parameter" if query != "%ff" else "not UTF-8")


@pytest.mark.parametrize("path", [b"/v1/admin/replicas/gone/remove", b"/v1/admin/catchup"])
@pytest.mark.parametrize("body", [b"{}", b"gone", b" "])
def test_removing_and_catching_up_take_no_body(unchanged: ClusterNode, path: bytes, body: bytes):
    """400: who sends one means something else."""
    assert refused(post(unchanged, path, body), 400, "takes no body")


@pytest.mark.parametrize("name", ["gone", "a b", "ключ", "a" * 1_000, "..a"])
def test_a_replica_that_nobody_knows_cannot_be_removed(unchanged: ClusterNode, name: str):
    """409, and which ones there are."""
    said = post(unchanged, f"/v1/admin/replicas/{quote(name)}/remove".encode(), b"")

    assert said.status == 409
    assert said.body["detail"] == f"there is no replica {name}; there is {unchanged.address}"


# --- replicas that are gone -----------------------------------------------------------------------------------


def replicas(node: ClusterNode) -> list[str]:
    return [replica["node"] for replica in node.status()["replicas"]]


def remove(node: ClusterNode, name: str) -> Answer:
    return node.request("POST", f"/v1/admin/replicas/{name}/remove", body=b"")


def test_a_replica_that_is_gone_is_removed_until_it_comes_back(keeper: ProcessKeeper, ensemble: LocalEnsemble):
    """409 while it is up, and for one that nobody knows; 200 once it is down; started again, it is counted."""
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(3), root="/removals")
    leader = cluster.start()
    gone = next(node for node in cluster.nodes if node is not leader)
    everyone = sorted(node.address for node in cluster.nodes)
    for node in cluster.nodes:
        assert wait_until(lambda node=node: replicas(node) == everyone, WAIT_S), cluster.describe()

    for node in cluster.nodes:
        up, unknown = remove(node, gone.address), remove(node, "127.0.0.1:1")
        assert (up.status, up.body["detail"]) == (409, f"{gone.address} is up: stop it first")
        assert unknown.status == 409
        assert "there is no replica 127.0.0.1:1; there is" in unknown.body["detail"]
        assert all(address in unknown.body["detail"] for address in everyone)
    assert replicas(leader) == everyone

    gone.terminate()
    for node in cluster.running:
        assert wait_until(lambda node=node: len(node.status()["members"]) == 2, WAIT_S)
    removed = remove(cluster.running[0], gone.address)
    assert (removed.status, removed.body["status"]) == (200, "done")
    left = [address for address in everyone if address != gone.address]
    for node in cluster.running:
        assert wait_until(lambda node=node: replicas(node) == left, WAIT_S), cluster.describe()
    assert remove(cluster.running[0], gone.address).status == 409
    assert leader.update("key", "value").status == 200

    gone.start()
    for node in cluster.nodes:
        assert wait_until(lambda node=node: replicas(node) == everyone, WAIT_S), cluster.describe()
    cluster.wait_for_agreement()
    cluster.stop()
