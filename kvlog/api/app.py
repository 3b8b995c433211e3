"""The Flask application: routes, and which error is which HTTP status."""

from __future__ import annotations

import json
from http import HTTPStatus

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from kvlog.api import failpoints, parse, views
from kvlog.core.commands import Command, Settle
from kvlog.core.role import Role
from kvlog.core.values import PushBody, Refused
from kvlog.errors import InvalidInput, Unavailable
from kvlog.peers import INSTANCE_HEADER, MSGPACK, Forward, ForwardAnswer
from kvlog.service.copies import NoSnapshot
from kvlog.service.service import Service
from kvlog.service.writes import Write
from kvlog.snapshot import MEDIA_TYPE

_forwards = msgspec.msgpack.Decoder(Forward)
_pushes = msgspec.msgpack.Decoder(PushBody)
_encoder = msgspec.msgpack.Encoder()


def create_app(service: Service) -> Flask:
    """The WSGI application of one node."""
    app = Flask("kvlog", static_folder=None)
    _add_course_routes(app, service)
    _add_routes(app, service)
    _add_admin_routes(app, service)
    _add_errors(app)

    @app.after_request
    def mark(response: Response) -> Response:
        """Every answer says which node gave it, and whether its store is stale."""
        missed = service.missed_entries
        response.headers["Kvlog-Node"] = service.settings.node_id
        response.headers[INSTANCE_HEADER] = service.instance
        response.headers["Kvlog-Stale"] = "true" if missed else "false"
        if missed:
            response.headers["Kvlog-Missed-Entries"] = str(missed)
        if (halted_at := service.halted_at) is not None:
            response.headers["Kvlog-Halted"] = str(halted_at)
        return response

    return app


def _add_course_routes(app: Flask, service: Service) -> None:
    """The routes that kvlog has had since it was a course assignment."""

    @app.get("/read")
    def read() -> Response:
        key = parse.read_key(_query())
        return _respond(views.read(key, *service.reads.key(key)))

    @app.post("/update")
    def update() -> Response:
        body = _body()
        command = parse.update(body)
        return _write(service, command, parse.request_id(request.headers.get("Idempotency-Key")))

    @app.post("/forward")
    def forward() -> Response:
        try:
            forward = _forwards.decode(_body())
        except msgspec.MsgspecError as error:
            raise InvalidInput(f"not a write forwarded by a node: {error}; see docs/api.md for clients") from None
        return Response(_encoder.encode(ForwardAnswer.of(service.writes.take(forward))), mimetype=MSGPACK)

    @app.post("/propagate")
    def propagate() -> Response:
        try:
            body = _pushes.decode(_body())
        except msgspec.MsgspecError as error:
            raise InvalidInput(f"not a push of a leader: {error}; clients write with POST /update") from None
        answer = service.propagate(body)
        if isinstance(answer, Refused):
            raise InvalidInput(answer.reason, status=HTTPStatus.CONFLICT)
        return Response(_encoder.encode(answer), mimetype=MSGPACK)

    if service.settings.demo:

        @app.route("/kill", methods=["GET", "POST"])
        def kill() -> Response:
            is_leader = service.status().role is Role.LEADER
            service.kill()
            return _respond(({"is_leader": is_leader}, HTTPStatus.OK, {}))

        failpoints.add_routes(app, _body, _respond)


