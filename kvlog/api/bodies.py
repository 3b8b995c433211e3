"""JSON bodies, read strictly: neither of the liberties that Python takes, no unknown fields, no wrong types."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from kvlog.api.parameters import NUMBER_MAX
from kvlog.core.commands import TTL_MAX_MS, TTL_MIN_MS
from kvlog.core.entry import SYSTEM, check_key
from kvlog.errors import InvalidInput

SHOWN = 50
"""Characters of what a client has sent that are repeated to it."""


def json_value(body: bytes) -> Any:
    """A JSON text (RFC 8259), without duplicate names and NaN.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise InvalidInput("the body is not UTF-8") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    except ValueError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises as ``json_value`` does."""
    found = json_value(body)
    if not isinstance(found, dict):
        raise InvalidInput(f"the body must be a JSON object, not {kind(found)}")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"the field {twice[:SHOWN]!r} is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise InvalidInput(f"{name} is not JSON")


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


class Fields:
    """The fields of a JSON object, each of which is asked for once; ``where`` begins every complaint."""

    def __init__(self, found: object, known: Iterable[str], where: str = "") -> None:
        if not isinstance(found, dict):
            raise InvalidInput(f"{where}must be a JSON object, not {kind(found)}")
        names = tuple(known)
        unknown = [name for name in found if name not in names]
        if unknown:
            raise InvalidInput(f"{where}unknown field {unknown[0][:SHOWN]!r}; there is {', '.join(names)}")
        self._found = found
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def wrong(self, name: str, what: str) -> InvalidInput:
        """The complaint that a field must be something else."""
        return InvalidInput(f'{self.where}the field "{name}" must be {what}')

    def text(self, name: str, default: str | None = None) -> str:
        """A string that UTF-8 can hold; required without ``default``."""
        found = self._required(name, default)
        if not isinstance(found, str):
            raise self.wrong(name, f"a string, not {kind(found)}")
        try:
            found.encode()
        except UnicodeEncodeError:
            raise InvalidInput(
                f'{self.where}the field "{name}" holds half of a surrogate pair, which is no character'
            ) from None
        return found

    def key(self, name: str = "key") -> str:
        """A key that a client may have."""
        found = self.text(name)
        try:
            check_key(found)
        except InvalidInput as error:
            raise InvalidInput(f"{self.where}{error}") from None
        return found

    def prefix(self, name: str = "prefix") -> str:
        """What keys begin with."""
        found = self.text(name)
        if found.startswith(SYSTEM):
            raise InvalidInput(f'{self.where}the field "{name}" begins with NUL; such keys are kvlog\'s own')
        return found

    def number(self, name: str, default: int | None = None, *, low: int = 0) -> int:
        """A whole number; 7.0 is one as well, JSON knows no difference (JSON Schema, 6.1.1)."""
        found = self._required(name, default)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= NUMBER_MAX:
            raise self.wrong(name, f"a whole number from {low} to {NUMBER_MAX}")
        return found

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        found = self._found.get(name, default)
        if not isinstance(found, bool):
            raise self.wrong(name, f"true or false, not {kind(found)}")
        return found

    def ttl_ms(self, name: str = "ttl") -> int:
        """A time to live in seconds, which may have decimals; in milliseconds."""
        found = self._required(name, None)
        low, high = TTL_MIN_MS / 1000, TTL_MAX_MS / 1000
        if not isinstance(found, int | float) or isinstance(found, bool) or not low <= found <= high:
            raise self.wrong(name, f"a number of seconds from {low:g} to {high:.0f}")
        return round(found * 1000)

    def anything(self, name: str) -> Any:
        """Whatever it is; None if it is not there."""
        return self._found.get(name)

    def _required(self, name: str, default: Any) -> Any:
        if name not in self._found and default is None:
            raise InvalidInput(f'{self.where}the field "{name}" is missing')
        return self._found.get(name, default)
