"""The routes that kvlog has had since it was a course assignment: /read, /update, /kill."""

from __future__ import annotations

from flask import Flask, Response

from kvlog.api import incoming
from kvlog.api.answers import View, respond
from kvlog.api.bodies import Fields, json_object
from kvlog.api.outcomes import answer, committed
from kvlog.api.parameters import KEY, WRITE, parameters
from kvlog.api.reading import READ, age, marks, read_options
from kvlog.api.writing import own_id, write
from kvlog.core.commands import Txn
from kvlog.core.commands import update as set_text
from kvlog.core.entry import check_value, encode_value
from kvlog.core.role import Role
from kvlog.service.service import Service

READ_KEY = (KEY, *READ)
UPDATE = WRITE


def add_routes(app: Flask, service: Service) -> None:
    """/read, /update, and with --demo /kill."""

    @app.get("/read")
    def read() -> Response:
        given = parameters(incoming.query(), READ_KEY)
        record, at = service.reads.key(given["key"], read_options(given))
        text = encode_value(record.value)[0] if record else ""
        return respond(View({"key": given["key"], "value": text, **marks(at)}, headers=age(at)))

    @app.post("/update")
    def update() -> Response:
        given = parameters(incoming.query(), UPDATE)
        name = own_id()
        key, command = update_of(incoming.body())
        written = write(service, command, given, name)
        return respond(
            answer(written, lambda result: View({"status": "updated"} | committed(written, result, key=key)))
        )

    if service.settings.demo:

        @app.route("/kill", methods=["GET", "POST"])
        def kill() -> Response:
            is_leader = service.status().role is Role.LEADER
            service.kill()
            return respond(View({"is_leader": is_leader}))


def update_of(body: bytes) -> tuple[str, Txn]:
    """The key and the command of ``POST /update``: a JSON object with the strings ``key`` and ``value``."""
    fields = Fields(json_object(body), ("key", "value"))
    key, value = fields.key(), fields.text("value")
    check_value(value.encode())
    return key, set_text(key, value)
