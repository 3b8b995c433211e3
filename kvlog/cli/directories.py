"""Data directories of nodes that do not run: their lock, and moving stores so that a crash loses none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvlog.store.directories import claim, sync_directory


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold a data directory as a running node does: none can start in it meanwhile. The directory is there then.

    Raises:
        InUse: a node runs in it, or another command works on it, or it cannot be used at all.
    """
    in_use = (
        f"a node runs in the data directory {data_dir}; nothing was changed; stop that node, then run this "
        "command again"
    )
    lock = claim(data_dir, in_use=in_use)
    try:
        yield
    finally:
        os.close(lock)


def move(source: Path, target: Path) -> None:
    """Rename within one directory, so that it survives a power cut."""
    source.rename(target)
    sync_directory(target.parent)
