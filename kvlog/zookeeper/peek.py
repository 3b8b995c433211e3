"""A look at what kvlog keeps in ZooKeeper, for people: short-lived sessions, every request bounded in time."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from kvlog.core.entry import LogEntry, Put, decode_entry
from kvlog.zookeeper.layout import Layout, last_entry, log_data, segments_in, skips_in
from kvlog.zookeeper.visit import visit

ANSWER_S = 10.0
"""How long connecting may take, and each request."""


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
        if entry.skip is not None:
            return [f"skipped: {entry.skip.reason}"]
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
            data, _ = _get(client.get_async(layout.log))
            children = _get(client.get_children_async(layout.log))
            skips = skips_in(children)
            last = max(skips, default=-1)
            for segment in reversed(segments_in(children)):
                found = last_entry(segment, _get(client.get_children_async(layout.segment(segment))))
                if found is not None:
                    last = max(last, found)
                    break
            entries: list[StoredEntry] = []
            for index in range(last, max(log_data(data).first_index, last - count + 1) - 1, -1):
                path = layout.skip(index) if index in skips else layout.entry(index)
                try:
                    data, _ = _get(client.get_async(path))
                except NoNodeError:
                    break  # trimmed meanwhile
                entries.append(StoredEntry(path, decode_entry(index, data)))
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

    def _session(self) -> AbstractContextManager[KazooClient]:
        return visit(self._hosts, answer_s=ANSWER_S)


def _get(pending: Any) -> Any:
    return pending.get(timeout=ANSWER_S)


def _remove(client: KazooClient, path: str) -> None:
    with suppress(NoNodeError):  # a znode that goes by itself is what is wanted
        for name in _get(client.get_children_async(path)):
            _remove(client, f"{path}/{name}")
        _get(client.delete_async(path))
