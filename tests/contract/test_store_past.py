"""What a store tells of its past, of ranges of keys and of leases, over each implementation of the port."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.core import applying
from kvlog.core.evaluate import CHANGED_SINCE_MAX, Search
from kvlog.core.machine import Position, Record
from kvlog.errors import GapsInHistory, HistoryTrimmed
from kvlog.memory_store import MemoryStore
from kvlog.ports import Page, Store, Version, Versions, bytes_of
from kvlog.store import lmdb_history
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
            assert store.changed_since(prefix, at, Search()) == any(
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


# --- the past, by example -------------------------------------------------------------------------------------


def past_with(*writes: Write) -> Past:
    """A log with a request for each of these, in entries of their own."""
    past = Past()
    past.each(*writes)
    return past


def test_a_key_is_read_as_it_was_at_each_revision(make_store: MakeStore):
    """Before it was there, empty, overwritten, deleted, and back again; the present is what the last one says."""
    past = past_with(("x", b"1"), ("k", b""), ("k", b"2"), ("x", b"2"), ("k", None), ("x", b"3"), ("k", b"4"))
    store = make_store(past)
    told = [store.read("k", at=at)[0] for at in range(8)]

    assert told == [
        None,
        None,
        Record(b"", 2, 2, 1),
        Record(b"2", 2, 3, 2),
        Record(b"2", 2, 3, 2),
        None,
        None,
        Record(b"4", 7, 7, 1),
    ]
    assert store.read("k") == store.read("k", at=7) == (told[7], store.position())
    assert store.read("never", at=3) == (None, store.position())


@pytest.mark.parametrize("history", [0, 2])
def test_below_the_floor_nothing_is_told(make_store: MakeStore, history: int):
    """The floor itself can be told, the revision before it cannot, and the refusal says where the floor is."""
    past = past_with(("a", b"1"), ("a", b"2"), ("a", b"3"), ("b", b"4"), ("a", None))
    store = make_store(past, history=history)
    floor = 5 - history
    assert store.position().history == floor
    assert store.read("a", at=floor)[0] == past.states[floor].get("a")
    assert store.count("", at=floor)[0] == len(past.states[floor])
    assert [at for at, _ in store.kept(floor, limit=9, bytes_max=MUCH).changes] == list(range(floor + 1, 6))
    for ask in (
        lambda: store.read("a", at=floor - 1),
        lambda: store.read("never", at=floor - 1),
        lambda: store.page("", limit=1, bytes_max=1, at=floor - 1),
        lambda: store.count("", at=floor - 1),
        lambda: store.kept(floor - 1, limit=1, bytes_max=1),
        lambda: store.kept(-1, limit=1, bytes_max=1),
    ):
        with pytest.raises(HistoryTrimmed, match=f"{floor} is the lowest") as refused:
            ask()
        assert refused.value.floor == floor
    assert [version.revision for version in store.versions("a", limit=9).versions] == [5, 3][: history and 1]


def test_a_store_with_gaps_tells_nothing_of_the_past(make_store: MakeStore):
    """Nor does it say that nothing has changed; the present can be read, and counted."""
    past = past_with(("a", b"1"), ("a", b"2"), ("a", b"3"), ("b", b"4"))
    store = make_store()
    store.apply(tuple(past.entries[:1]), fill=False)
    store.skip_to(1)
    store.apply(tuple(past.entries[2:]), fill=False)
    for ask in (
        lambda: store.read("a", at=4),
        lambda: store.page("", limit=1, bytes_max=1, at=4),
        lambda: store.count("", at=4),
        lambda: store.kept(4, limit=1, bytes_max=1),
        lambda: store.versions("a", limit=1),
    ):
        with pytest.raises(GapsInHistory, match="missed 1 entries"):
            ask()
    assert store.changed_since("zz", 3, Search())
    assert not store.changed_since("", 4, Search())
    assert [key for key, _ in store.page("", limit=9, bytes_max=MUCH).items] == ["a", "b"]
    assert store.count("")[0] == 2

    store.apply((past.entries[1],), fill=True)
    assert store.position().history == 4
    assert store.read("a", at=4)[0] == Record(b"3", 1, 3, 3)
    assert store.versions("a", limit=9) == Versions((), None, store.position())
    past.each(("a", b"5"))
    store.apply((past.entries[-1],), fill=False)
    assert [version.revision for version in store.versions("a", limit=9).versions] == [5]


def test_a_lowered_history_is_dropped_step_by_step(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch):
    """With each entry so much at most; what is above the floor is told all the while (M10)."""
    monkeypatch.setattr(applying, "DROPPED_MAX", 4)
    past = Past()
    for number in range(20):
        past.one(*((f"k{place}", b"%d" % number if (number + place) % 5 else None) for place in range(3)))
    store = make_store(past)
    store._history = 3  # as after a restart with --history 3
    floors = [store.position().history]
    while floors[-1] < past.position.revision - 3:
        past.each(("last", b"%d" % len(floors)))
        store.apply((past.entries[-1],), fill=False)
        floors.append(store.position().history)
        for at in (floors[-1], past.position.revision - 1):
            assert past.visible(at, "") == list(store.page("", limit=99, bytes_max=MUCH, at=at).items)

    assert floors[:11] == [*range(0, 21, 2)]  # whole revisions of three changes each, until four are gone
    assert floors[-1] == past.position.revision - 3


@pytest.mark.parametrize("after", range(8))
def test_what_is_kept_comes_in_order_and_in_parts(make_store: MakeStore, after: int):
    """From any revision on, by number; ``through`` says from where to ask on, also over what changed nothing."""
    past = past_with(("a", b"1"), ("never", None), ("b", b"2"), ("never", None), ("a", b"3"))
    past.leave_out(2)
    store = make_store(past)
    for limit in (1, 2, 9):
        seen, at = [], after
        while at < past.position.revision:
            kept = store.kept(at, limit=limit, bytes_max=MUCH)
            assert len(kept.changes) <= limit
            assert kept.through == (7 if not kept.changes or kept.changes[-1][0] == 5 else kept.changes[-1][0])
            seen += [revision for revision, _ in kept.changes]
            at = kept.through
        assert seen == [revision for revision in (1, 3, 5) if revision > after]
    assert store.kept(7, limit=1, bytes_max=1).through == 7
    assert store.kept(99, limit=1, bytes_max=1).through == 99
    assert store.kept(0, limit=0, bytes_max=1).through == 0


def test_a_part_of_what_is_kept_ends_beyond_its_bytes(make_store: MakeStore):
    """With the revision that goes beyond them, so that there is always one; values count before and after."""
    past = past_with(("k", b"x" * 10), ("k", b"x" * 20), ("k", b""), ("k", None))
    store = make_store(past)
    every = store.kept(0, limit=9, bytes_max=MUCH).changes
    assert [bytes_of(changes) for _, changes in every] == [11, 31, 21, 1]
    for bytes_max, revisions in ((0, 0), (1, 1), (11, 1), (12, 2), (42, 2), (43, 3), (63, 3), (64, 4)):
        assert store.kept(0, limit=9, bytes_max=bytes_max).changes == every[:revisions]


def test_the_changes_of_a_revision_are_in_their_requests_order(make_store: MakeStore):
    """Whatever order they are stored in; and so many that they take pages of their own."""
    past = Past()
    keys = [f"key{number * 7919 % 1000:04d}" for number in range(1_000)]
    past.one(*((key, b"x" * 50) for key in keys))
    store = make_store(past)
    ((revision, changes),) = store.kept(0, limit=1, bytes_max=1).changes

    assert revision == 1
    assert [change.key for change in changes.changes] == keys


# --- versions -------------------------------------------------------------------------------------------------


def test_a_keys_past_is_told_from_the_latest_on(make_store: MakeStore):
    """Puts and deletions, each with index and time; in pages that begin below any revision."""
    past = Past()
    past.barrier()
    past.each(("k", b"1"), ("x", b"1"), ("k", None), ("k", b""), ("x", b"2"), ("k", b"5"))
    store = make_store(past)
    versions = (
        Version(6, 6, 1_700_000_000_000, Record(b"5", 4, 6, 2)),
        Version(4, 4, 1_700_000_000_000, Record(b"", 4, 4, 1)),
        Version(3, 3, 1_700_000_000_000, None),
        Version(1, 1, 1_700_000_000_000, Record(b"1", 1, 1, 1)),
    )
    position = store.position()

    assert store.versions("k", limit=4) == store.versions("k", limit=9) == Versions(versions, None, position)
    assert store.versions("k", limit=3) == Versions(versions[:3], 1, position)
    assert store.versions("k", limit=0) == Versions((), 6, position)
    for before in (*range(-1, 9), 10**30):
        below = tuple(version for version in versions if version.revision < before)
        assert store.versions("k", before=before, limit=9) == Versions(below, None, position)
        assert store.versions("k", before=before, limit=1) == Versions(
            below[:1], below[1].revision if len(below) > 1 else None, position
        )
    for key in ("never", "", "x" * 1_000):
        assert store.versions(key, limit=9) == Versions((), None, position)


def test_a_keys_past_ends_at_the_floor(make_store: MakeStore):
    """What was dropped is not there; a record that is older than the floor has no version."""
    past = past_with(("old", b"1"), ("k", b"1"), ("k", b"2"), ("k", None), ("k", b"4"), ("k", None))
    store = make_store(past, history=2)

    assert [version.revision for version in all_versions(store, "k", 1)] == [6, 5]
    assert store.versions("old", limit=1) == Versions((), None, store.position())


# --- ranges ---------------------------------------------------------------------------------------------------

TEXTS = ["\1", "a", "a\0b", "ab", "z", "\x7f", "ÿ", "\ud7ff", "\ue000", "\uffff", "\U00010000", "😀", "\U0010ffff"]
"""In the order of their UTF-8 bytes, which is not that of UTF-16."""


def test_pages_are_in_the_order_of_the_keys_bytes(make_store: MakeStore):
    """Those beyond the BMP come last, whatever order they were written in; so do pages of the past."""
    past = past_with(*((key, b"v") for key in (*TEXTS[::-2], *TEXTS[-2::-2])))
    last = past.position.revision
    past.each(*((key, None) for key in TEXTS))
    store = make_store(past)

    assert [key for page in walked(store, "", 4, at=last) for key, _ in page.items] == TEXTS
    assert store.page("", limit=1, bytes_max=1).items == ()
    again = make_store(past_with(*((key, b"v") for key in TEXTS[::-1])))
    assert [key for page in walked(again, "", 5) for key, _ in page.items] == TEXTS


@pytest.mark.parametrize("at", [None, 13, 14])
def test_a_range_has_all_keys_with_its_prefix_and_no_other(make_store: MakeStore, at: int | None):
    """Also where nothing comes behind the prefix, and where the prefix is a key."""
    past = past_with(*((key, b"v") for key in TEXTS), ("zz", b"v"), ("zz", None))
    store = make_store(past)
    keys = [*TEXTS, *(["zz"] if at == 14 else [])]
    for prefix in ("", *TEXTS, "a\0", "b", "\U0010fffe", "\U0010ffff\U0010ffff"):
        expected = sorted((key for key in keys if key.startswith(prefix)), key=str.encode)
        page = store.page(prefix, limit=99, bytes_max=MUCH, at=at)
        assert (expected, None) == ([key for key, _ in page.items], page.next)
        assert store.count(prefix, at=at)[0] == len(expected)


@pytest.mark.parametrize("at", [None, 5])
def test_a_page_begins_at_any_text(make_store: MakeStore, at: int | None):
    """A key of the range, something between two, before it, behind it."""
    store = make_store(past_with(("a", b"1"), ("ba", b"1"), ("bc", b"1"), ("c", b"1"), ("0", b"1")))

    def keys(prefix: str, start: str) -> list[str]:
        return [key for key, _ in store.page(prefix, start=start, limit=9, bytes_max=MUCH, at=at).items]

    assert keys("b", "ba") == keys("b", "b") == keys("b", "") == keys("b", "a") == ["ba", "bc"]
    assert keys("b", "bb") == keys("b", "bc") == ["bc"]
    assert keys("b", "bd") == keys("b", "c") == keys("b", "zz") == []
    assert keys("", "ba\0") == ["bc", "c"]
    assert keys("", "d") == keys("", "\U0010ffff") == []


@pytest.mark.parametrize("at", [None, 4])
def test_a_text_that_is_longer_than_any_key_is_as_good(make_store: MakeStore, at: int | None):
    """As a prefix it has no keys; as a start it stands where it belongs, behind the key that it begins with."""
    longest = "b" * 511
    store = make_store(past_with(("a", b"1"), (longest, b"1"), ("b" * 510 + "c", b"1"), ("\0own", b"1")))
    for longer in (longest + "a", longest + "b" * 10_000, longest + "😀" * 1_000):
        page = store.page("", start=longer, limit=9, bytes_max=MUCH, at=at)
        assert [key for key, _ in page.items] == ["b" * 510 + "c"]
        assert store.page(longer, limit=9, bytes_max=MUCH, at=at).items == ()
        assert store.page("b", start="a" * 5_000, limit=1, bytes_max=MUCH, at=at).items[0][0] == longest
        assert store.count(longer, at=at)[0] == 0
        assert store.read(longer, at=at)[0] is None
        assert not store.changed_since(longer, 0, Search())
    assert store.read("", at=at)[0] is None


@pytest.mark.parametrize("at", [None, 4])
def test_a_page_ends_at_its_limits(make_store: MakeStore, at: int | None):
    """By number, or with the record that goes beyond its bytes; ``next`` is the key that would have followed."""
    store = make_store(past_with(("a", b"123"), ("b", b""), ("c", b"1" * 100), ("\0own", b"1")))

    def page(limit: int, bytes_max: int, start: str = "") -> tuple[str, str | None]:
        found = store.page("", start=start, limit=limit, bytes_max=bytes_max, at=at)
        return "".join(key for key, _ in found.items), found.next

    assert [page(limit, MUCH) for limit in range(5)] == [
        ("", "a"),
        ("a", "b"),
        ("ab", "c"),
        ("abc", None),
        ("abc", None),
    ]
    assert [page(9, bytes_max) for bytes_max in (0, 1, 4, 5, 6, 106)] == [
        ("", "a"),
        ("a", "b"),
        ("a", "b"),
        ("ab", "c"),
        ("abc", None),
        ("abc", None),
    ]
    assert page(1, MUCH, "c") == ("c", None)


@pytest.mark.parametrize("at", [None, 3])
def test_kvlogs_own_keys_are_seen_only_by_who_asks_for_them(make_store: MakeStore, at: int | None):
    """By a prefix that begins as they do; they are in no other page or count, and no change to anybody else."""
    past = past_with(("\0lease/1", b"1"), ("a", b"1"), ("\0lease/2", b"1"), ("\0lease/1", None))
    store = make_store(past)
    own = 1 if at is None else 2
    for prefix, count in (("", 1), ("a", 1), ("\0", own), ("\0lease/", own), ("\0lease/2", 1), ("\0x", 0)):
        page = store.page(prefix, limit=9, bytes_max=MUCH, at=at)
        assert len(page.items) == store.count(prefix, at=at)[0] == count
    page = store.page("", start="\0lease", limit=9, bytes_max=MUCH, at=at)
    assert [key for key, _ in page.items] == ["a"]
    assert [store.changed_since(prefix, 2, Search()) for prefix in ("", "a", "\0", "\0lease/1", "\0x")] == [
        False,
        False,
        True,
        True,
        False,
    ]


# --- what evaluating looks at ---------------------------------------------------------------------------------


def test_a_change_since_is_seen_down_to_the_floor(make_store: MakeStore):
    """Puts and deletions of keys with the prefix, at later revisions; what cannot be told counts as changed."""
    past = past_with(("a1", b"1"), ("b1", b"1"), ("a1", None), ("b2", b"1"))
    store = make_store(past, history=3)

    assert [store.changed_since("a", at, Search()) for at in range(-1, 7)] == [True, True, True, True] + [
        False
    ] * 4
    assert [store.changed_since("b", at, Search()) for at in range(-1, 7)] == [True] * 5 + [False] * 3
    assert [store.changed_since("c", at, Search()) for at in range(-1, 7)] == [True, True] + [False] * 6


def test_beyond_so_many_revisions_everything_counts_as_changed(make_store: MakeStore):
    """Else finding out would take long, on the thread that decides."""
    past = past_with(("a", b"1"))
    past.leave_out(CHANGED_SINCE_MAX)
    store = make_store(past)

    assert not store.changed_since("b", 1, Search())
    assert store.changed_since("b", 0, Search())


def test_a_page_counts_the_keys_of_the_very_state_that_it_shows(make_store: MakeStore):
    """On this page or not; also in a store that keeps nothing of the past, and of an earlier state."""
    past = past_with(("a", b"1"), ("b1", b"1"), ("b2", b"1"), ("b3", b"1"))
    forgetful, store = make_store(past, history=0), make_store(past)

    page = forgetful.page("b", start="b2", limit=1, bytes_max=MUCH, count=True)

    assert ([key for key, _ in page.items], page.next, page.count) == (["b2"], "b3", 3)
    assert store.page("b", limit=0, bytes_max=MUCH, count=True).count == 3
    assert store.page("b", limit=9, bytes_max=MUCH, at=3, count=True).count == 2
    assert store.page("b", limit=9, bytes_max=MUCH).count is None


def test_a_search_through_much_counts_as_a_change(tmp_path: Path):
    """As it does where the rows that would have to be read have too many bytes, in several searches together."""
    past = past_with(("a", b"1"), ("b", b"1" * 4_000), ("c", b"1" * 4_000), ("d", b"1" * 4_000))
    with closing(LmdbStore(tmp_path)) as store:
        store.apply(tuple(past.entries), fill=False)

        row = 4_000 + lmdb_history.ROW_BYTES + 200
        assert not store.changed_since("x", 2, Search(2 * row))
        assert store.changed_since("x", 1, Search(2 * row))

        search = Search(2 * row)
        assert not store.changed_since("x", 3, search)
        assert not store.changed_since("y", 3, search)
        assert store.changed_since("z", 3, search)


def test_a_lease_tells_its_keys(make_store: MakeStore):
    """As many as are asked for; a key that has moved to another lease, or was deleted, is not among them (M9)."""
    keys = {f"ключ{number}" for number in range(20)}
    past = Past()
    past.one(*((key, b"v", 7) for key in sorted(keys)), ("other", b"v", 8), ("k" * 511, b"v", 2**62))
    store = make_store(past)
    assert set(store.attached(7, 20)) == set(store.attached(7, 99)) == keys
    assert len(set(store.attached(7, 19))) == 19
    assert set(store.attached(7, 19)) < keys
    assert (store.attached(8, 9), store.attached(2**62, 9)) == (("other",), ("k" * 511,))
    for lease in (6, 9, 0, -1, 2**70):
        assert store.attached(lease, 9) == ()
    past.one(("ключ1", b"v", 8), ("ключ2", None), ("ключ3", b"v"))
    store.apply((past.entries[-1],), fill=False)

    assert set(store.attached(7, 99)) == keys - {"ключ1", "ключ2", "ключ3"}
    assert set(store.attached(8, 99)) == {"other", "ключ1"}


# --- LMDB only ------------------------------------------------------------------------------------------------


def test_the_past_has_a_bound_in_bytes(tmp_path: Path):
    """With large values fewer revisions are kept, and the file stops growing."""
    past = Past()
    with closing(LmdbStore(tmp_path, history_bytes=400_000)) as store:
        sizes, floors = [], []
        for number in range(200):
            past.one((f"key{number % 5}", bytes([65 + number % 26]) * 20_000))
            store.apply((past.entries[-1],), fill=False)
            sizes.append((tmp_path / "data.mdb").stat().st_size)
            floors.append(store.position().history)
            at = floors[-1]
            assert past.visible(at, "") == list(store.page("", limit=9, bytes_max=MUCH, at=at).items)

        assert floors[5] == 0
        assert floors[-1] > 180
        assert sizes[-1] < 1.1 * sizes[100]  # what is free lies in pieces that not every value fits
    assert verify(tmp_path).position == store_position(past, floors[-1])


def store_position(past: Past, history: int) -> Position:
    """The position of a store that has applied all of a log, and tells of so much."""
    return msgspec.structs.replace(past.position, history=history)


def test_the_past_survives_reopening_and_goes_with_a_copy(tmp_path: Path):
    """It is on the disk like everything else."""
    past = past_with(("a", b"1"), ("a", b"2"), ("b", b"1", 7), ("a", None))
    with closing(LmdbStore(tmp_path / "store")) as store:
        store.apply(tuple(past.entries), fill=False)
        expected = store.kept(0, limit=9, bytes_max=MUCH)
    with closing(LmdbStore(tmp_path / "store")) as store:
        assert store.kept(0, limit=9, bytes_max=MUCH) == expected
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / "data.mdb").write_bytes(b"".join(store.snapshot()))
    with closing(LmdbStore(tmp_path / "copy")) as copy:
        assert copy.kept(0, limit=9, bytes_max=MUCH) == expected
        assert copy.attached(7, 9) == ("b",)
