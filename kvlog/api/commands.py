"""What a command must be like, whoever has sent it and in whichever form."""

from __future__ import annotations

from kvlog.api.items import check_content_type
from kvlog.api.parameters import NUMBER_MAX
from kvlog.core.commands import (
    COMPARES_MAX,
    OPERATIONS_MAX,
    TTL_MAX_MS,
    TTL_MIN_MS,
    AnyOf,
    Command,
    Compare,
    Condition,
    Grant,
    KeepAlive,
    Operation,
    Revoke,
    SetKey,
    Txn,
    Unchanged,
)
from kvlog.core.entry import REQUEST_ID_BYTES_MAX, SYSTEM, check_key, check_value
from kvlog.core.evaluate import check_command
from kvlog.errors import InvalidInput

ASKED_CHARACTERS_MAX = 4_000
"""Upper bound of Txn.asked, in which the longest key may stand with each of its bytes escaped."""


def check_branch(name: str, branch: tuple[Operation, ...]) -> None:
    """The operations of one branch, which are well-formed one by one.

    Raises:
        InvalidInput: too many, or a key twice.
    """
    if len(branch) > OPERATIONS_MAX:
        raise InvalidInput(f"{name} has {len(branch)} operations, the limit is {OPERATIONS_MAX}")
    seen: set[str] = set()
    for operation in branch:
        if operation.key in seen:
            raise InvalidInput(
                f"{name} writes the key {operation.key[:50]!r} twice: leave out what would be overwritten"
            )
        seen.add(operation.key)


def check_well_formed(command: Command) -> None:
    """Refuse a command that no route makes of what a client sends.

    Raises:
        InvalidInput: says why.
    """
    match command:
        case Txn():
            _check_txn(command)
        case Grant():
            _check_ttl(command.ttl_ms)
        case KeepAlive() | Revoke():
            _check_number("lease", command.lease)
        case _:
            pass
    check_command(command, request_id_bytes=REQUEST_ID_BYTES_MAX)


def _check_txn(txn: Txn) -> None:
    if len(txn.conditions) > COMPARES_MAX:
        raise InvalidInput(f"there are {len(txn.conditions)} conditions, the limit is {COMPARES_MAX}")
    if len(txn.asked) > ASKED_CHARACTERS_MAX:
        raise InvalidInput(f"asked has {len(txn.asked)} characters, the limit is {ASKED_CHARACTERS_MAX}")
    for condition in txn.conditions:
        _check_condition(condition)
    for name, branch in (("then", txn.then), ("else", txn.otherwise)):
        for operation in branch:
            _check_operation(operation)
        check_branch(name, branch)


def _check_operation(operation: Operation) -> None:
    check_key(operation.key)
    if isinstance(operation, SetKey):
        check_value(operation.value)
        check_content_type(operation.content_type)
        _check_number("lease", operation.lease)
        if operation.ttl_ms:
            _check_ttl(operation.ttl_ms)
        if operation.ttl_ms and operation.lease:
            raise InvalidInput("a key has a ttl or a lease, not both")


def _check_condition(condition: Condition) -> None:
    match condition:
        case Compare():
            check_key(condition.key)
            check_value(condition.data)
            _check_number("number", condition.number)
        case AnyOf():
            check_key(condition.key)
            if len(condition.revisions) > COMPARES_MAX:
                raise InvalidInput(f"there are {len(condition.revisions)} revisions, the limit is {COMPARES_MAX}")
            for revision in condition.revisions:
                _check_number("revision", revision)
        case Unchanged():
            if condition.prefix.startswith(SYSTEM):
                raise InvalidInput("the prefix begins with NUL; such keys are kvlog's own")
            _check_number("since", condition.since)


def _check_ttl(ttl_ms: int) -> None:
    if not TTL_MIN_MS <= ttl_ms <= TTL_MAX_MS:
        raise InvalidInput(f"a ttl of {ttl_ms} ms: must be from {TTL_MIN_MS} to {TTL_MAX_MS}")


def _check_number(name: str, number: int) -> None:
    if not 0 <= number <= NUMBER_MAX:
        raise InvalidInput(f"{name} {number}: must be from 0 to {NUMBER_MAX}")
