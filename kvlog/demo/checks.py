"""The checks that several steps make, and how a request is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence

from kvlog.cluster import Answer, ClusterNode
from kvlog.demo.narrator import Step
from kvlog.demo.scene import Scene, View


def values(step: Step, views: Sequence[View], text: str, expected: dict[str, str]) -> None:
    """Claim that each of the nodes reads the expected value of each key."""
    step.check(
        text,
        expected={view.node.port: expected for view in views},
        seen={view.node.port: view.values for view in views},
    )


def marks(step: Step, views: Sequence[View], old: ClusterNode, missed: int) -> None:
    """Claim that one node says everywhere that it is stale, and how much, and that no other node does."""
    step.check(
        f"every answer of port {old.port} says: stale, {missed} entries missed; no other port says so",
        expected={view.node.port: {missed if view.node is old else 0} for view in views},
        seen={view.node.port: view.says_missed for view in views},
    )


def digests(step: Step, views: Sequence[View]) -> None:
    """Claim that the nodes have the same data."""
    found = {view.node.port: view.digest for view in views}
    step.claim(
        f"all {len(views)} ports have the same digest",
        len(set(found.values())) == 1,
        expected="one digest",
        seen=str(found),
    )


def all_equal(scene: Scene, step: Step, views: Sequence[View]) -> None:
    """Claim that every node has everything that was written, and says so."""
    expected = {key: scene.expected[key] for key in views[0].values}
    values(step, views, f"all ports read what was written last to {', '.join(expected)}", expected)
    step.check(
        "no port says that it is stale",
        expected={view.node.port: {0} for view in views},
        seen={view.node.port: view.says_missed for view in views},
    )
    digests(step, views)


def exchange(scene: Scene, step: Step, command: str, answer: Answer) -> None:
    """Show a request as the command that makes it, with its answer."""
    scene.narrator.voice.listing([command, json.dumps(answer.body)])
    step.data.setdefault("requests", []).append({"command": command.removeprefix("$ "), "answer": answer.body})


def sentences(scene: Scene, step: Step, command: str, answer: Answer) -> None:
    """Show a request, and of its answer what is said in words."""
    scene.narrator.voice.listing([command, *(f"  {sentence}" for sentence in answer.body.get("summary", []))])
    step.data.setdefault("requests", []).append({"command": command.removeprefix("$ "), "answer": answer.body})


def named_leaders(scene: Scene) -> set[str | None]:
    """Whom the nodes that run name as the leader: one of them, if all is well."""
    leaders = [node.status()["leader"] for node in scene.cluster.running]
    return {leader["address"] if leader else None for leader in leaders}
