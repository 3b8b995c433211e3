"""Well-formed logs whose requests have ids."""

from __future__ import annotations

import msgspec

from kvlog.core.commands import Command, Settle, fingerprint, update
from kvlog.core.entry import LogEntry, Request, encode_entry, encode_request
from kvlog.core.evaluate import evaluate
from kvlog.core.machine import Identity
from tests.chain import Chain


class RequestChain(Chain):
    """A Chain that belongs to a log, and remembers requests for ``window`` revisions."""

    def __init__(self, window: int, epoch: int = 1) -> None:
        super().__init__(epoch)
        self.identity = Identity("c1", 7, window)
        self.position = msgspec.structs.replace(self.position, identity=self.identity)

    def request(self, request_id: str, key: str, value: str) -> LogEntry:
        """Append an entry with one request, under an id."""
        return self.command(request_id, update(key, value))

    def cancel(self, request_id: str) -> LogEntry:
        """Append an entry that cancels a request for good."""
        return self.command(request_id, Settle())

    def command(self, request_id: str, command: Command) -> LogEntry:
        revision, check = self.position.revision + 1, fingerprint(command)
        request: Request = evaluate(self.transaction, command, revision, request_id=request_id, check=check)
        return self.add(encode_entry(self.header(), (encode_request(request),)))
