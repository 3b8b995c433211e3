"""/v1/explain and /v1/log: why a read here is as it is, and the log itself."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response

from kvlog.api import incoming
from kvlog.api.answers import View, respond
from kvlog.api.explaining import explanation, shown
from kvlog.api.parameters import KEY, a_limit, a_number, parameters, some_seconds
from kvlog.api.problems import problem
from kvlog.service.explain import ENTRIES_MAX
from kvlog.service.service import Service

EXPLAIN = (KEY,)

ENTRIES = 20
WAIT_MAX_S = 60.0

LOG = (
    a_number("from", "the index of the first entry that is wanted; without it, the last ones are shown"),
    a_limit(ENTRIES_MAX, ENTRIES),
    some_seconds("wait", "how long to wait for the first of them, in seconds", 0, WAIT_MAX_S, 0),
)


def add_routes(app: Flask, service: Service) -> None:
    """/v1/explain and /v1/log."""

    @app.get("/v1/explain")
    def explain() -> Response:
        return respond(
            View(explanation(service.explanations.explain(parameters(incoming.query(), EXPLAIN)["key"])))
        )

    @app.get("/v1/log")
    def log() -> Response:
        return respond(_entries(service, parameters(incoming.query(), LOG)))


def _entries(service: Service, given: dict[str, Any]) -> View:
    """Entries as they are in ZooKeeper, applied here or not."""
    status = service.status()
    first = given["from"]
    if first is None:
        first = max(status.first_index, status.tail_index - given["limit"] + 1)
    if first < status.first_index:
        what = f"entry {first} has been trimmed: ask for from={status.first_index} or later, where the log begins"
        return problem("log-trimmed", what, first_index=status.first_index)
    if first > status.tail_index and given["wait"]:
        service.reads.wait_for_index(first, given["wait"] / 1000)
    entries = [shown(entry) for entry in service.explanations.entries(first, given["limit"])]
    body = {
        "first_index": status.first_index,
        "tail_index": max([status.tail_index, *(entry["index"] for entry in entries)]),
        "entries": entries,
        "next": first + len(entries),
    }
    return View(body)
