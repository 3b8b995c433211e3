"""Well-formed logs for tests: entries written one behind the other, as a leader would."""

from __future__ import annotations

from typing import cast

from kvlog.core.applying import apply_entry
from kvlog.core.commands import SetKey, Txn
from kvlog.core.entry import (
    FORMAT,
    Delete,
    Effect,
    Entry,
    Leader,
    LogEntry,
    Request,
    Skip,
    decode_entry,
    encode_entry,
    encode_request,
)
from kvlog.core.evaluate import View, evaluate
from kvlog.core.machine import Changes, Identity, Position, Record, Remembered, record_after
from kvlog.memory_store import MemoryTransaction


class Chain:
    """A log, and the state of a replica that has applied all of it in order.

    ``put``, ``delete``, ``barrier`` and so on append an entry and return it; ``add`` takes over one that was
    encoded elsewhere. ``window``: for how many revisions requests are remembered, if not for as many as usual.
    """

    def __init__(self, epoch: int = 1, *, window: int | None = None) -> None:
        self.epoch = epoch
        self.entries: list[LogEntry] = []
        self.position = Position(identity=Identity("c1", 1, window) if window is not None else None)
        self.transaction = MemoryTransaction({}, {})

    @property
    def records(self) -> dict[str, Record]:
        return self.transaction.records

    @property
    def requests(self) -> dict[str, Remembered]:
        return self.transaction.requests

    @property
    def kept(self) -> list[tuple[int, Changes]]:
        """All changes, in order."""
        return sorted(self.transaction.changes.items())

    def put(self, key: str, value: str | bytes) -> LogEntry:
        """Append an entry that sets a key."""
        return self.write((key, value))

    def delete(self, key: str) -> LogEntry:
        """Append an entry that removes a key."""
        return self.write((key, None))

    def write(self, *changes: tuple[str, str | bytes | None]) -> LogEntry:
        """Append one entry with a request for each change; the value None removes the key."""
        transaction = MemoryTransaction(dict(self.records), {})
        requests = []
        for revision, (key, value) in enumerate(changes, start=self.position.revision + 1):
            if value is None:
                request = Request(effects=(Delete(key),))
                transaction.records.pop(key, None)
            else:
                data = value.encode() if isinstance(value, str) else value
                request = evaluate(cast(View, transaction), Txn((SetKey(key, data),)), revision)
                record = record_after(request.effects[0], revision)
                assert record is not None
                transaction.records[key] = record
            requests.append(encode_request(request))
        return self.add(encode_entry(self.header(), tuple(requests)))

    def effects(self, *effects: Effect) -> LogEntry:
        """Append an entry with one request that has these effects, whatever they are."""
        return self.request(Request(effects=effects))

    def request(self, *requests: Request) -> LogEntry:
        """Append an entry with these requests, as they are."""
        return self.add(encode_entry(self.header(), tuple(encode_request(request) for request in requests)))

    def skip(self, *, left_out: int = 0, hashed: bool = True) -> LogEntry:
        """Append a skip that leaves so many revisions out.

        ``hashed``: it says what the next entry is chained to, as if that had been there already.
        """
        chained = f"{len(self.entries):032x}" if hashed else ""
        first = self.position.revision + 1 + left_out
        return self.add(encode_entry(self.header(first_revision=first, skip=Skip("damaged", chained))))

    def barrier(self, node_id: str = "n1", epoch: int | None = None) -> LogEntry:
        """Append the first entry of an epoch."""
        self.epoch = self.epoch + 1 if epoch is None else epoch
        return self.add(encode_entry(self.header(leader=Leader(node_id, f"{node_id}:80"))))

    def header(self, **changes: object) -> Entry:
        """The next entry without its requests; ``changes`` make it another one."""
        fields: dict[str, object] = {
            "format": FORMAT,
            "epoch": self.epoch,
            "batch_id": f"chain-{len(self.entries)}",
            "prev_hash": self.position.hash,
            "first_revision": self.position.revision + 1,
            "time_ms": 1_700_000_000_000,
        }
        return Entry(**(fields | changes))  # type: ignore[arg-type]

    def add(self, data: bytes) -> LogEntry:
        """Append an encoded entry."""
        item = decode_entry(len(self.entries), data)
        self.position = apply_entry(self.transaction, self.position, item)
        self.epoch = item.entry.epoch
        self.entries.append(item)
        return item

    def data(self, first: int, last: int) -> tuple[bytes, ...]:
        """The bytes of the entries ``first`` to ``last``, both included."""
        return tuple(item.data for item in self.entries[first : last + 1])
