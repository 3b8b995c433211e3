"""The store on the disk: copies under load, replacing it, crashes in between, damage, a full disk."""

from __future__ import annotations

import gc
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import lmdb
import msgspec
import pytest

from kvlog.core.commands import OPERATIONS_MAX, SetKey, Txn
from kvlog.core.evaluate import Search
from kvlog.core.machine import Gap, Identity, Position, Record, Remembered, share_of
from kvlog.errors import InvariantViolation, StoreDamaged, StoreFailure, Unavailable
from kvlog.processes import Child, ProcessKeeper, free_ports, wait_until
from kvlog.store import quarantine
from kvlog.store.directories import settle_files
from kvlog.store.lmdb_copy import Pace, StoreCopy
from kvlog.store.lmdb_files import numbered_key, seal
from kvlog.store.lmdb_history import Row
from kvlog.store.lmdb_store import LmdbStore
from kvlog.store.lmdb_verify import verify
from kvlog.store.quarantine import check_store, inspect
from tests.request_chain import RequestChain

WAIT_S = 20.0
ROOT = Path(__file__).resolve().parents[1]


def chain_of(count: int, value_bytes: int = 100, window: int = 50) -> RequestChain:
    """A log with requests, puts, deletes, leases, long keys and values that take pages of their own."""
    chain = RequestChain(window)
    for number in range(count):
        if number % 7 == 3:
            chain.delete(f"key{number - 1}")
        elif number % 7 == 4:
            chain.command(f"r{number}", Txn((SetKey(f"key{number}", b"\xff" * value_bytes, ttl_ms=5_000),)))
        elif number % 7 == 5:
            chain.put("ключ" * 20 + str(number % 50), "v" * (value_bytes * 60))
        else:
            chain.request(f"r{number}", f"key{number}", f"{number:x}" * (value_bytes // 4))
    return chain


def filled(directory: Path, chain: RequestChain, count: int | None = None) -> LmdbStore:
    """A store that has applied the first entries of a chain."""
    store = LmdbStore(directory)
    store.adopt(chain.identity)
    store.apply(tuple(chain.entries[:count]), fill=False)
    return store


def written(directory: Path, copy: StoreCopy) -> Path:
    """A copy, as a store in a directory."""
    directory.mkdir()
    (directory / "data.mdb").write_bytes(b"".join(copy))
    return directory


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("kvlog-copy")]


def descriptors() -> list[str]:
    """What this process has open, but for what closes by itself.

    Garbage of earlier tests may still hold some: it goes before, not between two calls.
    """
    gc.collect()
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            found.append(str(descriptor.readlink()))
    return sorted(found)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def readers(store: LmdbStore) -> int:
    """How many read transactions are under way."""
    lines = store._files.environment.readers().splitlines()
    return sum(line.split()[-1] != "-" for line in lines[1:]) if lines[0].startswith(" ") else 0


# --- copies ---------------------------------------------------------------------------------------------------


def test_a_copy_under_write_load_is_one_state_of_the_store(tmp_path: Path):
    """That of its position, while the store goes on; its size is the announced one."""
    chain = chain_of(1_000)
    copies: list[tuple[Position, int]] = []
    with closing(filled(tmp_path / "store", chain, 200)) as store:
        begun = threading.Event()

        def write() -> None:
            for item in chain.entries[200:]:
                store.apply((item,), fill=False)
                begun.set()

        writer = threading.Thread(target=write)
        writer.start()
        assert begun.wait(WAIT_S)
        while writer.is_alive() and len(copies) < 20:
            copy = store.snapshot()
            written(tmp_path / f"copy{len(copies)}", copy)
            copies.append((copy.position, copy.size))
        writer.join(WAIT_S)

        assert chain.position == store.position()
    indices = [position.applied_index for position, _ in copies]
    assert indices[0] < 999
    assert len(set(indices)) > 1
    for number, (position, size) in enumerate(copies):
        directory = tmp_path / f"copy{number}"
        expected = RequestChain(window=50)
        for item in chain.entries[: position.applied_index + 1]:
            expected.add(item.data)

        assert verify(directory).position == position == expected.position
        assert (directory / "data.mdb").stat().st_size == size
        with closing(LmdbStore(directory)) as copied:
            assert sorted(expected.records.items()) == copied.items()
            assert dict(expected.requests) == dict(copied.requests())


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_copy_that_is_given_up_leaves_nothing_behind(tmp_path: Path, taken: int):
    """No thread, no descriptor, no read transaction; the store was told."""
    with closing(filled(tmp_path / "store", chain_of(300, value_bytes=2_000))) as store:
        open_before = descriptors()
        ended: list[int] = []
        for number in range(5):
            copy = store.snapshot(ended=lambda number=number: ended.append(number))
            for _ in range(taken):
                next(copy)
            assert threads() != []
            copy.close()

            assert threads() == []
            assert descriptors() == open_before
            assert readers(store) == 0
            with pytest.raises(Unavailable, match="nobody reads it any more"):
                next(copy)
        assert ended == [0, 1, 2, 3, 4]


def test_a_copy_that_is_forgotten_leaves_nothing_behind(tmp_path: Path):
    """Without a close: a small one at once, because all of it is in the pipe already."""
    with closing(filled(tmp_path / "store", chain_of(5))) as store:
        open_before = descriptors()
        copy = store.snapshot()
        assert wait_until(lambda: threads() == [], WAIT_S)
        del copy

        assert descriptors() == open_before


def test_a_copy_that_is_taken_too_slowly_is_given_up(tmp_path: Path):
    """The store is let go while the taker still holds the copy, and the next byte says why there is no more."""
    with closing(filled(tmp_path / "store", chain_of(300, value_bytes=2_000))) as store:
        over = threading.Event()
        copy = store.snapshot(ended=over.set, pace=Pace(window_s=0.2, least_bytes=1024 * 1024))
        next(copy)

        assert over.wait(WAIT_S)
        assert readers(store) == 0
        assert wait_until(lambda: threads() == [], WAIT_S)
        with pytest.raises(Unavailable, match=r"given up: only \d+ bytes of it were read in 0.2 s"):
            list(copy)


def test_a_copy_that_is_taken_fast_enough_is_not_given_up(tmp_path: Path):
    """In many windows' time, each with enough of it."""
    with closing(filled(tmp_path / "store", chain_of(300, value_bytes=2_000))) as store:
        copy = store.snapshot(pace=Pace(window_s=0.05, least_bytes=1))
        size = 0
        for chunk in copy:
            size += len(chunk)
            time.sleep(0.02)

        assert size == copy.size


def test_closing_the_store_ends_its_copies(tmp_path: Path):
    """However slow they are: a node that stops does not wait for them."""
    store = filled(tmp_path / "store", chain_of(300, value_bytes=2_000))
    copy = store.snapshot()
    next(copy)
    store.close()

    assert threads() == []
    with pytest.raises(Unavailable, match="the store is being closed"):
        next(copy)


# --- replacing the store --------------------------------------------------------------------------------------


def test_readers_go_on_while_the_store_is_replaced(tmp_path: Path):
    """Every read is of one state, before or after; the former files are closed and gone in the end."""
    chain = chain_of(400)
    with closing(filled(tmp_path / "other", chain)) as other:
        written(tmp_path / "store.incoming", other.snapshot())
        later = other.items()
    shutil.rmtree(tmp_path / "other")
    with closing(filled(tmp_path / "store", chain, 20)) as store:
        before, after = store.position(), chain.position
        values = {before: store.get("key0"), after: dict(later)["key0"]}
        seen: set[int] = set()
        wrong: list[object] = []
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                record, position = store.read("key0")
                seen.add(position.applied_index)
                if values.get(position) != record:
                    wrong.append((record, position))

        old = store._files
        held = old.environment.begin()  # a reader in the middle of its reading
        lookers = [threading.Thread(target=look) for _ in range(4)]
        for looker in lookers:
            looker.start()
        assert wait_until(lambda: before.applied_index in seen, WAIT_S)
        assert after == store.install(str(tmp_path / "store.incoming"))
        assert wait_until(lambda: after.applied_index in seen, WAIT_S)
        done.set()
        for looker in lookers:
            looker.join(WAIT_S)

        assert wrong == []
        assert old.position(held) == before
        assert names(tmp_path) == ["store"]
        assert any(name.endswith("mdb (deleted)") for name in descriptors())
        held.abort()
        del old, held
        gc.collect()
        assert not any(name.endswith("mdb (deleted)") for name in descriptors())
    assert verify(tmp_path / "store").position == after


def test_a_read_tells_the_position_of_the_state_that_it_saw(tmp_path: Path):
    """On many threads while entries are applied, and in a transaction that has begun before: M1 for readers."""
    chain = RequestChain(window=50)
    for number in range(400):
        chain.put("k", str(number))
    with closing(filled(tmp_path / "store", chain, 1)) as store:
        wrong: list[object] = []
        seen: list[set[int]] = [set(), set(), set(), set()]
        done = threading.Event()

        def look(revisions: set[int]) -> None:
            while not done.is_set():
                record, position = store.read("k")
                revisions.add(position.revision)
                if record is None or record.revision != position.revision:
                    wrong.append((record, position))

        lookers = [threading.Thread(target=look, args=(revisions,)) for revisions in seen]
        for looker in lookers:
            looker.start()
        files = store._files
        with files.environment.begin() as held:
            before = files.standing(held)
            for item in chain.entries[1:]:
                assert store.apply((item,), fill=False) == store.position()
            assert wait_until(lambda: all(400 in revisions for revisions in seen), WAIT_S)
            done.set()
            for looker in lookers:
                looker.join(WAIT_S)

            assert (before.revision, files.standing(held)) == (1, before)
        assert wrong == []
        assert chain.position == store.position()


def test_what_was_not_committed_is_in_no_position(tmp_path: Path):
    """LMDB gives the number of the transaction that failed to the next one."""
    chain = chain_of(20)
    with closing(filled(tmp_path / "store", chain, 10)) as store:
        before = store.position()
        for _ in range(2):
            with pytest.raises(InvariantViolation):
                store.apply((chain.entries[10], chain.entries[12]), fill=False)
            assert store.position() == before
            assert store.read("key0")[1] == before
        store.apply(tuple(chain.entries[10:]), fill=False)

        assert chain.position == store.position()
    with closing(LmdbStore(tmp_path / "store")) as store:
        assert chain.position == store.position()


def test_a_snapshot_of_another_log_is_not_installed(tmp_path: Path):
    """The store stays as it is."""
    chain = chain_of(10)
    with closing(LmdbStore(tmp_path / "store.incoming")) as other:
        other.adopt(Identity("c2", 9))
    with closing(filled(tmp_path / "store", chain)) as store:
        with pytest.raises(StoreFailure, match=r"belongs to Identity\(cluster_id='c2'"):
            store.install(str(tmp_path / "store.incoming"))
        assert chain.position == store.position()


@pytest.mark.parametrize("harm", ["nothing there", "empty", "no store"])
def test_what_is_no_store_is_not_installed(tmp_path: Path, harm: str):
    """The store stays as it is."""
    chain = chain_of(10)
    incoming = tmp_path / "store.incoming"
    if harm != "nothing there":
        incoming.mkdir()
        (incoming / "data.mdb").write_bytes(b"" if harm == "empty" else b"x" * 16384)
    with closing(filled(tmp_path / "store", chain)) as store:
        with pytest.raises(StoreFailure, match=r"store.incoming (failed|is damaged)"):
            store.install(str(incoming))
        assert chain.position == store.position()
        with pytest.raises(StoreFailure, match="does not lie beside"):
            store.install(str(tmp_path / "elsewhere" / "store.incoming"))


CRASHES: dict[str, tuple[list[str], str]] = {
    # what is there: a (the store before), b (the copy), each at a name; what has to be the store afterwards
    "before anything": (["a store"], "a"),
    "while fetching": (["a store", "half store.incoming"], "a"),
    "fetched": (["a store", "b store.incoming"], "a"),
    "between the renames": (["a store.old", "b store.incoming"], "a"),
    "both renamed": (["a store.old", "b store"], "b"),
    "while deleting": (["half store.old", "b store"], "b"),
    "done": (["b store"], "b"),
    "nothing yet": ([], "empty"),
    "the first fetch": (["half store.incoming"], "empty"),
}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_anywhere_in_replacing_leaves_one_whole_store(tmp_path: Path, crash: str):
    """The one before, or the one after; what was not finished is gone, and it can be replaced again."""
    chain = chain_of(40)
    for name, count in (("a", 10), ("b", 40)):
        filled(tmp_path / "made" / name, chain, count).close()
    (tmp_path / "made" / "half").mkdir()
    (tmp_path / "made" / "half" / "data.mdb").write_bytes(b"x" * 5_000)
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    present, expected = CRASHES[crash]
    for what in present:
        source, name = what.split()
        shutil.copytree(tmp_path / "made" / source, data_dir / name)
    settle_files(data_dir)

    assert names(data_dir) == (["store"] if expected != "empty" else [])
    with closing(LmdbStore(data_dir / "store")) as store:
        assert store.position().applied_index == {"a": 9, "b": 39, "empty": -1}[expected]
        shutil.copytree(tmp_path / "made" / "b", data_dir / "store.incoming")
        assert chain.position == store.install(str(data_dir / "store.incoming"))
    assert verify(data_dir / "store").position == chain.position


def test_the_names_of_a_new_store_survive_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its first mark says that it is durable: LMDB flushes the file, but not the directories that name it (R1)."""
    flushed: set[int] = set()
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    with closing(LmdbStore(tmp_path / "store")):
        assert {(tmp_path / "store").stat().st_ino, tmp_path.stat().st_ino} <= flushed


COMMITS_AND_SYNCS = """
import os, sys
import tests
from pathlib import Path
from kvlog.core.machine import Identity
from kvlog.store.lmdb_store import LmdbStore

store = LmdbStore(Path(sys.argv[1]))
store.adopt(Identity("c1", 1))
os.write(1, b"committed")
store.sync()
os.write(1, b"synced")
os._exit(0)
"""


def test_a_sync_flushes_what_the_last_commit_has_left_to_the_next_one(tmp_path: Path):
    """R1: the page that tells of the last transaction is written without a flush; a mark counts it after one."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here: apt-get install strace")
    log = tmp_path / "strace"
    program = [sys.executable, "-c", COMMITS_AND_SYNCS, str(tmp_path / "store")]
    calls = "trace=write,fdatasync,fsync,msync"
    traced = ["strace", "-f", "-e", calls, "-o", str(log), *program]
    done = subprocess.run(traced, cwd=ROOT, capture_output=True, timeout=WAIT_S, check=False)
    if b"ptrace" in done.stderr.lower():
        pytest.skip(f"strace cannot trace a process here: {done.stderr[:200]!r}")
    assert done.stdout == b"committedsynced", done.stderr

    between = log.read_text().partition('"committed"')[2].partition('"synced"')[0]
    assert "sync(" in between, between


