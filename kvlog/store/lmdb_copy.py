"""A consistent copy of a live store, read while the store goes on being written.

LMDB itself writes the copy, compacted, from one read transaction into a pipe, on a thread of its own; whoever
takes the copy reads the pipe. A read transaction keeps every page that it can see: while it lasts, the store's
file only grows. So a taker that is too slow is given up, and the transaction with it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import lmdb

from kvlog.errors import StoreFailure, Unavailable
from kvlog.store.lmdb_files import TABLES, Files, Guarded

CHUNK_BYTES = 256 * 1024
"""What is handed out at a time, at most."""

PIPE_BYTES = 1024 * 1024
"""What the pipe holds: as much as Linux lets everybody have."""

META_PAGES = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """The least that has to be taken: ``least_bytes`` in every ``window_s`` seconds of waiting for the taker."""

    window_s: float = 10.0
    least_bytes: int = 10 * 1024 * 1024


class StoreCopy:
    """The bytes of a ``data.mdb`` that holds the store at ``position``; iterate over it, and close it.

    Attributes:
        position: where the copied state stands.
        size: how many bytes it is.

    Raises, from the iteration:
        Unavailable: it was taken too slowly, or the store is being closed.
        StoreFailure: LMDB could not copy.
    """

    def __init__(self, files: Files, *, pace: Pace, ended: Callable[[], None]) -> None:
        """Begin to copy; ``ended`` is called once, from any thread, when the store is not held any more."""
        self._directory = files.directory
        self._pace = pace
        self._ended = ended
        self._read_end: int | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()  # held while the pipe's end is read or closed
        self._complete = False
        self._failure: lmdb.Error | None = None
        self._closed_because = ""
        self._taken_bytes = 0
        self._outside_s = 0.0  # for how long the copy has waited for its taker
        self._left_at: float | None = None
        with Guarded(files.directory):
            transaction = files.environment.begin()
            try:
                self.position = files.position(transaction)
                self.size = _copy_bytes(files, transaction)
                self._read_end, write_end = _pipe()
            except BaseException:
                transaction.abort()
                raise
        self._left_at = time.monotonic()
        self._writer = threading.Thread(
            target=self._write, args=(files, transaction, write_end), name="kvlog-copy", daemon=True
        )
        self._watch = threading.Thread(target=self._watch_pace, name="kvlog-copy-pace", daemon=True)
        self._writer.start()
        self._watch.start()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._lock:
            if self._complete:
                raise StopIteration
            if self._read_end is None:
                raise Unavailable(f"the copy of the store was given up: {self._closed_because}")
            if self._left_at is not None:
                self._outside_s += time.monotonic() - self._left_at
                self._left_at = None
            chunk = os.read(self._read_end, CHUNK_BYTES)
            self._taken_bytes += len(chunk)
            self._left_at = time.monotonic()
            self._complete = not chunk
        if chunk:
            return chunk
        self.close("it is complete")
        if self._failure is not None:
            raise StoreFailure(f"the store in {self._directory} could not be copied: {self._failure}")
        raise StopIteration

    def close(self, reason: str = "nobody reads it any more") -> None:
        """End the copy, wherever it is; the store is not held any more when this returns."""
        with self._lock:
            if self._read_end is not None:
                os.close(self._read_end)
                self._read_end = None
                self._closed_because = reason
        self._writer.join()
        if threading.current_thread() is not self._watch:
            self._watch.join()

    def __del__(self) -> None:
        # Its threads are over, or they would still refer to it.
        if self._read_end is not None:
            os.close(self._read_end)

    def _write(self, files: Files, transaction: lmdb.Transaction[bytes], write_end: int) -> None:
        try:
            # Ends early, with EPIPE, once the other end is closed.
            files.environment.copyfd(write_end, compact=True, txn=transaction)
        except lmdb.Error as error:
            self._failure = error
        finally:
            transaction.abort()
            os.close(write_end)
            self._over.set()
            self._ended()

    def _watch_pace(self) -> None:
        window_bytes, window_s = 0, 0.0
        while not self._over.wait(self._pace.window_s / 10):
            # While the pipe is being read, it is the taker who waits.
            if not self._lock.acquire(blocking=False):
                continue
            try:
                waited_s = self._outside_s
                if self._left_at is not None:
                    waited_s += time.monotonic() - self._left_at
                slow = waited_s - window_s >= self._pace.window_s
                taken_bytes = self._taken_bytes
            finally:
                self._lock.release()
            if slow and taken_bytes - window_bytes < self._pace.least_bytes:
                self.close(f"only {taken_bytes - window_bytes} bytes of it were read in {self._pace.window_s:g} s")
                return
            if slow:
                window_bytes, window_s = taken_bytes, waited_s


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    with suppress(PermissionError):  # this user's pipes hold too much already: a smaller one is only slower
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return read_end, write_end


def _copy_bytes(files: Files, transaction: lmdb.Transaction[bytes]) -> int:
    """The size of a compacted copy: the pages in use, without those that only list free ones."""
    stats = [transaction.stat(), *(transaction.stat(getattr(files, name)) for name in TABLES)]
    pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
    return (META_PAGES + pages) * stats[0]["psize"]
