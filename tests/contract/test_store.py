"""The port Store, over each of its implementations."""

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import lmdb
import msgspec
import pytest

from kvlog.core.entry import NO_HASH, LogEntry
from kvlog.core.machine import Gap, Identity, Position, Record
from kvlog.errors import InvariantViolation, StoreFailure
from kvlog.memory_store import MemoryState, MemoryStore
from kvlog.store.lmdb_store import LmdbStore
from tests.chain import Chain
from tests.request_chain import RequestChain

AnyStore = MemoryStore | LmdbStore
IDENTITY = Identity("c1", 7)


class MemoryWorld:
    """Where stores without a disk take snapshots of each other."""

    def __init__(self) -> None:
        self.snapshots: dict[str, MemoryState] = {}
        self.store = MemoryStore(self.snapshots)

    def snapshot(self, entries: list[LogEntry], identity: Identity) -> str:
        """A source to install from: another store, of this log, with these entries."""
        other = MemoryStore()
        other.adopt(identity)
        other.apply(tuple(entries), fill=False)
        self.snapshots["other"] = other.state
        return "other"


class LmdbWorld:
    """The same on the disk."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.store = LmdbStore(data_dir / "store")

    def snapshot(self, entries: list[LogEntry], identity: Identity) -> str:
        """A source to install from: another store, of this log, with these entries."""
        incoming = self.data_dir / "store.incoming"
        with closing(LmdbStore(self.data_dir / "other")) as other:
            other.adopt(identity)
            other.apply(tuple(entries), fill=False)
            incoming.mkdir()
            (incoming / "data.mdb").write_bytes(b"".join(other.snapshot()))
        shutil.rmtree(self.data_dir / "other")
        return str(incoming)


@pytest.fixture(params=["memory", "lmdb"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryWorld | LmdbWorld]:
    """Each implementation of the port, empty, and a way to snapshots."""
    world = MemoryWorld() if request.param == "memory" else LmdbWorld(tmp_path)
    with closing(world.store):
        yield world


@pytest.fixture
def store(world: MemoryWorld | LmdbWorld) -> AnyStore:
    """Each implementation of the port, empty."""
    return world.store


def chain_of(count: int) -> Chain:
    """A log with puts and deletes of a few keys."""
    chain = Chain()
    chain.barrier()
    for number in range(1, count):
        if number % 5 == 4:
            chain.delete(f"key{number % 3}")
        else:
            chain.write((f"key{number % 3}", str(number)), ("ключ 😀", f"v{number}"))
    return chain


def healed(position: Position, **changes: object) -> Position:
    """The position of a store that had gaps there: nothing is kept of what came before (M10)."""
    return msgspec.structs.replace(position, history=position.revision, **changes)


def test_an_empty_store_is_at_the_beginning(store: AnyStore):
    """Before every log, of no cluster."""
    assert Position() == store.position()
    assert (None, Position()) == store.read("k")
    assert store.items() == []


def test_applied_entries_are_there_with_their_position(store: AnyStore):
    """Data and position change together (M1)."""
    chain = chain_of(20)

    assert chain.position == store.apply(tuple(chain.entries), fill=False) == store.position()
    assert sorted(chain.records.items()) == store.items()
    assert (chain.records["ключ 😀"], chain.position) == store.read("ключ 😀")
    assert chain.records["ключ 😀"] == store.get("ключ 😀")


@pytest.mark.parametrize("size", [1, 3, 20])
def test_the_number_of_transactions_makes_no_difference(store: AnyStore, size: int):
    """One by one or all at once: the same store."""
    chain = chain_of(20)
    for first in range(0, 20, size):
        store.apply(tuple(chain.entries[first : first + size]), fill=False)

    assert chain.position == store.position()
    assert sorted(chain.records.items()) == store.items()


def test_a_transaction_that_fails_changes_nothing(store: AnyStore):
    """All of its entries, or none (M1)."""
    chain = chain_of(9)
    store.apply(tuple(chain.entries[:3]), fill=False)
    before = (store.position(), store.items())
    with pytest.raises(InvariantViolation):
        store.apply((chain.entries[3], chain.entries[5]), fill=False)

    assert before == (store.position(), store.items())


def test_a_stale_store_that_is_filled_is_whole(store: AnyStore):
    """Skip, go on, fill: as if nothing had been missed, and no tombstone is left (M5, M6)."""
    chain = chain_of(30)
    store.apply(tuple(chain.entries[:5]), fill=False)
    skipped = store.skip_to(14)
    before = chain.entries[4]
    assert skipped.gaps == (
        Gap(5, 14, before.hash, revision=before.entry.last_revision, epoch=before.entry.epoch),
    )
    assert skipped == store.position()
    store.apply(tuple(chain.entries[15:]), fill=False)
    store.apply(tuple(chain.entries[5:9]), fill=True)

    filled = store.apply(tuple(chain.entries[9:15]), fill=True)
    assert healed(chain.position) == filled == store.position()
    assert sorted(chain.records.items()) == store.items()


def test_tombstones_do_not_outlive_their_gap(store: AnyStore):
    """A deletion seen during one gap says nothing about the next one (M5)."""
    chain = Chain()
    chain.put("k", "1")
    chain.delete("k")
    store.skip_to(0)
    store.apply((chain.entries[1],), fill=False)
    store.apply((chain.entries[0],), fill=True)
    again = Chain()  # what would be a put of revision 1, if the tombstone of revision 2 were still there
    again.put("k", "2")
    other = msgspec.structs.replace(again.entries[0], index=2)
    store.skip_to(2)
    store.apply((other,), fill=True)

    assert Record(b"2", 1, 1, 1) == store.get("k")


def test_adopting_is_done_once(store: AnyStore):
    """The log that a store belongs to is noted with its position; another one is a bug."""
    chain = chain_of(3)
    adopted = store.adopt(IDENTITY)
    store.apply(tuple(chain.entries), fill=False)

    assert Position(identity=IDENTITY) == adopted
    assert store.position().identity == IDENTITY
    assert store.adopt(IDENTITY) == store.position()
    with pytest.raises(InvariantViolation):
        store.adopt(Identity("c1", 8))


def test_reads_see_matching_pairs_of_record_and_position(store: AnyStore):
    """While one thread applies, two others read: no record without the position that it belongs to (M1)."""
    chain = Chain()
    for number in range(1, 1_500):
        chain.put("k", str(number))
    wrong: list[tuple[Record | None, Position]] = []
    reads = [0, 0]
    done = threading.Event()

    def look(reader: int) -> None:
        while not done.is_set():
            record, position = store.read("k")
            reads[reader] += 1
            if (record.revision if record else 0) != position.revision:
                wrong.append((record, position))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    readers = [threading.Thread(target=look, args=(reader,)) for reader in (0, 1)]
    try:
        for reader in readers:
            reader.start()
        for item in chain.entries:
            store.apply((item,), fill=False)
    finally:
        done.set()
        for reader in readers:
            reader.join(10)
        sys.setswitchinterval(interval)

    assert wrong == []
    assert min(reads) > 0


# --- remembered requests --------------------------------------------------------------------------------------


def test_a_request_is_remembered_with_the_state_that_says_so(store: AnyStore):
    """Committed or cancelled, at which revision; any other id is not there (M7)."""
    chain = RequestChain(window=10)
    store.adopt(chain.identity)
    chain.request("r1", "k", "1")
    chain.put("k", "2")
    chain.cancel("запрос 2")
    store.apply(tuple(chain.entries), fill=False)

    assert chain.position == store.position()
    assert (chain.requests["r1"], chain.position) == store.read_request("r1")
    assert chain.requests["запрос 2"] == store.request("запрос 2")
    assert (chain.requests["r1"].revision, chain.requests["запрос 2"].cancelled) == (1, True)
    assert (None, chain.position) == store.read_request("r3")
    assert store.request("r3") is None


@pytest.mark.parametrize("size", [1, 7, 40])
def test_requests_are_forgotten_behind_the_window(store: AnyStore, size: int):
    """The last revisions' requests are there, in their order, and no other ones (M7, M4)."""
    chain = RequestChain(window=5)
    store.adopt(chain.identity)
    for number in range(40):
        if number % 3 == 0:
            chain.put("k", str(number))
        else:
            chain.request(f"r{number % 20}", f"k{number}", "v")
    for first in range(0, 40, size):
        store.apply(tuple(chain.entries[first : first + size]), fill=False)

    assert chain.position == store.position()
    assert sorted(chain.requests.items(), key=lambda pair: pair[1].revision) == store.requests()
    assert [outcome.revision for _, outcome in store.requests()] == [36, 38, 39]


