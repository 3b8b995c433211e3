"""A replica's place in the log: what it has, what it still has to read, how old its state can be.

Entries arrive by several ways (pushed by the leader, read from ZooKeeper, appended here), early, late, twice or
never. The cursor lets them through strictly in order. Invariants (tests cite the numbers):

C1  Entries leave the cursor in the order of their indices, each once, without holes.
C2  Each of them is chained to the one before by its hash, and no epoch is followed by a lower one.
C3  At most one batch of entries is with the store at any time, so that a batch holds all that has gathered.
C4  What waits in memory is bounded (READY_ENTRIES_MAX).
C5  ``fresh_as_of`` is a moment at which everything then in the log (as ZooKeeper's server knew it) is applied
    here now; it never decreases.
C6  An entry that is missing is bad only if the log, as a quorum knows it, begins before it and goes on behind it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from kvlog.core.agreement import entries_to_checkpoint
from kvlog.core.effects import Apply, ReadEntries
from kvlog.core.entry import NO_HASH, LogEntry, decode_entry, segment_of
from kvlog.core.machine import Position
from kvlog.errors import BadEntry

READ_ENTRIES = 128
"""Entries in one read. All of them are requested at once; kazoo blocks the caller from the 278th unsent
request on (measured), so this stays well below."""

READY_ENTRIES_MAX = 512
"""Entries that may wait for the store before no more are read."""

APPLY_ENTRIES = 256
"""Entries in one transaction of the store."""

_OBSERVATIONS_MAX = 16


class _Observation(NamedTuple):
    """The log ended at ``tail_index`` at the moment ``asked_at``, or later."""

    tail_index: int
    asked_at: float


class Cursor:
    """See the module's docstring. ``position`` is what the store has committed; the rest runs ahead of it."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self.next_index = position.applied_index + 1
        self.last_hash = position.hash
        self.revision = position.revision
        self.epoch = position.epoch
        self.log_bytes = position.log_bytes
        self.tail_index = position.applied_index
        self.first_index = 0  # where the log begins: what was before has been trimmed
        self.bad: BadEntry | None = None  # the next entry, if it cannot be applied
        self.fresh_as_of: float | None = None
        self.tail_as_of: float | None = None  # the latest moment after which the tail was asked for
        self.healing = False
        self._ready: deque[LogEntry] = deque()
        self._fill: tuple[LogEntry, ...] = ()
        self._applying = False
        self._reading: ReadEntries | None = None
        self._observations: deque[_Observation] = deque()
        self.missing: int | None = None  # a quorum has to tell the tail before it is read again
        self._missing_confirmed: int | None = None
        self._missing_again = False

    # --- entries in ---------------------------------------------------------------------------------------

    def offer(self, index: int, data: bytes) -> LogEntry | None:
        """Take the entry if it is the next one; returns it, or None when it is early or known already.

        Raises:
            BadEntry: it is the next one, but damaged or not chained to the one before (C2).
        """
        if index != self.next_index:
            return None
        item = self._verified(index, data, self.last_hash)
        if item.entry.epoch < self.epoch:
            raise BadEntry(index, f"is of epoch {item.entry.epoch}, after entries of epoch {self.epoch}")
        first, after = item.entry.first_revision, self.revision + 1
        if first < after or (self.last_hash and item.entry.skip is None and first != after):
            raise BadEntry(index, f"starts at revision {first}, but {self.revision} was the last")
        self._ready.append(item)
        self.next_index += 1
        self.log_bytes += len(data)
        self.last_hash = item.hash
        self.revision = item.entry.last_revision
        self.epoch = item.entry.epoch
        self.tail_index = max(self.tail_index, index)
        if index == self.missing:
            self.missing = None
        return item

    def read_done(self, first_index: int, entries: tuple[bytes, ...]) -> list[LogEntry]:
        """Take what a read has brought; returns the entries that were the next ones, up to one that is bad."""
        asked = self._reading
        if asked is None or asked.first_index != first_index:
            asked = None  # something else has asked for these (see skipping): the own answer is still to come
        else:
            self._reading = None
        short = asked is not None and len(entries) < asked.count
        taken: list[LogEntry] = []
        gaps = self.position.gaps
        try:
            if self.healing and gaps and first_index == gaps[0].first:
                self._take_fill(entries[: gaps[0].last - gaps[0].first + 1])
                if short:
                    self._miss(first_index + len(entries))
                return []
            for index, data in enumerate(entries, start=first_index):
                item = self.offer(index, data)
                if item is not None:
                    taken.append(item)
            if short and self.next_index <= self.tail_index:
                self._miss(first_index + len(entries))
        except BadEntry as error:
            self.bad = error
        return taken

    def resume(self) -> None:
        """Something else is in the place of the bad entry now."""
        self.bad = self.missing = self._missing_confirmed = None
        self._missing_again = False

    def _miss(self, index: int) -> None:
        """An entry that should be there was not found: read on only after a quorum has told the tail.

        Mostly a server of ZooKeeper lags behind the leader's push, or the entry has just been trimmed. If it is
        still not there after a quorum operation, although later ones are, it will never be (C6).
        """
        gaps = self.position.gaps
        needed = index >= self.next_index or (gaps and gaps[0].first <= index <= gaps[0].last)
        if not needed or index < self.first_index:
            return  # it has come by another way, or was trimmed
        self._missing_again = index == self._missing_confirmed
        self.missing = index

    def read_failed(self) -> None:
        """A read has come to nothing; it will be asked for again."""
        self._reading = None

    def _take_fill(self, entries: tuple[bytes, ...]) -> None:
        gap = self.position.gaps[0]
        items = []
        last_hash, revision = gap.prev_hash, gap.revision
        try:
            for index, data in enumerate(entries, start=gap.first):
                item = self._verified(index, data, last_hash)
                first = item.entry.first_revision
                if first <= revision or (item.entry.skip is None and first != revision + 1):
                    raise BadEntry(index, f"starts at revision {first}, but {revision} was the last")
                if index == gap.last and gap.last_hash and item.hash != gap.last_hash:
                    raise BadEntry(index, f"has hash {item.hash}, but the next is chained to {gap.last_hash}")
                items.append(item)
                last_hash, revision = item.hash, item.entry.last_revision
        finally:  # what comes before a bad entry is filled in (N4)
            self._fill = tuple(items)

    @staticmethod
    def _verified(index: int, data: bytes, last_hash: str) -> LogEntry:
        item = decode_entry(index, data)
        # Behind a gap, the hash of the entry before is not known (it was missed): this entry says what it was.
        if last_hash and item.entry.prev_hash != last_hash:
            raise BadEntry(
                index, f"is chained to {item.entry.prev_hash}, but entry {index - 1} has hash {last_hash}"
            )
        if index == 0 and item.entry.prev_hash != NO_HASH:
            raise BadEntry(index, "is the first of the log, but chained to another")
        return item

    # --- the tail -----------------------------------------------------------------------------------------

    def observe(self, tail_index: int, asked_at: float, *, confirmed: bool = False, first_index: int = 0) -> None:
        """Note that the log ended at ``tail_index`` or later at the moment ``asked_at``, and where it begins."""
        self.first_index = max(self.first_index, first_index)
        if confirmed and self.missing is not None:
            index, self.missing = self.missing, None
            if tail_index < index:  # somebody has told of an entry that does not exist
                self.tail_index = max(tail_index, self.next_index - 1)
            elif index >= self.first_index and self._missing_again:
                self.bad = BadEntry(index, "is missing, although the log goes on behind it")
            else:
                self._missing_confirmed = index
        self.tail_index = max(self.tail_index, tail_index)
        self.tail_as_of = max(asked_at, self.tail_as_of or asked_at)
        if len(self._observations) == _OBSERVATIONS_MAX:
            self._observations.pop()
        self._observations.append(_Observation(tail_index, asked_at))
        self._update_freshness()

    def saw(self, tail_index: int) -> None:
        """Note that an entry ``tail_index`` exists, as somebody else has said."""
        self.tail_index = max(self.tail_index, tail_index)

    def _update_freshness(self) -> None:
        if self.position.gaps:
            return  # what is missing may be older than anything that was ever observed
        while self._observations and self._observations[0].tail_index <= self.position.applied_index:
            asked_at = self._observations.popleft().asked_at
            self.fresh_as_of = max(asked_at, self.fresh_as_of or asked_at)

    @property
    def behind(self) -> int:
        """Entries that exist, as far as is known, and are not applied here."""
        return max(0, self.tail_index - self.position.applied_index)

    @property
    def segment(self) -> int:
        """The segment in which the next entry will be."""
        return segment_of(self.next_index)

    # --- work out -----------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """As many entries wait for the store as may (C4)."""
        return len(self._ready) >= READY_ENTRIES_MAX

    @property
    def trimmed(self) -> bool:
        """What this replica needs next is not in the log any more: only a snapshot can help."""
        gaps = self.position.gaps
        needed = gaps[0].first if self.healing and gaps else self.next_index
        return needed < self.first_index and not self._fill and not self._applying

    def next_read(self) -> ReadEntries | None:
        """What to read now, or None."""
        if self._reading is not None or self.missing is not None or self.trimmed:
            return None
        first, last = self.next_index, self.tail_index
        if self.full:
            return None
        if first > last:
            gaps = self.position.gaps
            if not (self.healing and gaps) or self._fill or self._applying:
                return None
            first, last = gaps[0].first, gaps[0].last
        count = min(READ_ENTRIES, last - first + 1)
        self._reading = ReadEntries(first_index=first, count=count)
        return self._reading

    def next_apply(self) -> Apply | None:
        """What the store is to apply now, or None (C3)."""
        if self._applying:
            return None
        if self._ready:
            count = min(APPLY_ENTRIES, entries_to_checkpoint(self._ready[0].index), len(self._ready))
            work = Apply(entries=tuple(self._ready.popleft() for _ in range(count)), fill=False)
        elif self._fill:
            work = Apply(entries=self._fill, fill=True)
            self._fill = ()
        else:
            return None
        self._applying = True
        return work

    def hold(self) -> bool:
        """Claim the store for another change than an apply; False while it is at work (C3)."""
        if self._applying:
            return False
        self._applying = True
        return True

    def applied(self, position: Position) -> None:
        """The store stands at ``position`` now."""
        self._applying = False
        self.position = position
        while self._ready and self._ready[0].index <= position.applied_index:
            self._ready.popleft()
        self.log_bytes = position.log_bytes + sum(len(item.data) for item in self._ready)
        if position.applied_index >= self.next_index:  # a gap was opened, or a snapshot installed
            self.next_index = position.applied_index + 1
            self.last_hash = position.hash
            self.revision = max(self.revision, position.revision)
            self.epoch = max(self.epoch, position.epoch)
            self.tail_index = max(self.tail_index, position.applied_index)
        elif position.applied_index == self.next_index - 1:  # a gap at the head was filled: its end is known
            self.last_hash = position.hash
            self.revision = max(self.revision, position.revision)
            self.epoch = max(self.epoch, position.epoch)
        if not position.gaps:
            self.healing = False
        self._update_freshness()

    @property
    def idle(self) -> bool:
        """Everything that has come in is applied."""
        return not self._applying and not self._ready and self.position.applied_index == self.next_index - 1
