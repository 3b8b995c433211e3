"""Any life of a store on the disk ends with what the log says (M1, M4 to M10)."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvlog.core.commands import SetKey, Txn, fingerprint
from kvlog.core.entry import SEGMENT_ENTRIES, Delete, Put, Request
from kvlog.core.evaluate import evaluate
from kvlog.core.machine import Changes, Identity
from kvlog.errors import GapsInHistory
from kvlog.store.directories import INCOMING, STORE, settle_files
from kvlog.store.lmdb_store import LmdbStore
from kvlog.store.lmdb_verify import verify, verify_contents
from tests.chain import Chain

WINDOW = 6
HISTORY = 5
KEYS = st.sampled_from(["a", "ключ"])
MEMORY = Path("/dev/shm")
"""Where thousands of transactions cost no disk, if it is there: what is shown here is the order of things."""


class Lives(RuleBasedStateMachine):
    """A store that is applied to, stopped, trimmed past, left stale, filled, lost and copied over.

    ``chain`` is the log and, beside it, the state of a replica that missed nothing and keeps all of the past;
    ``floor`` is the lowest revision that the store has to be able to tell.
    """

    @initialize()
    def begin(self) -> None:
        self.data_dir = Path(tempfile.mkdtemp(prefix="kvlog-lives-", dir=MEMORY if MEMORY.is_dir() else None))
        self.chain = Chain(window=WINDOW)
        self.trimmed = 0
        self.named = 0
        self.store = LmdbStore(self.data_dir / STORE, history=HISTORY)
        self.floor = 0
        assert isinstance(self.chain.position.identity, Identity)
        self.store.adopt(self.chain.position.identity)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self.end()
        finally:
            shutil.rmtree(self.data_dir)

    def end(self) -> None:
        """Whatever it has been through: once it is healed, it holds what the log says."""
        self.heal()
        self.whatever_has_happened()
        position = self.store.position()
        assert position == msgspec.structs.replace(self.chain.position, history=self.floor)
        assert dict(self.store.items()) == self.chain.records
        assert dict(self.store.requests()) == self.chain.requests
        self.store.close()
        assert verify(self.data_dir / STORE).position == position

    @invariant()
    def whatever_has_happened(self) -> None:
        """The tables fit together, and what is kept is what the log says (M10)."""
        if not hasattr(self, "store"):
            return
        files = self.store._files
        with files.environment.begin() as transaction:
            position = verify_contents(files, transaction).position
        if position.gaps:
            with pytest.raises(GapsInHistory):
                self.store.kept(position.revision, limit=1, bytes_max=1)
            return
        assert position.history == self.floor
        kept = self.store.kept(self.floor, limit=10_000, bytes_max=1 << 30).changes
        expected = [pair for pair in self.chain.kept if self.floor < pair[0] <= position.revision]
        assert [self.told(*pair) for pair in expected] == [self.told(*pair) for pair in kept]

    def told(self, revision: int, changes: Changes) -> object:
        """What is told of a revision; a deletion below the floor may be forgotten."""
        return revision, msgspec.structs.replace(
            changes,
            changes=tuple(
                msgspec.structs.replace(change, deleted=change.deleted if change.deleted > self.floor else 0)
                for change in changes.changes
            ),
        )

    # --- the log ---

    @rule(key=KEYS, value=st.binary(max_size=3), named=st.booleans(), ttl_ms=st.sampled_from([0, 1_000]))
    def put(self, key: str, value: bytes, named: bool, ttl_ms: int) -> None:
        view = self.chain.transaction
        self.named += named
        request_id = f"r{self.named % 9}" if named else ""  # ids come again, once they are forgotten
        if request_id and view.request(request_id) is not None:
            return
        command, revision = Txn((SetKey(key, value, ttl_ms=ttl_ms),)), self.chain.position.revision + 1
        check = fingerprint(command) if request_id else ""
        self.chain.request(evaluate(view, command, revision, request_id=request_id, check=check))

    @rule(keys=st.lists(KEYS, min_size=1, max_size=3, unique=True))
    def delete(self, keys: list[str]) -> None:
        self.chain.request(Request(effects=tuple(Delete(key) for key in keys)))

    @rule(values=st.lists(st.tuples(KEYS, st.sampled_from("xyz")), min_size=2, max_size=6))
    def put_many(self, values: list[tuple[str, str]]) -> None:
        """One entry with many requests."""
        self.chain.write(*values)

    @rule(key=KEYS)
    def put_and_delete_at_once(self, key: str) -> None:
        revision = self.chain.position.revision + 1
        self.chain.request(Request(effects=(Put(key, "for a moment", revision, 1), Delete(key))))

    @rule(left_out=st.integers(0, 3))
    def skip(self, left_out: int) -> None:
        self.chain.skip(left_out=left_out)

    @rule()
    def barrier(self) -> None:
        self.chain.barrier()

    # --- the replica ---

    @rule(count=st.integers(1, 6))
    def apply(self, count: int) -> None:
        self.apply_up_to(self.store.position().applied_index + count)

    @rule(count=st.integers(1, 5))
    def miss(self, count: int) -> None:
        """--recover stale: what comes next is declared missed."""
        last = min(self.store.position().applied_index + count, len(self.chain.entries) - 1)
        if last > self.store.position().applied_index:
            self.store.skip_to(last)

    @precondition(lambda self: self.store.position().gaps)
    @rule(count=st.integers(1, 5))
    def fill(self, count: int) -> None:
        gap = self.store.position().gaps[0]
        if gap.first >= self.trimmed:
            self.store.apply(
                tuple(self.chain.entries[gap.first : min(gap.last + 1, gap.first + count)]), fill=True
            )
            self.floor = self.store.position().revision  # if that was the last of them

    @rule()
    def stop_and_start(self) -> None:
        self.store.close()
        settle_files(self.data_dir)
        self.store = LmdbStore(self.data_dir / STORE, history=HISTORY)

    @rule()
    def lose_the_disk(self) -> None:
        self.store.close()
        shutil.rmtree(self.data_dir / STORE)
        self.store = LmdbStore(self.data_dir / STORE, history=HISTORY)
        self.floor = 0
        assert self.chain.position.identity is not None
        self.store.adopt(self.chain.position.identity)

    @rule(share=st.floats(0, 1))
    def trim(self, share: float) -> None:
        self.trimmed = max(self.trimmed, round(share * len(self.chain.entries)))

    @precondition(lambda self: self.chain.entries)
    @rule(behind=st.integers(0, 4), history=st.sampled_from([0, HISTORY, 1_000]))
    def install(self, behind: int, history: int = 1_000) -> None:
        """A copy of a replica that missed nothing, may be a little behind, and keeps so many revisions."""
        index = len(self.chain.entries) - 1 - behind
        if index < max(self.store.position().applied_index, self.trimmed - 1):
            return
        with (
            tempfile.TemporaryDirectory(dir=self.data_dir) as other,
            closing(LmdbStore(Path(other) / STORE, history=history)) as source,
        ):
            assert self.chain.position.identity is not None
            source.adopt(self.chain.position.identity)
            source.apply(tuple(self.chain.entries[: index + 1]), fill=False)
            incoming = self.data_dir / INCOMING
            incoming.mkdir()
            with closing(source.snapshot()) as copy, (incoming / "data.mdb").open("wb") as file:
                file.writelines(copy)
        assert verify(incoming).position.applied_index == index
        self.floor = self.store.install(str(incoming)).history

    def apply_up_to(self, last: int) -> None:
        first = self.store.position().applied_index + 1
        entries = tuple(self.chain.entries[first : last + 1])
        if entries and first >= self.trimmed:
            position = self.store.apply(entries, fill=False)
            self.floor = max(self.floor, position.revision - HISTORY)

    def heal(self) -> None:
        """What a node does in the end: fill, or take a copy over, then apply the rest."""
        position = self.store.position()
        needed = position.gaps[0].first if position.gaps else position.applied_index + 1
        if needed < self.trimmed:
            self.install(0)
        while gaps := self.store.position().gaps:
            position = self.store.apply(tuple(self.chain.entries[gaps[0].first : gaps[0].last + 1]), fill=True)
            self.floor = position.revision
        self.apply_up_to(len(self.chain.entries))


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
assert SEGMENT_ENTRIES > 40, "these logs are shorter than a segment: indices are all that counts"
