"""Going past an entry that nobody can apply, because an operator says so.

The skip is written into the log, in the place of the bad entry, so that every replica goes past it in the same
way: it says what the next entry is chained to and which revisions are left out. Invariants (tests cite the
numbers):

K1  A skip is written only by a node that has halted at its index, with everything before it applied.
K2  It is not written while another replica is known to hold the entry: then that one is right.
K3  A skip says what the next entry is chained to, as a quorum knows the log after the skip was wanted.
K4  A node that has applied an entry that was skipped later never goes on: its data differs from the others'.
"""

from __future__ import annotations

from kvlog.core.cursor import Cursor
from kvlog.core.effects import Effect, Note, ReadEntries, Reply, WriteSkip
from kvlog.core.entry import FORMAT, Entry, Skip, decode_entry, encode_entry
from kvlog.core.events import EntriesRead, SkipRequested
from kvlog.core.machine import Position
from kvlog.core.questions import Questions
from kvlog.core.values import Done, Holding, Refused, Replica
from kvlog.errors import BadEntry

WAITING_MAX = 16
"""Requests to skip that may wait at a time."""

SKIPS_MAX = 100
"""Skips that a store takes: they are named in its position for ever."""


class Skipping:
    """See the module's docstring."""

    def __init__(self, questions: Questions, *, node_id: str, instance: str) -> None:
        self._questions = questions
        self._node_id = node_id
        self._instance = instance
        self._wanted: SkipRequested | None = None
        self._skip: WriteSkip | None = None
        self.written = False  # the skip is in the log; what is left is to see it there
        self._wanted_at = 0.0
        self._tail_confirmed = False  # ... since it is wanted
        self._waiting: list[int] = []

    def request(
        self,
        event: SkipRequested,
        cursor: Cursor,
        halted_at: int | None,
        replicas: tuple[Replica, ...],
        now: float,
    ) -> list[Effect]:
        """An operator wants an entry skipped (K1, K2)."""
        reason = ""
        holders = [
            mark.node_id
            for mark in replicas
            if mark.holding is Holding.WHOLE
            and mark.durable_index >= event.index
            and mark.node_id != self._node_id
        ]
        if halted_at is None:
            reason = "this node has not halted: it needs no skip"
        elif event.index != halted_at:
            reason = f"this node has halted at entry {halted_at}, not at {event.index}"
        elif _before(cursor)[0] != event.index - 1:
            reason = f"this node has not applied everything before entry {event.index}"
        elif holders:
            reason = (
                f"{', '.join(holders)} has applied entry {event.index}: it was good once; take over that store "
                "instead: stop this node, mv DATA_DIR/store DATA_DIR/store.before, start it again"
            )
        elif len(cursor.position.skipped) >= SKIPS_MAX:
            reason = f"{SKIPS_MAX} entries were skipped already: restore a backup instead"
        elif len(self._waiting) >= WAITING_MAX:
            reason = f"{WAITING_MAX} requests to skip are waiting already"
        if reason:
            return [Reply(event.token, Refused(reason))]
        self._waiting.append(event.token)
        if self._wanted is None:
            self._wanted = event
            self._wanted_at = now
            self._tail_confirmed = False
        return []

    def tail_confirmed(self, asked_at: float) -> None:
        """A quorum has told the tail: what is behind the bad entry can be read."""
        if asked_at >= self._wanted_at:
            self._tail_confirmed = True

    def disconnected(self) -> None:
        """The next connection may lead to a server that lags behind what the quorum has told."""
        self._tail_confirmed = False

    @property
    def needs_tail(self) -> bool:
        """A skip is wanted, and the tail has not been confirmed since (K3)."""
        return self._wanted is not None and not self._tail_confirmed

    def work(self) -> list[Effect]:
        """Look at the entry behind the bad one; then write the skip."""
        if self._wanted is None or self.written or self.needs_tail:
            return []
        if self._skip is not None:
            return self._questions.ask(self._skip)
        return self._questions.ask(ReadEntries(self._wanted.index + 1, 1))

    def read(self, event: EntriesRead, cursor: Cursor, wall_ms: int) -> None:
        """The entry behind the bad one has been read, or there is none."""
        wanted = self._wanted
        if wanted is None or event.first_index != wanted.index + 1:
            return
        _, prev_hash, revision, epoch = _before(cursor)
        # A leader that does not know of the bad entry yet chains its next one to what is before it.
        chained_to, first_revision = prev_hash, revision + 1
        if event.entries:
            try:
                after = decode_entry(event.first_index, event.entries[0]).entry
            except BadEntry:
                pass  # it is bad as well, and will need a skip of its own
            else:
                if after.first_revision >= first_revision:
                    chained_to, first_revision = after.prev_hash, after.first_revision
        entry = Entry(
            format=FORMAT,
            epoch=epoch,
            batch_id=f"{self._instance}-skip-{wanted.index}",
            prev_hash=prev_hash,
            first_revision=first_revision,
            time_ms=wall_ms,
            skip=Skip(wanted.reason, chained_to),
        )
        self._skip = WriteSkip(wanted.index, encode_entry(entry))

    def resumed(self, index: int, how: str) -> list[Effect]:
        """The bad entry is out of the way: this node goes on behind it."""
        waiting, self._waiting = self._waiting, []
        self._wanted = self._skip = None
        self.written = False
        text = f"goes on behind entry {index}, {how}"
        return [Note(text), *(Reply(token, Done(text)) for token in waiting)]


def _before(cursor: Cursor) -> tuple[int, str, int, int]:
    """Up to which index everything is applied; hash, revision and epoch there."""
    position = cursor.position
    if position.gaps:
        gap = position.gaps[0]
        return gap.first - 1, gap.prev_hash, gap.revision, gap.epoch
    return position.applied_index, position.hash, position.revision, position.epoch


def has_applied_what_was_skipped(position: Position, skips: tuple[int, ...]) -> int | None:
    """An entry that this store has applied although it was skipped for everybody (K4); None if there is none."""
    for index in skips:
        missed = any(gap.first <= index <= gap.last for gap in position.gaps)
        if index <= position.applied_index and index not in position.skipped and not missed:
            return index
    return None


def skipped_elsewhere(index: int) -> str:
    """Why a store that has applied a skipped entry must not go on, and what to do."""
    return (
        f"this store has applied log entry {index}, which was skipped on every other node: its data differs from "
        "theirs; nothing was touched; move its store away, so that it takes over theirs: "
        "mv DATA_DIR/store DATA_DIR/store.before, then start it again"
    )
