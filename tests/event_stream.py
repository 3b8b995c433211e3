"""A client of GET /v1/watch on a bare connection, which sees every line that it is sent."""

from __future__ import annotations

import http.client
import json
import socket
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

ANSWER_S = 10.0


@dataclass(frozen=True)
class Sent:
    """An event as it came over the wire."""

    id: str
    kind: str
    data: Any

    @property
    def keys(self) -> dict[str, str]:
        """What it says was done to which key."""
        return {change["key"]: change["op"] for change in self.data["changes"]}


class EventStream:
    """One stream. ``receive_buffer`` is the size of the socket's, if it is to be a small one."""

    def __init__(
        self, port: int, target: str = "", *, last_event_id: int | str | None = None, receive_buffer: int = 0
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
        self._socket = connection.sock = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(ANSWER_S)
        headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
        try:
            self._socket.connect(("127.0.0.1", port))
            connection.request("GET", f"/v1/watch{target}", headers=headers)
            self._response = connection.getresponse()
        except BaseException:
            self._socket.close()
            raise
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}
        self.retry_ms: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def shut(self) -> None:
        """Hear nothing more: who reads on another thread finds the end."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Leave, whatever comes."""
        self._response.close()
        self._socket.close()

    def problem(self) -> dict[str, Any]:
        """The problem that was answered in place of a stream."""
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(self._response.read())
        assert found["status"] == self.status
        return found

    def event(self) -> Sent | None:
        """The next event; None at the stream's end.

        Raises:
            TimeoutError, ConnectionError, http.client.HTTPException: it does not come, or the stream breaks off.
        """
        fields: dict[str, str] = {}
        while line := self._response.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "retry":
                self.retry_ms = int(value)
            elif name:
                assert name in ("id", "event", "data")
                assert name not in fields
                fields[name] = value
            elif fields:
                return Sent(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
        assert not fields, "it ends within an event"
        return None

    def change(self) -> Sent:
        """The next event of a change, whatever is told of progress before."""
        while (found := self._event()).kind == "progress":
            assert found.data == {"revision": int(found.id)}
        assert found.kind == "change", found
        assert found.data["revision"] == int(found.id)
        return found

    def progress(self, revision: int) -> None:
        """Wait until it is told that everything up to this revision has come; no change comes before."""
        end = time.monotonic() + ANSWER_S
        while time.monotonic() < end:
            found = self._event()
            assert found.kind == "progress", found
            if int(found.id) >= revision:
                return
        raise TimeoutError(f"nothing was said of revision {revision}")

    def error(self) -> dict[str, Any]:
        """The problem by which the stream ends, whatever comes before."""
        while (found := self._event()).kind != "error":
            pass
        assert found.id == ""
        assert self.event() is None
        problem: dict[str, Any] = found.data
        return problem

    def _event(self) -> Sent:
        found = self.event()
        assert found is not None, "the stream has ended"
        return found