# --- operators ------------------------------------------------------------------------------------------------


def test_a_store_is_made_the_beginning_of_another_log(tmp_path: Path):
    """It stands elsewhere, in no epoch yet; all else is as it was."""
    chain, identity = chain_of(10), Identity("c9", 1)
    with closing(filled(tmp_path / "store", chain)) as store:
        before = (store.items(), store.requests())
        moved = store.rebase(identity, 1_000)

        assert moved == store.position()
        assert moved == msgspec.structs.replace(
            chain.position, identity=identity, applied_index=1_000, epoch=0, leader=None
        )
        assert before == (store.items(), store.requests())
        with pytest.raises(InvariantViolation):
            store.rebase(identity, 1_000)
        store.skip_to(1_001)
        with pytest.raises(InvariantViolation):
            store.rebase(identity, 2_000)


# --- damage ---------------------------------------------------------------------------------------------------


def tamper(directory: Path, table: bytes, change: Callable[[lmdb.Transaction], None]) -> None:
    """Change what is in a table, below the store's surface but with LMDB's own means."""
    with closing(lmdb.open(str(directory), max_dbs=7)) as environment:
        database = environment.open_db(table)
        with environment.begin(write=True, db=database) as transaction:
            change(transaction)


def flip(key: bytes, at: int) -> Callable[[lmdb.Transaction], None]:
    def change(transaction: lmdb.Transaction) -> None:
        data = bytearray(transaction.get(key))
        data[at] ^= 1
        transaction.put(key, bytes(data))

    return change


