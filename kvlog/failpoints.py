"""Named places at which a running node can be made to fail, to see what the cluster makes of it.

They are always compiled in and off until they are armed; then ``hit`` at a place does what it was told:

    NAME:ACTION[@N][,NAME:ACTION[@N]...]        after_append:kill@3,before_apply:sleep:500

``kill`` is kill -9 of the whole node, ``sleep:MS`` waits on the thread that came by, ``raise`` raises
FailpointHit, which takes the way of an exception that nobody expects there. With ``@N`` that happens at the N-th
hit only, else at each. Arming replaces what was armed before and counts from the beginning.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from kvlog.errors import FailpointHit, InvariantViolation, SettingsError

PLACES = {
    "before_append": "the leader is about to send an entry to ZooKeeper",
    "after_append": "ZooKeeper has confirmed the entry, the leader has not acted on it",
    "before_apply": "the store is about to apply entries",
    "after_apply": "the store has applied entries, the node does not know it yet",
    "mid_push": "a replica has answered a push; the leader does not know it yet, nor the client",
    "mid_snapshot": "between two parts of a snapshot that this node serves",
    "mid_install": "a snapshot has been fetched and is about to take the store's place",
    "before_trim": "the leader is about to drop a segment of the log",
    "after_handover": "the leadership is handed over, the supervisor does not know it yet",
}
"""Where a node can fail: the name, and what has happened there and what has not."""

SLEEP_MS_MAX = 60_000
HIT_MAX = 1_000_000_000

_ARMED = re.compile(
    r"(?P<name>[^:@,]*):(?P<action>kill|raise|sleep:(?P<ms>[0-9]{1,9}))(@(?P<at>[0-9]{1,10}))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Armed:
    """What is to happen at a place; ``at`` is the hit at which it does, None for each. ``sleep_ms`` of a sleep."""

    name: str
    action: str
    sleep_ms: int = 0
    at: int | None = None

    def __str__(self) -> str:
        action = f"sleep:{self.sleep_ms}" if self.action == "sleep" else self.action
        return action if self.at is None else f"{action}@{self.at}"


def parse(spec: str) -> dict[str, Armed]:
    """What a spec arms, by place; nothing if it is empty.

    Raises:
        SettingsError: it is malformed; says which part, and what there is.
    """
    found: dict[str, Armed] = {}
    for part in spec.split(",") if spec else ():
        match = _ARMED.fullmatch(part)
        name = match["name"] if match else part.partition(":")[0]
        if name not in PLACES:
            raise SettingsError(
                f"failpoint {part[:80]!r}: there is no {name[:40]!r}; there are {', '.join(PLACES)}"
            )
        if match is None:
            raise SettingsError(
                f"failpoint {part[:80]!r}: the action must be kill, raise or sleep:MS, with @N behind it to "
                f"act at the N-th hit only, for example {name}:kill@3"
            )
        sleep_ms = int(match["ms"] or 0)
        if match["ms"] and not 1 <= sleep_ms <= SLEEP_MS_MAX:
            raise SettingsError(f"failpoint {part!r}: sleep takes from 1 to {SLEEP_MS_MAX} milliseconds")
        at = int(match["at"]) if match["at"] else None
        if at is not None and not 1 <= at <= HIT_MAX:
            raise SettingsError(f"failpoint {part!r}: @N must be from 1 to {HIT_MAX}")
        if name in found:
            raise SettingsError(f"failpoint {part!r}: {name} is given twice")
        found[name] = Armed(name, match["action"].partition(":")[0], sleep_ms, at)
    return found


class Failpoints:
    """What is armed in this process, and how often each place was passed since. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: dict[str, Armed] = {}
        self._hits = dict.fromkeys(PLACES, 0)
        self._supervisor: int | None = None
        self._say: Callable[[str], None] = lambda _: None

    def belong_to(self, supervisor: int, say: Callable[[str], None]) -> None:
        """``kill`` takes the process ``supervisor`` along; ``say`` is told of what happens here."""
        self._supervisor, self._say = supervisor, say

    def arm(self, spec: str) -> None:
        """Arm what the spec says and nothing else; "" disarms all. A spec that is refused changes nothing.

        Raises:
            SettingsError: see parse.
        """
        armed = parse(spec)
        with self._lock:
            self._hits = dict.fromkeys(PLACES, 0)
            self._armed = armed  # replaced as a whole: hit looks at it without the lock
        self._say(f"failpoints armed: {spec}" if spec else "failpoints disarmed")

    def report(self) -> list[dict[str, object]]:
        """Every place: its name, where it is, what is armed there (None: nothing), and its hits since arming.

        Hits are counted while anything is armed.
        """
        with self._lock:
            armed, hits = self._armed, dict(self._hits)
        return [
            {
                "name": name,
                "where": where,
                "armed": str(armed[name]) if name in armed else None,
                "hits": hits[name],
            }
            for name, where in PLACES.items()
        ]

    def hit(self, name: str) -> None:
        """A thread passes the place ``name``.

        Raises:
            FailpointHit: it was told to.
        """
        if self._armed:
            self._act(name)

    def _act(self, name: str) -> None:
        with self._lock:
            if name not in self._hits:
                raise InvariantViolation(f"there is no failpoint {name!r}")
            self._hits[name] += 1
            count, armed = self._hits[name], self._armed.get(name)
        if armed is None or armed.at not in (None, count):
            return
        if armed.action == "kill":
            self._kill()
        self._say(f"failpoint {name}: {armed} (hit {count})")
        if armed.action == "raise":
            raise FailpointHit(f"failpoint {name}: an exception was asked for (hit {count})")
        time.sleep(armed.sleep_ms / 1000)

    def _kill(self) -> NoReturn:
        """Without a word: it might block, and nothing is to happen in between."""
        if self._supervisor is not None:
            with suppress(ProcessLookupError):  # it has just ended: this process ends with it
                os.kill(self._supervisor, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        os.abort()  # not reached: the kernel has ended every thread before the call returns


FAILPOINTS = Failpoints()
"""Those of this process."""

hit = FAILPOINTS.hit
