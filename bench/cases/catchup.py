"""How fast a replica that was away catches up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from itertools import islice

from kazoo.client import KazooClient

from bench.case import Figure, Unverified
from bench.cases.members_case import VALUE_BYTES, MembersCase, key_of
from bench.members import KvlogMembers
from bench.systems.base import System
from bench.systems.http import Request
from bench.systems.kvlog_nodes import KvlogNodes
from bench.wire import closed_loop, encoded
from kvlog.cluster import ClusterNode
from kvlog.core.replicator import RING_BYTES_MAX
from kvlog.errors import Unavailable
from kvlog.processes import wait_until

SINGLE_WRITES = 5_000
TRANSACTIONS = 2_000
UPDATES = 100
"""In a transaction."""

COPIED_KEYS = 1_000_000
LEAST_SINGLE, LEAST_TRANSACTIONS, LEAST_KEYS = 200, 20, 1_000
KEYS = 10_000
SAMPLE = 200

MORE_ENTRIES = 10
"""That may come besides: the barrier of a new leader, or a write of an earlier case that has come late."""

LOOK_S = 0.005
BACK_S = 600.0
"""Seconds that the whole of it may take."""

TRIM_WRITES = 200
"""Entries to write between two looks at where the log begins."""

SMALL, LARGE = 10, 10_000
"""Bytes of each: large ones where few keys were put, else the leader still has in memory what the log has not."""

TRIM_S = 120.0
SESSION_S = 20.0
FIRST_SEGMENT = "/log/0000000000"
MIB = 1 << 20


class Catchup(MembersCase):
    """How fast a replica that was away catches up: by replaying what it has missed, or by copying another's store.

    It is stopped, and the others are written to on one connection, so that each write or transaction is an entry
    of the log. Then it is started again: for every system, that is the time until the node itself reads the last
    value. kvlog also says how long the replay alone has taken. The copy is kvlog's only, on nodes of their own
    that keep as little of the log as they can: the node has lost its store, and the log begins behind what it
    would need.
    """

    def generate(self) -> None:
        """How many of each."""
        super().generate()
        self.singles = self.scale.of(SINGLE_WRITES, least=LEAST_SINGLE)
        self.transactions = self.scale.of(TRANSACTIONS, least=LEAST_TRANSACTIONS)
        self.copied = self.scale.of(COPIED_KEYS, least=LEAST_KEYS)
        self.written = 0
        self.latest: dict[str, str] = {}

    def execute(self, system: System) -> list[Figure]:
        """Away for single writes, then for transactions; and without its store."""
        figures = self._away(self.singles, 1) + self._away(self.transactions, UPDATES)
        if isinstance(system, KvlogNodes):
            figures += self._copy(system)
        return figures

    # --- replay -------------------------------------------------------------------------------------------

    def _away(self, writes: int, updates: int) -> list[Figure]:
        """Stop a node that does not lead, write so many entries of so many updates each, and start it again."""
        number = len(self.asked.addresses) - 1
        address, before = self.asked.addresses[number], self._tail()
        self.members.terminate(address)
        key, value = self._write(writes, updates)
        self._count(writes, self._tail() - before, "were written on one connection")
        begun = time.perf_counter()
        self.members.start(address)
        if not wait_until(lambda: self._has(number, key, value), BACK_S, every_s=LOOK_S):
            raise Unverified(f"a node that was away has not caught up within {BACK_S:g} s")
        seconds = time.perf_counter() - begun
        self.members.wait_until_whole()
        what = f"{updates} update{'s' if updates > 1 else ''} per entry"
        figures = [Figure(f"back after {writes:,} writes, {what}", seconds, "s", False)]
        if isinstance(self.members, KvlogMembers):
            recovery = self.members.system.cluster.node(address).status()["recovery"]
            self._count(writes, recovery["replayed_entries"], "were replayed")
            rate = recovery["replayed_entries"] / recovery["seconds"]
            figures.append(Figure(f"replay, {what}", rate, "entries/s", True))
            if updates > 1:
                figures.append(Figure(f"replay, {what}: updates", rate * updates, "updates/s", True))
        return figures

    def _count(self, writes: int, entries: int, what: str) -> None:
        """kvlog: see that each write was an entry.

        Raises:
            Unverified: they were fewer, or many more.
        """
        if isinstance(self.members, KvlogMembers) and not writes <= entries <= writes + MORE_ENTRIES:
            raise Unverified(f"{writes} writes were missed, and {entries} entries {what}")

    def _tail(self) -> int:
        """kvlog: the index of the last entry; 0 where that is not known."""
        if not isinstance(self.members, KvlogMembers):
            return 0
        return int(self.members.system.cluster.node(self.asked.addresses[0]).status()["tail_index"])

    def _write(self, writes: int, updates: int) -> tuple[str, str]:
        """Returns the key that was written last, and its value."""
        leader = self.asked.addresses[0]
        acknowledged = self.dialect.all_put if updates > 1 else self.dialect.acknowledged

        def taken(_: int, status: int, body: bytes) -> None:
            if not acknowledged(status, body):
                raise Unavailable(f"a write was answered {status}: {body[:500]!r}")

        key, value = "", ""

        def requests() -> Iterator[bytes]:
            nonlocal key, value
            for _ in range(writes):
                items = dict(self._some(updates))
                key, value = list(items.items())[-1]
                yield encoded(leader, self._request(items))

        closed_loop(leader, requests(), 1, taken)
        return key, value

    def _request(self, items: Mapping[str, str]) -> Request:
        if len(items) > 1:
            return self.dialect.put_all(items)
        (item,) = items.items()
        return self.asked.put_request(*item)

    def _some(self, updates: int) -> Iterator[tuple[str, str]]:
        """Different keys with the next values."""
        first = self.draw.randrange(KEYS)
        for place in range(first, first + updates):
            self.written += 1
            key, value = key_of(place % KEYS), self.value(self.written)
            self.latest[key] = value
            yield key, value

    def _has(self, number: int, key: str, value: str) -> bool:
        try:
            return self.asked.get(key, node=number) == value
        except Unavailable:
            return False  # it is not up yet

    # --- the copy -----------------------------------------------------------------------------------------

    def _copy(self, system: KvlogNodes) -> list[Figure]:
        """Nodes of their own, with many keys, one of which loses its store."""
        with system.another("--retain", "0") as nodes:
            nodes.put_many(self.items(range(self.copied)))
            leader, node = (nodes.cluster.node(nodes.addresses[number]) for number in (0, -1))
            node.terminate()
            shutil.rmtree(node.data_dir)
            _trim(nodes, leader, SMALL if self.copied * VALUE_BYTES > RING_BYTES_MAX else LARGE)
            begun = time.perf_counter()
            node.start(wait=False)
            if not wait_until(lambda: _ready(node), BACK_S, every_s=LOOK_S):
                raise Unverified(f"a node that has lost its store is not ready within {BACK_S:g} s")
            seconds = time.perf_counter() - begun
            nodes.agree()
            installed = node.status()["recovery"].get("installed")
            if installed is None:
                raise Unverified("a node that has lost its store was to copy another one's, and has not")
            last = self.copied - 1
            if nodes.get(key_of(last), node=-1) != self.value(last):
                raise Unverified("a node that has copied a store does not have what was put")
            size = (node.data_dir / "store" / "data.mdb").stat().st_size
        return [
            Figure(f"copy of {self.copied:,} keys", installed["seconds"], "s", False),
            Figure(f"copy of {self.copied:,} keys: speed", size / MIB / installed["seconds"], "MiB/s", True),
            Figure(f"ready after the loss of {self.copied:,} keys", seconds, "s", False),
        ]

    # --- verification -------------------------------------------------------------------------------------

    def verify(self, system: System) -> None:  # noqa: ARG002 - it is known since prepare
        """All nodes hold the same, and a sample of it is what was written last."""
        self.asked.agree()
        for key in islice(self.draw.sample(sorted(self.latest), len(self.latest)), SAMPLE):
            for number in range(len(self.asked.addresses)):
                if self.asked.get(key, node=number) != self.latest[key]:
                    raise Unverified(f"node {number} does not have what was written to {key} last")


def _ready(node: ClusterNode) -> bool:
    try:
        return node.request("GET", "/readyz").status == 200  # noqa: PLR2004 - OK
    except Unavailable:
        return False


def _trim(nodes: KvlogNodes, leader: ClusterNode, size: int) -> None:
    """Write values of this size until the first entries are gone: from the log, and from the leader's memory."""

    def trimmed() -> bool:
        return int(leader.status()["log"]["first_index"]) > 0

    end, written = time.monotonic() + TRIM_S, 0
    while not trimmed() or (size == LARGE and written <= RING_BYTES_MAX):
        if time.monotonic() > end:
            raise Unavailable(f"the log was not trimmed within {TRIM_S:g} s: {leader.status()['log']}")
        for number in range(TRIM_WRITES):
            nodes.put("trim", f"{number:0{size}}")
            written += size
    client = KazooClient(nodes.ensemble.hosts, timeout=SESSION_S)
    client.start(timeout=SESSION_S)
    try:  # the log says where it begins before what was there goes
        if not wait_until(lambda: client.exists(f"{nodes.cluster.root}{FIRST_SEGMENT}") is None, TRIM_S):
            raise Unavailable(f"the log's first entries were not deleted within {TRIM_S:g} s")
    finally:
        client.stop()
        client.close()
