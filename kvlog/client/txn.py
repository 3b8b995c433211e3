"""A transaction as it is put together: conditions, operations if they hold, operations if they do not."""

from __future__ import annotations

from typing import Any, Self

from kvlog.client.errors import BadRequest
from kvlog.client.operations import Delete, Get, Put, check_key
from kvlog.client.wire import as_bytes, checked_text, value_fields


class TxnBuilder:
    """What both clients' transactions have in common. Each method returns the transaction, for the next one.

    All conditions are looked at, and all operations done, in one moment: nobody sees a part of them, and nobody
    comes in between.
    """

    def __init__(self) -> None:
        self._compare: list[dict[str, Any]] = []
        self._then: list[dict[str, Any]] = []
        self._else: list[dict[str, Any]] = []

    def when_revision(self, key: str, revision: int) -> Self:
        """If nobody has written the key since this revision, its own; 0: if it is not there."""
        return self._when(key, "revision", "=", revision)

    def when_value(self, key: str, value: bytes | str) -> Self:
        """If the key holds this value."""
        check_key(key)
        fields = value_fields(as_bytes(value))
        self._compare.append({"key": key, "target": "value", "op": "=", **fields})
        return self

    def when_absent(self, key: str) -> Self:
        """If the key is not there."""
        return self._when(key, "create_revision", "=", 0)

    def when_exists(self, key: str) -> Self:
        """If the key is there."""
        return self._when(key, "create_revision", ">", 0)

    def when_unchanged(self, prefix: str, since: int) -> Self:
        """If no key with this prefix was written or deleted after revision ``since``, e.g. that of a listing."""
        checked_text("the prefix", prefix)
        self._compare.append({"prefix": prefix, "target": "unchanged_since", "value": since})
        return self

    def put(
        self,
        key: str,
        value: bytes | str,
        *,
        ttl: float | None = None,
        lease: int | None = None,
        content_type: str | None = None,
    ) -> Self:
        """Then give a key a value; see Put."""
        self._then.append(Put(key, value, ttl, lease, content_type).wire())
        return self

    def delete(self, key: str) -> Self:
        """Then take a key away, if it is there."""
        self._then.append(Delete(key).wire())
        return self

    def get(self, key: str) -> Self:
        """Then say what a key holds after it."""
        self._then.append(Get(key).wire())
        return self

    def otherwise_put(
        self,
        key: str,
        value: bytes | str,
        *,
        ttl: float | None = None,
        lease: int | None = None,
        content_type: str | None = None,
    ) -> Self:
        """If a condition does not hold, give a key a value; see Put."""
        self._else.append(Put(key, value, ttl, lease, content_type).wire())
        return self

    def otherwise_delete(self, key: str) -> Self:
        """If a condition does not hold, take a key away."""
        self._else.append(Delete(key).wire())
        return self

    def otherwise_get(self, key: str) -> Self:
        """If a condition does not hold, say what a key holds."""
        self._else.append(Get(key).wire())
        return self

    def _when(self, key: str, target: str, op: str, value: int) -> Self:
        check_key(key)
        self._compare.append({"key": key, "target": target, "op": op, "value": value})
        return self

    def _body(self) -> dict[str, Any]:
        """It as JSON.

        Raises:
            BadRequest: there is nothing to do in it.
        """
        if not self._then and not self._else:
            raise BadRequest("transaction: there is nothing to do: put(), delete() or get() something")
        parts = {"compare": self._compare, "then": self._then, "else": self._else}
        return {name: part for name, part in parts.items() if part}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self._compare)} conditions, {len(self._then)} operations>"
