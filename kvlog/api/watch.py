"""GET /v1/watch: Server-Sent Events and long polls, on the event loop: a watcher holds no thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from kvlog.api import parameters as params
from kvlog.api import problems
from kvlog.api.answers import JSON, View, encode
from kvlog.errors import (
    ClientGone,
    GapsInHistory,
    HistoryTrimmed,
    InvalidInput,
    KvlogError,
    Unavailable,
    WatchEnded,
)
from kvlog.front import Exchange, Scope, Stream, query_of
from kvlog.watching.hub import WatchHub
from kvlog.watching.wanted import Wanted
from kvlog.watching.watcher import Watcher

PATH = "/v1/watch"

HEARTBEAT_S = 10.0
"""How often a watcher is told how far it has come, if it does not say."""

WAIT_MAX_S = 60

CATCH_UP_S = 10.0
"""How long a poll goes through the past before it answers that nothing was found up to some revision."""

RETRY = b"retry: 1000\n\n"
"""After so many milliseconds a browser's EventSource connects again, by itself and with Last-Event-ID."""

SEND_BYTES = 64 * 1024
"""About how much is given to a watcher's connection at a time; a larger event goes as one."""

SEND_S = 10.0
"""How long a connection may take to be ready for more. One that is not is closed: its client does not read."""

POLL_BYTES = 256 * 1024
"""About how much one answer to a poll holds."""

PARAMETERS = (
    params.a_prefix(
        "prefix", "what the keys begin with that are watched; all of them if neither this nor key is given"
    ),
    replace(params.a_key("the one key that is watched"), required=False),
    params.a_number("from", "the first revision that is wanted; the next one if it is not given", low=1),
    params.some_seconds(
        "wait", "long poll: answer in JSON, after so many seconds at the latest", 0, WAIT_MAX_S, None
    ),
    replace(
        params.some_seconds("heartbeat", "seconds between events of progress", 1, 60, round(HEARTBEAT_S * 1000)),
        default=None,
    ),
)

LAST_EVENT_ID_MAX = params.NUMBER_MAX - 1
"""There has to be a revision behind it."""

