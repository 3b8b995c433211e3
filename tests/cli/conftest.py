"""The command line as a process, and HTTP servers in the place of nodes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from kvlog.client import Client
from kvlog.cluster import Cluster
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports

ROOT = Path(__file__).resolve().parent.parent.parent
RUN_S = 60

Reply = tuple[int, dict | bytes]
Route = Callable[[bytes], Reply]


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it said. No command ever shows a traceback."""

    code: int
    out: str
    err: str


def kvlog(*arguments: object, env: dict[str, str] | None = None, stdin: str = "") -> Result:
    """Run ``python -m kvlog`` with these arguments and this input, and none of this process's own settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KVLOG_")}
    ended = subprocess.run(
        [sys.executable, "-m", "kvlog", *map(str, arguments)],
        cwd=ROOT,
        env=clean | (env or {}),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    assert "a bug in kvlog" not in ended.stderr, ended.stderr
    return Result(ended.returncode, ended.stdout, ended.stderr)


def on_terminal(stream: str, *arguments: object, columns: int = 200) -> Result:
    """The same with ``stream``, "stdout" or "stderr", on a terminal of this width; the other one in a pipe."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KVLOG_")}
    piped = "stderr" if stream == "stdout" else "stdout"
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "kvlog", *map(str, arguments)],
            cwd=ROOT,
            env=clean | {"TERM": "xterm", "COLUMNS": str(columns)},
            **{stream: theirs, piped: subprocess.PIPE},
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = terminal.read(4096)
            except OSError:  # EIO: the last one that had it open is gone
                break
            if not part:
                break
            shown += part
        said = {piped: b"".join(process.communicate(timeout=RUN_S)[number] or b"" for number in (0, 1)).decode()}
    said[stream] = shown.decode()
    return Result(process.returncode, said["stdout"], said["stderr"])


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The same while it runs; it is killed at the end if it has not ended."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KVLOG_")}
    command = [sys.executable, "-m", "kvlog", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class NodeStandIn:
    """An HTTP server that answers as a node would: ``routes`` maps "METHOD /path" to what answers."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.routes: dict[str, Route] = {}
        self.asked: list[str] = []
        self.broken_off = 0  # bytes that a snapshot announces and does not bring
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                line = f"{self.command} {self.path}"
                stand_in.asked.append(line)
                route = stand_in.routes.get(line.partition("?")[0])
                status, content = route(body) if route else (404, {"detail": "there is no such page"})
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header(
                    "Content-Length", str(len(data) + (stand_in.broken_off if isinstance(content, bytes) else 0))
                )
                self.end_headers()
                self.wfile.write(data)
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its parent's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.address}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.state: dict[str, object] = {
            "node": node_id,
            "address": self.address,
            "role": "follower",
            "revision": 40,
            "applied_index": 49,
            "tail_index": 49,
            "stale": False,
            "missed_entries": 0,
            "ready": True,
            "reason": "",
            "members": [],
        }
        self.routes["GET /v1/status"] = lambda _: (200, self.state)

    def stop(self) -> None:
        """Stop serving; the port refuses from here on. Nothing happens the second time."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@pytest.fixture
def make_nodes() -> Iterator[Callable[..., list[NodeStandIn]]]:
    """Makes stand-ins that all know each other as members."""
    made: list[NodeStandIn] = []

    def make(*node_ids: str) -> list[NodeStandIn]:
        nodes = [NodeStandIn(node_id) for node_id in node_ids]
        made.extend(nodes)
        members = [{"node": node.node_id, "address": node.address} for node in nodes]
        for node in nodes:
            node.state["members"] = members
        return nodes

    yield make
    for node in made:
        node.stop()


@dataclass(frozen=True)
class Zk:
    """A root of its own in a real ZooKeeper, and a client to look with."""

    hosts: str
    root: str
    client: KazooClient

    @property
    def flags(self) -> tuple[str, ...]:
        """What tells a command of it."""
        return ("--zk", self.hosts, "--root", self.root)

    def data(self, path: str) -> dict:
        """The JSON object in the znode ROOT/path."""
        return json.loads(self.client.get(f"{self.root}/{path}")[0])


@pytest.fixture
def zk(ensemble: LocalEnsemble) -> Iterator[Zk]:
    """A root where nothing is yet."""
    client = KazooClient(hosts=ensemble.hosts)
    client.start(timeout=15)
    try:
        yield Zk(ensemble.hosts, f"/cli-{uuid.uuid4().hex[:8]}", client)
    finally:
        client.stop()
        client.close()


@dataclass(frozen=True)
class Users:
    """A real cluster and the users' commands, on keys that no other test has; a client prepares and looks."""

    cluster: Cluster
    client: Client
    prefix: str

    @property
    def nodes(self) -> str:
        """What --node says."""
        return ",".join(node.address for node in self.cluster.nodes)

    def key(self, name: str) -> str:
        """A key of this test."""
        return f"{self.prefix}{name}"

    def run(self, *arguments: object, stdin: str = "") -> Result:
        """Run a command on the cluster."""
        return kvlog(*arguments, env={"KVLOG_NODE": self.nodes}, stdin=stdin)

    def done(self, *arguments: object, stdin: str = "") -> str:
        """What a command says on stdout that has to succeed, and says nothing on stderr."""
        result = self.run(*arguments, stdin=stdin)
        assert (result.code, result.err) == (0, "")
        return result.out

    def json(self, *arguments: object, stdin: str = "") -> Any:
        """The same of a document."""
        return json.loads(self.done(*arguments, "--json", stdin=stdin))

    def lines(self, *arguments: object, stdin: str = "") -> list[Any]:
        """The same of a stream of documents."""
        return [json.loads(line) for line in self.done(*arguments, "--json", stdin=stdin).splitlines()]

    def put(self, name: str, value: str) -> int:
        """Write a key of this test; returns the revision."""
        return self.client.put(self.key(name), value).revision

    def delete(self, name: str) -> int:
        """Delete a key of this test; returns the revision."""
        return self.client.delete(self.key(name)).revision

    def value(self, name: str) -> str | None:
        """What a key of this test holds; None if it is not there."""
        item = self.client.get(self.key(name))
        return item and item.text


@pytest.fixture(scope="session")
def cluster(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Cluster]:
    """Three real nodes for all tests of this folder."""
    directory = keeper.directory / f"cli-{uuid.uuid4().hex[:8]}"
    root = f"/cli-{uuid.uuid4().hex[:8]}"
    cluster = Cluster(keeper, ensemble.hosts, ports=free_ports(3), root=root, directory=directory)
    cluster.start()
    yield cluster
    for node in cluster.running:
        node.kill()


@pytest.fixture(scope="session")
def client(cluster: Cluster) -> Iterator[Client]:
    """A client of them."""
    with Client([node.address for node in cluster.nodes], timeout=30) as client:
        yield client


@pytest.fixture
def users(cluster: Cluster, client: Client) -> Users:
    """The users' commands."""
    return Users(cluster, client, f"{uuid.uuid4().hex[:8]}/")
