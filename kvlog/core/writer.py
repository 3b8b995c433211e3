"""Group commit: how writes become entries, and how each of them gets its outcome.

One append is in flight at a time; what arrives meanwhile forms the next entry. A lone update is an entry of
its own. Invariants (tests cite the numbers):

W1  A write is answered exactly once, at the latest at its deadline.
W2  "committed" is said only of writes whose entry is known to be in the log.
W3  "refused" is said only of writes that are in no entry, or in one that is proven never to land: ZooKeeper
    has refused it, or a later epoch's barrier is in the log and the entry is not before it.
W4  Nothing is appended while the fate of an earlier append is not known.
W5  Commands are evaluated against all entries before theirs, applied or not.
W6  Of the requests with one id, one is in the log at most, as long as it is remembered; the others are answered
    with its outcome.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from kvlog.core.commands import KeepAlive, Settle, fingerprint
from kvlog.core.effects import Append, Effect, Reply
from kvlog.core.entry import (
    ENTRY_BYTES_MAX,
    FORMAT,
    HEADER_BYTES_MAX,
    OWN_ID,
    Entry,
    Leader,
    LogEntry,
    encode_entry,
    encode_request,
)
from kvlog.core.evaluate import View, effort, evaluate
from kvlog.core.events import WriteSubmitted
from kvlog.core.machine import Position, Remembered, outcome_of
from kvlog.core.pending import Pending
from kvlog.core.values import Ack, Clash, Committed, Refused, Rejected, Settled, Unknown
from kvlog.errors import invariant

QUEUE_MAX = 1_024
"""Writes that may wait for their append; more than that are refused. Each holds a thread of the server, so
the server's own bound is reached first; this one keeps the promise whatever serves the requests."""

BATCH_WRITES_MAX = 512
"""Writes in one entry, so that one entry never holds up the store or a push for long."""

EFFORT_MAX = 4_000
"""About how many records are looked at for one entry at most: nothing else is decided meanwhile."""

NOBODY = 0
"""The token of the leader's own writes, whose answer nobody waits for."""


@dataclass(slots=True)
class Landing:
    """A write, and what it will be answered once the entry at ``index`` is in the log.

    ``repeated``: that entry holds an earlier request with its id.
    """

    write: WriteSubmitted
    outcome: Remembered
    index: int
    repeated: bool = False


@dataclass(slots=True)
class Batch:
    """An append whose fate is not known yet. No writes: a barrier."""

    batch_id: str
    epoch: int
    index: int
    data: bytes
    landings: list[Landing] = field(default_factory=list)
    expired: set[int] = field(default_factory=set)  # tokens of writes that were answered "unknown"


@dataclass(slots=True)
class _Forming:
    """The entry that is being formed: its index, the revision of the next request, and the room that is left."""

    index: int
    revision: int
    room: int = ENTRY_BYTES_MAX - HEADER_BYTES_MAX
    effort: int = 0
    requests: list[bytes] = field(default_factory=list)
    landings: list[Landing] = field(default_factory=list)


