"""etcd, asked over its JSON gateway: an HTTP request with JSON for each operation, as with kvlog."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from bench.inputs import PREFIX
from bench.load import Kind
from bench.systems.http import Request, posted
from bench.systems.loaded import HttpSystem
from bench.systems.process_tree import with_descendants
from kvlog.errors import Unavailable
from kvlog.processes import Child, free_ports, wait_until

NODES = 3
START_S = 30.0
AGREE_S = 60.0
AT_ONCE = 100
"""Puts in a transaction; etcd takes up to 128."""

PAGE = 10_000


class Etcd(HttpSystem):
    """Three processes with the settings that etcd has by itself, but for a quiet log."""

    name = "etcd"
    dialect = "etcd"
    kinds = frozenset(Kind)
    notes = (
        "etcd is asked over its JSON gateway, which each node has in front of its gRPC interface.",
        "etcd's local reads are `serializable`.",
    )

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Child] = []
        self._clients: list[str] = []
        self._addresses: tuple[str, ...] = ()
        self._argv: dict[str, list[str]] = {}

    def another(self) -> Etcd:
        """One more, not started yet."""
        return Etcd()

    def start(self) -> None:
        """Three empty nodes."""
        self._keeper.__enter__()
        ports = free_ports(2 * NODES)
        self._clients = [f"127.0.0.1:{port}" for port in ports[:NODES]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[NODES:]]
        members = ",".join(f"node-{number}={peer}" for number, peer in enumerate(peers))
        for number, (client, peer) in enumerate(zip(self._clients, peers, strict=True)):
            self._argv[client] = [
                *(
                    "etcd",
                    "--name",
                    f"node-{number}",
                    "--data-dir",
                    str(self._keeper.directory / f"node-{number}"),
                ),
                *("--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}"),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", members, "--initial-cluster-state", "new"),
                *("--logger", "zap", "--log-level", "error", "--log-outputs", "stderr"),
            ]
            self.nodes.append(self.start_node(client))
        self._addresses = tuple(self._clients)
        if not wait_until(self._serving, START_S):
            raise Unavailable(f"etcd does not serve:\n{self.nodes[0].log_tail()}")
        self.find_leader()

    def start_node(self, address: str) -> Child:
        """Start the process that serves this address, on what it has; returns at once."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        log = self._keeper.directory / f"{address}.log"
        return self._keeper.start(self._argv[address], name=f"etcd {address}", log=log, env=environment)

    def node(self, address: str) -> Child:
        """The process that serves an address; ``nodes`` are in the order in which they were made."""
        return self.nodes[self._clients.index(address)]

    def _serving(self) -> bool:
        try:
            for client in self._clients:
                if self.status(client).get("leader", "0") == "0":
                    return False
            self.put("serving", "yes")
        except Unavailable:
            return False
        return True

    def stop(self) -> None:
        """Kill them all."""
        self.http.close()
        self._keeper.__exit__(None, None, None)

    def status(self, address: str) -> dict[str, Any]:
        """What one node says of itself."""
        found: dict[str, Any] = self.http.json(address, posted("/v3/maintenance/status", {}))
        return found

    def find_leader(self) -> str:
        """Ask all nodes that answer."""
        for client in self._clients:
            try:
                status = self.status(client)
            except Unavailable:
                continue
            if status.get("leader") == status["header"]["member_id"]:
                self._addresses = (client, *(other for other in self._clients if other != client))
                return client
        raise Unavailable("no node of etcd leads")

    def version(self) -> str:
        """As the nodes say it."""
        return str(self.http.json(self._clients[0], Request("GET", "/version"))["etcdserver"])

    @property
    def addresses(self) -> tuple[str, ...]:
        """See System."""
        return self._addresses

    def pids(self) -> dict[str, tuple[int, ...]]:
        """One process per node."""
        return {"node": tuple(pid for node in self.nodes if node.running for pid in with_descendants(node.pid))}

    def put_request(self, key: str, value: str) -> Request:
        """POST /v3/kv/put."""
        return posted("/v3/kv/put", put_body(key, value))

    def put(self, key: str, value: str) -> None:
        """Returns once a quorum has it on disk."""
        self.http.json(self._addresses[0], self.put_request(key, value))

    def put_many(self, items: Mapping[str, str]) -> None:
        """In transactions, one after the other."""
        for some in pieces(items, AT_ONCE):
            puts = [{"requestPut": put_body(key, value)} for key, value in some.items()]
            answer = self.http.json(self._addresses[0], posted("/v3/kv/txn", {"success": puts}))
            if not answer.get("succeeded"):
                raise Unavailable(f"etcd has answered a transaction {answer}")

    def get(self, key: str, *, node: int = 0) -> str | None:
        """Serializable: what the node itself has."""
        body = {"key": in_base64(key), "serializable": True}
        found = self.http.json(self._addresses[node], posted("/v3/kv/range", body)).get("kvs", [])
        return from_base64(found[0]["value"]) if found else None

    def revision(self) -> int:
        """The header's, which each write or transaction raises by one."""
        body = {"key": in_base64("nothing")}
        return int(self.http.json(self._addresses[0], posted("/v3/kv/range", body))["header"]["revision"])

    def contents(self, node: int) -> dict[str, str]:
        """In pages."""
        found: dict[str, str] = {}
        end = in_base64(PREFIX[:-1] + chr(ord(PREFIX[-1]) + 1))
        first = PREFIX
        while True:
            body = {"key": in_base64(first), "range_end": end, "limit": PAGE, "serializable": True}
            answer = self.http.json(self._addresses[node], posted("/v3/kv/range", body))
            found.update((from_base64(item["key"]), from_base64(item["value"])) for item in answer.get("kvs", []))
            if not answer.get("more"):
                return found
            first = max(found) + "\0"

    def agree(self) -> None:
        """All have the same hash of all keys and revisions at the same revision."""

        def same() -> bool:
            said = [self.http.json(client, posted("/v3/maintenance/hash", {})) for client in self._clients]
            return len({(answer["header"]["revision"], answer["hash"]) for answer in said}) == 1

        if not wait_until(same, AGREE_S):
            raise Unavailable("the nodes of etcd do not have the same hash")


def in_base64(text: str) -> str:
    """As the gateway wants bytes."""
    return base64.b64encode(text.encode()).decode()


def from_base64(text: str) -> str:
    """The other way."""
    return base64.b64decode(text).decode()


def put_body(key: str, value: str) -> dict[str, str]:
    """What a put says."""
    return {"key": in_base64(key), "value": in_base64(value)}


def pieces(items: Mapping[str, str], size: int) -> Iterator[dict[str, str]]:
    """The items in their order, so many at a time."""
    left = iter(items.items())
    while some := dict(islice(left, size)):
        yield some
