"""How the routes write: what a client may say of any write, and the way to the leader."""

from __future__ import annotations

from typing import Any

from kvlog.api import incoming
from kvlog.api.ids import request_id
from kvlog.core.commands import Command
from kvlog.core.entry import REQUEST_ID_BYTES_MAX
from kvlog.core.evaluate import check_command
from kvlog.service.service import Service
from kvlog.service.writes import Write, Written

IDEMPOTENCY_KEY = "Idempotency-Key"


def own_id() -> str:
    """The id that the client has given the write, "" if none. Raises InvalidInput."""
    return request_id(incoming.header(IDEMPOTENCY_KEY))


def write(service: Service, command: Command, given: dict[str, Any], name: str = "") -> Written:
    """Carry out a write here or at the leader; ``given`` are the parameters, ``name`` its id.

    Raises:
        InvalidInput: 413; no entry can hold it.
    """
    check_command(command, request_id_bytes=REQUEST_ID_BYTES_MAX)
    return service.writes.write(Write(command, name, given["ack"], given["timeout_ms"] / 1000))
