"""The port Log: entries as persistent sequential znodes, in segments."""

from __future__ import annotations

from typing import Any

from kazoo.exceptions import NoNodeError, RolledBackError, RuntimeInconsistency
from kazoo.recipe.watchers import ChildrenWatch

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import SEGMENT_ENTRIES, segment_of
from kvlog.zookeeper.layout import entry_index, last_entry, last_segment
from kvlog.zookeeper.session import ZooKeeperSession

_COLLATERAL = (RolledBackError, RuntimeInconsistency)
"""What the operations of a failed multi say that did not fail themselves."""

_SEQUENCE_MODULUS = 1 << 32


class ZooKeeperLog:
    """See the module's docstring."""

    def __init__(self, session: ZooKeeperSession) -> None:
        self._session = session
        self._layout = session.layout
        self._client = session.client
        self._watch_generation = 0

    # --- reading ------------------------------------------------------------------------------------------

    def read_tail(self, effect: do.ReadTail) -> None:
        """See ports.Log."""
        self._session.run(effect, lambda: self._read_tail(effect))

    def _read_tail(self, effect: do.ReadTail) -> ev.Event:
        asked_at = self._session.clock.monotonic()
        if effect.confirm:
            self._pass_quorum()
        segment = last_segment(self._session.call(self._client.get_children_async(self._layout.log)))
        if segment is None:
            raise NoNodeError(self._layout.segment(0))
        stat = self._session.call(self._client.exists_async(self._layout.segment(segment)))
        if stat is None:
            return ev.Failed(effect)
        # ZooKeeper shows cversion as creations plus deletions, and numChildren is their difference, so this is
        # the number of children ever created: what the next sequence number will be. Neither failed multis nor
        # deletions disturb it (PrepRequestProcessor, DataNode.copyStat; measured).
        created = ((stat.cversion % _SEQUENCE_MODULUS) + stat.numChildren) // 2
        return ev.TailRead(segment * SEGMENT_ENTRIES + created - 1, asked_at, effect.confirm)

    def _pass_quorum(self) -> None:
        """Have a quorum agree on something, so that this session then sees all that was agreed on before.

        ``sync`` would not do: ZooKeeper's leader answers it alone (ZOOKEEPER-1675). A multi of nothing but a
        check is a transaction like any other.
        """
        transaction = self._client.transaction()
        transaction.check(self._layout.cluster, version=-1)
        for result in self._session.call(transaction.commit_async()):
            if isinstance(result, Exception):
                raise result

    def read_entries(self, effect: do.ReadEntries) -> None:
        """See ports.Log."""
        self._session.run(effect, lambda: self._read_entries(effect))

    def _read_entries(self, effect: do.ReadEntries) -> ev.Event:
        indices = range(effect.first_index, effect.first_index + effect.count)
        # All of them are on their way before the first answer is waited for.
        pending = [self._client.get_async(self._layout.entry(index)) for index in indices]
        entries = []
        for request in pending:
            try:
                data, _ = self._session.call(request)
            except NoNodeError:
                break
            entries.append(data)
        return ev.EntriesRead(effect.first_index, tuple(entries))

    # --- watching -----------------------------------------------------------------------------------------

    def watch_segment(self, effect: do.WatchSegment) -> None:
        """See ports.Log."""
        self._watch_generation += 1
        if effect.segment is not None:
            # Setting up a ChildrenWatch waits for ZooKeeper, without a limit: it gets a thread of its own.
            self._client.handler.spawn(self._watch, effect.segment, self._watch_generation)

    def _watch(self, segment: int, generation: int) -> None:
        def changed(children: list[str]) -> bool:
            """On kazoo's watch thread: only enqueues. False ends the watch."""
            if generation != self._watch_generation:
                return False
            last = last_entry(segment, children)
            if last is not None:
                self._session.post(ev.SegmentChanged(last))
            return True

        # Without allow_session_lost it leaves no listener behind; a new connection asks for a new watch anyway.
        ChildrenWatch(self._client, self._layout.segment(segment), changed, allow_session_lost=False)

    # --- appending ----------------------------------------------------------------------------------------

    def append(self, effect: do.Append) -> None:
        """See ports.Log. The check of the own election znode is the fence: it and the creation are one."""
        unknown = ev.AppendUnknown(effect.batch_id)
        if not self._client.connected:
            # kazoo would keep it and send it some time later; the core's way of finding out is the same.
            self._session.post(unknown)
            return
        segment = segment_of(effect.index)
        transaction = self._client.transaction()
        transaction.check(self._layout.candidate(effect.fence), version=-1)
        transaction.create(self._layout.entry_prefix(segment), effect.data, sequence=True)
        if effect.index % SEGMENT_ENTRIES == SEGMENT_ENTRIES - 1:
            transaction.create(self._layout.segment(segment + 1))
        self._session.start_call(
            transaction.commit_async(),
            lambda result: self._session.post(_outcome(effect, result)),
            lambda: self._session.post(unknown),
        )


def _outcome(effect: do.Append, pending: Any) -> ev.Event:
    """What became of an append. A failed multi is not raised: its results hold exceptions."""
    if not pending.successful():
        return ev.AppendUnknown(effect.batch_id)
    fence, entry, *_ = pending.value
    if isinstance(fence, NoNodeError):
        return ev.AppendFenced(effect.batch_id)
    failed = [result for result in pending.value if isinstance(result, Exception)]
    if failed:  # refused as a whole, for another reason: it cannot land either
        reasons = [repr(result) for result in failed if type(result) not in _COLLATERAL]
        return ev.AppendRefused(effect.batch_id, f"ZooKeeper refused entry {effect.index}: {reasons}")
    return ev.Appended(effect.batch_id, entry_index(entry))
