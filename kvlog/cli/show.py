"""How keys, values, times and changes are shown: in lines for people and pipes, in JSON for programs."""

from __future__ import annotations

import sys
import time
from typing import Any

import msgspec

from kvlog.cli.console import say
from kvlog.client import Item
from kvlog.client.wire import value_fields

TEXT_SPACES = "\n\r\t"
"""What is no printable character and yet harms no terminal."""


def line(value: object) -> None:
    """One of many results for programs: a JSON document in a line of its own, at once."""
    say(msgspec.json.encode(value).decode())
    sys.stdout.flush()


def row(*cells: object) -> None:
    """One of many results for people, at once: with tabs between its cells."""
    say("\t".join(str(cell) for cell in cells))
    sys.stdout.flush()


def item_fields(item: Item, *, with_value: bool = True) -> dict[str, Any]:
    """An item as the API has it in JSON."""
    fields: dict[str, Any] = {"key": item.key}
    if with_value:
        fields |= {**value_fields(item.value), "content_type": item.content_type}
    fields |= {
        "create_revision": item.create_revision,
        "revision": item.revision,
        "version": item.version,
    }
    return fields if item.lease is None else fields | {"lease": item.lease}


def maybe_item(item: Item | None) -> dict[str, Any] | None:
    """The same where there may be none."""
    return None if item is None else item_fields(item)


def printable(text: str) -> str:
    """A text in one line that does nothing to a terminal and holds no tab: what is not printable is escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def value_text(value: bytes) -> str:
    """A value in one line; of one that is no text, only how large it is."""
    try:
        return printable(value.decode())
    except UnicodeDecodeError:
        return f"({len(value)} bytes)"


def harmless(value: bytes) -> bool:
    """Whether a terminal shows the value as it is."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return False
    return all(one.isprintable() or one in TEXT_SPACES for one in text)


def counted(count: int, noun: str) -> str:
    """So many of them."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def moment(time_ms: int) -> str:
    """A time in UTC, of milliseconds since 1970."""
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03}Z"
