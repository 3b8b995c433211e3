"""Keys and values from a seed, so made that a value tells which write it is from.

A value is its key, the number of the write in twelve digits, and padding: one of 64 random ones. The key and the
number are twelve bytes each, so that each of the parts can be written in base64 by itself, which wrk's scripts
have to do for etcd. What is there before a load has the number 0. Write N (from 1) goes to key
``order[(N - 1) % len(order)]``: as all keys take their turn, two writes of one key are so many requests apart
that which of them came last is never a question of chance.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PREFIX = "key-"
PADDINGS = 64
HEAD_BYTES = 24
"""Of a value: its key and its number."""

READS = 1 << 16
"""Reads go through so many keys, drawn at random, again and again."""


@dataclass(frozen=True)
class Inputs:
    """What is written and read."""

    keys: tuple[str, ...]
    order: tuple[int, ...]
    reads: tuple[int, ...]
    paddings: tuple[str, ...]

    @classmethod
    def drawn(cls, seed: int, *, keys: int = 10_000, value_bytes: int = 100) -> Inputs:
        """So many keys, with values of so many bytes."""
        draw = random.Random(seed)
        order = list(range(keys))
        draw.shuffle(order)
        alphabet = string.ascii_letters + string.digits
        return cls(
            keys=tuple(f"{PREFIX}{number:08}" for number in range(keys)),
            order=tuple(order),
            reads=tuple(draw.randrange(keys) for _ in range(READS)),
            paddings=tuple("".join(draw.choices(alphabet, k=value_bytes - HEAD_BYTES)) for _ in range(PADDINGS)),
        )

    def value(self, key: str, number: int) -> str:
        """What the write with this number gives the key."""
        return f"{key}{number:012}{self.paddings[number % PADDINGS]}"

    def prepared(self) -> dict[str, str]:
        """What is there before a load."""
        return {key: self.value(key, 0) for key in self.keys}

    def number_in(self, key: str, value: str) -> int | None:
        """The number of the write that a value is from; None if it is not one of these for this key."""
        digits = value[len(key) : HEAD_BYTES]
        if not digits.isascii() or not digits.isdigit():
            return None
        return int(digits) if value == self.value(key, int(digits)) else None

    @cached_property
    def _turns(self) -> dict[str, int]:
        """By key, the number of the first write that is its."""
        return {self.keys[place]: turn for turn, place in enumerate(self.order, start=1)}

    def last_write(self, key: str, last: int) -> int:
        """The number of the last write of a key among those up to ``last``; 0 if it was not written."""
        first = self._turns[key]
        return 0 if first > last else last - (last - first) % len(self.order)

    def as_lua(self, path: Path) -> None:
        """Write a file that gives wrk's scripts the same."""
        quoted = {
            "keys": (f'"{key}"' for key in self.keys),
            "order": map(str, self.order),
            "reads": map(str, self.reads),
            "paddings": (f'"{padding}"' for padding in self.paddings),
        }
        parts = [f"{name} = {{{', '.join(values)}}}" for name, values in quoted.items()]
        path.write_text("return {" + ",\n".join(parts) + "}\n")
