"""Well-formed logs whose requests have ids."""

from __future__ import annotations

import msgspec

from kvlog.core.commands import Settle, Txn, fingerprint, update
from kvlog.core.entry import LogEntry, Request, decode_entry, encode_entry, encode_request
from kvlog.core.evaluate import evaluate
from kvlog.core.machine import Identity, Remembered, apply_entry
from kvlog.memory_store import MemoryTransaction
from tests.chain import Chain


class RequestChain(Chain):
    """A Chain that belongs to a log, and remembers requests for ``window`` revisions."""

    def __init__(self, window: int, epoch: int = 1) -> None:
        super().__init__(epoch)
        self.identity = Identity("c1", 7, window)
        self.position = msgspec.structs.replace(self.position, identity=self.identity)
        self.requests: dict[str, Remembered] = {}

    def request(self, request_id: str, key: str, value: str) -> LogEntry:
        """Append an entry with one request, under an id."""
        return self.command(request_id, update(key, value))

    def cancel(self, request_id: str) -> LogEntry:
        """Append an entry that cancels a request for good."""
        return self.command(request_id, Settle())

    def command(self, request_id: str, command: Txn | Settle) -> LogEntry:
        view = MemoryTransaction(self.records, {}, self.requests)
        revision = self.position.revision + 1
        request: Request = evaluate(view, command, revision, request_id=request_id, check=fingerprint(command))
        return self.add(encode_entry(self.header(), (encode_request(request),)))

    def add(self, data: bytes) -> LogEntry:
        item = decode_entry(len(self.entries), data)
        transaction = MemoryTransaction(self.records, {}, self.requests)
        self.position = apply_entry(transaction, self.position, item)
        self.epoch = item.entry.epoch
        self.entries.append(item)
        return item
