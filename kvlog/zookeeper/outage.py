"""What to think of a long time without a connection: mostly nothing. But ZooKeeper may have lost its data.

A client says at each connect what it has seen last, and a server that has not seen as much refuses it (it may lag
behind). After ZooKeeper was wiped, or restored from an older copy, all of them do: kazoo tries for ever, and the
node would never learn why. So a fresh client, which has seen nothing, has a look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from kvlog.core.entry import UNREADABLE
from kvlog.core.machine import Identity
from kvlog.errors import Unavailable
from kvlog.zookeeper.layout import ClusterData, Layout
from kvlog.zookeeper.multi import failure_in
from kvlog.zookeeper.refusal import Refusal
from kvlog.zookeeper.visit import visit

LOOK_AFTER_S = 5.0
"""Time without a connection, at least, before the first look."""

LOOK_EVERY_S = 5.0
"""Time from the end of a look to the next one."""

ANSWER_S = 5.0
"""How long a look waits to be connected, and for each answer."""

LOOKS = 2
"""Looks, one behind the other, that must have found ZooKeeper to be older than what was seen of it."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a look has found: which log, None if there is none; and the zxid up to which ZooKeeper has got."""

    identity: Identity | None
    zxid: int


def look(hosts: str, layout: Layout, *, answer_s: float) -> Sighting:
    """See which log a quorum of ZooKeeper's servers has below the root.

    Raises:
        Unavailable: no quorum, or no answer in time.
    """
    with visit(hosts, answer_s=answer_s, stop_s=None) as client:
        transaction = client.transaction()
        transaction.check(layout.cluster, version=-1)
        transaction.check(layout.log, version=-1)
        failure = failure_in(transaction.commit_async().get(timeout=answer_s))
        if isinstance(failure, NoNodeError):
            return Sighting(None, client.last_zxid)
        if failure is not None:
            raise failure
        data, _ = client.get_async(layout.cluster).get(timeout=answer_s)
        stat = client.exists_async(layout.log).get(timeout=answer_s)
        try:
            cluster = msgspec.json.decode(data, type=ClusterData)
        except UNREADABLE:
            return Sighting(None, client.last_zxid)
        if stat is None:
            return Sighting(None, client.last_zxid)
        return Sighting(Identity(cluster.cluster_id, stat.czxid, cluster.window), client.last_zxid)


class Lookout:
    """Looks now and then while there is no connection: one at a time, each on a thread of its own.

    ``known`` tells the log that the node follows; ``give_up`` is called, with the last line, when the client will
    never be connected again. The first look comes after ``patience_s``, or LOOK_AFTER_S if that is longer.
    """

    def __init__(
        self,
        client: KazooClient,
        refusal: Refusal,
        *,
        known: Callable[[], Identity | None],
        patience_s: float,
        give_up: Callable[[str], None],
    ) -> None:
        self._client = client
        self._refusal = refusal
        self._known = known
        self._patience_s = patience_s
        self._give_up = give_up
        self._outage_began: float | None = None
        self._next_look = 0.0
        self._looking: threading.Thread | None = None
        self._older = 0

    def tick(self, now: float) -> None:
        """Note whether there is a connection, and begin a look if it is time for one."""
        if self._client.connected:
            self.end()
            return
        if self._outage_began is None:
            self._outage_began = now
            self._next_look = now + max(LOOK_AFTER_S, self._patience_s)
        if self._looking is not None:
            if self._looking.is_alive():
                return
            self._looking = None
            self._next_look = max(self._next_look, now + LOOK_EVERY_S)
        # Who has seen nothing yet, or whose session has ended, is refused by nobody.
        if now >= self._next_look and self._client.last_zxid > 0:
            self._looking = threading.Thread(
                target=self._look, args=(self._outage_began,), name="kvlog-zk-look", daemon=True
            )
            self._looking.start()

    def end(self) -> None:
        """There is a connection again, or none is wanted any more: nothing is concluded from a look under way."""
        self._outage_began = None
        self._older = 0

    def _look(self, outage_began: float) -> None:
        try:
            sighting = look(self._refusal.hosts, Layout(self._refusal.root), answer_s=ANSWER_S)
        except Unavailable:
            self._older = 0
            return
        verdict = self.judge(sighting)
        if verdict is not None and self._outage_began == outage_began and not self._client.connected:
            self._give_up(verdict)

    def judge(self, sighting: Sighting) -> str | None:
        """The last line, if what was found means that there will never be a connection; else None.

        That others are answered means nothing by itself: the way to some of the servers may be blocked, and the
        client may not have come to the others yet. A zxid below one that was seen cannot be: a quorum has just
        agreed on it, so it is higher than all that was ever agreed on, unless that is lost.
        """
        mine, found = self._known(), sighting.identity
        if mine is not None and found is None:
            return self._refusal.no_log(mine)
        if mine is not None and found is not None and found != mine:
            return self._refusal.another_log(mine, found)
        self._older = self._older + 1 if sighting.zxid < self._client.last_zxid else 0
        return self._refusal.restored(mine) if self._older >= LOOKS else None
