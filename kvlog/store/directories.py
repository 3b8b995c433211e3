"""A node's data directory: who has it, and which part of it is the store, whatever was under way when it ended.

<data-dir>/lock             held by whoever uses the directory
<data-dir>/store            the store; with a file ``distrusted`` in it if it must not be opened again
<data-dir>/store.incoming   a copy of another node's store, while it is fetched and checked
<data-dir>/store.old        what the copy replaces, until the copy is in its place
<data-dir>/store.damaged    a store that was put aside because it was damaged
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvlog.errors import InUse, StoreFailure

STORE = "store"
INCOMING = "store.incoming"
OLD = "store.old"
DAMAGED = "store.damaged"

DATA_FILE = "data.mdb"
DISTRUSTED = "distrusted"

FULL_BYTES = 16 * 1024**2
"""With less than this left on its file system, a failure of the store is put down to the full disk."""


def claim(data_dir: Path, *, in_use: str) -> int:
    """Claim a data directory for this process, and for those that inherit what is returned: the lock's descriptor.

    The directory is there then. The lock is free once every copy of the descriptor is closed.

    Raises:
        InUse: somebody has it (``in_use`` says so, and what to do), or it cannot be used at all.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InUse(f"cannot use the data directory {data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise InUse(in_use) from error
    return lock


def settle_files(data_dir: Path) -> None:
    """Put right what a crash in the middle of ``swap_in`` has left; called before the store is opened.

    Afterwards there is the store, the one before or the one after, and nothing beside it that is not finished.

    Raises:
        StoreFailure: the disk fails.
    """
    store, old = data_dir / STORE, data_dir / OLD
    with disk_guarded(data_dir):
        if old.exists() and not store.exists():
            old.rename(store)
        remove(old)
        remove(data_dir / INCOMING)
        sync_directory(data_dir)


def swap_in(directory: Path, incoming: Path) -> None:
    """Put a complete copy, already on the disk, in the store's place.

    Between the two renames there is no store: ``settle_files`` goes back then. Whoever has the files of either
    directory open goes on reading them, whatever the directory is called.
    """
    old = directory.with_name(OLD)
    remove(old)
    directory.rename(old)
    incoming.rename(directory)
    sync_directory(directory.parent)


def put_aside(data_dir: Path) -> Path:
    """Rename a damaged store, in place of one that was put aside before; returns where it is kept."""
    kept = data_dir / DAMAGED
    with disk_guarded(data_dir):
        remove(kept)
        (data_dir / STORE).rename(kept)
        sync_directory(data_dir)
    return kept


def distrust(store: Path, reason: str) -> None:
    """Note for good that a store must not be opened again, and why."""
    with disk_guarded(store), (store / DISTRUSTED).open("w") as file:
        file.write(reason)
        file.flush()
        os.fsync(file.fileno())
        sync_directory(store)


def why_distrusted(store: Path) -> str:
    """Why a store must not be opened again; empty if it may."""
    with disk_guarded(store):
        noted = store / DISTRUSTED
        return noted.read_text() or "it is not to be trusted" if noted.exists() else ""


def remove(path: Path) -> None:
    """Delete a directory or file, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_guarded(directory: Path) -> Iterator[None]:
    """Turn a failure of the disk into StoreFailure."""
    try:
        yield
    except OSError as error:
        raise StoreFailure(f"the store in {directory} failed: {error}{full_disk(directory)}") from error


def full_disk(directory: Path) -> str:
    """What to add when the disk is full: LMDB reports that as an input/output error like any other."""
    try:
        free_bytes = shutil.disk_usage(directory).free
    except OSError:
        return ""  # what has failed is reported already; this would only have explained it
    if free_bytes >= FULL_BYTES:
        return ""
    return f"; the disk is full ({free_bytes} bytes are free): make room on it, then start the node again"
