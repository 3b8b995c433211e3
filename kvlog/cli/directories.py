"""Data directories of nodes that do not run: their lock, and moving stores so that a crash loses none."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvlog.errors import InUse
from kvlog.store_dirs import sync_directory


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold a data directory as a running node does: none can start in it meanwhile. The directory is there then.

    Raises:
        InUse: a node runs in it, or another command works on it, or it cannot be used at all.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InUse(f"cannot use the data directory {data_dir}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(
                f"a node runs in the data directory {data_dir}; nothing was changed; stop that node, then run "
                "this "
                "command again"
            ) from error
        yield
    finally:
        os.close(lock)


def move(source: Path, target: Path) -> None:
    """Rename within one directory, so that it survives a power cut."""
    source.rename(target)
    sync_directory(target.parent)
