"""``backup`` and ``verify``, and what they share with the commands that begin a log: unpacking and checking."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import msgspec
from urllib3.exceptions import HTTPError

from kvlog.cli.commands import PROGRAM, Backup, Verify
from kvlog.cli.console import document, fields, note, progress, say, size
from kvlog.cli.http import Nodes, why
from kvlog.client.wire import UNREADABLE
from kvlog.errors import BadSnapshot, CommandFailed, Unavailable
from kvlog.snapshot import Decoder, Header, read
from kvlog.store.directories import DATA_FILE, sync_directory
from kvlog.store.lmdb_verify import Found
from kvlog.store.quarantine import inspect

PAUSE_S = 30.0
"""How long a node may send nothing of a snapshot."""

PIECE_BYTES = 256 * 1024

ERROR_BYTES_MAX = 64 * 1024


# --- backup ---------------------------------------------------------------------------------------------------


def back_up(command: Backup) -> None:
    """Write a snapshot of the first node that gives a whole one.

    Raises:
        CommandFailed: the file is there already, or no node gives one; says of each why.
    """
    begin = time.monotonic()
    file = command.file
    _refuse_present(command)
    nodes = Nodes(command.nodes)
    reasons: list[str] = []
    with _partial(file) as (partial, out):
        for url in _in_order(nodes, reasons):
            out.seek(0)
            out.truncate()
            try:
                header = _download(nodes, url, out)
            except (BadSnapshot, Unavailable) as error:
                reasons.append(str(error))
                continue
            out.flush()
            os.fsync(out.fileno())
            count = out.tell()
            _refuse_present(command)
            partial.rename(file)
            sync_directory(file.absolute().parent)
            break
        else:
            raise CommandFailed(
                f"no backup was made: {'; '.join(reasons)}; name another node with --node http://HOST:PORT"
            )
    for reason in reasons:
        note(f"passed over: {reason}")
    seconds = time.monotonic() - begin
    if command.as_json:
        end = {"file": str(file), "bytes": count, "seconds": round(seconds, 1), "passed_over": reasons}
        document(_description(header) | end)
        return
    fields(*_description(header).items())
    fields(("written to", file), ("size", size(count)), ("seconds", f"{seconds:.1f}"))


def _refuse_present(command: Backup) -> None:
    if command.file.is_dir() or (command.file.exists() and not command.force):
        raise CommandFailed(
            f"{command.file} is there already and stays as it is; choose another name, or say --force to replace "
            "it"
        )


@contextmanager
def _partial(file: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """FILE.partial, held against other backups to the same file; removed at the end unless it was renamed."""
    partial = file.with_name(f"{file.name}.partial")
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = partial.exists() and partial.samefile(f"/proc/self/fd/{out.fileno()}")
        except BlockingIOError:
            mine = False
        if not mine:  # in use, or renamed by who used it in the moment before
            raise CommandFailed(f"another backup is being written to {file}; wait for it, or choose another name")
        try:
            yield partial, out
        finally:
            if partial.exists() and partial.samefile(f"/proc/self/fd/{out.fileno()}"):
                partial.unlink()


def _in_order(nodes: Nodes, reasons: list[str]) -> Iterator[str]:
    """The nodes that may give a snapshot, those that are ready first; why not the others goes to ``reasons``."""
    later = []
    for url in nodes.urls:
        try:
            status, _ = nodes.status_of(url)
        except Unavailable as error:
            reasons.append(str(error))
            continue
        if status.stale:
            reasons.append(f"{url} is stale: it has missed {status.missed_entries} entries")
        elif status.ready:
            yield url
        else:
            later.append((url, status))
    for url, status in later:
        note(f"{url} is not ready ({status.reason}): its data may be older than what others have")
        yield url


def _download(nodes: Nodes, url: str, out: BinaryIO) -> Header:
    """Write a node's snapshot as it comes, checked; what is in the file is worth nothing if this raises."""
    with nodes.stream(url, "/v1/snapshot?min_index=0", pause_s=PAUSE_S) as response:
        try:
            if response.status != HTTPStatus.OK:
                raise Unavailable(
                    f"{url} gives no snapshot ({response.status}): {_reason(response.read(ERROR_BYTES_MAX))}"
                )
            decoder = Decoder(len)  # the payload is checked here, and written with all that is around it
            with progress(f"backup from {url}", size) as report:
                for piece in response.stream(PIECE_BYTES):
                    decoder.feed(piece)
                    out.write(piece)
                    report(decoder.received_bytes, decoder.header.bytes if decoder.header else 0)
            return decoder.finish()
        except HTTPError as error:
            raise Unavailable(f"{url} did not send all of its snapshot: {why(error)}") from error
        except BadSnapshot as error:
            raise BadSnapshot(f"{url} sent no usable snapshot: {error}") from error


