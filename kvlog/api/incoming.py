"""What a request brings, as Flask has it: query, key, body, headers. Read strictly, and with limits."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote_to_bytes

from flask import request
from werkzeug.exceptions import RequestTimeout

from kvlog.api.answers import JSON
from kvlog.core.entry import check_key
from kvlog.errors import InvalidInput

BODY_BYTES_MAX = 2 * 1024 * 1024
"""Upper bound of a body in JSON. The largest value takes up to six times its size as escaped JSON."""

BODY_S = 120.0
"""How long a body that is taken as a whole may take to come, however steadily it does."""

NDJSON = "application/x-ndjson"

KEYS = "/v1/kv/"
"""What the path of a key begins with."""

_PIECE_BYTES = 64 * 1024

_HALF_ENCODED = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Asked(Protocol):
    """What a route reads of a request: this module, or somebody in its place."""

    def query(self) -> str:
        """See below; as all that follows."""

    def key(self) -> str:
        """See below."""

    def header(self, name: str) -> str | None:
        """See below."""

    def body(self, bytes_max: int = ..., /) -> bytes:
        """See below."""

    def json_body(self) -> bytes:
        """See below."""


class NotRead(InvalidInput):
    """The body, or what is left of it, stays unread: the connection is of no more use."""


class BodyTooLarge(NotRead):
    """The body has more bytes than may be."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"the body has more than {bytes_max} bytes", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def query() -> str:
    """The query as text; what is not percent-encoded must be UTF-8 as well."""
    try:
        return request.query_string.decode()
    except UnicodeDecodeError:
        raise InvalidInput("the query is not UTF-8: percent-encode it") from None


def key() -> str:
    """The key that the path names, after KEYS; ``%2F`` in it is the same as ``/``.

    Flask's own decoding would put another character where there is no UTF-8, and so name another key.
    """
    # What was sent, where the server tells it; else what the server has decoded already (PEP 3333).
    sent = request.environ.get("REQUEST_URI")
    path: str = request.environ["PATH_INFO"] if sent is None else sent.partition("?")[0]
    data = path.encode("latin-1")
    return key_in(data) if sent is not None else _key_of(data)


def key_in(path: bytes) -> str:
    """The key that a path names as it was sent. Raises InvalidInput."""
    if b"%" not in path:
        return _key_of(path)
    if _HALF_ENCODED.search(path):
        raise InvalidInput("the path has a % that no two hex digits follow: a % is sent as %25")
    return _key_of(unquote_to_bytes(path))


def _key_of(data: bytes) -> str:
    try:
        found = data.removeprefix(KEYS.encode()).decode()
    except UnicodeDecodeError:
        raise InvalidInput("the key is not UTF-8 after percent-decoding") from None
    if not found:
        raise InvalidInput("the key is empty: name it in the path, /v1/kv/<key>; GET /v1/kv lists all keys")
    check_key(found)
    return found


def header(name: str) -> str | None:
    """A header's value, those of all that have this name; None if there is none."""
    return request.headers.get(name)


def body(bytes_max: int = BODY_BYTES_MAX, /) -> bytes:
    """The whole body, of which no more is read than may be.

    Werkzeug's own limit cuts a body without a length off where it ends, and calls the rest none.

    Raises:
        BodyTooLarge: it is longer.
        RequestTimeout: it takes longer than BODY_S to come.
        InvalidInput: it is encoded in a way that would have to be undone.
    """
    until = time.monotonic() + BODY_S
    found = []
    for piece in pieces(bytes_max):
        found.append(piece)
        if time.monotonic() > until:
            raise RequestTimeout(f"the body did not come within {BODY_S:g} s")
    return b"".join(found)


def pieces(bytes_max: int | None) -> Iterator[bytes]:
    """The body as it comes, up to its end or ``bytes_max``. Raises as ``body`` does."""
    _check_encoding()
    limit = sys.maxsize if bytes_max is None else bytes_max
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(limit)
    stream = request.input_stream  # what is read later may be read when Flask has put the request aside
    read = getattr(stream, "read1", stream.read)  # what is there, without waiting for more
    size = 0
    while piece := read(min(_PIECE_BYTES, limit + 1 - size)):
        size += len(piece)
        if size > limit:
            raise BodyTooLarge(limit)
        yield piece


def _check_encoding() -> None:
    encoding = header("Content-Encoding")
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise InvalidInput(
            f"the body comes with Content-Encoding {encoding[:50]!r}: send it as it is, without one",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    coding = header("Transfer-Encoding")
    if coding is not None and coding.strip().lower() != "chunked":
        raise NotRead(
            f"the body comes with Transfer-Encoding {coding[:50]!r}: send it as it is, at once or in chunks"
        )


def media_type(*allowed: str) -> str:
    """The body's media type, which is one of ``allowed``, without its parameters.

    Raises:
        InvalidInput: 415; says what to send.
    """
    return known_type(header("Content-Type"), *allowed)


def known_type(sent: str | None, *allowed: str) -> str:
    """The media type that a header names. Raises as ``media_type`` does."""
    sent = (sent or "").partition(";")[0].strip().lower()
    if sent not in allowed:
        there = f"Content-Type {sent[:50]!r}" if sent else "no Content-Type"
        raise InvalidInput(
            f"the body comes with {there}: send it with the header Content-Type: {' or '.join(allowed)}",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    return sent


def json_body() -> bytes:
    """A body that says that it is JSON. Raises as ``media_type`` and ``body`` do."""
    media_type(JSON)
    return body()
