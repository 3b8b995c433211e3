"""A node explains its reads: what is here, what is missing and since when, who leads, by which way it came."""

from __future__ import annotations

from typing import Any

from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import wait_until

PAUSE_MS = 2_000


def explain(node: ClusterNode, key: str) -> dict[str, Any]:
    answer = node.request("GET", "/v1/explain", fields={"key": key})
    assert answer.status == 200, answer
    return answer.body


def entries(node: ClusterNode, **parameters: object) -> dict[str, Any]:
    answer = node.request("GET", "/v1/log", fields={name: str(value) for name, value in parameters.items()})
    assert answer.status == 200, answer
    return answer.body


def test_what_is_applied_tells_by_which_way_it_came(leader: ClusterNode, follower: ClusterNode, key: str):
    """The leader has appended it, the others have got it from its push or the watch, whichever was faster."""
    written = leader.update(key, "v").body

    assert wait_until(lambda: explain(follower, key)["present"], 5)
    at_leader, at_follower = explain(leader, key), explain(follower, key)

    assert at_leader["last_change"]["path"] == "append"
    assert at_follower["last_change"]["path"] in ("push", "watch")
    for found in (at_leader, at_follower):
        change = found["last_change"]
        assert (change["revision"], change["index"]) == (written["revision"], written["index"])
        assert 0 <= change["arrived_after_ms"] <= change["applied_after_ms"] < 5_000
        assert (found["not_applied"], found["entries_not_applied"]) == ([], [])
        assert found["leader"]["address"] == leader.address
        assert any(f"{key} is 'v' on this node" in sentence for sentence in found["summary"])
        assert any("everything that was in the log" in sentence for sentence in found["summary"])


def test_a_key_that_was_deleted_says_when(leader: ClusterNode, key: str):
    """And one that never was says nothing of a change."""
    leader.update(key, "v")
    deleted = leader.request("DELETE", f"/v1/kv/{key}").body

    found, never = explain(leader, key), explain(leader, f"{key}/never")

    assert (found["present"], found["last_change"]["revision"]) == (False, deleted["revision"])
    assert (never["present"], never["last_change"]) == (False, None)


def test_a_node_that_lags_names_what_it_has_not_applied(
    standing: Cluster, leader: ClusterNode, follower: ClusterNode, key: str
):
    """The entries that touch the key, and no others, with what they do and since when."""
    leader.update(key, "old")
    assert follower.request("PUT", "/v1/failpoints", body=f"before_apply:sleep:{PAUSE_MS}".encode()).status == 200
    new = leader.update(key, "new", ack="log").body
    leader.update(f"{key}/other", "x", ack="log")
    gone = leader.request("DELETE", f"/v1/kv/{key}?ack=log").body
    assert wait_until(lambda: follower.status()["tail_index"] >= gone["index"], 2)

    found = explain(follower, key)

    assert follower.request("PUT", "/v1/failpoints", body=b"").status == 200
    changes = [(change["index"], change["revision"], change["op"]) for change in found["not_applied"]]
    assert changes == [(new["index"], new["revision"], "put"), (gone["index"], gone["revision"], "delete")]
    assert found["not_applied"][0]["value"] == "new"
    assert 0 <= found["not_applied"][0]["age_ms"] < 60_000
    assert found["missed_entries"] == 0
    assert found["looked_at"]["why_not_all"] == ""
    assert any("It is behind" in sentence for sentence in found["summary"])
    assert any(f"deletes {key}: it is not applied here" in sentence for sentence in found["summary"])
    standing.wait_for_agreement()
    assert explain(follower, key)["not_applied"] == []


def test_a_stale_node_names_what_it_has_missed(standing: Cluster, leader: ClusterNode, key: str):
    """They are in the log, so that it can tell, although it has not applied them; healed, none is left."""
    follower = next(node for node in standing.nodes if node is not leader)
    leader.update(key, "old")
    leader.update(f"{key}/same", "same")
    follower.kill()
    missed = leader.update(key, "new").body
    follower.start(recover="stale")

    found, other = explain(follower, key), explain(follower, f"{key}/same")

    assert (found["missed_entries"], len(found["not_applied"])) == (follower.status()["missed_entries"], 1)
    assert (found["not_applied"][0]["index"], found["not_applied"][0]["value"]) == (missed["index"], "new")
    assert any("Its store is stale" in sentence for sentence in found["summary"])
    assert other["not_applied"] == []
    assert any("touches" in sentence for sentence in other["summary"])
    assert follower.catch_up().status == 200
    healed = explain(follower, key)
    assert (healed["not_applied"], healed["missed_entries"], healed["present"]) == ([], 0, True)


def test_what_a_restarted_node_replays_says_so(standing: Cluster, leader: ClusterNode, key: str):
    """It was in the log before the node was there."""
    follower = next(node for node in standing.nodes if node is not leader)
    follower.kill()
    for number in range(3):
        leader.update(key, f"v{number}")
    follower.start()
    standing.wait_for_agreement()

    assert explain(follower, key)["last_change"]["path"] in ("replay", "push")
    paths = {entry.get("path") for entry in entries(follower, limit=20)["entries"]}
    assert "replay" in paths


def test_the_log_shows_its_entries(leader: ClusterNode, follower: ClusterNode, key: str):
    """The last ones, or those from an index on; each as it is in ZooKeeper, with its way to this node."""
    first = leader.update(key, "1").body["index"]
    leader.update(key, "2")

    shown = entries(follower, **{"from": first, "limit": 2})

    assert [entry["index"] for entry in shown["entries"]] == [first, first + 1]
    assert shown["next"] == first + 2
    assert shown["entries"][0]["requests"][0]["effects"][0]["key"] == key
    assert [entry["index"] for entry in entries(follower, limit=2)["entries"]] == [first, first + 1]


def test_the_log_can_be_waited_for(leader: ClusterNode, follower: ClusterNode, key: str):
    """What is not there yet is shown as soon as it has come; nothing, if it does not come in time."""
    behind = leader.status()["tail_index"] + 1
    assert entries(follower, **{"from": behind, "wait": "0.2"})["entries"] == []
    assert leader.update(key, "now", ack="log").status == 200

    shown = entries(follower, **{"from": behind, "wait": "20"})

    assert [entry["index"] for entry in shown["entries"]] == [behind]


def test_without_zookeeper_a_node_explains_what_it_can(
    standing: Cluster, leader: ClusterNode, follower: ClusterNode, key: str, fragile_ensemble: LocalEnsemble
):
    """What is here is known; the log is not to be had, which is said."""
    leader.update(key, "v")
    for server in fragile_ensemble.servers[:2]:
        server.kill()

    def refused() -> bool:
        log = follower.request("GET", "/v1/log", timeout_s=30)
        return (log.status, log.body.get("type")) == (503, "kvlog:unavailable")

    # The server that is left may serve for a moment, until it knows that it has no quorum.
    assert wait_until(refused, 30)
    assert explain(follower, key)["present"]
