"""ZooKeeper alone: the log without a store, which is the least and the most that kvlog can do with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from kazoo.client import KazooClient
from kazoo.interfaces import IAsyncResult

from bench.case import Unverified
from bench.inputs import Inputs
from bench.load import ANSWER_S, Kind, Load, Outcome
from bench.systems.etcd import pieces
from bench.systems.loaded import LoadedSystem
from kvlog.ensemble import LocalEnsemble
from kvlog.ensemble.base import srvr
from kvlog.errors import Unavailable
from kvlog.processes import ProcessKeeper

IN_FLIGHT = 200
"""Requests at once of what is not measured, or creates in a transaction."""

START_S = 20.0
_ROOT = "/bench"
_HEAD = 12
"""Bytes of a value that are its key."""


class RawZooKeeper(LoadedSystem):
    """Three servers; a write is a sequential znode with the value in it, created by one kazoo client.

    With one connection, one create comes after the other; with N, up to N are under way. In what it holds, a key
    has the value of its latest znode, so that it can be verified like the others.
    """

    name = "ZooKeeper"
    kinds = frozenset((Kind.PUT,))
    notes = (
        "ZooKeeper is the log alone: a write is one sequential znode, created by one kazoo client.",
        "ZooKeeper's kazoo client has as many requests under way as the others have connections.",
    )

    def __init__(self) -> None:
        self._keeper = ProcessKeeper()
        self.ensemble = LocalEnsemble(self._keeper)
        self.client: KazooClient
        self._logs = 0
        self._connected = False
        self._keys: set[str] = set()
        self._entries: dict[str, str] = {}
        """What was read before: nobody changes an entry."""

    def start(self) -> None:
        """The ensemble, and one session."""
        self._keeper.__enter__()
        self.ensemble.start()
        self.client = KazooClient(hosts=self.ensemble.hosts, timeout=10.0)
        self._connected = True
        self.client.start(timeout=START_S)
        self._new_log()

    def stop(self) -> None:
        """End the session, and kill them all."""
        if self._connected:
            self._connected = False
            self.client.stop()
            self.client.close()
        self._keeper.__exit__(None, None, None)

    def _new_log(self) -> str:
        self._logs += 1
        return str(self.client.create(f"{_ROOT}/{self._logs:04}", makepath=True))

    @property
    def _log(self) -> str:
        return f"{_ROOT}/{self._logs:04}"

    def find_leader(self) -> str:
        """Of the servers; the client is connected to any of them."""
        for server in self.ensemble.servers:
            if server.mode() == "leader":
                return f"127.0.0.1:{server.client_port}"
        raise Unavailable("no server of the ensemble leads")

    def version(self) -> str:
        """As the servers say it."""
        return ensemble_version(self.ensemble)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the servers."""
        leader = self.find_leader()
        return (leader, *(address for address in self.ensemble.hosts.split(",") if address != leader))

    def pids(self) -> dict[str, tuple[int, ...]]:
        """The servers."""
        found = (server.pid for server in self.ensemble.servers)
        return {"zookeeper": tuple(pid for pid in found if pid is not None)}

    def put(self, key: str, value: str) -> None:
        """One create; the key is what the value begins with."""
        if not value.startswith(key):
            raise Unavailable("raw ZooKeeper keeps values that begin with their keys, and nothing else")
        self._keys.add(key)
        self.client.create(f"{self._log}/e-", value.encode(), sequence=True)

    def put_many(self, items: Mapping[str, str]) -> None:
        """Many at once."""
        self._keys.update(items)
        for some in pieces(items, IN_FLIGHT):
            transaction = self.client.transaction()
            for value in some.values():
                transaction.create(f"{self._log}/e-", value.encode(), sequence=True)
            failed = [result for result in transaction.commit() if isinstance(result, Exception)]
            if failed:
                raise Unavailable(f"ZooKeeper has refused a transaction: {failed[0]!r}")

    def get(self, key: str, *, node: int = 0) -> str | None:  # noqa: ARG002 - one client, one node
        """Looks through all of it."""
        return self.contents(0).get(key)

    def load(self, load: Load, inputs: Inputs) -> Outcome:
        """Creates in a log of their own, as fast as they go."""
        self._new_log()
        return _Creating(self.client, f"{self._log}/e-", load, inputs).run()

    def revision(self) -> int:
        """How many entries there are."""
        return sum(int(self.client.exists(f"{_ROOT}/{log:04}").children_count) for log in self._all_logs())

    def _all_logs(self) -> range:
        return range(1, self._logs + 1)

    def contents(self, node: int) -> dict[str, str]:  # noqa: ARG002 - one client, one node
        """From the end of the log to where all keys were seen."""
        found: dict[str, str] = {}
        names = self._backwards()
        while self._keys - found.keys() and (some := list(islice(names, IN_FLIGHT))):
            unread = {name: self.client.get_async(name) for name in some if name not in self._entries}
            for name, result in unread.items():
                self._entries[name] = result.get(timeout=ANSWER_S)[0].decode()
            for name in some:
                found.setdefault(self._entries[name][:_HEAD], self._entries[name])
        return found

    def _backwards(self) -> Iterator[str]:
        for log in reversed(self._all_logs()):
            path = f"{_ROOT}/{log:04}"
            count = int(self.client.exists(path).children_count)
            yield from (f"{path}/e-{number:010}" for number in reversed(range(count)))

    def agree(self) -> None:
        """What one client has been acknowledged, a quorum has; the rest is ZooKeeper's."""
        self.client.sync(_ROOT)


