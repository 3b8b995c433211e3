"""Where a watch stands: what has come, what to ask for next; each change is handed out once and in order."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from kvlog.client.errors import BadAnswer, BadRequest, ClientError
from kvlog.client.judging import judge
from kvlog.client.messages import Again, Answer, Call, Done, Request, whole_number
from kvlog.client.operations import check_key
from kvlog.client.reads import target
from kvlog.client.results import Event
from kvlog.client.sse import SseParser
from kvlog.client.wire import UNREADABLE, WireEvent

EVENT_STREAM = "text/event-stream"

SILENCE_FACTOR = 3
"""A stream on which nothing comes for so many heartbeats is cut."""

RETRY_S, RETRY_MIN_S, RETRY_MAX_S = 1.0, 0.1, 2.0
"""The time between two streams, if the nodes do not say, and whatever they say."""

HEARTBEAT_S = 10.0
PATIENCE_S = 60.0
"""For how long a watch tries to reach a node, if its caller does not say."""

HEARTBEAT_MIN_S, HEARTBEAT_MAX_S = 1, 60


@dataclass(frozen=True, slots=True)
class Taken:
    """What a piece of a stream has brought.

    Attributes:
        events: those that are new.
        heard: the node has told of a change, or how far it has come.
        cut: why the stream ends with it; "" if it goes on.
        error: why the watch cannot go on anywhere.
    """

    events: list[Event]
    heard: bool
    cut: str = ""
    error: ClientError | None = None


class Feed:
    """See the module's docstring.

    Args:
        prefix: the keys to watch; not together with ``key``.
        key: the one key to watch.
        start: the first revision wanted; None: the first one after what the node that is asked has.
        seen: what this client has seen already: without ``start``, nothing up to there is handed out.
        heartbeat: seconds after which a node is to say how far it has come if there is nothing to tell.

    Attributes:
        position: everything up to this revision has come; None until a node has said where it begins.
    """

    def __init__(self, prefix: str, key: str | None, *, start: int | None, seen: int, heartbeat: float) -> None:
        if key is not None and prefix:
            raise BadRequest("watch: say which key or which prefix, and not both")
        if not HEARTBEAT_MIN_S <= heartbeat <= HEARTBEAT_MAX_S:
            raise BadRequest(f"heartbeat={heartbeat!r}: must be {HEARTBEAT_MIN_S} to {HEARTBEAT_MAX_S} seconds")
        if start is not None and start < 1:
            raise BadRequest(f"start={start!r}: the first revision is 1")
        if key is not None:
            check_key(key)
        self.what = f"watch {key if key is not None else prefix!r}"
        self.silence = SILENCE_FACTOR * heartbeat
        self.position = None if start is None else start - 1
        self._seen = seen
        self._query = {"prefix": prefix or None, "key": key, "from": start, "heartbeat": f"{heartbeat:g}"}
        self._resumes = False
        self._parser = SseParser()
        self._request()  # what cannot be sent is refused before anything is

    def call(self) -> Call[str]:
        """Begin the stream, or go on with it, at any node; at which. The answer's body is the stream itself."""
        return Call(self.what, lambda _: self._request(), self._begin)

    def _request(self) -> Request:
        headers = {"Accept": EVENT_STREAM}
        if self._resumes:
            headers["Last-Event-ID"] = str(self.position)
        return Request("GET", target("/v1/watch", self._query), headers)

    def _begin(self, answer: Answer) -> Done[str] | None:
        if answer.status != HTTPStatus.OK:
            return None
        kind = answer.headers.get("content-type", "")
        if kind.partition(";")[0].strip() != EVENT_STREAM:
            raise ValueError(f"it is {kind!r}, and no stream of events")
        self._parser = SseParser()
        return Done(answer.node)

    @property
    def pause(self) -> float:
        """Seconds that are to be between two streams, if the nodes had their way."""
        retry_ms = self._parser.retry_ms
        return RETRY_S if retry_ms is None else min(max(retry_ms / 1000, RETRY_MIN_S), RETRY_MAX_S)

    def take(self, piece: bytes) -> Taken:
        """What a piece of the stream brings."""
        events: list[Event] = []
        heard = False
        try:
            for found in self._parser.feed(piece):
                match found.type:
                    case "change":
                        event = self._decoded(found.data)
                        if event.revision > self._reached:
                            events.append(event)
                        self._reach(event.revision)
                        heard = True
                    case "progress":
                        self._reach(whole_number(found.id))
                        heard = True
                    case "error":
                        return Taken(events, heard, cut=self._ended(found.data))
        except ClientError as error:
            return Taken(events, heard, error=error)
        return Taken(events, heard)

    @property
    def _reached(self) -> int:
        return self._seen if self.position is None else self.position

    def _reach(self, revision: int) -> None:
        self.position = max(revision, self._reached)
        self._resumes = True

    def _decoded(self, data: str) -> Event:
        try:
            return msgspec.json.decode(data, type=WireEvent).event()
        except (*UNREADABLE, ValueError) as error:
            raise BadAnswer(f"{self.what}: an event is not understood: {error}") from error

    def _ended(self, data: str) -> str:
        """Why the node has ended the stream."""
        try:
            status = msgspec.json.decode(data, type=_Status).status
        except UNREADABLE:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        answer = Answer("", max(status, HTTPStatus.BAD_REQUEST), {}, data.encode())
        found = judge(self.call(), answer)
        return found.reason if isinstance(found, Again) else "the node has ended it"


class _Status(msgspec.Struct):
    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
