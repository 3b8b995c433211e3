"""Schemas of the bodies that clients send, by name."""

from __future__ import annotations

from typing import Any

from kvlog.api.described.shapes import (
    KEY,
    PREFIX,
    Schema,
    a_count,
    a_list,
    a_text,
    either,
    just,
    one_of,
    only,
    ref,
)
from kvlog.api.described.shapes import true_or_false as flag
from kvlog.api.items import CONTENT_TYPE_PATTERN
from kvlog.core.commands import COMPARES_MAX, OPERATIONS_MAX, TTL_MAX_MS, TTL_MIN_MS, Relation, Target
from kvlog.core.entry import CONTENT_TYPE_MAX, REASON_CHARACTERS_MAX, VALUE_BYTES_MAX

TTL: Schema = {
    "type": "number",
    "minimum": TTL_MIN_MS / 1000,
    "maximum": TTL_MAX_MS / 1000,
    "description": "seconds, which may have decimals",
}
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

_TEXT: dict[str, Schema] = {"value": a_text(f"at most {VALUE_BYTES_MAX} bytes of UTF-8")}
_BYTES: dict[str, Schema] = {
    "value": {"type": "string", "pattern": _BASE64, "description": f"at most {VALUE_BYTES_MAX} bytes"},
    "encoding": just("base64"),
}
_CONTENT_TYPE: Schema = {
    "type": "string",
    "maxLength": CONTENT_TYPE_MAX,
    "pattern": f"^({CONTENT_TYPE_PATTERN})?$",
    "description": "the media type of the value",
}


def _put(value: dict[str, Schema], holder: dict[str, Schema]) -> Schema:
    return only({"op": just("put"), "key": KEY, **value}, {"content_type": _CONTENT_TYPE, **holder})


def _compare(target: Schema, value: dict[str, Schema]) -> Schema:
    return only({"key": KEY, "target": target, "op": one_of(*Relation), **value})


_LEASE: dict[str, Schema] = {"lease": a_count("the lease that the key goes away with", low=1)}
_TTL: dict[str, Schema] = {"ttl": TTL}
_OPERATIONS: dict[str, Any] = {"maxItems": OPERATIONS_MAX}

SCHEMAS: dict[str, Schema] = {
    "Update": only({"key": KEY, **_TEXT}),
    "PutOperation": {
        "anyOf": [_put(value, holder) for value in (_TEXT, _BYTES) for holder in (_LEASE, _TTL)],
        "description": "put a value; with a lease, with a time to live, or with neither of them",
    },
    "DeleteOperation": only({"op": just("delete"), "key": KEY}, text="delete a key"),
    "GetOperation": only({"op": just("get"), "key": KEY}, text="say what a key holds, once all writes are done"),
    "Comparison": {
        "anyOf": [
            _compare(just(Target.VALUE), _TEXT),
            _compare(just(Target.VALUE), _BYTES),
            _compare(one_of(*(target for target in Target if target is not Target.VALUE)), {"value": a_count()}),
            only({"prefix": PREFIX, "target": just("unchanged_since"), "value": a_count("a revision")}),
        ],
        "description": "of a key that is not there the numbers are 0, and its value is unequal to everything; "
        "unchanged_since: no key with the prefix was written or deleted after the revision",
    },
    "Branch": a_list(
        {"anyOf": [ref("PutOperation"), ref("DeleteOperation"), ref("GetOperation")]},
        "no key is written twice",
        **_OPERATIONS,
    ),
    "Transaction": only(
        {},
        {
            "compare": a_list(ref("Comparison"), "all of them have to hold", maxItems=COMPARES_MAX),
            "then": ref("Branch"),
            "else": ref("Branch"),
        },
        "if all comparisons hold: then, else: else; at one revision, all of it or nothing",
    )
    | {"anyOf": [{"required": ["then"]}, {"required": ["else"]}]},
    "Batch": a_list(
        {"anyOf": [ref("PutOperation"), ref("DeleteOperation")]},
        "carried out in order, in chunks: each is one transaction",
    ),
    "Grant": only({"ttl": TTL}),
    "Rollback": either(
        only({"key": KEY, "revision": a_count()}, {"dry_run": flag("only say what would be done")}),
        only({"prefix": PREFIX, "revision": a_count()}, {"dry_run": flag("only say what would be done")}),
        text="make a key, or all keys with a prefix, what they were at a revision",
    ),
    "Skip": only(
        {
            "index": a_count("the entry at which the nodes have halted"),
            "reason": {"type": "string", "minLength": 1, "maxLength": REASON_CHARACTERS_MAX},
        }
    ),
}
"""All of them."""
