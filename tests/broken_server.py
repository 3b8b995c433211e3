"""``server.py`` with a store that is broken in one way: ``broken_server.py HOW <flags of server.py>``.

drops       the first update of key1 changes nothing: reads tell
versions    puts get a wrong version, which no read shows: the digest tells
restarted   the same, but only in a node that was started on a store with data
stops       the node stops (SIGSTOP) when it applies the first update of key1: nothing answers any more
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import server
from kvlog.core.entry import Effect, LogEntry, Put
from kvlog.core.machine import Position
from kvlog.store.lmdb_store import LmdbStore

Break = Callable[[Put], Effect | None]


def drop(put: Put) -> Effect | None:
    """No effect at all for the first value of key1."""
    return None if (put.key, put.version) == ("key1", 1) else put


def miscount(put: Put) -> Effect | None:
    """Another version."""
    return msgspec.structs.replace(put, version=put.version + 1000)


def stop(put: Put) -> Effect | None:
    """The end of all answers, without the end of the process."""
    if (put.key, put.version) == ("key1", 1):
        os.kill(os.getpid(), signal.SIGSTOP)
    return put


BREAKS: dict[str, Break] = {"drops": drop, "versions": miscount, "restarted": miscount, "stops": stop}


def install(how: str) -> None:
    """Have every store of this process break entries before it applies them."""
    sound, break_put = LmdbStore.apply, BREAKS[how]
    fresh: dict[int, bool] = {}

    def broken(item: LogEntry) -> LogEntry:
        requests = []
        for request in item.entry.requests:
            effects = (break_put(effect) if isinstance(effect, Put) else effect for effect in request.effects)
            kept = tuple(effect for effect in effects if effect is not None)
            requests.append(msgspec.structs.replace(request, effects=kept))
        entry = msgspec.structs.replace(item.entry, requests=tuple(requests))
        return msgspec.structs.replace(item, entry=entry)

    def apply(self: LmdbStore, entries: tuple[LogEntry, ...], *, fill: bool) -> Position:
        started_empty = fresh.setdefault(id(self), self.position().applied_index < 0)
        if how != "restarted" or not started_empty:
            entries = tuple(map(broken, entries))
        return sound(self, entries, fill=fill)

    LmdbStore.apply = apply  # type: ignore[method-assign]


if __name__ == "__main__":
    install(sys.argv.pop(1))
    sys.exit(server.main())
