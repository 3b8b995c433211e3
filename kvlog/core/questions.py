"""What has been asked and not been answered yet."""

from __future__ import annotations

from kvlog.core.effects import Effect

RETRY_S = 0.1
"""Pause before something that has failed is asked again: ZooKeeper may refuse at once, and for long."""


class Questions:
    """Nothing is asked twice at a time, or again too soon."""

    def __init__(self) -> None:
        self.now = 0.0
        self._open: set[tuple[type, str]] = set()
        self._not_before: dict[tuple[type, str], float] = {}

    def ask(self, effect: Effect, name: str = "") -> list[Effect]:
        """The effect to carry out, or nothing if its answer is still to come, or has just been a failure."""
        question = (type(effect), name)
        if question in self._open or self.now < self._not_before.get(question, 0.0):
            return []
        self._not_before.pop(question, None)
        self._open.add(question)
        return [effect]

    def is_open(self, kind: type, name: str = "") -> bool:
        """Whether the answer is still to come."""
        return (kind, name) in self._open

    def answered(self, kind: type, name: str = "") -> None:
        """The answer has come."""
        self._open.discard((kind, name))

    def failed(self, kind: type, name: str = "") -> None:
        """It has come to nothing."""
        self._open.discard((kind, name))
        self._not_before[(kind, name)] = self.now + RETRY_S
