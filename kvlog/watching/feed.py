"""How each watcher gets every event once: from batches as things happen, and from the store what came before.

A live watcher is told by batches, which follow each other without a hole. One that begins in the past, or has
missed a batch, reads the store piece by piece, each when it has taken the one before, until nothing more is there.
Then it waits for the first batch in whose making its wish was looked at; if that follows what it has, it is live.

Invariants (tests cite the numbers):

V1  A watcher takes the events of exactly those revisions from its start on that hold a change which it wants,
    each with all of these changes, once, in the order of the revisions.
V2  All of these events up to ``Watcher.through`` wait or have been taken, and none of a later revision. So a batch
    or piece is added only if it begins at or below ``through``, and of its events only those above.
V3  No watcher is forgotten: one that is reading has a piece on its way, or events waiting, and the next piece is
    asked for when they are taken. One that is joining is looked at with every batch, and a batch is made after
    each addition, and after whatever is applied.
V4  ``delivered``, which clients are told, never decreases and is never above what has been taken.
V5  No more than EVENTS_MAX events and BYTES_MAX bytes wait, and a batch on top of them; a piece is asked for only
    when nothing waits. A watcher to whom that is not enough is ended (SlowReader), and what waits is dropped.
V6  A batch costs as much as there are watchers who want something of it, and as are joining.
"""

from __future__ import annotations

from collections.abc import Callable

from kvlog.errors import KvlogError, invariant
from kvlog.watching.frames import Frame
from kvlog.watching.source import Batch, Piece
from kvlog.watching.wanted import Interests, Wanted
from kvlog.watching.watcher import Stage, Watcher


class Feed:
    """All watchers of a node. For the event loop only.

    ``ask``: have a piece of a watcher's past read, after ``watcher.through``, and give it to ``piece`` or
    ``no_piece``.
    """

    def __init__(self, ask: Callable[[Watcher], None]) -> None:
        self.interests = Interests()
        self.through = 0  # of the last batch
        self._ask = ask
        self._watchers: dict[Watcher, int] = {}  # and the number of each one's wish
        self._joining: set[Watcher] = set()
        self._live: dict[Wanted, set[Watcher]] = {}

    def __len__(self) -> int:
        """How many watchers there are."""
        return len(self._watchers)

    def add(self, wanted: Wanted, first: Piece) -> Watcher:
        """A watcher begins, with what was read for it already. After this a batch has to be made (V3)."""
        watcher = Watcher(wanted, first.after, latest=lambda: self.through, drained=self._read_on)
        self._watchers[watcher] = self.interests.add(wanted)
        watcher.asked = True
        self.piece(watcher, first)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """A watcher is gone."""
        if self._watchers.pop(watcher, None) is not None:
            self.interests.remove(watcher.wanted)
            self._leave(watcher)
            watcher.enter(Stage.ENDED)

    def batch(self, batch: Batch) -> None:
        """What has happened since the last batch, unless this one begins anew."""
        if batch.after > self.through:  # what is in between, each reads by itself
            for watcher in [watcher for live in self._live.values() for watcher in live]:
                self._enter(watcher, Stage.READING)
        for wanted, frames in batch.frames.items():
            for watcher in tuple(self._live.get(wanted, ())):
                self._add(watcher, frames, batch.through)
        for watcher in tuple(self._joining):
            self._join(watcher, batch)
        self.through = batch.through

    def piece(self, watcher: Watcher, piece: Piece) -> None:
        """What a watcher has asked for."""
        watcher.asked = False
        if watcher.stage is not Stage.READING:
            return
        invariant(
            piece.after <= watcher.through, f"a piece after {piece.after} for a watcher at {watcher.through}"
        )
        self._add(watcher, piece.frames, piece.through)
        if piece.whole and piece.through >= self.through:
            self._enter(watcher, Stage.JOINING)
        else:
            self._read_on(watcher)

    def no_piece(self, watcher: Watcher, reason: KvlogError) -> None:
        """What a watcher has asked for is not there any more, or cannot be told."""
        watcher.asked = False
        self._end(watcher, reason)

    def interrupt(self, reason: KvlogError) -> None:
        """What happens cannot be told any longer, to nobody."""
        for watcher in self._watchers:
            self._end(watcher, reason)

    # --- one watcher --------------------------------------------------------------------------------------

    def _join(self, watcher: Watcher, batch: Batch) -> None:
        """A joining watcher goes live with a batch that has its wish in it, if it has all that came before."""
        looked_at = self._watchers[watcher] <= batch.as_of
        if batch.after > watcher.through or (batch.through > watcher.through and not looked_at):
            self._enter(watcher, Stage.READING)
        elif looked_at:
            self._add(watcher, batch.frames.get(watcher.wanted, []), batch.through)
            self._enter(watcher, Stage.LIVE)

    def _add(self, watcher: Watcher, frames: list[Frame], through: int) -> None:
        watcher.add(frames, through)
        if watcher.stage is Stage.ENDED:  # it did not keep up
            self._leave(watcher)

    def _end(self, watcher: Watcher, reason: KvlogError) -> None:
        self._leave(watcher)
        watcher.end(reason)

    def _enter(self, watcher: Watcher, stage: Stage) -> None:
        """Have it get its events from elsewhere from now on."""
        if watcher.stage is Stage.ENDED:
            return
        self._leave(watcher)
        watcher.enter(stage)
        if stage is Stage.JOINING:
            self._joining.add(watcher)
        elif stage is Stage.LIVE:
            self._live.setdefault(watcher.wanted, set()).add(watcher)
        self._read_on(watcher)

    def _leave(self, watcher: Watcher) -> None:
        self._joining.discard(watcher)
        live = self._live.get(watcher.wanted, set())
        live.discard(watcher)
        if not live:
            self._live.pop(watcher.wanted, None)

    def _read_on(self, watcher: Watcher) -> None:
        """Have the next piece read if it needs one, and has taken the one before (V3, V5)."""
        if watcher.stage is Stage.READING and watcher.empty and not watcher.asked:
            watcher.asked = True
            self._ask(watcher)
