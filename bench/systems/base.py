"""A system that is measured: its nodes as processes on this machine, and what every case asks of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class System(ABC):
    """Three nodes, or what the system has in their place; a context manager that starts and stops them.

    Attributes:
        name: as it stands in the tables.
    """

    name: str

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Start all nodes, on empty directories, and wait until writes are taken."""

    @abstractmethod
    def stop(self) -> None:
        """End all processes, whatever has been started of them, and remove their files."""

    @abstractmethod
    def version(self) -> str:
        """Of the software that is measured, without its name."""

    @property
    @abstractmethod
    def addresses(self) -> tuple[str, ...]:
        """``host:port`` of each node, that of the leader first, as of the last time that it was looked for."""

    @abstractmethod
    def find_leader(self) -> str:
        """Look again who leads; returns the address, which from now on is the first.

        Raises:
            Unavailable: nobody leads.
        """

    @abstractmethod
    def pids(self) -> dict[str, tuple[int, ...]]:
        """The processes by what they are (``node``, ``zookeeper``)."""

    @abstractmethod
    def put(self, key: str, value: str) -> None:
        """Write one key through the system's ordinary client interface; returns once it is acknowledged."""

    @abstractmethod
    def put_many(self, items: dict[str, str]) -> None:
        """Write many keys as fast as the system takes them; for what a case needs to be there."""

    @abstractmethod
    def get(self, key: str, *, node: int = 0) -> str | None:
        """Read one key from one node's own copy; None where it is not there."""
