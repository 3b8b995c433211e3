"""What every answer says of the node that gives it."""

from __future__ import annotations

from kvlog.peers import INSTANCE_HEADER
from kvlog.service.service import Service


def marks(service: Service) -> dict[str, str]:
    """Headers: which node it is, and whether its store is stale, or it has halted."""
    missed, halted_at = service.missed_entries, service.halted_at
    found = {
        "Kvlog-Node": service.settings.node_id,
        INSTANCE_HEADER: service.instance,
        "Kvlog-Stale": "true" if missed else "false",
    }
    if missed:
        found["Kvlog-Missed-Entries"] = str(missed)
    if halted_at is not None:
        found["Kvlog-Halted"] = str(halted_at)
    return found
