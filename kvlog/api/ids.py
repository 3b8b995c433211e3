"""The ids of requests, which clients choose, or nodes."""

from __future__ import annotations

import re

from kvlog.core.entry import OWN_ID, REQUEST_ID_BYTES_MAX
from kvlog.errors import InvalidInput

CHARACTERS = "A-Za-z0-9._:@=+-"
"""What ids consist of."""

_REQUEST_ID = re.compile(rf"[{CHARACTERS}]{{1,{REQUEST_ID_BYTES_MAX}}}")

_DOT_SEGMENTS = (".", "..")
"""What clients remove from a path before they send it (RFC 3986, 5.2.4)."""


def request_id(header: str | None) -> str:
    """The id of a write: the header Idempotency-Key; "" if there is none.

    The header's value may stand in quotes, as the IETF's draft "The Idempotency-Key HTTP Header Field" has it.

    Raises:
        InvalidInput: it is none.
    """
    if header is None:
        return ""
    if len(header) >= 2 and header[0] == header[-1] == '"':  # noqa: PLR2004 - a pair of quotes
        header = header[1:-1]
    return _known_characters("Idempotency-Key", header)


def any_request_id(text: str) -> str:
    """A request's id, be it a client's or one that a node has given. Raises as ``request_id`` does."""
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
