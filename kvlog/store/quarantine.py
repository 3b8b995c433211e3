"""A look at a store by a process that may die of it.

LMDB maps the file and trusts it: one that is damaged can end the process that reads it (SIGSEGV, SIGBUS, a failed
assertion). So a store is checked by a program of its own before a node opens it, this one:
``python -m kvlog.store.quarantine DIRECTORY``. It reads, and writes nothing but what it has found, in lines of
JSON.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from kvlog.core.machine import Position
from kvlog.errors import StoreDamaged, StoreFailure
from kvlog.store.directories import DATA_FILE, STORE, disk_guarded, put_aside, settle_files
from kvlog.store.lmdb_verify import Found, Progress, verify

PATIENCE_S = 2.0
"""After how long, and how often from then on, people are told how far the check has come."""

LOOK_S = 0.5

DEADLINE_S = 60.0
LEAST_BYTES_PER_S = 1024 * 1024
"""A check may take DEADLINE_S, and a second for each of these many bytes: a tenth of the usual pace."""

BY_DAMAGE = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
"""By what a process dies that has read a damaged file; any other signal was sent by somebody."""

Say = Callable[[str], None]


class _Checked(msgspec.Struct, tag="checked"):
    done: int
    total: int


class _Whole(msgspec.Struct, tag="whole"):
    position: Position
    keys: int
    requests: int
    kept: int


class _Damaged(msgspec.Struct, tag="damaged"):
    reason: str


class _Failed(msgspec.Struct, tag="failed"):
    reason: str


_Line = _Checked | _Whole | _Damaged | _Failed
_lines = msgspec.json.Decoder(_Line)


def check_store(data_dir: Path, say: Say) -> str:
    """Make sure that what is in ``data-dir/store`` can be opened; a damaged store is put aside.

    The data directory must be locked. Returns what was wrong with the store, now in ``store.damaged``; empty if
    it is whole, or if there is none yet. ``say`` is told how far a long check has come.

    Raises:
        StoreFailure: the disk fails, or the store has another format: nothing was put aside.
    """
    settle_files(data_dir)
    store = data_dir / STORE
    with disk_guarded(store):
        if not (store / DATA_FILE).exists():
            return ""
    begun = told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= PATIENCE_S:
            told = now
            percent = 100 * done // max(1, total)
            say(f"checking the store in {store}: {percent} % of what it holds, {now - begun:.0f} s")

    try:
        inspect(store, progress=progress)
    except StoreDamaged as damage:
        put_aside(data_dir)
        return damage.reason
    return ""


def inspect(directory: Path, *, progress: Progress = lambda _done, _total: None) -> Found:
    """``lmdb_verify.verify`` in a process of its own. Takes part in nothing: nobody may write to the store.

    ``progress`` is called at least every LOOK_S seconds.

    Raises:
        StoreDamaged: it is not what was written, or reading it has killed the process.
        StoreFailure: it could not be checked.
    """
    with disk_guarded(directory):
        size = (directory / DATA_FILE).stat().st_size
        deadline = time.monotonic() + DEADLINE_S + size / LEAST_BYTES_PER_S
        process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-m", "kvlog.store.quarantine", str(directory.absolute())],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
    checked = _Checked(0, 0)
    result: _Line = checked
    try:
        for line in _said(process, directory, deadline):
            if line is not None:
                result = line
            if isinstance(result, _Checked):
                checked = result
            progress(checked.done, checked.total)
    finally:
        process.kill()
        if process.stdout is not None:
            process.stdout.close()
        code = process.wait()
    match result:
        case _Whole():
            return Found(result.position, result.keys, result.requests, result.kept)
        case _Damaged():
            raise StoreDamaged(directory, result.reason)
        case _Failed():
            raise StoreFailure(result.reason)
    if -code in BY_DAMAGE:
        raise StoreDamaged(directory, f"reading it ends in {signal.Signals(-code).name}")
    raise StoreFailure(f"the store in {directory} could not be checked: the check ended with code {code}")


def _said(process: subprocess.Popen[bytes], directory: Path, deadline: float) -> Iterator[_Line | None]:
    """What the program says, line by line until it ends; None whenever LOOK_S have passed without a word."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(LOOK_S):
                if time.monotonic() > deadline:
                    raise StoreFailure(
                        f"the store in {directory} could not be checked in time: the disk is too slow"
                    )
                yield None
                continue
            data = os.read(descriptor, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield _lines.decode(line)


def main() -> None:
    """Check the store in the directory that the command line names."""
    directory = Path(sys.argv[1])

    def say(line: _Line) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.buffer.flush()

    try:
        found = verify(directory, progress=lambda done, total: say(_Checked(done, total)))
        say(_Whole(found.position, found.keys, found.requests, found.kept))
    except StoreDamaged as damage:
        say(_Damaged(damage.reason))
    except StoreFailure as failure:
        say(_Failed(str(failure)))


if __name__ == "__main__":
    main()
