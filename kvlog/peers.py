"""The port Peers over HTTP, and the forwarding of writes to the leader: pooled connections, bounded in time."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import get_args

import msgspec
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProtocolError

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.commands import Command
from kvlog.core.entry import UNREADABLE
from kvlog.core.machine import Position
from kvlog.core.values import (
    Ack,
    Outcome,
    PushAnswer,
    Reach,
    Refused,
)
from kvlog.errors import BadSnapshot, KvlogError, Unavailable
from kvlog.failpoints import hit
from kvlog.line import Line
from kvlog.ports import Post
from kvlog.snapshot import MEDIA_TYPE, Decoder, Header
from kvlog.store.directories import DATA_FILE, remove, sync_directory

THREADS = 16
"""Pushes and probes at a time. The core sends one of each to a peer at a time."""

CONNECTIONS_PER_PEER = 64
"""Connections kept to one peer: as many as there are threads that may forward a write to it."""

CONNECT_S = 0.5
PROBE_S = 0.5
PUSH_S = 2.0

LINES_MAX = 64
"""Connections that are kept for pushes, one to each member."""

SNAPSHOT_READ_S = 10.0
"""How long a peer may send nothing of a snapshot."""

SNAPSHOT_WINDOW_S = 30.0
SNAPSHOT_WINDOW_BYTES = 1024 * 1024
"""In each window, at least these many bytes have to come."""

SNAPSHOT_PIECE_BYTES = 256 * 1024
PROGRESS_S = 0.5
REFUSAL_BYTES_MAX = 64 * 1024

NOT_TAKEN = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
"""How a leader answers a forwarded write that it does not like, before anything is done."""

INSTANCE_HEADER = "Kvlog-Instance"
MSGPACK = "application/msgpack"

_encoder = msgspec.msgpack.Encoder()
_answers = msgspec.msgpack.Decoder(PushAnswer)
_outcomes: dict[str, msgspec.msgpack.Decoder[Outcome]] = {
    kind.__name__: msgspec.msgpack.Decoder(kind) for kind in get_args(Outcome)
}


@dataclass(frozen=True, slots=True)
class Forward:
    """A write that another node hands on to the leader, which has to be of the same cluster.

    ``cluster_id``: a node of another one may have the leader's address by now.
    """

    cluster_id: str
    request_id: str
    ack: Ack
    timeout_ms: int
    command: Command


class ForwardAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What became of a forwarded write: which kind of outcome it is, and the outcome."""

    kind: str
    encoded: msgspec.Raw

    @classmethod
    def of(cls, outcome: Outcome) -> ForwardAnswer:
        """The answer that says ``outcome``."""
        return cls(type(outcome).__name__, msgspec.Raw(_encoder.encode(outcome)))

    def outcome(self) -> Outcome:
        """What it says.

        Raises:
            UNREADABLE: nothing that is understood.
        """
        if self.kind not in _outcomes:
            raise msgspec.ValidationError(f"there is no outcome {self.kind!r}")
        return _outcomes[self.kind].decode(self.encoded)


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing reached the leader: the write did not happen there."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The write was sent, and what became of it is not known."""

    reason: str


_forward_answers = msgspec.msgpack.Decoder(ForwardAnswer)


