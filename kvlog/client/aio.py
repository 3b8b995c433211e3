"""The client for asyncio. Each method is the twin of one of Client's, where arguments and errors are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from kvlog.client import paging, reads, writes
from kvlog.client.aio_caller import AsyncCaller
from kvlog.client.aio_lease import AsyncLease, AsyncLock, grant
from kvlog.client.aio_watch import AsyncWatch
from kvlog.client.batches import Progress, Tally, pieces
from kvlog.client.errors import ClientError
from kvlog.client.feed import HEARTBEAT_S, PATIENCE_S, Feed
from kvlog.client.operations import Delete, Put
from kvlog.client.paging import AsyncPages
from kvlog.client.reads import Listing, ReadOptions
from kvlog.client.results import (
    BatchResult,
    Deleted,
    Difference,
    Item,
    LoggedEntry,
    RolledBack,
    Settled,
    TxnResult,
    Version,
    Written,
)
from kvlog.client.shared import Shared, addresses
from kvlog.client.txn import TxnBuilder
from kvlog.client.writes import Ack


class AsyncTxn(TxnBuilder):
    """A transaction that is put together step by step and then committed; see Txn."""

    def __init__(self, caller: AsyncCaller) -> None:
        super().__init__()
        self._caller = caller

    async def commit(self, *, ack: Ack = "replicas", request_id: str | None = None) -> TxnResult:
        """See Txn.commit."""
        return await self._caller.do(writes.txn(self._body(), ack=ack, request_id=request_id or writes.new_id()))


class AsyncClient:
    """A kvlog cluster, through any of its nodes, for asyncio; see Client, which says what is guaranteed.

        async with AsyncClient("127.0.0.1:5000,127.0.0.1:5001,127.0.0.1:5002") as client:
            await client.put("color", "blue")
            async for item in client.list("co"):
                print(item.key, item.text)

    Args:
        nodes: the addresses, ``HOST:PORT``, in a list or with commas between them. The first one is asked first.
        timeout: seconds that a call may take, all its tries included.
        read_your_writes: whether reads wait for ``revision``; without, they show what their node has.
    """

    def __init__(self, nodes: str | Sequence[str], *, timeout: float = 5.0, read_your_writes: bool = True) -> None:
        self._shared = Shared(nodes, timeout=timeout, read_your_writes=read_your_writes)
        self._caller = AsyncCaller(self._shared)

    @property
    def revision(self) -> int:
        """The highest revision that this client has seen; it only rises."""
        return self._shared.revision

    @property
    def nodes(self) -> tuple[str, ...]:
        """The addresses of the nodes."""
        return self._shared.nodes

    # --- one key ------------------------------------------------------------------------------------------

    async def put(
        self,
        key: str,
        value: bytes | str,
        *,
        ttl: float | None = None,
        lease: int | None = None,
        if_revision: int | None = None,
        content_type: str | None = None,
        ack: Ack = "replicas",
        request_id: str | None = None,
    ) -> Written:
        """Give a key a value; see Client.put."""
        return await self._caller.do(
            writes.put(
                key,
                value,
                ttl=ttl,
                lease=lease,
                if_revision=if_revision,
                content_type=content_type,
                ack=ack,
                request_id=request_id or writes.new_id(),
            )
        )

    async def get(
        self,
        key: str,
        *,
        linearizable: bool = False,
        min_revision: int | None = None,
        max_stale_ms: int | None = None,
        max_lag: int | None = None,
        at: int | None = None,
    ) -> Item | None:
        """What a key holds; see Client.get."""
        at_least = min_revision if linearizable or at is not None else self._shared.at_least(min_revision)
        return await self._caller.do(
            reads.get(key, ReadOptions(linearizable, at_least, max_stale_ms, max_lag, at))
        )

    async def delete(
        self,
        key: str,
        *,
        if_revision: int | None = None,
        ack: Ack = "replicas",
        request_id: str | None = None,
    ) -> Deleted:
        """Take a key away, if it is there; see Client.delete."""
        return await self._caller.do(
            writes.delete(key, if_revision=if_revision, ack=ack, request_id=request_id or writes.new_id())
        )

    # --- many keys ----------------------------------------------------------------------------------------

    def list(
        self, prefix: str = "", *, start: str = "", keys_only: bool = False, at: int | None = None
    ) -> AsyncPages[Item]:
        """The keys with a prefix, for ``async for``; see Client.list."""
        at_least = None if at is not None else self._shared.at_least(None)
        options = ReadOptions(min_revision=at_least, at=at)
        return self._pages(paging.listing(Listing(prefix, start, keys_only=keys_only, options=options)))

    async def count(self, prefix: str = "") -> int:
        """How many keys have a prefix; see Client.count."""
        options = ReadOptions(min_revision=self._shared.at_least(None))
        return await self._caller.do(reads.count(Listing(prefix, limit=0, count=True, options=options)))

    def txn(self) -> AsyncTxn:
        """A transaction, to be put together and then committed with ``await``; see Client.txn."""
        return AsyncTxn(self._caller)

    async def transact(self, body: Mapping[str, Any], *, request_id: str | None = None) -> TxnResult:
        """A transaction in the words of ``POST /v1/txn``; see Client.transact."""
        return await self._caller.do(writes.txn(body, ack="replicas", request_id=request_id or writes.new_id()))

    async def batch(
        self,
        operations: Iterable[Put | Delete],
        *,
        on_progress: Callable[[Progress], None] | None = None,
        ack: Ack = "replicas",
    ) -> BatchResult:
        """Many puts and deletes, in order and fast; see Client.batch."""
        tally = Tally()
        try:
            for lines in pieces(operations):
                call = writes.batch(lines, ack=ack, request_id=writes.new_id(), committed=tally.committed)
                progress = tally.end_piece(lines, await self._caller.do(call))
                if on_progress is not None:
                    on_progress(progress)
        except ClientError as error:
            raise tally.stopped(error) from error
        return tally.result

    # --- what changes, and what has been ------------------------------------------------------------------

    async def watch(
        self,
        prefix: str = "",
        *,
        key: str | None = None,
        start: int | None = None,
        heartbeat: float = HEARTBEAT_S,
        patience: float = PATIENCE_S,
    ) -> AsyncWatch:
        """Every change of the keys with a prefix, for ``async for``; see Client.watch.

            async with await client.watch("jobs/") as changes:
                async for event in changes:
                    print(event.revision, event.changes)

        A task that is cancelled while it waits for the next event loses none.
        """
        seen = self._shared.at_least(None) or 0
        feed = Feed(prefix, key, start=start, seen=seen, heartbeat=heartbeat)
        return await AsyncWatch(self._caller, feed).begin(patience)

    def history(self, key: str) -> AsyncPages[Version]:
        """What a key has held, the newest first; see Client.history."""
        return self._pages(paging.history(key, self._shared.at_least(None) or 0))

    def diff(self, start: int, end: int | None = None, prefix: str = "") -> AsyncPages[Difference]:
        """The keys that differ between two revisions; see Client.diff."""
        return self._pages(paging.diff(start, end, prefix, self._shared.at_least(None) or 0))

    async def rollback(
        self,
        *,
        key: str | None = None,
        prefix: str | None = None,
        revision: int,
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> RolledBack:
        """Make a key, or all keys with a prefix, what they were at a revision; see Client.rollback."""
        return await self._caller.do(
            writes.rollback(key, prefix, revision, dry_run=dry_run, request_id=request_id or writes.new_id())
        )

    async def explain(self, key: str) -> dict[str, Any]:
        """Why a key holds what it holds; see Client.explain."""
        return await self._caller.do(reads.explain(key))

    def log(self, start: int) -> AsyncPages[LoggedEntry]:
        """The entries of the log from index ``start`` on; see Client.log."""
        return self._pages(paging.log(start))

    # --- leases and locks ---------------------------------------------------------------------------------

    async def lease(self, ttl: float) -> AsyncLease:
        """Time that keys can be hung on; see Client.lease.

            async with await client.lease(10) as lease:
                await client.put("workers/7", "here", lease=lease.id)

        A task of its own keeps it alive.
        """
        return await grant(self._caller, ttl)

    def lock(self, name: str, *, ttl: float = 10.0, wait: float | None = None) -> AsyncLock:
        """A lock that one client at a time can hold, for ``async with``; see Client.lock."""
        return AsyncLock(self._caller, name, ttl=ttl, wait=wait)

    # --- and else -----------------------------------------------------------------------------------------

    async def settle(self, request_id: str) -> Settled:
        """What has become of a write that ended as Unknown; see Client.settle."""
        return await self._caller.do(writes.settle(request_id))

    async def status(self, node: str | None = None) -> dict[str, Any]:
        """What a node says of itself; see Client.status."""
        return await self._caller.do(reads.status(), node=None if node is None else addresses(node)[0])

    async def aclose(self) -> None:
        """Close connections and watches; leases are kept alive no longer. Calls under way end soon."""
        await self._caller.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<AsyncClient of {', '.join(self.nodes)}: revision {self.revision}>"

    def _pages(self, next_page: paging.NextPage[Any]) -> AsyncPages[Any]:
        return AsyncPages(next_page, self._caller.do)
