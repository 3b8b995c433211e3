"""What every ensemble is, and how to ask a ZooKeeper server how it stands."""

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from kazoo.client import KazooClient
from kazoo.handlers.threading import KazooTimeoutError

from kvlog.errors import KvlogError

ANSWER_S = 5.0
"""Seconds that a server may take to answer."""

START_S = 60.0
"""Seconds until servers that were started must serve; an idle machine needs about four."""

Say = Callable[[str], None]
"""Takes a sentence for people: what goes on, when it takes longer than a moment."""


class EnsembleError(KvlogError):
    """There is no usable ZooKeeper; the message says why, and what to do."""


class Ensemble(ABC):
    """A running ZooKeeper. Entering starts it, unless `start` did before; leaving ends what was started."""

    hosts: str
    """The connection string for clients: "host:port,host:port,..."; set once it is started."""

    description: str
    """One sentence for people about what this is."""

    def __init__(self) -> None:
        self._started = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when clients are served, at once if started before. EnsembleError when that can not be."""
        if self._started:
            return
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        self._started = True

    def stop(self) -> None:
        """Ends what `start` has started; nothing happens when that is nothing."""
        self._started = False
        self._stop()

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None: ...


def why_not_serving(host: str, port: int) -> str | None:
    """None when a ZooKeeper with a quorum answers there, else why it can not be used."""
    try:
        answer = srvr(host, port, timeout_s=ANSWER_S)
    except OSError as error:
        return f"does not answer ({error})"
    if mode_in(answer) is not None:
        return None
    if "not currently serving" in answer:
        return "is a ZooKeeper server without a quorum: too few servers of its ensemble run"
    # Perhaps it only forbids the word `srvr` (4lw.commands.whitelist): a session tells.
    client = KazooClient(hosts=f"[{host}]:{port}" if ":" in host else f"{host}:{port}", timeout=ANSWER_S)
    try:
        client.start(timeout=ANSWER_S)
    except KazooTimeoutError:
        return "accepts connections but gives no session: no quorum, or no ZooKeeper"
    finally:
        client.stop()
        client.close()
    return None


def srvr(host: str, port: int, *, timeout_s: float) -> str:
    """A ZooKeeper server's answer to the word `srvr`, which is how it stands.

    OSError when it is not complete within about `timeout_s` seconds; TimeoutError is one.
    """
    deadline = time.monotonic() + timeout_s
    answer = b""
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        connection.sendall(b"srvr")
        while len(answer) < 65536:  # noqa: PLR2004 - far more than any server says
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = connection.recv(4096)
            if not part:
                break
            answer += part
    return answer.decode(errors="replace")


def mode_in(answer: str) -> str | None:
    """The mode in an answer to `srvr`, "leader", "follower", "standalone"...; None while nobody is served."""
    for line in answer.splitlines():
        if line.startswith("Mode: "):
            return line.removeprefix("Mode: ").strip()
    return None
