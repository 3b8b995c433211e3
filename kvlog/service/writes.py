"""Writes, and the way to the leader."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from kvlog.core import events as ev
from kvlog.core.commands import (
    OPERATIONS_MAX,
    Command,
    Compare,
    DeleteKey,
    Relation,
    SetKey,
    Target,
    Txn,
    Unchanged,
)
from kvlog.core.entry import ENTRY_BYTES_MAX, OWN_ID
from kvlog.core.machine import Record
from kvlog.core.values import Ack, Answer, Outcome, Redirect, Refused, Unknown
from kvlog.errors import InvalidInput, InvariantViolation, TooManyKeys
from kvlog.peers import Forward, HttpPeers, NoAnswer, NotSent
from kvlog.ports import Clock, Store
from kvlog.runtime import Runtime
from kvlog.service.reads import ReadOptions, Reads

WRITES_MAX = 256
"""Writes that may wait at a time. Each holds one of the server's threads; the rest of them stay free for reads
and for pushes (see front.THREADS)."""

RETRY_S = 0.05
"""Pause before a write is tried again at a leader that was just being replaced: about the time a change takes."""

FORWARD_MARGIN_S = 0.3
"""How much longer than the write's own time the leader's answer is waited for: it answers at the deadline."""


@dataclass(frozen=True, slots=True)
class Write:
    """A write as a client has sent it. ``request_id`` is empty where the client gave none."""

    command: Command
    request_id: str
    ack: Ack
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write, and who led when it was answered: a node's id, empty if that is not known."""

    outcome: Outcome
    leader: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Rollback:
    """The transaction that makes something what it was, and the revision of the state that it was planned on."""

    txn: Txn
    revision: int


class Writes:
    """See the module's docstring; the methods are called on the server's threads, and wait there."""

    def __init__(
        self, *, node_id: str, instance: str, runtime: Runtime, store: Store, peers: HttpPeers, clock: Clock
    ) -> None:
        self._node_id = node_id
        self._instance = instance
        self._runtime = runtime
        self._store = store
        self._peers = peers
        self._clock = clock
        self._slots = threading.BoundedSemaphore(WRITES_MAX)
        self._own_ids = itertools.count(1)

    def write(self, write: Write) -> Written:
        """Carry out a write here or at the leader, within its time.

        One that was refused for a passing reason (a change of leader) is tried again until its time is over. A
        forwarded one whose answer got lost is asked for again under its id, so that it is never done twice.
        """
        if not self._slots.acquire(blocking=False):
            return Written(Refused(f"{WRITES_MAX} writes are waiting on this node already"), "", write.request_id)
        try:
            return self._write(write)
        finally:
            self._slots.release()

    def write_later(self, write: Write, written: Callable[[Written | None], None]) -> None:
        """Carry out a write here, without waiting for it.

        ``written`` is called once, on any thread: with None if the write did not happen here, and is for ``write``
        to do, which finds its way to the leader.
        """

        def answered(answer: Answer) -> None:
            passing = isinstance(answer, Redirect) or (isinstance(answer, Refused) and answer.retry)
            if passing:
                written(None)
            elif isinstance(answer, Outcome):
                written(Written(answer, self._node_id, write.request_id))
            else:
                raise InvariantViolation(f"a write was answered {answer}")

        deadline = self._clock.monotonic() + write.timeout_s
        self._runtime.submit(lambda token: _submitted(token, write, deadline), answered)

    def take(self, forward: Forward) -> Outcome:
        """Carry out a write that another node has forwarded, here or not at all."""
        if forward.cluster_id != self._cluster_id:
            return Refused("this node belongs to another cluster, or does not know yet to which one", retry=True)
        write = Write(forward.command, forward.request_id, forward.ack, forward.timeout_ms / 1000)
        if not self._slots.acquire(blocking=False):
            return Refused(f"{WRITES_MAX} writes are waiting on the leader already")
        try:
            answer = self._submit(write, self._clock.monotonic() + write.timeout_s, not_epoch=0, forwarded=True)
        finally:
            self._slots.release()
        if isinstance(answer, Outcome):
            return answer
        raise InvariantViolation(f"a forwarded write was answered {answer}")

    def _write(self, write: Write) -> Written:
        deadline = self._clock.monotonic() + write.timeout_s
        not_epoch = 0
        unsure = ""  # why an earlier try may have been carried out
        while True:
            answer = self._submit(write, deadline, not_epoch=not_epoch, forwarded=False)
            leader, pause, again = self._node_id, True, False
            result: Outcome
            if isinstance(answer, Redirect):
                leader = answer.leader.node_id
                if not write.request_id:
                    write = replace(write, request_id=f"{OWN_ID}{self._instance}-{next(self._own_ids)}")
                sent = self._forward(answer, write, deadline)
                if isinstance(sent, NoAnswer):
                    unsure, again = sent.reason, True
                    result = Unknown(unsure)
                elif isinstance(sent, NotSent):
                    # Until somebody else leads, asking there again is of no use: the node itself waits for that.
                    not_epoch, pause, again = answer.epoch, False, True
                    result = Refused(sent.reason, retry=True)
                else:
                    result, again = sent, isinstance(sent, Refused) and sent.retry
            elif isinstance(answer, Outcome):
                result = answer
                again = isinstance(answer, Refused) and answer.retry
            else:
                raise InvariantViolation(f"a write was answered {answer}")
            if not again or self._clock.monotonic() + RETRY_S >= deadline:
                if unsure and isinstance(result, Refused):  # which is true of the last try only
                    result = Unknown(unsure)
                return Written(result, leader, write.request_id)
            if pause:
                time.sleep(RETRY_S)

    @property
    def _cluster_id(self) -> str:
        identity = self._store.position().identity
        return identity.cluster_id if identity is not None else ""

    def _submit(self, write: Write, deadline: float, *, not_epoch: int, forwarded: bool) -> Answer:
        return self._runtime.ask(
            lambda token: _submitted(token, write, deadline, forwarded=forwarded, not_epoch=not_epoch),
            deadline - self._clock.monotonic(),
        )

    def _forward(self, to: Redirect, write: Write, deadline: float) -> Outcome | NotSent | NoAnswer:
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            return NotSent("the write's time ran out before it reached the leader")
        forward = Forward(
            self._cluster_id, write.request_id, write.ack, max(1, round(left_s * 1000)), write.command
        )
        return self._peers.forward(to.leader.address, forward, left_s + FORWARD_MARGIN_S)


