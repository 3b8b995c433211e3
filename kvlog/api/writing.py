"""How the routes write: what a client may say of any write, and the way to the leader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvlog.api import incoming
from kvlog.api.answers import View
from kvlog.api.ids import request_id
from kvlog.core.commands import Command
from kvlog.core.entry import REQUEST_ID_BYTES_MAX
from kvlog.core.evaluate import check_command
from kvlog.service.service import Service
from kvlog.service.writes import Write, Written

IDEMPOTENCY_KEY = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Planned:
    """A write that a client has asked for, and what it is answered."""

    write: Write
    answered: Callable[[Written], View]


def own_id(asked: incoming.Asked = incoming) -> str:
    """The id that the client has given the write, "" if none. Raises InvalidInput."""
    return request_id(asked.header(IDEMPOTENCY_KEY))


def write(service: Service, command: Command, given: dict[str, Any], name: str = "") -> Written:
    """Carry out a write here or at the leader; ``given`` are the parameters, ``name`` its id.

    Raises:
        InvalidInput: 413; no entry can hold it.
    """
    return service.writes.write(checked(command, given, name))


def checked(command: Command, given: dict[str, Any], name: str = "") -> Write:
    """The write that is to be carried out. Raises as ``write`` does."""
    check_command(command, request_id_bytes=REQUEST_ID_BYTES_MAX)
    return Write(command, name, given["ack"], given["timeout_ms"] / 1000)
