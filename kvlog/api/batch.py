"""POST /v1/batch: many puts and deletes, carried out in order and in chunks, however many there are.

Never more than one chunk is in memory. Each chunk is one transaction; what the chunks are follows from the
operations alone, so that the same batch, sent again under the same id, comes upon the same chunks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Flask, Response
from werkzeug.exceptions import RequestTimeout

from kvlog.api import incoming
from kvlog.api.answers import JSON, View, encode, respond
from kvlog.api.bodies import json_value, kind
from kvlog.api.incoming import BODY_BYTES_MAX, NDJSON
from kvlog.api.operations import write_of
from kvlog.api.outcomes import REFUSED, UNKNOWN, answer
from kvlog.api.parameters import WRITE, parameters
from kvlog.api.problems import of_error, of_status, problem
from kvlog.api.writing import IDEMPOTENCY_KEY, own_id, write
from kvlog.core.commands import OPERATIONS_MAX, Operation, SetKey, Txn
from kvlog.core.entry import ENTRY_BYTES_MAX, HEADER_BYTES_MAX
from kvlog.core.evaluate import bytes_in_entry
from kvlog.core.values import Committed
from kvlog.errors import InvalidInput, KvlogError
from kvlog.problems import ANSWERED
from kvlog.service.service import Service

BATCH = WRITE

CHUNK_BYTES = 256 * 1024
"""Keys and values of one chunk."""

ENTRY_ROOM = ENTRY_BYTES_MAX - 2 * HEADER_BYTES_MAX
"""What the operations of one chunk may take in its entry: room is left for the entry's head and the request's."""

ID_CHARACTERS_MAX = 100
"""Upper bound of a batch's id, to which each chunk adds its number."""