def _add_routes(app: Flask, service: Service) -> None:
    @app.get("/v1/status")
    def status() -> Response:
        view = views.status(service.settings, service.instance, service.status())
        return _respond((view, HTTPStatus.OK, {}))

    @app.get("/healthz")
    def healthz() -> Response:
        """Whether the process answers; its instance shows other nodes that it is still the same one."""
        body = {"status": "ok", "node": service.settings.node_id}
        return _respond((body, HTTPStatus.OK, {}))

    @app.get("/readyz")
    def readyz() -> Response:
        reason = service.status().not_ready
        if reason:
            return _respond(({"ready": False, "reason": reason}, HTTPStatus.SERVICE_UNAVAILABLE, {}))
        return _respond(({"ready": True, "reason": ""}, HTTPStatus.OK, {}))

    @app.get("/v1/requests/<request_id>")
    def remembered(request_id: str) -> Response:
        parse.parameters(_query())
        request_id = parse.any_request_id(request_id)
        return _respond(views.remembered(request_id, *service.reads.request(request_id)))

    @app.delete("/v1/requests/<request_id>")
    def settle(request_id: str) -> Response:
        request_id = parse.any_request_id(request_id)
        parse.no_body("DELETE /v1/requests/<id>", _body())
        return _write(service, Settle(), request_id)

    @app.get("/v1/snapshot")
    def snapshot() -> Response:
        result = service.copies.snapshot(parse.min_index(_query()))
        if isinstance(result, NoSnapshot):
            return _respond(views.no_snapshot(result))
        return Response(result, mimetype=MEDIA_TYPE, direct_passthrough=True)


def _add_admin_routes(app: Flask, service: Service) -> None:
    @app.post("/v1/admin/catchup")
    def catch_up() -> Response:
        parse.nothing("POST /v1/admin/catchup", _query(), _body())
        return _respond(views.done(service.catch_up()))

    @app.post("/v1/admin/replicas/<node_id>/remove")
    def remove_replica(node_id: str) -> Response:
        parse.nothing("POST /v1/admin/replicas/<id>/remove", _query(), _body())
        return _respond(views.done(service.remove_replica(node_id)))

    @app.post("/v1/admin/log/skip")
    def skip() -> Response:
        parse.parameters(_query())
        return _respond(views.done(service.skip(*parse.skip(_body()))))


def _write(service: Service, command: Command, request_id: str) -> Response:
    """Carry out a write here or at the leader."""
    ack, timeout_s = parse.write_options(_query())
    return _respond(views.outcome(command, service.writes.write(Write(command, request_id, ack, timeout_s))))


def _add_errors(app: Flask) -> None:
    @app.errorhandler(InvalidInput)
    def invalid(error: InvalidInput) -> Response:
        return _respond(({"error": str(error)}, error.status, {}))

    @app.errorhandler(Unavailable)
    def unavailable(error: Unavailable) -> Response:
        return _respond(({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"}))

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(_: RequestEntityTooLarge) -> Response:
        reason = f"the body has more than {parse.BODY_BYTES_MAX} bytes"
        # What is left of the body is not read: the connection cannot be used again.
        headers = {"Connection": "close"}
        return _respond(({"error": reason}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, headers))

    @app.errorhandler(HTTPException)
    def other(error: HTTPException) -> Response:
        headers = dict(error.get_headers())
        headers.pop("Content-Type", None)
        return _respond(({"error": error.description}, error.code or HTTPStatus.INTERNAL_SERVER_ERROR, headers))


def _query() -> str:
    """The query as text; what is not percent-encoded must be UTF-8 as well."""
    try:
        return request.query_string.decode()
    except UnicodeDecodeError:
        raise InvalidInput("the query is not UTF-8") from None


def _body() -> bytes:
    """The request's body, of which no more is read than may be.

    Werkzeug's own limit cuts a body without a length off where it ends, and calls the rest none.

    Raises:
        RequestEntityTooLarge: it is longer; what is left of it stays unread.
    """
    if (request.content_length or 0) > parse.BODY_BYTES_MAX:
        raise RequestEntityTooLarge
    chunks: list[bytes] = []
    size = 0
    while chunk := request.input_stream.read(parse.BODY_BYTES_MAX + 1 - size):
        chunks.append(chunk)
        size += len(chunk)
        if size > parse.BODY_BYTES_MAX:
            raise RequestEntityTooLarge
    return b"".join(chunks)


def _respond(view: views.View) -> Response:
    body, status, headers = view
    return Response(json.dumps(body) + "\n", status, headers, mimetype="application/json")
