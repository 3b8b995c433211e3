"""Stores and backups of a small log, as a node would have them."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from kvlog.core.machine import Identity, Position
from kvlog.snapshot import encode, header_of
from kvlog.store.lmdb_store import LmdbStore
from tests.chain import Chain

IDENTITY = Identity("c1", 7, 500)


def chain_of(count: int) -> Chain:
    """A log with this many entries."""
    chain = Chain()
    chain.barrier()
    for number in range(1, count):
        chain.write((f"key{number % 7}", f"value {number}"))
    return chain


def make_store(
    directory: Path, count: int, *, identity: Identity = IDENTITY, chain: Chain | None = None
) -> Position:
    """A store that has applied the first ``count`` entries; closed, as that of a node that does not run."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    entries = (chain or chain_of(count)).entries[:count]
    with closing(LmdbStore(directory)) as store:
        store.adopt(identity)
        return store.apply(tuple(entries), fill=False)


def position_of(directory: Path) -> Position:
    """Where a store stands that nobody uses."""
    with closing(LmdbStore(directory)) as store:
        return store.position()


def items_of(directory: Path) -> list:
    """What a store holds that nobody uses."""
    with closing(LmdbStore(directory)) as store:
        return store.items()


def snapshot_of(directory: Path) -> bytes:
    """A snapshot of a store that nobody uses."""
    data = (directory / "data.mdb").read_bytes()
    header = header_of(position_of(directory), size=len(data), created_ms=1_700_000_000_000, node_id="n1")
    return b"".join(encode(header, [data]))


def make_backup(file: Path, count: int = 20) -> Position:
    """A backup of a store with this many entries."""
    store = file.parent / f"{file.name}.source"
    position = make_store(store, count)
    file.write_bytes(snapshot_of(store))
    shutil.rmtree(store)
    return position
