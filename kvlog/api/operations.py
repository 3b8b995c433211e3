"""Operations and comparisons as JSON: from what a client sends to parts of a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from kvlog.api.bodies import Fields, kind
from kvlog.api.items import check_content_type, data_of
from kvlog.core.commands import Compare, Condition, DeleteKey, Operation, Relation, SetKey, Target, Unchanged
from kvlog.core.entry import KEY_BYTES_MAX, SYSTEM, VALUE_BYTES_MAX
from kvlog.errors import InvalidInput

_PLAIN = ("op", "key", "value")
PUT = ("op", "key", "value", "encoding", "content_type", "lease", "ttl")
DELETE = GET = ("op", "key")
COMPARE = ("key", "target", "op", "value", "encoding")
UNCHANGED = ("prefix", "target", "value")
UNCHANGED_SINCE = "unchanged_since"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GetKey:
    """Say what a key holds, once the transaction is done."""

    key: str


def write_of(found: object, where: str) -> Operation:
    """A put or a delete; ``where`` begins every complaint about it.

    Raises:
        InvalidInput: it is none, or makes no sense.
    """
    name = _name(found, where)
    if name == "put":
        return _put(Fields(found, PUT, where))
    if name == "delete":
        return DeleteKey(Fields(found, DELETE, where).key())
    raise InvalidInput(f'{where}the field "op" must be "put" or "delete"')


def plain_put(found: object) -> SetKey | None:
    """The put that most of what comes in bulk is: a short key and a short text in ASCII; None for anything else.

    What is said of it is that of ``write_of``, in a tenth of the time.
    """
    if not isinstance(found, dict) or len(found) != len(_PLAIN) or found.get("op") != "put":
        return None
    key, value = found.get("key"), found.get("value")
    if not (isinstance(key, str) and isinstance(value, str) and key.isascii() and value.isascii()):
        return None
    if not 0 < len(key) <= KEY_BYTES_MAX or key.startswith(SYSTEM) or len(value) > VALUE_BYTES_MAX:
        return None
    return SetKey(key, value.encode())


def operation_of(found: object, where: str) -> Operation | GetKey:
    """The same, or a get."""
    if _name(found, where) == "get":
        return GetKey(Fields(found, GET, where).key())
    return write_of(found, where)


def _name(found: object, where: str) -> object:
    if not isinstance(found, dict):
        raise InvalidInput(f"{where}must be a JSON object, not {kind(found)}")
    return found.get("op")


def _put(fields: Fields) -> SetKey:
    key = fields.key()
    value = data_of(fields.where, fields.text("value"), _encoding(fields))
    try:
        content_type = check_content_type(fields.text("content_type", default=""))
    except InvalidInput as error:
        raise InvalidInput(f"{fields.where}{error}") from None
    if "lease" in fields and "ttl" in fields:
        raise InvalidInput(f"{fields.where}a key has a ttl or a lease, not both")
    lease = fields.number("lease", low=1) if "lease" in fields else 0
    ttl_ms = fields.ttl_ms() if "ttl" in fields else 0
    return SetKey(key, value, content_type, lease, ttl_ms)


def _encoding(fields: Fields) -> str | None:
    return fields.text("encoding") if "encoding" in fields else None


def condition_of(found: object, where: str) -> Condition:
    """A comparison. Raises as ``write_of`` does."""
    if isinstance(found, dict) and found.get("target") == UNCHANGED_SINCE:
        fields = Fields(found, UNCHANGED, where)
        return Unchanged(fields.prefix(), fields.number("value"))
    fields = Fields(found, COMPARE, where)
    key, target, relation = fields.key(), _target(fields), _relation(fields)
    if target is Target.VALUE:
        return Compare(key, target, relation, data=data_of(where, fields.text("value"), _encoding(fields)))
    if "encoding" in fields:
        raise InvalidInput(f'{where}the field "encoding" goes with the target value only')
    return Compare(key, target, relation, number=fields.number("value"))


def _target(fields: Fields) -> Target:
    return _one_of(fields, "target", {target.value: target for target in Target}, UNCHANGED_SINCE)


def _relation(fields: Fields) -> Relation:
    return _one_of(fields, "op", {relation.value: relation for relation in Relation})


def _one_of(fields: Fields, name: str, known: dict[str, T], *more: str) -> T:
    found = fields.text(name)
    if found not in known:
        raise fields.wrong(name, f"one of {', '.join((*known, *more))}")
    return known[found]
