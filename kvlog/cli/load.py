"""``load``: many puts and deletes from a file, one in each line."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import BinaryIO, Literal

import msgspec

from kvlog.cli.commands import PROGRAM
from kvlog.cli.console import document, progress, say
from kvlog.cli.data import STDIN, connect, named, opened
from kvlog.cli.show import counted
from kvlog.cli.user_commands import LoadFile
from kvlog.client import BatchStopped, Delete, Progress, Put
from kvlog.client.wire import UNREADABLE
from kvlog.errors import CommandFailed

LINE_BYTES_MAX = 2 * 1024 * 1024
"""The longest line: the largest value, six times larger where JSON escapes all of it, and room for the rest."""

PIECE_BYTES = 1024 * 1024


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """An operation as the API has it. What else an item has that was listed is not what it will have."""

    key: str
    op: Literal["put", "delete"] = "put"
    value: str | None = None
    encoding: Literal["base64"] | None = None
    content_type: str | None = None
    ttl: float | None = None
    lease: int | None = None
    create_revision: int | None = None
    revision: int | None = None
    version: int | None = None

    def operation(self) -> Put | Delete:
        """It for the client.

        Raises:
            ValueError: it makes no sense.
        """
        if self.op == "delete":
            return Delete(self.key)
        if self.value is None:
            raise ValueError("a put needs a value")
        if self.encoding is None:
            return Put(self.key, self.value, self.ttl, self._attached, self.content_type)
        value = base64.b64decode(self.value, validate=True)
        return Put(self.key, value, self.ttl, self._attached, self.content_type)

    @property
    def _attached(self) -> int | None:
        """The lease; not that of a listed item, which may have ended long ago."""
        return self.lease if self.revision is None else None


class _Lines:
    """The operations in a file, and the number of the line that was read last."""

    def __init__(self, source: BinaryIO, name: str) -> None:
        self._source = source
        self._name = name
        self.number = 0

    def __iter__(self) -> Iterator[Put | Delete]:
        while data := self._source.readline(LINE_BYTES_MAX + 1):
            self.number += 1
            if len(data) > LINE_BYTES_MAX:
                raise self._wrong(f"it has more than {LINE_BYTES_MAX} bytes")
            try:
                yield msgspec.json.decode(data, type=_Line).operation()
            except (*UNREADABLE, ValueError) as error:
                raise self._wrong(str(error)) from error

    def _wrong(self, reason: str) -> CommandFailed:
        return CommandFailed(f"line {self.number} of {self._name} is no put or delete: {reason}")


def load_file(command: LoadFile) -> None:
    """``load``: all of the file's operations, in order.

    Raises:
        CommandFailed: it ended before the last line; says how many lines are done, and how to go on.
    """
    done = Progress(0, 0)
    total = 0 if command.file == STDIN else _count_lines(command.file)
    with (
        connect(command.target) as client,
        opened(command.file) as source,
        progress(f"loading {named(command.file)}", lambda count: counted(count, "line")) as report,
    ):

        def tell(now: Progress) -> None:
            nonlocal done
            done = now
            report(now.done, total)

        try:
            result = client.batch(_Lines(source, named(command.file)), on_progress=tell)
        except CommandFailed as error:
            raise CommandFailed(f"{error}; {_how_to_go_on(command.file, done.done)}") from error
        except BatchStopped as error:
            raise CommandFailed(
                f"{error.__cause__ or error}; {_how_to_go_on(command.file, error.done)}"
            ) from error
    if command.target.as_json:
        document({"operations": result.operations, "revision": result.revision})
    else:
        say(f"{counted(result.operations, 'operation')} done, the last at revision {result.revision}")


def _how_to_go_on(file: Path, done: int) -> str:
    if not done:
        return "nothing of it was done; mend that, and run the same command again"
    rest = f"tail -n +{done + 1} {'FILE' if file == STDIN else quote(str(file))} | {PROGRAM} load -"
    return f"the lines before line {done + 1} are done; mend that, and do the others with `{rest}`"


def _count_lines(file: Path) -> int:
    """How many lines a file has, for the progress; 0, unknown, for what is no plain file."""
    if not file.is_file():
        return 0
    with file.open("rb") as source:
        return sum(piece.count(b"\n") for piece in iter(lambda: source.read(PIECE_BYTES), b""))
