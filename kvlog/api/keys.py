"""/v1/kv: keys with their values, one by one (raw, with conditions) and in pages."""

from __future__ import annotations

import threading
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from werkzeug.routing import BaseConverter

from kvlog.api import incoming
from kvlog.api.answers import View, respond
from kvlog.api.conditions import Tags, conditions, is_known, matches, tag_of, tags, wants_item
from kvlog.api.incoming import Asked
from kvlog.api.items import check_content_type, content_type, item
from kvlog.api.outcomes import answer, committed
from kvlog.api.parameters import TTL, WRITE, a_flag, a_limit, a_number, a_prefix, parameters
from kvlog.api.problems import problem
from kvlog.api.reading import READ, age, read_options
from kvlog.api.writing import Planned, checked, own_id
from kvlog.core.commands import Condition, DeleteKey, SetKey, Txn
from kvlog.core.entry import VALUE_BYTES_MAX
from kvlog.core.machine import Record
from kvlog.core.values import Committed
from kvlog.errors import InvalidInput, TooBusy
from kvlog.service.reads import Read
from kvlog.service.service import Service
from kvlog.service.writes import Written

PAGE_ITEMS = 100
PAGE_ITEMS_MAX = 1_000

PAGES_MAX = 4
"""Pages that are made at a time: each may take tens of milliseconds of the interpreter, and with hundreds of them
the threads that keep this node's session alive would wait for their turn too long."""

GET = READ
PUT = (TTL, a_number("lease", "the lease that the key goes away with", low=1), *WRITE)
DELETE = WRITE
LIST = (
    a_prefix("prefix", "what the keys begin with"),
    a_prefix("from", "the first key that is wanted, itself included"),
    a_limit(PAGE_ITEMS_MAX, PAGE_ITEMS, low=0),
    a_flag("keys_only", "leave the values out"),
    a_flag("count", "say how many keys have the prefix, on this page or not"),
    *READ,
)

VALUE_HEADERS = {
    "Vary": "Accept",
    "Cache-Control": "no-cache",  # but with If-None-Match a copy may be used again
    # Values are anybody's: a browser is to run none of them as if they came from kvlog.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox",
}


class KeyConverter(BaseConverter):
    """Whatever follows in the path, slashes and all; which key that is, ``incoming.key`` tells."""

    regex = r"(?s:.*)"
    part_isolating = False


def add_routes(app: Flask, service: Service) -> None:
    """/v1/kv and /v1/kv/<key>."""
    app.url_map.converters["key"] = KeyConverter
    _add_reads(app, service)
    _add_writes(app, service)


def _add_reads(app: Flask, service: Service) -> None:
    pages = threading.BoundedSemaphore(PAGES_MAX)

    @app.get("/v1/kv")
    def list_keys() -> Response:
        given = parameters(incoming.query(), LIST)
        if not pages.acquire(timeout=read_options(given).timeout_s):
            raise TooBusy("this node makes as many pages of keys as it can already")
        try:
            return respond(_page(service, given))
        finally:
            pages.release()

    @app.get("/v1/kv/<key:_>")
    def get_key(_: str) -> Response:
        key = incoming.key()
        record, read = service.reads.key(key, read_options(parameters(incoming.query(), GET)))
        if record is None:
            what = f"there is no key {key!r} at revision {read.revision}"
            return respond(problem("not-found", what, age(read), revision=read.revision))
        return _show(key, record, read)


def _add_writes(app: Flask, service: Service) -> None:
    @app.put("/v1/kv/<key:_>")
    def put_key(_: str) -> Response:
        planned = put_of(incoming)
        return respond(planned.answered(service.writes.write(planned.write)))

    @app.delete("/v1/kv/<key:_>")
    def delete_key(_: str) -> Response:
        planned = delete_of(incoming)
        return respond(planned.answered(service.writes.write(planned.write)))


def put_of(asked: Asked) -> Planned:
    """What a request to set a key asks for.

    Raises:
        InvalidInput: it makes no sense.
    """
    key, given = asked.key(), parameters(asked.query(), PUT)
    held, name = _conditions(key, asked), own_id(asked)
    if given["ttl"] and given["lease"]:
        raise InvalidInput("ttl gives the key a lease of its own, lease names another: leave one of them out")
    if asked.header("Content-Range") is not None:
        raise InvalidInput("Content-Range: a value is always put as a whole")
    kind = check_content_type(asked.header("Content-Type") or "")
    value = asked.body(VALUE_BYTES_MAX)
    operation = SetKey(key, value, kind, given["lease"] or 0, given["ttl"] or 0)

    def answered(written: Written) -> View:
        def done(result: Committed) -> View:
            status = HTTPStatus.CREATED if result.created else HTTPStatus.OK
            headers = {"ETag": tag_of(result.revision), "Kvlog-Revision": str(result.revision)}
            return View(committed(written, result, key=key), status, headers)

        return answer(written, done)

    return Planned(checked(Txn((operation,), held), given, name), answered)


def delete_of(asked: Asked) -> Planned:
    """What a request to delete a key asks for. Raises as ``put_of`` does."""
    key, given = asked.key(), parameters(asked.query(), DELETE)
    held, name = _conditions(key, asked), own_id(asked)
    if asked.body():
        raise InvalidInput("DELETE takes no body: its path says it all")

    def answered(written: Written) -> View:
        def done(result: Committed) -> View:
            body = committed(written, result, key=key, deleted=result.changes > 0)
            return View(body, headers={"Kvlog-Revision": str(result.revision)})

        return answer(written, done)

    return Planned(checked(Txn((DeleteKey(key),), held), given, name), answered)


def _header_tags(name: str, asked: Asked) -> Tags | None:
    return tags(name, asked.header(name))


def _conditions(key: str, asked: Asked) -> tuple[Condition, ...]:
    return conditions(key, _header_tags("If-Match", asked), _header_tags("If-None-Match", asked))


def _show(key: str, record: Record, read: Read) -> Response:
    """A key in the form that the client prefers, or what its conditions make of it."""
    raw_type = content_type(record)
    as_item = wants_item(request.accept_mimetypes, raw_type)
    tag = tag_of(record.revision, as_item=as_item)
    headers = {"ETag": tag, **VALUE_HEADERS, **age(read)}
    if_match, if_none_match = _header_tags("If-Match", incoming), _header_tags("If-None-Match", incoming)
    if if_match is not None and not matches(if_match, record.revision):
        what = f"the key is there, but at revision {record.revision}, which If-Match does not name"
        return respond(problem("condition-failed", what, age(read), revision=read.revision))
    if if_none_match is not None and is_known(if_none_match, tag):
        return Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    if as_item:
        return respond(View(item(key, record), headers=headers))
    headers["Kvlog-Create-Revision"] = str(record.create)
    headers["Kvlog-Version"] = str(record.version)
    if record.lease:
        headers["Kvlog-Lease"] = str(record.lease)
    return Response(record.value, headers=headers, content_type=raw_type)


def _page(service: Service, given: dict[str, Any]) -> View:
    page, read = service.reads.page(
        given["prefix"],
        start=given["from"],
        limit=given["limit"],
        options=read_options(given),
        count=given["count"],
    )
    body: dict[str, Any] = {
        "revision": read.revision,
        "items": [item(key, record, keys_only=given["keys_only"]) for key, record in page.items],
    }
    if page.next is not None:
        body["next"] = page.next
    if page.count is not None:
        body["count"] = page.count
    return View(body, headers=age(read))
