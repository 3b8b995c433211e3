"""Operators' requests, the status, and the answers that every route shares."""

from __future__ import annotations

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.problems import KINDS

from .wire import call

JSON = "application/json"


def test_another_node_leads_on_request(trio: Cluster, key: str):
    """200 once it does, and no write is lost; whoever does not lead names who does."""
    leader = trio.wait_for_leader()
    for node in trio.nodes:
        if node is not leader:
            named = call(node, "POST", "/v1/admin/transfer").refused(409, "not-leader", f"{leader.address} leads")
            assert named["leader"] == {"node": leader.address, "address": leader.address}
    done = call(leader, "POST", "/v1/admin/transfer", timeout_s=30)
    successor = trio.wait_for_leader()

    assert (done.status, done.body) == (200, {"status": "done", "result": f"{successor.address} leads"})
    assert successor is not leader
    for node in trio.nodes:
        assert call(node, "PUT", f"/v1/kv/{key}", b"v").status in (200, 201)
    assert leader.status()["ready"]


def test_who_stands_alone_hands_over_to_nobody(solo: ClusterNode):
    """503: it goes on leading."""
    answer = call(solo, "POST", "/v1/admin/transfer")

    assert answer.refused(503, "refused", "no other node stands for election")["outcome"] == "refused"
    assert answer.headers["retry-after"] == "1"
    assert solo.status()["is_leader"]
    call(solo, "POST", "/v1/admin/transfer", b"{}", Content_Type=JSON).refused(400, "bad-request", "takes no body")
    call(solo, "POST", "/v1/admin/transfer?to=n2").refused(400, "bad-request", "unknown parameter 'to'")


def test_the_status_tells_of_history_leases_and_the_last_entry(trio: Cluster, key: str):
    """How far the past goes, how many leases the leader keeps, how the last entry has come and when."""
    leader = trio.wait_for_leader()
    lease = call(leader, "POST", "/v1/leases", {"ttl": 60}).body["lease"]
    written = call(leader, "PUT", f"/v1/kv/{key}", b"v").body
    for node in trio.nodes:
        status = node.status()
        last = status["last_entry"]
        assert status["history"] == {"first_revision": 0, "revisions": 100_000}
        assert (last["index"], last["revision"]) == (written["index"], written["revision"])
        assert last["path"] in (("append",) if node is leader else ("push", "watch", "poll"))
        assert last["written_ms"] <= last["came_ms"] <= last["applied_ms"]
        assert status["leases"] == (1 if node is leader else 0)
    assert call(leader, "DELETE", f"/v1/leases/{lease}").status == 200


@pytest.mark.parametrize("path", ["/v1/status", "/v1/leases", "/v1/requests/a"])
def test_what_is_read_takes_no_unknown_parameters(solo: ClusterNode, path: str):
    """400, as everywhere."""
    call(solo, "GET", f"{path}?verbose=1").refused(400, "bad-request", "unknown parameter 'verbose'")


@pytest.mark.parametrize("path", ["/v1/txn", "/v1/batch", "/v1/leases", "/v1/rollback", "/v1/admin/log/skip"])
def test_a_form_of_another_site_is_not_taken_for_json(solo: ClusterNode, path: str):
    """415: a browser sends text/plain and forms anywhere without asking, but not application/json."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = call(solo, "POST", path, b'{"ttl": 10}', Content_Type=kind)
        answer.refused(415, "unsupported-media-type", "send it with the header Content-Type: application/json")


@pytest.mark.parametrize("path", ["/v1/txn", "/v1/leases", "/v1/rollback", "/v1/batch", "/update"])
def test_a_body_in_another_encoding_is_refused(solo: ClusterNode, path: str):
    """415: it would have to be unpacked, to whatever size."""
    answer = call(solo, "POST", path, b"\x1f\x8b", Content_Type=JSON, Content_Encoding="gzip")

    answer.refused(415, "unsupported-media-type", "send it as it is")


def test_every_kind_of_problem_has_a_status_and_a_title():
    """Of an error, in one short sentence."""
    for kind, (status, title, _) in KINDS.items():
        assert 400 <= status < 600, kind
        assert 10 < len(title) < 60, kind
        assert not title.endswith("."), kind


def test_answers_are_not_kept_by_caches(solo: ClusterNode, key: str):
    """A value may be, if it is asked for again each time; nothing else."""
    call(solo, "PUT", f"/v1/kv/{key}", b"v")

    assert call(solo, "GET", f"/v1/kv/{key}").headers["cache-control"] == "no-cache"
    for target in ("/v1/kv", f"/read?key={key}", "/v1/status", f"/v1/kv/{key}-not", f"/v1/history?key={key}"):
        assert call(solo, "GET", target).headers["cache-control"] == "no-store"
