"""What a store tells of its past, of ranges of keys and of leases, over each implementation of the port."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.memory_store import MemoryStore
from kvlog.ports import Page, Store, Version
from kvlog.store.lmdb_store import LmdbStore
from kvlog.store.lmdb_verify import verify
from tests.past import Past, Write

AnyStore = MemoryStore | LmdbStore
MakeStore = Callable[..., AnyStore]
MUCH = 1 << 30
MEMORY = Path("/dev/shm")
"""Where many transactions cost no disk, if it is there."""


@pytest.fixture(params=["memory", "lmdb"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes stores of one implementation that have applied a log, and keep so much of the past."""
    with ExitStack() as stack:

        def make(past: Past | None = None, **settings: int) -> AnyStore:
            store: AnyStore = MemoryStore(**settings)
            if request.param == "lmdb":
                directory = Path(tempfile.mkdtemp(dir=tmp_path))
                store = LmdbStore(directory, **settings)
                stack.callback(verify, directory)  # whatever a test has done, the store is whole
            stack.enter_context(closing(store))
            if past is not None:
                store.apply(tuple(past.entries), fill=False)
            return store

        yield make


def walked(store: Store, prefix: str, limit: int, bytes_max: int = MUCH, at: int | None = None) -> list[Page]:
    """The pages of a range, one after the other."""
    pages = [store.page(prefix, limit=limit, bytes_max=bytes_max, at=at)]
    while pages[-1].next is not None:
        pages.append(store.page(prefix, start=pages[-1].next, limit=limit, bytes_max=bytes_max, at=at))
    return pages


def all_versions(store: Store, key: str, limit: int) -> list[Version]:
    """A key's past, page by page."""
    pages = [store.versions(key, limit=limit)]
    while (revision := pages[-1].next) is not None:
        pages.append(store.versions(key, before=revision + 1, limit=limit))
    assert all(len(page.versions) == limit for page in pages[:-1])
    return [version for page in pages for version in page.versions]


# --- any history ----------------------------------------------------------------------------------------------

KEYS = ["a", "ab", "a\x7f", "b", "\uffff", "😀", "ключ", "\0lease/1"]
PREFIXES = ["", "a", "ab", "b", "\0", "\uffff", "\U0010ffff", "кл", "zz"]
WRITES = st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.sampled_from([b"", b"x", b"\xff\0"])))
LOGS = st.lists(
    st.one_of(
        st.integers(0, 2),  # a skip that leaves so many revisions out
        st.just("barrier"),
        st.lists(st.lists(WRITES, max_size=4).map(tuple), min_size=1, max_size=3),
    ),
    min_size=5,
    max_size=20,
)


def past_of(log: list[int | str | list[tuple[Write, ...]]]) -> Past:
    past = Past()
    for entry in log:
        if isinstance(entry, int):
            past.leave_out(entry)
        elif isinstance(entry, str):
            past.barrier()
        else:
            past.many(*entry)
    return past


def check_told(store: Store, past: Past, limit: int) -> None:
    """Everything that can be asked, at every revision that can be told."""
    position = store.position()
    for at in range(position.history, position.revision + 1):
        for key in KEYS:
            assert (past.states[at].get(key), position) == store.read(key, at=at)
        for prefix in PREFIXES:
            pages = walked(store, prefix, limit, at=at)
            assert past.visible(at, prefix) == [item for page in pages for item in page.items]
            assert all(len(page.items) == limit for page in pages[:-1])
            assert (len(past.visible(at, prefix)), position) == store.count(prefix, at=at)
            changed = {key for later in range(at + 1, position.revision + 1) for key in past.changed(later)}
            assert store.changed_since(prefix, at) == any(
                key.startswith(prefix) and (prefix.startswith("\0") or not key.startswith("\0")) for key in changed
            )
        check_kept(store, past, at)
    for prefix in PREFIXES:
        assert past.visible(position.revision, prefix) == list(store.page(prefix, limit=99, bytes_max=MUCH).items)
        assert store.count(prefix) == (len(past.visible(position.revision, prefix)), position)
    for key in KEYS:
        assert all_versions(store, key, limit) == [
            Version(revision, past.indices[revision], 1_700_000_000_000, past.states[revision].get(key))
            for revision in range(position.revision, position.history, -1)
            if key in past.changed(revision)
        ]


def check_kept(store: Store, past: Past, after: int) -> None:
    kept = store.kept(after, limit=99, bytes_max=MUCH)
    revisions = range(after + 1, store.position().revision + 1)

    assert [revision for revision in revisions if past.changed(revision)] == [at for at, _ in kept.changes]
    for revision, changes in kept.changes:
        before, after_it = past.states[revision - 1], past.states[revision]
        assert (changes.index, changes.time_ms) == (past.indices[revision], 1_700_000_000_000)
        assert past.changed(revision) == {change.key for change in changes.changes}
        assert len(past.changed(revision)) == len(changes.changes)
        for change in changes.changes:
            assert (before.get(change.key), after_it.get(change.key)) == (change.before, change.after)


@settings(max_examples=150, deadline=None)
@given(log=LOGS, history=st.sampled_from([0, 1, 3, 100]), size=st.integers(1, 5), limit=st.integers(1, 4))
def test_both_stores_tell_any_past_as_it_was(log: list, history: int, size: int, limit: int):
    """Every key, page, count, version and change at every revision kept, against a list of all states (M10)."""
    past = past_of(log)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as directory:
        with closing(LmdbStore(Path(directory), history=history)) as on_disk:
            memory = MemoryStore(history=history)
            for first in range(0, len(past.entries), size):
                for store in (memory, on_disk):
                    store.apply(tuple(past.entries[first : first + size]), fill=False)
            revision = past.position.revision
            assert on_disk.position() == memory.position()
            assert on_disk.position().history == max(0, revision - history)
            floor = on_disk.position().history
            assert memory.kept(floor, limit=999, bytes_max=MUCH) == on_disk.kept(floor, limit=999, bytes_max=MUCH)
            for store in (memory, on_disk):
                check_told(store, past, limit)
        verify(Path(directory))