def test_requests_in_a_gap_are_remembered_when_it_is_filled(store: AnyStore):
    """As if nothing had been missed; what has left the window meanwhile stays forgotten (M7)."""
    chain = RequestChain(window=20)
    store.adopt(chain.identity)
    for number in range(30):
        chain.request(f"r{number}", f"k{number % 4}", str(number))
    store.apply(tuple(chain.entries[:5]), fill=False)
    store.skip_to(24)
    store.apply(tuple(chain.entries[25:]), fill=False)
    store.apply(tuple(chain.entries[5:25]), fill=True)

    assert healed(chain.position) == store.position()
    assert sorted(chain.requests.items(), key=lambda pair: pair[1].revision) == store.requests()


# --- durability and snapshots ---------------------------------------------------------------------------------


def test_sync_says_what_would_survive(store: AnyStore):
    """The position of everything that was applied before."""
    chain = chain_of(6)
    store.apply(tuple(chain.entries[:3]), fill=False)
    first = store.sync()
    store.apply(tuple(chain.entries[3:]), fill=False)

    assert first.applied_index == 2
    assert chain.position == store.sync() == store.position()


def test_an_installed_snapshot_takes_the_stores_place(world: MemoryWorld | LmdbWorld):
    """Records, requests and position are the other store's, and nothing of the former ones; it goes on."""
    store = world.store
    chain = RequestChain(window=100)
    store.adopt(chain.identity)
    for number in range(10):
        chain.request(f"r{number}", f"k{number}", "v")
    store.apply(tuple(chain.entries[:2]), fill=False)
    store.skip_to(3)
    position = store.install(world.snapshot(chain.entries[:8], chain.identity))

    assert position == store.position() == store.sync()
    assert (position.applied_index, position.gaps) == (7, ())
    assert [f"k{number}" for number in range(8)] == [key for key, _ in store.items()]
    assert [f"r{number}" for number in range(8)] == [request_id for request_id, _ in store.requests()]
    assert chain.position == store.apply(tuple(chain.entries[8:]), fill=False)


