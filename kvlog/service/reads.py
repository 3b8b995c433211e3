"""Reads: what this replica holds, how old that can be, and the waiting and refusing that a client may ask for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from kvlog.core import events as ev
from kvlog.core.entry import SYSTEM
from kvlog.core.evaluate import LEASES, Lease, lease_in, lease_key, lease_number
from kvlog.core.machine import Change, Position, Record, Remembered
from kvlog.core.status import READY_STALENESS_MS
from kvlog.core.values import Answer, Reached, Refused
from kvlog.errors import Behind, GapsInHistory, TooManyKeys, TooStale, Unavailable
from kvlog.ports import Clock, Kept, Page, Store, Versions
from kvlog.runtime import Freshness, Runtime

READ_TIMEOUT_S = 5.0
"""How long a read may wait if the client does not say."""

WAITING_MAX = 156
"""Reads that may wait at a time. Each holds one of the server's threads (see front.THREADS)."""

PAGE_BYTES_MAX = 4 * 1024 * 1024
"""About how many bytes of keys and values one page holds at most."""

KEPT_PIECE = 1_000
"""Revisions that are read at a time where many are gone through."""

DIFF_KEYS_MAX = 100_000
"""Keys that may have been changed between two revisions which are compared."""

DIFF_CHANGES_MAX = 1_000_000
"""Changes that are gone through for one comparison, whatever keys they are of: seconds, and not minutes."""

ATTACHED_MAX = 10_000
"""Keys of a lease that are listed."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a client asks of a read beyond what is to be read.

    Attributes:
        min_revision: wait until this revision is applied here.
        max_stale_ms: refuse if the answer may be older than this.
        max_lag: refuse if more entries than these may not be applied here.
        linearizable: the answer holds everything that was acknowledged before the read began.
        at: the state as of this revision.
        timeout_s: how long to wait.
    """

    min_revision: int = 0
    max_stale_ms: int | None = None
    max_lag: int | None = None
    linearizable: bool = False
    at: int | None = None
    timeout_s: float = READ_TIMEOUT_S

    @property
    def mode(self) -> str:
        """What kind of read it is, in one word."""
        if self.at is not None:
            return "at"
        return "linearizable" if self.linearizable else "local"


LOCAL = ReadOptions()


class Read(NamedTuple):
    """How old a read's result can be; ``staleness_ms`` is None if the node never was up to date.

    ``revision`` is that of the state which was read, ``tail_age_ms`` how long ago the log's end was asked for.
    """

    revision: int
    applied_index: int
    tail_index: int
    staleness_ms: int | None
    tail_age_ms: int | None
    missed_entries: int
    halted_at: int | None
    mode: str


Found = tuple[Record | None, Read] | None
"""A key's record and how old that can be; None if it is to be read on a thread that can wait, and be refused."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that is not the same at two revisions; None where it is not there."""

    key: str
    before: Record | None
    after: Record | None


