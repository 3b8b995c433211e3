"""A batch of any length, cut into pieces that are small enough to be kept until they are known to be done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kvlog.client.errors import BadRequest, BatchStopped, ClientError
from kvlog.client.operations import Delete, Put
from kvlog.client.results import BatchResult
from kvlog.client.wire import encoder

PIECE_OPERATIONS = 2000
PIECE_BYTES = 512 * 1024
"""What is sent in one request at most. A node carries it out in two transactions or a few more: a piece has to be
done within the time of a call."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch has come: so many operations are committed, the last of them at ``revision``."""

    done: int
    revision: int


class Tally:
    """What is known to be done of a batch."""

    def __init__(self) -> None:
        self._before = 0  # in the pieces that are done
        self._in_piece = 0
        self._revision = 0

    def committed(self, count: int) -> None:
        """So many operations of the piece that is under way are committed."""
        self._in_piece = max(self._in_piece, count)

    def end_piece(self, lines: list[bytes], result: BatchResult) -> Progress:
        """The piece is done."""
        self._before, self._in_piece = self._before + len(lines), 0
        self._revision = max(self._revision, result.revision)
        return Progress(self._before, self._revision)

    def stopped(self, error: ClientError) -> BatchStopped:
        """The batch ends here."""
        done = self._before + self._in_piece
        where = f", in the piece that begins with operation {self._before + 1}" if self._before else ""
        return BatchStopped(f"{done} operations of the batch are committed; then{where}: {error}", done=done)

    @property
    def result(self) -> BatchResult:
        """All of it is done."""
        return BatchResult(self._before, self._revision)


def pieces(operations: Iterable[Put | Delete]) -> Iterator[list[bytes]]:
    """The operations in lines of JSON, as many at a time as make one request.

    Raises:
        BadRequest: one of them makes no sense. Those before it have been given out.
    """
    lines: list[bytes] = []
    size = 0
    for operation in operations:
        try:
            line = encoder.encode(_checked(operation).wire())
        except BadRequest:
            if lines:
                yield lines
            raise
        if lines and (len(lines) == PIECE_OPERATIONS or size + len(line) > PIECE_BYTES):
            yield lines
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    if lines:
        yield lines


def _checked(operation: Put | Delete) -> Put | Delete:
    if not isinstance(operation, Put | Delete):
        raise BadRequest(f"a batch is made of Put and Delete, not of {type(operation).__name__}")
    return operation
