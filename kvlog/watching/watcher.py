"""One watcher: where it stands, and what waits to be taken."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum

from kvlog.errors import KvlogError, SlowReader, WatchEnded
from kvlog.watching.frames import Frame
from kvlog.watching.wanted import Wanted

EVENTS_MAX = 1_024
BYTES_MAX = 1024 * 1024
"""What may wait for one watcher, and a batch on top of it (V5). A client that reads is a few events behind at
most; who is behind by this much, and by what the connection holds, does not follow what happens."""


class Stage(StrEnum):
    """Where a watcher gets its events from."""

    READING = "reading"  # from the store, in pieces
    JOINING = "joining"  # it has all that was there, and waits for the first batch that has its wish in it
    LIVE = "live"  # from each batch
    ENDED = "ended"


class Watcher:
    """See the module's docstring. For the event loop only; ``feed`` has the invariants.

    ``latest``: how far the feed has come. ``drained`` is called when everything that waited has been taken.
    """

    def __init__(
        self, wanted: Wanted, through: int, *, latest: Callable[[], int], drained: Callable[[Watcher], None]
    ) -> None:
        self.wanted = wanted
        self.stage = Stage.READING
        self.asked = False  # a piece of its past is being read
        self._own = through  # of what it has got by itself; a live one has all that the feed has, too
        self._latest = latest
        self._drained = drained
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._error: WatchEnded | None = None
        self._ready = asyncio.Event()

    # --- for who takes the events -------------------------------------------------------------------------

    @property
    def delivered(self) -> int:
        """Everything that it wants up to this revision has been taken (V4)."""
        return self._frames[0].revision - 1 if self._frames else self.through

    @property
    def in_step(self) -> bool:
        """Whether it had all that the store held when that was last looked at."""
        return self.stage in {Stage.JOINING, Stage.LIVE}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to take, nor the end to be told."""
        return not self._frames and self._error is None

    async def ready(self, timeout_s: float) -> None:
        """Wait until it is not idle, or has caught up with the store, or the time is over."""
        if not self.idle:
            return
        self._ready.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()

    def take(self, bytes_max: int) -> list[Frame]:
        """The next events, of ``bytes_max`` bytes together or one that is longer; none if none waits.

        Raises:
            WatchEnded: it cannot go on; what came before has been taken.
        """
        if not self._frames and self._error is not None:
            raise self._error
        taken: list[Frame] = []
        while self._frames and (not taken or len(self._frames[0].text) <= bytes_max):
            frame = self._frames.popleft()
            size = len(frame.text)
            self._bytes -= size
            bytes_max -= size
            taken.append(frame)
        if taken and not self._frames:
            self._drained(self)
        return taken

    # --- for the feed -------------------------------------------------------------------------------------

    @property
    def through(self) -> int:
        """Everything that it wants up to this revision waits, or has been taken (V2)."""
        return max(self._own, self._latest()) if self.stage is Stage.LIVE else self._own

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._frames

    def add(self, frames: Iterable[Frame], through: int) -> None:
        """All that it wants of the revisions up to ``through``, from one on that it has got already."""
        reached = self.through
        new = [frame for frame in frames if frame.revision > reached]
        size = sum(len(frame.text) for frame in new)
        if self._frames and (len(self._frames) + len(new) > EVENTS_MAX or self._bytes + size > BYTES_MAX):
            self._cut()
            return
        self._frames.extend(new)
        self._bytes += size
        if self.stage is not Stage.LIVE:
            self._own = max(self._own, through)
        if new:
            self._ready.set()

    def enter(self, stage: Stage) -> None:
        """Get its events from elsewhere from now on."""
        self._own = self.through
        self.stage = stage
        if stage is Stage.JOINING:
            self._ready.set()

    def end(self, reason: KvlogError) -> None:
        """It cannot go on; what waits may still be taken before it is told so."""
        if self.stage is not Stage.ENDED:
            self.enter(Stage.ENDED)
            self._error = WatchEnded(reason, self._own + 1)
            self._ready.set()

    def _cut(self) -> None:
        """It does not keep up: nothing waits for it any longer."""
        self._own = delivered = self.delivered
        self.stage = Stage.ENDED
        self._frames.clear()
        self._bytes = 0
        reason = (
            f"more than {EVENTS_MAX} events or {BYTES_MAX} bytes were waiting for this client to read them; go on "
            "at the revision in `resume`, and work on events while the next ones come, or watch fewer keys"
        )
        self._error = WatchEnded(SlowReader(reason), delivered + 1)
        self._ready.set()
