"""As much of what is said on a connection as a proxy has to understand to harm one request and not another."""

from __future__ import annotations

import re
import struct
from typing import Protocol

HEAD_BYTES_MAX = 16 * 1024
REQUEST_BYTES_MAX = 4 * 1024 * 1024
"""A longer one is passed on as it comes."""

PUSH = b"POST /propagate "

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]{1,9})\r\n")

MULTI = 14
_WRITES = frozenset({1, 2, 5, 7, 15, MULTI, 19, 20, 21})
"""ZooKeeper's requests that change something, by their numbers: create, delete, setData, setACL, create2, multi,
createContainer, deleteContainer, createTTL."""


class Talk(Protocol):
    """What is said on one connection."""

    def asked(self, data: bytes) -> tuple[bytes, list[int]]:
        """Bytes for the server: those that may go on, and the numbers of the requests in them that count."""

    def answered(self, data: bytes, lost: set[int]) -> tuple[bytes, bool]:
        """Bytes for the client: those that may go on, and whether the answer to one that is lost comes next."""


class Turns:
    """Questions and answers in turn: what comes for the server after something for the client is a new request."""

    def __init__(self, counts: bytes = b"") -> None:
        """``counts``: how a request begins that counts; empty for each."""
        self._counts = counts
        self._number = 0
        self._answered = True

    def asked(self, data: bytes) -> tuple[bytes, list[int]]:
        """See Talk."""
        if not self._answered:
            return data, []
        self._answered = False
        self._number += 1
        return data, [self._number] if data.startswith(self._counts) else []

    def answered(self, data: bytes, lost: set[int]) -> tuple[bytes, bool]:
        """See Talk."""
        self._answered = True
        return (b"", True) if self._number in lost else (data, False)


class ZooKeeperTalk:
    """ZooKeeper's protocol: frames with their length in front. Requests that write count, by their xid."""

    def __init__(self) -> None:
        self._requests = _Frames(12)  # length, xid, kind of the request
        self._replies = _Frames(8)  # length, xid

    def asked(self, data: bytes) -> tuple[bytes, list[int]]:
        """See Talk."""
        data, frames = self._requests.take(data)
        heads = [struct.unpack(">iii", head) for _, head in frames]
        return data, [xid for _, xid, kind in heads if kind in _WRITES]

    def answered(self, data: bytes, lost: set[int]) -> tuple[bytes, bool]:
        """See Talk."""
        data, frames = self._replies.take(data)
        for start, head in frames:
            if struct.unpack(">ii", head)[1] in lost:
                return data[:start], True
        return data, False


class _Frames:
    """Where the frames of one direction begin. The first of a connection is a greeting, and none of them."""

    def __init__(self, head_bytes: int) -> None:
        self._head_bytes = head_bytes
        self._greeted = False
        self._kept = b""  # a head that is not whole
        self._left = 0  # of the frame that has begun

    def take(self, data: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
        """The bytes up to a head that is not whole, and where in them each frame begins, with its head."""
        data = self._kept + data
        place, found = self._left, []
        while place + self._head_bytes <= len(data):
            head = data[place : place + self._head_bytes]
            if self._greeted:
                found.append((place, head))
            self._greeted = True
            place += 4 + int.from_bytes(head[:4], "big")
        end = min(place, len(data))
        self._kept, self._left = data[end:], place - end
        return data[:end], found


def request_bytes(data: bytes) -> int | None:
    """How long the HTTP request is that begins here; 0 as long as that is not known, None if it never will be."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0 if len(data) <= HEAD_BYTES_MAX else None
    length = _LENGTH.search(data, 0, end + 2)
    whole = end + 4 + int(length[1]) if length else None
    return whole if whole is not None and whole <= REQUEST_BYTES_MAX else None
