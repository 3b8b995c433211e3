"""The thread that decides, and the thread that applies.

Everything that happens, on whichever thread, becomes an event in one queue. One thread takes them one by one,
lets the core decide, and carries out the effects through the ports; it never waits for anything but the queue.
A second one runs the store's transactions, which wait for the disk. A third sees that both get on.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.evaluate import LEASES, lease_in, lease_number
from kvlog.core.machine import Position
from kvlog.core.node import Node
from kvlog.core.status import Status
from kvlog.core.values import Answer, Unknown
from kvlog.errors import FailpointHit, InvariantViolation, StoreDamaged, Unavailable
from kvlog.failpoints import hit
from kvlog.guard import Fail, end_by
from kvlog.ports import Clock, Election, Log, Peers, Store
from kvlog.watchdog import WATCHDOG_S, Watchdog

TICK_S = 0.05
"""The finest unit of time for which the core waits: deadlines and probes are this exact."""

GATHERED_MAX = 512
"""Requests for which one step does."""

QUEUE_MAX = 10_000
"""Events that may wait. Their producers are bounded (one answer for each effect, one request for each thread of
the server), so that this is never reached; if it is, the node is broken and ends."""

ANSWER_MARGIN_S = 1.0
"""How much longer than the deadline given to the core a caller waits for the answer before giving up on it."""

UNDECIDED = "this node did not decide in time"

STATUS_WAIT_S = 2.0

LEASES_PIECE = 1_000
"""Leases that are read at a time."""

LEASE_BYTES = 1_024
"""What a lease takes, roughly."""


T = TypeVar("T")

StoreWork = do.Apply | do.SkipTo | do.Adopt | do.Install | do.Sync | do.ListLeases
"""What the store's thread does."""


def carry_out(store: Store, effect: StoreWork) -> ev.Applied | ev.Synced | ev.LeasesListed:
    """Let the store do its work; blocks for as long as the disk does."""
    match effect:
        case do.Sync():
            return ev.Synced(store.sync())
        case do.ListLeases():
            return ev.LeasesListed(tuple(_leases(store)))
        case do.Install():
            return ev.Applied(store.install(effect.source))
        case do.Apply():
            return ev.Applied(store.apply(effect.entries, fill=effect.fill))
        case do.SkipTo():
            return ev.Applied(store.skip_to(effect.index))
        case do.Adopt():
            return ev.Applied(store.adopt(effect.identity))


def _leases(store: Store) -> Iterator[tuple[int, int]]:
    """The leases in a store, with their times to live in milliseconds."""
    start: str | None = LEASES
    while start is not None:
        page = store.page(LEASES, start=start, limit=LEASES_PIECE, bytes_max=LEASES_PIECE * LEASE_BYTES)
        for key, record in page.items:
            yield lease_number(key), lease_in(record.value).ttl_ms
        start = page.next


class Executor:
    """Takes each effect to the port that carries it out."""

    def __init__(
        self,
        *,
        log: Log,
        election: Election,
        peers: Peers,
        store: Callable[[StoreWork], None],
        reply: Callable[[do.Reply], None],
        note: Callable[[do.Note], None],
        stop: Callable[[do.Exit | do.Distrust], None],
    ) -> None:
        self._ports: dict[type, Callable[[Any], None]] = {
            do.ReadTail: log.read_tail,
            do.ConfirmTail: log.confirm_tail,
            do.ReadEntries: log.read_entries,
            do.WatchSegment: log.watch_segment,
            do.Append: _passing("before_append", log.append),
            do.Trim: _passing("before_trim", log.trim),
            do.WriteSkip: log.write_skip,
            do.PublishMark: election.publish_mark,
            do.ListReplicas: election.list_replicas,
            do.RemoveReplica: election.remove_replica,
            do.Join: election.join,
            do.RemoveMember: election.remove_member,
            do.ListMembers: election.list_members,
            do.Enrol: election.enrol,
            do.ListCandidates: election.list_candidates,
            do.WatchCandidate: election.watch_candidate,
            do.RemoveCandidate: election.remove_candidate,
            do.Push: peers.push,
            do.Probe: peers.probe,
            do.FetchSnapshot: peers.fetch_snapshot,
            do.Apply: store,
            do.SkipTo: store,
            do.Adopt: store,
            do.Install: store,
            do.Sync: store,
            do.ListLeases: store,
            do.Reply: reply,
            do.Note: note,
            do.Exit: stop,
            do.Distrust: stop,
        }

    def execute(self, effect: do.Effect) -> None:
        """Carry out one effect; returns at once."""
        self._ports[type(effect)](effect)


