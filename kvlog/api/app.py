"""The Flask application: all routes, what every answer says, and the errors."""

from __future__ import annotations

from http import HTTPStatus

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from kvlog.api import (
    admin,
    batch,
    course,
    explain,
    failpoints,
    history,
    internal,
    keys,
    leases,
    openapi,
    status,
    txn,
)
from kvlog.api.answers import respond
from kvlog.api.incoming import NotRead
from kvlog.api.marks import marks
from kvlog.api.problems import of_error, of_status
from kvlog.errors import KvlogError
from kvlog.problems import ANSWERED
from kvlog.service.service import Service


def create_app(service: Service) -> Flask:
    """The WSGI application of one node."""
    app = _Application("kvlog", static_folder=None)
    app.url_map.merge_slashes = False  # each slash of a key counts
    for part in (course, internal, keys, txn, batch, leases, history, explain, status, admin):
        part.add_routes(app, service)
    openapi.add_routes(app)
    if service.settings.demo:
        failpoints.add_routes(app)
    _add_errors(app)

    @app.after_request
    def mark(response: Response) -> Response:
        response.headers.update(marks(service))
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return app


class _Application(Flask):
    """Flask, but OPTIONS is answered without a body that would need a type."""

    def make_default_options_response(self) -> Response:
        """The methods of the path."""
        response = super().make_default_options_response()
        response.status_code = HTTPStatus.NO_CONTENT
        response.headers.pop("Content-Type", None)
        return response


def _add_errors(app: Flask) -> None:
    def answered(error: KvlogError) -> Response:
        return respond(of_error(error))

    for kind in ANSWERED:
        app.register_error_handler(kind, answered)

    @app.errorhandler(NotRead)
    def not_read(error: NotRead) -> Response:
        response = respond(of_error(error))
        response.headers["Connection"] = "close"
        return response

    @app.errorhandler(NotFound)
    def not_found(_: NotFound) -> Response:
        what = "there is no such path here; GET /v1/openapi.json lists all that there are"
        return respond(of_status(HTTPStatus.NOT_FOUND, what))

    @app.errorhandler(MethodNotAllowed)
    def not_allowed(error: MethodNotAllowed) -> Response:
        allowed = ", ".join(sorted(error.valid_methods or ()))
        what = f"the path is there, but not with this method; there is {allowed}"
        return respond(of_status(HTTPStatus.METHOD_NOT_ALLOWED, what, {"Allow": allowed}))

    @app.errorhandler(HTTPException)
    def other(error: HTTPException) -> Response:
        headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
        code = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
        if code == HTTPStatus.REQUEST_TIMEOUT:  # what is left of the body may come, and is no request
            headers["Connection"] = "close"
        return respond(of_status(code, error.description or "", headers))
