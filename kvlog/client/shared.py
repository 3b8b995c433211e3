"""What all calls of one client share: the nodes, which of them answered last, and the highest revision seen."""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections.abc import Callable, Sequence

from kvlog.client.errors import BadRequest

_ADDRESS = re.compile(r"(?:http://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})/?")

PORT_MAX = 65535


def clock() -> float:
    """Seconds on a clock that only goes forward, and goes on while the machine is suspended where it can tell."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def addresses(nodes: str | Sequence[str]) -> tuple[str, ...]:
    """The nodes' addresses, each ``HOST:PORT``, in the order in which they are to be asked.

    Raises:
        BadRequest: there is none, one is given twice, or it is no address.
    """
    texts = [text.strip() for text in (nodes.split(",") if isinstance(nodes, str) else nodes)]
    found = []
    for text in texts:
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match[2]) <= PORT_MAX:
            raise BadRequest(
                f"{text!r} is no address of a node: write HOST:PORT, or several with commas between them"
            )
        found.append(f"{match[1]}:{int(match[2])}")
    if not found or len(set(found)) < len(found):
        raise BadRequest(f"nodes={nodes!r}: name at least one node, and each of them once")
    return tuple(found)


class Shared:
    """See the module's docstring. Any thread may use it.

    Attributes:
        nodes: the addresses.
        timeout: seconds that a call may take.
        read_your_writes: whether reads wait for ``revision``.
    """

    def __init__(
        self,
        nodes: str | Sequence[str],
        *,
        timeout: float,
        read_your_writes: bool,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < timeout < math.inf:
            raise BadRequest(f"timeout={timeout!r}: must be a number of seconds, more than 0")
        self.nodes = addresses(nodes)
        self.timeout = timeout
        self.read_your_writes = read_your_writes
        self.chance = chance
        self._lock = threading.Lock()
        self._revision = 0
        self._first = 0

    @property
    def revision(self) -> int:
        """The highest revision that any answer has told of; it only rises."""
        return self._revision

    def saw(self, revision: int) -> None:
        """An answer tells that the cluster has reached this revision."""
        with self._lock:
            self._revision = max(self._revision, revision)

    @property
    def first(self) -> int:
        """The number of the node to ask first: that which answered last."""
        return self._first

    def prefer(self, node: str) -> None:
        """The node at this address has answered."""
        if node in self.nodes:
            self._first = self.nodes.index(node)

    def at_least(self, min_revision: int | None) -> int | None:
        """The revision that a read has to wait for: the one asked for, else that of this client, else none."""
        if min_revision is None and self.read_your_writes and self._revision:
            return self._revision
        return min_revision