BATCHES_MAX = 32
"""Batches under way at a time. Each holds a thread of the server for as long as its client takes to send it."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """An operation, and the line or element that it stands in, counted from 1."""

    operation: Operation
    number: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """A batch has come to its end before its end: so many operations are committed, and this is why not more.

    ``line``: where what makes no sense stands, if that is the reason.
    """

    done: int
    view: View
    line: int | None = None


class _Bad(InvalidInput):
    """What stands in a line makes no sense."""

    def __init__(self, line: int, cause: InvalidInput) -> None:
        super().__init__(str(cause), status=cause.status, problem=cause.problem)
        self.line = line


def add_routes(app: Flask, service: Service) -> None:
    """/v1/batch."""
    slots = threading.BoundedSemaphore(BATCHES_MAX)

    @app.post("/v1/batch")
    def batch() -> Response:
        given, name = parameters(incoming.query(), BATCH), own_id()
        if len(name) > ID_CHARACTERS_MAX:
            raise InvalidInput(
                f"{IDEMPOTENCY_KEY}: that of a batch has {ID_CHARACTERS_MAX} characters at most, because each "
                "chunk adds its number"
            )
        operations = operations_of(incoming.media_type(JSON, NDJSON))
        if not slots.acquire(blocking=False):
            what = f"{BATCHES_MAX} batches are under way on this node already; try again, or on another node"
            return respond(problem(REFUSED, what, outcome=REFUSED))
        run = _Run(service, operations, given, name, slots.release)
        try:
            first = run.step()
            if first is None:
                run.revision = service.status().position.revision
        except BaseException:
            run.close()
            raise
        if isinstance(first, Stopped):  # nothing was done: an ordinary problem
            run.close()
            view = first.view
            # What is left of the body is not read: the connection cannot be used again.
            return respond(View(_end(first), view.status, {"Connection": "close"} | view.headers, view.media_type))
        return Response(_Lines(run, first), content_type=NDJSON)


def operations_of(media_type: str) -> Iterable[Numbered]:
    """The operations in the request's body: of an array all at once, of lines as they come.

    Raises:
        InvalidInput: one of them makes no sense; of lines while they are gone through.
    """
    return numbered_array(incoming.body()) if media_type == JSON else numbered_lines(incoming.pieces(None))


def numbered_array(body: bytes) -> list[Numbered]:
    """Those in a JSON array."""
    found = json_value(body)
    if not isinstance(found, list):
        raise InvalidInput(f"the body must be a JSON array of operations, not {kind(found)}")
    return [_numbered(number, each) for number, each in enumerate(found, start=1)]


def numbered_lines(pieces: Iterable[bytes]) -> Iterator[Numbered]:
    """Those in lines of JSON; empty lines are none."""
    for number, line in enumerate(_lines(pieces), start=1):
        if not line.strip(b" \t\r"):
            continue
        try:
            found = json_value(line)
        except InvalidInput as error:
            raise _Bad(number, InvalidInput(str(error).replace("the body", f"line {number}", 1))) from None
        yield _numbered(number, found)


def _numbered(number: int, found: object) -> Numbered:
    try:
        return Numbered(write_of(found, f"operation {number}: "), number)
    except InvalidInput as error:
        raise _Bad(number, error) from None


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What stands between line feeds.

    Raises:
        InvalidInput: 413; a line has more bytes than a body of JSON may have.
    """
    begun: list[bytes] = []
    size = lines = 0
    for piece in pieces:
        first, *others = piece.split(b"\n")
        begun.append(first)
        size += len(first)
        if size > BODY_BYTES_MAX:
            what = f"line {lines + 1} has more than {BODY_BYTES_MAX} bytes"
            raise _Bad(lines + 1, InvalidInput(what, status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
        for other in others:
            yield b"".join(begun)
            lines += 1
            begun, size = [other], len(other)
    yield b"".join(begun)


def chunks(operations: Iterable[Numbered]) -> Iterator[tuple[Numbered, ...]]:
    """The operations in chunks that fit into an entry each, and in which no key comes twice.

    Raises:
        InvalidInput: an operation makes no sense. Those before it that are in no chunk yet are left out: once the
            operation is put right, the chunk would be another one, and its id that of another write.
    """
    chunk: list[Numbered] = []
    keys: set[str] = set()
    taken = size = 0
    for each in operations:
        more, longer = bytes_in_entry(each.operation), _bytes_of(each.operation)
        full = len(chunk) == OPERATIONS_MAX or taken + more > ENTRY_ROOM or size + longer > CHUNK_BYTES
        if chunk and (full or each.operation.key in keys):
            yield tuple(chunk)
            chunk, taken, size = [], 0, 0
            keys.clear()
        chunk.append(each)
        keys.add(each.operation.key)
        taken, size = taken + more, size + longer
    if chunk:
        yield tuple(chunk)


def _bytes_of(operation: Operation) -> int:
    return len(operation.key.encode()) + (len(operation.value) if isinstance(operation, SetKey) else 0)


class _Run:
    """A batch on its way; ``closed`` is called once, when it is over, however."""

    def __init__(
        self,
        service: Service,
        operations: Iterable[Numbered],
        given: dict[str, Any],
        name: str,
        closed: Callable[[], None],
    ) -> None:
        self._service = service
        self._chunks = chunks(operations)
        self._given = given
        self._name = name
        self._closed: Callable[[], None] | None = closed
        self._number = 0
        self.done = 0
        self.revision = 0

    def step(self) -> Committed | Stopped | None:
        """Carry out the next chunk; None at the end."""
        chunk: tuple[Numbered, ...] = ()
        try:
            for chunk in self._chunks:
                return self._carry_out(chunk)
        except ANSWERED as error:
            return Stopped(self.done, of_error(error), _line_of(error, chunk))
        except RequestTimeout as error:
            return Stopped(self.done, of_status(HTTPStatus.REQUEST_TIMEOUT, str(error.description)))
        return None

    def _carry_out(self, chunk: tuple[Numbered, ...]) -> Committed | Stopped:
        self._number += 1
        name = f"{self._name}:{self._number}" if self._name else ""
        written = write(self._service, Txn(tuple(each.operation for each in chunk)), self._given, name)
        result = written.outcome
        if not isinstance(result, Committed) or result.failed:
            return Stopped(self.done, answer(written, lambda _: View({})))
        self.done += len(chunk)
        self.revision = result.revision
        return result

    def close(self) -> None:
        """It is over."""
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()


def _line_of(error: KvlogError, chunk: tuple[Numbered, ...]) -> int | None:
    """Where what an error is about stands; an operation that no entry can hold is a chunk of its own."""
    if isinstance(error, _Bad):
        return error.line
    return chunk[0].number if len(chunk) == 1 else None


class _Lines:
    """The answer to a batch, line by line: each is given once its chunk is done."""

    def __init__(self, run: _Run, first: Committed | None) -> None:
        self._run = run
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        run = self._run
        result: Committed | Stopped | None = self._first
        while isinstance(result, Committed):
            yield encode({"done": run.done, "revision": result.revision, "index": result.index}).encode()
            result = run.step()
        if result is None:
            end = {"outcome": "committed", "operations": run.done, "revision": run.revision}
        else:
            end = _end(result)
        yield encode(end).encode()

    def close(self) -> None:
        """The server calls this at the end of the answer, or when its client has left."""
        self._run.close()


def _end(stopped: Stopped) -> dict[str, Any]:
    """The last line of a batch that was not carried out to its end: the problem, and how far it has come."""
    view = stopped.view
    outcome = UNKNOWN if view.status == HTTPStatus.GATEWAY_TIMEOUT else REFUSED
    line = {} if stopped.line is None else {"line": stopped.line}
    return {**view.body, "outcome": outcome, "done": stopped.done, **line}
