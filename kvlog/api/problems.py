"""Problems as answers; what kinds there are, kvlog.problems knows."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from kvlog.api.answers import View
from kvlog.errors import KvlogError
from kvlog.problems import KINDS, MEDIA_TYPE, PASSING, RETRY_AFTER, details, details_of, details_of_status


def problem(kind: str, detail: str, headers: dict[str, str] | None = None, **members: Any) -> View:
    """The answer that tells of a problem of the type ``kind``."""
    return _view(kind, details(kind, detail, **members), headers)


def of_error(error: KvlogError) -> View:
    """The answer that one of ``problems.ANSWERED`` stands for."""
    return _view(*details_of(error))


def of_status(status: int, detail: str, headers: dict[str, str] | None = None) -> View:
    """The answer to a request that was refused below the routes, where the HTTP status says why."""
    known = HTTPStatus(status)
    return View(details_of_status(known, detail), known, headers or {}, MEDIA_TYPE)


def _view(kind: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> View:
    passing = dict((RETRY_AFTER,)) if kind in PASSING else {}
    return View(body, KINDS[kind].status, passing | (headers or {}), MEDIA_TYPE)