def swap(one: bytes, other: bytes) -> Callable[[lmdb.Transaction], None]:
    def change(transaction: lmdb.Transaction) -> None:
        first, second = transaction.get(one), transaction.get(other)
        transaction.put(one, second)
        transaction.put(other, first)

    return change


def replace_position(**changes: object) -> Callable[[lmdb.Transaction], None]:
    def change(transaction: lmdb.Transaction) -> None:
        position = msgspec.msgpack.decode(transaction.get(b"position")[:-4], type=Position)
        position = msgspec.structs.replace(position, **changes)
        transaction.put(b"position", seal(b"position", msgspec.msgpack.encode(position)))

    return change


def sealed(key: bytes, value: object) -> bytes:
    return seal(key, msgspec.msgpack.encode(value))


def shared(key: bytes, value: Record | Remembered, share: bytes | None = None) -> bytes:
    """A record or request as it is stored, with its share in the digest in front."""
    body = msgspec.msgpack.encode(value)
    return seal(key, (share_of(key, body) if share is None else share) + body)


def change_at(revision: int, name: bytes, /, **fields: object) -> Callable[[lmdb.Transaction], None]:
    """Write the change of a key at a revision, or one that was not there, with a checksum that is right."""

    def change(transaction: lmdb.Transaction) -> None:
        key = numbered_key(revision, name)
        found = transaction.get(key)
        row = msgspec.msgpack.decode(found[:-4], type=Row) if found else ROW
        transaction.put(key, sealed(key, msgspec.structs.replace(row, **fields)))

    return change


