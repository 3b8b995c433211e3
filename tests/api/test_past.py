"""What is told of the past and of the log takes no more time and room than it has to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kvlog.api.history import PIECE, _history
from kvlog.errors import TooManyKeys
from kvlog.service import reads as reads_module
from kvlog.service.explain import Explanations
from kvlog.service.reads import PAGE_BYTES_MAX, Reads
from kvlog.store.lmdb_history import History, Row
from kvlog.store.lmdb_store import LmdbStore
from tests.chain import Chain
from tests.memory_node import MemoryNode, RealClock


class HeldLog:
    """The port EntryReader over a log that is held in memory."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def fetch(self, first_index: int, count: int) -> tuple[bytes, ...]:
        return self._chain.data(first_index, first_index + count - 1)


def fail(code: int, reason: str) -> None:
    raise AssertionError(f"{code}: {reason}")


@pytest.fixture
def node() -> Iterator[MemoryNode]:
    found = MemoryNode(watchdog_s=60.0, say=lambda _: None, fail=fail)
    found.start()
    yield found
    found.stop()


def test_a_page_of_the_past_reads_each_version_once(
    tmp_path: Path, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
):
    """However deep in a key's past it begins: it does not walk down there for each piece of the page."""
    chain = Chain()
    for number in range(400):
        chain.write(("hot", str(number)), (f"other{number}", "v"))
    rows = 0
    found = History._found

    def counted(self: History, key: str, revision: int) -> Row | None:
        nonlocal rows
        rows += 1
        return found(self, key, revision)

    monkeypatch.setattr(History, "_found", counted)
    with closing(LmdbStore(tmp_path)) as store:
        store.apply(tuple(chain.entries), fill=False)
        reads = Reads(runtime=node.runtime, store=store, clock=RealClock())

        page = _history(reads, "hot", 202, 4 * PIECE)

    assert [version["revision"] for version in page["versions"]] == list(range(201, 201 - 8 * PIECE, -2))
    assert page["next"] == 201 - 8 * PIECE + 1
    assert rows <= 2 * 4 * PIECE


def test_a_page_of_the_log_ends_where_it_is_large_enough(node: MemoryNode):
    """Five hundred of the largest entries would take hundreds of megabytes; the next page goes on behind it."""
    chain = Chain()
    for _ in range(40):
        chain.put("k", "v" * 250_000)
    reads = Reads(runtime=node.runtime, store=node.store, clock=node.clock)
    explanations = Explanations(
        reads, runtime=node.runtime, store=node.store, log=HeldLog(chain), clock=node.clock
    )

    shown = explanations.entries(0, 40)

    size = sum(len(entry.item.data) for entry in shown if entry.item is not None)
    assert [entry.index for entry in shown] == list(range(len(shown)))
    assert PAGE_BYTES_MAX <= size <= PAGE_BYTES_MAX + 300_000


def test_a_comparison_goes_through_a_bounded_number_of_changes(
    tmp_path: Path, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
):
    """Whatever keys they are of: it holds a thread of the server for so long."""
    monkeypatch.setattr(reads_module, "DIFF_CHANGES_MAX", 20)
    chain = Chain()
    for number in range(21):
        chain.put("same", str(number))
    with closing(LmdbStore(tmp_path)) as store:
        store.apply(tuple(chain.entries), fill=False)
        reads = Reads(runtime=node.runtime, store=store, clock=RealClock())

        assert reads.changed_keys(1, 21, "other") == []
        with pytest.raises(TooManyKeys, match="closer"):
            reads.changed_keys(0, 21, "other")
