"""What commands are evaluated against, in the simplest way: for tests that play a log by themselves."""

from __future__ import annotations

from kvlog.core.entry import Request
from kvlog.core.evaluate import Search
from kvlog.core.machine import Record, Remembered, record_after


class State:
    """A View of ``records``. ``changed`` has the revision at which each key was written or deleted last."""

    def __init__(self, **records: Record) -> None:
        self.records = dict(records)
        self.changed: dict[str, int] = {}

    def get(self, key: str) -> Record | None:
        return self.records.get(key)

    def request(self, _: str) -> Remembered | None:
        return None

    def attached(self, lease: int, limit: int) -> tuple[str, ...]:
        return tuple(sorted(key for key, record in self.records.items() if record.lease == lease))[:limit]

    def changed_since(self, prefix: str, revision: int, _: Search) -> bool:
        return any(key.startswith(prefix) and at > revision for key, at in self.changed.items())

    def apply(self, request: Request, revision: int) -> None:
        """Carry out what evaluating a command has given."""
        for effect in request.effects:
            self.changed[effect.key] = revision
            after = record_after(effect, revision)
            if after is None:
                del self.records[effect.key]
            else:
                self.records[effect.key] = after