def ensemble_version(ensemble: LocalEnsemble) -> str:
    """Which ZooKeeper it is, as the first of its servers says, and how its JVM runs."""
    server = ensemble.servers[0]
    said = srvr("127.0.0.1", server.client_port, timeout_s=5)
    argv = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
    flags = " ".join(argument for argument in argv if argument.startswith("-X"))
    return f"{said.partition(': ')[2].partition('-')[0].partition(',')[0]} ({flags})"


class _Creating:
    """One load, from one thread, with kazoo's threads behind it."""

    def __init__(self, client: KazooClient, prefix: str, load: Load, inputs: Inputs) -> None:
        self._client, self._prefix, self._load, self._inputs = client, prefix, load, inputs
        self._room = threading.Semaphore(load.connections)
        self._took: list[float] = []
        self._failed: list[BaseException] = []

    def run(self) -> Outcome:
        load = self._load
        begun = time.monotonic()
        number = load.first
        if load.connections == 1:
            while time.monotonic() - begun < load.seconds:
                sent = time.monotonic()
                self._client.create(self._prefix, self._value(number), sequence=True)
                self._took.append(time.monotonic() - sent)
                number += 1
        else:
            while time.monotonic() - begun < load.seconds and not self._failed:
                self._acquire()
                self._send(number)
                number += 1
            for _ in range(load.connections):
                self._acquire()
        seconds = time.monotonic() - begun
        if self._failed:
            raise Unverified(f"a create has failed: {self._failed[0]!r}")
        took = sorted(self._took)
        count = number - load.first
        return Outcome(
            requests=count,
            seconds=seconds,
            p50_ms=took[len(took) // 2] * 1000,
            p99_ms=took[len(took) * 99 // 100] * 1000,
            longest_ms=took[-1] * 1000,
            writes_sent=count,
            writes_answered=count,
        )

    def _value(self, number: int) -> bytes:
        inputs = self._inputs
        key = inputs.keys[inputs.order[(number - 1) % len(inputs.order)]]
        return inputs.value(key, number).encode()

    def _acquire(self) -> None:
        if not self._room.acquire(timeout=ANSWER_S):
            raise Unverified(f"no create was answered for {ANSWER_S} s")

    def _send(self, number: int) -> None:
        sent = time.monotonic()

        def answered(result: IAsyncResult) -> None:
            self._took.append(time.monotonic() - sent)
            if not result.successful():
                self._failed.append(result.exception)
            self._room.release()

        self._client.create_async(self._prefix, self._value(number), sequence=True).rawlink(answered)
