"""What a checker finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.operations import Evidence, Operation


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken.

    ``invariant`` is its number in docs/reliability.md (I1 to I15), ``what`` a sentence for people, ``operations``
    those that show it.
    """

    invariant: str
    what: str
    operations: tuple[Operation, ...] = ()


Checker = Callable[[Evidence], list[Violation]]
"""Finds what is broken; an empty list if nothing is."""
