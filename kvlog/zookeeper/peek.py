"""A look at what kvlog keeps in ZooKeeper, for people: short-lived sessions, every request bounded in time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError

from kvlog.core.entry import SEGMENT_ENTRIES, LogEntry, Put, decode_entry
from kvlog.errors import Unavailable
from kvlog.zookeeper.layout import Layout, last_entry

ANSWER_S = 10.0
"""How long connecting may take, and each request."""

STOP_S = 2.0
"""How long closing the session may take; kazoo's own stop can wait for ever."""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry, and where it stands in ZooKeeper."""

    path: str
    item: LogEntry

    @property
    def index(self) -> int:
        """Its place in the log."""
        return self.item.index

    @property
    def text(self) -> str:
        """What its znode holds."""
        return self.item.data.decode()

    @property
    def is_barrier(self) -> bool:
        """Whether it opens an epoch, and updates nothing."""
        return self.item.entry.leader is not None

    @property
    def says(self) -> list[str]:
        """What it does, in words."""
        entry = self.item.entry
        if entry.leader is not None:
            return [f"barrier: {entry.leader.address} leads from here on"]
        effects = [effect for request in entry.requests for effect in request.effects]
        return [
            f"{effect.key} = {effect.value}" if isinstance(effect, Put) else f"{effect.key} is deleted"
            for effect in effects
        ]


class Peek:
    """Looks at the znodes below one root. Each call opens a session of its own.

    All methods raise Unavailable when ZooKeeper gives no answer in time, or refuses.
    """

    def __init__(self, hosts: str, root: str) -> None:
        self.root = root
        self._hosts = hosts
        self._layout = Layout(root)

    def last_entries(self, count: int) -> list[StoredEntry]:
        """The last ``count`` entries of the log, oldest first; fewer when there are not so many.

        Raises:
            BadEntry: one of them is damaged.
        """
        layout = self._layout
        with self._session() as client:
            entries: list[StoredEntry] = []
            segments = sorted(map(int, _get(client.get_children_async(layout.log))))
            while segments and len(entries) < count:
                segment = segments.pop()
                last = last_entry(segment, _get(client.get_children_async(layout.segment(segment))))
                index = segment * SEGMENT_ENTRIES - 1 if last is None else last
                while index >= segment * SEGMENT_ENTRIES and len(entries) < count:
                    path = layout.entry(index)
                    data, _ = _get(client.get_async(path))
                    entries.append(StoredEntry(path, decode_entry(index, data)))
                    index -= 1
            return entries[::-1]

    def members(self) -> list[str]:
        """The ids of the nodes whose sessions ZooKeeper holds, sorted."""
        with self._session() as client:
            return sorted(_get(client.get_children_async(self._layout.members)))

    def candidates(self) -> list[str]:
        """The names of the election's znodes; each begins with its node's id and an underscore."""
        with self._session() as client:
            return sorted(_get(client.get_children_async(self._layout.election)))

    def remove(self) -> None:
        """Delete the root with everything below it: the cluster is gone for good. Its nodes must have ended."""
        with self._session() as client:
            _remove(client, self._layout.root)

    @contextmanager
    def _session(self) -> Iterator[KazooClient]:
        logger = logging.getLogger("kvlog.kazoo")
        logger.setLevel(logging.CRITICAL)  # what matters of it arrives as exceptions
        client = KazooClient(hosts=self._hosts, timeout=ANSWER_S, logger=logger)
        try:
            client.start(timeout=ANSWER_S)
            yield client
        except (KazooTimeoutError, KazooException) as error:
            raise Unavailable(f"ZooKeeper at {self._hosts} gave no answer: {error!r}") from error
        finally:
            closing = threading.Thread(target=_close, args=(client,), name="kvlog-peek-stop", daemon=True)
            closing.start()
            closing.join(STOP_S)


def _get(pending: Any) -> Any:
    return pending.get(timeout=ANSWER_S)


def _remove(client: KazooClient, path: str) -> None:
    with suppress(NoNodeError):  # a znode that goes by itself is what is wanted
        for name in _get(client.get_children_async(path)):
            _remove(client, f"{path}/{name}")
        _get(client.delete_async(path))


def _close(client: KazooClient) -> None:
    client.stop()
    client.close()
