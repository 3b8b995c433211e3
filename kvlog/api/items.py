"""Values and records as JSON, both ways."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from kvlog.core.entry import BASE64, CONTENT_TYPE_MAX, check_value, encode_value
from kvlog.core.machine import Record
from kvlog.errors import InvalidInput

OCTETS = "application/octet-stream"
"""What a value is whose type nobody has told."""

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
CONTENT_TYPE_PATTERN = rf'{_NAME}/{_NAME}([ \t]*;([ \t]*{_NAME}=({_NAME}|"([\t !#-\[\]-~]|\\[\t -~])*"))?)*'
"""A media type with its parameters."""

_CONTENT_TYPE = re.compile(CONTENT_TYPE_PATTERN, re.ASCII)


def content_type(record: Record) -> str:
    """What a record's value is."""
    return record.content_type or OCTETS


def check_content_type(text: str) -> str:
    """A media type (RFC 9110, 8.3.1), or nothing.

    Raises:
        InvalidInput: it is neither.
    """
    if len(text) > CONTENT_TYPE_MAX:
        raise InvalidInput(f"the content type has {len(text)} characters, the limit is {CONTENT_TYPE_MAX}")
    if text and not _CONTENT_TYPE.fullmatch(text):
        raise InvalidInput(f"the content type {text[:50]!r}: must look like text/plain, or be left out")
    return text


def value(data: bytes) -> dict[str, str]:
    """A value: as text where it is UTF-8, else in base64."""
    text, encoding = encode_value(data)
    return {"value": text} | ({"encoding": encoding} if encoding else {})


def item(key: str, record: Record, *, keys_only: bool = False) -> dict[str, Any]:
    """A key with its record."""
    return {
        "key": key,
        **({} if keys_only else value(record.value) | {"content_type": content_type(record)}),
        "create_revision": record.create,
        "revision": record.revision,
        "version": record.version,
        **({"lease": record.lease} if record.lease else {}),
    }


def item_or_none(key: str, record: Record | None) -> dict[str, Any] | None:
    """The same, or nothing where there is no such key."""
    return None if record is None else item(key, record)


def data_of(where: str, text: str, encoding: object) -> bytes:
    """The value that a client has sent in JSON; ``encoding`` is None where it is text.

    Raises:
        InvalidInput: it is not what it is said to be, or too long.
    """
    if encoding not in (None, BASE64):
        raise InvalidInput(f'{where}the encoding must be "base64", or be left out for text')
    try:
        data = text.encode() if encoding is None else base64.b64decode(text, validate=True)
    except UnicodeEncodeError:
        raise InvalidInput(
            f'{where}the field "value" holds half of a surrogate pair, which is no character'
        ) from None
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{where}the value is no base64: {error}") from None
    check_value(data)
    return data
