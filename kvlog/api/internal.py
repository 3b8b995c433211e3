"""What nodes say to each other over HTTP: pushes, and writes that are handed on to the leader."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from flask import Flask, Response

from kvlog.api import incoming
from kvlog.api.answers import respond
from kvlog.api.commands import check_well_formed
from kvlog.api.ids import any_request_id
from kvlog.api.parameters import parameters
from kvlog.api.problems import problem
from kvlog.config import WRITE_TIMEOUT_MAX_S
from kvlog.core.entry import UNREADABLE
from kvlog.core.values import PushAnswer, PushBody, Refused
from kvlog.errors import InvalidInput
from kvlog.peers import MSGPACK, Forward, ForwardAnswer
from kvlog.service.service import Service

FORWARD_BYTES_MAX = incoming.BODY_BYTES_MAX + 512 * 1024
"""Upper bound of a write that is handed on: what a client leaves out in its JSON is written out in it."""

_forwards = msgspec.msgpack.Decoder(Forward)
_pushes = msgspec.msgpack.Decoder(PushBody)
_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")


def add_routes(app: Flask, service: Service) -> None:
    """/propagate and /forward."""

    @app.post("/forward")
    def forward() -> Response:
        parameters(incoming.query())
        wanted = forward_of(incoming.body(FORWARD_BYTES_MAX))
        return Response(_encoder.encode(ForwardAnswer.of(service.writes.take(wanted))), mimetype=MSGPACK)

    @app.post("/propagate")
    def propagate() -> Response:
        parameters(incoming.query())
        answer = service.propagate(push_of(incoming.body()))
        if isinstance(answer, Refused):
            return respond(problem("conflict", answer.reason))
        return Response(encoded(answer), mimetype=MSGPACK)


def encoded(answer: PushAnswer) -> bytes:
    """The body of the answer to a push."""
    return _encoder.encode(answer)


def push_of(body: bytes) -> PushBody:
    """A push of a leader. Raises InvalidInput."""
    return _decoded(_pushes, body, "a push of a leader; clients write with PUT /v1/kv/<key>")


def forward_of(body: bytes) -> Forward:
    """A write that another node hands on. It is looked at as if a client had sent it: anybody can send this, too.

    Raises:
        InvalidInput: it is none, or none that a node would have taken from its client.
    """
    what = "a write that a node hands on; clients write with PUT /v1/kv/<key>"
    forward = _decoded(_forwards, body, what)
    if forward.request_id:
        any_request_id(forward.request_id)
    if not 1 <= forward.timeout_ms <= WRITE_TIMEOUT_MAX_S * 1000:
        raise InvalidInput(f"timeout_ms {forward.timeout_ms}: must be from 1 to {WRITE_TIMEOUT_MAX_S * 1000:.0f}")
    check_well_formed(forward.command)
    return forward


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise InvalidInput(f"this is not {what}: {error}") from None
