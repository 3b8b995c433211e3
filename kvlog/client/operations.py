"""What can be done to keys, apart from how it is sent: operations of a batch, and the parts of a transaction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from kvlog.client.errors import BadRequest
from kvlog.client.wire import as_bytes, checked_text, value_fields

KEY_BYTES_MAX = 511
TTL_MIN_S, TTL_MAX_S = 1.0, 31_536_000.0
TEXT = "text/plain; charset=utf-8"

_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


@dataclass(frozen=True, slots=True)
class Put:
    """Give a key a value.

    Attributes:
        key: the key.
        value: bytes, or text that is stored as UTF-8.
        ttl: seconds after which the key goes away.
        lease: a lease that the key goes away with; not together with ``ttl``.
        content_type: what the value is; by default text for text, else application/octet-stream.
    """

    key: str
    value: bytes | str
    ttl: float | None = None
    lease: int | None = None
    content_type: str | None = None

    def wire(self) -> dict[str, Any]:
        """It as JSON.

        Raises:
            BadRequest: it makes no sense.
        """
        check_key(self.key)
        expiry = expiry_of(self.ttl, self.lease)
        content_type = content_type_of(self.value, self.content_type)
        kind = {} if content_type is None else {"content_type": content_type}
        return {"op": "put", "key": self.key, **value_fields(as_bytes(self.value)), **expiry, **kind}


@dataclass(frozen=True, slots=True)
class Delete:
    """Take a key away, if it is there."""

    key: str

    def wire(self) -> dict[str, Any]:
        """It as JSON.

        Raises:
            BadRequest: it makes no sense.
        """
        check_key(self.key)
        return {"op": "delete", "key": self.key}


@dataclass(frozen=True, slots=True)
class Get:
    """In a transaction: what a key holds after it."""

    key: str

    def wire(self) -> dict[str, Any]:
        """It as JSON.

        Raises:
            BadRequest: it makes no sense.
        """
        check_key(self.key)
        return {"op": "get", "key": self.key}


def check_key(key: str) -> None:
    """A key that the API can name.

    Raises:
        BadRequest: it is none.
    """
    if not 1 <= len(checked_text("a key", key)) <= KEY_BYTES_MAX:
        raise BadRequest(f"the key {key[:50]!r}: must be 1 to {KEY_BYTES_MAX} bytes of UTF-8")


def expiry_of(ttl: float | None, lease: int | None) -> dict[str, Any]:
    """What says when a key goes away.

    Raises:
        BadRequest: both a time and a lease are given, or the time makes no sense.
    """
    if ttl is not None and lease is not None:
        raise BadRequest("a key has a ttl of its own or hangs on a lease, not both: leave one of them out")
    if ttl is not None:
        return {"ttl": round(checked_ttl(ttl), 3)}
    return {} if lease is None else {"lease": lease}


def checked_ttl(ttl: float) -> float:
    """A time to live.

    Raises:
        BadRequest: it makes no sense.
    """
    if not TTL_MIN_S <= ttl <= TTL_MAX_S:
        raise BadRequest(f"ttl={ttl!r}: must be {TTL_MIN_S:g} to {TTL_MAX_S:.0f} seconds")
    return ttl


def content_type_of(value: bytes | str, content_type: str | None) -> str | None:
    """What a value is; None leaves it to the node.

    Raises:
        BadRequest: it holds what no header can.
    """
    if content_type is None:
        return TEXT if isinstance(value, str) else None
    if not _HEADER_VALUE.fullmatch(content_type):
        raise BadRequest(f"content_type={content_type[:50]!r}: must be like text/plain, in printable ASCII")
    return content_type
