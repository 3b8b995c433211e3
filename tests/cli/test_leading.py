"""transfer and catchup: operators see to who leads, and to a store that has missed something."""

from collections.abc import Callable

from kvlog.processes import wait_until

from .conftest import NodeStandIn, Users, kvlog

MakeNodes = Callable[..., list[NodeStandIn]]


def test_a_transfer_has_another_node_lead(users: Users):
    """Whichever node is asked; nothing that is written meanwhile is lost."""

    def leaders() -> list[str]:
        found = [users.client.status(node.address) for node in users.cluster.nodes]
        return [one["node"] for one in found if one["is_leader"]]

    assert wait_until(lambda: len(leaders()) == 1, 20)
    (before,) = leaders()
    said = users.done("transfer")
    users.put("k", "v")

    assert said.startswith(f"{before} has handed over: ")
    assert wait_until(lambda: len(leaders()) == 1 and leaders() != [before], 20)
    assert users.value("k") == "v"


def test_a_transfer_without_a_leader_says_so(make_nodes: MakeNodes):
    """And one that is refused says why."""
    (node,) = make_nodes("n1")
    node.state["leader"] = None
    nobody = kvlog("transfer", "--node", node.url)
    node.state["leader"] = {"node": "n1", "address": node.address}
    node.routes["POST /v1/admin/transfer"] = lambda _: (503, {"detail": "nobody else stands"})
    refused = kvlog("transfer", "--node", node.url)

    assert (nobody.code, "no leader is known" in nobody.err) == (1, True)
    assert (refused.code, "does not hand over (503): nobody else stands" in refused.err) == (1, True)


def test_a_node_that_lacks_nothing_says_so(users: Users):
    """Catching up is done at once."""
    node = users.cluster.nodes[0].address

    assert users.done("catchup", "--node", node) == f"http://{node}: nothing is missing\n"


def test_catching_up_that_takes_longer_is_said(make_nodes: MakeNodes):
    """It goes on; `status` shows when it is over. As JSON it is the node's own answer."""
    (node,) = make_nodes("n1")
    node.routes["POST /v1/admin/catchup"] = lambda _: (202, {"status": "running", "result": "not done yet"})
    said = kvlog("catchup", "--node", node.url)

    assert (said.code, "has begun, and is not there yet" in said.out) == (0, True)
    assert '"status": "running"' in kvlog("catchup", "--json", "--node", node.url).out
