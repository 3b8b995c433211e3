"""The commands that go on until they are interrupted: watch, log tail."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from kvlog.cli.data import connect
from kvlog.cli.http import Nodes, done
from kvlog.cli.show import item_fields, line, moment, printable, row, value_text
from kvlog.cli.user_commands import TailLog, WatchKeys
from kvlog.client import Change, Event
from kvlog.errors import Unavailable

WAIT_S = 20
"""How long a node may take to answer that no entry has come."""

PAGE_ENTRIES = 100

EFFECTS_SHOWN = 3
"""Of an entry with more, only how many more is said."""


def watch_keys(command: WatchKeys) -> None:
    """``watch``: a line for each change; for programs, for each revision."""
    with connect(command.target) as client:
        watch = client.watch(command.prefix, key=command.key, start=command.start)
        for event in islice(watch, command.limit):
            if command.target.as_json:
                line(_event_fields(event))
                continue
            for change in event.changes:
                value = [] if change.item is None else [value_text(change.item.value)]
                row(event.revision, change.op, printable(change.key), *value)


def _event_fields(event: Event) -> dict[str, Any]:
    changes = [_change_fields(change) for change in event.changes]
    return {"revision": event.revision, "index": event.index, "time_ms": event.time_ms, "changes": changes}


def _change_fields(change: Change) -> dict[str, Any]:
    head: dict[str, Any] = {"op": change.op, "key": change.key}
    return head if change.item is None else head | item_fields(change.item)


# --- the log --------------------------------------------------------------------------------------------------


class _Effect(msgspec.Struct):
    op: str
    key: str = ""


class _Request(msgspec.Struct):
    id: str = ""
    cancels: bool = False
    effects: list[_Effect] = []


class _Leader(msgspec.Struct):
    node_id: str


class _Skip(msgspec.Struct):
    reason: str


class _Entry(msgspec.Struct):
    """An entry, as far as it is shown; ``error`` says why there is nothing to show."""

    index: int
    time_ms: int = 0
    first_revision: int = 0
    error: str = ""
    requests: list[_Request] = []
    leader: _Leader | None = None
    skip: _Skip | None = None
    path: str | None = None
    applied_after_ms: float | None = None

    @property
    def words(self) -> str:
        """What is in it."""
        if self.error:
            return printable(self.error)
        if self.leader is not None:
            return f"{printable(self.leader.node_id)} leads"
        if self.skip is not None:
            return f"skipped: {printable(self.skip.reason)}"
        last = self.first_revision + len(self.requests) - 1
        which = f"revision {last}" if last == self.first_revision else f"revisions {self.first_revision}-{last}"
        parts = [f"cancels {request.id}" for request in self.requests if request.cancels]
        parts += [f"{one.op} {printable(one.key)}" for request in self.requests for one in request.effects]
        more = [f"{len(parts) - EFFECTS_SHOWN} more"] if len(parts) > EFFECTS_SHOWN else []
        return f"{which}: {', '.join(parts[:EFFECTS_SHOWN] + more) or 'nothing changed'}"


def tail_log(command: TailLog) -> None:
    """``log tail``: a line for each entry."""
    for raw in islice(_entries(command), command.limit):
        if command.target.as_json:
            line(raw)
            continue
        entry = msgspec.convert(raw, _Entry)
        late = "?" if entry.applied_after_ms is None else f"{entry.applied_after_ms:g}ms"
        when = moment(entry.time_ms) if entry.time_ms else "?"
        row(entry.index, when, entry.words, entry.path or "?", late)


def _entries(command: TailLog) -> Iterator[dict[str, Any]]:
    """The log's entries, without end.

    Raises:
        CommandFailed: the log begins later.
        Unavailable: none of the nodes answers.
    """
    nodes = Nodes(command.target.nodes)
    start = nodes.status().tail_index + 1 if command.start is None else command.start
    while True:
        query = f"from={start}&limit={PAGE_ENTRIES}&wait={WAIT_S}"
        answer = nodes.ask("GET", f"/v1/log?{query}", timeout_s=WAIT_S + command.target.timeout_s)
        body = done(answer, f"show the log from entry {start}")
        found, following = body.get("entries"), body.get("next")
        if not isinstance(found, list) or not isinstance(following, int):
            raise Unavailable(f"{answer.url}/v1/log answers without entries: it is another version of kvlog")
        yield from found
        start = max(start, following)
