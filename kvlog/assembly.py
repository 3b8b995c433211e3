"""The composition root: the only module that knows every adapter. Settings in, a serving node out.

A node is two processes. The supervisor owns the data directory's lock and runs Granian, which forks one worker;
the worker is the node. They are bound to each other: the worker dies with its supervisor (PR_SET_PDEATHSIG, and
the end of the pipe between them), and the supervisor ends with its worker's exit code. On SIGTERM the supervisor
first has the worker hand the leadership over, while it still serves, and then stops it.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import re
import select
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any, NoReturn

from kvlog.api import watch
from kvlog.api.app import create_app
from kvlog.api.hot import HotPath
from kvlog.api.marks import marks
from kvlog.clock import SystemClock
from kvlog.config import Settings
from kvlog.core.events import HandoverRequested
from kvlog.core.machine import Identity
from kvlog.core.node import Node
from kvlog.core.status import Status
from kvlog.core.values import Member, NodeSettings
from kvlog.errors import InUse, KvlogError, StoreFailure
from kvlog.failpoints import FAILPOINTS, hit
from kvlog.front import Front, make_server
from kvlog.guard import Guard, GuardedThreads
from kvlog.peers import INSTANCE_HEADER, THREADS, HttpPeers
from kvlog.ports import Clock, Post
from kvlog.runtime import Runtime
from kvlog.service.service import Service, make_service
from kvlog.store.directories import DAMAGED, INCOMING, STORE, claim
from kvlog.store.lmdb_store import LmdbStore
from kvlog.store.quarantine import check_store, inspect
from kvlog.watching.hub import WatchHub
from kvlog.zookeeper.election import ZooKeeperElection
from kvlog.zookeeper.layout import Layout
from kvlog.zookeeper.log import ZooKeeperLog
from kvlog.zookeeper.session import ZooKeeperSession

GARBAGE_OBJECTS = 20_000
"""How many objects are made before the youngest are looked through for garbage. By default every few requests."""

HANDOVER_S = 5.0
"""How long stopping waits for the leadership to be handed over."""

KILL_S = 10
"""How long the supervisor waits for its worker to stop before it kills it."""

STOP_AGAIN_S = 1.0
"""How often a worker that has handed over is told to stop. Its event loop loses a signal when hundreds of wake-ups
are waiting already: when a thousand streams end at once, the supervisor's comes to nothing (measured)."""

LAST_WORDS_S = 5
"""How long a worker that ends by an error may take to say so: what its stderr goes to may not be read."""

PR_SET_PDEATHSIG = 1


# --- the supervisor -------------------------------------------------------------------------------------------


def run(settings: Settings) -> int:
    """Run a node until it is told to stop; returns the process's exit code.

    Raises:
        SettingsError: the failpoints make no sense.
        InUse: the address or the data directory belongs to a running node.
    """
    FAILPOINTS.arm(settings.failpoint)  # the worker inherits them
    _lead_own_group()
    _check_address(settings)
    lock = _lock(settings.data_dir)
    _check_store(settings)
    ours, workers = socket.socketpair()
    # The worker has to inherit the lock and the pipe; the supervisor has no threads yet.
    multiprocessing.set_start_method("fork", force=True)
    server = make_server(settings.host, settings.port, kill_s=KILL_S)
    worker = WorkerLine(ours)

    @server.on_startup
    def take_over_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _handing_over(worker, signal.getsignal(number)))
        if server.interrupt_signal:  # told to stop since Granian took the signals over: there is no worker yet
            os._exit(0)

    supervisor = os.getpid()
    code = 0
    try:
        server.serve(target_loader=lambda: _work(settings, supervisor, workers, ours), wrap_loader=False)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        os.close(lock)
    return worker.exit_code(code)


def _lead_own_group() -> None:
    """Make the node a process group of its own, unless a terminal's Ctrl-C has to reach it."""
    if os.getpgrp() != os.getpid() and not os.isatty(0):
        os.setpgid(0, 0)


