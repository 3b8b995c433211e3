"""Sees that the runtime's threads go on: ends the process if the deciding one stands still, tells of a slow store.

Time is counted in the watchdog's own wake-ups, not read from a clock: while the process is stopped (SIGSTOP) or
the machine sleeps, nobody gets on, the watchdog included, and that is no reason to end.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType

from kvlog.errors import Stuck
from kvlog.guard import Fail

WATCHDOG_S = 10.0
"""How long a thread may stand still. Far more than a step takes (milliseconds), and than a loaded machine delays
it."""

CHECKS = 10
"""In how many looks that time is measured: so many in a row must find the same."""

REPORT_S = 2.0
"""How long writing the report may take: it may be stderr that everything waits for."""


class Watchdog:
    """See the module's docstring.

    ``turns`` counts the deciding thread's turns; ``transaction`` is the number of the store's transaction that is
    under way, None if there is none. Both are only looked at.
    """

    def __init__(
        self,
        *,
        turns: Callable[[], int],
        transaction: Callable[[], int | None],
        stuck_s: float,
        say: Callable[[str], None],
        fail: Fail,
    ) -> None:
        self._turns = turns
        self._transaction = transaction
        self._every_s = stuck_s / CHECKS
        self._say = say
        self._fail = fail
        self._stopped = threading.Event()
        self._deciding: tuple[int, int] = (-1, 0)  # what was seen, and how often in a row since
        self._storing: tuple[int | None, int] = (None, 0)

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def run(self, deciding: threading.Thread) -> None:
        """Look until told to stop, or until the thread ``deciding`` stands still."""
        while not self._stopped.wait(self._every_s):
            self._look_at_store()
            turns, checks = self._turns(), self._deciding[1] + 1
            self._deciding = (turns, checks if turns == self._deciding[0] else 0)
            if self._deciding[1] >= CHECKS:
                self._report(deciding)
                self._fail(
                    Stuck.exit_code,
                    f"the deciding thread has stood still for {checks * self._every_s:g} s, see above where: a "
                    "part of the process has stopped working; start it again",
                )
                return

    @property
    def store_trouble(self) -> str:
        """What is wrong with the store's thread now; empty if it gets on."""
        transaction, checks = self._storing
        if transaction is None or checks < CHECKS:
            return ""
        for_s = checks * self._every_s
        return f"the store has been at work on one transaction for {for_s:g} s: the disk is slow or stuck"

    def _look_at_store(self) -> None:
        seen, checks = self._storing
        transaction = self._transaction()
        if transaction == seen:
            self._storing = (seen, checks + 1)
            if seen is not None and checks + 1 == CHECKS:
                self._say(self.store_trouble)
            return
        if self.store_trouble:
            self._say(
                f"the store goes on: that transaction has taken {checks * self._every_s:g} s or a little more"
            )
        self._storing = (transaction, 0)

    def _report(self, deciding: threading.Thread) -> None:
        """Write down where every thread is, the deciding one first."""
        report = describe_threads(deciding)
        writing = threading.Thread(target=_write, args=(report,), name="kvlog-report", daemon=True)
        writing.start()
        writing.join(REPORT_S)


def describe_threads(first: threading.Thread) -> str:
    """Where all threads are that run Python, innermost call last; those at the same place together.

    The lines of the source are not shown: to get them, the disk would have to answer.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    together: dict[str, list[str]] = {}
    frames = sys._current_frames()  # noqa: SLF001 - the documented way to see other threads, whatever its name
    for ident in sorted(frames, key=lambda ident: ident != first.ident):
        together.setdefault(_stack(frames[ident]), []).append(names.get(ident) or f"thread {ident}")
    return "".join(f"{', '.join(found)}:\n{stack}" for stack, found in together.items())


def _stack(frame: FrameType | None) -> str:
    lines: list[str] = []
    while frame is not None:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}\n')
        frame = frame.f_back
    return "".join(reversed(lines))


def _write(report: str) -> None:
    sys.stderr.write(report)
    sys.stderr.flush()