class Writer:
    """See the module's docstring."""

    def __init__(self, store: View, *, instance: str) -> None:
        self._pending = Pending(store)
        self._instance = instance
        self._batches = 0
        self.queue: deque[WriteSubmitted] = deque()
        self.in_flight: Batch | None = None
        self.unresolved: list[Batch] = []  # an append, and the barriers of later epochs that got lost as well
        self.acking: deque[Landing] = deque()  # committed; the answer waits for the replicas

    @property
    def idle(self) -> bool:
        """No write is under way here."""
        return not (self.queue or self.in_flight or self.unresolved or self.acking)

    @property
    def busy(self) -> bool:
        """Nothing can be appended: the fate of an earlier append is not known (W4)."""
        return bool(self.in_flight or self.unresolved)

    @property
    def has_own(self) -> bool:
        """Something that the leader wants by itself waits for its entry."""
        return any(write.token == NOBODY for write in self.queue)

    def holds(self, key: str) -> bool:
        """Whether there is such a key, or may be: what is appended and not applied yet may still be refused."""
        return self._pending.may_hold(key)

    # --- in and out ---------------------------------------------------------------------------------------

    def submit(self, write: WriteSubmitted) -> list[Reply]:
        """Queue a write for the next entry."""
        if len(self.queue) >= QUEUE_MAX:
            return [Reply(write.token, Refused(f"{QUEUE_MAX} writes are waiting already; try again shortly"))]
        self.queue.append(write)
        return []

    def knows(self, write: WriteSubmitted) -> bool:
        """Whether its request is committed, cancelled or under way: then nothing more is appended for it (W6)."""
        return bool(write.request_id) and self._pending.request(write.request_id) is not None

    def take_queue(self) -> list[WriteSubmitted]:
        """Give back the writes that are in no entry yet: this node does not lead any more.

        The leader's own are none of them: somebody else may lead before this node leads again, and may have
        confirmed that a lease lives whose end was wanted here (E2).
        """
        writes = [write for write in self.queue if write.token != NOBODY]
        self.queue.clear()
        return writes

    def next_append(
        self, *, index: int, prev_hash: str, revision: int, epoch: int, fence: str, wall_ms: int, log_bytes: int
    ) -> list[Effect]:
        """Form the next entry of what is waiting, at ``index`` after ``revision`` and ``log_bytes``.

        Nothing if there is nothing; answers to requests that are known already. What only has to be confirmed may
        make an entry without requests.
        """
        effects: list[Effect] = []
        if self.busy:
            return effects
        forming = _Forming(index, revision + 1)
        while self.queue and len(forming.requests) < BATCH_WRITES_MAX:
            write = self.queue[0]
            known = self._pending.request(write.request_id) if write.request_id else None
            if known is not None:
                effects += self._repeat(write, known, forming)
            elif not self._take_in(write, forming):
                break
            self.queue.popleft()
        if forming.landings:
            header = self._header(epoch, prev_hash, revision + 1, wall_ms)
            data = encode_entry(header, tuple(forming.requests))
            self.in_flight = Batch(header.batch_id, epoch, index, data, forming.landings)
            effects.append(Append(fence, header.batch_id, index, data, log_bytes + len(data)))
        return effects

    def _repeat(self, write: WriteSubmitted, known: Remembered, forming: _Forming) -> list[Reply]:
        """Answer a request whose id is known (W6), or let it land with the entry that holds the first one."""
        answer = _repetition(write, known)
        if isinstance(answer, Rejected):
            return [Reply(write.token, answer)]
        if known.index == forming.index:
            forming.landings.append(answer)
            return []
        return self._land(answer)

    def _take_in(self, write: WriteSubmitted, forming: _Forming) -> bool:
        """Evaluate a write into the entry that forms; False if it has to wait for the next one."""
        needed = effort(write.command)
        if forming.effort and forming.effort + needed > EFFORT_MAX:
            return False
        forming.effort += needed
        at, index = forming.revision, forming.index
        check = fingerprint(write.command) if write.request_id and write.request_id[0] != OWN_ID else ""
        request = evaluate(self._pending, write.command, at, request_id=write.request_id, check=check)
        if isinstance(write.command, KeepAlive):  # it needs an entry behind it, and leaves nothing there (E2)
            forming.landings.append(Landing(write, outcome_of(request, at - 1, index), index))
            return True
        if write.token == NOBODY and request.failed:
            return True
        encoded = encode_request(request)
        forming.room -= len(encoded) + 1
        if forming.room < 0 and forming.requests:
            return False
        invariant(forming.room >= 0, f"a request of {len(encoded)} bytes was let in")
        outcome = outcome_of(request, at, index)
        self._pending.write(request, outcome)
        forming.requests.append(encoded)
        forming.landings.append(Landing(write, outcome, index))
        forming.revision += 1
        return True

    def barrier(
        self,
        *,
        index: int,
        prev_hash: str,
        revision: int,
        epoch: int,
        fence: str,
        wall_ms: int,
        log_bytes: int,
        leader: Leader,
    ) -> Append:
        """Form the first entry of an epoch."""
        self._pending.clear()
        header = self._header(epoch, prev_hash, revision + 1, wall_ms, leader)
        data = encode_entry(header)
        self.in_flight = Batch(header.batch_id, epoch, index, data)
        return Append(fence, header.batch_id, index, data, log_bytes + len(data))

    def _header(
        self, epoch: int, prev_hash: str, first_revision: int, wall_ms: int, leader: Leader | None = None
    ) -> Entry:
        self._batches += 1
        return Entry(
            format=FORMAT,
            epoch=epoch,
            batch_id=f"{self._instance}-{self._batches}",
            prev_hash=prev_hash,
            first_revision=first_revision,
            time_ms=wall_ms,
            leader=leader,
        )

    # --- the fate of appends ------------------------------------------------------------------------------

    def fenced(self, batch_id: str) -> list[Reply]:
        """ZooKeeper has refused the append: it can never land (W3)."""
        batch = self._take(batch_id)
        return self._refuse(batch, "the leader was replaced before the write was appended") if batch else []

    def refused(self, batch_id: str, reason: str) -> list[Reply]:
        """ZooKeeper has refused the append for another reason: it can never land (W3)."""
        batch = self._take(batch_id)
        return self._refuse(batch, reason, retry=False) if batch else []

    def lost(self) -> None:
        """No answer will come for the append in flight (W4)."""
        if self.in_flight is not None:
            self.unresolved.append(self.in_flight)
            self.in_flight = None

    def entry_seen(self, item: LogEntry) -> list[Reply]:
        """An entry of the log, in order: it may decide the fate of an append (W2, W3)."""
        entry = item.entry
        batch = self._take(entry.batch_id)
        replies = self._commit(batch, item.index) if batch is not None else []
        if entry.leader is not None:
            fenced = [lost for lost in self.unresolved if lost.epoch < entry.epoch]
            self.unresolved = [lost for lost in self.unresolved if lost.epoch >= entry.epoch]
            for lost in fenced:
                replies += self._refuse(
                    lost, "the leader was replaced, and it is not in the log before its successor"
                )
        return replies

    def installed(self, position: Position) -> list[Reply]:
        """A snapshot has replaced the replay of the log up to ``position``.

        What became of an append in there cannot be seen any more, but it has become of it what it has: nothing
        that is appended from now on can meet it.
        """
        if self.in_flight is not None and self.in_flight.index <= position.applied_index:
            self.lost()  # an answer that still comes would come too late: a later barrier must not refuse it (W3)
        gone = [lost for lost in self.unresolved if lost.index <= position.applied_index]
        self.unresolved = [lost for lost in self.unresolved if lost.index > position.applied_index]
        answer = Unknown("this node has gone on from a snapshot in which that cannot be seen")
        return [
            Reply(landing.write.token, answer)
            for lost in gone
            for landing in lost.landings
            if landing.write.token not in lost.expired
        ]

    def _take(self, batch_id: str) -> Batch | None:
        if self.in_flight is not None and self.in_flight.batch_id == batch_id:
            batch, self.in_flight = self.in_flight, None
            return batch
        for batch in self.unresolved:
            if batch.batch_id == batch_id:
                self.unresolved.remove(batch)
                return batch
        return None

    def _commit(self, batch: Batch, index: int) -> list[Reply]:
        replies = []
        for landing in batch.landings:
            landing.index = index
            if landing.write.token not in batch.expired:
                replies += self._land(landing)
        return replies

    def _land(self, landing: Landing) -> list[Reply]:
        """The entry is in the log: answer, or wait for the replicas."""
        if landing.write.ack is Ack.LOG:
            return [_reply(landing, {})]
        self.acking.append(landing)
        return []

    def _refuse(self, batch: Batch, reason: str, *, retry: bool = True) -> list[Reply]:
        self._pending.clear()
        answer = Refused(reason, retry=retry)
        tokens = (landing.write.token for landing in batch.landings)
        return [Reply(token, answer) for token in tokens if token not in batch.expired]

    # --- answers ------------------------------------------------------------------------------------------

    def applied(self, index: int) -> None:
        """The store holds everything up to ``index``."""
        self._pending.applied(index)

    def acknowledge(self, index: int, replicas: dict[str, str]) -> list[Reply]:
        """Answer the committed writes up to ``index``; ``replicas`` is what is known of the members."""
        replies = []
        while self.acking and self.acking[0].index <= index:
            replies.append(_reply(self.acking.popleft(), replicas))
        return replies

    def expire(self, now: float, replicas: dict[str, str]) -> list[Reply]:
        """Answer what has reached its deadline (W1)."""
        replies = []
        for write in [write for write in self.queue if write.deadline <= now]:
            self.queue.remove(write)
            replies.append(Reply(write.token, Refused("its time ran out before it could be appended")))
        for done in [done for done in self.acking if done.write.deadline <= now]:
            self.acking.remove(done)
            replies.append(_reply(done, replicas))
        for batch in (*([self.in_flight] if self.in_flight else []), *self.unresolved):
            for write in (landing.write for landing in batch.landings):
                if write.deadline <= now and write.token not in batch.expired:
                    batch.expired.add(write.token)
                    answer = Unknown("ZooKeeper has not answered: it may be in the log or not")
                    replies.append(Reply(write.token, answer))
        return replies


def _repetition(write: WriteSubmitted, known: Remembered) -> Landing | Rejected:
    """What a request is answered whose id is known (W6)."""
    if isinstance(write.command, Settle):
        return Landing(write, known, known.index, repeated=True)
    if known.cancelled:
        return Rejected(Clash.CANCELLED, f"request {write.request_id} was cancelled at revision {known.revision}")
    if known.fingerprint and known.fingerprint != fingerprint(write.command):
        return Rejected(Clash.REUSED, f"the id {write.request_id} belongs to another request")
    return Landing(write, known, known.index, repeated=True)


def _reply(landing: Landing, replicas: dict[str, str]) -> Reply:
    write, outcome = landing.write, landing.outcome
    if isinstance(write.command, Settle):
        return Reply(write.token, Settled(outcome.cancelled, outcome.revision, landing.index))
    answer = Committed(
        outcome.revision,
        landing.index,
        replicas,
        landing.repeated,
        outcome.failed,
        outcome.created,
        outcome.changes,
    )
    return Reply(write.token, answer)
