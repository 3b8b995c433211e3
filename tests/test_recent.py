"""Records in memory beside the store on the disk: what is held, with which position, and how much (H1 to H3)."""

from __future__ import annotations

import random
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kvlog.core.machine import Position, Record
from kvlog.errors import StoreFailure
from kvlog.store.lmdb_store import LmdbStore
from kvlog.store.recent import RECORD_BYTES, Recent
from tests.request_chain import RequestChain

WAIT_S = 60.0
KEYS = [f"key{number}" for number in range(6)]


def at(index: int) -> Position:
    return Position(applied_index=index, revision=index)


def record(revision: int, value: bytes = b"v") -> Record:
    return Record(value, revision, revision, 1)


@pytest.fixture
def recent() -> Recent:
    """One that holds the record of ``a`` in the state at index 1."""
    recent = Recent(at(0))
    recent.change(["a"])
    recent.changed(at(1), {"a": record(1)})
    return recent


# --- by itself ------------------------------------------------------------------------------------------------


def test_what_was_written_is_held_with_the_position_that_it_has_led_to(recent: Recent):
    """And a key that nobody has asked for is looked up."""
    assert recent.read("a") == (record(1), at(1))
    assert recent.read("b") is None
    assert recent.position() == at(1)


def test_what_was_looked_up_is_held(recent: Recent):
    """Also that there is no such key."""
    recent.keep("b", record(0), at(1))
    recent.keep("c", None, at(1))

    assert recent.read("b") == (record(0), at(1))
    assert recent.read("c") == (None, at(1))


def test_what_does_not_change_is_held_for_the_next_state_as_well(recent: Recent):
    """With that state's position (H1)."""
    recent.change(["b"])
    recent.changed(at(2), {"b": record(2)})

    assert recent.read("a") == (record(1), at(2))


def test_what_is_about_to_change_is_not_held(recent: Recent):
    """Until the change is committed: a reader could find it in either state (H1)."""
    recent.change(["a"])

    assert recent.read("a") is None
    assert recent.position() is None

    recent.changed(at(2), {"a": None})
    assert recent.read("a") == (None, at(2))


def test_what_was_to_change_is_looked_up_if_its_commit_has_failed(recent: Recent):
    """The disk may have taken it all the same: what is held for it counts no more (H1)."""
    recent.change(["a"])
    recent.changed(at(2), {})

    assert recent.read("a") is None


def test_while_a_state_changes_nothing_goes_with_a_position(recent: Recent):
    """What does not change is right in both, but which one is the latest is not known (H2)."""
    recent.change(["b"])

    assert recent.read("a") is None


def test_what_was_looked_up_in_an_earlier_state_is_not_held(recent: Recent):
    """Its reader was overtaken: the key may have changed since (H1)."""
    recent.change(["b"])
    recent.keep("b", record(0), at(1))
    recent.changed(at(2), {"c": None})
    recent.keep("a", record(0), at(1))

    assert recent.read("b") is None
    assert recent.read("a") == (record(1), at(2))


def test_a_state_that_stands_at_the_same_index_may_be_another_one(recent: Recent):
    """A gap that is filled leaves the index where it is (H1)."""
    other = Position(applied_index=1, revision=1, digest=b"other".ljust(16))

    recent.keep("b", record(0), other)

    assert recent.read("b") is None


def test_a_record_that_is_found_while_a_state_is_committed_is_not_given_with_the_old_position():
    """The position is looked at before and after (H2)."""

    class Interrupted(dict[str, Record | None]):
        """While somebody looks into it, a change is committed."""

        def get(self, key: str, default: object = None) -> object:
            recent.change(["a"])
            recent.changed(at(2), {"a": record(2)})
            return super().get(key, default)

    recent = Recent(at(1))
    recent.keep("a", record(1), at(1))
    recent._records = Interrupted(recent._records)

    assert recent.read("a") is None


def test_the_records_that_are_held_are_counted():
    """Those that were put in first go (H3)."""
    recent = Recent(at(0), records_max=3)
    for key in "abcd":
        recent.keep(key, None, at(0))

    assert [recent.read(key) is not None for key in "abcd"] == [False, True, True, True]

    recent.keep("b", None, at(0))
    recent.keep("e", None, at(0))
    assert [recent.read(key) is not None for key in "bcde"] == [True, False, True, True]


def test_the_bytes_that_are_held_are_counted():
    """With what a record takes beside its key and value (H3); what goes or is replaced counts no more."""
    size = RECORD_BYTES + 1 + 1_000
    recent = Recent(at(0), bytes_max=3 * size)
    for key in "abcd":
        recent.keep(key, record(0, b"x" * 1_000), at(0))
    assert [recent.read(key) is not None for key in "abcd"] == [False, True, True, True]

    for _ in range(5):
        recent.keep("d", record(0, b"y" * 1_000), at(0))
    recent.change(["b"])
    recent.changed(at(1), {})
    recent.keep("e", record(0, b"x" * 1_000), at(1))
    assert [recent.read(key) is not None for key in "bcde"] == [False, True, True, True]


def test_a_record_that_is_larger_than_all_together_may_be_is_not_held():
    """And nothing is lost count of (H3)."""
    recent = Recent(at(0), bytes_max=1_000)

    recent.keep("a", record(0, b"x" * 2_000), at(0))
    recent.keep("b", record(0), at(0))

    assert recent.read("a") is None
    assert recent.read("b") is not None


# --- with a store on the disk ---------------------------------------------------------------------------------