def in_order(*changes: Callable[[lmdb.Transaction], None]) -> Callable[[lmdb.Transaction], None]:
    def change(transaction: lmdb.Transaction) -> None:
        for each in changes:
            each(transaction)

    return change


def gone(revision: int, key: bytes) -> Callable[[lmdb.Transaction], None]:
    def change(transaction: lmdb.Transaction) -> None:
        assert transaction.delete(numbered_key(revision, key))

    return change


# In the log of these stores, entry n has revision n + 1. key0 was put at 1 and stayed, key2 was put at 3 and
# deleted at 4, key9 at 10 and 11; the lease of key4 is the one of revision 5.
ROW = Row(Record(b"v", 1, 1, 1), "x", 0, 1, 1, None, 0)
LEASE = 5 * OPERATIONS_MAX
REMEMBERED = shared(b"rx", Remembered(999, 1, "", False))
DAMAGE: dict[str, tuple[bytes, Callable[[lmdb.Transaction], None], str]] = {
    "a bit of a record": (b"data", flip(b"key0", -5), "is not what was written"),
    "a bit of a checksum": (b"data", flip(b"key0", -1), "is not what was written"),
    "a bit of a share": (b"data", flip(b"key0", 0), "is not what was written"),
    "another share": (
        b"data",
        lambda table: table.put(b"x", shared(b"x", Record(b"v", 0, 0, 1), bytes(16))),
        "b'x' has another share in the digest than it says",
    ),
    "another share of a request": (
        b"requests",
        lambda table: table.put(b"rx", shared(b"rx", Remembered(999, 1, "", False), bytes(16))),
        "b'rx' has another share in the digest than it says",
    ),
    "two records changed places": (b"data", swap(b"key0", b"key1"), "is not what was written"),
    "a record is gone": (b"data", lambda table: table.delete(b"key0"), "have the digest"),
    "a record too much": (
        b"data",
        lambda table: table.put(b"x", shared(b"x", Record(b"v", 0, 0, 1))),
        "have the digest",
    ),
    "a key that is no text": (
        b"data",
        lambda table: table.put(b"\xff", shared(b"\xff", Record(b"v", 0, 0, 1))),
        "is not UTF-8",
    ),
    "a bit of a request": (b"requests", flip(b"r39", -5), "is not what was written"),
    "a request is not listed": (b"revisions", lambda table: table.delete((40).to_bytes(8, "big")), "not listed"),
    "a listed request is gone": (b"requests", lambda table: table.delete(b"r39"), "lists other ones"),
    "a request too much": (b"requests", lambda table: table.put(b"rx", REMEMBERED), "not listed at its revision"),
    "a bit of the position": (b"meta", flip(b"position", -5), "is not what was written"),
    "no position": (b"meta", lambda table: table.delete(b"position"), "nothing of its position"),
    "another digest": (b"meta", replace_position(digest="00" * 16), "its position says 0000"),
    "no format": (b"meta", lambda table: table.delete(b"format"), "nothing of its format"),
    "a bit of a tombstone": (b"tombstones", flip(b"key2", -5), "is not what was written"),
    "a tombstone of what is not kept": (
        b"tombstones",
        lambda table: table.put(b"k", seal(b"k", b"1")),
        "what happened to b'k' at revision 1 is not kept",
    ),
    "a tombstone below what is kept": (
        b"tombstones",
        lambda table: table.put(b"k", seal(b"k", b"0")),
        "a tombstone of b'k', whose deletion is not kept",
    ),
    "a tombstone of a key that is there": (
        b"tombstones",
        lambda table: table.put(b"key0", seal(b"key0", b"1")),
        "a tombstone of b'key0', and that key",
    ),
    "a tombstone at another deletion": (
        b"tombstones",
        lambda table: table.put(b"key2", seal(b"key2", b"3")),
        "kept of b'key2' at revision 3 is something else",
    ),
    "a tombstone is gone": (b"tombstones", lambda table: table.delete(b"key2"), "nothing leads to"),
    "a bit of a change": (b"changes", flip(numbered_key(1, b"key0"), -5), "is not what was written"),
    "two changes changed places": (
        b"changes",
        swap(numbered_key(1, b"key0"), numbered_key(5, b"key4")),
        "is not what was written",
    ),
    "a record's change is gone": (b"changes", gone(1, b"key0"), "what happened to b'key0' at revision 1"),
    "a deletion's change is gone": (b"changes", gone(4, b"key2"), "what happened to b'key2' at revision 4"),
    "the change before a deletion is gone": (b"changes", gone(3, b"key2"), "to b'key2' at revision 3 is not kept"),
    "a change too much": (b"changes", change_at(1, b"x"), "nothing leads to"),
    "a change that leads to another one": (b"changes", change_at(4, b"key2", deleted=3), "is no change of"),
    "a change of nothing": (b"changes", change_at(7, b"x", after=None), "is no change of"),
    "a change of another revision": (b"changes", change_at(2, b"x"), "is no change of"),
    "a change of another key": (b"changes", change_at(1, b"key0", key="key1"), "is no change of"),
    "a change of something else": (
        b"changes",
        change_at(1, b"key0", after=Record(b"w", 1, 1, 1)),
        "kept of b'key0' at revision 1 is something else",
    ),
    "a change after something else": (
        b"changes",
        change_at(4, b"key2", before=Record(b"w", 3, 3, 1)),
        "kept of b'key2' at revision 3 is something else",
    ),
    "a change of the future": (
        b"changes",
        change_at(99, b"x", after=Record(b"v", 99, 99, 1)),
        "is kept of revision 99, but it tells of 0 to 40",
    ),
    "more is told of than is kept": (b"meta", replace_position(history=3), "but it tells of 3 to 40"),
    "a past with gaps": (b"meta", replace_position(gaps=(Gap(1, 2, ""),)), "nothing leads to"),
    "a bit of a lease's list": (b"attached", flip(numbered_key(LEASE, b"key4"), -5), "is not what was written"),
    "a key is not listed": (
        b"attached",
        lambda table: table.delete(numbered_key(LEASE, b"key4")),
        "b'key4' is not listed under its lease 5000",
    ),
    "a listed key too much": (
        b"attached",
        lambda table: table.put(numbered_key(7, b"key0"), seal(numbered_key(7, b"key0"), b"key0")),
        "its leases list other keys",
    ),
    "a key is listed elsewhere": (
        b"attached",
        in_order(
            lambda table: table.delete(numbered_key(LEASE, b"key4")),
            lambda table: table.put(numbered_key(7, b"key4"), seal(numbered_key(7, b"key4"), b"key4")),
        ),
        "b'key4' is not listed under its lease 5000",
    ),
}


