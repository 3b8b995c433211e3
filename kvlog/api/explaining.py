"""Explanations and entries of the log, in JSON and in sentences."""

from __future__ import annotations

from typing import Any

import msgspec

from kvlog.core.entry import SYSTEM, encode_value
from kvlog.core.values import Arrival, Path
from kvlog.service.explain import Explanation, LastChange, NotApplied, Shown

_PATHS = {
    Path.APPEND: "this node has written it into the log itself",
    Path.PUSH: "the leader has pushed it",
    Path.WATCH: "the watch on the log has told of it",
    Path.POLL: "the poll of the log has found it",
    Path.REPLAY: "it was replayed from the log after a start",
}

VALUE_SHOWN_MAX = 60
"""Characters of a value that a sentence shows."""


def explanation(found: Explanation) -> dict[str, Any]:
    """GET /v1/explain."""
    read, status = found.read, found.status
    return {
        "key": found.key,
        "summary": summary(found),
        "present": found.record is not None,
        "revision": read.revision,
        "applied_index": read.applied_index,
        "tail_index": read.tail_index,
        "staleness_ms": read.staleness_ms,
        "missed_entries": read.missed_entries,
        "leader": {"node": status.leader.node_id, "address": status.leader.address} if status.leader else None,
        "epoch": status.epoch,
        "last_change": last_change(found.last_change),
        "not_applied": [
            {
                "index": change.index,
                "revision": change.revision,
                **_operation(change),
                **({"request": change.request_id} if change.request_id else {}),
                "written_ms": change.written_ms,
                "age_ms": max(0, found.now_ms - change.written_ms),
            }
            for change in found.unseen.changes
        ],
        "entries_not_applied": [{"first": first, "last": last} for first, last in found.unseen.ranges],
        "looked_at": {"entries": found.unseen.looked_at, "why_not_all": found.unseen.why_not_all},
    }


def last_change(change: LastChange | None) -> dict[str, Any] | None:
    """The last change that is applied here, and how it came. Times are between the clocks of two machines."""
    if change is None:
        return None
    arrival = change.arrival
    if arrival is None:
        return {"revision": change.revision, "path": "unknown"}
    return {"revision": change.revision, "index": arrival.index, **arrived(arrival)}


def arrived(arrival: Arrival) -> dict[str, Any]:
    """By which way an entry came, and how long after it was written."""
    applied_ms = arrival.applied_ms
    return {
        "path": arrival.path.value,
        "arrived_after_ms": arrival.came_ms - arrival.written_ms,
        "applied_after_ms": None if applied_ms is None else applied_ms - arrival.written_ms,
    }


def shown(entry: Shown) -> dict[str, Any]:
    """An entry of the log."""
    if entry.item is None:
        return {"index": entry.index, "error": entry.reason}
    fields: dict[str, Any] = msgspec.to_builtins(entry.item.entry)
    return {"index": entry.index, **fields, **(arrived(entry.arrival) if entry.arrival else {})}


def summary(found: Explanation) -> list[str]:
    """The same in sentences: what is here, what is missing, who leads, and how what is here has come."""
    return [_here(found), *_behind(found), *_missing(found), _leader(found), *_came(found)]


def _here(found: Explanation) -> str:
    where = f"at revision {found.read.revision}, index {found.read.applied_index}"
    if found.record is None:
        return f"{_quoted(found.key)} is not there on this node, which stands {where}."
    value = _value(found.record.value)
    return (
        f"{_quoted(found.key)} is {value} on this node since revision {found.record.revision}; it stands {where}."
    )


def _behind(found: Explanation) -> list[str]:
    read = found.read
    sentences = []
    if read.halted_at is not None:
        sentences.append(f"It has halted before entry {read.halted_at}, which it cannot apply.")
    if read.missed_entries:
        sentences.append(
            f"Its store is stale: it has missed {read.missed_entries} entries, and will not read them before it "
            "is told to (POST /v1/admin/catchup)."
        )
    behind = read.tail_index - read.applied_index
    if behind:
        sentences.append(f"It is behind: {behind} entries that it has heard of are not applied here yet.")
    if read.staleness_ms is None:
        sentences.append("It cannot say since when its state is old: it has not been up to date since it started.")
    elif not sentences:
        sentences.append(f"It had everything that was in the log {read.staleness_ms} ms ago.")
    return sentences


def _missing(found: Explanation) -> list[str]:
    unseen = found.unseen
    if not unseen.ranges:
        return []
    name = _quoted(found.key)
    sentences = [
        f"Entry {change.index} (revision {change.revision}), written {_ago(found.now_ms - change.written_ms)}, "
        f"{_does(change, name)}: it is not applied here."
        for change in unseen.changes
    ]
    if not unseen.changes:
        sentences.append(
            f"None of the {unseen.looked_at} entries looked at that are not applied here touches {name}."
        )
    if unseen.why_not_all:
        sentences.append(f"Not all of them could be looked at: {unseen.why_not_all}.")
    return sentences


def _leader(found: Explanation) -> str:
    leader = found.status.leader
    if leader is None:
        return "No leader is known here at the moment."
    return f"{leader.node_id} leads, since epoch {found.status.epoch}."


def _came(found: Explanation) -> list[str]:
    change = found.last_change
    if change is None:
        return []
    arrival = change.arrival
    if arrival is None:
        how = "it is long ago, or came with a whole store"
        return [f"How revision {change.revision} came here is not remembered: {how}."]
    sentences = [f"Revision {change.revision} came with entry {arrival.index}: {_PATHS[arrival.path]}."]
    if arrival.applied_ms is not None:
        took_ms = arrival.applied_ms - arrival.written_ms
        clocks = "by the clocks of both machines"
        sentences.append(f"It was applied here {took_ms} ms after its leader had written it, {clocks}.")
    return sentences


def _does(change: NotApplied, name: str) -> str:
    return f"deletes {name}" if change.value is None else f"sets {name} to {_value(change.value)}"


def _operation(change: NotApplied) -> dict[str, Any]:
    if change.value is None:
        return {"op": "delete"}
    text, encoding = encode_value(change.value)
    return {"op": "put", "value": text} | ({"encoding": encoding} if encoding else {})


def _ago(age_ms: int) -> str:
    return f"{max(0, age_ms) / 1000:.1f} s ago"


def _quoted(key: str) -> str:
    return f"{key!r}" if key.startswith(SYSTEM) else key


def _value(data: bytes) -> str:
    text, encoding = encode_value(data)
    if encoding:
        return f"{len(data)} bytes"
    return repr(text if len(text) <= VALUE_SHOWN_MAX else f"{text[:VALUE_SHOWN_MAX]}...")
