"""A thread that ends by an exception nobody expects ends the process: half a node helps nobody."""

from __future__ import annotations

import errno
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from kvlog.errors import InvariantViolation, KvlogError, Stuck

P = ParamSpec("P")
T = TypeVar("T")

Fail = Callable[[int, str], None]
"""Ends the process with an exit code and a last line; callable from any thread. It does not return."""


def end_by(error: BaseException, fail: Fail) -> None:
    """End the process by an exception that nobody has handled; a bug is reported in full."""
    if isinstance(error, KvlogError) and not isinstance(error, InvariantViolation):
        fail(error.exit_code, str(error))
        return
    traceback.print_exception(error, file=sys.stderr)
    shortage = _shortage(error)
    if isinstance(error, InvariantViolation):
        fail(error.exit_code, str(error))
    elif shortage:
        fail(
            Stuck.exit_code,
            f"{shortage}: {error!r}; nothing is wrong with the store: raise the limit, or make room on this "
            "machine, and start this node again",
        )
    else:
        fail(InvariantViolation.exit_code, f"a bug in kvlog: {error!r}")


def _shortage(error: BaseException) -> str:
    """What the process has run out of, if that is why it ends."""
    if isinstance(error, MemoryError):
        return "there is no memory left for this process (ulimit -v)"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "there are no descriptors left for this process (ulimit -n)"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "there are no threads left for this process, or no memory for one (ulimit -u, ulimit -v)"
    return ""


class Guard:
    """Watches over all threads of the process, whoever has started them."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._on = True

    def install(self) -> None:
        """From now on every thread that ends by an exception ends the process."""
        threading.excepthook = self._thread_ended

    def off(self) -> None:
        """The process is ending anyway, in good order: what breaks now is reported and no more."""
        self._on = False

    def _thread_ended(self, ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is not None and ended.exc_type is not SystemExit:
            self.ended_by(ended.exc_value)

    def ended_by(self, error: BaseException) -> None:
        """A thread, or a task of a pool, has ended by ``error``."""
        if self._on:
            end_by(error, self._fail)
        else:
            traceback.print_exception(error, file=sys.stderr)


class GuardedThreads(ThreadPoolExecutor):
    """A pool for tasks whose results nobody asks for: the exception of one ends the process.

    A plain pool would keep it in the task's future, which nobody looks at.
    """

    def __init__(self, max_workers: int, guard: Guard, *, thread_name_prefix: str) -> None:
        super().__init__(max_workers, thread_name_prefix=thread_name_prefix)
        self._guard = guard

    def submit(self, task: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See ThreadPoolExecutor."""
        future = super().submit(task, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._guard.ended_by(error)
