"""``log skip``: leave out an entry that no node can apply.

Whoever has applied an entry has answered reads with it. So as long as one node has it, nothing may be skipped: the
others take that node's snapshot instead, and nothing is lost.
"""

from __future__ import annotations

import time

from kvlog.cli.commands import PROGRAM, SkipEntry
from kvlog.cli.console import document, note, say
from kvlog.cli.http import ANSWER_S, Nodes, NodeStatus, done
from kvlog.cli.nodes import Asked, ask_members
from kvlog.errors import CommandFailed, Unavailable

LOOK_EVERY_S = 0.2


def skip(command: SkipEntry) -> None:
    """Look whether the entry may be skipped, have it skipped, and wait until all members are past it.

    Raises:
        CommandFailed: it may not be, or not all members have come past it in time.
        Unavailable: no node answers, or the answer of the one that skips is lost.
    """
    nodes = Nodes(command.nodes)
    asked = ask_members(nodes)
    halted = _halted_members(asked, command.index)
    url = f"http://{halted[0].address}"
    body = {"index": command.index, "reason": command.reason}
    try:
        answer = nodes.ask_one(url, "POST", "/v1/admin/log/skip", body, timeout_s=ANSWER_S + command.wait_s)
    except Unavailable as error:
        raise Unavailable(
            f"{error}; it is not known whether the entry {command.index} is skipped: look with `{PROGRAM} status "
            f"--node {url}`, and run this command again if nodes are still halted there"
        ) from error
    done(answer, f"skip the entry {command.index}")
    note(f"{halted[0].node} has put a skip in the place of entry {command.index}")
    _wait_until_past(nodes, asked, command)
    if command.as_json:
        document({"index": command.index, "by": halted[0].node, "members": [one.member.node for one in asked]})
        return
    say(f"entry {command.index} is skipped; all {len(asked)} members have gone past it")


def _halted_members(asked: list[Asked], index: int) -> list[NodeStatus]:
    """The members that have halted at the entry, if it may be skipped."""
    silent = [one for one in asked if one.status is None]
    if silent:
        raise CommandFailed(
            f"nothing was skipped: {silent[0].member.node} has not said whether it has applied entry {index} "
            f"({silent[0].reason}); start it and run this command again; only if it is lost for good, say so with "
            f"`{PROGRAM} replicas remove {silent[0].member.node}` first"
        )
    found = [one.status for one in asked if one.status is not None]
    for status in found:
        if status.applied_index >= index and not status.stale:
            raise CommandFailed(
                f"nothing was skipped: {status.node} has applied entry {index}, so nothing is lost; let the nodes "
                "that have halted take its snapshot: stop each of them, `mv DIR/store DIR/store.before` in its "
                "data directory, and start it again"
            )
    for status in found:
        if status.applied_index >= index:
            raise CommandFailed(
                f"nothing was skipped: {status.node} is stale, but stands behind entry {index} already, so a node "
                "that is not here has applied it; start that one; if it is lost for good, stop "
                f"{status.node}, and run this command again"
            )
    halted = [status for status in found if status.halted_at == index]
    if not halted:
        places = ", ".join(f"{one.node} is at {one.applied_index} ({_state(one)})" for one in found)
        raise CommandFailed(
            f"nothing was skipped: no member has halted at entry {index} ({places}); the index to skip is the one "
            f"that a halted node names in `{PROGRAM} status`"
        )
    return halted


def _state(status: NodeStatus) -> str:
    return status.role if status.halted_at is None else f"halted at {status.halted_at}"


def _wait_until_past(nodes: Nodes, asked: list[Asked], command: SkipEntry) -> None:
    """Wait until every member has applied the skip.

    Raises:
        CommandFailed: some have not in time; says which, and what they say.
    """
    waiting = {one.member.node: one.member.address for one in asked}
    said: dict[str, str] = {}
    deadline = time.monotonic() + command.wait_s
    while True:
        for node, address in list(waiting.items()):
            try:
                status, _ = nodes.status_of(f"http://{address}")
            except Unavailable as error:
                said[node] = str(error)
                continue
            if status.applied_index >= command.index:
                del waiting[node]
            else:
                said[node] = f"is at {status.applied_index}, {_state(status)}: {status.reason or 'ready'}"
        if not waiting:
            return
        if time.monotonic() >= deadline:
            raise CommandFailed(
                f"entry {command.index} is skipped, but after {command.wait_s:g} s not all members have gone past "
                f"it: {'; '.join(f'{node} {said[node]}' for node in waiting)}; `{PROGRAM} status` shows when they "
                "have; start those again that do not answer"
            )
        time.sleep(LOOK_EVERY_S)
