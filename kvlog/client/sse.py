"""Server-sent events, as the WHATWG defines them: bytes in, however they are cut, events out.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kvlog.client.errors import BadAnswer

EVENT_BYTES_MAX = 16 * 1024 * 1024
"""What an event, or a line, may hold. A transaction is half a mebibyte, which JSON makes larger by six at most."""

RETRY_DIGITS_MAX = 9

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event: its type ("message" if it has none), its data, and the last id that the stream has told."""

    type: str
    data: str
    id: str


class SseParser:
    """Takes one stream, in pieces.

    Attributes:
        retry_ms: for how long the server wants to be left alone after a cut; None if it has not said so.
    """

    def __init__(self) -> None:
        self.retry_ms: int | None = None
        self._line = bytearray()  # the beginning of one that has not ended yet
        self._after_cr = False  # the last line has ended with CR; an LF that comes next belongs to its end
        self._first = True
        self._type = ""
        self._data: list[str] = []
        self._size = 0
        self._id = ""

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that end in this piece.

        Raises:
            BadAnswer: the stream holds more than can be meant.
        """
        if self._after_cr and piece:
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        if not piece:
            return []
        self._after_cr = piece.endswith(b"\r")
        events: list[ServerEvent] = []
        *ended, rest = _LINE_END.split(piece)
        for part in ended:
            self._line += part
            event = self._take(bytes(self._line))
            self._line.clear()
            if event is not None:
                events.append(event)
        self._line += rest
        self._check(len(self._line))
        return events

    def _take(self, line: bytes) -> ServerEvent | None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            return self._dispatch()
        self._check(len(line))
        name, _, value = line.decode(errors="replace").partition(":")  # a line that begins with ":" is a comment
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
                self._size += len(line)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit() and len(value) <= RETRY_DIGITS_MAX:
                self.retry_ms = int(value)
        return None

    def _dispatch(self) -> ServerEvent | None:
        event = ServerEvent(self._type or "message", "\n".join(self._data), self._id) if self._data else None
        self._type, self._size = "", 0
        self._data.clear()
        return event

    def _check(self, more: int) -> None:
        if self._size + more > EVENT_BYTES_MAX:
            raise BadAnswer(f"an event has more than {EVENT_BYTES_MAX} bytes: this is no watch of kvlog")
