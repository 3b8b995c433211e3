"""How kvlog and etcd are asked over HTTP, and how they answer, where ``bench.systems`` does not do it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from bench.systems.base import System
from bench.systems.etcd import from_base64, in_base64, put_body
from bench.systems.http import Request, posted
from bench.systems.loaded import HttpSystem
from bench.wire import HEAD_END, dechunked


class Dialect(ABC):
    """How to speak with one system."""

    @abstractmethod
    def acknowledged(self, status: int, body: bytes) -> bool:
        """Whether this is the answer to a put that was done."""

    @abstractmethod
    def get(self, key: str) -> Request:
        """Read one key from the node's own copy."""

    @abstractmethod
    def value(self, status: int, body: bytes) -> str | None:
        """What was read; None if the key is not there, or this is no answer to a read."""

    @abstractmethod
    def put_all(self, items: Mapping[str, str]) -> Request:
        """Put several keys in one transaction."""

    @abstractmethod
    def all_put(self, status: int, body: bytes) -> bool:
        """Whether this is the answer to a transaction that was done."""

    @abstractmethod
    def watch(self, prefix: str) -> Request:
        """Tell of what is put to keys with this prefix, from now on."""

    begun: bytes
    """Stands in a watch's stream once nothing is missed any more."""

    @abstractmethod
    def mark(self, text: str) -> bytes:
        """How a text stands in a stream that is the beginning of a value, and a multiple of three bytes."""

    @abstractmethod
    def changes(self, stream: bytes) -> Iterator[tuple[int, str]]:
        """Revision and value of each put that a watch's stream tells of, in its order."""


class KvlogDialect(Dialect):
    """kvlog's own API."""

    begun = b"event: progress"

    def acknowledged(self, status: int, body: bytes) -> bool:
        """200 or 201, and committed."""
        return status in (HTTPStatus.OK, HTTPStatus.CREATED) and b'"committed"' in body

    def get(self, key: str) -> Request:
        """GET /v1/kv/KEY."""
        return Request("GET", f"/v1/kv/{quote(key)}")

    def value(self, status: int, body: bytes) -> str | None:
        """As it was put."""
        return body.decode() if status == HTTPStatus.OK else None

    def put_all(self, items: Mapping[str, str]) -> Request:
        """POST /v1/txn."""
        puts = [{"op": "put", "key": key, "value": value} for key, value in items.items()]
        return posted("/v1/txn?ack=log", {"then": puts})

    def all_put(self, status: int, body: bytes) -> bool:
        """Committed, and its condition held."""
        return self.acknowledged(status, body) and b'"succeeded": true' in body

    def watch(self, prefix: str) -> Request:
        """GET /v1/watch, as Server-Sent Events."""
        return Request("GET", f"/v1/watch?prefix={quote(prefix)}")

    def mark(self, text: str) -> bytes:
        """As it is."""
        return text.encode()

    def changes(self, stream: bytes) -> Iterator[tuple[int, str]]:
        """The events named ``change``."""
        for event in dechunked(stream.partition(HEAD_END)[2]).split(b"\n\n"):
            lines = event.split(b"\n")
            if b"event: change" not in lines:
                continue
            data = json.loads(next(line for line in lines if line.startswith(b"data: "))[6:])
            for change in data["changes"]:
                yield int(data["revision"]), str(change["value"])


class EtcdDialect(Dialect):
    """etcd's JSON gateway."""

    begun = b'"created":true'

    def acknowledged(self, status: int, body: bytes) -> bool:
        """200, with a revision."""
        return status == HTTPStatus.OK and b'"revision"' in body

    def get(self, key: str) -> Request:
        """POST /v3/kv/range, serializable."""
        return posted("/v3/kv/range", {"key": in_base64(key), "serializable": True})

    def value(self, status: int, body: bytes) -> str | None:
        """Of the only key."""
        found = json.loads(body).get("kvs", []) if status == HTTPStatus.OK else []
        return from_base64(found[0]["value"]) if found else None

    def put_all(self, items: Mapping[str, str]) -> Request:
        """POST /v3/kv/txn."""
        puts = [{"requestPut": put_body(key, value)} for key, value in items.items()]
        return posted("/v3/kv/txn", {"success": puts})

    def all_put(self, status: int, body: bytes) -> bool:
        """200, and its condition held."""
        return self.acknowledged(status, body) and b'"succeeded":true' in body

    def watch(self, prefix: str) -> Request:
        """POST /v3/watch."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        wanted: dict[str, Any] = {"key": in_base64(prefix), "range_end": in_base64(end)}
        return posted("/v3/watch", {"create_request": wanted})

    def mark(self, text: str) -> bytes:
        """In base64, of which a multiple of three bytes stands by itself."""
        return in_base64(text).encode()

    def changes(self, stream: bytes) -> Iterator[tuple[int, str]]:
        """The events of each line, which is one answer in JSON."""
        for line in dechunked(stream.partition(HEAD_END)[2]).splitlines():
            for event in json.loads(line)["result"].get("events", []):
                yield int(event["kv"]["mod_revision"]), from_base64(event["kv"]["value"])


DIALECTS: dict[str, Dialect] = {"kvlog": KvlogDialect(), "etcd": EtcdDialect()}
"""By ``HttpSystem.dialect``."""


def spoken(system: System) -> HttpSystem | None:
    """The system, if it is one of those that are spoken with here."""
    return system if isinstance(system, HttpSystem) and system.dialect in DIALECTS else None
