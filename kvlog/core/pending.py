"""The state that commands are evaluated against: what is applied, and what is appended and not applied yet."""

from __future__ import annotations

from typing import NamedTuple

from kvlog.core.entry import SYSTEM, Request
from kvlog.core.evaluate import Search, View
from kvlog.core.machine import Record, Remembered, record_after

PENDING_BYTES = 32
"""What a record that is not applied yet counts for in a search."""


class _Written(NamedTuple):
    """What the entry at ``entry_index`` makes of a key at ``revision``."""

    entry_index: int
    revision: int
    record: Record | None


class Pending:
    """The state as it will be once all entries are applied: the store under what is not applied yet (W5)."""

    def __init__(self, store: View) -> None:
        self._store = store
        self._records: dict[str, _Written] = {}
        self._requests: dict[str, Remembered] = {}

    def request(self, request_id: str) -> Remembered | None:
        """See evaluate.View."""
        return self._requests.get(request_id) or self._store.request(request_id)

    def get(self, key: str) -> Record | None:
        """See evaluate.View."""
        written = self._records.get(key)
        return self._store.get(key) if written is None else written.record

    def may_hold(self, key: str) -> bool:
        """Whether a key is there, or something that is not applied yet makes or removes it."""
        return key in self._records or self._store.get(key) is not None

    def attached(self, lease: int, limit: int) -> tuple[str, ...]:
        """See evaluate.View."""
        found = [key for key, written in self._records.items() if written.record and written.record.lease == lease]
        applied = self._store.attached(lease, limit + len(self._records))
        return (*found, *(key for key in applied if key not in self._records))[:limit]

    def changed_since(self, prefix: str, revision: int, search: Search) -> bool:
        """See evaluate.View."""
        pending = self._records.items()
        search.left -= PENDING_BYTES * len(pending)
        since = (key for key, written in pending if written.revision > revision and key.startswith(prefix))
        if any(not key.startswith(SYSTEM) or prefix.startswith(SYSTEM) for key in since):
            return True
        return self._store.changed_since(prefix, revision, search)

    def write(self, request: Request, outcome: Remembered) -> None:
        """A request is in the entry that forms, or is appended."""
        for effect in request.effects:
            record = record_after(effect, outcome.revision)
            self._records[effect.key] = _Written(outcome.index, outcome.revision, record)
        if request.id:
            self._requests[request.id] = outcome

    def applied(self, index: int) -> None:
        """The store holds everything up to ``index``."""
        if self._records:
            self._records = {key: held for key, held in self._records.items() if held.entry_index > index}
        if self._requests:
            self._requests = {name: held for name, held in self._requests.items() if held.index > index}

    def clear(self) -> None:
        """Nothing is appended that is not applied, or that is not known any more."""
        self._records.clear()
        self._requests.clear()
