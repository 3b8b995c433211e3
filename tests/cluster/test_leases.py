"""Leases and times to live: the leader's logged deletes, on every replica at the same index, never too soon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from kvlog.cluster import Answer, Cluster, ClusterNode
from kvlog.core.entry import Delete
from kvlog.errors import Unavailable
from kvlog.processes import wait_until

from .history import applied_index, read_log


@pytest.fixture(autouse=True)
def no_lease_is_left(standing: Cluster) -> Iterator[None]:
    """The cluster is not for these tests alone: nothing ends in it later on."""
    yield
    standing.wait_for_agreement()
    node = standing.running[0]
    for lease in node.request("GET", "/v1/leases").body["leases"]:
        assert node.request("DELETE", f"/v1/leases/{lease['lease']}").status in (200, 404)


def post(node: ClusterNode, path: str, body: object = None) -> Answer:
    return node.request("POST", path, body=None if body is None else json.dumps(body).encode())


def grant(node: ClusterNode, ttl: float) -> int:
    """Make a lease; returns its number."""
    answer = post(node, "/v1/leases", {"ttl": ttl})
    assert (answer.status, answer.body["ttl"]) == (201, ttl)
    return answer.body["lease"]


def put(node: ClusterNode, key: str, query: str, **headers: str) -> Answer:
    return node.request("PUT", f"/v1/kv/{key}?{query}", body=b"held", headers=headers)


def there(node: ClusterNode, key: str) -> bool:
    answer = node.request("GET", f"/v1/kv/{key}", headers={"Accept": "application/json"})
    assert answer.status in (200, 404)
    return answer.status == 200


def gone_everywhere(nodes: list[ClusterNode], key: str) -> Callable[[], bool]:
    return lambda: not any(there(node, key) for node in nodes)


def test_a_time_to_live_ends_with_a_delete_in_the_log(standing: Cluster, nodes: list[ClusterNode], key: str):
    """Not before it has passed; all replicas apply it as the same entry, and hold the same afterwards."""
    began, begin = time.monotonic(), applied_index(standing)
    assert put(nodes[1], key, "ttl=1.5").status == 201
    assert all(there(node, key) for node in nodes)

    assert wait_until(gone_everywhere(nodes, key), 10)

    assert time.monotonic() - began >= 1.5
    standing.wait_for_agreement()
    deletes = [
        effect
        for item in read_log(standing, begin)
        for request in item.entry.requests
        for effect in request.effects
        if isinstance(effect, Delete) and effect.key == key
    ]
    assert len(deletes) == 1


def test_writing_a_key_anew_takes_its_time_to_live_away(nodes: list[ClusterNode], key: str):
    """A put without one makes it an ordinary key, and the lease that was its own is gone at once."""
    put(nodes[0], key, "ttl=1")
    lease = int(nodes[0].request("GET", f"/v1/kv/{key}", headers={"Accept": "application/json"}).body["lease"])
    put(nodes[2], key, "")

    assert nodes[0].request("GET", f"/v1/leases/{lease}").status == 404
    time.sleep(1.6)  # that nothing happens is what is to be seen
    assert all(there(node, key) for node in nodes)


def test_a_lease_lives_as_long_as_it_is_kept_alive(nodes: list[ClusterNode], key: str):
    """By keep-alives through any node; when they end, all its keys go, and nothing else."""
    lease = grant(nodes[0], 1.5)
    for name in (key, f"{key}/2"):
        assert put(nodes[1], name, f"lease={lease}").status == 201
    put(nodes[1], f"{key}/3", "")
    began = time.monotonic()
    for number in range(12):
        assert post(nodes[number % 3], f"/v1/leases/{lease}/keep-alive").status == 200
        time.sleep(0.25)
    assert time.monotonic() - began > 2 * 1.5
    assert all(there(node, key) for node in nodes)

    assert wait_until(gone_everywhere(nodes, key), 10)
    assert wait_until(gone_everywhere(nodes, f"{key}/2"), 10)
    assert all(there(node, f"{key}/3") for node in nodes)
    late = post(nodes[0], f"/v1/leases/{lease}/keep-alive")
    assert (late.status, late.body["type"]) == (404, "kvlog:no-such-lease")


def test_a_lease_can_be_given_up_at_once(nodes: list[ClusterNode], key: str):
    """With its keys; after that nothing can be attached to it."""
    lease = grant(nodes[0], 60)
    put(nodes[1], key, f"lease={lease}")
    assert nodes[2].request("GET", f"/v1/leases/{lease}").body["keys"] == [key]

    answer = nodes[2].request("DELETE", f"/v1/leases/{lease}")

    assert (answer.status, answer.body["deleted"]) == (200, 1)
    assert wait_until(gone_everywhere(nodes, key), 5)
    attached = put(nodes[0], key, f"lease={lease}")
    assert (attached.status, attached.body["type"]) == (404, "kvlog:no-such-lease")
    assert not there(nodes[0], key)


def test_a_new_leader_gives_every_lease_its_whole_time_again(
    standing: Cluster, nodes: list[ClusterNode], key: str
):
    """What was left of it died with the old leader: it ends later, and never sooner."""
    lease = grant(nodes[0], 2)
    put(nodes[0], key, f"lease={lease}")
    leader = standing.wait_for_leader()
    time.sleep(1.2)  # more than half of its time
    leader.kill()
    killed = time.monotonic()
    others = [node for node in nodes if node is not leader]

    assert wait_until(gone_everywhere(others, key), 15)

    assert time.monotonic() - killed >= 2


def test_a_leader_that_was_stopped_ends_no_lease(standing: Cluster, nodes: list[ClusterNode], key: str):
    """Its clock says that the time is over; but it is the leader no more, and the holder has kept it alive."""
    lease = grant(nodes[0], 2)
    put(nodes[0], key, f"lease={lease}")
    leader = standing.wait_for_leader()
    others = [node for node in nodes if node is not leader]
    leader.pause()
    try:
        resumed = False
        for _ in range(80):
            try:
                answer = post(others[0], f"/v1/leases/{lease}/keep-alive?timeout_ms=900")
            except Unavailable:
                continue
            if answer.status == 200 and not resumed:
                leader.resume()  # with its old idea of time and of its role
                resumed = True
                kept = time.monotonic()
            if resumed and time.monotonic() - kept > 1.5:
                break
            assert answer.status in (200, 503, 504), answer
            time.sleep(0.2)
    finally:
        leader.resume()

    assert resumed
    assert there(others[0], key)


def test_a_lock_has_one_holder_and_a_token_that_rises(nodes: list[ClusterNode], key: str):
    """Created if nobody has it, under a lease; the revision is the fencing token."""
    first, second = grant(nodes[0], 60), grant(nodes[1], 60)
    taken = put(nodes[0], key, f"lease={first}", **{"If-None-Match": "*"})
    refused = put(nodes[1], key, f"lease={second}", **{"If-None-Match": "*"})
    nodes[2].request("DELETE", f"/v1/leases/{first}")
    again = put(nodes[1], key, f"lease={second}", **{"If-None-Match": "*"})

    assert (taken.status, refused.status, again.status) == (201, 412, 201)
    assert again.body["revision"] > taken.body["revision"]
    assert int(taken.headers["etag"].strip('"')) == taken.body["revision"]
