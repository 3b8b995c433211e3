"""Short visits to ZooKeeper: a session of its own for a few questions, every step bounded in time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError

from kvlog.errors import Unavailable

STOP_S = 2.0
"""How long a visitor waits for its session to close; kazoo's own stop can wait for ever."""

RECONNECT = {"max_tries": -1, "delay": 0.1, "backoff": 2, "max_jitter": 0.4, "max_delay": 0.7}
"""Try to connect for ever, with at most 0.7 s * 1.4 between two tries."""


@contextmanager
def visit(hosts: str, *, answer_s: float, stop_s: float | None = STOP_S) -> Iterator[KazooClient]:
    """A connected client, within ``answer_s``. ``stop_s``: how long closing is waited for; None: to its end.

    Raises:
        Unavailable: no connection in time, or what was done with it was refused or not answered.
    """
    logger = logging.getLogger("kvlog.kazoo")
    logger.setLevel(logging.CRITICAL)  # what matters of it arrives as exceptions
    client = KazooClient(hosts=hosts, timeout=answer_s, connection_retry=RECONNECT, logger=logger)
    try:
        connected = client.start_async()
    except OSError as error:  # no descriptors are left, say; kazoo cannot stop what it has not begun
        client.handler.stop()
        raise Unavailable(f"ZooKeeper at {hosts} cannot be visited: {error}") from error
    try:
        connected.wait(answer_s)
        if not client.connected:
            raise Unavailable(f"ZooKeeper at {hosts} gave no connection in {answer_s:g} s")
        yield client
    except (KazooTimeoutError, KazooException) as error:
        raise Unavailable(f"ZooKeeper at {hosts} gave no answer: {error!r}") from error
    finally:
        closing = threading.Thread(target=_close, args=(client,), name="kvlog-visit-stop", daemon=True)
        closing.start()
        closing.join(stop_s)


def _close(client: KazooClient) -> None:
    client.stop()
    client.close()
