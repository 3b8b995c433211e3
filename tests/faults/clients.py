"""The clients of a run: how they ask the nodes.

A client has kept connections, one operation under way at a time, and sends nothing a second time but what it was
told to. What it cannot know, it notes as unknown.
"""

from __future__ import annotations

import http.client
import json
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from tests.faults.answers import Reply, Verdict, of_all_tries, read_one, read_page, settled, written
from tests.faults.operations import History, Kind, Operation, Outcome

NODE_S = 2.0
"""The time that a node is given for a request."""

ANSWER_S = 3.0
"""How long a client waits for the answer."""

TRIES = 3
"""How often an operation under an id is sent at most."""

OPERATION_S = TRIES * (ANSWER_S + 0.1)
"""How long an operation takes at most, all of its tries together."""

AGAIN_S = 0.1
"""Until the next try: where no node listens, each would take no time at all."""

PAGE = 1_000

LINEARIZABLE, LOCAL = "linearizable", "local"
"""Modes of reads."""

LOG_SHARE, ITEM_SHARE, SEEN_SHARE, SETTLE_SHARE = 0.3, 0.2, 0.5, 0.5
"""Of the writes, how many wait for the log only; of the reads, how many ask for JSON; of the local ones, how many
for what their client was told of already, on whichever node; of the writes that have become unknown, how many are
settled with the last try."""


class NotSent(Exception):
    """Nothing of the request has left: it cannot have happened."""


class NoAnswer(Exception):
    """The request was sent, or begun to be; what has become of it is not known."""


