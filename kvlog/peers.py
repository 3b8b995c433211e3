"""The port Peers over HTTP, and the forwarding of writes to the leader: pooled connections, bounded in time."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus

import msgspec
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProtocolError

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.values import PushAnswer, Reach
from kvlog.failpoints import hit
from kvlog.ports import Post

THREADS = 16
"""Pushes and probes at a time. The core sends one of each to a peer at a time."""

CONNECTIONS_PER_PEER = 64
"""Connections kept to one peer: as many as there are threads that may forward a write to it."""

CONNECT_S = 0.5
PROBE_S = 0.5
PUSH_S = 2.0

INSTANCE_HEADER = "Kvlog-Instance"
MSGPACK = "application/msgpack"

_encoder = msgspec.msgpack.Encoder()
_answers = msgspec.msgpack.Decoder(PushAnswer)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The leader's answer to a forwarded write, to be handed on as it is."""

    status: int
    body: bytes
    headers: Mapping[str, str]  # names in any case


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing reached the leader: the write did not happen there."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The write was sent, and what became of it is not known."""

    reason: str


class HttpPeers:
    """See the module's docstring."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._pool = urllib3.PoolManager(num_pools=THREADS, maxsize=CONNECTIONS_PER_PEER, retries=False)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kvlog-peer")

    def stop(self) -> None:
        """Send nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.clear()

    def push(self, effect: do.Push) -> None:
        """See ports.Peers."""
        self._threads.submit(lambda: self._post(self._push(effect)))

    def _push(self, effect: do.Push) -> ev.Event:
        node_id = effect.member.node_id
        try:
            response = self._pool.request(
                "POST",
                f"http://{effect.member.address}/propagate",
                body=_encoder.encode(effect.body),
                headers={"Content-Type": MSGPACK},
                timeout=urllib3.Timeout(connect=CONNECT_S, read=PUSH_S),
            )
            instance = response.headers.get(INSTANCE_HEADER)
            if response.status != HTTPStatus.OK or instance != effect.member.instance:
                return ev.PushFailed(node_id)
            hit("mid_push")
            return ev.PushAnswered(node_id, _answers.decode(response.data))
        except (HTTPError, msgspec.MsgspecError):
            return ev.PushFailed(node_id)

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

    def forward(
        self, method: str, address: str, path: str, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> Forwarded | NotSent | NoAnswer:
        """Send a client's write to the leader once; whoever calls decides whether to try again."""
        try:
            response = self._pool.request(
                method,
                f"http://{address}{path}",
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_S, read=timeout_s),
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            return NotSent(f"{address} cannot be reached: {error}")
        except HTTPError as error:
            return NoAnswer(f"{address} gave no answer: {error}")
        return Forwarded(response.status, response.data, response.headers)


def _refused(error: HTTPError) -> bool:
    """Whether nothing listens at the address: its process is gone, not slow or cut off."""
    return isinstance(error, NewConnectionError) and isinstance(error.__cause__, ConnectionRefusedError)
