"""What every answer says of the node that gives it."""

from __future__ import annotations

from kvlog.peers import INSTANCE_HEADER
from kvlog.service.service import Service


def marks(service: Service) -> dict[str, str]:
    """Headers: which node it is, and whether its store is stale, or it has halted."""
    return marks_of(service.settings.node_id, service.instance, service.missed_entries, service.halted_at)


def marks_of(node_id: str, instance: str, missed: int, halted_at: int | None) -> dict[str, str]:
    """The same headers, of a node that has missed so many entries, and has halted there, if it has."""
    found = {
        "Kvlog-Node": node_id,
        INSTANCE_HEADER: instance,
        "Kvlog-Stale": "true" if missed else "false",
    }
    if missed:
        found["Kvlog-Missed-Entries"] = str(missed)
    if halted_at is not None:
        found["Kvlog-Halted"] = str(halted_at)
    return found
