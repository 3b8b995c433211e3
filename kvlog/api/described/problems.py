"""Schemas of problems (RFC 9457), one for each type, from the table of types."""

from __future__ import annotations

from kvlog.api.described.shapes import (
    INDEX,
    LEADER,
    MARKS,
    REVISION,
    Schema,
    a_count,
    a_text,
    an_object,
    just,
    one_of,
)
from kvlog.problems import KINDS, TYPE

PROBLEM: dict[str, Schema] = {
    "type": a_text("kvlog:<name>, or about:blank where the HTTP status says it all"),
    "title": a_text("what the type means"),
    "status": {"type": "integer", "minimum": 400, "maximum": 599},
    "detail": a_text("what happened, what it means, and what to do"),
}
"""The members of all problems."""

MEMBERS: dict[str, Schema] = {
    "revision": REVISION,
    "id": a_text("the request that was asked for"),
    "leader": LEADER,
    "floor": a_count("the lowest revision for which it can still be told"),
    "first_index": a_count("where the log begins"),
    "resume": a_count("the revision from which a watch can go on"),
    "request": a_text("the id under which the write can be settled: DELETE /v1/requests/<id>"),
    "applied_index": INDEX,
    "done": a_count("how many operations of a batch are committed"),
    "line": a_count("where what makes no sense stands in a batch, counted from 1", low=1),
    **MARKS,
}
"""The members that problems add, by name; ``outcome`` goes by the type."""

_MAYBE = {"unknown": {"request"}}
"""Those in the table that a problem need not have."""

_BATCH = ("outcome", "done", "line")
_WATCH = ("resume",)

_MORE: dict[str, tuple[str, ...]] = {
    "bad-request": _BATCH,
    "conflict": ("applied_index",),
    "no-such-request": tuple(MARKS),
    "no-such-lease": _BATCH,
    "cancelled": _BATCH,
    "history-trimmed": _WATCH,
    "too-large": _BATCH,
    "unsupported-media-type": _BATCH,
    "id-reused": _BATCH,
    "stale-store": _WATCH,
    "refused": _BATCH,
    "unavailable": (*_BATCH, *_WATCH),
    "unknown": _BATCH,
}
"""Those that a problem has on some routes only: on /v1/snapshot, of a node that is stale, on /v1/batch, on
/v1/watch."""


def schema_name(kind: str) -> str:
    """The name of a type's schema: ConditionFailed for condition-failed."""
    return "".join(word.capitalize() for word in kind.split("-"))


def _schema(kind: str) -> Schema:
    status, title, members = KINDS[kind]
    outcome = just("unknown") if kind == "unknown" else one_of("refused")
    known = MEMBERS | {"outcome": outcome}
    fixed: dict[str, Schema] = {
        "type": just(TYPE + kind),
        "title": {"const": title},
        "status": {"const": status.value},
        "detail": PROBLEM["detail"],
    }
    maybe = _MAYBE.get(kind, set()) | set(_MORE.get(kind, ())) - set(members)
    required = {name: known[name] for name in members if name not in maybe}
    return an_object(fixed | required, {name: known[name] for name in sorted(maybe)}, title)


SCHEMAS: dict[str, Schema] = {
    "Problem": an_object(
        PROBLEM, {name: MEMBERS[name] for name in ("done", "line")}, "problem details (RFC 9457)"
    ),
    **{schema_name(kind): _schema(kind) for kind in KINDS},
}
"""All of them, by name."""
