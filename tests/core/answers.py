"""What tests expect of an answer, without what does not matter to them."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvlog.core.effects import Reply
from kvlog.core.values import Committed


@dataclass(eq=False)
class Landed:
    """Equal to the reply "committed" to this token, whatever the write has made of its key."""

    token: int
    revision: int
    index: int
    replicas: dict[str, str] = field(default_factory=dict)
    repeated: bool = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply) or not isinstance(other.answer, Committed):
            return False
        answer = other.answer
        found = (other.token, answer.revision, answer.index, answer.replicas, answer.repeated, answer.failed)
        return found == (self.token, self.revision, self.index, self.replicas, self.repeated, "")

    __hash__ = None  # type: ignore[assignment]
