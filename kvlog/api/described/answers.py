"""Schemas of what is answered, by name: keys, writes, leases, watches and the past."""

from __future__ import annotations

from kvlog.api.described.shapes import (
    CLOCK_MS,
    ENCODING,
    FIELDS,
    INDEX,
    KEY,
    LEASE,
    MARKS,
    NUMBERS,
    REVISION,
    Schema,
    a_count,
    a_list,
    a_number,
    a_text,
    an_object,
    either,
    just,
    one_of,
    or_null,
    ref,
    true_or_false,
)

_WHERE: dict[str, Schema] = {
    "revision": REVISION,
    "index": INDEX,
    "leader": a_text("the node that led; empty if that is not known"),
    "replicas": {
        "type": "object",
        "additionalProperties": a_text(),
        "description": "what is known of the other members, by node: whether they have applied the write",
    },
}
_MORE = {**ENCODING, **LEASE}
_LEASE_ID = a_count("the lease", low=1)
_NEXT_KEY = KEY | {"description": "there is more: ask again from here on"}


def _committed(before: dict[str, Schema] | None = None, after: dict[str, Schema] | None = None) -> Schema:
    """The answer to a write that is in the log."""
    return an_object({"outcome": just("committed"), **(before or {}), **_WHERE, **(after or {})})


def _result(name: str, more: dict[str, Schema]) -> Schema:
    return an_object({"op": just(name), "key": KEY, **more})


_WHEN: dict[str, Schema] = {"revision": REVISION, "index": INDEX, "time_ms": CLOCK_MS}
_CHANGES = a_list(
    either(
        an_object({"op": just("put"), "key": KEY, **FIELDS}, _MORE),
        an_object({"op": just("delete"), "key": KEY}),
    )
)
_HELD_LEASE: dict[str, Schema] = {"lease": _LEASE_ID, "ttl": a_number("seconds")}

KEYS: dict[str, Schema] = {
    "Item": an_object({"key": KEY, **FIELDS}, _MORE, "a key with its value"),
    "KeyOnly": an_object({"key": KEY, **NUMBERS}, LEASE, "a key without its value"),
    "Page": an_object(
        {
            "revision": REVISION,
            "items": {"anyOf": [a_list(ref("Item")), a_list(ref("KeyOnly"), "with keys_only")]},
        },
        {
            "next": KEY | {"description": "there is more: ask again with from=<next>&at=<revision>"},
            "count": a_count("how many keys have the prefix"),
        },
        "keys in the order of their UTF-8 bytes, as of one revision",
    ),
    "Put": _committed({"key": KEY}),
    "Deleted": _committed({"key": KEY, "deleted": true_or_false("whether the key was there")}),
    "CourseItem": an_object({"key": KEY, "value": a_text('"" if there is no such key')}, MARKS),
    "Updated": an_object({"status": just("updated"), "outcome": just("committed"), "key": KEY, **_WHERE}),
    "Settled": an_object(
        {"id": a_text(), "outcome": one_of("committed", "cancelled"), "revision": REVISION, "index": INDEX},
        MARKS,
        "what has become of a request, for good",
    ),
}

TRANSACTIONS: dict[str, Schema] = {
    "TransactionDone": _committed(
        {"succeeded": true_or_false("whether all comparisons held")},
        {
            "results": a_list(
                either(
                    _result("put", {}),
                    _result("delete", {}),
                    _result("get", {"item": or_null(ref("Item"))}),
                    _result("get", {"problem": ref("Problem")}),
                ),
                "one for each operation of the branch that was carried out",
            )
        },
    ),
    "BatchLine": either(
        an_object({"done": a_count(), "revision": REVISION, "index": INDEX}, text="another chunk is committed"),
        an_object(
            {"outcome": just("committed"), "operations": a_count(), "revision": REVISION},
            text="the last line: everything is",
        ),
        an_object(
            {
                "outcome": one_of("refused", "unknown"),
                "done": a_count("so many operations are committed"),
                "type": a_text(),
                "title": a_text(),
                "status": a_count(),
                "detail": a_text(),
            },
            {"line": a_count(low=1), "request": a_text(), "revision": REVISION},
            "the last line: a problem, at which the batch has ended",
        ),
    ),
}

LEASES: dict[str, Schema] = {
    "Granted": _committed(_HELD_LEASE),
    "KeptAlive": an_object(
        {"lease": _LEASE_ID, "ttl": or_null(a_number("seconds; null if this node does not know the lease yet"))}
    ),
    "Revoked": _committed({"lease": _LEASE_ID, "deleted": a_count("how many keys went with it")}),
    "Lease": an_object(
        {
            **_HELD_LEASE,
            "keys": a_list(KEY, "those that are attached to it"),
            "remaining_ms": or_null(a_count("what is left of its time; null on a node that does not lead")),
        }
    ),
    "Leases": an_object({"leases": a_list(an_object(_HELD_LEASE))}, {"next": _LEASE_ID}),
}

PAST: dict[str, Schema] = {
    "Event": an_object({**_WHEN, "changes": _CHANGES}, text="what happened at one revision"),
    "Events": an_object(
        {
            "revision": a_count("everything up to this revision has been told"),
            "events": a_list(ref("Event")),
            "next": a_count("from of the next poll"),
        }
    ),
    "Progress": an_object({"revision": a_count("everything up to this revision has been told")}),
    "StreamEvent": an_object(
        {
            "event": one_of("change", "progress", "error"),
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"anyOf": [ref("Event"), ref("Progress"), ref("Problem")]},
            },
        },
        {"id": a_text("the revision up to which everything has been told"), "retry": {"type": "integer"}},
        "one event of the stream: a change with an Event, progress with the revision, or the problem that ends it",
    ),
    "History": an_object(
        {
            "key": KEY,
            "revision": REVISION,
            "floor": a_count("what was before this revision is not kept"),
            "versions": a_list(
                either(
                    an_object({**_WHEN, "op": just("put"), **FIELDS}, _MORE),
                    an_object({**_WHEN, "op": just("delete")}),
                ),
                "the latest first",
            ),
        },
        {
            "next": a_count("there is more: ask again with before=<next>"),
            "trimmed": {"const": True, "description": "there may have been older ones"},
        },
    ),
    "Diff": an_object(
        {
            "from": REVISION,
            "to": REVISION,
            "changes": a_list(
                an_object({"key": KEY, "before": or_null(ref("Item")), "after": or_null(ref("Item"))})
            ),
        },
        {"next": _NEXT_KEY},
    ),
    "RolledBack": _committed(None, {"changes": a_count("how many keys were changed")}),
    "RollbackPlan": an_object(
        {"outcome": just("planned"), "changes": a_count("how many keys would be changed"), "revision": REVISION}
    ),
}

SCHEMAS: dict[str, Schema] = {**KEYS, **TRANSACTIONS, **LEASES, **PAST}
"""All of them."""
