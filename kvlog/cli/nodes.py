"""The commands that ask nodes how things stand: status, replicas, request."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from kvlog.cli.arguments import AskRequest, RemoveReplica, ShowStatus
from kvlog.cli.console import fields, note, say, table
from kvlog.cli.http import MemberSeen, Nodes, NodeStatus, done, segment
from kvlog.errors import CommandFailed, Unavailable

AT_A_TIME = 16
"""Nodes that are asked at a time."""

SETTLE_S = 70.0
"""How long a node may take to settle a request: a write's longest time, and some for the way."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A member or registered replica, and what it says of itself; None, with ``reason``, if it is silent."""

    member: MemberSeen
    status: NodeStatus | None
    body: dict[str, Any]
    reason: str


def ask_members(nodes: Nodes) -> list[Asked]:
    """Ask a node who is there or counted on, and each of those how it stands; ordered by their ids.

    The node that is asked first is among them even if it has lost its own membership.

    Raises:
        Unavailable: none of the nodes answers.
    """
    first = nodes.status()
    seen = (*first.replicas, MemberSeen(first.node, first.address), *first.members)
    members = {member.node: member for member in seen}

    def ask(member: MemberSeen) -> Asked:
        try:
            status, body = nodes.status_of(f"http://{member.address}")
        except Unavailable as error:
            return Asked(member, None, {}, str(error))
        if status.node != member.node:
            return Asked(member, None, {}, f"http://{member.address} is node {status.node} now")
        return Asked(member, status, body, "")

    with ThreadPoolExecutor(AT_A_TIME) as threads:
        return list(threads.map(ask, (members[name] for name in sorted(members))))


def show_status(command: ShowStatus) -> None:
    """``status``: one line for each member."""
    asked = ask_members(Nodes(command.nodes))
    if command.as_json:
        said = [
            {
                "node": one.member.node,
                "address": one.member.address,
                "status": one.body or None,
                "error": one.reason,
            }
            for one in asked
        ]
        sys.stdout.write(msgspec.json.format(msgspec.json.encode({"members": said}), indent=2).decode() + "\n")
        return
    tail = max((one.status.tail_index for one in asked if one.status), default=-1)
    head = ("NODE", "ROLE", "REVISION", "INDEX", "LAG", "STATE", "READY", "REASON")
    say(table(head, [_row(one, tail) for one in asked]))


def _row(asked: Asked, tail: int) -> tuple[str, ...]:
    status = asked.status
    if status is None:
        return (asked.member.node, "?", "?", "?", "?", "silent", "no", asked.reason)
    state = "ok"
    if status.stale:
        state = f"stale ({status.missed_entries} missed)"
    if status.halted_at is not None:
        state = f"halted at {status.halted_at}"
    elif status.role == "halted":
        state = "halted"
    return (
        status.node,
        status.role,
        str(status.revision),
        str(status.applied_index),
        str(max(0, tail - status.applied_index)),
        state,
        "yes" if status.ready else "no",
        status.reason,
    )


def remove_replica(command: RemoveReplica) -> None:
    """``replicas remove``: the log is no longer kept for this node."""
    path = f"/v1/admin/replicas/{segment(command.node_id)}/remove"
    answer = Nodes(command.nodes).ask("POST", path, timeout_s=SETTLE_S)
    body = done(answer, f"remove the replica {command.node_id}")
    if body.get("status") != "done":
        raise CommandFailed(f"{command.node_id} is not removed yet: {body.get('result', '')}")
    say(f"{command.node_id} is not counted on any more; if it comes back, it takes a snapshot")


def ask_request(command: AskRequest) -> None:
    """``request``: what became of a request, in the words of the node."""
    path = f"/v1/requests/{segment(command.request_id)}"
    method, what = ("DELETE", "settle") if command.settle else ("GET", "know")
    answer = Nodes(command.nodes).ask(method, path, timeout_s=SETTLE_S)
    body = done(answer, f"{what} the request {command.request_id}")
    if not body:
        raise CommandFailed(f"{answer.url} says nothing about the request {command.request_id}")
    fields(*((name, _text(value)) for name, value in body.items()))
    if not command.settle and body.get("outcome") not in ("committed", "cancelled"):
        note("this is not final: with --settle it becomes either committed or cancelled, for good")


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
