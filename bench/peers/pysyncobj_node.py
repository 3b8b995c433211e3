"""One node of PySyncObj with a replicated dictionary, and a small HTTP server in front of it.

    python -m bench.peers.pysyncobj_node HTTP_PORT DIRECTORY OWN_ADDRESS OTHER_ADDRESS...

The server is a protocol on asyncio's event loop, in the same process: it parses as little as it can, and waits for
PySyncObj's callback without a thread per request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated

_REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}

Answer = Callable[[int, bytes], None]


class Dictionary(SyncObj):  # type: ignore[misc] # PySyncObj has no types
    """What is replicated."""

    def __init__(self, directory: Path, own: str, others: list[str]) -> None:
        settings = SyncObjConf(
            journalFile=str(directory / "journal"),
            fullDumpFile=str(directory / "dump"),
            appendEntriesUseBatch=False,  # else a command waits for the next tenth of a second
            raftMinTimeout=2.0,  # by default 0.4: under load, another node would lead now and then
            raftMaxTimeout=4.0,
            connectionTimeout=5.0,  # has to be longer
        )
        super().__init__(own, others, settings)
        self.values: dict[str, str] = {}
        self.revision = 0

    @replicated  # type: ignore[untyped-decorator] # the same
    def put_all(self, items: dict[str, str]) -> int:
        """Write some keys at once; returns the revision."""
        self.values.update(items)
        self.revision += 1
        return self.revision


class Front(asyncio.Protocol):
    """One connection; its requests are answered one after the other."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request once all of it is here."""
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = 0
        lines = head.split(b"\r\n")
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return
        self._received = rest[length:]
        method, path, _ = lines[0].decode().split(" ")
        self._answer(method, path, rest[:length])

    def _answer(self, method: str, path: str, body: bytes) -> None:
        if method == "PUT":
            key = path.removeprefix("/kv/")
            self._write({key: body.decode()}, {"key": key})
        elif method == "POST":
            items = json.loads(body)
            self._write(items, {"count": len(items)})
        elif path.startswith("/kv/"):
            value = self._dictionary.values.get(path.removeprefix("/kv/"))
            self._send(404 if value is None else 200, (value or "").encode())
        elif path == "/all":
            self._send(200, json.dumps(dict(self._dictionary.values)).encode())
        else:
            self._send(200, json.dumps(self._state()).encode())

    def _state(self) -> dict[str, Any]:
        dictionary = self._dictionary
        leader = dictionary.getStatus()["leader"]
        content = json.dumps(sorted(dict(dictionary.values).items())).encode()
        return {
            "ready": bool(dictionary.isReady()),
            "leads": leader is not None and leader == dictionary.selfNode,
            "revision": dictionary.revision,
            "digest": hashlib.sha256(content).hexdigest(),
        }

    def _write(self, items: dict[str, str], answer: dict[str, Any]) -> None:
        def applied(revision: int | None, failure: int) -> None:
            if failure == FAIL_REASON.SUCCESS:
                status, body = 200, json.dumps({**answer, "revision": revision})
            else:
                status, body = 503, json.dumps({"failure": failure})
            self._loop.call_soon_threadsafe(self._send, status, body.encode())

        self._dictionary.put_all(items, callback=applied)

    def _send(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def serve(port: int, dictionary: Dictionary) -> None:
    """Until the process is ended."""
    server = await asyncio.get_running_loop().create_server(
        lambda: Front(dictionary), "127.0.0.1", port, backlog=512
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Dictionary(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])))
