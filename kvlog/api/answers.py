"""Answers, before they are Flask's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Response

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class View:
    """A JSON body, its HTTP status, headers, and media type."""

    body: Any
    status: int = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = JSON


_encoder = json.JSONEncoder(ensure_ascii=False)


def encode(body: Any) -> str:
    """A line of JSON. Characters stand for themselves, so that people can read them."""
    return _encoder.encode(body) + "\n"


def respond(view: View) -> Response:
    """The answer as Flask sends it."""
    return Response(encode(view.body), view.status, view.headers, content_type=view.media_type)
