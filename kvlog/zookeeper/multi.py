"""Multis: what became of one, and how many operations go into one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kazoo.client import TransactionRequest
from kazoo.exceptions import RolledBackError, RuntimeInconsistency

from kvlog.zookeeper.layout import Layout

MULTI_BYTES_MAX = 512 * 1024
"""Upper bound of a multi as ZooKeeper gets it; it drops the connection at 1 MiB (jute.maxbuffer)."""

MULTI_DELETIONS_MAX = 200
"""Upper bound of the deletions in one multi: other requests wait behind it."""

OPERATION_BYTES = 24
"""What a check or a deletion takes in a multi beside its path, at most."""

_COLLATERAL = (RolledBackError, RuntimeInconsistency)
"""What the operations of a failed multi say that did not fail themselves."""


def failure_in(results: list[Any]) -> Exception | None:
    """Why a multi was refused; None if it was not. kazoo does not raise it: the results hold exceptions."""
    failed = [result for result in results if isinstance(result, Exception)]
    return next((result for result in failed if type(result) not in _COLLATERAL), failed[0] if failed else None)


def add_log(
    transaction: TransactionRequest,
    layout: Layout,
    cluster: bytes,
    *,
    log: bytes = b"",
    first_segment: int = 0,
    segment: bytes = b"",
) -> None:
    """Have a multi make all that an empty log consists of, with what its znodes hold."""
    transaction.create(layout.cluster, cluster)
    for path in (layout.election, layout.members, layout.replicas):
        transaction.create(path)
    transaction.create(layout.log, log)
    transaction.create(layout.segment(first_segment), segment)


def batches(fence: str, paths: Iterable[str]) -> Iterator[list[str]]:
    """Paths to delete, in order, as many at a time as one multi may hold beside the check of ``fence``."""
    batch: list[str] = []
    size = empty = len(fence.encode()) + OPERATION_BYTES
    for path in paths:
        more = len(path.encode()) + OPERATION_BYTES
        if batch and (size + more > MULTI_BYTES_MAX or len(batch) == MULTI_DELETIONS_MAX):
            yield batch
            batch, size = [], empty
        batch.append(path)
        size += more
    if batch:
        yield batch
