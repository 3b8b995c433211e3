"""log skip: only an entry that nobody has, and only with everybody there."""

import json
from collections.abc import Callable

import pytest

from .conftest import NodeStandIn, Reply, Result, kvlog

INDEX = 50
SKIP = "POST /v1/admin/log/skip"


@pytest.fixture
def halted(make_nodes: Callable[..., list[NodeStandIn]]) -> list[NodeStandIn]:
    """Three nodes that have halted at entry 50; a skip, posted to any of them, sends all of them past it."""
    nodes = make_nodes("n1", "n2", "n3")

    def skip(body: bytes) -> Reply:
        bodies.append(json.loads(body))
        for node in nodes:
            node.state |= {"role": "follower", "halted_at": None, "applied_index": INDEX, "ready": True}
        return 200, {"status": "done"}

    bodies: list[dict] = []
    for node in nodes:
        node.state |= {
            "role": "halted",
            "halted_at": INDEX,
            "ready": False,
            "reason": "halted: entry 50 is damaged",
        }
        node.routes[SKIP] = skip
        node.bodies = bodies  # type: ignore[attr-defined]
    return nodes


def run(nodes: list[NodeStandIn], *flags: str) -> Result:
    """The command, by way of the first of the nodes."""
    return kvlog("log", "skip", INDEX, "--reason", "a bad disk", "--node", nodes[0].url, *flags)


def posted(nodes: list[NodeStandIn]) -> int:
    """How often a skip was asked for."""
    return sum(node.asked.count(SKIP) for node in nodes)


def test_an_entry_that_nobody_has_is_skipped(halted: list[NodeStandIn]):
    """One halted node is told, with the reason; the command ends once all are past it."""
    result = run(halted)

    assert (result.code, posted(halted)) == (0, 1)
    assert halted[0].bodies == [{"index": INDEX, "reason": "a bad disk"}]  # type: ignore[attr-defined]
    assert result.out == "entry 50 is skipped; all 3 members have gone past it\n"


def test_as_json_the_skip_names_who_went_past_it(halted: list[NodeStandIn]):
    """The node that has written it, and all members."""
    result = run(halted, "--json")

    assert (result.code, json.loads(result.out)) == (0, {"index": 50, "by": "n1", "members": ["n1", "n2", "n3"]})


def test_an_entry_that_somebody_has_is_not_skipped(halted: list[NodeStandIn]):
    """The others take that node's snapshot instead; the sentence says how."""
    halted[2].state |= {"role": "leader", "halted_at": None, "applied_index": INDEX}
    result = run(halted)

    assert (result.code, posted(halted)) == (1, 0)
    assert "n3 has applied entry 50, so nothing is lost" in result.err
    assert "stop each of them, `mv DIR/store DIR/store.before`" in result.err


def test_nothing_is_skipped_behind_a_silent_member(halted: list[NodeStandIn]):
    """It might have the entry."""
    halted[1].stop()
    result = run(halted)

    assert (result.code, posted(halted)) == (1, 0)
    assert "n2 has not said whether it has applied entry 50" in result.err


def test_nothing_is_skipped_behind_a_replica_that_is_away(halted: list[NodeStandIn]):
    """It is no member, but counted on; before it went away it may have applied the entry."""
    away = halted.pop()
    away.stop()
    for node in halted:
        node.state["members"] = [{"node": one.node_id, "address": one.address} for one in halted]
        node.state["replicas"] = [{"node": "n3", "address": away.address, "durable_index": 40}]
    result = run(halted)

    assert (result.code, posted(halted)) == (1, 0)
    assert "n3 has not said whether it has applied entry 50" in result.err
    assert "`python -m kvlog replicas remove n3`" in result.err


def test_nothing_is_skipped_behind_a_node_with_another_name(halted: list[NodeStandIn]):
    """Another node at a member's address says nothing about that member."""
    halted[1].state["node"] = "n9"
    result = run(halted)

    assert (result.code, posted(halted)) == (1, 0)
    assert "is node n9 now" in result.err


def test_a_stale_node_behind_the_entry_prevents_a_skip(halted: list[NodeStandIn]):
    """It stands behind what somebody must have applied."""
    halted[1].state |= {"halted_at": None, "applied_index": 60, "stale": True, "missed_entries": 20}
    result = run(halted)

    assert (result.code, posted(halted)) == (1, 0)
    assert "n2 is stale" in result.err


def test_nothing_is_skipped_where_nobody_has_halted(halted: list[NodeStandIn]):
    """The wrong index, or a cluster that is well: it says where the members are."""
    for node in halted:
        node.state |= {"halted_at": 40, "applied_index": 39}
    result = run(halted)

    assert (result.code, posted(halted)) == (1, 0)
    assert "no member has halted at entry 50 (n1 is at 39 (halted at 40)" in result.err


def test_a_refusal_is_said(halted: list[NodeStandIn]):
    """The node's own words."""
    halted[0].routes[SKIP] = lambda _: (409, {"detail": "somebody has skipped it"})
    result = run(halted)

    assert result.code == 1
    assert "does not skip the entry 50 (409): somebody has skipped it" in result.err


def test_who_does_not_come_past_the_entry_is_named(halted: list[NodeStandIn]):
    """In the time that was given."""
    skip = halted[0].routes[SKIP]

    def all_but_one(body: bytes) -> Reply:
        before = dict(halted[1].state)
        reply = skip(body)
        halted[1].state = before
        return reply

    halted[0].routes[SKIP] = all_but_one
    result = run(halted, "--wait", "0.3")

    assert (result.code, posted(halted)) == (1, 1)
    assert (
        "not all members have gone past it: n2 is at 49, halted at 50: halted: entry 50 is damaged" in result.err
    )
