"""Trimming: where the log begins is noted first, then what is before it is deleted, a segment at a time."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from kazoo.client import TransactionRequest
from kazoo.exceptions import BadVersionError, NoNodeError

from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.entry import UNREADABLE, first_of, segment_of
from kvlog.zookeeper.layout import LogData, is_entry, log_bytes_before, log_data, segments_in
from kvlog.zookeeper.multi import batches, failure_in
from kvlog.zookeeper.session import ZooKeeperSession

REQUESTS = 100
"""Requests that are under way at a time; kazoo blocks the caller from the 278th unsent one on (measured)."""


class _Refused(Exception):
    """This trim goes no further; the message, if there is one, is for people."""


class Trimmer:
    """Carries out Trim, on the session's thread.

    Every change is one multi with the check of the fence: a former leader changes nothing. One that ends half way
    leaves a log that is whole from its first index on, and the next trim goes on where it was.
    """

    def __init__(self, session: ZooKeeperSession) -> None:
        self._session = session
        self._layout = session.layout
        self._client = session.client
        self._said = ""  # why a trim was refused, which is asked for again and again

    def trim(self, effect: do.Trim) -> ev.Event:
        """See ports.Log."""
        try:
            begin = self._note(effect)
            done = self._drop_segment(effect, begin)
        except _Refused as refused:
            if str(refused) and str(refused) != self._said:
                self._said = str(refused)
                self._session.say(f"cannot trim the log up to entry {effect.first_index}: {refused}")
            return ev.Failed(effect)
        self._said = ""
        return ev.Trimmed(begin.first_index, begin.first_bytes, done)

    def _note(self, effect: do.Trim) -> LogData:
        """Note that the log begins at ``effect.first_index``, unless it begins there or later already."""
        path, first = self._layout.log, effect.first_index
        data, stat = self._session.call(self._client.get_async(path))
        try:
            begin = log_data(data)
        except UNREADABLE as error:
            raise _Refused(f"{path} does not say where the log begins: {error}") from error
        if begin.first_index >= first:
            return begin
        begin = LogData(first, self._bytes_before(first, begin))
        transaction = self._fenced(effect)
        if effect.holders:
            transaction.check(self._layout.replicas, version=effect.registry_version)
        for mark in effect.holders:
            transaction.check(self._layout.replica(mark.node_id), version=mark.version)
        # Somebody else may have noted more since: the log never grows back.
        transaction.set_data(path, msgspec.json.encode(begin), version=stat.version)
        self._commit(transaction, f"noting it in {path}")
        return begin

    def _bytes_before(self, first_index: int, begin: LogData) -> int:
        """Size of all entries before ``first_index``; ``begin`` is where the log begins so far."""
        segment = segment_of(first_index)
        path = self._layout.segment(segment)
        try:
            data, _ = self._session.call(self._client.get_async(path))
        except NoNodeError as error:
            raise _Refused(f"there is no segment {path}") from error
        if begin.first_index > first_of(segment):
            start, size = begin.first_index, begin.first_bytes
        else:
            try:
                start, size = first_of(segment), log_bytes_before(segment, data)
            except UNREADABLE as error:
                raise _Refused(f"{path} does not say how much is before it: {error}") from error
        return size + sum(self._sizes(range(start, first_index)))

    def _sizes(self, indices: range) -> Iterator[int]:
        """The size of each of these entries, or of the skip in its place."""
        for first in range(indices.start, indices.stop, REQUESTS):
            some = range(first, min(first + REQUESTS, indices.stop))
            skips = [self._client.exists_async(self._layout.skip(index)) for index in some]
            entries = [self._client.exists_async(self._layout.entry(index)) for index in some]
            for index, skip, entry in zip(some, skips, entries, strict=True):
                stat = self._session.call(skip) or self._session.call(entry)
                if stat is None:
                    raise _Refused(f"entry {index} is missing")
                yield stat.dataLength

    def _drop_segment(self, effect: do.Trim, begin: LogData) -> bool:
        """Delete the lowest segment before the log's first one, or what is before the first entry in its own.

        Returns whether nothing is left before the log's beginning.
        """
        layout, first = self._layout, begin.first_index
        names = self._session.call(self._client.get_children_async(layout.log))
        left = [number for number in segments_in(names) if number < segment_of(first)]
        own = first_of(segment_of(first))
        # Skips stay: by them, whoever has applied what was skipped finds out, however late (K4).
        doomed: list[str] = []
        if left:
            # The segment goes last: as long as it is there, another trim finds what was left of it.
            doomed += [*self._below(layout.segment(left[0])), layout.segment(left[0])]
        elif first > own:
            there = set(self._session.call(self._client.get_children_async(layout.segment(segment_of(first)))))
            before = (layout.entry(index) for index in range(own, first))
            doomed += [path for path in before if path.rsplit("/", 1)[1] in there]
        fence = layout.candidate(effect.fence)
        for paths in [*batches(fence, doomed)] or [[]]:  # the fence is checked even if there is nothing to delete
            transaction = self._fenced(effect)
            for path in paths:
                transaction.delete(path)
            self._commit(transaction, f"deleting {' to '.join([*paths[:1], *paths[1:][-1:]])}")
        return not left or (len(left) == 1 and first == own)

    def _below(self, path: str) -> Iterator[str]:
        """All znodes below one, children first. Entries have no children; what else is there may have."""
        for name in self._session.call(self._client.get_children_async(path)):
            child = f"{path}/{name}"
            if not is_entry(name):
                yield from self._below(child)
            yield child

    def _fenced(self, effect: do.Trim) -> TransactionRequest:
        transaction = self._client.transaction()
        transaction.check(self._layout.candidate(effect.fence), version=-1)
        return transaction

    def _commit(self, transaction: TransactionRequest, what: str) -> None:
        results = self._session.call(transaction.commit_async())
        if isinstance(results[0], NoNodeError):
            raise _Refused  # fenced off: whoever leads now will trim
        failure = failure_in(results)
        if isinstance(failure, BadVersionError | NoNodeError):
            raise _Refused  # a mark, or the beginning, has been changed meanwhile: all of it is read again
        if failure is not None:
            raise _Refused(f"{what} was refused: {failure!r}")
