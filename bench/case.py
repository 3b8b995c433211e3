"""What is measured, and how it is believed: cases, their figures, and their verification.

Every case runs against every system that can do it in the same four steps: ``prepare`` (the data that has to be
there), ``generate`` (the inputs, from a seed), ``execute`` (the measurement) and ``verify`` (what was written is
there, what was read is right). A run that cannot be verified has no figures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from bench.systems.base import System


class Unverified(Exception):
    """What a system has answered or holds is not what it must be: its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one run.

    ``name`` tells it within its case (``requests/s at 64``), ``unit`` is ``1/s``, ``ms``, ``s``, ``MiB`` ...;
    ``more_is_better`` tells which way a ratio is read.
    """

    name: str
    value: float
    unit: str
    more_is_better: bool


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: 1 is what the documents show, less is for trying it.

    ``seconds`` is how long one load lasts.
    """

    seconds: float
    share: float

    def of(self, count: int, *, least: int = 1) -> int:
        """So many of ``count``."""
        return max(least, round(count * self.share))


@dataclass
class Case(ABC):
    """One thing that is measured. A new object is made for each run of each system."""

    seed: int
    scale: Scale
    facts: dict[str, str] = field(default_factory=dict)
    """What else was seen, for the notes below the table."""

    fresh: ClassVar[bool] = False
    """Whether it needs a system for it alone: because of what others leave behind, or of what it does."""

    @classmethod
    def fits(cls, system: System) -> bool:  # noqa: ARG003 - for those who know
        """Whether the system can be measured in this way."""
        return True

    @abstractmethod
    def generate(self) -> None:
        """Make the inputs from the seed; nothing is measured yet."""

    @abstractmethod
    def prepare(self, system: System) -> None:
        """Put the data there that has to be."""

    @abstractmethod
    def execute(self, system: System) -> list[Figure]:
        """Measure."""

    @abstractmethod
    def verify(self, system: System) -> None:
        """See that the system has done what it was measured for.

        Raises:
            Unverified: it has not.
        """