class Line:
    """One kept connection to one node; ``answer_s``: how long an answer is waited for."""

    def __init__(self, address: str, answer_s: float = ANSWER_S) -> None:
        self.address = address
        self._answer_s = answer_s
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        """One request, sent once; its answer.

        Raises:
            NotSent, NoAnswer: as their names say.
        """
        until = time.monotonic() + self._answer_s
        connection = self._connected()
        try:
            connection.request(method, target, body, dict(headers))
            _limit(connection, until)
            response = connection.getresponse()
            _limit(connection, until)
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        if response.will_close:
            self.close()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, data)

    def close(self) -> None:
        """Leave; the next request gets a new connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> http.client.HTTPConnection:
        kept = self._connection
        if kept is not None and kept.sock is not None and not _ended(kept.sock):
            kept.sock.settimeout(self._answer_s)
            return kept
        self.close()
        host, _, port = self.address.rpartition(":")
        made = http.client.HTTPConnection(host, int(port), timeout=self._answer_s)
        try:
            made.connect()
        except OSError as error:
            made.close()
            raise NotSent(f"{type(error).__name__}: {error}") from error
        made.auto_open = 0  # never a second connection behind our back
        self._connection = made
        return made


def _ended(kept: socket.socket) -> bool:
    """Whether the node has closed a connection on which nothing was asked: nothing else can be there to read."""
    poll = select.poll()
    poll.register(kept, select.POLLIN)
    return bool(poll.poll(0))


def _limit(connection: http.client.HTTPConnection, until: float) -> None:
    if connection.sock is not None:  # None: its end has come with the head of the answer
        connection.sock.settimeout(max(0.01, until - time.monotonic()))


class Lives:
    """Which processes of a node have had the same store, as far as that matters.

    Attributes:
        losing: whether a fault is taking stores away, so that a process nobody has seen yet may have a new one.
    """

    def __init__(self) -> None:
        self.losing = False
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], int] = {}
        self._latest: dict[str, int] = {}

    def of(self, node: str, instance: str) -> int:
        """The number of the life that a node's process belongs to."""
        with self._lock:
            if (node, instance) not in self._known:
                self._latest[node] = self._latest.get(node, 0) + self.losing
                self._known[node, instance] = self._latest[node]
            return self._known[node, instance]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, whichever node gets it, and what its answer means."""

    method: str
    path: str
    means: Callable[[Reply], Verdict]
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Client:
    """One client: a process of the history. It moves to another node when its own does not answer.

    Attributes:
        process: its number.
        workload: under whose name it notes its operations.
        draw: what it leaves to chance.
        seen: the highest revision that it was told of.
    """

    def __init__(
        self,
        process: int,
        workload: str,
        addresses: Sequence[str],
        history: History,
        draw: random.Random,
        *,
        once: float = 0.5,
        lives: Lives | None = None,
    ) -> None:
        """It asks the first of the addresses first. ``once``: the share of its writes that it sends under ids."""
        self.process = process
        self.workload = workload
        self.draw = draw
        self.seen = 0
        self._lines = [Line(address) for address in addresses]
        self._at = 0
        self._history = history
        self._once = once
        self._lives = lives or Lives()
        self._life = 0
        self._values = 0

    @property
    def node(self) -> str:
        """The address that it asks next."""
        return self._lines[self._at].address

    def move(self) -> None:
        """Ask the next node from now on."""
        self._at = (self._at + 1) % len(self._lines)

    def close(self) -> None:
        """Leave all nodes."""
        for line in self._lines:
            line.close()

    def value(self) -> str:
        """A value that nobody else has written, nor will."""
        self._values += 1
        return f"{self.process}-{self._values}"

    # --- writes -------------------------------------------------------------------------------------------

    def write(self, key: str, value: str) -> Operation:
        """Set a key."""
        ask = Ask("PUT", _path(key), written, self._limits(), value.encode(), {"Content-Type": "text/plain"})
        return self._write(Kind.WRITE, ask, key, value)

    def delete(self, key: str) -> Operation:
        """Remove a key."""
        return self._write(Kind.DELETE, Ask("DELETE", _path(key), written, self._limits()), key)

    def cas(self, key: str, expected: str | None, new: str) -> Operation:
        """Set a key if it has the value that is expected; None: if it is not there."""
        return self._write(Kind.CAS, self._transaction({key: (expected, new)}), key, (expected, new))

    def transfer(self, changes: Mapping[str, tuple[str | None, str]]) -> Operation:
        """Set each key to the second value if all of them have the first."""
        return self._write(Kind.TRANSFER, self._transaction(changes), "", dict(changes))

    def _limits(self) -> dict[str, str]:
        ack = {"ack": "log"} if self.draw.random() < LOG_SHARE else {}
        return {"timeout_ms": str(round(NODE_S * 1000)), **ack}

    def _transaction(self, changes: Mapping[str, tuple[str | None, str]]) -> Ask:
        compare: list[dict[str, object]] = [
            {"key": key, "target": "version", "op": "=", "value": 0}
            if expected is None
            else {"key": key, "target": "value", "op": "=", "value": expected}
            for key, (expected, _) in changes.items()
        ]
        then = [{"op": "put", "key": key, "value": new} for key, (_, new) in changes.items()]
        body = json.dumps({"compare": compare, "then": then}).encode()
        return Ask("POST", "/v1/txn", written, self._limits(), body, {"Content-Type": "application/json"})

    def _write(self, kind: Kind, ask: Ask, key: str, argument: Any = None) -> Operation:
        number, invoked_ns = self._history.number(), time.monotonic_ns()
        once = self.draw.random() < self._once
        request_id = f"p{self.process}-{number}" if once else ""
        # What is settled does not tell whether a condition held.
        settles = kind in (Kind.WRITE, Kind.DELETE) and self.draw.random() < SETTLE_SHARE
        verdicts: list[Verdict] = []
        asked = self.node
        for tries in range(1, (TRIES if once else 1) + 1):
            if tries > 1:
                time.sleep(AGAIN_S)
                self.move()
            asked = self.node
            if tries == TRIES and settles and any(each.outcome is Outcome.UNKNOWN for each in verdicts):
                limit = {"timeout_ms": ask.fields["timeout_ms"]}
                verdicts.append(self._ask(Ask("DELETE", f"/v1/requests/{request_id}", settled, limit)))
            else:
                verdicts.append(self._ask(ask, request_id))
            if verdicts[-1].final:
                break
        known = of_all_tries(verdicts)
        self._take_notice(verdicts[-1])
        more = {"key": key, "argument": argument, "request_id": request_id, "tries": tries}
        return self._note(number, kind, asked, invoked_ns, known, **more)

    # --- reads --------------------------------------------------------------------------------------------

    def read(self, key: str, mode: str) -> Operation:
        """What a key holds."""
        number, invoked_ns, asked = self._history.number(), time.monotonic_ns(), self.node
        headers = {"Accept": "application/json"} if self.draw.random() < ITEM_SHARE else {}
        least = self._least(mode)
        found = self._ask(Ask("GET", _path(key), read_one, _age(mode, least), headers=headers))
        self._take_notice(found)
        return self._note(number, Kind.READ, asked, invoked_ns, found, key=key, mode=mode, min_revision=least)

    def read_all(self, prefix: str, mode: str) -> Operation:
        """What all keys with a prefix hold, at one revision."""
        number, invoked_ns, asked = self._history.number(), time.monotonic_ns(), self.node
        values: dict[str, str] = {}
        following: list[str] = []

        def page(reply: Reply) -> Verdict:
            following[:] = [reply.body["next"]] if "next" in reply.body else []
            return read_page(reply)

        fields, least = {"prefix": prefix, "limit": str(PAGE)}, self._least(mode)
        found = first = self._ask(Ask("GET", "/v1/kv", page, {**fields, **_age(mode, least)}))
        while found.outcome is Outcome.OK:
            values |= found.result
            if not following:
                found = Verdict(Outcome.OK, first.revision, first.index, values)
                break
            found = self._ask(
                Ask("GET", "/v1/kv", page, {**fields, "from": following[0], "at": str(first.revision)})
            )
        self._take_notice(found)
        return self._note(number, Kind.READ_ALL, asked, invoked_ns, found, mode=mode, min_revision=least)

    def _least(self, mode: str) -> int:
        """The revision that a read asks for at least."""
        return self.seen if mode == LOCAL and self.draw.random() < SEEN_SHARE else 0

    # --- both ---------------------------------------------------------------------------------------------

    def _ask(self, ask: Ask, request_id: str = "") -> Verdict:
        """One request to the node that is asked at present."""
        target = f"{ask.path}?{urlencode(ask.fields)}" if ask.fields else ask.path
        headers = {**ask.headers, **({"Idempotency-Key": request_id} if request_id else {})}
        try:
            reply = self._lines[self._at].ask(ask.method, target, ask.body, headers)
            self._life = self._lives.of(self.node, reply.headers.get("kvlog-instance", ""))
            return ask.means(reply)
        except NotSent as error:
            return Verdict(Outcome.REFUSED, error=f"not sent: {error}")
        except NoAnswer as error:
            return Verdict(
                Outcome.REFUSED if ask.method == "GET" else Outcome.UNKNOWN, error=f"no answer: {error}"
            )

    def _take_notice(self, last: Verdict) -> None:
        """Remember how far the log is; leave a node that does not answer."""
        self.seen = max(self.seen, last.revision)
        if last.error:
            self.move()

    def _note(
        self, number: int, kind: Kind, node: str, invoked_ns: int, verdict: Verdict, **more: Any
    ) -> Operation:
        answered = not verdict.error.startswith("no answer")
        return self._history.note(
            Operation(
                number=number,
                process=self.process,
                workload=self.workload,
                kind=kind,
                node=node,
                invoked_ns=invoked_ns,
                returned_ns=time.monotonic_ns() if answered or verdict.outcome is not Outcome.UNKNOWN else None,
                outcome=verdict.outcome,
                revision=verdict.revision,
                index=verdict.index,
                result=verdict.result,
                error=verdict.error,
                life=self._life,
                **more,
            )
        )


def _age(mode: str, least: int) -> dict[str, str]:
    """How old a read may be, as parameters."""
    limit = {"timeout_ms": str(round(NODE_S * 1000))}
    if mode == LINEARIZABLE:
        return {"linearizable": "true", **limit}
    return {"min_revision": str(least), **limit} if least else {}


def _path(key: str) -> str:
    return f"/v1/kv/{quote(key)}"