def _submitted(
    token: int, write: Write, deadline: float, *, forwarded: bool = False, not_epoch: int = 0
) -> ev.WriteSubmitted:
    return ev.WriteSubmitted(
        token,
        write.command,
        write.ack,
        deadline,
        forwarded=forwarded,
        not_epoch=not_epoch,
        request_id=write.request_id,
    )


def asked_rollback(*, key: str | None, prefix: str, revision: int) -> str:
    """What tells a repetition of a rollback."""
    what = f"key {key!r}" if key is not None else f"prefix {prefix!r}"
    return f"rollback of {what} to revision {revision}"


def repeat_rollback(*, key: str | None, prefix: str, revision: int) -> Txn:
    """A transaction that has the answer of a rollback which is committed, and does nothing if there was none."""
    never = Compare(key or "-", Target.VERSION, Relation.LESS, 0)
    return Txn(conditions=(never,), asked=asked_rollback(key=key, prefix=prefix, revision=revision))


def plan_rollback(reads: Reads, *, key: str | None, prefix: str, revision: int, timeout_s: float) -> Rollback:
    """What makes a key, or all keys with a prefix, what they were at ``revision``.

    It fails if anything of that is changed before it is carried out.

    Raises:
        InvalidInput: that revision is still to come, or the keys take more than one transaction can hold.
        HistoryTrimmed, GapsInHistory, Behind, Unavailable: the state at that revision, or now, cannot be told.
        TooManyKeys: more keys would have to be changed than one transaction may.
    """
    # What is planned on an old state would fail: others have changed it since.
    reads.wait(ReadOptions(linearizable=True, timeout_s=timeout_s))
    now = reads.revision
    if revision > now:
        raise InvalidInput(f"revision {revision} is still to come: {now} is the present one")
    asked = asked_rollback(key=key, prefix=prefix, revision=revision)
    if key is not None:
        record, present = reads.record_at(key, revision), reads.record_at(key, None)
        changed = _revision(record) != _revision(present)
        unchanged = Compare(key, Target.REVISION, Relation.EQUAL, _revision(present))
        return Rollback(Txn((_back_to(key, record),) if changed else (), (unchanged,), asked=asked), now)
    keys = reads.changed_keys(revision, now, prefix)
    if len(keys) > OPERATIONS_MAX:
        raise TooManyKeys(
            f"{len(keys)} keys would have to be changed at once, {OPERATIONS_MAX} is the most: roll back a longer "
            "prefix"
        )
    operations, size = [], 0
    for each in keys:
        operation = _back_to(each, reads.record_at(each, revision))
        size += len(operation.value) if isinstance(operation, SetKey) else 0
        if size > ENTRY_BYTES_MAX:
            raise InvalidInput(
                "the keys take more than one transaction can hold: roll back a longer prefix", status=413
            )
        operations.append(operation)
    return Rollback(Txn(tuple(operations), (Unchanged(prefix, now),), asked=asked), now)


def _back_to(key: str, record: Record | None) -> SetKey | DeleteKey:
    # Its lease of then may have ended long ago: it comes back without.
    return DeleteKey(key) if record is None else SetKey(key, record.value, record.content_type)


def _revision(record: Record | None) -> int:
    return record.revision if record is not None else 0
