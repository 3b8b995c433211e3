"""What a node's answer says of an operation; docs/api.md says which answers are definite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tests.faults.operations import Outcome


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, its headers' names in lower case."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def body(self) -> dict[str, Any]:
        """What it says in JSON; empty if it does not."""
        try:
            found = json.loads(self.data)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def stale(self) -> bool:
        """Whether the node's store has missed entries: what it shows is no state of the log, and it says so."""
        return self.headers.get("kvlog-stale") == "true"

    def number(self, header: str, other: int) -> int:
        """A header's number; ``other`` if it has none."""
        text = self.headers.get(header, "")
        return int(text) if text.isdigit() else other

    def says(self) -> str:
        """What it says of what went wrong, in a line."""
        if self.stale:
            return "the node says that its store has missed entries"
        body = self.body
        return f"{self.status} {body.get('type', '')} {body.get('detail', '')}".strip()[:300]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer, or that there is none, says of an operation: fields of Operation.

    ``final``: whether that holds whatever becomes of other tries under the same id.
    """

    outcome: Outcome
    revision: int = 0
    index: int = -1
    result: Any = None
    error: str = ""
    final: bool = False


NEVER_CARRIED_OUT = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}
"""With these a request is refused because of what it is."""


def written(reply: Reply) -> Verdict:
    """What the answer to a write says."""
    body = reply.body
    said = body.get("outcome", "")
    if reply.status in (HTTPStatus.OK, HTTPStatus.CREATED) and said == "committed":
        outcome = Outcome.OK if body.get("succeeded", True) else Outcome.FAILED
        return Verdict(outcome, int(body["revision"]), int(body["index"]), final=True)
    if body.get("type") == "kvlog:condition-failed":
        return Verdict(Outcome.FAILED, int(body["revision"]), final=True)
    if said == "refused" or (said == "" and reply.status in NEVER_CARRIED_OUT):
        return Verdict(Outcome.REFUSED, error=reply.says())
    return Verdict(Outcome.UNKNOWN, error=reply.says())


def settled(reply: Reply) -> Verdict:
    """What the answer to DELETE /v1/requests/<id> says of the write with that id."""
    body = reply.body
    said = body.get("outcome", "") if reply.status == HTTPStatus.OK else ""
    if said == "committed":
        return Verdict(Outcome.OK, int(body["revision"]), int(body["index"]), final=True)
    if said == "cancelled":
        return Verdict(Outcome.REFUSED, error="it was cancelled", final=True)
    return Verdict(Outcome.UNKNOWN, error=reply.says())


def read_one(reply: Reply) -> Verdict:
    """What the answer to a read of a key says."""
    missing = reply.status == HTTPStatus.NOT_FOUND and reply.body.get("type") == "kvlog:not-found"
    if (reply.status != HTTPStatus.OK and not missing) or reply.stale:
        return Verdict(Outcome.REFUSED, error=reply.says())
    if missing:
        value = None
    elif reply.headers.get("content-type") == "application/json":
        value = reply.body["value"]
    else:
        value = reply.data.decode()
    revision, index = reply.number("kvlog-revision", 0), reply.number("kvlog-applied-index", -1)
    return Verdict(Outcome.OK, revision, index, value)


def read_page(reply: Reply) -> Verdict:
    """What the answer to a page of keys says; its result maps the keys to their values."""
    body = reply.body
    if reply.status != HTTPStatus.OK or reply.stale or "items" not in body:
        return Verdict(Outcome.REFUSED, error=reply.says())
    values = {item["key"]: item["value"] for item in body["items"]}
    return Verdict(Outcome.OK, int(body["revision"]), reply.number("kvlog-applied-index", -1), values)


def of_all_tries(verdicts: Sequence[Verdict]) -> Verdict:
    """What is known of an operation that was sent several times under one id.

    One final answer settles it. A refusal does not, if another try is still under way somewhere.
    """
    for verdict in verdicts:
        if verdict.final:
            return verdict
    return next((each for each in verdicts if each.outcome is Outcome.UNKNOWN), verdicts[-1])
