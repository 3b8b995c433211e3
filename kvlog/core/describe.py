"""One line for people about any event, effect or answer."""

from __future__ import annotations

import dataclasses
from enum import StrEnum

from kvlog.core.commands import DeleteKey, Operation, Txn
from kvlog.core.entry import Leader, LogEntry
from kvlog.core.machine import Position


def describe(item: object) -> str:
    """One line for people: the same words in logs, golden files and the simulator's traces."""
    if not dataclasses.is_dataclass(item) or isinstance(item, type):
        return _short(item)
    fields = (
        f"{field.name}={_short(getattr(item, field.name))}" for field in dataclasses.fields(item) if field.repr
    )
    return " ".join((type(item).__name__, *fields))


def _short(value: object) -> str:
    """A value in few characters: bytes by their number, structures by what names them."""
    if isinstance(value, bytes):
        return f"{len(value)}B"
    if isinstance(value, LogEntry):
        return f"#{value.index}"
    if isinstance(value, Position):
        gaps = "".join(f" missed {gap.first}-{gap.last}" for gap in value.gaps)
        return f"[at {value.applied_index} revision {value.revision}{gaps}]"
    if isinstance(value, Leader):
        return value.node_id
    if isinstance(value, Txn):
        return "+".join(map(_operation, value.then)) + (" else" if value.otherwise else "")
    if isinstance(value, tuple):
        return "(" + ", ".join(_short(item) for item in value) + ")"
    if isinstance(value, StrEnum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "<" + describe(value) + ">"
    return repr(value) if not isinstance(value, float) else f"{value:g}"


def _operation(operation: Operation) -> str:
    if isinstance(operation, DeleteKey):
        return f"-{operation.key}"
    return f"{operation.key}={operation.value.decode(errors='replace')}"