# --- LMDB only: what is on the disk ---------------------------------------------------------------------------


@pytest.fixture
def reopened(tmp_path: Path) -> Callable[[LmdbStore], LmdbStore]:
    """Close a store and open it again."""

    def reopen(store: LmdbStore) -> LmdbStore:
        store.close()
        return LmdbStore(tmp_path)

    return reopen


def test_everything_survives_reopening(tmp_path: Path, reopened: Callable[[LmdbStore], LmdbStore]):
    """Records, position, gaps, tombstones and identity are on the disk."""
    chain = chain_of(30)
    store = LmdbStore(tmp_path)
    store.adopt(IDENTITY)
    store.apply(tuple(chain.entries[:5]), fill=False)
    store.skip_to(9)
    store.apply(tuple(chain.entries[10:]), fill=False)
    before = (store.position(), store.items())
    store = reopened(store)
    assert before == (store.position(), store.items())
    store.apply(tuple(chain.entries[5:10]), fill=True)  # needs the tombstones
    store = reopened(store)
    with closing(store):
        assert healed(chain.position, identity=IDENTITY) == store.position()
        assert sorted(chain.records.items()) == store.items()


def rewrite(directory: Path, key: bytes, value: bytes | None) -> None:
    """Change what a store says of itself, below its surface."""
    environment = lmdb.open(str(directory), max_dbs=3)
    with closing(environment):
        meta = environment.open_db(b"meta")
        with environment.begin(write=True, db=meta) as transaction:
            if value is None:
                transaction.delete(key)
            else:
                transaction.put(key, value)


def test_a_store_of_another_format_is_refused(tmp_path: Path):
    """It is not touched, and the sentence says what to do."""
    LmdbStore(tmp_path).close()
    rewrite(tmp_path, b"format", b"9")
    with pytest.raises(StoreFailure, match="has format 9, this kvlog knows 3; run the version that wrote it"):
        LmdbStore(tmp_path)


@pytest.mark.parametrize("value", [None, b"garbage"])
def test_a_store_with_a_damaged_position_is_refused(tmp_path: Path, value: bytes | None):
    """Nothing is concluded from it."""
    LmdbStore(tmp_path).close()
    rewrite(tmp_path, b"position", value)
    with pytest.raises(StoreFailure, match="damaged"):
        LmdbStore(tmp_path)


def test_a_directory_that_cannot_be_used_is_a_store_failure(tmp_path: Path):
    """A file in its place."""
    (tmp_path / "store").write_text("not a directory")
    with pytest.raises(StoreFailure, match="failed"):
        LmdbStore(tmp_path / "store")


def test_the_longest_key_and_the_largest_value_are_stored(tmp_path: Path):
    """What the log can hold, the store can hold."""
    chain = Chain()
    chain.put("😀" * 127 + "abc", "v" * 262_144)
    with closing(LmdbStore(tmp_path)) as store:
        store.apply(tuple(chain.entries), fill=False)

        assert sorted(chain.records.items()) == store.items()
        assert chain.position.digest != NO_HASH
