"""status, replicas, request: what people see of what nodes say."""

import json
import re
from collections.abc import Callable

from kvlog.processes import free_ports

from .conftest import NodeStandIn, kvlog, on_terminal

MakeNodes = Callable[..., list[NodeStandIn]]


def rows(text: str) -> dict[str, list[str]]:
    """The lines of a table by their first word."""
    return {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}


def test_status_has_a_line_for_each_member(make_nodes: MakeNodes):
    """Role, revision, index, lag, path, staleness, what is wrong with it, and why it is not ready."""
    leader, stale, halted = make_nodes("n1", "n2", "n3")
    leader.state |= {
        "role": "leader",
        "tail_index": 52,
        "applied_index": 52,
        "staleness_ms": 7,
        "last_entry": {"path": "push"},
    }
    stale.state |= {"stale": True, "missed_entries": 7, "ready": False, "reason": "the store is stale: missed 7"}
    halted.state |= {"role": "halted", "halted_at": 50, "ready": False, "reason": "halted: entry 50 is damaged"}
    result = kvlog("status", "--node", stale.url)
    found = rows(result.out)

    assert (result.code, result.err) == (0, "")
    assert list(found) == ["NODE", "n1", "n2", "n3"]
    assert found["n1"] == ["n1", "leader", "40", "52", "0", "push", "7ms", "ok", "yes"]
    assert " ".join(found["n2"]) == "n2 follower 40 49 3 ? ? stale (7 missed) no the store is stale: missed 7"
    assert " ".join(found["n3"]) == "n3 halted 40 49 3 ? ? halted at 50 no halted: entry 50 is damaged"


def test_status_is_drawn_on_a_terminal(make_nodes: MakeNodes):
    """A table that fits into eighty columns, and below it why nodes are not ready, in full."""
    leader, stale, silent = make_nodes("127.0.0.1:5000", "127.0.0.1:5001", "127.0.0.1:5002")
    leader.state |= {
        "role": "leader",
        "staleness_ms": 61_000,
        "last_entry": {"path": "push"},
        "revision": 12_345_678,
    }
    stale.state |= {"stale": True, "missed_entries": 7, "ready": False, "reason": "it is [red] " + "so " * 60}
    silent.stop()
    result = on_terminal("stdout", "status", "--node", leader.url, columns=80)
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.out)
    found = rows(text)

    assert (result.code, result.err) == (0, "")
    assert "\x1b[1m" in result.out  # the leader is bold
    assert max(map(len, text.splitlines())) <= 80
    assert found["NODE"] == ["NODE", "ROLE", "REVISION", "INDEX", "LAG", "PATH", "STALENESS", "READY"]
    assert found["127.0.0.1:5000"] == [leader.node_id, "leader", "12345678", "49", "0", "push", "1m01s", "yes"]
    assert found["127.0.0.1:5001"] == [stale.node_id, "follower", "40", "49", "0", "?", "?", "stale"]
    assert found["127.0.0.1:5002"] == [silent.node_id, "?", "?", "?", "?", "?", "?", "silent"]
    assert f"127.0.0.1:5001: it is [red] {'so ' * 60}127.0.0.1:5002: {silent.url} does not" in " ".join(
        text.split()
    )


def test_lag_is_counted_from_the_highest_index_that_any_node_knows(make_nodes: MakeNodes):
    """Also one that only a node knows that has not applied it."""
    behind, knows = make_nodes("n1", "n2")
    knows.state["tail_index"] = 60
    found = rows(kvlog("status", "--node", behind.url).out)

    assert (found["n1"][4], found["n2"][4]) == ("11", "11")


def test_a_member_that_does_not_answer_has_a_line_too(make_nodes: MakeNodes):
    """It says what went wrong; the others are shown as ever."""
    up, down = make_nodes("n1", "n2")
    down.stop()
    result = kvlog("status", "--node", up.url)
    silent = rows(result.out)["n2"]

    assert result.code == 0
    assert silent[:9] == ["n2", "?", "?", "?", "?", "?", "?", "silent", "no"]
    assert " ".join(silent[9:]) == f"{down.url} does not answer: connection refused"


def test_a_node_that_is_no_member_is_shown_all_the_same(make_nodes: MakeNodes):
    """Cut off from ZooKeeper, it knows no members: not even itself."""
    (node,) = make_nodes("n1")
    node.state |= {"members": [], "ready": False, "reason": "no connection to ZooKeeper"}

    assert rows(kvlog("status", "--node", node.url).out)["n1"][-4:] == ["no", "connection", "to", "ZooKeeper"]


def test_status_as_json_holds_all_that_was_said(make_nodes: MakeNodes):
    """For programs: each member's whole answer, or why there is none."""
    up, down = make_nodes("n1", "n2")
    up.state["something_new"] = [1]
    down.stop()
    members = json.loads(kvlog("status", "--json", "--node", up.url).out)["members"]

    assert members[0] == {"node": "n1", "address": up.address, "status": up.state, "error": ""}
    assert (members[1]["status"], "connection refused" in members[1]["error"]) == (None, True)