def _passing(failpoint: str, carry_out: Callable[[Any], None]) -> Callable[[Any], None]:
    """Carry out an effect behind a failpoint."""

    def pass_and_carry_out(effect: do.Effect) -> None:
        hit(failpoint)
        carry_out(effect)

    return pass_and_carry_out


class Freshness(NamedTuple):
    """What a read says of its age, beyond the position that it was read at; see core.cursor (C5)."""

    tail_index: int
    tail_as_of: float | None
    fresh_as_of: float | None
    missed_entries: int
    halted_at: int | None


@dataclass(frozen=True, slots=True)
class _Inspect:
    """Somebody wants to know something of the node, at the monotonic time that ``look`` is given."""

    look: Callable[[Node, float], Any]
    answer: Future[Any]


class _Stop:
    """The deciding thread is to end."""


_Happened = ev.Event | _Inspect | _Stop


class Runtime:
    """Runs one node.

    ``fail`` is called, from any thread, when the process must end: it does not return. ``say`` gets what people
    should know, ``announce`` the status once the node is up for the first time. ``on_applied`` is told where the
    store stands now, on the applying thread: it only takes note. ``watchdog_s``: how long the deciding thread may
    stand still.
    """

    def __init__(
        self,
        node: Node,
        store: Store,
        clock: Clock,
        *,
        say: Callable[[str], None],
        fail: Fail,
        announce: Callable[[Status], None],
        on_applied: Callable[[Position], None] | None = None,
        watchdog_s: float = WATCHDOG_S,
    ) -> None:
        self._node = node
        self._store = store
        self._clock = clock
        self._say = say
        self._fail = fail
        self._announce: Callable[[Status], None] | None = announce
        self._on_applied = on_applied
        self._events: queue.SimpleQueue[_Happened] = queue.SimpleQueue()
        self._store_work: queue.SimpleQueue[StoreWork | None] = queue.SimpleQueue()
        self._tokens = itertools.count(1)
        self._waiting: dict[int, Callable[[Answer], None]] = {}
        self._executor: Executor | None = None
        self._threads: list[threading.Thread] = []
        self._turns = 0  # of the deciding thread
        self._transaction: int | None = None  # number of the one that the store is at work on
        self._watchdog = Watchdog(
            turns=lambda: self._turns,
            transaction=lambda: self._transaction,
            stuck_s=watchdog_s,
            say=say,
            fail=fail,
        )
        self.freshness = _freshness(node)

    def start(self, *, log: Log, election: Election, peers: Peers) -> None:
        """Begin to decide. The adapters may have posted events already."""
        self._executor = Executor(
            log=log,
            election=election,
            peers=peers,
            store=self._store_work.put,
            reply=self._reply,
            note=lambda effect: self._say(effect.text),
            stop=self._end,
        )
        deciding = self._start("kvlog-decide", self._decide)
        self._start("kvlog-apply", self._apply)
        self._start("kvlog-watchdog", lambda: self._watchdog.run(deciding))

    def stop(self, timeout_s: float) -> None:
        """End all threads, the store's after what it was given."""
        self._watchdog.stop()
        self._events.put(_Stop())
        for thread in self._threads:
            thread.join(timeout_s)

    # --- from other threads -------------------------------------------------------------------------------

    def post(self, event: ev.Event) -> None:
        """Tell the node what has happened; never blocks."""
        try:
            if isinstance(event, ev.Appended):
                hit("after_append")
        except FailpointHit as error:
            # kazoo's threads, which come here with this event, would keep an exception to themselves.
            end_by(error, self._fail)
        self._events.put(event)
        if self._events.qsize() > QUEUE_MAX:
            self._fail(
                InvariantViolation.exit_code, f"{QUEUE_MAX} events are waiting: the node has stopped deciding"
            )

    def submit(self, make: Callable[[int], ev.Event], answered: Callable[[Answer], None]) -> int:
        """Post a request; ``answered`` is called once, on the deciding thread, and only takes note.

        Returns the number by which it can be forgotten.
        """
        token = next(self._tokens)
        self._waiting[token] = answered
        self.post(make(token))
        return token

    def ask(self, make: Callable[[int], ev.Event], timeout_s: float) -> Answer:
        """Post a request that the core answers within ``timeout_s``, and wait for the answer."""
        future: Future[Answer] = Future()
        token = self.submit(make, future.set_result)
        try:
            return future.result(timeout_s + ANSWER_MARGIN_S)
        except FutureTimeout:
            return Unknown(UNDECIDED)
        finally:
            self._waiting.pop(token, None)

    def status(self) -> Status:
        """The node's status.

        Raises:
            Unavailable: the deciding thread did not answer.
        """
        status = self.inspect(lambda node, now: node.status(now))
        trouble = self._watchdog.store_trouble
        if not trouble:
            return status
        return replace(status, not_ready="; ".join(filter(None, (trouble, status.not_ready))))

    def inspect(self, look: Callable[[Node, float], T]) -> T:
        """What ``look`` finds, on the deciding thread: it only looks, and takes no time.

        Raises:
            Unavailable: the deciding thread did not answer.
        """
        inspect = _Inspect(look, Future())
        self._events.put(inspect)
        try:
            found: T = inspect.answer.result(STATUS_WAIT_S)
        except FutureTimeout:
            raise Unavailable("this node does not decide at the moment") from None
        return found

    # --- the deciding thread ------------------------------------------------------------------------------

    def _decide(self) -> None:
        next_tick = self._clock.monotonic()
        next_one: _Happened | None = None
        woken_at: float | None = None
        while True:
            self._turns += 1
            now = self._clock.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_S
                self._step(ev.Tick())
            wake_at = self._node.wake_at
            wakes = wake_at is not None and wake_at != woken_at  # once for each time that it names
            until = min(next_tick, wake_at) if wakes and wake_at is not None else next_tick
            try:
                event = next_one or self._events.get(timeout=max(0.0, until - now))
            except queue.Empty:
                if wakes and until == wake_at:
                    woken_at = wake_at
                    self._step(ev.Woken())
                continue
            event, next_one = self._gathered(event)
            if isinstance(event, _Stop):
                self._store_work.put(None)
                return
            if isinstance(event, _Inspect):
                event.answer.set_result(event.look(self._node, self._clock.monotonic()))
            else:
                self._step(event)

    def _gathered(self, first: _Happened) -> tuple[_Happened, _Happened | None]:
        """An event, or all requests in a row that it is the first of; and what came behind, if it was taken."""
        if not isinstance(first, ev.WriteSubmitted | ev.ReadSubmitted) or self._events.empty():
            return first, None
        requests = [first]
        behind: _Happened | None = None
        while len(requests) < GATHERED_MAX and not self._events.empty():
            event = self._events.get_nowait()
            if not isinstance(event, ev.WriteSubmitted | ev.ReadSubmitted):
                behind = event
                break
            requests.append(event)
        return ev.Gathered(tuple(requests)), behind

    def _step(self, event: ev.Event) -> None:
        effects = self._node.step(event, self._clock.monotonic(), self._clock.wall_ms())
        self.freshness = _freshness(self._node)
        if self._announce is not None and self._node.up:
            self._announce(self._node.status(self._clock.monotonic()))
            self._announce = None
        if self._executor is not None:
            for effect in effects:
                self._executor.execute(effect)

    def _reply(self, effect: do.Reply) -> None:
        answered = self._waiting.pop(effect.token, None)
        if answered is not None:
            answered(effect.answer)

    def _end(self, effect: do.Exit | do.Distrust) -> None:
        if isinstance(effect, do.Distrust):
            self._store.distrust(effect.reason)
            self._fail(StoreDamaged.exit_code, effect.reason)
        else:
            self._fail(effect.code, effect.reason)

    # --- the applying thread ------------------------------------------------------------------------------

    def _apply(self) -> None:
        for number in itertools.count():
            effect = self._store_work.get()
            if effect is None:
                return
            self._transaction = number
            applies = isinstance(effect, do.Apply)
            if applies:
                hit("before_apply")
            elif isinstance(effect, do.Install):
                hit("mid_install")
            done = carry_out(self._store, effect)
            if applies:
                hit("after_apply")
            self._transaction = None
            if self._on_applied is not None and isinstance(done, ev.Applied):
                self._on_applied(done.position)
            self.post(done)

    # --- all of them --------------------------------------------------------------------------------------

    def _start(self, name: str, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guarded, args=(run,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _guarded(self, run: Callable[[], None]) -> None:
        """Run a thread to its end; if it ends by an error, so does the process."""
        try:
            run()
        except Exception as error:  # noqa: BLE001 - reported in full, and the process ends by it
            end_by(error, self._fail)


def _freshness(node: Node) -> Freshness:
    cursor = node.cursor
    halted_at = node.halted.index if node.halted is not None else None
    return Freshness(
        cursor.tail_index, cursor.tail_as_of, cursor.fresh_as_of, cursor.position.missed_entries, halted_at
    )
