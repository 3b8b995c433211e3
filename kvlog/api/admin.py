"""/v1/admin: what operators ask of a node."""

from __future__ import annotations

from http import HTTPStatus

from flask import Flask, Response

from kvlog.api import incoming
from kvlog.api.answers import View, respond
from kvlog.api.bodies import Fields, json_object
from kvlog.api.outcomes import REFUSED
from kvlog.api.parameters import parameters
from kvlog.api.problems import problem
from kvlog.core.entry import REASON_CHARACTERS_MAX
from kvlog.core.values import Answer, Done, Redirect, Refused
from kvlog.errors import InvalidInput
from kvlog.service.service import Service


def add_routes(app: Flask, service: Service) -> None:
    """Catching up, transfer, removal of a replica, skipping of an entry."""

    @app.post("/v1/admin/catchup")
    def catch_up() -> Response:
        _nothing_else("POST /v1/admin/catchup")
        return respond(_done(service.catch_up()))

    @app.post("/v1/admin/transfer")
    def transfer() -> Response:
        _nothing_else("POST /v1/admin/transfer")
        return respond(_transferred(service.transfer()))

    @app.post("/v1/admin/replicas/<node_id>/remove")
    def remove_replica(node_id: str) -> Response:
        _nothing_else("POST /v1/admin/replicas/<id>/remove")
        return respond(_done(service.remove_replica(node_id)))

    @app.post("/v1/admin/log/skip")
    def skip() -> Response:
        parameters(incoming.query())
        return respond(_done(service.skip(*skip_of(incoming.json_body()))))


def skip_of(body: bytes) -> tuple[int, str]:
    """Index and reason of ``POST /v1/admin/log/skip``."""
    fields = Fields(json_object(body), ("index", "reason"))
    index, reason = fields.number("index"), fields.text("reason")
    if not 1 <= len(reason) <= REASON_CHARACTERS_MAX:
        raise fields.wrong("reason", f"a text of 1 to {REASON_CHARACTERS_MAX} characters")
    return index, reason


def _nothing_else(what: str) -> None:
    """A request that is told by its path alone, so that parameters or a body can only be a mistake."""
    parameters(incoming.query())
    if incoming.body():
        raise InvalidInput(f"{what} takes no body: its path says it all")


def _done(answer: Answer) -> View:
    """An operator's request: done, refused, or still under way."""
    if isinstance(answer, Done):
        return View({"status": "done", "result": answer.text})
    if isinstance(answer, Refused):
        return problem("conflict", answer.reason)
    return View(
        {"status": "running", "result": "not done yet; GET /v1/status shows how far it has come"},
        HTTPStatus.ACCEPTED,
    )


def _transferred(answer: Answer) -> View:
    """A request to let another node lead: refused is what may work a moment later."""
    if isinstance(answer, Redirect):
        leader = {"node": answer.leader.node_id, "address": answer.leader.address}
        what = f"{answer.leader.node_id} leads: ask it, at {answer.leader.address}"
        return problem("not-leader", what, leader=leader)
    if isinstance(answer, Refused):
        return problem(REFUSED, answer.reason, outcome=REFUSED)
    return _done(answer)
