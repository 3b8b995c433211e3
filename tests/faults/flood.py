"""One client that asks for as much as it can, and what the others notice: ``python -m tests.faults.flood``.

A flood is a process of its own (``flood.py PORT KIND CONNECTIONS``), on raw connections, each of which begins anew
when the node closes it. Without arguments the figures of docs/reliability.md are measured, on three nodes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kvlog.cluster import Cluster
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports

ROOT = Path(__file__).resolve().parents[2]

WAIT_S = 10.0
VALUE = b"x" * 200_000
OK, CREATED = HTTPStatus.OK, HTTPStatus.CREATED


def _request(head: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{head} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _writes() -> Iterator[bytes]:
    for number in itertools.count():
        body = json.dumps({"key": f"flood/{number % 1_000}", "value": f"v{number}"}).encode()
        yield _request("POST /update?ack=log", body)


def _large() -> Iterator[bytes]:
    for number in itertools.count():
        yield _request(f"PUT /v1/kv/flood/large/{number % 20}", VALUE)


def _garbage() -> Iterator[bytes]:
    pieces = (
        _request("POST /update", b"[" * 50_000),
        _request("PUT /v1/kv/%ff", b"x"),
        _request("POST /propagate", b"\x91" * 20_000),
        b"G@RBAGE\r\n\r\n",
        b"POST /update HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
        _request("GET /v1/watch?from=nonsense"),
        _request("POST /v1/txn", b'{"then":[{"op":"put"}]}', "Content-Type: application/json"),
        b"\x16\x03\x01" + b"\x00" * 1_000 + b"\r\n\r\n",
    )
    yield from itertools.cycle(pieces)


def _reads() -> Iterator[bytes]:
    yield from itertools.cycle(
        (_request("GET /v1/kv/flood/large/1"), _request("GET /v1/kv?prefix=flood&limit=1000"))
    )


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "writes": _writes,
    "garbage": _garbage,
    "large bodies": _large,
    "slow readers": _reads,
}
"""What floods are made of. Slow readers ask for much, and read 4 KiB of it now and then."""


class Flood:
    """A flood, in a process of its own, from when it is entered until it is left.

    Attributes:
        answered: how many answers (slow readers: pieces of them) and ends of connections it was given, once over.
    """

    def __init__(self, port: int, kind: str, *, connections: int) -> None:
        self.answered = 0
        argv = [sys.executable, str(Path(__file__).resolve()), str(port), kind, str(connections)]
        self._process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begun\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            said, _ = self._process.communicate(timeout=WAIT_S)
            self.answered = int(said)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise


class _Client:
    """All connections of a flood."""

    def __init__(self, port: int, kind: str) -> None:
        self.answered = 0
        self._port = port
        self._slow = kind == "slow readers"
        self._requests = KINDS[kind]()

    async def connection(self) -> None:
        """One of them: another one takes its place for ever."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=4_096)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            with suppress(OSError, ValueError, asyncio.IncompleteReadError):
                await self._use(reader, writer)
            self.answered += 1
            writer.close()

    async def _use(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(next(self._requests))
            if self._slow:
                await asyncio.sleep(0.2)
                if not await reader.read(4_096):
                    return
                self.answered += 1
                continue
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            self.answered += 1
            if b"connection: close" in head.lower():
                return


async def _flood(port: int, kind: str, connections: int) -> None:
    client, over = _Client(port, kind), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    tasks = [asyncio.create_task(client.connection()) for _ in range(connections)]
    print("begun", flush=True)
    await over.wait()
    for task in tasks:
        task.cancel()
    print(client.answered, flush=True)


# --- the figures ----------------------------------------------------------------------------------------------

CONNECTIONS = 256
SECONDS = 20.0


class Figures:
    """What another client and the node's operator see for a time.

    The client asks one thing after the other on one connection: a local read of a key, without Flask and with it.
    """

    def __init__(self, node: Any, key: str) -> None:
        self.direct: list[float] = []
        self.threaded: list[float] = []
        self.failed = 0
        self.resident_max = 0
        self._node = node
        self._key = key

    def measure(self, seconds: float) -> None:
        """Ask for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._ask(self.direct, {})
            self._ask(self.threaded, {"Accept": "text/plain"})
            self.resident_max = max(self.resident_max, resident_bytes(self._node))

    def _ask(self, times: list[float], headers: dict[str, str]) -> None:
        began = time.monotonic()
        answer = self._node.request("GET", f"/v1/kv/{self._key}", headers=headers)
        times.append(time.monotonic() - began)
        self.failed += answer.status != OK

    def row(self, name: str, lost: int, flooded: str) -> str:
        """A line of the table."""
        times = [
            f"{percentile(each, 50):.1f} / {percentile(each, 99):.1f}" for each in (self.direct, self.threaded)
        ]
        reads = len(self.direct) + len(self.threaded)
        memory = f"{self.resident_max / 2**20:.0f} MiB"
        return (
            f"| {name} | {flooded} | {' | '.join(times)} | {reads:,}, {self.failed} failed | {lost} | {memory} |"
        )


def percentile(times: list[float], share: int) -> float:
    """In milliseconds."""
    return 1_000 * sorted(times)[min(len(times) - 1, len(times) * share // 100)]


def resident_bytes(node: Any) -> int:
    """What the process that answers for a node has in memory of its own, without the store's file."""
    (worker,) = Path(f"/proc/{node.child.pid}/task/{node.child.pid}/children").read_text().split()
    return int(Path(f"/proc/{worker}/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


def main() -> None:
    """Print the table of docs/reliability.md."""
    with ProcessKeeper() as keeper, LocalEnsemble(keeper) as ensemble:
        cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(3), session_timeout_s=6)
        cluster.start()
        leader = cluster.wait_until_settled()
        assert leader.request("PUT", "/v1/kv/figures", body=b"1").status == CREATED
        for number in range(20):
            assert leader.request("PUT", f"/v1/kv/flood/large/{number}", body=VALUE).status == CREATED
        print(
            "| flood of the leader | answers to it per second | read p50 / p99, ms | through Flask | reads | ",
            end="",
        )
        print("sessions lost | memory, at most |\n| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        for kind in ("", *KINDS, ""):
            before = [node.status()["epoch"] for node in cluster.nodes]
            figures = Figures(leader, "figures")
            with Flood(leader.port, kind, connections=CONNECTIONS) if kind else nullcontext() as flood:
                figures.measure(SECONDS)
            rate = f"{flood.answered / SECONDS:,.0f}" if flood is not None else ""
            lost = sum(
                a != b for a, b in zip(before, (node.status()["epoch"] for node in cluster.nodes), strict=True)
            )
            print(figures.row(kind or "none", lost, rate), flush=True)
        cluster.stop()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        _, given_port, given_kind, given_connections = sys.argv
        asyncio.run(_flood(int(given_port), given_kind, int(given_connections)))