def _check_address(settings: Settings) -> None:
    """Refuse an address that somebody listens on: Granian would share it (SO_REUSEPORT) without a word."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise InUse(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; another process has it, or "
                "the address is not this machine's; choose another --port, or stop that process"
            ) from error


def _lock(data_dir: Path) -> int:
    """Claim the data directory for as long as the supervisor or its worker lives."""
    in_use = (
        f"the data directory {data_dir} is in use by a running node; give this one another --data-dir, or stop "
        "that one first"
    )
    lock = claim(data_dir, in_use=in_use)
    os.set_inheritable(lock, True)
    return lock


class WorkerLine:
    """The supervisor's end of the pipe to its worker. All that the worker says is read here, on whichever thread.

    The worker says "done" when it has handed over, and "exit N" when it ends by an error.
    """

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._unread = b""
        self._done = False
        self._code: int | None = None

    def hand_over(self, timeout_s: float) -> None:
        """Have the worker hand over; returns when it has, when it ends by an error, or after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        try:
            self._pipe.sendall(b"hand over\n")
            while not self._settled() and (left_s := deadline - time.monotonic()) > 0:
                select.select([self._pipe], [], [], left_s)
        except OSError:
            pass  # the worker is gone: there is nobody who could hand over

    def exit_code(self, default: int) -> int:
        """The code with which the worker said that it ends, once it has ended; ``default`` if it did not say."""
        with suppress(OSError):  # it is gone, and what it has said is read already
            self._settled()
        return default if self._code is None else self._code

    def _settled(self) -> bool:
        """Take in what has been said, without waiting; whether there is anything left to wait for."""
        with self._lock:
            with suppress(BlockingIOError):
                said = self._pipe.recv(256, socket.MSG_DONTWAIT)
                self._unread += said
                self._done |= not said  # nobody is left at the other end
            *lines, self._unread = self._unread.split(b"\n")
            for line in lines:
                if line == b"done":
                    self._done = True
                elif self._code is None:
                    self._code = int(line.removeprefix(b"exit "))
            return self._done or self._code is not None


def _check_store(settings: Settings) -> None:
    """Put a damaged store aside before the worker opens it: then the node starts empty, and gets it all again."""
    reason = check_store(settings.data_dir, partial(_say, settings))
    if reason:
        kept = settings.data_dir / DAMAGED
        _say(settings, f"the store is damaged ({reason}): it is kept in {kept}; starting empty")


def _say(settings: Settings, text: str) -> None:
    """A line in the node's log."""
    now = datetime.now().astimezone().isoformat(timespec="milliseconds")
    print(f"{now} {settings.node_id} {text}", file=sys.stderr, flush=True)  # noqa: T201 - the node's log


def _handing_over(worker: WorkerLine, stop: Any) -> Callable[[int, FrameType | None], None]:
    """A signal handler that has the worker hand over before it goes on to ``stop``."""
    begun = threading.Event()

    def hand_over(number: int, frame: FrameType | None) -> None:
        try:
            worker.hand_over(HANDOVER_S)
        finally:  # whatever came of it, a node that is told to stop does
            stop(number, frame)

    def handler(number: int, frame: FrameType | None) -> None:
        if not begun.is_set():
            begun.set()
            threading.Thread(target=hand_over, args=(number, frame), name="kvlog-stop", daemon=True).start()

    return handler


# --- the worker -----------------------------------------------------------------------------------------------


