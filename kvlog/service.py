"""What a node does for its clients, whatever protocol they speak: reads, writes, and the way to the leader."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Protocol

from kvlog.config import Settings
from kvlog.core import events as ev
from kvlog.core.entry import OWN_ID
from kvlog.core.machine import Command, Position, Record, Remembered
from kvlog.core.status import Status
from kvlog.core.values import Ack, Answer, Outcome, PushAnswer, PushBody, Redirect, Refused, Unknown
from kvlog.errors import InvariantViolation, Unavailable
from kvlog.failpoints import hit
from kvlog.peers import Forwarded, HttpPeers, NoAnswer, NotSent
from kvlog.ports import Clock, Store
from kvlog.runtime import Freshness, Runtime
from kvlog.snapshot import encode, header_of

WRITES_MAX = 256
"""Writes that may wait at a time. Each holds one of the server's threads; the rest of them stay free for reads
and for pushes (see front.THREADS)."""

RETRY_S = 0.05
"""Pause before a write is tried again at a leader that was just being replaced: about the time a change takes."""

FORWARD_MARGIN_S = 0.3
"""How much longer than the write's own time the leader's answer is waited for: it answers at the deadline."""

CATCHUP_S = 30.0
"""How long a request to heal a stale store waits for it to be done."""

OPERATOR_S = 10.0
"""How long any other request of an operator waits to be done."""

REQUEST_ID_HEADER = "Kvlog-Request-Id"
"""In a forwarded write: the id under which its outcome is remembered, the client's or the forwarding node's."""

CLUSTER_HEADER = "Kvlog-Cluster"
"""In a forwarded write: the cluster that it is for. A node of another one may have the leader's address by now."""

COPIES_MAX = 2
"""Copies of the store at a time: each reads all of it, and keeps what is overwritten meanwhile on the disk."""

STREAMS_MAX = 8
"""Snapshots that are being sent at a time. One that nobody reads loses its copy soon, but holds its thread for as
long as the client keeps the connection."""

RETRY_HEADER = "Kvlog-Retry"
"""In a leader's answer to a forwarded write: the write did not happen, and the reason passes within moments."""


@dataclass(frozen=True, slots=True)
class Read:
    """How old a read's result can be; ``staleness_ms`` is None if the node never was up to date."""

    revision: int
    applied_index: int
    tail_index: int
    staleness_ms: int | None
    missed_entries: int
    halted_at: int | None


@dataclass(frozen=True, slots=True)
class Write:
    """A write as a client, or another node, has sent it.

    ``request_id`` is empty where the client gave none. ``method``, ``path`` and ``body`` are what the leader is
    sent; the path has no query. ``cluster_id`` is that of the node which has forwarded it, if it has said so.
    """

    command: Command
    request_id: str
    ack: Ack
    timeout_s: float
    forwarded: bool
    method: str
    path: str
    body: bytes
    cluster_id: str = ""


class StoreCopy(Protocol):
    """The bytes of a copy of the store at ``position``; see lmdb_copy."""

    position: Position
    size: int

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None:
        """End the copy."""


class CopyStore(Protocol):
    """Begins a copy of the store as it is now; calls ``ended`` when the store is not held any more."""

    def __call__(self, *, ended: Callable[[], None]) -> StoreCopy:
        """Raises StoreFailure."""


@dataclass(frozen=True, slots=True)
class NoSnapshot:
    """This node's store is not fit to be copied: where it stands, and why it is not."""

    reason: str
    applied_index: int


class SnapshotStream:
    """A snapshot in pieces, to be sent; whoever has it closes it."""

    def __init__(self, pieces: Iterator[bytes], copy: StoreCopy, closed: Callable[[], None]) -> None:
        self._pieces = pieces
        self._copy = copy
        self._closed: Callable[[], None] | None = closed

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        """End it, wherever it is."""
        closed, self._closed = self._closed, None
        if closed is not None:
            self._copy.close()
            closed()

    def __del__(self) -> None:
        self.close()


