"""Processes with all that they have started."""

from __future__ import annotations

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
