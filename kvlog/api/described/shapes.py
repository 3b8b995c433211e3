"""JSON schemas (2020-12, as OpenAPI 3.1 has them): how they are put together, and those that come again and again.

What a client sends is described as strictly as it is read. Answers may gain fields one day: theirs leave room.
"""

from __future__ import annotations

from typing import Any

from kvlog.api.parameters import KEY_PATTERN, NUMBER_MAX, PREFIX_PATTERN
from kvlog.core.entry import KEY_BYTES_MAX

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """A schema that has a name."""
    return {"$ref": f"#/components/schemas/{name}"}


def an_object(required: dict[str, Schema], optional: dict[str, Schema] | None = None, text: str = "") -> Schema:
    """An object with these fields, and maybe others."""
    schema: Schema = {"type": "object", "description": text} if text else {"type": "object"}
    if required:
        schema["required"] = list(required)
    return schema | {"properties": {**required, **(optional or {})}}


def only(required: dict[str, Schema], optional: dict[str, Schema] | None = None, text: str = "") -> Schema:
    """An object with these fields and no others."""
    return an_object(required, optional, text) | {"additionalProperties": False}


def a_list(of: Schema, text: str = "", **limits: int) -> Schema:
    """A list of things that are alike."""
    return {"type": "array", "items": of, **({"description": text} if text else {}), **limits}


def a_text(text: str = "") -> Schema:
    """A string."""
    return {"type": "string", "description": text} if text else {"type": "string"}


def one_of(*values: str) -> Schema:
    """One of some strings."""
    return {"type": "string", "enum": list(values)}


def just(value: str | bool) -> Schema:
    """This one value."""
    return {"const": value}


def a_count(text: str = "", *, low: int = 0) -> Schema:
    """A whole number."""
    schema: Schema = {"type": "integer", "minimum": low, "maximum": NUMBER_MAX}
    return schema | {"description": text} if text else schema


def a_number(text: str = "") -> Schema:
    """Any number."""
    return {"type": "number", "description": text} if text else {"type": "number"}


def true_or_false(text: str = "") -> Schema:
    """A truth value."""
    return {"type": "boolean", "description": text} if text else {"type": "boolean"}


def either(*schemas: Schema, text: str = "") -> Schema:
    """One of these, and of no other."""
    return {"oneOf": list(schemas), **({"description": text} if text else {})}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    if "$ref" in schema:
        return either(schema, {"type": "null"})
    return schema | {"type": [schema["type"], "null"]}


REVISION = a_count("a revision: the number of a committed request")
INDEX = a_count("an index of the log: the number of an entry")
CLOCK_MS = a_count("milliseconds since 1970, by the clock of the machine that says so")

KEY: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": KEY_BYTES_MAX,
    "pattern": KEY_PATTERN,
    "description": f"1 to {KEY_BYTES_MAX} bytes of UTF-8, not beginning with U+0000",
}
PREFIX: Schema = {
    "type": "string",
    "maxLength": KEY_BYTES_MAX,
    "pattern": PREFIX_PATTERN,
    "description": "what keys begin with",
}

VALUE: dict[str, Schema] = {"value": a_text("text; base64 where encoding says so")}
ENCODING: dict[str, Schema] = {"encoding": {"const": "base64", "description": "where the value is no UTF-8"}}
CONTENT_TYPE: dict[str, Schema] = {"content_type": a_text("the media type of the value")}
LEASE: dict[str, Schema] = {"lease": a_count("the lease that the key is attached to", low=1)}
NUMBERS: dict[str, Schema] = {
    "create_revision": a_count("the revision at which the key came to be"),
    "revision": a_count("the revision at which it was written last"),
    "version": a_count("how often it was written since it came to be"),
}
FIELDS: dict[str, Schema] = {**VALUE, **CONTENT_TYPE, **NUMBERS}
"""What a key holds. There may be ENCODING and LEASE besides."""

MARKS: dict[str, Schema] = {
    "stale": {"const": True, "description": "this node's store has missed entries"},
    "missed_entries": a_count("how many entries it has missed"),
    "halted_at": a_count("the entry that this node cannot apply: it stands at the one before"),
}
"""What some bodies say of a node whose data is known to be old."""

LEADER = an_object({"node": a_text(), "address": a_text()})
