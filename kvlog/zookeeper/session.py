"""One node's session with ZooKeeper: its state, its thread for requests, bounds in time for all of them.

What kazoo does that matters here (read in its source, 2.11.0, and measured):

- A listener runs on the connection's thread and must not block: here it only enqueues.
- LOST is reported only after a reconnect; SUSPENDED is when to stop trusting the session.
- A request made without a connection is queued, and sent whenever there is one again: so none is made then.
- A synchronous request waits for ever: so all are asynchronous, with a time limit. When one runs out, the
  connection is given up: kazoo keeps it as long as anything comes, be it a byte a second.
- ``connection_retry`` given as a dict replaces the whole policy, and its default is one try: so it says for
  ever, with less than a second in between (``max_delay`` plus jitter).
"""

from __future__ import annotations

import logging
import math
import queue
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    NodeExistsError,
    NoNodeError,
    OperationTimeoutError,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KeeperState

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import FORMAT, SEGMENT_ENTRIES, UNREADABLE
from kvlog.core.machine import REQUEST_WINDOW, Identity
from kvlog.errors import Stuck, Unavailable, WrongLog
from kvlog.ports import Clock, Post
from kvlog.zookeeper.layout import ClusterData, Layout
from kvlog.zookeeper.multi import add_log, failure_in
from kvlog.zookeeper.outage import Lookout
from kvlog.zookeeper.refusal import Refusal
from kvlog.zookeeper.visit import RECONNECT

JOBS_MAX = 64
"""Requests that may wait for the thread; the core asks each question once at a time, so there are few."""

WATCHDOG_S = 0.25
"""How often requests without an answer are looked through; their time limit is this exact."""

SAY_AFTER_S = 5.0
"""Time without a connection after which that is said."""

REFUSALS_SAID = 3
REFUSALS_S = 10.0
"""The same refusal is said so often in so many seconds: what is refused is tried again, for hours if need be."""

STOP_S = 2.0
"""How long closing the session may take."""

_NO_ANSWER = (
    ConnectionClosedError,
    ConnectionLoss,
    OperationTimeoutError,
    SessionExpiredError,
    KazooTimeoutError,
)


