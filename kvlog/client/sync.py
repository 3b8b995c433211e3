"""The client for programs with threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from kvlog.client import paging, reads, writes
from kvlog.client.batches import Progress, Tally, pieces
from kvlog.client.caller import Caller
from kvlog.client.errors import ClientError
from kvlog.client.feed import HEARTBEAT_S, PATIENCE_S, Feed
from kvlog.client.lease import Lease, Lock, grant
from kvlog.client.operations import Delete, Put
from kvlog.client.paging import Pages
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
from kvlog.client.watch import Watch
from kvlog.client.writes import Ack


class Txn(TxnBuilder):
    """A transaction that is put together step by step and then committed; see ``Client.txn``, which makes it."""

    def __init__(self, caller: Caller) -> None:
        super().__init__()
        self._caller = caller

    def commit(self, *, ack: Ack = "replicas", request_id: str | None = None) -> TxnResult:
        """Carry it out: all of it, or, where a condition does not hold, all that is for that case.

        Raises:
            BadRequest: there is nothing to do in it, or it makes no sense; TooLarge, if it is too large.
            NoSuchLease: it hangs a key on a lease that has ended.
            Refused: it did not happen. Unknown: it was sent, and what became of it is not known.
        """
        return self._caller.do(writes.txn(self._body(), ack=ack, request_id=request_id or writes.new_id()))


class Client:
    """A kvlog cluster, through any of its nodes. Any number of threads may use one client.

        with Client("127.0.0.1:5000,127.0.0.1:5001,127.0.0.1:5002") as client:
            client.put("color", "blue")
            print(client.get("color").text)

    **Nodes that fail.** Each call asks the node that answered last, and then the others, until one of them
    answers or ``timeout`` seconds have passed. Each write has an id of its own (``Idempotency-Key``), under which
    it is done once however often it is sent; so a write whose answer was lost is simply sent again, elsewhere.
    Where its time ends with that open, the call raises Unknown, which is neither a success nor a failure: see
    ``settle``.

    **What reads see.** ``revision`` is the highest revision that any answer has told of. Reads wait until their
    node has come that far, so that nothing that this client has written or seen is missing from them, whichever
    node answers. What others have written meanwhile may be missing; see ``get`` for how to ask for more, or for
    less.

    Args:
        nodes: the addresses, ``HOST:PORT``, in a list or with commas between them. The first one is asked first.
        timeout: seconds that a call may take, all its tries included.
        read_your_writes: whether reads wait for ``revision``; without, they show what their node has.
    """

    def __init__(self, nodes: str | Sequence[str], *, timeout: float = 5.0, read_your_writes: bool = True) -> None:
        self._shared = Shared(nodes, timeout=timeout, read_your_writes=read_your_writes)
        self._caller = Caller(self._shared)

    @property
    def revision(self) -> int:
        """The highest revision that this client has seen; it only rises.

        Hand it to another client, as ``min_revision``, so that it sees what this one has.
        """
        return self._shared.revision

    @property
    def nodes(self) -> tuple[str, ...]:
        """The addresses of the nodes."""
        return self._shared.nodes

    # --- one key ------------------------------------------------------------------------------------------

    def put(
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
        """Give a key a value.

        Args:
            key: 1 to 511 bytes of UTF-8, not beginning with U+0000.
            value: up to 262,144 bytes, or text that is stored as UTF-8.
            ttl: seconds after which the key goes away. Without it, and without ``lease``, it stays.
            lease: the id of a lease that the key goes away with.
            if_revision: only if the key still stands at this revision; 0: only if it is not there.
            content_type: what the value is; by default text/plain for text, else application/octet-stream.
            ack: ``replicas``: answered once the replicas that keep up have it, so that any node shows it. ``log``:
                answered once it is in the log.
            request_id: an id of your own, such as an order's number, under which it is done once even if two
                programs ask for it; 1 to 128 of ``A-Z a-z 0-9 . _ : @ = + -``.

        Raises:
            ConditionFailed: ``if_revision`` does not hold.
            BadRequest: key or value cannot be; TooLarge, if it is too large.
            NoSuchLease: the lease has ended.
            Refused: it did not happen.
            Unknown: it was sent, and what became of it is not known.
        """
        return self._caller.do(
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

    def get(
        self,
        key: str,
        *,
        linearizable: bool = False,
        min_revision: int | None = None,
        max_stale_ms: int | None = None,
        max_lag: int | None = None,
        at: int | None = None,
    ) -> Item | None:
        """What a key holds; None if it is not there.

        Args:
            key: the key.
            linearizable: all that was acknowledged to anybody before this call. It asks ZooKeeper, and costs
                about as much as a write.
            min_revision: not before the node has come as far; 0: whatever the node has. By default this client's
                own ``revision``.
            max_stale_ms: only from a node that can show to have had everything so many milliseconds ago.
            max_lag: only from a node that knows to lack at most so many entries of the log.
            at: what it held as of this revision.

        Raises:
            HistoryTrimmed: the state at that revision is not known any more.
            TooStale: no node can show to be as recent as that.
            BadRequest: the key cannot be.
            NoNodes: no node could answer in time.
        """
        at_least = min_revision if linearizable or at is not None else self._shared.at_least(min_revision)
        return self._caller.do(reads.get(key, ReadOptions(linearizable, at_least, max_stale_ms, max_lag, at)))

    def delete(
        self,
        key: str,
        *,
        if_revision: int | None = None,
        ack: Ack = "replicas",
        request_id: str | None = None,
    ) -> Deleted:
        """Take a key away, if it is there. Arguments and errors are those of ``put``."""
        return self._caller.do(
            writes.delete(key, if_revision=if_revision, ack=ack, request_id=request_id or writes.new_id())
        )

    # --- many keys ----------------------------------------------------------------------------------------

    def list(
        self, prefix: str = "", *, start: str = "", keys_only: bool = False, at: int | None = None
    ) -> Pages[Item]:
        """The keys with a prefix, in the order of their UTF-8 bytes, all as of one revision; page by page.

        That revision is the result's ``revision`` once the first item has been asked for. To follow a prefix from
        there: ``watch(prefix, start=listing.revision + 1)``.

        Args:
            prefix: which keys; all by default.
            start: begin with this key, or the first one behind it.
            keys_only: leave the values out; they are then empty.
            at: as of this revision.

        Raises:
            HistoryTrimmed: the state at that revision is not known any more; also on the way, if it takes so long.
            NoNodes: no node could answer in time.
        """
        at_least = None if at is not None else self._shared.at_least(None)
        options = ReadOptions(min_revision=at_least, at=at)
        return self._pages(paging.listing(Listing(prefix, start, keys_only=keys_only, options=options)))

    def count(self, prefix: str = "") -> int:
        """How many keys have a prefix. Its errors are those of ``list``."""
        options = ReadOptions(min_revision=self._shared.at_least(None))
        return self._caller.do(reads.count(Listing(prefix, limit=0, count=True, options=options)))

    def txn(self) -> Txn:
        """A transaction: conditions and operations on any keys, all at once or not at all.

            client.txn().when_revision("a", 7).put("a", "1").delete("b").otherwise_get("a").commit()

        A key is written once at most in each of the two cases; up to 1,000 operations and 511 KiB go into one.
        """
        return Txn(self._caller)

    def transact(self, body: Mapping[str, Any], *, request_id: str | None = None) -> TxnResult:
        """A transaction in the words of ``POST /v1/txn``. Its errors are those of ``Txn.commit``."""
        return self._caller.do(writes.txn(body, ack="replicas", request_id=request_id or writes.new_id()))

    def batch(
        self,
        operations: Iterable[Put | Delete],
        *,
        on_progress: Callable[[Progress], None] | None = None,
        ack: Ack = "replicas",
    ) -> BatchResult:
        """Many puts and deletes, in order and fast, each once; other writers may come in between.

        They are sent in pieces as they come out of the iterable, so that there may be any number of them.

        Args:
            operations: what to do.
            on_progress: called after each piece with what is done.
            ack: see ``put``.

        Raises:
            BatchStopped: something went wrong on the way. It says how many are done, and its ``__cause__`` why.
        """
        tally = Tally()
        try:
            for lines in pieces(operations):
                call = writes.batch(lines, ack=ack, request_id=writes.new_id(), committed=tally.committed)
                progress = tally.end_piece(lines, self._caller.do(call))
                if on_progress is not None:
                    on_progress(progress)
        except ClientError as error:
            raise tally.stopped(error) from error
        return tally.result

    # --- what changes, and what has been ------------------------------------------------------------------

    def watch(
        self,
        prefix: str = "",
        *,
        key: str | None = None,
        start: int | None = None,
        heartbeat: float = HEARTBEAT_S,
        patience: float = PATIENCE_S,
    ) -> Watch:
        """Every change of the keys with a prefix, each once and in order, as it happens; an iterator of Event.

        It has begun when this returns: what is written from then on is in it. It survives the death of nodes, and
        goes on at another one where it has stopped.

            with client.watch("jobs/") as changes:
                for event in changes:
                    print(event.revision, event.changes)

        Args:
            prefix: which keys; all by default.
            key: only this one.
            start: the first revision wanted; by default the first one after those that the node, and this client,
                have seen.
            heartbeat: seconds, 1 to 60, after which the node says how far it has come if there is nothing to tell.
                Three of them without a word, and another node is asked.
            patience: seconds for which all nodes may be out of reach.

        Raises:
            HistoryTrimmed: what happened at ``start`` is not known any more; ``floor + 1`` is the first that is.
            NoNodes: no node could begin in time.
        """
        seen = self._shared.at_least(None) or 0
        return Watch(
            self._caller, Feed(prefix, key, start=start, seen=seen, heartbeat=heartbeat), patience=patience
        )

    def history(self, key: str) -> Pages[Version]:
        """What a key has held, the newest first, as far back as the node remembers; see ``Pages.trimmed``."""
        return self._pages(paging.history(key, self._shared.at_least(None) or 0))

    def diff(self, start: int, end: int | None = None, prefix: str = "") -> Pages[Difference]:
        """The keys that differ between revision ``start`` and revision ``end``, by default the latest.

        Raises:
            HistoryTrimmed: the state at ``start`` is not known any more.
            NoNodes: no node could answer in time.
        """
        return self._pages(paging.diff(start, end, prefix, self._shared.at_least(None) or 0))

    def rollback(
        self,
        *,
        key: str | None = None,
        prefix: str | None = None,
        revision: int,
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> RolledBack:
        """Make a key, or all keys with a prefix, what they were at a revision; in one transaction.

        Raises:
            HistoryTrimmed: the state at that revision is not known any more.
            ConditionFailed: somebody has changed them meanwhile; nothing was changed.
            TooManyKeys: it would change more keys than one transaction may.
            Refused: it did not happen.
            Unknown: it was sent, and what became of it is not known.
        """
        return self._caller.do(
            writes.rollback(key, prefix, revision, dry_run=dry_run, request_id=request_id or writes.new_id())
        )

    def explain(self, key: str) -> dict[str, Any]:
        """Why a key holds what it holds: GET /v1/explain as it is."""
        return self._caller.do(reads.explain(key))

    def log(self, start: int) -> Pages[LoggedEntry]:
        """The entries of the log from index ``start`` on, up to where it ends now.

        Raises:
            HistoryTrimmed: the log begins later.
            NoNodes: no node could answer in time.
        """
        return self._pages(paging.log(start))

    # --- leases and locks ---------------------------------------------------------------------------------

    def lease(self, ttl: float) -> Lease:
        """Time that keys can be hung on: when it is over, they go away.

            with client.lease(10) as lease:
                client.put("workers/7", "here", lease=lease.id)
                do_the_work()

        Args:
            ttl: seconds that it lives after it was kept alive last, 1 to 31,536,000.

        Raises:
            Refused: there is none.
            Unknown: there may be one; it ends by itself.
        """
        return grant(self._caller, ttl)

    def lock(self, name: str, *, ttl: float = 10.0, wait: float | None = None) -> Lock:
        """A lock that one client at a time can hold, and that becomes free by itself if its holder dies.

            with client.lock("locks/report") as lock:
                write_report(fence=lock.token)

        A lock cannot stop a holder that was suspended and does not know that its time is over. So look at
        ``lock.held``, and let what is protected refuse a ``lock.token`` that is lower than one that it has seen.

        Args:
            name: the key that stands for it.
            ttl: seconds after which it is free if its holder is not heard of.
            wait: seconds to wait for somebody else to give it back; 0: not at all; None: as long as it takes.
        """
        return Lock(self._caller, name, ttl=ttl, wait=wait)

    # --- and else -----------------------------------------------------------------------------------------

    def settle(self, request_id: str) -> Settled:
        """What has become of a write that ended as Unknown: committed, or, from now on, cancelled for good.

        Settling a write that nobody has received cancels it; so do not settle what is still being sent.

        Raises:
            Unknown: it could not be settled in time; ask again.
            NoNodes: no node could be reached.
        """
        return self._caller.do(writes.settle(request_id))

    def status(self, node: str | None = None) -> dict[str, Any]:
        """What a node says of itself, that at this address or any: GET /v1/status as it is.

        Raises:
            NoNodes: it could not be reached.
        """
        return self._caller.do(reads.status(), node=None if node is None else addresses(node)[0])

    def close(self) -> None:
        """Close connections and watches; leases are kept alive no longer. Calls under way end soon."""
        self._caller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {', '.join(self.nodes)}: revision {self.revision}>"

    def _pages(self, next_page: paging.NextPage[Any]) -> Pages[Any]:
        return Pages(next_page, self._caller.do)
