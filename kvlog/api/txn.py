"""POST /v1/txn: several keys at one revision, under conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Flask, Response

from kvlog.api import incoming
from kvlog.api.answers import View, respond
from kvlog.api.bodies import Fields, json_object, kind
from kvlog.api.commands import check_branch
from kvlog.api.incoming import Asked
from kvlog.api.items import item_or_none
from kvlog.api.operations import GetKey, condition_of, operation_of
from kvlog.api.outcomes import answer, committed
from kvlog.api.parameters import WRITE, parameters
from kvlog.api.writing import checked, own_id
from kvlog.core.commands import COMPARES_MAX, OPERATIONS_MAX, Operation, SetKey, Txn
from kvlog.core.values import Committed
from kvlog.errors import Behind, GapsInHistory, HistoryTrimmed, InvalidInput, Unavailable
from kvlog.problems import details, details_of
from kvlog.service.reads import PAGE_BYTES_MAX, ReadOptions, Reads
from kvlog.service.service import Service
from kvlog.service.writes import Write, Written

TXN = WRITE
FIELDS = ("compare", "then", "else")

Branch = tuple[Operation | GetKey, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A transaction that a client has asked for: the write, and both branches with what is only to be read."""

    write: Write
    then: Branch
    otherwise: Branch

    @property
    def gets(self) -> bool:
        """Whether something is to be read in it."""
        return any(isinstance(each, GetKey) for each in (*self.then, *self.otherwise))


def add_routes(app: Flask, service: Service) -> None:
    """/v1/txn."""

    @app.post("/v1/txn")
    def txn() -> Response:
        wanted = wanted_txn(incoming)
        if wanted.gets and service.missed_entries:  # better before than after it has been carried out
            raise GapsInHistory(service.missed_entries)
        written = service.writes.write(wanted.write)
        return respond(answered(service.reads, wanted, written))


def wanted_txn(asked: Asked) -> Wanted:
    """What a request for a transaction asks for. Raises as ``txn_of`` does."""
    given, name = parameters(asked.query(), TXN), own_id(asked)
    command, then, otherwise = txn_of(asked.json_body())
    return Wanted(checked(command, given, name), then, otherwise)


def answered(reads: Reads, wanted: Wanted, written: Written) -> View:
    """The answer to a transaction; waits where something is to be read in it."""

    def done(result: Committed) -> View:
        succeeded = not result.failed
        branch = wanted.then if succeeded else wanted.otherwise
        results = _results(reads, branch, result.revision, wanted.write.timeout_s)
        return View(committed(written, result, succeeded=succeeded) | {"results": results})

    return answer(written, done, whatever_holds=True)


def txn_of(body: bytes) -> tuple[Txn, Branch, Branch]:
    """The transaction in a body: the command, and both branches.

    Raises:
        InvalidInput: it makes no sense; says where.
    """
    fields = Fields(json_object(body), FIELDS)
    if "then" not in fields and "else" not in fields:
        raise InvalidInput('there is nothing to do: send "then", "else" or both, a list of operations each')
    conditions = _each(fields, "compare", COMPARES_MAX, condition_of)
    then = _each(fields, "then", OPERATIONS_MAX, operation_of)
    otherwise = _each(fields, "else", OPERATIONS_MAX, operation_of)
    return Txn(_writes("then", then), conditions, _writes("else", otherwise)), then, otherwise


def _each(fields: Fields, name: str, limit: int, read: Callable[[object, str], T]) -> tuple[T, ...]:
    found = fields.anything(name) if name in fields else []
    if not isinstance(found, list):
        raise fields.wrong(name, f"a list, not {kind(found)}")
    if len(found) > limit:
        raise InvalidInput(f'the field "{name}" has {len(found)} elements, the limit is {limit}')
    return tuple(read(each, f"{name}[{number}]: ") for number, each in enumerate(found))


def _writes(name: str, branch: Branch) -> tuple[Operation, ...]:
    writes = tuple(each for each in branch if not isinstance(each, GetKey))
    check_branch(name, writes)
    return writes


def _results(reads: Reads, branch: Branch, revision: int, timeout_s: float) -> list[dict[str, Any]]:
    """What each operation has come to; what a get finds is read here, as of the transaction's revision."""
    trouble: dict[str, Any] | None = None
    if any(isinstance(each, GetKey) for each in branch):
        trouble = _wait(reads, revision, timeout_s)
    results: list[dict[str, Any]] = []
    room = PAGE_BYTES_MAX
    for each in branch:
        if not isinstance(each, GetKey):
            results.append({"op": "put" if isinstance(each, SetKey) else "delete", "key": each.key})
            continue
        if trouble is None and room <= 0:
            what = f"the answer is long enough: GET /v1/kv/<key>?at={revision} shows the rest, each by itself"
            trouble = details("too-large", what)
        found = {"problem": trouble} if trouble is not None else _got(reads, each.key, revision)
        results.append({"op": "get", "key": each.key, **found})
        room -= len((found.get("item") or {}).get("value", ""))
    return results


def _wait(reads: Reads, revision: int, timeout_s: float) -> dict[str, Any] | None:
    """Wait until the transaction is applied here; the problem, if that does not come about."""
    try:
        reads.wait(ReadOptions(min_revision=revision, timeout_s=timeout_s))
    except (Behind, GapsInHistory, Unavailable) as error:
        return details_of(error)[1]
    return None


def _got(reads: Reads, key: str, revision: int) -> dict[str, Any]:
    """What a get finds. The transaction is committed whatever comes of it: so a problem is told in its place."""
    try:
        record, _ = reads.key(key, ReadOptions(at=revision))
    except (HistoryTrimmed, GapsInHistory, Behind, Unavailable) as error:
        return {"problem": details_of(error)[1]}
    return {"item": item_or_none(key, record)}
