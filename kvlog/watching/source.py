"""What watchers are told, as it comes from the store: for all of them what is new, for one of them its past.

What is here reads the store and encodes what it finds, so it is not for the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvlog.errors import GapsInHistory, HistoryTrimmed
from kvlog.ports import Kept, Store
from kvlog.watching.frames import Frame, Happened
from kvlog.watching.wanted import Interests, Wanted

BATCH_REVISIONS = 256
BATCH_BYTES = 256 * 1024
"""How much of what is new is handed out at a time, in revisions and in about so many bytes of keys and values: a
fraction of what a watcher may have waiting, so that one which takes its events is not cut off for a burst."""

PIECE_REVISIONS = 512
PIECE_BYTES = 64 * 1024
"""How much of the past is read for a watcher at a time. Each that is behind holds one piece at most: 192 MiB in
all if as many as may be are behind and do not take theirs."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What has happened after one revision and up to another one, for all that wanted something of it.

    ``as_of``: whose wishes were looked at (see wanted.Interests).
    """

    after: int
    through: int
    frames: dict[Wanted, list[Frame]]
    as_of: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What has happened after one revision and up to another one, for one watcher.

    ``whole``: nothing more had happened when it was read.
    """

    after: int
    through: int
    frames: list[Frame]
    whole: bool


class Lookout:
    """Finds what is new, once for all watchers. For one thread."""

    def __init__(self, store: Store, interests: Interests) -> None:
        self._store = store
        self._interests = interests
        self._after: int | None = None  # what was handed out; None if nobody was watching, or it could not be told

    def look(self) -> tuple[Batch | GapsInHistory | None, bool]:
        """What is new, why it cannot be told, or None if nobody watches; and whether there is more to look at.

        Raises:
            StoreFailure: the store cannot be read.
        """
        matcher = self._interests.matcher()
        if matcher.empty:
            self._after = None
            return None, False
        after = self._after if self._after is not None else self._store.position().revision
        self._after = None
        try:
            kept = self._store.kept(after, limit=BATCH_REVISIONS, bytes_max=BATCH_BYTES)
        except HistoryTrimmed:  # a copy of another store has taken this one's place: the next batch begins there
            return None, True
        except GapsInHistory as reason:
            return reason, False
        self._after = kept.through
        frames: dict[Wanted, list[Frame]] = {}
        for revision, changes in kept.changes:
            happened = Happened(revision, changes)
            for wanted, places in matcher.places(changes).items():
                frames.setdefault(wanted, []).append(happened.frame(places))
        return Batch(after, kept.through, frames, matcher.as_of), not _whole(kept)


def read_piece(store: Store, after: int | None, wanted: Wanted) -> Piece:
    """What a watcher wants to know of the revisions after one; if that is None, after where the store stands.

    Raises:
        HistoryTrimmed, GapsInHistory, StoreFailure: see ports.Store.
    """
    if after is None:
        after = store.position().revision
    kept = store.kept(after, limit=PIECE_REVISIONS, bytes_max=PIECE_BYTES)
    frames = [
        Happened(revision, changes).frame(places)
        for revision, changes in kept.changes
        if (places := wanted.places(changes))
    ]
    return Piece(after, kept.through, frames, _whole(kept))


def _whole(kept: Kept) -> bool:
    return kept.through >= kept.position.revision
