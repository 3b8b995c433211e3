"""Processes with all that they have started."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def with_descendants(pid: int) -> tuple[int, ...]:
    """A process and its children, their children and so on; those that have ended meanwhile are left out."""
    found = [pid]
    for parent in found:  # grows while it is gone through
        for task in Path("/proc").glob(f"{parent}/task/*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread has ended
    return tuple(found)


def worked(pids: Iterable[int]) -> float:
    """Seconds that processors have worked for these processes, in units of a clock tick (10 ms)."""
    ticks = 0
    for pid in pids:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])  # utime, stime: the 14th and 15th field, see proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")
