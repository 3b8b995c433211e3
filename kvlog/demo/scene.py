"""What the story is about: the cluster, what was written to it so far, and what each of its nodes says."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvlog.cluster import Answer, Cluster, ClusterNode
from kvlog.demo.narrator import Cell, Narrator, Step, Table
from kvlog.errors import Unavailable
from kvlog.processes import wait_until
from kvlog.zookeeper.peek import Peek, StoredEntry

KEYS = ("key0", "key1", "key2")
"""The keys that the story reads on every port."""

APPLY_S = 10.0
"""How long a node may take to apply an update that was acknowledged; usually it has when the answer comes."""

TAKEOVER_S = 30.0
"""How long the first update after the leader's death may take. It is far above the session timeout, so that a
slow takeover is seen as that."""

LOG_ENTRIES_MAX = 100
"""How far the story looks back into the log; it writes far fewer entries."""

DIGEST_DIGITS = 8
"""Hex digits of a digest that are shown; all 32 are compared."""


@dataclass(frozen=True, slots=True)
class View:
    """What one node says: its status, and its answers to reads. None and nothing while it is down."""

    node: ClusterNode
    status: dict[str, Any] | None
    reads: dict[str, Answer]

    @property
    def values(self) -> dict[str, str]:
        """The value that it reads for each key."""
        return {key: str(answer.body.get("value")) for key, answer in self.reads.items()}

    @property
    def digest(self) -> str:
        """The checksum over its store; empty while it is down."""
        return str(self.status["digest"]) if self.status is not None else ""

    @property
    def role(self) -> str:
        """What it does in the cluster, in a word."""
        if self.status is None:
            return "down"
        if self.status["is_leader"]:
            return "leader"
        return "stale" if self.status["stale"] else "follower"

    @property
    def says_missed(self) -> set[int]:
        """How many missed entries it admits: in its status, and in header and body of each read.

        One number in a sound node; 0 if it says that it is fresh.
        """
        said = set()
        if self.status is not None:
            said.add(int(self.status["missed_entries"]) if self.status["stale"] else 0)
        for answer in self.reads.values():
            marked = answer.headers.get("kvlog-stale") == "true"
            said.add(int(answer.headers.get("kvlog-missed-entries", 0)) if marked else 0)
            said.add(int(answer.body.get("missed_entries", 0)) if answer.body.get("stale") else 0)
        return said

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        if self.status is None:
            return {"port": self.node.port, "role": self.role}
        return {
            "port": self.node.port,
            "role": self.role,
            "values": self.values,
            "stale": self.status["stale"],
            "missed_entries": self.status["missed_entries"],
            "applied_index": self.status["applied_index"],
            "digest": self.digest,
        }


class Scene:
    """The cluster on stage. Reading and writing raise Unavailable when a node does not answer as it should.

    Attributes:
        zookeeper: what the ensemble is, for people.
        expected: what was written last to each key.
        indices: the log's indices of all updates so far.
        repeated: the answers without a result that the last update got before it was answered.
        unanswered: how many such answers there were so far.
        log_shown: whether the reader has seen entries as they stand in ZooKeeper.
    """

    def __init__(self, cluster: Cluster, peek: Peek, narrator: Narrator, *, zookeeper: str) -> None:
        self.cluster = cluster
        self.zookeeper = zookeeper
        self.peek = peek
        self.narrator = narrator
        self.expected: dict[str, str] = {}
        self.indices: list[int] = []
        self.repeated: list[Answer] = []
        self.unanswered = 0
        self.log_shown = False
        self._generation = 0

    def new_value(self) -> str:
        """The value of the next round of updates: v1, v2, ..."""
        self._generation += 1
        return f"v{self._generation}"

    @property
    def leader(self) -> ClusterNode:
        """Who leads, once all nodes that run agree on it."""
        return self.cluster.wait_for_leader()

    def follower(self) -> ClusterNode:
        """A node that runs and does not lead."""
        leader = self.leader
        return next(node for node in self.cluster.running if node is not leader)

    def update(self, node: ClusterNode, key: str, value: str, *, timeout_s: float = APPLY_S) -> Answer:
        """Update a key through a node; notes what every replica should hold from now on.

        While the leader is being replaced, an answer can be that the outcome is not known. Then the update is
        repeated, which does no harm: it sets the same key to the same value. ``repeated`` has those answers.
        """
        end = time.monotonic() + timeout_s
        answers: list[Answer] = []

        def committed() -> bool:
            answers.append(node.update(key, value, timeout_s=max(0.1, end - time.monotonic())))
            return answers[-1].body.get("outcome") == "committed"

        done = wait_until(committed, timeout_s)
        *self.repeated, answer = answers
        if not done:
            raise Unavailable(f"POST /update on {node.address} was answered {answer.status}: {answer.body}")
        self.unanswered += len(self.repeated)
        self.expected[key] = value
        self.indices.append(int(answer.body["index"]))
        return answer

    # --- reading ------------------------------------------------------------------------------------------

    def look(self, keys: Sequence[str] = KEYS) -> list[View]:
        """Read the keys on every port, once what was written is applied there."""
        running = self.cluster.running
        # Without the wait, a node that is merely slow would look broken. If the time is up, what is read tells.
        wait_until(lambda: all(self._applied(node) for node in running), APPLY_S)
        return [
            View(node, node.status(), {key: read(node, key) for key in keys})
            if node in running
            else View(node, None, {})
            for node in self.cluster.nodes
        ]

    def _applied(self, node: ClusterNode) -> bool:
        return int(node.status()["applied_index"]) >= self.indices[-1]

    def show(self, step: Step, views: Sequence[View]) -> None:
        """A table of the reads on every port. A cell is stale if the leader reads another value."""
        truth = next((view.values for view in views if view.role == "leader"), self.expected)
        keys = list(truth)
        rows = []
        for view in views:
            row = [Cell(str(view.node.port)), Cell(view.role, _ROLE_STYLES.get(view.role, ""))]
            if view.status is None:
                rows.append([*row, *(Cell("-") for _ in range(len(keys) + 2))])
                continue
            for key in keys:
                value = view.values[key] or '""'
                stale = view.values[key] != truth[key]
                row.append(Cell(f"{value} <- stale", "bold red") if stale else Cell(value, "green"))
            missed = view.status["missed_entries"]
            row.append(Cell(f"stale, missed {missed}", "bold yellow") if missed else Cell("fresh"))
            row.append(Cell(view.digest[:DIGEST_DIGITS]))
            rows.append(row)
        self.narrator.voice.table(Table(("port", "role", *keys, "says it is", "digest"), rows))
        step.data["reads"] = [view.as_data() for view in views]

    def show_roles(self, step: Step) -> None:
        """A table of who does what."""
        views = [View(node, node.status() if node.running else None, {}) for node in self.cluster.nodes]
        rows = [
            (
                Cell(str(view.node.port)),
                Cell(view.role, _ROLE_STYLES.get(view.role, "")),
                Cell(str(view.node.child.pid) if view.node.running and view.node.child else "-"),
            )
            for view in views
        ]
        self.narrator.voice.table(Table(("port", "role", "process"), rows))
        step.data["roles"] = {str(view.node.port): view.role for view in views}

    # --- the log ------------------------------------------------------------------------------------------

    def log_after(self, index: int) -> list[StoredEntry]:
        """The entries in ZooKeeper behind an index."""
        return [entry for entry in self.peek.last_entries(LOG_ENTRIES_MAX) if entry.index > index]

    def show_log(self, step: Step, entries: Sequence[StoredEntry]) -> None:
        """A table of entries: what each of them does."""
        rows = [(Cell(str(entry.index)), Cell("; ".join(entry.says))) for entry in entries]
        self.narrator.voice.table(Table(("entry", "what it says"), rows))
        step.data["entries"] = [{"index": entry.index, "says": entry.says} for entry in entries]


_ROLE_STYLES = {"leader": "bold", "down": "red", "stale": "yellow"}


def read(node: ClusterNode, key: str) -> Answer:
    """GET /read on a node.

    Raises:
        Unavailable: no answer, or one without a value.
    """
    answer = node.read(key)
    if "value" not in answer.body:
        raise Unavailable(f"GET /read?key={key} on {node.address} was answered {answer.status}: {answer.body}")
    return answer


def explain(node: ClusterNode, key: str) -> Answer:
    """What a node says of a key: what it holds, and what it has not applied."""
    return node.request("GET", "/v1/explain", fields={"key": key})


def curl_explain(node: ClusterNode, key: str) -> str:
    """The command for it."""
    return f"$ curl 'http://{node.address}/v1/explain?key={key}'"


def curl_read(node: ClusterNode, key: str) -> str:
    """The command that reads a key there."""
    return f"$ curl 'http://{node.address}/read?key={key}'"


def curl_update(node: ClusterNode, key: str, value: str) -> str:
    """The command that updates a key there."""
    body = json.dumps({"key": key, "value": value}, separators=(",", ":"))
    return f"$ curl -X POST http://{node.address}/update -d '{body}'"


def curl_post(node: ClusterNode, path: str) -> str:
    """The command that posts nothing to a path there."""
    return f"$ curl -X POST http://{node.address}{path}"


def curl_get(node: ClusterNode, path: str) -> str:
    """The command that gets a path there."""
    return f"$ curl http://{node.address}{path}"
