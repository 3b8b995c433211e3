"""The routes that kvlog has had since it was a course assignment: /read, /update, /kill."""

from __future__ import annotations

from flask import Flask, Response

from kvlog.api import incoming
from kvlog.api.answers import View, respond
from kvlog.api.bodies import Fields, json_object
from kvlog.api.incoming import Asked
from kvlog.api.outcomes import answer, committed
from kvlog.api.parameters import KEY, WRITE, parameters
from kvlog.api.reading import READ, age, marks, read_options
from kvlog.api.writing import Planned, checked, own_id
from kvlog.core.commands import Txn
from kvlog.core.commands import update as set_text
from kvlog.core.entry import check_value, encode_value
from kvlog.core.machine import Record
from kvlog.core.role import Role
from kvlog.service.reads import Read
from kvlog.service.service import Service
from kvlog.service.writes import Written

READ_KEY = (KEY, *READ)
UPDATE = WRITE


def add_routes(app: Flask, service: Service) -> None:
    """/read, /update, and with --demo /kill."""

    @app.get("/read")
    def read() -> Response:
        given = parameters(incoming.query(), READ_KEY)
        return respond(shown(given["key"], *service.reads.key(given["key"], read_options(given))))

    @app.post("/update")
    def update() -> Response:
        planned = planned_update(incoming)
        return respond(planned.answered(service.writes.write(planned.write)))

    if service.settings.demo:

        @app.route("/kill", methods=["GET", "POST"])
        def kill() -> Response:
            is_leader = service.status().role is Role.LEADER
            service.kill()
            return respond(View({"is_leader": is_leader}))


def shown(key: str, record: Record | None, read: Read) -> View:
    """The answer to ``GET /read``."""
    text = encode_value(record.value)[0] if record else ""
    return View({"key": key, "value": text, **marks(read)}, headers=age(read))


def planned_update(asked: Asked) -> Planned:
    """What a ``POST /update`` asks for.

    Raises:
        InvalidInput: it makes no sense.
    """
    given, name = parameters(asked.query(), UPDATE), own_id(asked)
    key, command = update_of(asked.body())

    def answered(written: Written) -> View:
        return answer(written, lambda result: View({"status": "updated"} | committed(written, result, key=key)))

    return Planned(checked(command, given, name), answered)


def update_of(body: bytes) -> tuple[str, Txn]:
    """The key and the command of ``POST /update``: a JSON object with the strings ``key`` and ``value``."""
    fields = Fields(json_object(body), ("key", "value"))
    key, value = fields.key(), fields.text("value")
    check_value(value.encode())
    return key, set_text(key, value)
