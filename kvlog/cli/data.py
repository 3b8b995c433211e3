"""The commands for keys and values: get, put, delete, list, txn."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from kvlog.cli.commands import PROGRAM
from kvlog.cli.console import document, note, say
from kvlog.cli.show import harmless, item_fields, line, maybe_item, printable, row, value_text
from kvlog.cli.user_commands import DeleteKey, GetKey, ListKeys, PutKey, RunTxn, Target
from kvlog.client import Client
from kvlog.client.results import OperationResult
from kvlog.client.wire import UNREADABLE
from kvlog.core.entry import VALUE_BYTES_MAX
from kvlog.errors import CommandFailed, NotMet

TXN_BYTES_MAX = 4 * 1024 * 1024
"""The largest file with a transaction; what a node takes is less."""

STDIN = Path("-")


def connect(target: Target) -> Client:
    """A client of the nodes that the command may ask."""
    return Client(target.nodes, timeout=target.timeout_s)


def get_key(command: GetKey) -> None:
    """``get``: the value, byte for byte.

    Raises:
        NotMet: the key is not there.
    """
    reading = command.reading
    with connect(command.target) as client:
        item = client.get(
            command.key,
            linearizable=reading.linearizable,
            min_revision=reading.min_revision,
            max_stale_ms=reading.max_stale_ms,
            max_lag=reading.max_lag,
            at=reading.at,
        )
        revision = client.revision if reading.at is None else reading.at
    if item is None:
        raise NotMet(f"there is no key {command.key!r} at revision {revision}")
    if command.target.as_json:
        document(item_fields(item))
        return
    terminal = sys.stdout.isatty()
    if terminal and not harmless(item.value):
        raise CommandFailed(
            f"the value of {command.key!r} has {len(item.value)} bytes that are no printable text; "
            f"`{PROGRAM} get KEY > FILE` writes them to a file, with --json they are shown in base64"
        )
    sys.stdout.buffer.write(item.value)
    if terminal and not item.value.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")


def put_key(command: PutKey) -> None:
    """``put``: the value as it was given, or as it is in a file."""
    given = command.value or ""
    value: bytes | str = given if command.file is None else read_bounded(command.file, VALUE_BYTES_MAX)
    ack: Literal["log", "replicas"] = "log" if command.ack == "log" else "replicas"
    with connect(command.target) as client:
        written = client.put(
            command.key,
            value,
            ttl=command.ttl_s,
            lease=command.lease,
            if_revision=command.if_revision,
            content_type=command.content_type,
            ack=ack,
            request_id=command.request_id,
        )
    if command.target.as_json:
        names = ("key", "revision", "index", "leader", "replicas", "created", "replayed")
        document({name: getattr(written, name) for name in names})
        return
    what = "created" if written.created else "written"
    again = ", by an earlier try" if written.replayed else ""
    say(f"{printable(written.key)} {what} at revision {written.revision}{again}")


def delete_key(command: DeleteKey) -> None:
    """``delete``: whether it was there.

    Raises:
        NotMet: the key was not there.
    """
    with connect(command.target) as client:
        deleted = client.delete(command.key, if_revision=command.if_revision, request_id=command.request_id)
    if not deleted.deleted:
        raise NotMet(f"there was no key {command.key!r} at revision {deleted.revision}; nothing had to be deleted")
    if command.target.as_json:
        names = ("key", "deleted", "revision", "index", "leader", "replicas", "replayed")
        document({name: getattr(deleted, name) for name in names})
        return
    again = ", by an earlier try" if deleted.replayed else ""
    say(f"{printable(deleted.key)} deleted at revision {deleted.revision}{again}")


def list_keys(command: ListKeys) -> None:
    """``list``: a line for each key, or only how many there are."""
    with connect(command.target) as client:
        if command.count:
            count = client.count(command.prefix)
            document({"count": count}) if command.target.as_json else say(str(count))
            return
        found = client.list(command.prefix, start=command.start, keys_only=command.keys_only, at=command.at)
        for item in islice(found, command.limit):
            if command.target.as_json:
                line(item_fields(item, with_value=not command.keys_only))
            elif command.keys_only:
                row(printable(item.key))
            else:
                row(printable(item.key), item.revision, value_text(item.value))


def run_txn(command: RunTxn) -> None:
    """``txn``: what has been done, and what the gets have brought.

    Raises:
        CommandFailed: the file holds no JSON object.
        NotMet: what was to hold did not; what is in "else" has been done.
    """
    data = read_bounded(command.file, TXN_BYTES_MAX)
    try:
        body = msgspec.json.decode(data, type=dict[str, Any])
    except UNREADABLE as error:
        raise CommandFailed(f"{named(command.file)} holds no transaction: {error}; nothing was done") from error
    with connect(command.target) as client:
        result = client.transact(body, request_id=command.request_id)
    if command.target.as_json:
        names = ("succeeded", "revision", "index", "leader", "replicas", "replayed")
        results = [_result_fields(one) for one in result.results]
        document({**{name: getattr(result, name) for name in names}, "results": results})
    else:
        for one in result.results:
            value = [] if one.op != "get" else ["(none)"] if one.item is None else [value_text(one.item.value)]
            row(one.op, printable(one.key), *value)
        note(f"{'then' if result.succeeded else 'else'} was done at revision {result.revision}")
    if not result.succeeded:
        raise NotMet('what is compared does not hold, so "else" was done, and nothing of "then"')


def _result_fields(result: OperationResult) -> dict[str, Any]:
    fields: dict[str, Any] = {"op": result.op, "key": result.key}
    return fields | {"item": maybe_item(result.item)} if result.op == "get" else fields


# --- files ----------------------------------------------------------------------------------------------------


def opened(file: Path) -> AbstractContextManager[BinaryIO]:
    """A file for reading; stdin, which stays open, if it is called ``-``."""
    return nullcontext(sys.stdin.buffer) if file == STDIN else file.open("rb")


def named(file: Path) -> str:
    """What people call it."""
    return "stdin" if file == STDIN else str(file)


def read_bounded(file: Path, bytes_max: int) -> bytes:
    """All that is in a file.

    Raises:
        CommandFailed: it is more than that.
    """
    with opened(file) as source:
        data = source.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise CommandFailed(f"{named(file)} has more than {bytes_max} bytes, the most that it may have here")
    return data
