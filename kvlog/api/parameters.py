"""The parameters of queries: how each is read, and how it is described; strictly, as everything that comes in.

What is read here is described from here (see openapi), so that both are always the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from kvlog.config import WRITE_TIMEOUT_MAX_S, WRITE_TIMEOUT_S
from kvlog.core.commands import TTL_MAX_MS, TTL_MIN_MS
from kvlog.core.entry import KEY_BYTES_MAX, SYSTEM, check_key
from kvlog.core.values import Ack
from kvlog.errors import InvalidInput

PARAMETERS_MAX = 16

REMEMBERED = 1_024
REMEMBERED_CHARACTERS = 100
"""Short queries whose meaning is remembered: most clients ask the same ones again and again."""

KEY_PATTERN = "^[^\\u0000]"
PREFIX_PATTERN = "^([^\\u0000]|$)"
"""How keys and prefixes begin, for descriptions: kvlog's own keys begin with NUL."""

NUMBER_MAX = 2**63 - 1
"""Revisions, indices and leases are below this."""

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?")
"""A number as JSON has them: programs write more digits than anybody means, and small ones with an exponent."""

Read = Callable[[str, str], Any]
"""The value of the parameter with this name, from its text. Raises InvalidInput."""


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """A parameter: what it is for, how it is read, its JSON schema, and what holds where it is not given."""

    name: str
    text: str
    read: Read
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    default: Any = None
    required: bool = False


def parameters(query: str, known: tuple[Parameter, ...] = ()) -> dict[str, Any]:
    """The values of the parameters in a query, each given at most once and nothing else; and the defaults.

    Raises:
        InvalidInput: an unknown, repeated or missing parameter, or one that makes no sense.
    """
    if len(query) <= REMEMBERED_CHARACTERS:
        return dict(_remembered(query, known))
    return _read(query, known)


@lru_cache(REMEMBERED)
def _remembered(query: str, known: tuple[Parameter, ...]) -> dict[str, Any]:
    return _read(query, known)


def _read(query: str, known: tuple[Parameter, ...]) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except UnicodeDecodeError:
        raise InvalidInput("the query is not UTF-8 after percent-decoding") from None
    except ValueError as error:
        raise InvalidInput(f"the query cannot be read: {error}") from None
    by_name = {parameter.name: parameter for parameter in known}
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name not in by_name:
            raise InvalidInput(f"unknown parameter {name[:50]!r}; there is {', '.join(by_name) or 'none'}")
        if name in found:
            raise InvalidInput(f"the parameter {name!r} is given twice")
        found[name] = by_name[name].read(name, text)
    for parameter in known:
        if parameter.name not in found:
            if parameter.required:
                raise InvalidInput(f"the parameter {parameter.name} is missing: ?{parameter.name}=...")
            found[parameter.name] = parameter.default
    return found


# --- how they are read ----------------------------------------------------------------------------------------


def number(low: int, high: int = NUMBER_MAX) -> Read:
    """A whole number."""

    def read(name: str, text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= len(str(high))
        if not digits or not low <= int(text) <= high:
            raise InvalidInput(f"{name}={text[:50]!r}: must be a whole number from {low} to {high}")
        return int(text)

    return read


def seconds(low: float, high: float) -> Read:
    """A time in seconds, which may have decimals; in milliseconds."""

    def read(name: str, text: str) -> int:
        if not _SECONDS.fullmatch(text) or not low <= float(text) <= high:
            raise InvalidInput(f"{name}={text[:50]!r}: must be a number of seconds from {low:g} to {high:g}")
        return round(float(text) * 1000)

    return read


def _flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidInput(f"{name}={text[:50]!r}: must be true or false")
    return text == "true"


def _ack(_: str, text: str) -> Ack:
    try:
        return Ack(text)
    except ValueError:
        raise InvalidInput(f"ack={text[:50]!r}: must be log or replicas") from None


def _key(_: str, text: str) -> str:
    check_key(text)
    return text


def prefix(name: str, text: str) -> str:
    """What keys begin with, or a place among the keys: any text that a key may begin with.

    Raises:
        InvalidInput: none may.
    """
    if len(text.encode()) > KEY_BYTES_MAX:
        raise InvalidInput(f"{name}: has more bytes in UTF-8 than a key may, which is {KEY_BYTES_MAX}")
    if text.startswith(SYSTEM):
        raise InvalidInput(f"{name}: begins with the character NUL; such keys are kvlog's own")
    return text


# --- what there is --------------------------------------------------------------------------------------------

_NUMBER = {"type": "integer", "minimum": 0, "maximum": NUMBER_MAX}
_TIMEOUT_MS = round(WRITE_TIMEOUT_S * 1000)
_TIMEOUT_MAX_MS = round(WRITE_TIMEOUT_MAX_S * 1000)


def a_number(name: str, text: str, *, low: int = 0, required: bool = False) -> Parameter:
    """A revision, an index or a lease."""
    return Parameter(name, text, number(low), _NUMBER | {"minimum": low}, required=required)


def a_limit(high: int, default: int, *, low: int = 1) -> Parameter:
    """How many of something are wanted at most."""
    schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
    return Parameter("limit", "how many at most", number(low, high), schema, default)


def a_flag(name: str, text: str) -> Parameter:
    """True or false; false where it is not given."""
    return Parameter(name, text, _flag, {"type": "boolean", "default": False}, default=False)


def a_key(text: str) -> Parameter:
    """The key that is meant."""
    schema = {"type": "string", "minLength": 1, "maxLength": KEY_BYTES_MAX, "pattern": KEY_PATTERN}
    return Parameter("key", text, _key, schema, required=True)


def a_prefix(name: str, text: str) -> Parameter:
    """What keys begin with, or a place among them; empty where it is not given."""
    schema = {"type": "string", "maxLength": KEY_BYTES_MAX, "pattern": PREFIX_PATTERN}
    return Parameter(name, text, prefix, schema, default="")


def some_seconds(name: str, text: str, low: float, high: float, default_ms: int | None) -> Parameter:
    """A time, read as milliseconds."""
    schema: dict[str, Any] = {"type": "number", "minimum": low, "maximum": high}
    if default_ms is not None:
        schema["default"] = default_ms / 1000
    return Parameter(name, text, seconds(low, high), schema, default_ms)


KEY = a_key("the key")
TIMEOUT = Parameter(
    "timeout_ms",
    "how long to wait at most, in milliseconds",
    number(1, _TIMEOUT_MAX_MS),
    {"type": "integer", "minimum": 1, "maximum": _TIMEOUT_MAX_MS, "default": _TIMEOUT_MS},
    _TIMEOUT_MS,
)
ACK = Parameter(
    "ack",
    "what the answer waits for: that the write is in the log, or that the replicas which keep up have applied it",
    _ack,
    {"type": "string", "enum": ["replicas", "log"], "default": "replicas"},
    Ack.REPLICAS,
)
WRITE = (ACK, TIMEOUT)
"""Those of every write."""

TTL = some_seconds("ttl", "seconds after which the key goes away", TTL_MIN_MS / 1000, TTL_MAX_MS / 1000, None)
