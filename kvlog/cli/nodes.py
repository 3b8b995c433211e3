"""The commands that ask nodes how things stand, or to see to it: status, replicas, request, transfer, catchup."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import msgspec

from kvlog.cli.commands import PROGRAM, AskRequest, CatchUp, RemoveReplica, ShowStatus, TransferLead
from kvlog.cli.console import document, drawn, duration, fields, note, say, table
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
    """``status``: one line for each member, drawn as a table on a terminal."""
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
        document({"members": said})
        return
    known = [one.status for one in asked if one.status is not None]
    tail = max((max(status.tail_index, status.applied_index) for status in known), default=-1)
    rows = [_Row.of(one, tail) for one in asked]
    if sys.stdout.isatty():
        reasons = [f"{row.cells[0]}: {row.reason}" for row in rows if row.reason]
        drawn((*_Row.HEAD, "READY"), [(row.style, (*row.cells, row.verdict)) for row in rows], reasons)
    else:
        words = [(*row.cells, row.state, "yes" if row.ready else "no", row.reason) for row in rows]
        say(table((*_Row.HEAD, "STATE", "READY", "REASON"), words))


@dataclass(frozen=True, slots=True)
class _Row:
    """A member in the table: short cells, what is wrong with it, and whether and why it is not ready."""

    HEAD: ClassVar[Sequence[str]] = ("NODE", "ROLE", "REVISION", "INDEX", "LAG", "PATH", "STALENESS")
    cells: Sequence[str]
    state: str
    ready: bool
    reason: str
    style: str

    @classmethod
    def of(cls, asked: Asked, tail: int) -> Self:
        """The row of a member; ``tail`` is the highest index that any of them knows of."""
        status = asked.status
        if status is None:
            return cls((asked.member.node, *"??????"), "silent", ready=False, reason=asked.reason, style="red")
        state, style = "ok", ("bold" if status.role == "leader" else "") if status.ready else "yellow"
        if status.stale:
            state = f"stale ({status.missed_entries} missed)"
        if status.role == "halted" or status.halted_at is not None:
            state, style = "halted" if status.halted_at is None else f"halted at {status.halted_at}", "red"
        cells = (
            status.node,
            status.role,
            str(status.revision),
            str(status.applied_index),
            str(max(0, tail - status.applied_index)),
            status.last_entry.path if status.last_entry else "?",
            duration(status.staleness_ms),
        )
        return cls(cells, state, status.ready, status.reason, style)

    @property
    def verdict(self) -> str:
        """State and readiness in one word."""
        if self.state == "ok":
            return "yes" if self.ready else "no"
        return self.state.split()[0]


def remove_replica(command: RemoveReplica) -> None:
    """``replicas remove``: the log is no longer kept for this node."""
    path = f"/v1/admin/replicas/{segment(command.node_id)}/remove"
    answer = Nodes(command.nodes).ask("POST", path, timeout_s=SETTLE_S)
    body = done(answer, f"remove the replica {command.node_id}")
    if body.get("status") != "done":
        raise CommandFailed(f"{command.node_id} is not removed yet: {body.get('result', '')}")
    if command.as_json:
        document({"node": command.node_id, "removed": True})
        return
    say(f"{command.node_id} is not counted on any more; if it comes back, it takes a snapshot")


def ask_request(command: AskRequest) -> None:
    """``request``: what became of a request, in the words of the node."""
    path = f"/v1/requests/{segment(command.request_id)}"
    method, what = ("DELETE", "settle") if command.settle else ("GET", "know")
    answer = Nodes(command.nodes).ask(method, path, timeout_s=SETTLE_S)
    body = done(answer, f"{what} the request {command.request_id}")
    if not body:
        raise CommandFailed(f"{answer.url} says nothing about the request {command.request_id}")
    if command.as_json:
        document(body)
    else:
        fields(*((name, _text(value)) for name, value in body.items()))
    if not command.settle and body.get("outcome") not in ("committed", "cancelled"):
        note("this is not final: with --settle it becomes either committed or cancelled, for good")


def transfer_lead(command: TransferLead) -> None:
    """``transfer``: the node that leads is asked to have another one lead.

    Raises:
        CommandFailed: nobody leads, or nobody else stands.
    """
    nodes = Nodes(command.nodes)
    leader = nodes.status().leader
    if leader is None:
        raise CommandFailed(f"no leader is known; `{PROGRAM} status` shows when there is one")
    body = done(nodes.ask_one(f"http://{leader.address}", "POST", "/v1/admin/transfer"), "hand over")
    if body.get("status") != "done":
        raise CommandFailed(f"{leader.node} has not handed over yet: {body.get('result', '')}")
    if command.as_json:
        document({"from": leader.node} | body)
        return
    say(f"{leader.node} has handed over: {body.get('result', f'`{PROGRAM} status` shows who leads')}")


def catch_up(command: CatchUp) -> None:
    """``catchup``: the node fills in what its store has missed.

    Raises:
        CommandFailed: it does not.
    """
    body = done(Nodes((command.node,)).ask("POST", "/v1/admin/catchup", timeout_s=SETTLE_S), "catch up")
    if command.as_json:
        document({"node": command.node} | body)
    elif body.get("status") == "done":
        say(f"{command.node}: {body.get('result', 'nothing is missing any more')}")
    else:
        say(f"{command.node} has begun, and is not there yet; `{PROGRAM} status` shows when it is")


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
