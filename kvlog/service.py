"""What a node does for its clients, whatever protocol they speak: reads, writes, and the way to the leader."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from kvlog.config import Settings
from kvlog.core import events as ev
from kvlog.core.machine import Position, Record, Update
from kvlog.core.status import Status
from kvlog.core.values import Ack, Answer, Committed, PushAnswer, PushBody, Redirect, Refused, Unknown
from kvlog.errors import InvariantViolation, Unavailable
from kvlog.peers import Forwarded, HttpPeers, NoAnswer, NotSent
from kvlog.ports import Clock, Store
from kvlog.runtime import Runtime
from kvlog.snapshot import encode, header_of

WRITES_MAX = 256
"""Writes that may wait at a time. Each holds one of the server's threads; the rest of them stay free for reads
and for pushes (see assembly.THREADS)."""

RETRY_S = 0.05
"""Pause before a write is tried again at a leader that was just being replaced: about the time a change takes."""

FORWARD_MARGIN_S = 0.3
"""How much longer than the write's own time the leader's answer is waited for: it answers at the deadline."""

CATCHUP_S = 30.0
"""How long a request to heal a stale store waits for it to be done."""

COPIES_MAX = 2
"""Copies of the store at a time: each reads all of it, and keeps what is overwritten meanwhile on the disk."""

STREAMS_MAX = 8
"""Snapshots that are being sent at a time. One that nobody reads loses its copy soon, but holds its thread for as
long as the client keeps the connection."""

RETRY_HEADER = "Kvlog-Retry"
"""In a leader's answer to a forwarded write: the write did not happen, and the reason passes within moments."""


@dataclass(frozen=True, slots=True)
class Read:
    """A read's result, and how old it can be; ``staleness_ms`` is None if the node never was up to date."""

    record: Record | None
    revision: int
    applied_index: int
    tail_index: int
    staleness_ms: int | None
    missed_entries: int


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
        self._copy_store = copy_store
        self._copies = threading.BoundedSemaphore(COPIES_MAX)
        self._streams = threading.BoundedSemaphore(STREAMS_MAX)

    # --- reads --------------------------------------------------------------------------------------------

    def read(self, key: str) -> Read:
        """This replica's record of a key, as of now here."""
        freshness = self._runtime.freshness
        record, position = self._store.read(key)
        staleness_ms = None
        if freshness.fresh_as_of is not None:
            staleness_ms = max(0, round((self._clock.monotonic() - freshness.fresh_as_of) * 1000))
        return Read(
            record=record,
            revision=position.revision,
            applied_index=position.applied_index,
            tail_index=max(freshness.tail_index, position.applied_index),
            staleness_ms=staleness_ms,
            missed_entries=position.missed_entries,
        )

    @property
    def missed_entries(self) -> int:
        """Entries that this node's store has missed: more than 0 means stale."""
        return self._runtime.freshness.missed_entries

    def status(self) -> Status:
        """The node's status.

        Raises:
            Unavailable: the node does not decide at the moment.
        """
        return self._runtime.status()

    # --- writes -------------------------------------------------------------------------------------------

    def write(
        self, update: Update, *, ack: Ack, timeout_s: float, forwarded: bool, body: bytes
    ) -> Committed | Refused | Unknown | Forwarded:
        """Carry out a write here or at the leader, within ``timeout_s``; ``body`` is what a leader is sent.

        A write that was refused for a passing reason (a change of leader) is tried again until its time is
        over; one whose outcome is not known never is.
        """
        if not self._slots.acquire(blocking=False):
            return Refused(f"{WRITES_MAX} writes are waiting on this node already")
        try:
            return self._write(update, ack, timeout_s, forwarded=forwarded, body=body)
        finally:
            self._slots.release()

    def _write(
        self, update: Update, ack: Ack, timeout_s: float, *, forwarded: bool, body: bytes
    ) -> Committed | Refused | Unknown | Forwarded:
        deadline = self._clock.monotonic() + timeout_s
        not_epoch = 0
        while True:
            left_s = deadline - self._clock.monotonic()
            answer = self._submit(update, ack, deadline, forwarded=forwarded, not_epoch=not_epoch, left_s=left_s)
            result: Committed | Refused | Unknown | Forwarded
            pause = True
            if isinstance(answer, Redirect):
                sent = self._forward(answer, ack, deadline, body)
                if isinstance(sent, NoAnswer):
                    return Unknown(sent.reason)
                if isinstance(sent, NotSent):
                    # Until somebody else leads, asking there again is of no use: the node itself waits for that.
                    not_epoch, pause = answer.epoch, False
                    result = Refused(sent.reason, retry=True)
                else:
                    result = sent
                    if RETRY_HEADER not in sent.headers:
                        return result
            elif isinstance(answer, Refused) and answer.retry and not forwarded:
                result = answer
            elif isinstance(answer, Committed | Refused | Unknown):
                return answer
            else:
                raise InvariantViolation(f"a write was answered {answer}")
            if self._clock.monotonic() + RETRY_S >= deadline:
                return result
            if pause:
                time.sleep(RETRY_S)

    def _submit(
        self, update: Update, ack: Ack, deadline: float, *, forwarded: bool, not_epoch: int, left_s: float
    ) -> Answer:
        return self._runtime.ask(
            lambda token: ev.WriteSubmitted(
                token, update, ack, deadline, forwarded=forwarded, not_epoch=not_epoch
            ),
            left_s,
        )

    def _forward(self, to: Redirect, ack: Ack, deadline: float, body: bytes) -> Forwarded | NotSent | NoAnswer:
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            return NotSent("the write's time ran out before it reached the leader")
        return self._peers.forward(
            to.leader.address,
            f"/update?ack={ack.value}&timeout_ms={max(1, round(left_s * 1000))}",
            body,
            {"Content-Type": "application/json", "Kvlog-Forwarded": self.settings.node_id},
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
        return SnapshotStream(encode(header, copy), copy, self._streams.release)

    def catch_up(self) -> Answer:
        """Fill in what a stale store has missed; waits until that is done."""
        return self._runtime.ask(ev.CatchupRequested, CATCHUP_S)


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