class ZooKeeperSession:
    """A kazoo client with its one worker thread, on which requests of several steps run in plain order.

    ``known`` is the log that the store belongs to, if it has one: then nothing is made where no log is found; nor
    without ``may_create``.
    ``data_dir`` is where that store is, for the words of a refusal. ``window``: for how many revisions requests
    are remembered, should this node be the one that makes the log. ``say`` is told what people should know;
    ``fail`` ends the process (exit code, last line).
    """

    def __init__(
        self,
        hosts: str,
        layout: Layout,
        *,
        known: Identity | None,
        may_create: bool = True,
        data_dir: Path,
        session_timeout_s: float,
        post: Post,
        clock: Clock,
        say: Callable[[str], None],
        fail: Callable[[int, str], None],
        window: int = REQUEST_WINDOW,
    ) -> None:
        self.layout = layout
        self.post = post
        self.clock = clock
        self._known = known
        self._may_create = may_create
        self.say = say
        self._fail = fail
        self._hosts = hosts
        self._window = window
        self.refusal = Refusal(hosts, layout.root, data_dir)
        self._call_timeout_s = session_timeout_s
        logger = logging.getLogger("kvlog.kazoo")
        logger.setLevel(logging.CRITICAL)  # what matters of it arrives as events and exceptions
        self.client = KazooClient(
            hosts=hosts,
            timeout=session_timeout_s,
            connection_retry=RECONNECT,
            command_retry={"max_tries": 3, "delay": 0.1, "max_delay": 1},
            logger=logger,
        )
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(JOBS_MAX)
        self._stopped = threading.Event()
        self._deadlines: dict[int, tuple[float, Callable[[], None]]] = {}
        self._calls = 0
        self._begun = False  # kazoo's connection thread has been seen at work
        self._refusals: dict[str, tuple[float, int]] = {}  # until when they are counted, and how many have come
        self._say_at: float | None = None  # that there is no connection; None while there is one
        self._lookout = Lookout(
            self.client,
            self.refusal,
            known=lambda: self._known,
            patience_s=session_timeout_s,
            give_up=self._give_up,
        )

    def start(self) -> None:
        """Begin to connect; SessionConnected is posted once that has worked."""
        self.client.add_listener(self._state_changed)
        for name, run in (("kvlog-zk", self._work), ("kvlog-zk-watchdog", self._watch)):
            threading.Thread(target=run, name=name, daemon=True).start()
        self.client.start_async()

    def stop(self) -> None:
        """Close the session, so that its ephemeral znodes go at once; gives up after STOP_S.

        kazoo's own stop can wait for ever (for a callback, or for its thread), so it is not waited for longer.
        """
        self._stopped.set()
        closing = threading.Thread(target=self.client.stop, name="kvlog-zk-stop", daemon=True)
        closing.start()
        closing.join(STOP_S)

    @property
    def session_id(self) -> int:
        """The id of the present session, 0 if there is none."""
        client_id = self.client.client_id
        return int(client_id[0]) if client_id else 0

    # --- state --------------------------------------------------------------------------------------------

    def _state_changed(self, state: KazooState) -> None:
        """On kazoo's connection thread: only enqueues."""
        self._begun = True
        if state == KazooState.SUSPENDED:
            self.post(ev.SessionSuspended())
        elif state == KazooState.LOST:
            self.post(ev.SessionLost())
        else:
            self._enqueue(self._open)

    def _open(self) -> None:
        """A connection is there: find out which log this is, or make it."""
        while self.client.connected and not self._stopped.is_set():
            try:
                self.post(ev.SessionConnected(self.session_id, self._identity()))
            except Unavailable:
                continue
            except KazooException as error:
                self._say_refusal(
                    f"ZooKeeper at {self._hosts} refuses {self.layout.root}: {error!r}; trying again"
                )
                self._stopped.wait(1)
                continue
            if not self.client.connected:
                # It was lost meanwhile, and that may have been posted before: what comes last must be true.
                self.post(ev.SessionSuspended())
            return

    def _identity(self) -> Identity:
        """The identity of the log below the root; the first node that comes makes it."""
        layout = self.layout
        try:
            data, _ = self.call(self.client.get_async(layout.cluster))
        except NoNodeError:
            if self._known is not None:  # the server that was asked may only lag behind
                self.require_log()
                data, _ = self.call(self.client.get_async(layout.cluster))
            elif not self._may_create:
                self.refuse(self.refusal.store_put_aside())
            else:
                self._create()
                data = self._made()
        try:
            cluster = msgspec.json.decode(data, type=ClusterData)
        except UNREADABLE:
            self._fail(WrongLog.exit_code, self.refusal.foreign(layout.cluster))
            raise
        if (cluster.format, cluster.segment) != (FORMAT, SEGMENT_ENTRIES):
            self._fail(
                WrongLog.exit_code,
                f"the log at {layout.root} has format {cluster.format} with segments of {cluster.segment} "
                f"entries; this kvlog knows format {FORMAT} with {SEGMENT_ENTRIES}: run the kvlog that made it, "
                "or choose another --root",
            )
        stat = self.call(self.client.exists_async(layout.log))
        if stat is None:  # both were made in one transaction, so no server knows only one of them
            self.refuse(self.refusal.broken_log(f"{layout.cluster} is there, but {layout.log} is not"))
        found = Identity(cluster.cluster_id, stat.czxid, cluster.window)
        self._known = self._known or found
        return found

    def _create(self) -> None:
        """Make an empty log, whole or not at all. Another node may do the same at the same time."""
        layout = self.layout
        self.call(self.client.ensure_path_async(layout.root))
        cluster = ClusterData(uuid.uuid4().hex, FORMAT, SEGMENT_ENTRIES, self._window)
        transaction = self.client.transaction()
        add_log(transaction, layout, msgspec.json.encode(cluster))
        failure = failure_in(self.call(transaction.commit_async()))
        if failure is not None and not isinstance(failure, NodeExistsError):
            raise failure

    def _made(self) -> bytes:
        """What the cluster's znode holds once somebody has made the log."""
        try:
            data, _ = self.call(self.client.get_async(self.layout.cluster))
        except NoNodeError:  # none could be made, so something was in the way
            self.refuse(self.refusal.leftovers(self.layout.cluster))
        return bytes(data)

    # --- which log it is ----------------------------------------------------------------------------------

    def ask_quorum(self) -> Any:
        """Have a quorum agree on something, so that this session then sees all that was agreed on before.

        Pending; its result is for ``check_quorum``. ``sync`` would not do: ZooKeeper's leader answers it alone
        (ZOOKEEPER-1675). A multi of nothing but checks is a transaction like any other, and so is its refusal.
        """
        transaction = self.client.transaction()
        transaction.check(self.layout.cluster, version=-1)
        transaction.check(self.layout.log, version=-1)
        return transaction.commit_async()

    def check_quorum(self, pending: Any) -> None:
        """Wait for what ``ask_quorum`` has asked for. The process ends when there is no log any more."""
        failure = failure_in(self.call(pending))
        if isinstance(failure, NoNodeError) and self._known is not None:
            self.refuse(self.refusal.no_log(self._known))
        if failure is not None:
            raise failure

    def require_log(self, seen_czxid: int | None = None) -> None:
        """See that the log is the one that this node follows; the process ends when it is not.

        ``seen_czxid``: of the log's znode; None when a server did not find it: that a quorum has to confirm.
        """
        known = self._known
        if seen_czxid is None:
            self.check_quorum(self.ask_quorum())
        elif known is not None and seen_czxid != known.log_czxid:
            self.refuse(self.refusal.another_log(known, msgspec.structs.replace(known, log_czxid=seen_czxid)))

    def refuse(self, reason: str) -> NoReturn:
        """End the process: this node and the log in ZooKeeper do not go together."""
        self._fail(WrongLog.exit_code, reason)
        raise Unavailable(reason)

    # --- requests -----------------------------------------------------------------------------------------

    def call(self, pending: Any) -> Any:
        """The result of an asynchronous request, waited for within the time limit.

        Raises:
            Unavailable: no answer; the request may have been carried out, or may still be.
            KazooException: ZooKeeper's refusal.
        """
        try:
            return pending.get(timeout=self._call_timeout_s)
        except _NO_ANSWER as error:
            if isinstance(error, KazooTimeoutError):
                self._give_connection_up()
            raise Unavailable(f"ZooKeeper at {self._hosts} did not answer: {error!r}") from error

    def run(self, effect: do.Effect, work: Callable[[], ev.Event | None]) -> None:
        """Do ``work`` on the worker thread and post its event, if it has one; Failed if there is no answer."""

        def job() -> None:
            try:
                event = work() if self.client.connected else ev.Failed(effect)
            except Unavailable:
                event = ev.Failed(effect)
            except KazooException as error:
                self._say_refusal(f"ZooKeeper refused {type(effect).__name__}: {error!r}")
                event = ev.Failed(effect)
            if event is not None:
                self.post(event)

        self._enqueue(job)

    def _say_refusal(self, text: str) -> None:
        """Say what ZooKeeper has refused, unless the same was said often enough just now. On the worker thread."""
        now = self.clock.monotonic()
        until, times = self._refusals.get(text, (now, 0))
        if now >= until:
            until, times = now + REFUSALS_S, 0
        self._refusals[text] = until, times + 1
        if times < REFUSALS_SAID:
            self.say(text)

    def start_call(self, pending: Any, answered: Callable[[Any], None], unanswered: Callable[[], None]) -> None:
        """Have exactly one of the two called: when the asynchronous request is done, or at its time limit.

        They run on kazoo's callback thread and must not block.
        """
        self._calls += 1
        number = self._calls
        self._deadlines[number] = (self.clock.monotonic() + self._call_timeout_s, unanswered)

        def done(result: Any) -> None:
            if self._deadlines.pop(number, None) is not None:
                answered(result)

        pending.rawlink(done)

    def _give_connection_up(self) -> None:
        """Have kazoo connect anew, to the next server: a request got no answer in its time.

        kazoo takes a connection for a good one as long as pings are answered on it, or single bytes come. But a
        server may do no more than that (ZOOKEEPER-4537, say), and then this node would lead on without a log.
        """
        connection = self.client._connection._socket  # noqa: SLF001 - there is no other way (2.11.0)
        if self.client.connected and connection is not None:
            with suppress(OSError):  # it has just ended by itself
                connection.shutdown(socket.SHUT_RDWR)

    def _enqueue(self, job: Callable[[], None]) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._fail(70, f"{JOBS_MAX} requests to ZooKeeper are waiting: its thread is stuck")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 - a bug; the process ends by it
                self._fail(70, f"a bug in the ZooKeeper adapter: {error!r}")

    def _watch(self) -> None:
        while not self._stopped.wait(WATCHDOG_S):
            now = self.clock.monotonic()
            for number, (deadline, unanswered) in list(self._deadlines.items()):
                if deadline <= now and self._deadlines.pop(number, None) is not None:
                    unanswered()
                    self._give_connection_up()
            self._watch_connection(now)
        self._lookout.end()

    def _watch_connection(self, now: float) -> None:
        """See whether kazoo still works at all, and whether it can ever be connected again."""
        self._say_outage(now)
        if self.client.client_state != KeeperState.CLOSED:
            self._begun = True
            self._lookout.tick(now)
        elif self._begun and not self._stopped.is_set():
            self._fail(
                Stuck.exit_code,
                f"the connection to ZooKeeper at {self._hosts} has ended for good, by an answer that kazoo does "
                "not understand or by a bug in it; nothing is lost: start this node again",
            )

    def _say_outage(self, now: float) -> None:
        """Say once of each time without a connection that there is none."""
        if self.client.connected:
            self._say_at = None
        elif self._say_at is None:
            self._say_at = now + SAY_AFTER_S
        elif now >= self._say_at:
            self._say_at = math.inf
            self.say(
                f"no connection to ZooKeeper at {self._hosts} for {SAY_AFTER_S:g} s: it is down, has no quorum, "
                "cannot be reached from here, or takes no more connections from this address (maxClientCnxns). "
                "Reads go on and tell their age, writes are refused; this node tries on by itself"
            )

    def _give_up(self, reason: str) -> None:
        if not self._stopped.is_set():
            self._fail(WrongLog.exit_code, reason)
