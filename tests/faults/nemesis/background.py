"""What a fault goes on doing until it is healed."""

from __future__ import annotations

import threading
from collections.abc import Callable

JOIN_S = 60.0


class Background:
    """Something that is done on a thread of its own until it is told to stop.

    ``work`` gets an event, and ends soon once that is set.
    """

    def __init__(self, work: Callable[[threading.Event], None]) -> None:
        self._work = work
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nemesis", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for its end.

        Raises:
            TimeoutError: it does not end.
            BaseException: what ended it before.
        """
        self._stopping.set()
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            raise TimeoutError(f"a fault does not end within {JOIN_S:g} s")
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            self._work(self._stopping)
        except BaseException as error:  # noqa: BLE001 - it is raised by stop
            self._error = error
