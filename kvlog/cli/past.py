"""The commands for the past: history, diff, rollback, explain."""

from __future__ import annotations

from itertools import islice
from typing import Any

from kvlog.cli.console import document, note, say
from kvlog.cli.data import connect
from kvlog.cli.show import counted, item_fields, line, maybe_item, moment, printable, row, value_text
from kvlog.cli.user_commands import ExplainKey, RollBack, ShowDiff, ShowHistory
from kvlog.client import Version
from kvlog.errors import NotMet


def show_history(command: ShowHistory) -> None:
    """``history``: a line for each version, the newest first.

    Raises:
        NotMet: nothing is remembered of this key.
    """
    shown = 0
    with connect(command.target) as client:
        versions = client.history(command.key)
        for shown, version in enumerate(islice(versions, command.limit), start=1):  # noqa: B007 - how many came
            if command.target.as_json:
                line(_version_fields(version))
            else:
                value = [] if version.item is None else [value_text(version.item.value)]
                row(version.revision, moment(version.time_ms), version.op, *value)
        trimmed = versions.trimmed
    if not shown:
        raise NotMet(f"nothing is remembered of a key {command.key!r}")
    if trimmed and shown != command.limit:
        note("there may have been more before that, which is not remembered")


def _version_fields(version: Version) -> dict[str, Any]:
    head = {"revision": version.revision, "index": version.index, "time_ms": version.time_ms, "op": version.op}
    return head if version.item is None else item_fields(version.item) | head


def show_diff(command: ShowDiff) -> None:
    """``diff``: for each key that differs, what it held before (-) and after (+)."""
    with connect(command.target) as client:
        for found in client.diff(command.start, command.end, command.prefix):
            if command.target.as_json:
                line({"key": found.key, "before": maybe_item(found.before), "after": maybe_item(found.after)})
                continue
            for sign, item in (("-", found.before), ("+", found.after)):
                if item is not None:
                    row(sign, printable(found.key), value_text(item.value))


def roll_back(command: RollBack) -> None:
    """``rollback``: how many keys are as they were."""
    with connect(command.target) as client:
        done = client.rollback(
            key=command.key, prefix=command.prefix, revision=command.revision, dry_run=command.dry_run
        )
    if command.target.as_json:
        names = ("changes", "revision", "index", "replayed")
        document({name: getattr(done, name) for name in names} | {"dry_run": command.dry_run})
    elif command.dry_run:
        say(f"{counted(done.changes, 'key')} would be rolled back; leave --dry-run out to do it")
    elif done.changes:
        what = counted(done.changes, "key")
        say(f"{what} rolled back to revision {command.revision}, as revision {done.revision}")
    else:
        say(f"nothing had to be changed: all is as at revision {command.revision}")


def explain_key(command: ExplainKey) -> None:
    """``explain``: what the node says, in its sentences."""
    with connect(command.target) as client:
        found = client.explain(command.key)
    if command.target.as_json:
        document(found)
        return
    for sentence in found.get("summary", ()):
        say(printable(sentence))