class Model:
    """A log over a few keys, and each key's record in the state at each index."""

    def __init__(self, entries: int, seed: int = 1) -> None:
        chance = random.Random(seed)
        self.chain = RequestChain(50)
        self.states: list[dict[str, Record]] = []
        for number in range(entries):
            keys = chance.sample(KEYS, chance.choice([1, 1, 2]))
            self.chain.write(*((key, chance.choice([None, f"v{number}"])) for key in keys))
            self.states.append(dict(self.chain.records))

    def right(self, key: str, found: tuple[Record | None, Position]) -> bool:
        """Whether the record is the one of that position."""
        record, position = found
        state = self.states[position.applied_index] if position.applied_index >= 0 else {}
        return state.get(key) == record

    def store(self, directory: Path, count: int) -> LmdbStore:
        """One that has applied so many entries."""
        store = LmdbStore(directory)
        store.adopt(self.chain.identity)
        store.apply(tuple(self.chain.entries[:count]), fill=False)
        return store


@contextmanager
def hasty_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_a_record_goes_with_the_position_that_it_was_read_at(tmp_path: Path):
    """Whatever is applied meanwhile, by whichever way the record is found (H1, H2)."""
    model = Model(400)
    wrong: list[object] = []
    seen: set[int] = set()
    done = threading.Event()
    with closing(model.store(tmp_path / "store", 1)) as store, hasty_threads():

        def look(number: int) -> None:
            chance = random.Random(number)
            while not done.is_set():
                key = chance.choice(KEYS)
                found = store.read(key)
                seen.add(found[1].applied_index)
                if not model.right(key, found):
                    wrong.append((key, found))

        readers = [threading.Thread(target=look, args=(number,)) for number in range(3)]
        for reader in readers:
            reader.start()
        for item in model.chain.entries[1:]:
            store.apply((item,), fill=False)
        done.set()
        for reader in readers:
            reader.join(WAIT_S)

        assert wrong == []
        assert len(seen) > 10, "the readers did not run beside the writer"
        assert [store.read(key)[0] for key in KEYS] == [model.chain.records.get(key) for key in KEYS]


def test_what_was_read_is_read_again_without_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A record, and that there is none, also in the next state."""
    model = Model(20)
    with closing(model.store(tmp_path / "store", 10)) as store:
        store.read("other")
        store.apply((model.chain.entries[10],), fill=False)
        changed = {effect.key for request in model.chain.entries[10].entry.requests for effect in request.effects}
        monkeypatch.delattr(store, "_files")  # from here on, the disk is out of reach

        assert store.read("other") == (None, store.position())
        for key in changed:
            assert model.right(key, store.read(key))
        assert store.position().applied_index == 10
        monkeypatch.undo()


def test_who_has_seen_a_state_does_not_see_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also in the moment when a change is committed, and what is held does not know it yet (H1)."""
    model = Model(20)
    seen: list[int] = []
    with closing(model.store(tmp_path / "store", 10)) as store:
        recent = store._recent
        changed = recent.changed

        def look_before(position: Position, records: dict[str, Record | None]) -> None:
            for key in ("never read before", *KEYS):
                found = store.read(key)
                assert model.right(key, found)
                seen.append(found[1].applied_index)
            changed(position, records)

        for key in KEYS:
            store.read(key)
        monkeypatch.setattr(recent, "changed", look_before)
        store.apply((model.chain.entries[10],), fill=False)

    assert seen == [10] * (1 + len(KEYS))


def test_the_past_is_not_what_is_held(tmp_path: Path):
    """A read at a revision gets what was there then."""
    chain = RequestChain(50)
    chain.put("key", "old")
    chain.put("key", "new")
    with closing(LmdbStore(tmp_path / "store")) as store:
        store.adopt(chain.identity)
        store.apply(tuple(chain.entries), fill=False)

        found = [store.read("key", at=at)[0] for at in (None, 1, None, 1)]

    assert [record.value for record in found if record is not None] == [b"new", b"old", b"new", b"old"]


def test_an_installed_store_brings_its_own_records(tmp_path: Path):
    """What was held of the old one is not shown any more (H1)."""
    model = Model(40)
    incoming = tmp_path / "store.incoming"
    with (
        closing(model.store(tmp_path / "other", 40)) as other,
        closing(model.store(tmp_path / "store", 20)) as store,
    ):
        incoming.mkdir()
        (incoming / "data.mdb").write_bytes(b"".join(other.snapshot()))
        before = {key: store.read(key) for key in KEYS}

        store.install(str(incoming))
        after = {key: store.read(key) for key in KEYS}

    assert all(model.right(key, found) and found[1].applied_index == 19 for key, found in before.items())
    assert all(model.right(key, found) and found[1].applied_index == 39 for key, found in after.items())


@contextmanager
def no_room() -> Iterator[None]:
    """Nothing can be written behind the first pages of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_commit_that_fails_leaves_reads_right(tmp_path: Path):
    """What it would have changed is as it was, and what comes next is held again (H1)."""
    model = Model(30)
    with closing(model.store(tmp_path / "store", 20)) as store:
        before = {key: store.read(key) for key in KEYS}
        with no_room(), pytest.raises(StoreFailure):
            store.apply(tuple(model.chain.entries[20:]), fill=False)

        assert {key: store.read(key) for key in KEYS} == before
        assert store.position() == before[KEYS[0]][1]
        for item in model.chain.entries[20:]:
            store.apply((item,), fill=False)
            assert all(model.right(key, store.read(key)) for key in KEYS)
