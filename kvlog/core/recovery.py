"""What a node does about the entries it missed: replay them, or keep its store as it is and say so."""

from __future__ import annotations

from kvlog.core.cursor import Cursor
from kvlog.core.effects import Effect, Note, Reply
from kvlog.core.machine import Identity, Position
from kvlog.core.values import Done, Refused

WAITING_MAX = 16
"""Requests to heal that may wait at a time."""

MOVE_AWAY = "start this node empty: mv DATA_DIR/store DATA_DIR/store.before"
"""The last way out, in every refusal: the store is kept, but not used."""

NEW_LOG = (
    "begin a new log from the best store that is left, below a new root: python -m kvlog recover --zk HOSTS "
    "--root NEW_ROOT --data-dir DATA_DIR [--data-dir DIR...] --start-a-new-log"
)
"""The way out that loses nothing that a store still has."""


class Recovery:
    """The way from what the store held at the start to the tail that the log had then.

    ``catchup`` replays everything up to there, gaps of an earlier stale life included. ``stale`` declares it
    missed and goes on behind it; ``heal`` fills it in later.
    """

    def __init__(self, mode: str, start: Position) -> None:
        self.mode = mode
        self._start = start
        self.began_empty = start.applied_index < 0
        self.decided = False
        self.finished = False
        self.healed = False  # a gap has just been filled on request
        self._target = -1
        self._started_at: float | None = None
        self._installed: Position | None = None
        self._replayed = 0
        self._seconds = 0.0
        self._heal_started_at: float | None = None
        self._to_fill = 0
        self._filled: tuple[int, float] | None = None
        self._waiting: list[int] = []

    def begin(self, now: float) -> None:
        """ZooKeeper is connected for the first time: from now on entries come in, by whichever way."""
        if self._started_at is None:
            self._started_at = now

    def decide(self, tail_index: int) -> None:
        """The log's confirmed tail at the start is known: that is how far this recovery goes."""
        if not self.decided:
            self.decided = True
            self._target = tail_index

    def installed(self, position: Position) -> None:
        """A snapshot has taken the store's place: only what came later is left to replay."""
        self._start = position
        self.began_empty = False
        self._installed = position
        self._to_fill = 0

    def skip_to(self, cursor: Cursor) -> int | None:
        """Up to which index everything is to be declared missed; None if nothing is."""
        if self.mode != "stale" or not self.decided:
            return None
        if not self.finished:
            return self._target if cursor.next_index <= self._target else None
        # A stale store stays stale until it is to be healed, also when it falls behind the log's beginning.
        stays = bool(cursor.position.gaps) and self._heal_started_at is None
        return cursor.first_index - 1 if stays and cursor.trimmed else None

    def heal(self, token: int, now: float) -> list[Effect]:
        """An operator wants the gaps filled."""
        if len(self._waiting) >= WAITING_MAX:
            return [Reply(token, Refused("others are waiting for the same already"))]
        self._waiting.append(token)
        if self._heal_started_at is None:
            self._heal_started_at = now
            self._installed = None
            self._to_fill = 0
        return []

    def progress(self, cursor: Cursor, now: float) -> list[Effect]:
        """See how far it has come; says so when it is done."""
        effects: list[Effect] = []
        position = cursor.position
        if self.decided and not self.finished:
            if self.mode == "catchup":
                cursor.healing = bool(position.gaps)
            caught_up = position.applied_index >= self._target
            if caught_up and (self.mode == "stale" or not position.gaps):
                effects.append(self._finish(position.missed_entries, now))
        if self.finished and self._heal_started_at is not None:
            self._to_fill = max(self._to_fill, position.missed_entries)
            cursor.healing = bool(position.gaps)
            if not position.gaps:
                effects += self._finish_healing(now)
        return effects

    def _finish(self, missed: int, now: float) -> Note:
        self.finished = True
        self._seconds = now - (self._started_at or now)
        if self.mode == "stale":
            return Note(
                f"kept the store as it was: it has missed {missed} entries, and its answers say so"
                if missed
                else "kept the store as it was: it has missed nothing"
            )
        behind = max(0, self._target - self._start.applied_index)
        self._replayed = behind + self._start.missed_entries
        how = f"replaying {self._replayed} entries"
        if self._installed is not None:
            how = f"a snapshot at index {self._installed.applied_index} and {how}"
        return Note(f"caught up by {how} in {self._seconds:.3f} s")

    def _finish_healing(self, now: float) -> list[Effect]:
        seconds = now - (self._heal_started_at or now)
        self._heal_started_at = None
        waiting, self._waiting = self._waiting, []
        if self._installed is not None and not self._to_fill:
            self.healed = True
            text = f"took over another node's store in {seconds:.3f} s"
        elif self._to_fill:
            self._filled = (self._to_fill, seconds)
            self.healed = True
            text = f"filled in {self._to_fill} missed entries in {seconds:.3f} s"
        else:
            text = "nothing is missing"
        return [Note(text), *(Reply(token, Done(text)) for token in waiting)]

    def report(self) -> dict[str, object]:
        """For the status: how it went, or how it is going."""
        report: dict[str, object] = {"mode": self.mode, "finished": self.finished}
        if self.finished and self.mode == "catchup":
            report |= {"replayed_entries": self._replayed, "seconds": round(self._seconds, 6)}
        if self._filled is not None:
            report |= {"filled_entries": self._filled[0], "filled_seconds": round(self._filled[1], 6)}
        return report


def wrong_log(mine: Identity, found: Identity) -> str:
    """Why this store must not follow that log, and what to do."""
    what = f"cluster {found.cluster_id}" if mine.cluster_id != found.cluster_id else "a log that was made anew"
    return (
        f"this store belongs to cluster {mine.cluster_id} (log {mine.log_czxid:#x}), but ZooKeeper holds {what} "
        f"(log {found.log_czxid:#x}): wrong --zk or --root, or ZooKeeper's data was lost and a new log was begun; "
        f"nothing was touched; correct the setting; or, if data was lost, stop all nodes and {NEW_LOG}; or, to "
        f"follow the log that is there, {MOVE_AWAY}"
    )


def short_log(tail_index: int, applied_index: int) -> str:
    """Why a log that ends before the store must not be followed, and what to do."""
    return (
        f"ZooKeeper's log ends at entry {tail_index}, but this store has applied entry {applied_index}: "
        "ZooKeeper has lost data, or was restored from an older copy; nothing was touched; restore ZooKeeper's "
        f"newest data; or stop all nodes and {NEW_LOG}; or, to follow the log as it is, {MOVE_AWAY}"
    )
