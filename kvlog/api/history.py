"""The past: what a key has held, what differs between two revisions, and back to one of them."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response

from kvlog.api import incoming
from kvlog.api.answers import View, respond
from kvlog.api.bodies import Fields, json_object
from kvlog.api.items import item, item_or_none
from kvlog.api.outcomes import answer, committed
from kvlog.api.parameters import KEY, WRITE, a_limit, a_number, a_prefix, parameters
from kvlog.api.writing import own_id, write
from kvlog.core.values import Committed
from kvlog.errors import Behind, GapsInHistory, HistoryTrimmed, InvalidInput, TooManyKeys
from kvlog.ports import Version
from kvlog.service.reads import PAGE_BYTES_MAX, Diff, Reads
from kvlog.service.service import Service
from kvlog.service.writes import plan_rollback, repeat_rollback

HISTORY = (KEY, a_limit(1_000, 100), a_number("before", "only what was before this revision", low=1))
DIFF = (
    a_number("from", "the revision to compare with", required=True),
    a_number("to", "the revision to compare; the present one if it is not given"),
    a_prefix("prefix", "what the keys begin with"),
    a_prefix("start", "the first key that is wanted, itself included"),
    a_limit(1_000, 100),
)
ROLLBACK = WRITE
ROLLBACK_FIELDS = ("key", "prefix", "revision", "dry_run")

PIECE = 16
"""Versions that are read at a time: the largest values of so many fill a page."""


def add_routes(app: Flask, service: Service) -> None:
    """/v1/history, /v1/diff, /v1/rollback."""

    @app.get("/v1/history")
    def history() -> Response:
        given = parameters(incoming.query(), HISTORY)
        return respond(View(_history(service.reads, given["key"], given["before"], given["limit"])))

    @app.get("/v1/diff")
    def diff() -> Response:
        given = parameters(incoming.query(), DIFF)
        found = service.reads.diff(
            given["from"], given["to"], given["prefix"], start=given["start"], limit=given["limit"]
        )
        return respond(View(_diff(found)))

    @app.post("/v1/rollback")
    def rollback() -> Response:
        given, name = parameters(incoming.query(), ROLLBACK), own_id()
        key, prefix, revision, dry_run = rollback_of(incoming.json_body())
        timeout_s = given["timeout_ms"] / 1000
        try:
            plan = plan_rollback(service.reads, key=key, prefix=prefix, revision=revision, timeout_s=timeout_s)
        except (InvalidInput, HistoryTrimmed, GapsInHistory, TooManyKeys, Behind):
            # What can be planned no more may be done already: a repetition gets the first answer.
            if dry_run or not name or service.reads.request(name)[0] is None:
                raise
            command = repeat_rollback(key=key, prefix=prefix, revision=revision)
        else:
            if dry_run:
                body = {"outcome": "planned", "changes": len(plan.txn.then), "revision": plan.revision}
                return respond(View(body))
            command = plan.txn
        written = write(service, command, given, name)

        def done(result: Committed) -> View:
            return View(committed(written, result, changes=result.changes))

        return respond(answer(written, done))


def rollback_of(body: bytes) -> tuple[str | None, str, int, bool]:
    """Key or prefix, revision, and whether it is only to be said what would be done.

    Raises:
        InvalidInput: it makes no sense.
    """
    fields = Fields(json_object(body), ROLLBACK_FIELDS)
    if ("key" in fields) == ("prefix" in fields):
        raise InvalidInput('send either "key" or "prefix": what is to be as it was')
    key = fields.key() if "key" in fields else None
    prefix = fields.prefix() if "prefix" in fields else ""
    return key, prefix, fields.number("revision"), fields.flag("dry_run", default=False)


def _history(reads: Reads, key: str, before: int | None, limit: int) -> dict[str, Any]:
    """The versions of a key, as many as fit into a page."""
    versions: list[dict[str, Any]] = []
    room = PAGE_BYTES_MAX
    while True:
        found = reads.versions(key, before=before, limit=min(PIECE, limit - len(versions)))
        for version in found.versions:
            versions.append(_version(key, version))
            room -= len(version.record.value) if version.record is not None else 0
        if found.next is None or len(versions) == limit or room <= 0:
            break
        before = found.next + 1  # which leads straight to that version, however deep in the past it is
    floor = found.position.history
    body = {"key": key, "revision": found.position.revision, "floor": floor, "versions": versions}
    if found.next is not None:
        body["next"] = found.next + 1
    elif floor:
        body["trimmed"] = True
    return body


def _version(key: str, version: Version) -> dict[str, Any]:
    """What became of a key at a revision."""
    what: dict[str, Any] = {"revision": version.revision, "index": version.index, "time_ms": version.time_ms}
    if version.record is None:
        return what | {"op": "delete"}
    fields = item(key, version.record)
    del fields["key"]
    return what | {"op": "put"} | fields


def _diff(found: Diff) -> dict[str, Any]:
    changes = [
        {
            "key": each.key,
            "before": item_or_none(each.key, each.before),
            "after": item_or_none(each.key, each.after),
        }
        for each in found.differences
    ]
    body: dict[str, Any] = {"from": found.first, "to": found.last, "changes": changes}
    return body if found.next is None else body | {"next": found.next}