def test_verifying_counts_what_people_have_kept(tmp_path: Path):
    """Keys without kvlog's own, requests, revisions at which something was changed."""
    chain = chain_of(40)
    filled(tmp_path / "store", chain).close()
    found = verify(tmp_path / "store")

    assert found.position == chain.position
    assert found.keys == sum(not key.startswith("\0") for key in chain.records) < len(chain.records)
    assert (found.requests, found.kept) == (len(chain.requests), len(chain.kept))


@pytest.mark.parametrize("damage", DAMAGE)
def test_verifying_finds_what_was_not_written_so(tmp_path: Path, damage: str):
    """And says what it is."""
    filled(tmp_path / "store", chain_of(40)).close()
    assert verify(tmp_path / "store").keys > 20
    table, change, reason = DAMAGE[damage]
    tamper(tmp_path / "store", table, change)
    with pytest.raises(StoreDamaged, match=f"store is damaged: .*{reason}"):
        verify(tmp_path / "store")


def claim_a_used_page(data_file: Path) -> None:
    """Put a page that is in use on LMDB's list of free ones, in place of another: nothing that is read changes."""
    data = bytearray(data_file.read_bytes())
    number = struct.Struct("=Q")

    def meta(page: int, offset: int) -> int:
        return number.unpack_from(data, page * 4096 + 16 + offset)[0]

    latest = max((0, 1), key=lambda page: meta(page, 128))  # mm_txnid
    leaf = meta(latest, 64) * 4096  # the root of the list of free pages
    (lower,) = struct.unpack_from("=H", data, leaf + 12)
    lists = []
    for pointer in range(leaf + 16, leaf + lower, 2):
        (node,) = struct.unpack_from("=H", data, pointer)
        first = leaf + node + 16  # behind the node's header and its key, a transaction's number
        (count,) = number.unpack_from(data, first)
        lists.append([(at, number.unpack_from(data, at)[0]) for at in range(first + 8, first + 8 + count * 8, 8)])
    free = {page for pages in lists for _, page in pages}
    used = min(set(range(2, len(data) // 4096)) - free)
    at = next(at for pages in lists for at, page in pages[-1:] if page > used)
    number.pack_into(data, at, used)
    data_file.write_bytes(data)


def test_a_page_in_use_that_is_called_free_is_found(tmp_path: Path):
    """All that is read is right still, but some later transaction would overwrite that page."""
    chain = chain_of(60)
    with closing(filled(tmp_path / "store", chain)) as store:
        for number in range(50):
            chain.put(f"key{number % 30}", str(number))
            store.apply((chain.entries[-1],), fill=False)
        expected = store.items()
    claim_a_used_page(tmp_path / "store" / "data.mdb")
    with closing(LmdbStore(tmp_path / "store")) as store:
        assert expected == store.items()
    with pytest.raises(StoreDamaged, match="free"):
        verify(tmp_path / "store")


def test_reading_what_was_not_written_fails(tmp_path: Path):
    """Never another value: the process ends by it, and the next start puts the store aside."""
    filled(tmp_path / "store", chain_of(40)).close()
    tamper(tmp_path / "store", b"data", swap(b"key0", b"key1"))
    tamper(tmp_path / "store", b"requests", flip(b"r39", 2))
    tamper(tmp_path / "store", b"changes", flip(numbered_key(4, b"key2"), -5))
    tamper(tmp_path / "store", b"tombstones", flip(b"key9", -5))
    tamper(tmp_path / "store", b"attached", flip(numbered_key(LEASE, b"key4"), -5))
    with closing(LmdbStore(tmp_path / "store")) as store:
        assert store.get("key4") is not None
        for read in (
            lambda: store.get("key0"),
            lambda: store.read("key1"),
            lambda: store.request("r39"),
            lambda: store.page("key", limit=1, bytes_max=1),
            lambda: store.read("key2", at=3),
            lambda: store.read("key9", at=10),
            lambda: store.count("key9", at=10),
            lambda: store.versions("key2", limit=9),
            lambda: store.kept(2, limit=9, bytes_max=10**9),
            lambda: store.changed_since("key", 3, Search()),
            lambda: store.attached(LEASE, 1),
        ):
            with pytest.raises(StoreDamaged, match="is not what was written"):
                read()


def test_a_past_that_leads_nowhere_is_damage(tmp_path: Path):
    """A change that is missing where the key's record leads to, or one that leads back to itself."""
    filled(tmp_path / "store", chain_of(40)).close()
    tamper(
        tmp_path / "store", b"changes", in_order(gone(1, b"key0"), change_at(4, b"key2", before=None, deleted=4))
    )
    with closing(LmdbStore(tmp_path / "store")) as store:
        for read in (lambda: store.read("key0", at=0), lambda: store.read("key2", at=0)):
            with pytest.raises(StoreDamaged, match="is not kept"):
                read()


def test_a_stale_store_verifies_too(tmp_path: Path):
    """With a gap, tombstones, and requests from both sides of it."""
    chain = chain_of(60)
    with closing(filled(tmp_path / "store", chain, 20)) as store:
        store.skip_to(39)
        store.apply(tuple(chain.entries[40:]), fill=False)
        store.apply(tuple(chain.entries[20:25]), fill=True)
        position = store.position()
        keys, requests = store.count("")[0], len(store.requests())
    found = verify(tmp_path / "store")

    assert found.position == position
    assert (keys, requests, 0) == (found.keys, found.requests, found.kept)
    assert [(gap.first, gap.last) for gap in found.position.gaps] == [(25, 39)]


def test_a_store_that_was_used_hard_has_no_findings(tmp_path: Path):
    """Thousands of transactions, freed pages, values of many pages, and kill -9 in the middle."""
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.test_lmdb_store import *
chain = chain_of(60, value_bytes=3000)
store = filled(Path({str(tmp_path / "store")!r}), chain)
print(flush=True)
number = 0
while True:
    number += 1
    chain.put(f"key{{number % 90}}", "v" * (number * 37 % 20_000))
    store.apply((chain.entries[-1],), fill=False)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        size = tmp_path / "store" / "data.mdb"
        assert wait_until(lambda: size.stat().st_size > 2_000_000, WAIT_S)
        time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    assert verify(tmp_path / "store").position.applied_index > 100
    assert check_store(tmp_path, pytest.fail) == ""


READ_ALL = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from kvlog.store import quarantine
from kvlog.errors import StoreFailure
from kvlog.store.lmdb_store import LmdbStore
from kvlog.store.lmdb_verify import verify
directory = Path(sys.argv[1])
import pickle
try:
    verify(directory)
except StoreFailure as failure:
    print("found:", failure)
    sys.exit(3)
try:
    store = LmdbStore(directory)
    got = (store.position(), store.items(), store.requests())
except StoreFailure as failure:
    print("read:", failure)
    sys.exit(4)
sys.stdout.buffer.write(pickle.dumps(got))
"""
"""Ends with 3 if verifying finds damage, with 4 if only reading does, by a signal, or prints what it has read."""


def test_flipped_bytes_are_found_or_without_effect(tmp_path: Path):
    """Anywhere in the file: never is something else read after it was verified."""
    chain = chain_of(120)
    with closing(filled(tmp_path / "store", chain)) as store:
        for number in range(100):  # several generations of pages, and a list of free ones
            chain.put(f"key{number % 30}", str(number))
            store.apply((chain.entries[-1],), fill=False)
        expected = (store.position(), store.items(), store.requests())
    sound = (tmp_path / "store" / "data.mdb").read_bytes()
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    chance = random.Random(seed)
    outcomes: dict[str, int] = {}
    for number in range(FLIPS):
        data = bytearray(sound)
        # Half of them where LMDB keeps its own numbers: in the first bytes of a page.
        page = chance.randrange(len(sound) // 4096) * 4096
        at = page + chance.randrange(64) if number % 2 else chance.randrange(len(sound))
        data[at] ^= chance.randrange(1, 256)
        directory = tmp_path / "flipped"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        (directory / "data.mdb").write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-c", READ_ALL, str(directory)], check=False, capture_output=True, timeout=60
        )
        assert done.returncode in (0, 3) or done.returncode < 0, (at, done.returncode, done.stdout, done.stderr)
        if done.returncode == 0:
            assert expected == pickle.loads(done.stdout), at
        name = {0: "without effect", 3: "found"}.get(done.returncode, "killed")
        outcomes[name] = outcomes.get(name, 0) + 1
    assert outcomes.get("found", 0) > FLIPS // 4, outcomes
    assert outcomes.get("without effect", 0) > 0, outcomes


FLIPS = 60


# --- before a node starts -------------------------------------------------------------------------------------


def test_a_whole_store_stays_where_it_is(tmp_path: Path):
    """And a data directory without one is as good."""
    assert check_store(tmp_path, pytest.fail) == ""
    filled(tmp_path / "store", chain_of(40)).close()

    assert check_store(tmp_path, pytest.fail) == ""
    assert names(tmp_path) == ["store"]
    assert inspect(tmp_path / "store") == verify(tmp_path / "store")


def test_a_long_check_says_how_far_it_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In lines for people."""
    filled(tmp_path / "store", chain_of(40)).close()
    monkeypatch.setattr(quarantine, "PATIENCE_S", 0.0)
    monkeypatch.setattr(quarantine, "LOOK_S", 0.001)
    said: list[str] = []

    assert check_store(tmp_path, said.append) == ""
    assert said[0].startswith(f"checking the store in {tmp_path / 'store'}: 0 % of what it holds, 0 s")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(random.Random(5).randbytes(40_000))


@pytest.mark.parametrize(
    "harm", [cut, overwrite, lambda path: path.write_bytes(b"")], ids=["cut", "over", "empty"]
)
def test_a_damaged_store_is_put_aside(tmp_path: Path, harm: Callable[[Path], None]):
    """In place of one that was put aside earlier; the node can start empty."""
    (tmp_path / "store.damaged").mkdir()
    (tmp_path / "store.damaged" / "earlier").write_text("")
    filled(tmp_path / "store", chain_of(200)).close()
    harm(tmp_path / "store" / "data.mdb")
    kept = (tmp_path / "store" / "data.mdb").read_bytes()

    assert check_store(tmp_path, pytest.fail) != ""
    assert names(tmp_path) == ["store.damaged"]
    assert kept == (tmp_path / "store.damaged" / "data.mdb").read_bytes()
    assert not (tmp_path / "store.damaged" / "earlier").exists()
    with closing(LmdbStore(tmp_path / "store")) as store:
        assert Position() == store.position()
    assert check_store(tmp_path, pytest.fail) == ""


def test_a_store_that_kills_its_reader_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What ends the check by a signal would have ended the node."""
    filled(tmp_path / "store", chain_of(20)).close()
    monkeypatch.setattr(sys, "executable", str(dying(tmp_path, signal.SIGBUS)))

    assert check_store(tmp_path, pytest.fail) == "reading it ends in SIGBUS"
    assert (tmp_path / "store.damaged" / "data.mdb").exists()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_check_that_somebody_ended_says_nothing_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: signal.Signals
):
    """It stays where it is, and the node does not start."""
    filled(tmp_path / "store", chain_of(20)).close()
    monkeypatch.setattr(sys, "executable", str(dying(tmp_path, end)))
    with pytest.raises(StoreFailure, match="could not be checked") as failed:
        check_store(tmp_path, pytest.fail)

    assert not isinstance(failed.value, StoreDamaged)
    assert (tmp_path / "store" / "data.mdb").exists()


def dying(directory: Path, number: signal.Signals) -> Path:
    """A program that ends by a signal."""
    program = directory / "dying"
    program.write_text(f"#!/bin/sh\nulimit -c 0\nkill -{number.value} $$\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("harm", ["another format", "not readable", "a directory"])
def test_a_store_that_cannot_be_read_is_not_put_aside(tmp_path: Path, harm: str):
    """It may be whole: the node ends, and says why."""
    filled(tmp_path / "store", chain_of(20)).close()
    path = tmp_path / "store" / "data.mdb"
    reason = "failed"
    if harm == "another format":
        tamper(tmp_path / "store", b"meta", lambda table: table.put(b"format", b"1"))
        reason = "has format 1, this kvlog knows 4"
    elif harm == "a directory":
        path.rename(tmp_path / "kept")
        path.mkdir()
    elif os.geteuid() == 0:
        pytest.skip("root may read everything")
    else:
        path.chmod(0)
    with pytest.raises(StoreFailure, match=reason) as failed:
        check_store(tmp_path, pytest.fail)

    assert not isinstance(failed.value, StoreDamaged)
    assert (tmp_path / "store").exists()


def start_node(keeper: ProcessKeeper, data_dir: Path) -> Child:
    """A node that finds no ZooKeeper: what it does before it looks for one is what counts here."""
    port, nobody = free_ports(2)
    argv = [sys.executable, str(ROOT / "server.py"), "--port", str(port), "--zk", f"127.0.0.1:{nobody}"]
    return keeper.start([*argv, "--data-dir", str(data_dir)], name="node", log=data_dir / "log")


def test_a_node_with_a_damaged_store_says_so_and_starts_empty(tmp_path: Path, keeper: ProcessKeeper):
    """One line in its log, with the reason and where the damaged store is kept."""
    filled(tmp_path / "store", chain_of(200)).close()
    cut(tmp_path / "store" / "data.mdb")
    node = start_node(keeper, tmp_path)
    try:
        assert wait_until(lambda: names(tmp_path) == ["lock", "log", "store", "store.damaged"], WAIT_S)
    finally:
        node.kill()

    said = (tmp_path / "log").read_text()
    assert "the store is damaged (" in said
    assert f"): it is kept in {tmp_path / 'store.damaged'}; starting empty" in said
    assert (tmp_path / "store.damaged" / "data.mdb").exists()


def test_a_node_with_a_store_of_another_format_ends_with_5(tmp_path: Path, keeper: ProcessKeeper):
    """And leaves it where it is."""
    filled(tmp_path / "store", chain_of(20)).close()
    tamper(tmp_path / "store", b"meta", lambda table: table.put(b"format", b"1"))

    assert start_node(keeper, tmp_path).wait(WAIT_S) == 5
    assert "has format 1, this kvlog knows 4" in (tmp_path / "log").read_text()
    assert names(tmp_path) == ["lock", "log", "store"]


def test_a_full_disk_is_called_so(tmp_path: Path):
    """LMDB calls it an input/output error; people need to know better."""
    program = f"""
import os, sys; sys.path.insert(0, {str(ROOT)!r})
from tests.test_lmdb_store import *
chain = chain_of(200, value_bytes=2000)
store = LmdbStore(Path({str(tmp_path)!r}) / "small" / "store")
store.adopt(chain.identity)
try:
    for item in chain.entries:
        store.apply((item,), fill=False)
except StoreFailure as failure:
    print(type(failure).__name__, failure)
"""
    (tmp_path / "small").mkdir()
    mount = f'mount -t tmpfs -o size=1m tmpfs {tmp_path / "small"} && exec "$@"'
    argv = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", program]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no small file system can be made here: {done.stderr.strip()}")

    assert done.stdout.startswith("StoreFailure the store in"), done
    assert "the disk is full" in done.stdout
