"""What a client may ask of a read, and what every read says of its age."""

from __future__ import annotations

from typing import Any

from kvlog.api.parameters import TIMEOUT, a_flag, a_number
from kvlog.errors import InvalidInput
from kvlog.service.reads import Read, ReadOptions

READ = (
    a_number("min_revision", "wait until this revision is applied on this node"),
    a_number("max_stale_ms", "refuse if the answer may be older than this many milliseconds"),
    a_number("max_lag", "refuse if more entries of the log than these may not be applied here"),
    a_flag("linearizable", "the answer holds everything that was acknowledged before the read"),
    a_number("at", "the state as of this revision"),
    TIMEOUT,
)
"""The parameters of a read."""


def read_options(given: dict[str, Any]) -> ReadOptions:
    """What the parameters ask for.

    Raises:
        InvalidInput: both the past and the present.
    """
    if given["linearizable"] and given["at"] is not None:
        raise InvalidInput("linearizable asks for the present, at for the past: leave one of them out")
    return ReadOptions(
        min_revision=given["min_revision"] or 0,
        max_stale_ms=given["max_stale_ms"],
        max_lag=given["max_lag"],
        linearizable=given["linearizable"],
        at=given["at"],
        timeout_s=given["timeout_ms"] / 1000,
    )


def age(read: Read) -> dict[str, str]:
    """The headers that say which state was read, and how old it can be."""
    return {
        "Kvlog-Revision": str(read.revision),
        "Kvlog-Applied-Index": str(read.applied_index),
        "Kvlog-Tail-Index": str(read.tail_index),
        "Kvlog-Staleness-Ms": "unknown" if read.staleness_ms is None else str(read.staleness_ms),
        "Kvlog-Read": read.mode,
    }


def marks(read: Read) -> dict[str, Any]:
    """What a body says of a node whose data is known to be old."""
    found: dict[str, Any] = {"stale": True, "missed_entries": read.missed_entries} if read.missed_entries else {}
    return found | ({"halted_at": read.halted_at} if read.halted_at is not None else {})