class Service:
    """One node's operations; its methods are called on the server's threads, and wait there."""

    def __init__(
        self,
        settings: Settings,
        *,
        instance: str,
        runtime: Runtime,
        store: Store,
        peers: HttpPeers,
        clock: Clock,
        kill: Callable[[], None],
        copy_store: CopyStore,
    ) -> None:
        self.settings = settings
        self.instance = instance
        self.kill = kill
        self._runtime = runtime
        self._store = store
        self._peers = peers
        self._clock = clock
        self._slots = threading.BoundedSemaphore(WRITES_MAX)
        self._own_ids = itertools.count(1)
        self._copy_store = copy_store
        self._copies = threading.BoundedSemaphore(COPIES_MAX)
        self._streams = threading.BoundedSemaphore(STREAMS_MAX)

    # --- reads --------------------------------------------------------------------------------------------

    def read(self, key: str) -> tuple[Record | None, Read]:
        """This replica's record of a key, as of now here."""
        freshness = self._runtime.freshness
        record, position = self._store.read(key)
        return record, self._read_at(freshness, position)

    def request(self, request_id: str) -> tuple[Remembered | None, int, Read]:
        """What this replica remembers of a request, for how many revisions it does, and how old that can be."""
        freshness = self._runtime.freshness
        outcome, position = self._store.read_request(request_id)
        return outcome, position.window, self._read_at(freshness, position)

    def _read_at(self, freshness: Freshness, position: Position) -> Read:
        staleness_ms = None
        if freshness.fresh_as_of is not None:
            staleness_ms = max(0, round((self._clock.monotonic() - freshness.fresh_as_of) * 1000))
        return Read(
            revision=position.revision,
            applied_index=position.applied_index,
            tail_index=max(freshness.tail_index, position.applied_index),
            staleness_ms=staleness_ms,
            missed_entries=position.missed_entries,
            halted_at=freshness.halted_at,
        )

    @property
    def missed_entries(self) -> int:
        """How many entries this node's store has missed: more than 0 means stale."""
        return self._runtime.freshness.missed_entries

    @property
    def halted_at(self) -> int | None:
        """The entry at which this node has halted: what is read here is as of the one before."""
        return self._runtime.freshness.halted_at

    def status(self) -> Status:
        """The node's status.

        Raises:
            Unavailable: the node does not decide at the moment.
        """
        return self._runtime.status()

    # --- writes -------------------------------------------------------------------------------------------

    def write(self, write: Write) -> Outcome | Forwarded:
        """Carry out a write here or at the leader, within its time.

        One that was refused for a passing reason (a change of leader) is tried again until its time is over. A
        forwarded one whose answer got lost is asked for again under its id, so that it is never done twice.
        """
        if write.cluster_id and write.cluster_id != self._cluster_id:
            return Refused("this node belongs to another cluster, or does not know yet to which one", retry=True)
        if not self._slots.acquire(blocking=False):
            return Refused(f"{WRITES_MAX} writes are waiting on this node already")
        try:
            return self._write(write)
        finally:
            self._slots.release()

    def _write(self, write: Write) -> Outcome | Forwarded:
        deadline = self._clock.monotonic() + write.timeout_s
        not_epoch = 0
        unsure = ""  # why an earlier try may have been carried out
        while True:
            answer = self._submit(write, deadline, not_epoch=not_epoch)
            result: Outcome | Forwarded
            pause, again = True, False
            if isinstance(answer, Redirect):
                if not write.request_id:
                    write = replace(write, request_id=f"{OWN_ID}{self.instance}-{next(self._own_ids)}")
                sent = self._forward(answer, write, deadline)
                if isinstance(sent, NoAnswer):
                    unsure, again = sent.reason, True
                    result = Unknown(unsure)
                elif isinstance(sent, NotSent):
                    # Until somebody else leads, asking there again is of no use: the node itself waits for that.
                    not_epoch, pause, again = answer.epoch, False, True
                    result = Refused(sent.reason, retry=True)
                else:
                    result, again = sent, RETRY_HEADER in sent.headers
            elif isinstance(answer, Outcome):
                result = answer
                again = isinstance(answer, Refused) and answer.retry and not write.forwarded
            else:
                raise InvariantViolation(f"a write was answered {answer}")
            if not again or self._clock.monotonic() + RETRY_S >= deadline:
                return Unknown(unsure) if unsure and _says_refused(result) else result
            if pause:
                time.sleep(RETRY_S)

    @property
    def _cluster_id(self) -> str:
        identity = self._store.position().identity
        return identity.cluster_id if identity is not None else ""

    def _submit(self, write: Write, deadline: float, *, not_epoch: int) -> Answer:
        return self._runtime.ask(
            lambda token: ev.WriteSubmitted(
                token,
                write.command,
                write.ack,
                deadline,
                forwarded=write.forwarded,
                not_epoch=not_epoch,
                request_id=write.request_id,
            ),
            deadline - self._clock.monotonic(),
        )

    def _forward(self, to: Redirect, write: Write, deadline: float) -> Forwarded | NotSent | NoAnswer:
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            return NotSent("the write's time ran out before it reached the leader")
        headers = {
            "Kvlog-Forwarded": self.settings.node_id,
            REQUEST_ID_HEADER: write.request_id,
            CLUSTER_HEADER: self._cluster_id,
        }
        if write.body:
            headers["Content-Type"] = "application/json"
        return self._peers.forward(
            write.method,
            to.leader.address,
            f"{write.path}?ack={write.ack.value}&timeout_ms={max(1, round(left_s * 1000))}",
            write.body,
            headers,
            left_s + FORWARD_MARGIN_S,
        )

    # --- between nodes, and for operators -----------------------------------------------------------------

    def propagate(self, body: PushBody) -> PushAnswer | Refused:
        """Take a leader's push."""
        answer = self._runtime.ask(lambda token: ev.PushArrived(token, body), 2.0)
        if isinstance(answer, PushAnswer | Refused):
            return answer
        raise Unavailable("this node did not take the push in time")

    def snapshot(self, min_index: int) -> SnapshotStream | NoSnapshot:
        """A copy of this node's whole store, applied up to ``min_index`` or further.

        Raises:
            Unavailable: as many as may be are being sent already.
            StoreFailure: the store cannot be read.
        """
        if not self._streams.acquire(blocking=False):
            raise Unavailable(f"{STREAMS_MAX} snapshots are being sent by this node already")
        stream: SnapshotStream | NoSnapshot | None = None
        try:
            stream = self._snapshot(min_index)
        finally:
            if not isinstance(stream, SnapshotStream):
                self._streams.release()
        return stream

    def _snapshot(self, min_index: int) -> SnapshotStream | NoSnapshot:
        reason = _unfit(self._store.position(), min_index)
        if reason is not None:
            return reason
        if not self._copies.acquire(blocking=False):
            raise Unavailable(f"{COPIES_MAX} copies of this node's store are being made already")
        try:
            copy = self._copy_store(ended=self._copies.release)
        except BaseException:
            self._copies.release()
            raise
        # What the store lacked before, it may have lacked again when the copy began.
        reason = _unfit(copy.position, min_index)
        if reason is not None:
            copy.close()
            return reason
        header = header_of(
            copy.position,
            size=copy.size,
            created_ms=self._clock.wall_ms(),
            node_id=self.settings.node_id,
        )
        return SnapshotStream(_one_by_one(encode(header, copy)), copy, self._streams.release)

    def catch_up(self) -> Answer:
        """Fill in what a stale store has missed; waits until that is done."""
        return self._runtime.ask(ev.CatchupRequested, CATCHUP_S)

    def remove_replica(self, node_id: str) -> Answer:
        """Do not count on a node any more that is gone for good."""
        return self._runtime.ask(lambda token: ev.RemovalRequested(token, node_id), OPERATOR_S)

    def skip(self, index: int, reason: str) -> Answer:
        """Have the entry skipped at which this node has halted; waits until it has gone on."""
        return self._runtime.ask(lambda token: ev.SkipRequested(token, index, reason), OPERATOR_S)


def _one_by_one(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The parts of a snapshot, with a failpoint between each two."""
    for number, part in enumerate(parts):
        if number:
            hit("mid_snapshot")
        yield part


def _says_refused(result: Outcome | Forwarded) -> bool:
    """Whether this says that the write did not happen, which is true of the last try only."""
    if isinstance(result, Forwarded):
        return result.status == HTTPStatus.SERVICE_UNAVAILABLE
    return isinstance(result, Refused)


def _unfit(position: Position, min_index: int) -> NoSnapshot | None:
    """Why a store at this position is no snapshot for others, if so."""
    if position.gaps:
        reason = f"this node's store is stale: it has missed {position.missed_entries} entries"
    elif position.identity is None:
        reason = "this node's store belongs to no log yet"
    elif position.applied_index < min_index:
        reason = f"this node's store stands at index {position.applied_index}, {min_index} was asked for"
    else:
        return None
    return NoSnapshot(reason, position.applied_index)