class HttpPeers:
    """See the module's docstring.

    Args:
        post: takes the events.
        incoming: the directory into which snapshots are fetched; what is there is deleted.
        verify: checks the store in a directory, however damaged that is, and returns its position.
        threads: on which to work, THREADS of them; by default, plain ones.
    """

    def __init__(
        self,
        post: Post,
        *,
        incoming: Path,
        verify: Callable[[Path], Position],
        threads: ThreadPoolExecutor | None = None,
    ) -> None:
        self._post = post
        self._incoming = incoming
        self._verify = verify
        self._fetching = threading.Lock()
        self._stopping = threading.Event()
        self._answer: urllib3.BaseHTTPResponse | None = None  # the snapshot that comes in
        self._pool = urllib3.PoolManager(num_pools=THREADS, maxsize=CONNECTIONS_PER_PEER, retries=False)
        self._lines: dict[str, Line] = {}
        self._threads = threads or ThreadPoolExecutor(THREADS, thread_name_prefix="kvlog-peer")

    def stop(self) -> None:
        """Send nothing more, and end what is being fetched."""
        self._stopping.set()
        answer = self._answer
        if answer is not None:
            with suppress(OSError, RuntimeError, ValueError):  # it has just come to its end by itself
                answer.shutdown()  # whoever waits for its next byte need not wait any longer
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.clear()
        for line in list(self._lines.values()):
            line.close()

    def push(self, effect: do.Push) -> None:
        """See ports.Peers."""
        self._threads.submit(lambda: self._post(self._push(effect)))

    def _push(self, effect: do.Push) -> ev.Event:
        member = effect.member
        # One push to a member is under way at a time (P1): nobody else uses its line meanwhile.
        line = self._lines.pop(member.address, None)
        if line is None:
            line = Line(member.address, connect_s=CONNECT_S, answer_s=PUSH_S)
        try:
            answer = line.post("/propagate", _encoder.encode(effect.body), MSGPACK)
            if answer.status != HTTPStatus.OK or answer.headers.get(INSTANCE_HEADER.lower()) != member.instance:
                return ev.PushFailed(member.node_id)
            hit("mid_push")
            return ev.PushAnswered(member.node_id, _answers.decode(answer.body))
        except (Unavailable, *UNREADABLE):
            return ev.PushFailed(member.node_id)
        finally:
            self._keep(member.address, line)

    def _keep(self, address: str, line: Line) -> None:
        """Have a line for the next push; those that were not used for longest go."""
        if self._stopping.is_set():
            line.close()
            return
        self._lines[address] = line
        while len(self._lines) > LINES_MAX:
            with suppress(KeyError):  # another thread has it
                self._lines.pop(next(iter(self._lines))).close()

    def probe(self, effect: do.Probe) -> None:
        """See ports.Peers."""
        self._threads.submit(lambda: self._post(self._probe(effect.address)))

    def _probe(self, address: str) -> ev.Event:
        for _ in range(2):  # a kept connection may have been closed by the peer's end; the second is a new one
            try:
                response = self._pool.request(
                    "GET",
                    f"http://{address}/healthz",
                    timeout=urllib3.Timeout(connect=CONNECT_S, read=PROBE_S),
                )
            except ProtocolError:
                continue
            except HTTPError as error:
                return ev.Probed(address, Reach.REFUSED if _refused(error) else Reach.UNKNOWN, "")
            instance = response.headers.get(INSTANCE_HEADER, "")
            return ev.Probed(address, Reach.ANSWERS if instance else Reach.UNKNOWN, instance)
        return ev.Probed(address, Reach.UNKNOWN, "")

    def fetch_snapshot(self, effect: do.FetchSnapshot) -> None:
        """See ports.Peers. One at a time."""
        self._threads.submit(lambda: self._post(self._fetch_snapshot(effect)))

    def _fetch_snapshot(self, effect: do.FetchSnapshot) -> ev.Event:
        node_id = effect.member.node_id
        if not self._fetching.acquire(blocking=False):
            return ev.SnapshotFailed(node_id, "another snapshot is being fetched")
        try:
            return self._fetch(effect)
        except _NoSnapshot as refusal:
            return ev.SnapshotFailed(node_id, str(refusal), refusal.applied_index)
        except (HTTPError, OSError, KvlogError) as error:
            return ev.SnapshotFailed(node_id, f"the snapshot of {effect.member.address} is of no use: {error}")
        finally:
            self._fetching.release()

    def _fetch(self, effect: do.FetchSnapshot) -> ev.Event:
        remove(self._incoming)
        try:
            self._incoming.mkdir()
            position = self._verified(self._receive(effect))
        except BaseException:
            remove(self._incoming)
            raise
        return ev.SnapshotFetched(str(self._incoming), position)

    def _verified(self, header: Header) -> Position:
        position = self._verify(self._incoming)
        if not header.describes(position):
            raise BadSnapshot(f"it announces index {header.index} and holds {position}")
        return position

    def _receive(self, effect: do.FetchSnapshot) -> Header:
        """Write a peer's copy to the disk, for good; what it holds is still to be verified."""
        response = self._pool.request(
            "GET",
            f"http://{effect.member.address}/v1/snapshot?min_index={effect.min_index}",
            timeout=urllib3.Timeout(connect=CONNECT_S, read=SNAPSHOT_READ_S),
            preload_content=False,
        )
        self._answer = response
        try:
            instance = response.headers.get(INSTANCE_HEADER)
            if instance != effect.member.instance:
                raise _NoSnapshot(f"{effect.member.address} is another process now than the one that was asked")
            if response.status != HTTPStatus.OK or response.headers.get("Content-Type") != MEDIA_TYPE:
                raise _refusal(effect.member.address, response)
            with (self._incoming / DATA_FILE).open("wb") as file:
                decoder = Decoder(file.write, lambda header: self._accept(header, effect.min_index))
                told = time.monotonic()
                for piece in self._pieces(response):
                    decoder.feed(piece)
                    if time.monotonic() - told >= PROGRESS_S and decoder.header is not None:
                        told = time.monotonic()
                        self._post(ev.SnapshotProgress(decoder.received_bytes, decoder.header.bytes))
                header = decoder.finish()
                file.flush()
                os.fsync(file.fileno())
            sync_directory(self._incoming)
        finally:
            self._answer = None
            response.close()  # and the connection with it: what is left of the answer is not read
        return header

    def _pieces(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """The answer's body, as long as it comes fast enough."""
        window_began = time.monotonic()
        window_bytes = 0
        while piece := response.read1(SNAPSHOT_PIECE_BYTES):
            if self._stopping.is_set():
                raise _NoSnapshot("this node is stopping")
            yield piece
            now = time.monotonic()
            window_bytes += len(piece)
            if now - window_began >= SNAPSHOT_WINDOW_S:
                if window_bytes < SNAPSHOT_WINDOW_BYTES:
                    raise BadSnapshot(f"only {window_bytes} bytes of it came in {SNAPSHOT_WINDOW_S:g} s")
                window_began, window_bytes = now, 0

    def _accept(self, header: Header, min_index: int) -> None:
        if header.index < min_index:
            raise _NoSnapshot(f"it stands at index {header.index}, {min_index} was asked for", header.index)
        free_bytes = shutil.disk_usage(self._incoming).free
        if header.bytes > free_bytes:
            raise _NoSnapshot(
                f"it has {header.bytes} bytes, and {self._incoming.parent} has room for {free_bytes} only: make "
                "room on that disk; this node asks again by itself"
            )

    def forward(self, address: str, forward: Forward, timeout_s: float) -> Outcome | NotSent | NoAnswer:
        """Send a client's write to the leader once; whoever calls decides whether to try again."""
        try:
            response = self._pool.request(
                "POST",
                f"http://{address}/forward",
                body=_encoder.encode(forward),
                headers={"Content-Type": MSGPACK},
                timeout=urllib3.Timeout(connect=CONNECT_S, read=timeout_s),
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            return NotSent(f"{address} cannot be reached: {error}")
        except HTTPError as error:
            return NoAnswer(f"{address} gave no answer: {error}")
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE:  # said before anything was done
            return Refused(f"{address} takes no more requests at the moment", retry=True)
        if response.status in NOT_TAKEN:
            return Refused(f"{address} does not take this write from another node: status {response.status}")
        try:
            return _forward_answers.decode(response.data).outcome()
        except UNREADABLE:
            return NoAnswer(f"{address} gave an answer that is not understood, status {response.status}")


class _NoSnapshot(Exception):
    """A peer has no snapshot for this node, or this node no use for it."""

    def __init__(self, reason: str, applied_index: int | None = None) -> None:
        super().__init__(reason)
        self.applied_index = applied_index


def _refusal(address: str, response: urllib3.BaseHTTPResponse) -> _NoSnapshot:
    """Why a peer sends no snapshot, and where it stands if it says so."""
    reason, applied_index = f"status {response.status}", None
    try:
        said = json.loads(response.read(REFUSAL_BYTES_MAX))
    except (ValueError, RecursionError):
        said = None  # its words cannot be read; the status is what is known
    if isinstance(said, dict):
        reason = str(said.get("detail", reason))
        index = said.get("applied_index")
        if response.status == HTTPStatus.CONFLICT and isinstance(index, int):
            applied_index = index
    return _NoSnapshot(f"{address} sends no snapshot: {reason}", applied_index)


def _refused(error: HTTPError) -> bool:
    """Whether nothing listens at the address: its process is gone, not slow or cut off."""
    return isinstance(error, NewConnectionError) and isinstance(error.__cause__, ConnectionRefusedError)
