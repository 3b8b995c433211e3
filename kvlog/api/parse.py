"""What clients send, checked strictly: what cannot be meant is refused, and the refusal says what to do."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl

from kvlog.config import WRITE_TIMEOUT_MAX_S, WRITE_TIMEOUT_S
from kvlog.core.commands import Txn
from kvlog.core.commands import update as set_text
from kvlog.core.entry import OWN_ID, REASON_CHARACTERS_MAX, REQUEST_ID_BYTES_MAX, check_key, check_value
from kvlog.core.evaluate import check_command
from kvlog.core.values import Ack
from kvlog.errors import InvalidInput

BODY_BYTES_MAX = 2 * 1024 * 1024
"""Upper bound of a request's body. The largest value takes up to six times its size as escaped JSON."""

INDEX_DIGITS_MAX = 18
"""An index of the log has fewer."""

PARAMETERS_MAX = 16

_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:@=+-]{{1,{REQUEST_ID_BYTES_MAX}}}")

_DOT_SEGMENTS = (".", "..")
"""What clients remove from a path before they send it (RFC 3986, 5.2.4)."""


def parameters(query: str, *names: str) -> dict[str, str]:
    """The query's parameters, each of ``names`` at most once and nothing else.

    Raises:
        InvalidInput: an unknown or repeated parameter, or one that is not UTF-8.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except UnicodeDecodeError:
        raise InvalidInput("the query is not UTF-8 after percent-decoding") from None
    except ValueError as error:
        raise InvalidInput(f"the query cannot be read: {error}") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in names:
            raise InvalidInput(f"unknown parameter {name[:50]!r}; there is {', '.join(names) or 'none'}")
        if name in found:
            raise InvalidInput(f"the parameter {name!r} is given twice")
        found[name] = value
    return found


def read_key(query: str) -> str:
    """The key of ``GET /read?key=...``."""
    key = parameters(query, "key").get("key")
    if key is None:
        raise InvalidInput("the parameter key is missing: GET /read?key=...")
    check_key(key)
    return key


def write_options(query: str) -> tuple[Ack, float]:
    """What a write's answer waits for, and for how many seconds at most."""
    given = parameters(query, "ack", "timeout_ms")
    try:
        ack = Ack(given.get("ack", Ack.REPLICAS))
    except ValueError:
        raise InvalidInput(f"ack={given['ack'][:50]!r}: must be log or replicas") from None
    text = given.get("timeout_ms", str(round(WRITE_TIMEOUT_S * 1000)))
    limit_ms = round(WRITE_TIMEOUT_MAX_S * 1000)
    if (
        not text.isascii()
        or not text.isdigit()
        or len(text) > len(str(limit_ms))
        or not 1 <= int(text) <= limit_ms
    ):
        raise InvalidInput(f"timeout_ms={text[:50]!r}: must be a whole number from 1 to {limit_ms}")
    return ack, int(text) / 1000


def request_id(key: str | None) -> str:
    """The id of a write: the header Idempotency-Key; "" if there is none.

    The header's value may stand in quotes, as the IETF's draft "The Idempotency-Key HTTP Header Field" has it.
    """
    if key is None:
        return ""
    if len(key) >= 2 and key[0] == key[-1] == '"':  # noqa: PLR2004 - a pair of quotes
        key = key[1:-1]
    return _known_characters("Idempotency-Key", key)


def any_request_id(text: str) -> str:
    """A request's id, be it a client's or one that a node has given."""
    own = OWN_ID if text.startswith(OWN_ID) else ""
    return own + _known_characters("the request's id", text.removeprefix(OWN_ID))


def _known_characters(what: str, text: str) -> str:
    if not _REQUEST_ID.fullmatch(text):
        raise InvalidInput(
            f"{what} {text[:50]!r}: must be 1 to {REQUEST_ID_BYTES_MAX} of the characters "
            "A-Z a-z 0-9 . _ : @ = + -"
        )
    if text in _DOT_SEGMENTS:
        raise InvalidInput(
            f"{what} {text!r}: means a step within a path, so that nobody could ask for it; take another"
        )
    return text


def nothing(what: str, query: str, body: bytes) -> None:
    """A request that is told by its path alone, so that parameters or a body can only be a mistake."""
    parameters(query)
    no_body(what, body)


def no_body(what: str, body: bytes) -> None:
    """A request that takes parameters at most."""
    if body:
        raise InvalidInput(f"{what} takes no body: its path says it all")


def skip(body: bytes) -> tuple[int, str]:
    """Index and reason of ``POST /v1/admin/log/skip``."""
    found = json_object(body)
    index, reason = found.get("index"), found.get("reason")
    if set(found) != {"index", "reason"}:
        raise InvalidInput('send {"index": 123, "reason": "..."}, and nothing else')
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1 << 63:
        raise InvalidInput("the index must be that of a log entry, 0 or more")
    if not isinstance(reason, str) or not 1 <= len(reason) <= REASON_CHARACTERS_MAX:
        raise InvalidInput(f"the reason must be a text of 1 to {REASON_CHARACTERS_MAX} characters")
    _check_characters("reason", reason)
    return index, reason


def min_index(query: str) -> int:
    """The log index of ``GET /v1/snapshot?min_index=...`` that the copy has to reach; 0 if it is not given."""
    text = parameters(query, "min_index").get("min_index", "0")
    if not text.isascii() or not text.isdigit() or len(text) > INDEX_DIGITS_MAX:
        raise InvalidInput(f"min_index={text[:50]!r}: must be an index of the log, a whole number from 0")
    return int(text)


def update(body: bytes) -> Txn:
    """The update of ``POST /update``: a JSON object with the strings ``key`` and ``value``, nothing else."""
    found = json_object(body)
    for name in ("key", "value"):
        if name not in found:
            raise InvalidInput(f'the field "{name}" is missing: send {{"key": "...", "value": "..."}}')
        if not isinstance(found[name], str):
            raise InvalidInput(f'the field "{name}" must be a string, not {_kind(found[name])}')
    unknown = sorted(set(found) - {"key", "value"})
    if unknown:
        raise InvalidInput(f"unknown field {unknown[0][:50]!r}: there are key and value")
    key, value = found["key"], found["value"]
    for name, text in (("key", key), ("value", value)):
        _check_characters(name, text)
    check_key(key)
    check_value(value.encode())
    command = set_text(key, value)
    check_command(command, request_id_bytes=REQUEST_ID_BYTES_MAX)
    return command


def _check_characters(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f'the field "{name}" holds half of a surrogate pair, which is no character') from None


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object (RFC 8259), with neither of the liberties that Python takes: duplicate names and NaN."""
    try:
        found = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise InvalidInput("the body is not UTF-8") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    except ValueError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"the body must be a JSON object, not {_kind(found)}")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"the field {twice[:50]!r} is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise InvalidInput(f"{name} is not JSON")


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