def test_the_first_node_that_works_is_asked(make_nodes: MakeNodes):
    """Those that are down or in trouble are passed over; if all are, each one's reason is said."""
    (works,) = make_nodes("n1")
    (troubled,) = make_nodes("n2")
    troubled.routes["GET /v1/requests/r1"] = lambda _: (503, {"detail": "no leader is known"})
    works.routes["GET /v1/requests/r1"] = lambda _: (200, {"outcome": "committed", "revision": 7})
    down = f"http://127.0.0.1:{free_ports(1)[0]}"

    found = kvlog("request", "r1", "--node", f"{down},{troubled.url}", "--node", works.url)
    failed = kvlog("request", "r1", "--node", f"{down},{troubled.url}")

    assert (found.code, found.err) == (0, "")
    assert found.out.split() == ["outcome", "committed", "revision", "7"]
    assert failed.code == 1
    assert f"{down} does not answer: connection refused" in failed.err
    assert f"{troubled.url} answers 503: no leader is known" in failed.err
    assert "name a node that works with --node http://HOST:PORT" in failed.err


def test_a_page_of_something_else_is_said_to_be_one(make_nodes: MakeNodes):
    """A web server that is no node of kvlog, or one of another version, ends in a sentence."""
    (node,) = make_nodes("n1")
    node.routes["GET /v1/status"] = lambda _: (200, b"<html>")
    html = kvlog("status", "--node", node.url)
    node.routes["GET /v1/status"] = lambda _: (200, {"node": "n1"})
    other = kvlog("status", "--node", node.url)
    node.routes["GET /v1/status"] = lambda _: (200, b" " * (5 * 1024 * 1024))
    endless = kvlog("status", "--node", node.url)

    assert (html.code, other.code, endless.code) == (1, 1, 1)
    assert "it is no node of kvlog" in html.err
    assert "use the command line of the version that runs there" in other.err
    assert "answers with more than 4194304 bytes" in endless.err


def test_request_settles_only_when_told_to(make_nodes: MakeNodes):
    """GET asks, DELETE settles; an answer that is not final says how to get one."""
    (node,) = make_nodes("n1")
    node.routes["GET /v1/requests/a%2Fb"] = lambda _: (200, {"outcome": "unknown"})
    node.routes["DELETE /v1/requests/a%2Fb"] = lambda _: (200, {"outcome": "cancelled", "revision": 9})
    asked = kvlog("request", "a/b", "--node", node.url)
    settled = kvlog("request", "a/b", "--settle", "--node", node.url)

    assert node.asked == ["GET /v1/requests/a%2Fb", "DELETE /v1/requests/a%2Fb"]
    assert (asked.code, "with --settle it becomes" in asked.err) == (0, True)
    assert (settled.code, settled.out.split(), settled.err) == (0, ["outcome", "cancelled", "revision", "9"], "")


def test_a_request_that_nobody_remembers_fails(make_nodes: MakeNodes):
    """404: the node's own words, and exit code 1."""
    (node,) = make_nodes("n1")
    node.routes["GET /v1/requests/r1"] = lambda _: (404, {"detail": "request r1 is not remembered"})
    result = kvlog("request", "r1", "--node", node.url)

    assert result.code == 1
    assert "does not know the request r1 (404): request r1 is not remembered" in result.err


def test_a_replica_is_removed_by_its_id(make_nodes: MakeNodes):
    """POST to any node; its refusal is said."""
    (node,) = make_nodes("n1")
    path = "POST /v1/admin/replicas/127.0.0.1%3A5002/remove"
    node.routes[path] = lambda _: (200, {"status": "done"})
    removed = kvlog("replicas", "remove", "127.0.0.1:5002", "--node", node.url)
    node.routes[path] = lambda _: (409, {"detail": "it is up"})
    refused = kvlog("replicas", "remove", "127.0.0.1:5002", "--node", node.url)
    node.routes[path] = lambda _: (202, {"status": "running", "result": "not done yet"})
    running = kvlog("replicas", "remove", "127.0.0.1:5002", "--node", node.url)

    assert (removed.code, removed.err) == (0, "")
    assert "127.0.0.1:5002 is not counted on any more" in removed.out
    assert (refused.code, "(409): it is up" in refused.err) == (1, True)
    assert (running.code, "is not removed yet: not done yet" in running.err) == (1, True)


def test_as_json_a_request_is_what_the_node_says(make_nodes: MakeNodes):
    """Numbers stay numbers; what is not final is still said, on stderr."""
    (node,) = make_nodes("n1")
    node.routes["GET /v1/requests/r1"] = lambda _: (200, {"outcome": "unknown", "revision": 7})
    result = kvlog("request", "r1", "--json", "--node", node.url)

    assert (result.code, json.loads(result.out)) == (0, {"outcome": "unknown", "revision": 7})
    assert "with --settle it becomes" in result.err


def test_as_json_a_removed_replica_is_named(make_nodes: MakeNodes):
    """And one that is not removed leaves stdout empty."""
    (node,) = make_nodes("n1")
    node.routes["POST /v1/admin/replicas/n2/remove"] = lambda _: (200, {"status": "done"})
    removed = kvlog("replicas", "remove", "n2", "--json", "--node", node.url)
    refused = kvlog("replicas", "remove", "n3", "--json", "--node", node.url)

    assert json.loads(removed.out) == {"node": "n2", "removed": True}
    assert (refused.code, refused.out) == (1, "")