@dataclass(frozen=True, slots=True)
class Diff:
    """The first keys, in order, that are not the same at two revisions; ``next`` is the one that would follow."""

    first: int
    last: int
    differences: tuple[Difference, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class LeaseState:
    """A lease: its time to live, the keys attached to it, and what is left of its time if this node knows."""

    lease: int
    ttl_ms: int
    keys: tuple[str, ...]
    remaining_ms: int | None


class Reads:
    """See the module's docstring; the methods are called on the server's threads, and wait there."""

    def __init__(self, *, runtime: Runtime, store: Store, clock: Clock) -> None:
        self._runtime = runtime
        self._store = store
        self._clock = clock
        self._slots = threading.BoundedSemaphore(WAITING_MAX)

    # --- keys ---------------------------------------------------------------------------------------------

    def key(self, key: str, options: ReadOptions = LOCAL) -> tuple[Record | None, Read]:
        """This replica's record of a key.

        Raises:
            Behind, TooStale, GapsInHistory, HistoryTrimmed, Unavailable: what was asked for cannot be shown.
        """
        return self._consistent(options, lambda at: self._store.read(key, at=at))

    def key_at_once(self, key: str, options: ReadOptions) -> Found:
        """The same of the present state, as it is now: None if the read would have to wait, or be refused."""
        freshness = self._runtime.freshness
        record, position = self._store.read(key)
        if position.gaps or options.linearizable or options.min_revision > position.revision:
            return None
        return self._bounded(record, position, freshness, options)

    def key_later(self, key: str, options: ReadOptions, reached: Callable[[Callable[[], Found]], None]) -> None:
        """The same of the present state, once this node has applied what the read needs.

        ``reached`` gets, on any thread, what will read the key then; that finds None if the read is refused, and
        raises Behind if all of its time is over: nobody is to wait for it once more.
        """
        deadline = self._clock.monotonic() + options.timeout_s
        self._runtime.submit(
            lambda token: ev.ReadSubmitted(
                token, deadline, min_revision=options.min_revision, linearizable=options.linearizable
            ),
            lambda answer: reached(lambda: self._after(answer, key, options, deadline)),
        )

    def _after(self, answer: Answer, key: str, options: ReadOptions, deadline: float) -> Found:
        if not isinstance(answer, Reached):
            if isinstance(answer, Refused) and self._clock.monotonic() >= deadline:
                raise Behind(answer.reason)
            return None
        freshness = self._runtime.freshness
        record, position = self._store.read(key)
        return self._bounded(record, position, freshness, options)

    def _bounded(
        self, record: Record | None, position: Position, freshness: Freshness, options: ReadOptions
    ) -> Found:
        read = self._read_at(freshness, position, options)
        try:
            _check_bounds(options, read)
        except TooStale:
            return None
        return record, read

    def page(
        self, prefix: str, *, start: str, limit: int, options: ReadOptions = LOCAL, count: bool = False
    ) -> tuple[Page, Read]:
        """Records in the order of their keys; see ports.Store. Raises as ``key`` does."""

        def look(at: int | None) -> tuple[Page, Position]:
            page = self._store.page(prefix, start=start, limit=limit, bytes_max=PAGE_BYTES_MAX, at=at, count=count)
            return page, page.position

        return self._consistent(options, look)

    def request(self, request_id: str) -> tuple[Remembered | None, int, Read]:
        """What this replica remembers of a request, for how many revisions it does, and how old that can be."""

        def look(_: int | None) -> tuple[tuple[Remembered | None, int], Position]:
            outcome, position = self._store.read_request(request_id)
            return (outcome, position.window), position

        (outcome, window), read = self._consistent(LOCAL, look)
        return outcome, window, read

    @property
    def revision(self) -> int:
        """That of the state which this replica holds."""
        return self._store.position().revision

    # --- the past -----------------------------------------------------------------------------------------

    def versions(self, key: str, *, before: int | None, limit: int) -> Versions:
        """What is kept of a key's past, the latest first.

        Raises:
            GapsInHistory: the store has missed entries.
        """
        return self._store.versions(key, before=before, limit=limit)

    def kept(self, after: int, *, limit: int, bytes_max: int) -> Kept:
        """What happened after a revision; see ports.Store."""
        return self._store.kept(after, limit=limit, bytes_max=bytes_max)

    def diff(self, first: int, last: int | None, prefix: str, *, start: str, limit: int) -> Diff:
        """Which keys with a prefix are not the same at two revisions, ``limit`` of them at most from ``start`` on.

        Fewer where they are large. ``last`` is the present revision if it is None.

        Raises:
            HistoryTrimmed, GapsInHistory: that cannot be told.
            Behind: ``first`` or ``last`` is not applied here.
            TooManyKeys: too many were changed in between.
        """
        if last is None:
            last = self._store.position().revision
        keys = self.changed_keys(first, last, prefix, start=start)
        found: list[Difference] = []
        room = PAGE_BYTES_MAX
        for key in keys[:limit]:
            if room <= 0:
                break
            difference = Difference(key, self.record_at(key, first), self.record_at(key, last))
            room -= sum(len(record.value) for record in (difference.before, difference.after) if record)
            found.append(difference)
        return Diff(first, last, tuple(found), keys[len(found)] if len(keys) > len(found) else None)

    def changed_keys(self, first: int, last: int, prefix: str, *, start: str = "") -> list[str]:
        """The keys with a prefix that are not the same at two revisions, in order, from ``start`` on.

        Raises as ``diff`` does.
        """
        self.wait(ReadOptions(min_revision=max(first, last)))
        touched: dict[str, tuple[int, int]] = {}  # the revisions of the records before and after
        for number, change in enumerate(self._changes(min(first, last), max(first, last))):
            if number == DIFF_CHANGES_MAX:
                raise TooManyKeys(
                    f"more than {DIFF_CHANGES_MAX} changes lie between the two revisions: take closer ones"
                )
            if not change.key.startswith(prefix) or change.key.startswith(SYSTEM):
                continue
            before = touched[change.key][0] if change.key in touched else _revision(change.before)
            touched[change.key] = (before, _revision(change.after))
            if len(touched) > DIFF_KEYS_MAX:
                raise TooManyKeys(f"more than {DIFF_KEYS_MAX} keys were changed: ask for a longer prefix")
        changed = (key for key, (before, after) in touched.items() if before != after)
        return sorted((key for key in changed if key.encode() >= start.encode()), key=str.encode)

    def record_at(self, key: str, revision: int | None) -> Record | None:
        """A key's record as of a revision that is applied here, the present one if it is None.

        Raises:
            HistoryTrimmed, GapsInHistory: that cannot be told.
        """
        return self._store.read(key, at=revision)[0]

    def _changes(self, after: int, last: int) -> Iterator[Change]:
        """What happened after a revision up to another one, change by change."""
        while after < last:
            kept = self._store.kept(after, limit=KEPT_PIECE, bytes_max=PAGE_BYTES_MAX)
            for revision, changes in kept.changes:
                if revision <= last:
                    yield from changes.changes
            after = kept.through

    # --- leases -------------------------------------------------------------------------------------------

    def lease(self, lease: int) -> LeaseState | None:
        """A lease as this replica knows it, or None."""
        record, _ = self._store.read(lease_key(lease))
        found = lease_in(record.value) if record is not None else Lease(0)
        if not found.ttl_ms:
            return None
        remaining_ms = self._runtime.inspect(lambda node, now: node.leadership.leases.remaining_ms(lease, now))
        return LeaseState(lease, found.ttl_ms, self._store.attached(lease, ATTACHED_MAX), remaining_ms)

    def leases(self, *, start: int, limit: int) -> tuple[list[tuple[int, Lease]], int | None]:
        """The leases from number ``start`` on, and the number of the one that would follow."""
        page = self._store.page(LEASES, start=lease_key(start), limit=limit, bytes_max=PAGE_BYTES_MAX)
        found = [(lease_number(key), lease_in(record.value)) for key, record in page.items]
        return found, lease_number(page.next) if page.next is not None else None

    # --- waiting and refusing -----------------------------------------------------------------------------

    def wait(self, options: ReadOptions) -> None:
        """Wait until this node has applied what the read needs.

        Raises:
            Behind: that has not come about in time; GapsInHistory: it cannot.
            Unavailable: too many reads are waiting.
        """
        min_revision = max(options.min_revision, options.at or 0)
        position = self._store.position()
        asks = options.linearizable or options.at is not None or options.min_revision
        if position.gaps and asks:
            raise GapsInHistory(position.missed_entries)
        if not options.linearizable and min_revision <= position.revision:
            return
        deadline = self._clock.monotonic() + options.timeout_s
        answer = self._ask(
            options.timeout_s,
            lambda token: ev.ReadSubmitted(
                token, deadline, min_revision=min_revision, linearizable=options.linearizable
            ),
        )
        if not isinstance(answer, Reached):
            raise Behind(getattr(answer, "reason", "this node did not decide in time"))

    def wait_for_index(self, index: int, timeout_s: float) -> bool:
        """Wait until the entry at ``index`` is applied here; whether it is."""
        deadline = self._clock.monotonic() + timeout_s
        answer = self._ask(timeout_s, lambda token: ev.ReadSubmitted(token, deadline, min_index=index))
        return isinstance(answer, Reached)

    def _ask(self, timeout_s: float, make: Callable[[int], ev.ReadSubmitted]) -> Answer:
        if not self._slots.acquire(blocking=False):
            raise Unavailable(f"{WAITING_MAX} reads are waiting on this node already")
        try:
            return self._runtime.ask(make, timeout_s)
        finally:
            self._slots.release()

    def _consistent(
        self, options: ReadOptions, look: Callable[[int | None], tuple[T, Position]]
    ) -> tuple[T, Read]:
        if options != LOCAL:
            self.wait(options)
        freshness = self._runtime.freshness  # before the reading: what is read then is at least as new
        result, position = look(options.at)
        read = self._read_at(freshness, position, options)
        _check_bounds(options, read)
        return result, read

    def _read_at(self, freshness: Freshness, position: Position, options: ReadOptions) -> Read:
        return Read(
            revision=position.revision if options.at is None else options.at,
            applied_index=position.applied_index,
            tail_index=max(freshness.tail_index, position.applied_index),
            staleness_ms=self._ms_since(freshness.fresh_as_of),
            tail_age_ms=self._ms_since(freshness.tail_as_of),
            missed_entries=position.missed_entries,
            halted_at=freshness.halted_at,
            mode=options.mode,
        )

    def _ms_since(self, moment: float | None) -> int | None:
        return None if moment is None else max(0, round((self._clock.monotonic() - moment) * 1000))


def _revision(record: Record | None) -> int:
    return 0 if record is None else record.revision


def _check_bounds(options: ReadOptions, read: Read) -> None:
    """Refuse what cannot be shown to be as new as the client wants it.

    Raises:
        TooStale: says what can be shown.
    """
    limit_ms, staleness_ms = options.max_stale_ms, read.staleness_ms
    if limit_ms is not None and (staleness_ms is None or staleness_ms > limit_ms):
        known = "never was up to date" if staleness_ms is None else f"was last up to date {staleness_ms} ms ago"
        raise TooStale(f"this node {known}, {limit_ms} ms is the limit that was asked for")
    if options.max_lag is None:
        return
    if read.tail_age_ms is None or read.tail_age_ms > READY_STALENESS_MS:
        raise TooStale("this node has not heard from ZooKeeper lately, so it does not know how far the log goes")
    lag = read.tail_index - read.applied_index + read.missed_entries
    if lag > options.max_lag:
        raise TooStale(f"this node is {lag} entries behind, {options.max_lag} is the limit that was asked for")
