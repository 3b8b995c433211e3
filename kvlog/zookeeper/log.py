"""The port Log: entries as persistent sequential znodes, in segments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
from kazoo.exceptions import KazooException, NodeExistsError, NoNodeError
from kazoo.recipe.watchers import ChildrenWatch

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import SEGMENT_ENTRIES, UNREADABLE, first_of, segment_of
from kvlog.errors import Unavailable
from kvlog.zookeeper.layout import (
    LogData,
    SegmentData,
    children_ever,
    entry_index,
    last_entry,
    log_data,
    segments_in,
    skips_in,
)
from kvlog.zookeeper.multi import failure_in
from kvlog.zookeeper.session import ZooKeeperSession
from kvlog.zookeeper.trim import Trimmer


class ZooKeeperLog:
    """See the module's docstring."""

    def __init__(self, session: ZooKeeperSession) -> None:
        self._session = session
        self._layout = session.layout
        self._client = session.client
        self._trimmer = Trimmer(session)
        self._watch_generation = 0
        # As of the last reading of the tail; replaced on the session's thread only.
        self._skips: frozenset[int] = frozenset()
        self._first_index = 0

    # --- reading ------------------------------------------------------------------------------------------

    def read_tail(self, effect: do.ReadTail) -> None:
        """See ports.Log."""
        self._session.run(effect, lambda: self._read_tail(effect))

    def _read_tail(self, effect: do.ReadTail) -> ev.Event:
        session = self._session
        asked_at = session.clock.monotonic()
        # All on their way before the first answer is waited for; ZooKeeper answers a session in this order. A trim
        # notes where the log begins before it deletes anything, so whoever has missed an entry is told of it here.
        # And the segments are listed after that: the one at which the log begins is among them.
        quorum = session.ask_quorum() if effect.confirm else None
        log = self._client.get_async(self._layout.log)
        children = self._client.get_children_async(self._layout.log)
        if quorum is not None:
            session.check_quorum(quorum)
        try:
            data, stat = session.call(log)
            names = session.call(children)
        except NoNodeError:
            session.require_log()
            return ev.Failed(effect)
        session.require_log(stat.czxid)
        begin = self._begin(data)
        segment = max(segments_in(names), default=-1)
        if segment < segment_of(begin.first_index):
            session.refuse(session.refusal.broken_log(f"the log has no segment {segment_of(begin.first_index)}"))
        self._skips, self._first_index = frozenset(skips_in(names)), begin.first_index
        stat = session.call(self._client.exists_async(self._layout.segment(segment)))
        if stat is None:
            return ev.Failed(effect)
        return ev.TailRead(
            first_of(segment) + children_ever(stat) - 1,
            asked_at,
            effect.confirm,
            begin.first_index,
            begin.first_bytes,
            tuple(sorted(self._skips)),
        )

    def confirm_tail(self, effect: do.ConfirmTail) -> None:
        """See ports.Log. Three requests at once, which ZooKeeper answers a session in this order."""
        failed = ev.Failed(effect)
        if not self._client.connected:
            self._session.post(failed)
            return
        asked_at = self._session.clock.monotonic()
        quorum = self._session.ask_quorum()
        here = self._client.exists_async(self._layout.segment(effect.segment))

        def answered(behind: Any) -> None:
            self._session.post(_confirmed(quorum, here, behind, effect.segment, asked_at) or failed)

        self._session.start_call(
            self._client.exists_async(self._layout.segment(effect.segment + 1)),
            answered,
            lambda: self._session.post(failed),
        )

    def _begin(self, data: bytes) -> LogData:
        """Where the log begins, from the data of its znode."""
        try:
            return log_data(data)
        except UNREADABLE:
            refusal = self._session.refusal
            self._session.refuse(refusal.broken_log(f"{self._layout.log} does not say where the log begins"))

    def fetch(self, first_index: int, count: int) -> tuple[bytes, ...]:
        """See ports.EntryReader."""
        if not self._client.connected:
            raise Unavailable("this node has no connection to ZooKeeper at the moment")
        try:
            return tuple(self._fetch(first_index, count))
        except KazooException as error:
            raise Unavailable(f"ZooKeeper refused to read the log: {error!r}") from error

    def read_entries(self, effect: do.ReadEntries) -> None:
        """See ports.Log."""
        self._session.run(effect, lambda: self._read_entries(effect))

    def _read_entries(self, effect: do.ReadEntries) -> ev.Event:
        return ev.EntriesRead(effect.first_index, tuple(self._fetch(effect.first_index, effect.count)))

    def _fetch(self, first_index: int, count: int) -> Iterator[bytes]:
        """The entries from an index on, up to one that is not there."""
        indices = range(first_index, first_index + count)
        layout, first = self._layout, self._first_index
        # A skip stays when what it stands for is trimmed.
        skipped = {index for index in self._skips if index >= first}
        paths = (layout.skip(index) if index in skipped else layout.entry(index) for index in indices)
        # All of them are on their way before the first answer is waited for.
        pending = [self._client.get_async(path) for path in paths]
        for request in pending:
            try:
                data, _ = self._session.call(request)
            except NoNodeError:
                return
            yield data

    # --- watching -----------------------------------------------------------------------------------------

    def watch_segment(self, effect: do.WatchSegment) -> None:
        """See ports.Log."""
        self._watch_generation += 1
        if effect.segment is not None:
            # Setting up a ChildrenWatch waits for ZooKeeper, without a limit: it gets a thread of its own.
            self._client.handler.spawn(self._watch, effect.segment, self._watch_generation)

    def _watch(self, segment: int, generation: int) -> None:
        watching = True

        def changed(children: list[str]) -> bool:
            """On kazoo's watch thread: only enqueues. False ends the watch, which lists all at each change."""
            nonlocal watching
            if generation != self._watch_generation:
                return False
            going_on, watching = watching, False
            last = last_entry(segment, children)
            if last is not None:
                self._session.post(ev.SegmentChanged(last, going_on))
            return going_on

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
            transaction.create(
                self._layout.segment(segment + 1), msgspec.json.encode(SegmentData(effect.log_bytes))
            )
        self._session.start_call(
            transaction.commit_async(),
            lambda result: self._session.post(_outcome(effect, result)),
            lambda: self._session.post(unknown),
        )

    # --- trimming and skipping ----------------------------------------------------------------------------

    def trim(self, effect: do.Trim) -> None:
        """See ports.Log."""
        self._session.run(effect, lambda: self._trimmer.trim(effect))

    def write_skip(self, effect: do.WriteSkip) -> None:
        """See ports.Log."""

        def work() -> ev.Event:
            with suppress(NodeExistsError):  # whoever was first, it stands for the same entry
                self._session.call(self._client.create_async(self._layout.skip(effect.index), effect.data))
            self._skips |= {effect.index}
            return ev.SkipWritten(effect.index)

        self._session.run(effect, work)


def _confirmed(quorum: Any, here: Any, behind: Any, segment: int, asked_at: float) -> ev.TailConfirmed | None:
    """Where the log ends, if all three requests have come to what they should."""
    if not (quorum.successful() and here.successful() and behind.successful()):
        return None
    if failure_in(quorum.value) is not None or here.value is None or behind.value is not None:
        return None
    return ev.TailConfirmed(first_of(segment) + children_ever(here.value) - 1, asked_at)


def _outcome(effect: do.Append, pending: Any) -> ev.Event:
    """What became of an append. A failed multi is not raised: its results hold exceptions."""
    if not pending.successful():
        return ev.AppendUnknown(effect.batch_id)
    fence, entry, *_ = pending.value
    if isinstance(fence, NoNodeError):
        return ev.AppendFenced(effect.batch_id)
    failure = failure_in(pending.value)
    if failure is not None:  # refused as a whole, for another reason: it cannot land either
        return ev.AppendRefused(effect.batch_id, f"ZooKeeper refused entry {effect.index}: {failure!r}")
    return ev.Appended(effect.batch_id, entry_index(entry))
