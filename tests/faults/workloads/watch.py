"""Watchers: each follows a prefix from node to node, and keeps what it was told."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from tests.faults.operations import Delivery, Ended

SILENCE_S = 4.0
"""A stream that says nothing for so long is left: progress is told every second."""

STAY_S = (3.0, 25.0)
"""How long a watcher stays with a node that serves it, so that it also goes on elsewhere without need."""

AGAIN_S = 0.1
"""Between two nodes: where none listens, each try would take no time."""

PREFIXES = ("", "register/", "set/", "bank/", "list/")
"""What the watchers watch, one after the other; the first of them everything."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    kind: str
    data: dict[str, Any]


class Broken(Exception):
    """The stream has come to an end that is none of its own, or is not to be had."""


class Watcher:
    """One watcher: it runs on a thread of its own until it is told where to end.

    Attributes:
        accounts: of itself; more than one if no node kept any more what it wanted next.
        moves: how often it has gone on at another node.
    """

    def __init__(self, prefix: str, addresses: Sequence[str], after: int, draw: random.Random) -> None:
        """It wants everything behind revision ``after``, of the first of the addresses first."""
        self.prefix = prefix
        self.accounts: list[Ended] = []
        self.deliveries: list[Delivery] = []
        self.moves = 0
        self.trouble: BaseException | None = None
        self._number, self._after, self._through = next(_numbers), after, after
        self._addresses = itertools.cycle(addresses)
        self._draw = draw
        self._until: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watcher {self._number}", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def end_at(self, revision: int) -> None:
        """Go on until everything up to a revision has been told."""
        self._until = revision

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; whether it has come to where it was told to end."""
        self._thread.join(timeout_s)
        came = not self._thread.is_alive() and self.trouble is None
        self._ended.set()
        self._thread.join(2 * SILENCE_S)
        self._account()
        return came

    def _run(self) -> None:
        try:
            while not self._done() and not self._ended.is_set():
                try:
                    self._follow(next(self._addresses))
                except (Broken, OSError, http.client.HTTPException):
                    time.sleep(AGAIN_S)
                self.moves += 1
        except BaseException as error:  # noqa: BLE001 - told by whoever waits for its end
            self.trouble = error

    def _done(self) -> bool:
        return self._until is not None and self._through >= self._until

    def _follow(self, address: str) -> None:
        """One node, for a while."""
        leave_at = time.monotonic() + self._draw.uniform(*STAY_S)
        host, _, port = address.rpartition(":")
        fields = {"heartbeat": "1", **({"prefix": self.prefix} if self.prefix else {})}
        with closing(http.client.HTTPConnection(host, int(port), timeout=SILENCE_S)) as connection:
            target, headers = f"/v1/watch?{urlencode(fields)}", {"Last-Event-ID": str(self._through)}
            connection.request("GET", target, headers=headers)
            with closing(connection.getresponse()) as answer:
                if answer.status == HTTPStatus.GONE:
                    self._begin_anew(int(json.loads(answer.read())["floor"]))
                    return
                if answer.status != HTTPStatus.OK:
                    raise Broken(f"{answer.status}")
                for event in events(answer.readline):
                    self._take(address, event)
                    if self._done() or self._ended.is_set() or time.monotonic() > leave_at:
                        return

    def _take(self, address: str, event: Event) -> None:
        if event.kind == "error":
            raise Broken(str(event.data.get("type")))
        revision = int(event.data["revision"])
        if event.kind == "change":
            now = time.monotonic_ns()
            for place, change in enumerate(event.data["changes"]):
                value = change["value"] if change["op"] == "put" else None
                self.deliveries.append(Delivery(self._number, revision, change["key"], value, address, now, place))
        self._through = max(self._through, revision)

    def _account(self) -> None:
        self.accounts.append(Ended(self._number, self.prefix, self._after, self._through))

    def _begin_anew(self, floor: int) -> None:
        """What comes next is not kept by this node: as another watcher, from what it keeps on."""
        self._account()
        self._number, self._after, self._through = next(_numbers), floor, floor


def events(read_line: Callable[[], bytes]) -> Iterator[Event]:
    """The events of a stream, up to its end; one that is cut off is none.

    Raises:
        OSError, http.client.HTTPException: it does not go on.
    """
    kind, data = "", b""
    while line := read_line():
        if not line.endswith(b"\n"):
            return  # it broke off within a line
        name, _, value = line.rstrip(b"\n").partition(b": ")
        if name == b"event":
            kind = value.decode()
        elif name == b"data":
            data = value
        elif not name and kind:
            yield Event(kind, json.loads(data))
            kind, data = "", b""


class Watchers:
    """All watchers of a run."""

    def __init__(self, addresses: Sequence[str], after: int, draw: random.Random) -> None:
        self._all = [
            Watcher(
                prefix,
                [*addresses[place % len(addresses) :], *addresses[: place % len(addresses)]],
                after,
                random.Random(draw.random()),
            )
            for place, prefix in enumerate(PREFIXES)
        ]

    def start(self) -> None:
        """Begin to watch."""
        for watcher in self._all:
            watcher.start()

    def end_at(self, revision: int, timeout_s: float) -> list[str]:
        """Wait until all of them have been told everything up to a revision; who has not in time, in sentences."""
        for watcher in self._all:
            watcher.end_at(revision)
        until, late = time.monotonic() + timeout_s, []
        for watcher in self._all:
            if not watcher.join(max(0.1, until - time.monotonic())):
                where = f"was told everything up to revision {watcher.accounts[-1].through}, not {revision}"
                late.append(f"the watcher of {watcher.prefix!r} {where} within {timeout_s:g} s: {watcher.trouble}")
        return late

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """What all of them were told, each in the order in which it came."""
        return tuple(each for watcher in self._all for each in watcher.deliveries)

    @property
    def accounts(self) -> tuple[Ended, ...]:
        """Which of them there were."""
        return tuple(each for watcher in self._all for each in watcher.accounts)

    @property
    def moves(self) -> int:
        """How often one of them went on at another node."""
        return sum(watcher.moves for watcher in self._all)
