"""What the cases have in common that handle the nodes of a system one by one."""

from __future__ import annotations

import random
import string

from bench.case import Case
from bench.dialects import DIALECTS, Dialect, spoken
from bench.inputs import PREFIX
from bench.members import EtcdMembers, KvlogMembers, members_of
from bench.systems.base import System
from bench.systems.loaded import HttpSystem

VALUE_BYTES = 100
NUMBER_DIGITS = 12


class MembersCase(Case):
    """A case of a system whose nodes can be stopped one by one, and of which there can be another one.

    Its values are a number and padding, which is drawn once.
    """

    @classmethod
    def fits(cls, system: System) -> bool:
        """See Case."""
        return spoken(system) is not None and members_of(system) is not None

    def generate(self) -> None:
        """What the values are made of."""
        self.draw = random.Random(self.seed)
        self.padding = "".join(self.draw.choices(string.ascii_letters, k=VALUE_BYTES - NUMBER_DIGITS))

    def prepare(self, system: System) -> None:
        """How the system is spoken to. Nothing has to be there."""
        asked, members = spoken(system), members_of(system)
        assert asked is not None
        assert members is not None
        self.asked: HttpSystem = asked
        self.members: KvlogMembers | EtcdMembers = members
        self.dialect: Dialect = DIALECTS[asked.dialect]

    def value(self, number: int) -> str:
        """The one with this number."""
        return f"{number:0{NUMBER_DIGITS}}{self.padding}"

    def items(self, numbers: range) -> dict[str, str]:
        """Keys with these numbers, and the values with the same ones."""
        return {key_of(number): self.value(number) for number in numbers}


def key_of(number: int) -> str:
    """The one with this number."""
    return f"{PREFIX}{number:08}"
