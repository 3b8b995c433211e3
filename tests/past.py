"""Logs whose whole past is known: what the store is asked to tell, and what it has to say."""

from __future__ import annotations

from kvlog.core.entry import Delete, Effect, Put, Request, encode_value
from kvlog.core.machine import Record, record_after
from tests.chain import Chain

Write = tuple[str, bytes | None] | tuple[str, bytes, int]
"""A key and what it is set to, None to delete it; and the lease that it is attached to, if any."""


class Past(Chain):
    """A Chain that remembers the records at each revision (``states``), and the index of each (``indices``)."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, dict[str, Record]] = {0: {}}
        self.indices: dict[int, int] = {}

    def one(self, *writes: Write) -> None:
        """Append an entry with one request that writes all of this, in this order."""
        self.many(writes)

    def each(self, *writes: Write) -> None:
        """Append entries that write one of these each."""
        for write in writes:
            self.many((write,))

    def many(self, *requests: tuple[Write, ...]) -> None:
        """Append an entry with a request for each of these lists."""
        state, encoded = dict(self.records), []
        for revision, writes in enumerate(requests, start=self.position.revision + 1):
            effects = []
            for write in writes:
                effect = _effect(state, revision, *write)
                effects.append(effect)
                record = record_after(effect, revision)
                if record is not None:
                    state[effect.key] = record
                else:
                    state.pop(effect.key, None)
            encoded.append(Request(effects=tuple(effects)))
            self.states[revision] = dict(state)
            self.indices[revision] = len(self.entries)
        self.request(*encoded)

    def leave_out(self, count: int) -> None:
        """Append a skip after which so many revisions are missing."""
        first = self.position.revision + 1
        self.skip(left_out=count)
        for revision in range(first, first + count):
            self.states[revision] = self.states[first - 1]
            self.indices[revision] = len(self.entries) - 1

    def changed(self, revision: int) -> set[str]:
        """The keys that were changed at a revision."""
        before, after = self.states[revision - 1], self.states[revision]
        return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}

    def visible(self, revision: int, prefix: str) -> list[tuple[str, Record]]:
        """What a page of all keys with a prefix has to hold at a revision."""
        return [
            (key, self.states[revision][key])
            for key in sorted(self.states[revision], key=str.encode)
            if key.startswith(prefix) and (prefix.startswith("\0") or not key.startswith("\0"))
        ]


def _effect(state: dict[str, Record], revision: int, key: str, data: bytes | None, lease: int = 0) -> Effect:
    if data is None:
        return Delete(key)
    before = state.get(key)
    create, version = (before.create, before.version + 1) if before is not None else (revision, 1)
    value, encoding = encode_value(data)
    return Put(key, value, create, version, encoding, lease=lease)
