"""Schemas of the bodies that clients send, by name."""

from __future__ import annotations

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

_VALUE: dict[str, Schema] = {"value": a_text(f"at most {VALUE_BYTES_MAX} bytes: of UTF-8, or in base64")}
_ENCODING: dict[str, Schema] = {"encoding": just("base64")}
_IF_BASE64: Schema = {
    "if": {"required": ["encoding"]},
    "then": {"properties": {"value": {"pattern": _BASE64}}},
}
_CONTENT_TYPE: Schema = {
    "type": "string",
    "maxLength": CONTENT_TYPE_MAX,
    "pattern": f"^({CONTENT_TYPE_PATTERN})?$",
    "description": "the media type of the value",
}


def _compare(target: Schema, value: Schema, optional: dict[str, Schema] | None = None) -> Schema:
    return only({"key": KEY, "target": target, "op": one_of(*Relation), "value": value}, optional)


SCHEMAS: dict[str, Schema] = {
    "Update": only({"key": KEY, "value": a_text(f"at most {VALUE_BYTES_MAX} bytes of UTF-8")}),
    "PutOperation": only(
        {"op": just("put"), "key": KEY, **_VALUE},
        {
            **_ENCODING,
            "content_type": _CONTENT_TYPE,
            "lease": a_count("the lease that the key goes away with", low=1),
            "ttl": TTL,
        },
        "put a value; with a lease, with a time to live, or with neither of them",
    )
    | {"not": {"required": ["lease", "ttl"]}, **_IF_BASE64},
    "DeleteOperation": only({"op": just("delete"), "key": KEY}, text="delete a key"),
    "GetOperation": only({"op": just("get"), "key": KEY}, text="say what a key holds, once all writes are done"),
    "Comparison": {
        "anyOf": [
            _compare(just(Target.VALUE), _VALUE["value"], _ENCODING) | _IF_BASE64,
            _compare(one_of(*(target for target in Target if target is not Target.VALUE)), a_count()),
            only({"prefix": PREFIX, "target": just("unchanged_since"), "value": a_count("a revision")}),
        ],
        "description": "of a key that is not there the numbers are 0, and its value is unequal to everything; "
        "unchanged_since: no key with the prefix was written or deleted after the revision",
    },
    "Branch": a_list(
        {"anyOf": [ref("PutOperation"), ref("DeleteOperation"), ref("GetOperation")]},
        "no key is written twice",
        maxItems=OPERATIONS_MAX,
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
