"""The calls that change nothing: what is asked, and how the answer is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from kvlog.client.errors import BadRequest
from kvlog.client.judging import problem_of
from kvlog.client.messages import Again, Answer, Call, Done, Request, node_time_ms, whole_number
from kvlog.client.operations import check_key
from kvlog.client.results import Difference, Event, Item, LoggedEntry, Version
from kvlog.client.wire import (
    WireDifferences,
    WireEntries,
    WireEvents,
    WireItems,
    WireVersions,
    checked_text,
)

T = TypeVar("T")

PAGE_ITEMS = 500
"""Items asked for at a time; a page also ends at about 4 MiB."""

PAGE_VERSIONS = 100
PAGE_ENTRIES = 100

Query = Mapping[str, "str | int | float | None"]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a listing.

    Attributes:
        items: what is on it.
        next: where the next page begins; None after the last one.
        revision: that of the state which all pages show.
        floor: the oldest revision whose state is known, where the page tells.
        trimmed: there may have been more, which is not remembered.
    """

    items: tuple[T, ...]
    next: str | int | None
    revision: int = 0
    floor: int = 0
    trimmed: bool = False


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How recent a read has to be; see ``Client.get``."""

    linearizable: bool = False
    min_revision: int | None = None
    max_stale_ms: int | None = None
    max_lag: int | None = None
    at: int | None = None

    def query(self, seconds: float) -> dict[str, str | int | float | None]:
        """The parameters that say so, in a try of so many seconds."""
        waits = self.linearizable or self.min_revision is not None or self.at is not None
        return {
            "linearizable": "true" if self.linearizable else None,
            "min_revision": self.min_revision,
            "max_stale_ms": self.max_stale_ms,
            "max_lag": self.max_lag,
            "at": self.at,
            "timeout_ms": node_time_ms(seconds) if waits else None,
        }


LOCAL = ReadOptions()


@dataclass(frozen=True, slots=True)
class Listing:
    """Which keys to list; ``start`` is the first one wanted."""

    prefix: str = ""
    start: str = ""
    limit: int = PAGE_ITEMS
    keys_only: bool = False
    count: bool = False
    options: ReadOptions = field(default=LOCAL)


def target(path: str, query: Query | None = None) -> str:
    """Path and query; parameters that are None are left out.

    Raises:
        BadRequest: a parameter is a text that UTF-8 cannot hold.
    """
    given = {name: value for name, value in (query or {}).items() if value is not None}
    for name, value in given.items():
        if isinstance(value, str):
            checked_text(name, value)
    return f"{path}?{urlencode(given, quote_via=quote, safe='')}" if given else path


def key_path(key: str) -> str:
    """A key's path, in which nothing looks like a step up or an empty step.

    Raises:
        BadRequest: it is no key.
    """
    check_key(key)
    encoded = quote(key, safe="")
    return f"/v1/kv/{encoded.replace('.', '%2E') if key in {'.', '..'} else encoded}"


def get(key: str, options: ReadOptions) -> Call[Item | None]:
    """The item of a key."""
    path = key_path(key)

    def read(answer: Answer) -> Done[Item | None] | None:
        if answer.status == HTTPStatus.NOT_FOUND and problem_of(answer).type == "not-found":
            return Done(None)
        return Done(_raw_item(key, answer)) if answer.status == HTTPStatus.OK else None

    return _read(f"get {key!r}", path, read, options=options)


def listing(wanted: Listing) -> Call[Page[Item]]:
    """A page of the keys with a prefix."""

    def read(answer: Answer) -> Done[Page[Item]] | None:
        if answer.status != HTTPStatus.OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireItems)
        items = tuple(item.item() for item in found.items)
        return Done(Page(items, found.next, found.revision), found.revision)

    return _read(f"list {wanted.prefix!r}", "/v1/kv", read, _listing_query(wanted), wanted.options)


def count(wanted: Listing) -> Call[int]:
    """How many keys have a prefix."""

    def read(answer: Answer) -> Done[int] | None:
        if answer.status != HTTPStatus.OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireItems)
        if found.count is None:
            raise ValueError("it does not count")
        return Done(found.count, found.revision)

    return _read(f"count {wanted.prefix!r}", "/v1/kv", read, _listing_query(wanted), wanted.options)


def history(key: str, before: int | None, at_least: int) -> Call[Page[Version]]:
    """A page of what a key has held, the newest first, by a node that has come as far as revision ``at_least``."""
    check_key(key)

    def read(answer: Answer) -> Done[Page[Version]] | Again | None:
        if answer.status != HTTPStatus.OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireVersions)
        if found.revision < at_least:
            return _behind(found.revision, at_least)
        versions = tuple(version.seen(key) for version in found.versions)
        return Done(Page(versions, found.next, found.revision, found.floor, found.trimmed), found.revision)

    query: Query = {"key": key, "limit": PAGE_VERSIONS, "before": before}
    return _read(f"history of {key!r}", "/v1/history", read, query)


def diff(start: int, end: int | None, prefix: str, begin: str, at_least: int) -> Call[Page[Difference]]:
    """A page of what differs between two revisions, from the key ``begin`` on.

    Without ``end``, by a node that has come as far as revision ``at_least``.
    """

    def read(answer: Answer) -> Done[Page[Difference]] | Again | None:
        if answer.status != HTTPStatus.OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireDifferences)
        if end is None and found.to < at_least:
            return _behind(found.to, at_least)
        return Done(Page(tuple(change.difference() for change in found.changes), found.next, found.to), found.to)

    query: Query = {
        "from": start,
        "to": end,
        "prefix": prefix or None,
        "start": begin or None,
        "limit": PAGE_ITEMS,
    }
    return _read(f"diff from revision {start}", "/v1/diff", read, query)


def log(start: int) -> Call[Page[LoggedEntry]]:
    """A page of the log; ``next`` is None where it ends for now."""

    def read(answer: Answer) -> Done[Page[LoggedEntry]] | None:
        if answer.status != HTTPStatus.OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireEntries)
        more = found.next if found.entries and found.next <= found.tail_index else None
        return Done(Page(tuple(found.entries), more, floor=found.first_index))

    return _read(f"log from {start}", "/v1/log", read, {"from": start, "limit": PAGE_ENTRIES})


def explain(key: str) -> Call[dict[str, Any]]:
    """Why a key is what it is."""
    check_key(key)
    return _read(f"explain {key!r}", "/v1/explain", _object, {"key": key})


def status() -> Call[dict[str, Any]]:
    """What a node says of itself."""
    return _read("status", "/v1/status", _object)


def poll(key: str, start: int, wait_max: float) -> Call[tuple[tuple[Event, ...], int]]:
    """The key's events from revision ``start`` on, as soon as there are any, and where to go on.

    There may be none within the try, or within ``wait_max`` seconds. A node that has not even come as far as
    ``start`` by then is none to wait at.
    """

    def build(seconds: float) -> Request:
        wait = min(wait_max, node_time_ms(seconds) / 1000)
        return Request("GET", target("/v1/watch", {"key": key, "from": start, "wait": round(wait, 3)}))

    def read(answer: Answer) -> Done[tuple[tuple[Event, ...], int]] | Again | None:
        if answer.status != HTTPStatus.OK:
            return None
        found = msgspec.json.decode(answer.body, type=WireEvents)
        if found.revision < start - 1:
            return _behind(found.revision, start - 1)
        events = tuple(event.event() for event in found.events)
        return Done((events, max(start, found.next)), events[-1].revision if events else 0)

    check_key(key)
    return Call(f"watch {key!r}", build, read)


def _read(
    what: str,
    path: str,
    read: Callable[[Answer], Done[T] | Again | None],
    query: Query | None = None,
    options: ReadOptions = LOCAL,
) -> Call[T]:
    if options.linearizable and options.at is not None:
        raise BadRequest(f"{what}: at= shows a state of the past, linearizable= the latest one: take one of them")

    def build(seconds: float) -> Request:
        return Request("GET", target(path, {**(query or {}), **options.query(seconds)}))

    build(1.0)  # what cannot be sent is refused before anything is
    return Call(what, build, read)


def _behind(revision: int, at_least: int) -> Again:
    return Again(f"it stands at revision {revision}, and {at_least} is wanted", in_doubt=False)


def _listing_query(wanted: Listing) -> Query:
    return {
        "prefix": wanted.prefix or None,
        "from": wanted.start or None,
        "limit": wanted.limit,
        "keys_only": "true" if wanted.keys_only else None,
        "count": "true" if wanted.count else None,
    }


def _raw_item(key: str, answer: Answer) -> Item:
    headers = answer.headers
    revision = whole_number(headers.get("etag", "").strip('"'))
    if not revision:
        raise ValueError("its ETag is no revision")
    lease = whole_number(headers.get("kvlog-lease", ""))
    return Item(
        key=key,
        value=answer.body,
        revision=revision,
        create_revision=whole_number(headers.get("kvlog-create-revision", "")),
        version=whole_number(headers.get("kvlog-version", "")),
        content_type=headers.get("content-type", ""),
        lease=lease or None,
    )


def _object(answer: Answer) -> Done[dict[str, Any]] | None:
    if answer.status != HTTPStatus.OK:
        return None
    found = msgspec.json.decode(answer.body, type=dict[str, Any])
    revision = found.get("revision")
    return Done(found, revision if isinstance(revision, int) else 0)