def _work(settings: Settings, supervisor: int, pipe: socket.socket, supervisors_end: socket.socket) -> Front:
    """Become the node: called once, in the worker, by Granian. Returns the application to serve."""
    # Until Granian takes the signals over: SIGTERM runs the finalizers, which close what is open by then. A Ctrl-C
    # reaches both processes, and what follows from it is the supervisor's business.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    supervisors_end.close()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)
    # Many short requests on many threads: a shorter turn halves the time for which one waits for the others.
    sys.setswitchinterval(0.001)

    def fail(code: int, reason: str) -> NoReturn:
        """The node cannot go on: say so and end, without waiting for anything that may be stuck."""
        signal.alarm(LAST_WORDS_S)  # the kernel ends what still hangs then
        try:
            pipe.sendall(b"exit %d\n" % code)
            print(f"server.py: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - the last line, for people
        finally:
            os._exit(code)

    try:
        return _assemble(settings, supervisor, pipe, fail)
    except KvlogError as error:
        fail(error.exit_code, str(error))


def _assemble(
    settings: Settings, supervisor: int, pipe: socket.socket, fail: Callable[[int, str], NoReturn]
) -> Front:
    guard = Guard(fail)
    guard.install()
    clock = SystemClock()
    instance = uuid.uuid4().hex[:16]
    say = partial(_say, settings)

    def kill() -> None:
        """Die like kill -9, once the answer to /kill has had the time to leave."""
        threading.Timer(0.1, os.kill, (supervisor, signal.SIGKILL)).start()

    FAILPOINTS.belong_to(supervisor, say)
    store = LmdbStore(settings.data_dir / STORE, history=settings.history)
    node = Node(_node_settings(settings, instance), store, store.position())
    hub = WatchHub(store)
    named = _naming(settings)
    runtime = Runtime(
        node,
        store,
        clock,
        say=lambda text: say(named(text)),
        fail=lambda code, reason: fail(code, named(reason)),
        announce=partial(_announce, settings),
        on_applied=hub.applied,
    )
    session = _session(settings, store.position().identity, runtime.post, clock, fail)
    # A push or probe that ended by an exception would never be answered, and never be made again.
    threads = GuardedThreads(THREADS, guard, thread_name_prefix="kvlog-peer")
    peers = HttpPeers(
        runtime.post,
        incoming=settings.data_dir / INCOMING,
        verify=lambda copy: inspect(copy).position,
        threads=threads,
    )

    def close() -> None:
        guard.off()
        session.stop()
        runtime.stop(timeout_s=2)
        hub.stop(timeout_s=2)
        peers.stop()
        store.close()

    # Granian's worker does not run atexit functions on SIGTERM, but multiprocessing's finalizers (measured).
    Finalize(None, close, exitpriority=100)
    log = ZooKeeperLog(session)
    me = Member(settings.node_id, instance, settings.advertise, settings.recover)
    hub.start()
    runtime.start(log=log, election=ZooKeeperElection(session, me), peers=peers)
    session.start()
    service = make_service(
        settings,
        instance=instance,
        runtime=runtime,
        store=store,
        peers=peers,
        log=log,
        clock=clock,
        kill=kill,
        copy_store=store.snapshot,
    )
    front = _front(service, hub, guard, fail)
    # What there is now stays for good: to look through it for garbage again and again would find none.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    threading.Thread(target=_obey, args=(pipe, runtime, front), name="kvlog-supervisor", daemon=True).start()
    return front


def _session(
    settings: Settings, known: Identity | None, post: Post, clock: Clock, fail: Callable[[int, str], NoReturn]
) -> ZooKeeperSession:
    """The session with ZooKeeper, not begun yet; ``known`` is the log that the store belongs to."""
    return ZooKeeperSession(
        settings.zk,
        Layout(settings.root),
        known=known,
        may_create=not (settings.data_dir / DAMAGED).exists(),
        data_dir=settings.data_dir,
        window=settings.request_window,
        session_timeout_s=settings.session_timeout_s,
        post=post,
        clock=clock,
        say=partial(_say, settings),
        fail=fail,
    )


def _front(service: Service, hub: WatchHub, guard: Guard, fail: Callable[[int, str], NoReturn]) -> Front:
    """All that the node answers over HTTP."""
    app = create_app(service)
    # A store that cannot be read on a request's thread ends the node, as it does on the thread that applies.
    app.register_error_handler(StoreFailure, lambda error: fail(error.exit_code, str(error)))
    return Front(
        app,
        guard,
        handlers={watch.PATH: watch.WatchRoute(hub, partial(marks, service))},
        shortcut=HotPath(service) if service.settings.hot_path else None,
        headers=(("Kvlog-Node", service.settings.node_id), (INSTANCE_HEADER, service.instance)),
    )


def _announce(settings: Settings, status: Status) -> None:
    """The one line on stdout: the node is up."""
    position = status.position
    stale = f", stale store: it has missed {position.missed_entries} entries" if position.gaps else ""
    print(  # noqa: T201 - whoever started the node waits for it
        f"kvlog {settings.node_id} is ready on {settings.url}: {status.role}, revision {position.revision}, "
        f"index {position.applied_index}{stale}",
        flush=True,
    )


def _naming(settings: Settings) -> Callable[[str], str]:
    """Makes commands of what the core says, which knows no directory and no path of ZooKeeper's by its name."""
    names = {
        "DATA_DIR": str(settings.data_dir),
        "HOSTS": settings.zk,
        "ELECTION": Layout(settings.root).election,
    }
    places = re.compile(rf"\b({'|'.join(names)})\b")
    return lambda text: places.sub(lambda match: quote(names[match[0]]), text)


def _node_settings(settings: Settings, instance: str) -> NodeSettings:
    return NodeSettings(
        node_id=settings.node_id,
        address=settings.advertise,
        instance=instance,
        recover=settings.recover,
        session_timeout_s=settings.session_timeout_s,
        retain_entries=settings.retain_entries,
        log_bytes_max=settings.log_bytes_max,
    )


def _obey(pipe: socket.socket, runtime: Runtime, front: Front) -> None:
    """Hand over when the supervisor says so; end when it is gone."""
    try:
        while _told(pipe):
            runtime.ask(HandoverRequested, HANDOVER_S)
            hit("after_handover")
            front.stop()  # an answer that has no end would hold up the server's
            pipe.sendall(b"done\n")
            pipe.settimeout(STOP_AGAIN_S)
    except ConnectionError:
        pass  # gone without having read all that was said
    os._exit(1)


def _told(pipe: socket.socket) -> bool:
    """Wait until the supervisor says something; false if it is gone. Meanwhile, who has handed over is to stop."""
    while True:
        try:
            return bool(pipe.recv(64))
        except TimeoutError:
            os.kill(os.getpid(), signal.SIGTERM)