def _reason(data: bytes) -> str:
    try:
        return str(msgspec.json.decode(data, type=dict[str, object]).get("detail", "no reason given"))
    except UNREADABLE:
        return "no answer of kvlog"


# --- verify ---------------------------------------------------------------------------------------------------


def verify_backup(command: Verify) -> None:
    """Unpack the backup beside itself, and read all of it.

    Raises:
        BadSnapshot: it is not whole, or holds something else than it says.
    """
    header = read_header(command.file)
    with tempfile.TemporaryDirectory(prefix=".kvlog-verify-", dir=command.file.absolute().parent) as temporary:
        found = unpack(command.file, Path(temporary) / "store")
    if command.as_json:
        holds = {"keys": found.keys, "requests": found.requests, "kept_revisions": found.kept}
        end = holds | {"told_from": found.position.history, "file": str(command.file), "whole": True}
        document(_description(header) | end)
        return
    fields(*_description(header).items())
    fields(
        ("keys", found.keys),
        ("requests", found.requests),
        ("history", f"{found.kept} revisions, back to the state at {found.position.history}"),
    )
    say("the backup is whole")


def _description(header: Header) -> dict[str, object]:
    return {
        "cluster": header.cluster_id,
        "node": header.node_id,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(header.created_ms / 1000)),
        "index": header.index,
        "revision": header.revision,
        "digest": header.digest,
    }


def read_header(file: Path) -> Header:
    """What a backup says that it holds; nothing of it has been checked.

    Raises:
        BadSnapshot: it does not begin as a backup does.
    """
    decoder = Decoder(len)
    with _named(file), file.open("rb") as source:
        while decoder.header is None and (piece := source.read(PIECE_BYTES)):
            decoder.feed(piece)
        return decoder.header or decoder.finish()


def unpack(file: Path, directory: Path) -> Found:
    """Make a store of a backup, in a directory that is not there yet, and check all of it.

    Raises:
        BadSnapshot: it is not whole, or holds something else than it says.
    """
    directory.mkdir()
    total = file.stat().st_size
    with _named(file):
        with (
            file.open("rb") as source,
            (directory / DATA_FILE).open("wb") as target,
            progress(f"unpacking {file}", size) as report,
        ):

            def pieces() -> Iterator[bytes]:
                while piece := source.read(PIECE_BYTES):
                    yield piece
                    report(source.tell(), total)

            header = read(pieces(), target)
            target.flush()
            os.fsync(target.fileno())
        sync_directory(directory)
        found = examine(directory, f"checking {file}")
        if not header.describes(found.position):
            raise BadSnapshot(f"it says that it holds {header}, but holds a store at {found.position}")
    return found


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Have what is wrong with a backup say which one, and what to do."""
    try:
        yield
    except BadSnapshot as error:
        raise BadSnapshot(
            f"{file} cannot be used: {error}; take another one, or make a new one with `{PROGRAM} backup`"
        ) from error


def examine(store: Path, what: str) -> Found:
    """Check all of a store that nobody uses, in a process of its own: a damaged one can end it.

    Raises:
        StoreDamaged: it is not what was written.
        StoreFailure: it cannot be read.
    """
    with progress(what) as report:
        return inspect(store, progress=report)
