"""Requests over bare sockets, byte for byte, and how an error has to look."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kvlog.cluster import ClusterNode
from kvlog.problems import KINDS

ANSWER_S = 10.0


@dataclass(frozen=True)
class Said:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


def exchange(node: ClusterNode, request: bytes) -> Said:
    """Send these bytes, and read one answer."""
    with closing(socket.create_connection(("127.0.0.1", node.port), timeout=ANSWER_S)) as connection:
        connection.sendall(request)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Said:
    """One answer with a Content-Length."""
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = file.read(int(headers["content-length"]))
    return Said(status, headers, json.loads(body))


def get(node: ClusterNode, target: bytes, method: bytes = b"GET") -> Said:
    """A request without a body, its target as it is."""
    return exchange(node, method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


def post(node: ClusterNode, target: bytes, body: bytes, *headers: bytes) -> Said:
    """A request with a body."""
    length = b"Content-Length: %d" % len(body)
    head = b"\r\n".join((b"POST " + target + b" HTTP/1.1", b"Host: x", b"Connection: close", length, *headers))
    return exchange(node, head + b"\r\n\r\n" + body)


def refused(said: Said, status: int, reason: str, kind: str = "") -> bool:
    """Whether this is an error as all of them are: problem details, with a sentence under "detail"."""
    assert status == said.status, said
    assert said.headers["content-type"] == "application/problem+json"
    assert set(said.body) >= {"type", "title", "status", "detail"}
    assert said.body["status"] == status
    name = said.body["type"].removeprefix("kvlog:")
    assert name in KINDS or name == "about:blank", name
    assert not kind or name == kind, said
    assert reason in said.body["detail"]
    assert len(said.body["detail"]) < 1_000
    return True


@dataclass(frozen=True)
class Answer:
    """An HTTP answer of any type."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        """What it says, in JSON."""
        assert self.headers["content-type"] in ("application/json", "application/problem+json"), self
        return json.loads(self.data)

    @property
    def lines(self) -> list[Any]:
        """What it says, in JSON line by line."""
        assert self.headers["content-type"] == "application/x-ndjson", self
        return [json.loads(line) for line in self.data.splitlines()]

    def refused(self, status: int, kind: str, reason: str = "") -> dict[str, Any]:
        """The problem that it tells of, which has to be this one."""
        assert refused(Said(self.status, self.headers, self.body), status, reason, kind)
        return self.body


def call(
    node: ClusterNode,
    method: str,
    target: str,
    body: bytes | dict | list | None = None,
    *,
    timeout_s: float = ANSWER_S,
    **headers: str,
) -> Answer:
    """Any request, its target as it is; ``if_match`` is the header If-Match. A dict or list is sent as JSON."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, dict | list):
        sent.setdefault("Content-Type", "application/json")
        body = json.dumps(body).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", node.port, timeout=timeout_s)) as connection:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        answered = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, answered, response.read())
