"""/v1/leases: keys that go away together unless somebody keeps them alive."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response

from kvlog.api import incoming
from kvlog.api.answers import View, respond
from kvlog.api.bodies import Fields, json_object
from kvlog.api.outcomes import answer, committed
from kvlog.api.parameters import NUMBER_MAX, TIMEOUT, WRITE, a_limit, a_number, number, parameters
from kvlog.api.problems import problem
from kvlog.api.writing import own_id, write
from kvlog.core.commands import Grant, KeepAlive, Revoke
from kvlog.core.evaluate import first_lease
from kvlog.core.values import Ack, Committed
from kvlog.errors import InvalidInput
from kvlog.service.service import Service

GRANT = REVOKE = WRITE
KEEP_ALIVE = (TIMEOUT,)
LIST = (a_number("from", "the first lease that is wanted", low=1), a_limit(1_000, 100))


def add_routes(app: Flask, service: Service) -> None:
    """/v1/leases, /v1/leases/<id>, /v1/leases/<id>/keep-alive."""
    _add_reads(app, service)
    _add_writes(app, service)


def _add_reads(app: Flask, service: Service) -> None:
    @app.get("/v1/leases")
    def list_leases() -> Response:
        given = parameters(incoming.query(), LIST)
        found, following = service.reads.leases(start=given["from"] or 1, limit=given["limit"])
        leases = [{"lease": lease, "ttl": held.ttl_ms / 1000} for lease, held in found if held.ttl_ms]
        return respond(View({"leases": leases} | ({} if following is None else {"next": following})))

    @app.get("/v1/leases/<lease>")
    def get_lease(lease: str) -> Response:
        parameters(incoming.query())
        wanted = _lease(lease)
        found = service.reads.lease(wanted)
        if found is None:
            return respond(_no_such_lease(wanted))
        return respond(
            View(
                {
                    "lease": wanted,
                    "ttl": found.ttl_ms / 1000,
                    "keys": sorted(found.keys, key=str.encode),
                    "remaining_ms": found.remaining_ms,
                }
            )
        )


def _add_writes(app: Flask, service: Service) -> None:
    @app.post("/v1/leases")
    def grant() -> Response:
        given, name = parameters(incoming.query(), GRANT), own_id()
        ttl_ms = Fields(json_object(incoming.json_body()), ("ttl",)).ttl_ms()
        written = write(service, Grant(ttl_ms), given, name)

        def done(result: Committed) -> View:
            lease = first_lease(result.revision)
            return View(committed(written, result, lease=lease, ttl=ttl_ms / 1000), 201)

        return respond(answer(written, done))

    @app.post("/v1/leases/<lease>/keep-alive")
    def keep_alive(lease: str) -> Response:
        given, wanted = parameters(incoming.query(), KEEP_ALIVE), _lease(lease)
        _no_body("POST /v1/leases/<id>/keep-alive")
        # It is in no log, so there is nothing that the replicas could apply.
        written = write(service, KeepAlive(wanted), given | {"ack": Ack.LOG})
        return respond(answer(written, lambda _: View(_kept(service, wanted))))

    @app.delete("/v1/leases/<lease>")
    def revoke(lease: str) -> Response:
        given, name, wanted = parameters(incoming.query(), REVOKE), own_id(), _lease(lease)
        _no_body("DELETE /v1/leases/<id>")
        written = write(service, Revoke(wanted), given, name)

        def done(result: Committed) -> View:
            return View(committed(written, result, lease=wanted, deleted=result.changes))

        return respond(answer(written, done))


def _kept(service: Service, lease: int) -> dict[str, Any]:
    """What a keep-alive is answered: the lease's time, as far as this node knows it already."""
    found = service.reads.lease(lease)
    return {"lease": lease, "ttl": found.ttl_ms / 1000 if found is not None else None}


def _lease(text: str) -> int:
    """The lease that a path names."""
    return int(number(1, NUMBER_MAX)("lease", text))


def _no_body(what: str) -> None:
    if incoming.body():
        raise InvalidInput(f"{what} takes no body: its path says it all")


def _no_such_lease(lease: int) -> View:
    what = f"this node knows no lease {lease}: it has ended, never was, or is not applied here yet"
    return problem("no-such-lease", what)