_last_event_id = params.number(0, LAST_EVENT_ID_MAX)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for. ``start`` is None for the next revision, ``wait_s`` for a stream."""

    wanted: Wanted
    start: int | None
    wait_s: float | None
    heartbeat_s: float


def read_wish(scope: Scope) -> Wish:
    """What a request asks for.

    Raises:
        InvalidInput: it makes no sense.
    """
    try:
        given = params.parameters(query_of(scope), PARAMETERS)
    except UnicodeDecodeError:
        raise InvalidInput("the query is not UTF-8: percent-encode it") from None
    if given["key"] is not None and given["prefix"]:
        raise InvalidInput("key and prefix are given: say one of them")
    if given["wait"] is not None and given["heartbeat"] is not None:
        raise InvalidInput("wait and heartbeat are given: a poll is answered once and has no heartbeat")
    start = given["from"]
    seen = [value.decode("latin-1") for name, value in scope["headers"] if name == b"last-event-id"]
    if seen:
        start = _last_event_id("Last-Event-ID", ", ".join(seen)) + 1
    wanted = Wanted(given["prefix"]) if given["key"] is None else Wanted(given["key"], exact=True)
    heartbeat_ms = given["heartbeat"]
    return Wish(
        wanted,
        start,
        None if given["wait"] is None else given["wait"] / 1000,
        HEARTBEAT_S if heartbeat_ms is None else heartbeat_ms / 1000,
    )


class WatchRoute:
    """Answers GET /v1/watch. ``marks``: the headers of every answer, as they are now."""

    def __init__(self, hub: WatchHub, marks: Callable[[], dict[str, str]]) -> None:
        self._hub = hub
        self._marks = marks

    async def __call__(self, scope: Scope, proto: Exchange) -> None:
        """One request, to its end."""
        if scope["method"] != "GET":
            what = "the path is there, but not with this method; there is GET"
            self._answer(proto, problems.of_status(HTTPStatus.METHOD_NOT_ALLOWED, what, {"Allow": "GET"}))
            return
        try:
            wish = read_wish(scope)
            watcher = await self._hub.open(wish.wanted, wish.start)
        except (InvalidInput, HistoryTrimmed, GapsInHistory, Unavailable) as error:
            self._answer(proto, _problem(error))
            return
        try:
            if wish.wait_s is None:
                await self._stream(watcher, proto, wish.heartbeat_s)
            else:
                await self._poll(watcher, proto, wish.wait_s)
        finally:
            self._hub.close(watcher)

    async def _stream(self, watcher: Watcher, proto: Exchange, heartbeat_s: float) -> None:
        """Events as they come, until the client leaves or does not keep up."""
        clock = asyncio.get_running_loop().time
        stream = proto.response_stream(
            HTTPStatus.OK,
            self._headers(
                {
                    "Content-Type": "text/event-stream",
                    "X-Accel-Buffering": "no",  # a proxy in between (nginx) is not to gather them
                    "Connection": "close",  # a stream that has ended is no use to anybody
                }
            ),
        )
        data = RETRY + _progress(watcher)
        due = clock() + heartbeat_s
        caught_up = watcher.in_step and watcher.idle
        try:
            while True:
                if data:
                    await _send(stream, data)
                await watcher.ready(due - clock())
                data = b"".join(frame.text for frame in watcher.take(SEND_BYTES))
                catches_up = not caught_up and watcher.in_step and watcher.idle
                if catches_up or clock() >= due:
                    data += _progress(watcher)
                    due = clock() + heartbeat_s
                    caught_up |= catches_up
        except WatchEnded as ended:
            await _send(stream, b"event: error\ndata: " + encode(_ended(ended).body).encode() + b"\n")

    async def _poll(self, watcher: Watcher, proto: Exchange, wait_s: float) -> None:
        """The next events, or none if there are none in time."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        while watcher.idle:
            # What has happened already is found out first, however short the client wants to wait for more.
            limit_s = wait_s if watcher.in_step else max(wait_s, CATCH_UP_S)
            if (left_s := begun + limit_s - clock()) <= 0:
                break
            await watcher.ready(left_s)
        try:
            events = b",".join(frame.data for frame in watcher.take(POLL_BYTES))
        except WatchEnded as ended:
            self._answer(proto, _ended(ended))
            return
        revision = watcher.delivered
        body = b'{"revision":%d,"events":[%b],"next":%d}\n' % (revision, events, revision + 1)
        proto.response_bytes(HTTPStatus.OK, self._headers({"Content-Type": JSON}), body)

    def _answer(self, proto: Exchange, view: View) -> None:
        headers = self._headers({"Content-Type": view.media_type} | view.headers)
        proto.response_bytes(view.status, headers, encode(view.body).encode())

    def _headers(self, own: dict[str, str]) -> list[tuple[str, str]]:
        return list((own | {"Cache-Control": "no-store"} | self._marks()).items())


async def _send(stream: Stream, data: bytes) -> None:
    """Give something to the client.

    Raises:
        ClientGone: it is not there, or does not read: its connection is closed.
    """
    try:
        async with asyncio.timeout(SEND_S):
            await stream.send_bytes(data)
    except TimeoutError:
        raise ClientGone(f"the client has read nothing for {SEND_S:g} s") from None


def _progress(watcher: Watcher) -> bytes:
    """The event that says how far the watcher has come."""
    return b'id: %d\nevent: progress\ndata: {"revision":%d}\n\n' % (watcher.delivered, watcher.delivered)


def _ended(ended: WatchEnded) -> View:
    """Why a watch cannot go on, and where it can."""
    view = _problem(ended.reason)
    members: dict[str, Any] = {"resume": ended.resume}
    return replace(view, body=view.body | members)


def _problem(error: KvlogError) -> View:
    if isinstance(error, HistoryTrimmed):
        return problems.problem(
            "history-trimmed",
            f"what happened up to revision {error.floor} is not kept by this node any more: read the keys as they "
            f"are, and watch from {error.floor + 1} on or later; or ask another node, which may keep more",
            floor=error.floor,
        )
    return problems.of_error(error)
