"""Archives the log while a run goes on: what is trimmed meanwhile is still known at the end."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError

from kvlog.core.entry import LogEntry, decode_entry
from kvlog.errors import BadEntry
from kvlog.zookeeper.layout import Layout, log_data, skips_in
from kvlog.zookeeper.visit import RECONNECT

ANSWER_S = 5.0
SESSION_S = 4.0
"""Of its session: a server that stands still is left in half of that."""

CONNECT_S = 20.0

POLL_S = 0.05
"""Between two looks at the log's end."""

LOOK_S = 1.0
"""Between two looks at where the log begins, and at what stands for entries that nobody can apply."""

AT_ONCE = 64
"""Entries that are asked for together, where there are so many."""


class Tap:
    """Reads every entry from ZooKeeper, with a session of its own and on no way that a fault is in.

    Attributes:
        entries: of the log, from the first one that was there when it began; without a hole.
        hole: why it could not go on, in a sentence; empty if it could.
    """

    def __init__(self, hosts: str, root: str) -> None:
        self.entries: list[LogEntry] = []
        self.hole = ""
        self._hosts = hosts
        self._layout = Layout(root)
        self._segment = 0
        self._next = 0
        self._looked_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tap", daemon=True)
        self._client: Any = None

    def start(self) -> None:
        """Connect, and begin at the first entry that the log holds."""
        logger = logging.getLogger("kvlog.kazoo")
        logger.setLevel(logging.CRITICAL)  # servers that break connections are what a run is about
        self._client = KazooClient(self._hosts, timeout=SESSION_S, connection_retry=RECONNECT, logger=logger)
        self._client.start(timeout=CONNECT_S)
        data, _ = self._client.get(self._layout.cluster)
        self._segment = json.loads(data)["segment"]
        data, _ = self._client.get(self._layout.log)
        self._next = log_data(data).first_index
        self._thread.start()

    def wait_for(self, index: int, timeout_s: float) -> bool:
        """Wait until an entry is archived, and all before it."""
        until = time.monotonic() + timeout_s
        while self._next <= index and not self.hole and time.monotonic() < until:
            time.sleep(POLL_S)
        return self._next > index

    def other_znodes(self) -> int:
        """How many there are below the cluster's root, the entries of the log and their segments apart.

        Raises:
            KazooException, KazooTimeoutError: ZooKeeper does not say.
        """
        layout = self._layout
        parents = (layout.root, layout.election, layout.members, layout.replicas)
        names = [self._client.get_children_async(path).get(timeout=ANSWER_S) for path in parents]
        skips = skips_in(self._client.get_children_async(layout.log).get(timeout=ANSWER_S))
        return sum(map(len, names)) + len(skips)

    def stop(self) -> None:
        """End the session."""
        self._stopped.set()
        self._thread.join(2 * ANSWER_S)
        self._client.stop()
        self._client.close()

    def _run(self) -> None:
        many = 1
        while not self._stopped.is_set() and not self.hole:
            try:
                found = self._take(many)
            except (KazooException, KazooTimeoutError):
                found = 0  # no connection at the moment
            many = AT_ONCE if found == many else 1
            if many == 1:
                self._stopped.wait(POLL_S)

    def _take(self, many: int) -> int:
        """The next entries, up to one that is not there; how many."""
        reads = [self._client.get_async(self._path(self._next + place)) for place in range(many)]
        for place, read in enumerate(reads):
            try:
                data, _ = read.get(timeout=ANSWER_S)
            except NoNodeError:
                self._look_for_the_beginning()
                return place
            try:
                entry = decode_entry(self._next, data)
            except BadEntry:
                skip = self._skip()
                if skip is None:
                    return 0  # nobody can apply it, and nobody has gone past it yet
                entry = skip
            self.entries.append(entry)
            self._next += 1
        return many

    def _path(self, index: int) -> str:
        return f"{self._layout.segment(index // self._segment)}/entry-{index % self._segment:010d}"

    def _skip(self) -> LogEntry | None:
        """What stands for the next entry, if anything does."""
        names = self._client.get_children_async(self._layout.log).get(timeout=ANSWER_S)
        if self._next not in skips_in(names):
            return None
        data, _ = self._client.get_async(self._layout.skip(self._next)).get(timeout=ANSWER_S)
        return decode_entry(self._next, data)

    def _look_for_the_beginning(self) -> None:
        """What is not there has not been written yet, or not any more."""
        if time.monotonic() < self._looked_at + LOOK_S:
            return
        self._looked_at = time.monotonic()
        data, _ = self._client.get_async(self._layout.log).get(timeout=ANSWER_S)
        first = log_data(data).first_index
        if first > self._next:
            self.hole = f"entry {self._next} was trimmed before it was archived: the log begins at {first}"
            return
        skip = self._skip()
        if skip is not None:
            self.entries.append(skip)
            self._next += 1


def save_log(entries: list[LogEntry], path: Path) -> None:
    """Write entries into a file, line by line."""
    with path.open("w") as file:
        for entry in entries:
            file.write(json.dumps([entry.index, entry.data.decode()]) + "\n")


def read_log(path: Path) -> list[LogEntry]:
    """The entries in a file that ``save_log`` has written."""
    with path.open() as file:
        return [decode_entry(index, text.encode()) for index, text in map(json.loads, file)]
